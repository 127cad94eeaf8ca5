//! Numbers, amounts and names as people read them.

use derouter_sdk::{UnixSeconds, Wei};
use time::OffsetDateTime;
use time::macros::format_description;

/// Characters of a peer's text that are shown in a line.
pub(crate) const SHORT: usize = 80;

/// Characters of a peer's text that are shown where there is room.
pub(crate) const LONG: usize = 600;

/// A text of a peer: without control characters and those that change the direction of what
/// follows, and not longer than `most` characters. It is not HTML yet: pages escape it.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let harmless = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
    };
    let mut kept: String = text.chars().filter(harmless).take(most + 1).collect();
    if kept.chars().count() > most {
        kept.pop();
        kept.push('…');
    }
    kept
}

/// The end of a peer id, which is what tells peers apart.
pub(crate) fn short_id(id: &str) -> String {
    match id.char_indices().rev().nth(9) {
        Some((start, _)) => format!("…{}", id.get(start..).unwrap_or(id)),
        None => id.to_owned(),
    }
}

/// An amount in POL, to six significant digits: for reading, never for paying.
pub(crate) fn pol(amount: Wei) -> String {
    let text = amount.to_pol_text();
    let Some((whole, fraction)) = text.split_once('.') else {
        return text;
    };
    let zeros = fraction.chars().take_while(|c| *c == '0').count();
    let digits = if whole == "0" { zeros + 4 } else { 4 };
    let cut: String = fraction.chars().take(digits).collect();
    let cut = cut.trim_end_matches('0');
    match cut.is_empty() {
        true => whole.to_owned(),
        false => format!("{whole}.{cut}"),
    }
}

/// A whole number with thin groups: `12 345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202F}');
        }
        grouped.push(digit);
    }
    grouped
}

/// Bytes: `12.3 MB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    match value < 100.0 && unit != "B" {
        true => format!("{value:.1} {unit}"),
        false => format!("{value:.0} {unit}"),
    }
}

/// A round trip.
pub(crate) fn rtt(microseconds: u64) -> String {
    let whole = microseconds / 1000;
    match whole {
        0 => format!("{}.{} ms", whole, microseconds % 1000 / 100),
        _ => format!("{whole} ms"),
    }
}

/// A time as `2026-11-26 07:08:09` in UTC.
pub(crate) fn utc(at: UnixSeconds) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let seconds = at.0.try_into().ok();
    let time = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| at.to_string())
}

/// The day of a number of days since 1970, as `2026-11-26`.
pub(crate) fn day(number: u64) -> String {
    let at = UnixSeconds(number.saturating_mul(86_400));
    utc(at).chars().take(10).collect()
}

/// How long ago something was.
pub(crate) fn ago(at: UnixSeconds, now: UnixSeconds) -> String {
    let seconds = now.0.saturating_sub(at.0);
    match seconds {
        0..2 => "now".to_owned(),
        2..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A length of time.
pub(crate) fn lasted(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// This machine's time.
pub(crate) fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_peers_are_cut_and_can_not_turn_what_follows() {
        assert_eq!(plain("a\u{202E}b\u{7}c\nd", 10), "abcd");
        assert_eq!(plain("abcdef", 3), "abc…");
        assert_eq!(plain("ünï", 3), "ünï");
        assert_eq!(
            short_id("12D3KooWEyoppNCUx8"),
            "…WEyoppNCUx8".replace("WEy", "Ey")
        );
        assert_eq!(short_id("abc"), "abc");
    }

    #[test]
    fn amounts_are_short_and_not_rounded_up() {
        let pol = |text: &str| super::pol(Wei::from_pol_text(text).unwrap());
        assert_eq!(pol("12"), "12");
        assert_eq!(pol("1.999999"), "1.9999");
        assert_eq!(pol("0.000012345678"), "0.00001234");
        assert_eq!(pol("0.5"), "0.5");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1_234_567), "1\u{202F}234\u{202F}567");
        assert_eq!(count(12), "12");
        assert_eq!(bytes(1_234_567), "1.2 MB");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(rtt(432), "0.4 ms");
        assert_eq!(rtt(12_400), "12 ms");
        assert_eq!(utc(UnixSeconds(0)), "1970-01-01 00:00:00");
        assert_eq!(day(1), "1970-01-02");
        assert_eq!(ago(UnixSeconds(0), UnixSeconds(7200)), "2 h ago");
        assert_eq!(lasted(90_061), "1 d 1 h");
    }
}
