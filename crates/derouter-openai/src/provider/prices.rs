//! Prices that depend on the time of the week. Pure.
//!
//! The first window of an offer's schedule that holds the present time says its prices; without one they are
//! the offer's own. Times are UTC, which needs no table of time zones and has no hour twice.

use std::fmt;
use std::str::FromStr;

use derouter_sdk::{UnixSeconds, Wei};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// A price factor's parts: it has six decimals.
const FACTOR_PARTS: u64 = 1_000_000;

/// The largest factor.
const MOST_FACTOR: u64 = 1_000;

/// Windows that one offer can have: one for each hour of a week.
pub const MAX_WINDOWS: usize = 168;

/// What 1,000,000 tokens cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// Of the prompt.
    pub input: Wei,
    /// Of the answer.
    pub output: Wei,
}

/// The days of the week.
const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(u8);

impl Days {
    /// All of them.
    pub const ALL: Self = Self(0b111_1111);

    /// These, by name: `mon` to `sun`. `None` when one is no day, or there is none.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut days = 0;
        for name in names {
            let day = NAMES.iter().position(|known| *known == name)?;
            days |= 1 << day;
        }
        (days != 0).then_some(Self(days))
    }

    /// `day` counts from Monday.
    fn has(self, day: u64) -> bool {
        self.0 & (1 << (day % 7)) != 0
    }
}

/// A time of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// Midnight.
    pub const MIDNIGHT: Self = Self(0);

    /// From `HH:MM`, `00:00` to `24:00`.
    pub fn parse(text: &str) -> Option<Self> {
        let (hours, minutes) = text.split_once(':')?;
        if hours.len() != 2 || minutes.len() != 2 {
            return None;
        }
        let digits = |text: &str| -> Option<u16> {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| plain)
        };
        let (hours, minutes) = (digits(hours)?, digits(minutes)?);
        let all = hours.checked_mul(60)?.checked_add(minutes)?;
        (minutes < 60 && all <= DAY).then_some(Self(all % DAY))
    }
}

/// A factor of a price, with six decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor(u64);

impl Factor {
    /// `None` when it is not from 0 to 1000.
    pub fn new(factor: f64) -> Option<Self> {
        #[expect(clippy::cast_precision_loss, reason = "both are small")]
        let (most, parts) = (MOST_FACTOR as f64, FACTOR_PARTS as f64);
        if !(0.0..=most).contains(&factor) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked above"
        )]
        Some(Self((factor * parts).round() as u64))
    }

    fn of(self, price: Wei) -> Wei {
        price.checked_per_million(self.0).unwrap_or(Wei::MAX)
    }
}

/// What holds within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowPrice {
    /// The offer's own prices times a factor.
    Factor(Factor),
    /// Prices of its own; `None` for the offer's.
    Prices {
        /// Of the prompt.
        input: Option<Wei>,
        /// Of the answer.
        output: Option<Wei>,
    },
}

/// A part of the week and its prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriceWindow {
    /// The days on which it begins.
    pub days: Days,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends: on the next day, when that is not behind `from`.
    pub to: TimeOfDay,
    /// What holds then.
    pub price: WindowPrice,
}

impl Days {
    /// Their names.
    pub fn names(self) -> Vec<&'static str> {
        let days = NAMES.iter().zip(0..).filter(|(_, day)| self.has(*day));
        days.map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, parts) = (self.0 / FACTOR_PARTS, self.0 % FACTOR_PARTS);
        if parts == 0 {
            return write!(f, "{whole}");
        }
        let parts = format!("{parts:06}");
        write!(f, "{whole}.{}", parts.trim_end_matches('0'))
    }
}

/// As people write it: `sat,sun 22:00-06:00 x0.5`, or with prices in POL for 1,000,000 tokens of the
/// prompt and of the answer, `0.1/0.4`, where `-` is the offer's own. Days and times may be left out.
impl fmt::Display for PriceWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != Days::ALL {
            write!(f, "{} ", self.days.names().join(","))?;
        }
        if (self.from, self.to) != (TimeOfDay::MIDNIGHT, TimeOfDay::MIDNIGHT) {
            write!(f, "{}-{} ", self.from, self.to)?;
        }
        let price = |price: Option<Wei>| price.map_or_else(|| "-".to_owned(), Wei::to_pol_text);
        match self.price {
            WindowPrice::Factor(factor) => write!(f, "x{factor}"),
            WindowPrice::Prices { input, output } => {
                write!(f, "{}/{}", price(input), price(output))
            }
        }
    }
}

/// A text is no window of prices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no window of prices: it has days and times in UTC where it is not always, and a factor or prices, \
     such as \"sat,sun x0.5\" or \"22:00-06:00 0.1/0.4\""
)]
pub struct NoWindow(String);

impl FromStr for PriceWindow {
    type Err = NoWindow;

    fn from_str(text: &str) -> Result<Self, NoWindow> {
        let no_window = || NoWindow(text.chars().take(60).collect());
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let price = words.pop().and_then(window_price).ok_or_else(no_window)?;
        let times = words.last().copied().and_then(window_times);
        if times.is_some() {
            words.pop();
        }
        let days = match words.as_slice() {
            [] => Days::ALL,
            [names] => Days::named(names.split(',')).ok_or_else(no_window)?,
            _ => return Err(no_window()),
        };
        let (from, to) = times.unwrap_or((TimeOfDay::MIDNIGHT, TimeOfDay::MIDNIGHT));
        Ok(Self {
            days,
            from,
            to,
            price,
        })
    }
}

fn window_times(text: &str) -> Option<(TimeOfDay, TimeOfDay)> {
    let (from, to) = text.split_once('-')?;
    Some((TimeOfDay::parse(from)?, TimeOfDay::parse(to)?))
}

fn window_price(text: &str) -> Option<WindowPrice> {
    if let Some(factor) = text.strip_prefix('x') {
        let plain = factor.bytes().all(|it| it.is_ascii_digit() || it == b'.');
        let factor = factor.parse().ok().filter(|_| plain)?;
        return Factor::new(factor).map(WindowPrice::Factor);
    }
    let price = |text: &str| match text {
        "-" => Some(None),
        text => Wei::from_pol_text(text).ok().map(Some),
    };
    let (input, output) = text.split_once('/')?;
    let (input, output) = (price(input)?, price(output)?);
    (input.is_some() || output.is_some()).then_some(WindowPrice::Prices { input, output })
}

impl Serialize for PriceWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PriceWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl PriceWindow {
    /// Whether it is the time for it.
    pub fn is_now(&self, now: UnixSeconds) -> bool {
        self.holds(now)
    }

    fn holds(&self, now: UnixSeconds) -> bool {
        let minutes = now.0 / 60;
        let day_minutes = u64::from(DAY);
        // The first day of Unix time was a Thursday.
        let (day, minute) = (minutes / day_minutes + 3, minutes % day_minutes);
        let (from, to) = (u64::from(self.from.0), u64::from(self.to.0));
        if from < to {
            return self.days.has(day) && (from..to).contains(&minute);
        }
        let begun_today = self.days.has(day) && minute >= from;
        let begun_yesterday = self.days.has(day + 6) && minute < to;
        begun_today || begun_yesterday
    }

    /// What holds within it, by the offer's own prices.
    pub fn prices(&self, own: Prices) -> Prices {
        match self.price {
            WindowPrice::Factor(factor) => Prices {
                input: factor.of(own.input),
                output: factor.of(own.output),
            },
            WindowPrice::Prices { input, output } => Prices {
                input: input.unwrap_or(own.input),
                output: output.unwrap_or(own.output),
            },
        }
    }
}

/// The prices at a time.
pub(super) fn at(schedule: &[PriceWindow], own: Prices, now: UnixSeconds) -> Prices {
    let window = schedule.iter().find(|window| window.holds(now));
    window.map_or(own, |window| window.prices(own))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2025-01-06 00:00 UTC, a Monday.
    const MONDAY: u64 = 1_736_121_600;

    fn time(day: u64, text: &str) -> UnixSeconds {
        let time = TimeOfDay::parse(text).unwrap();
        UnixSeconds(MONDAY + day * 86_400 + u64::from(time.0) * 60)
    }

    fn window(days: &[&str], from: &str, to: &str, factor: f64) -> PriceWindow {
        PriceWindow {
            days: Days::named(days.iter().copied()).unwrap(),
            from: TimeOfDay::parse(from).unwrap(),
            to: TimeOfDay::parse(to).unwrap(),
            price: WindowPrice::Factor(Factor::new(factor).unwrap()),
        }
    }

    fn input(schedule: &[PriceWindow], now: UnixSeconds) -> Wei {
        at(schedule, own(), now).input
    }

    fn own() -> Prices {
        Prices {
            input: Wei::from_wei(1_000),
            output: Wei::from_wei(2_000),
        }
    }

    #[test]
    fn a_window_holds_from_its_first_minute_to_before_its_last() {
        let schedule = [window(&["tue"], "09:00", "17:30", 1.5)];
        let wei = Wei::from_wei;
        for (day, text, price) in [
            (1, "08:59", 1_000),
            (1, "09:00", 1_500),
            (1, "17:29", 1_500),
            (1, "17:30", 1_000),
            (0, "12:00", 1_000),
            (8, "12:00", 1_500),
        ] {
            assert_eq!(
                input(&schedule, time(day, text)),
                wei(price),
                "{day} {text}"
            );
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let schedule = [window(&["sun"], "22:00", "06:00", 0.5)];
        let half = Wei::from_wei(500);
        assert_eq!(input(&schedule, time(6, "22:00")), half);
        assert_eq!(input(&schedule, time(7, "05:59")), half);
        assert_eq!(input(&schedule, time(7, "06:00")), own().input);
        assert_eq!(input(&schedule, time(6, "05:59")), own().input);
        let whole_day = [window(&["mon"], "00:00", "24:00", 0.5)];
        assert_eq!(input(&whole_day, time(0, "00:00")), half);
        assert_eq!(input(&whole_day, time(0, "23:59")), half);
        assert_eq!(input(&whole_day, time(1, "00:00")), own().input);
    }

    #[test]
    fn the_first_window_that_holds_says_the_prices() {
        let prices = PriceWindow {
            price: WindowPrice::Prices {
                input: Some(Wei::ZERO),
                output: None,
            },
            ..window(&["mon"], "10:00", "11:00", 1.0)
        };
        let schedule = [prices, window(&["mon"], "00:00", "12:00", 2.0)];
        let now = at(&schedule, own(), time(0, "10:30"));
        assert_eq!((now.input, now.output), (Wei::ZERO, own().output));
        assert_eq!(input(&schedule, time(0, "11:00")), Wei::from_wei(2_000));
        assert_eq!(at(&[], own(), time(0, "10:30")), own());
    }

    #[test]
    fn days_times_and_factors_that_are_none_are_refused() {
        assert_eq!(Days::named([]), None);
        assert_eq!(Days::named(["monday"]), None);
        for text in ["", "9:00", "09.00", "24:01", "12:60", "+9:00", "09:+1"] {
            assert_eq!(TimeOfDay::parse(text), None, "{text}");
        }
        for factor in [-0.1, 1_000.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Factor::new(factor), None);
        }
        assert_eq!(
            Factor::new(0.1).unwrap().of(Wei::from_wei(10)),
            Wei::from_wei(1)
        );
        assert_eq!(Factor::new(2.0).unwrap().of(Wei::MAX), Wei::MAX);
    }

    #[test]
    fn a_window_is_written_as_people_write_it() {
        for (text, written) in [
            ("sat,sun x0.5", "sat,sun x0.5"),
            (" sun,sat  22:00-06:00   x2.000 ", "sat,sun 22:00-06:00 x2"),
            ("22:00-06:00 0.10/0.4", "22:00-06:00 0.1/0.4"),
            ("mon -/0", "mon -/0"),
            ("x0", "x0"),
            (
                "mon,tue,wed,thu,fri,sat,sun 08:00-24:00 x1.000001",
                "08:00-00:00 x1.000001",
            ),
        ] {
            let window: PriceWindow = text.parse().unwrap();
            assert_eq!(window.to_string(), written, "{text}");
            assert!(window.to_string().parse::<PriceWindow>().is_ok(), "{text}");
        }
        for text in [
            "",
            "sat",
            "22:00-06:00",
            "x",
            "x-1",
            "x1e3",
            "x1001",
            "-/-",
            "1",
            "1/2/3",
            "/",
            "noon x1",
            "sat 22:00 x1",
            "sat sun x1",
            "22:00-06:00 sat x1",
            "25:00-06:00 x1",
            "sat, x1",
            "x0.5 sat",
        ] {
            assert!(text.parse::<PriceWindow>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(days in 1_u8..128, from in 0_u16..1_440, to in 0_u16..1_440, factor in 0_u64..1_000_000_000) {
            let price = WindowPrice::Factor(Factor(factor));
            let window = PriceWindow { days: Days(days), from: TimeOfDay(from), to: TimeOfDay(to), price };
            prop_assert_eq!(window.to_string().parse::<PriceWindow>(), Ok(window));
        }

        #[test]
        fn every_week_is_the_same(second in 0_u64..604_800, from in 0_u16..1_440, to in 0_u16..1_440, days in 1_u8..128) {
            let price = WindowPrice::Factor(Factor(0));
            let window = PriceWindow { days: Days(days), from: TimeOfDay(from), to: TimeOfDay(to), price };
            let now = UnixSeconds(MONDAY + second);
            let next = UnixSeconds(now.0 + 604_800);
            prop_assert_eq!(window.holds(now), window.holds(next));
            let all = PriceWindow { days: Days::ALL, to: TimeOfDay(from), ..window };
            prop_assert!(all.holds(now));
        }
    }
}
