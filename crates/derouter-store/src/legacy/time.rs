//! The texts in which 0.1.0 wrote times: `2026-11-22 20:28:35`, with or without a fraction and an
//! offset. Without an offset they are UTC.

use derouter_wire::UnixSeconds;

/// Whole seconds; a fraction is cut. `None` for what is no time, or one before 1970.
pub(super) fn parse(text: &str) -> Option<UnixSeconds> {
    let (date, rest) = text.trim().split_once([' ', 'T'])?;
    let (clock, offset_secs) = split_offset(rest)?;
    let mut date = date.split('-');
    let (year, month, day) = (
        digits(date.next()?)?,
        digits(date.next()?)?,
        digits(date.next()?)?,
    );
    let clock = clock
        .split_once('.')
        .map_or(clock, |(whole, _fraction)| whole);
    let mut clock = clock.split(':');
    let (hour, minute) = (digits(clock.next()?)?, digits(clock.next()?)?);
    let second = digits(clock.next()?)?;
    let over = date.next().is_some() || clock.next().is_some();
    let sane = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if over || !sane {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from(seconds - offset_secs).ok().map(UnixSeconds)
}

/// The part before an offset, and the offset in seconds.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some((clock, offset)) = text.rsplit_once(['+', '-']) else {
        return Some((text, 0));
    };
    let (hours, minutes) = offset.split_once(':').unwrap_or((offset, "0"));
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    if hours > 14 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3600 + minutes * 60;
    let negative = text.len() > clock.len() && text.get(clock.len()..)?.starts_with('-');
    Some((clock, if negative { -seconds } else { seconds }))
}

/// A number of at most four digits, so that no sum of them overflows.
fn digits(text: &str) -> Option<i64> {
    let plain = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar, by whole years and months.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let month_days: i64 = (1..month).map(|earlier| days_in(year, earlier)).sum();
    (year - 1970) * 365 + leap_days + month_days + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_that_0_1_0_wrote_is_read() {
        for (text, seconds) in [
            ("2026-11-22 20:28:48", 1_795_379_328),
            ("2026-11-22 20:28:35+00:00", 1_795_379_315),
            ("2026-11-22 20:28:49.170278323+00:00", 1_795_379_329),
            ("2026-11-22T20:28:49.9Z", 1_795_379_329),
            ("2026-11-22 22:28:48+02:00", 1_795_379_328),
            ("2026-11-22 15:58:48-04:30", 1_795_379_328),
            ("1970-01-01 00:00:00", 0),
            ("2000-02-29 00:00:00", 951_782_400),
            ("2100-03-01 00:00:00", 4_107_542_400),
        ] {
            assert_eq!(parse(text), Some(UnixSeconds(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-22",
            "2026-13-01 00:00:00",
            "2026-02-29 00:00:00",
            "2026-11-22 24:00:00",
            "2026-11-22 20:28",
            "2026-11-22 20:28:48+99:00",
            "2026-11-22-1 20:28:48",
            "1969-12-31 23:59:59",
            "1970-01-01 00:00:00+01:00",
            "20260000000000-11-22 20:28:48",
            "-1-1-1 1:1:1",
            "２０２６-11-22 20:28:48",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
