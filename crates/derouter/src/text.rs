//! Pieces of what people read. Pure.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_sdk::wire::rpc::network::NetworkReport;
use derouter_sdk::{PathKind, PathReport, PeerId, PeerReport, UnixSeconds};
use time::OffsetDateTime;

/// How wide lines are at most.
pub(crate) const WIDTH: usize = 80;

/// Characters at the end of a peer id that tell peers apart. Ids of our kind all begin alike.
const SHORT_ID: usize = 8;

/// Text of others without what would move a terminal's cursor or turn its text around.
pub(crate) fn printable(text: &str) -> String {
    let harmless = |c: &char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        !c.is_control() && !turns
    };
    text.chars().filter(harmless).collect()
}

/// Cleans every text of others in a report.
pub(crate) fn clean_peer(report: &mut PeerReport) {
    clean_all(report.agent.iter_mut());
    clean_all(report.last_dial_error.iter_mut());
    clean_all(report.offence.iter_mut());
    report.paths.iter_mut().for_each(clean_path);
    for address in &mut report.addresses {
        clean(&mut address.address);
        clean_all(address.error.iter_mut());
    }
}

/// Cleans every text of others in a path.
pub(crate) fn clean_path(path: &mut PathReport) {
    clean(&mut path.address);
    clean_all(path.relay.iter_mut());
}

/// Cleans every text of others in a report.
pub(crate) fn clean_network(report: &mut NetworkReport) {
    for address in &mut report.external {
        clean(&mut address.address);
        clean_all(address.error.iter_mut());
    }
    clean_all(report.port_mapping.error.iter_mut());
    for relay in &mut report.relays {
        clean(&mut relay.address);
        clean_all(relay.error.iter_mut());
    }
    for node in &mut report.bootstrap {
        clean_all(node.error.iter_mut());
    }
    for advice in &mut report.advice {
        clean(&mut advice.text);
    }
}

fn clean_all<'a>(texts: impl Iterator<Item = &'a mut String>) {
    texts.for_each(clean);
}

fn clean(text: &mut String) {
    *text = printable(text);
}

/// The end of a peer id.
pub(crate) fn short_id(peer: &PeerId) -> String {
    let text = peer.to_string();
    let from = text.len().saturating_sub(SHORT_ID);
    text.get(from..).unwrap_or(&text).to_owned()
}

/// `n thing`, or `n things`.
pub(crate) fn counted(number: u32, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{} {thing}s", grouped(number)),
    }
}

/// `1,204`.
pub(crate) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `512 B`, `1.2 MB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let (mut whole, mut rest, mut unit) = (number, 0, "B");
    for larger in UNITS {
        if whole < 1000 {
            break;
        }
        (rest, whole, unit) = (whole % 1000 / 100, whole / 1000, larger);
    }
    match whole {
        0..=9 => format!("{whole}.{rest} {unit}"),
        _ => format!("{whole} {unit}"),
    }
}

/// A round trip: `0.31 ms`, `24.8 ms`, `1,234 ms`.
pub(crate) fn round_trip(microseconds: u64) -> String {
    let (whole, rest) = (microseconds / 1000, microseconds % 1000);
    match whole {
        0 => format!("{whole}.{:02} ms", rest / 10),
        1..=99 => format!("{whole}.{} ms", rest / 100),
        _ => format!("{} ms", grouped(u32::try_from(whole).unwrap_or(u32::MAX))),
    }
}

/// A decimal amount with four digits that say something: `0.000006112`, `123.5`. More is for programs.
pub(crate) fn short_amount(text: &str) -> String {
    const DIGITS: usize = 4;
    let Some((whole, fraction)) = text.split_once('.') else {
        return text.to_owned();
    };
    let told = match whole.trim_start_matches('0').len() {
        // Zeros in front say nothing.
        0 => fraction.len() - fraction.trim_start_matches('0').len() + DIGITS,
        digits => DIGITS.saturating_sub(digits),
    };
    let kept = fraction.get(..told.min(fraction.len())).unwrap_or(fraction);
    match kept.trim_end_matches('0') {
        "" => whole.to_owned(),
        kept => format!("{whole}.{kept}"),
    }
}

/// How long ago: `8 s`, `3 min`, `5 h`, `12 d`.
pub(crate) fn age(since: UnixSeconds, now: UnixSeconds) -> String {
    let seconds = now.0.saturating_sub(since.0);
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5_999 => format!("{} min", seconds / 60),
        6_000..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long: `0.5 s`, `20 s`.
pub(crate) fn duration(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// The time.
pub(crate) fn now() -> UnixSeconds {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(elapsed.map_or(0, |elapsed| elapsed.as_secs()))
}

/// A time of day: `14:03:07 UTC`.
pub(crate) fn utc_time(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs()) % 86_400;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02} UTC", seconds % 60)
}

/// How a connection reaches its peer.
pub(crate) fn path_kind(kind: PathKind) -> &'static str {
    match kind {
        PathKind::Lan => "lan",
        PathKind::Direct => "direct",
        PathKind::HolePunched => "hole-punched",
        PathKind::Relayed => "relayed",
    }
}

/// `text`, cut to a width; a cut one ends in `..`.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(2)).collect();
    kept + ".."
}

/// Text in lines of at most [`WIDTH`], each with `indent` in front. Long words stay whole.
pub(crate) fn wrapped(text: &str, indent: &str) -> String {
    wrapped_to(text, indent, WIDTH)
}

/// The same with lines of at most `width`.
pub(crate) fn wrapped_to(text: &str, indent: &str, width: usize) -> String {
    let room = width.saturating_sub(indent.len());
    let (mut lines, mut used) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length <= room {
            let _ = write!(lines, " {word}");
            used += 1 + length;
        } else {
            let end = if used > 0 { "\n" } else { "" };
            let _ = write!(lines, "{end}{indent}{word}");
            used = length;
        }
    }
    lines
}

/// `2026-01-31T12:00:00Z`; the seconds as they are when they are no time.
pub(crate) fn day_and_time(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let Some(time) = time else {
        return seconds.to_string();
    };
    let (hour, minute, second) = time.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", time.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\r\n\u{9b}d"), "a[2Jbcd");
    }

    #[test]
    fn numbers_are_short_and_have_their_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_250), "1.2 kB");
        assert_eq!(bytes(12_345_678), "12 MB");
        assert_eq!(bytes(u64::MAX), "18446 PB");
        assert_eq!(round_trip(310), "0.31 ms");
        assert_eq!(round_trip(24_890), "24.8 ms");
        assert_eq!(round_trip(1_234_567), "1,234 ms");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(counted(1, "peer"), "1 peer");
        assert_eq!(counted(0, "peer"), "0 peers");
        let ago = |seconds: u64| age(UnixSeconds(1_000_000 - seconds), UnixSeconds(1_000_000));
        assert_eq!(
            [ago(0), ago(99), ago(100), ago(7_200), ago(200_000)],
            ["0 s", "99 s", "1 min", "2 h", "2 d"]
        );
        assert_eq!(
            age(UnixSeconds(2), UnixSeconds(1)),
            "0 s",
            "a clock may jump"
        );
    }

    #[test]
    fn amounts_are_told_with_the_digits_that_say_something() {
        for (text, short) in [
            ("0", "0"),
            ("12", "12"),
            ("0.5", "0.5"),
            ("0.00000611239999", "0.000006112"),
            ("123.456789", "123.4"),
            ("12345.6789", "12345"),
            ("1.0000001", "1"),
        ] {
            assert_eq!(short_amount(text), short);
        }
    }

    #[test]
    fn long_texts_are_wrapped_or_cut() {
        let text = "word ".repeat(40);
        let lines = wrapped(&text, "   ");
        assert!(lines.lines().count() > 1);
        assert!(
            lines
                .lines()
                .all(|line| line.len() <= WIDTH && line.starts_with("   w"))
        );
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcd..");
    }

    #[test]
    fn a_short_id_is_the_end_of_the_whole() {
        let peer = PeerId::random();
        let short = short_id(&peer);
        assert_eq!(short.len(), SHORT_ID);
        assert!(peer.to_string().ends_with(&short));
    }
}
