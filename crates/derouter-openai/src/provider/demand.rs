//! Who wanted an offer and was or was not served, and what it earned. Pure; the time is given.

use std::collections::VecDeque;

use derouter_sdk::{UnixSeconds, Wei};

/// Minutes of which it is known what happened in each.
const MINUTES: usize = 60;

/// Different reasons that are remembered of requests that can't be served.
const MAX_REASONS: usize = 8;

/// Characters of each.
const REASON_CHARS: usize = 200;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// What became of a request for the offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken.
    Taken,
    /// All slots were taken, and the queue was full.
    Full,
    /// It waited in vain, or made room for another consumer's.
    Waited,
    /// Its consumer asks too often.
    TooFast,
    /// Its consumer is not served here.
    Blocked,
    /// It can't be served.
    Invalid,
}

/// How often each happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) taken: u64,
    pub(super) full: u64,
    pub(super) waited: u64,
    pub(super) too_fast: u64,
    pub(super) blocked: u64,
    pub(super) invalid: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.taken, other.taken),
            (&mut self.full, other.full),
            (&mut self.waited, other.waited),
            (&mut self.too_fast, other.too_fast),
            (&mut self.blocked, other.blocked),
            (&mut self.invalid, other.invalid),
            (&mut self.completed, other.completed),
            (&mut self.failed, other.failed),
        ];
        for (own, more) in pairs {
            *own = own.saturating_add(more);
        }
    }

    fn of(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Taken => &mut self.taken,
            Outcome::Full => &mut self.full,
            Outcome::Waited => &mut self.waited,
            Outcome::TooFast => &mut self.too_fast,
            Outcome::Blocked => &mut self.blocked,
            Outcome::Invalid => &mut self.invalid,
        }
    }
}

/// What happened with one offer since the provider started.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    minutes: VecDeque<Counts>,
    /// The minute of the last of them.
    minute: u64,
    all: Counts,
    reasons: VecDeque<(String, u64)>,
    income: Wei,
    day: u64,
    income_of_day: Wei,
    tokens: u64,
    last: Option<UnixSeconds>,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            minutes: VecDeque::from([Counts::default()]),
            minute: 0,
            all: Counts::default(),
            reasons: VecDeque::new(),
            income: Wei::ZERO,
            day: 0,
            income_of_day: Wei::ZERO,
            tokens: 0,
            last: None,
        }
    }
}

impl Demand {
    /// A request came, and this became of it.
    pub(super) fn asked(&mut self, outcome: Outcome, now: UnixSeconds) {
        self.last = Some(now);
        self.note(now, |counts| {
            let count = counts.of(outcome);
            *count = count.saturating_add(1);
        });
    }

    /// A request can't be served, for this reason.
    pub(super) fn invalid(&mut self, reason: &str, now: UnixSeconds) {
        self.asked(Outcome::Invalid, now);
        let reason: String = reason.chars().take(REASON_CHARS).collect();
        if let Some((_, times)) = self.reasons.iter_mut().find(|(known, _)| *known == reason) {
            *times = times.saturating_add(1);
            return;
        }
        if self.reasons.len() >= MAX_REASONS {
            self.reasons.pop_front();
        }
        self.reasons.push_back((reason, 1));
    }

    /// A job was completed.
    pub(super) fn earned(&mut self, cost: Wei, tokens: u64, now: UnixSeconds) {
        let day = now.0 / DAY;
        // A clock that was set back earns for the day that it was in.
        if day > self.day {
            (self.day, self.income_of_day) = (day, Wei::ZERO);
        }
        self.income = self.income.saturating_add(cost);
        self.income_of_day = self.income_of_day.saturating_add(cost);
        self.tokens = self.tokens.saturating_add(tokens);
        self.note(now, |counts| {
            counts.completed = counts.completed.saturating_add(1);
        });
    }

    /// A job failed here.
    pub(super) fn failed(&mut self, now: UnixSeconds) {
        self.note(now, |counts| {
            counts.failed = counts.failed.saturating_add(1);
        });
    }

    /// Since the start.
    pub(super) fn all(&self) -> Counts {
        self.all
    }

    /// In the last hour.
    pub(super) fn of_hour(&self, now: UnixSeconds) -> Counts {
        let passed = (now.0 / 60).saturating_sub(self.minute);
        let passed = usize::try_from(passed).unwrap_or(usize::MAX);
        let recent = self.minutes.iter().rev();
        let mut sum = Counts::default();
        recent
            .take(MINUTES.saturating_sub(passed))
            .for_each(|counts| sum.add(counts));
        sum
    }

    /// Earned today, as far as is known, and since the start.
    pub(super) fn income(&self, now: UnixSeconds) -> (Wei, Wei) {
        let today = match now.0 / DAY > self.day {
            true => Wei::ZERO,
            false => self.income_of_day,
        };
        (today, self.income)
    }

    /// Tokens of completed jobs.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// When somebody last asked.
    pub(super) fn last(&self) -> Option<UnixSeconds> {
        self.last
    }

    /// Why requests could not be served, and how often, the latest reason last.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (&str, u64)> {
        self.reasons
            .iter()
            .map(|(text, times)| (text.as_str(), *times))
    }

    fn note(&mut self, now: UnixSeconds, change: impl Fn(&mut Counts)) {
        let minute = now.0 / 60;
        let passed = usize::try_from(minute.saturating_sub(self.minute)).unwrap_or(usize::MAX);
        for _ in 0..passed.min(MINUTES) {
            self.minutes.push_back(Counts::default());
        }
        while self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
        self.minute = self.minute.max(minute);
        if let Some(latest) = self.minutes.back_mut() {
            change(latest);
        }
        change(&mut self.all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixSeconds = UnixSeconds(1000 * DAY);

    fn after(minutes: u64) -> UnixSeconds {
        UnixSeconds(START.0 + 60 * minutes)
    }

    #[test]
    fn the_last_hour_is_told_apart_from_all() {
        let mut demand = Demand::default();
        demand.asked(Outcome::Full, START);
        demand.asked(Outcome::Taken, after(30));
        assert_eq!(demand.of_hour(after(30)).full, 1);
        assert_eq!(demand.of_hour(after(60)).full, 0);
        assert_eq!(demand.of_hour(after(60)).taken, 1);
        assert_eq!(demand.of_hour(after(500)), Counts::default());
        assert_eq!((demand.all().full, demand.all().taken), (1, 1));
        demand.asked(Outcome::Taken, after(5_000));
        assert_eq!(demand.of_hour(after(5_000)).taken, 1);
        // A clock that was set back counts for the latest minute.
        demand.asked(Outcome::Taken, START);
        assert_eq!(demand.of_hour(after(5_000)).taken, 2);
        assert!(demand.minutes.len() <= MINUTES);
    }

    #[test]
    fn income_is_of_the_day_and_of_all() {
        let mut demand = Demand::default();
        demand.earned(Wei::from_wei(5), 10, START);
        assert_eq!(demand.income(START), (Wei::from_wei(5), Wei::from_wei(5)));
        let tomorrow = UnixSeconds(START.0 + DAY);
        assert_eq!(demand.income(tomorrow), (Wei::ZERO, Wei::from_wei(5)));
        demand.earned(Wei::from_wei(2), 1, tomorrow);
        assert_eq!(
            demand.income(tomorrow),
            (Wei::from_wei(2), Wei::from_wei(7))
        );
    }

    #[test]
    fn reasons_are_counted_and_few() {
        let mut demand = Demand::default();
        for n in 0..20 {
            demand.invalid(&format!("reason {n} {}", "x".repeat(1000)), START);
            demand.invalid("again", START);
        }
        assert!(demand.reasons.len() <= MAX_REASONS);
        assert!(demand.reasons().all(|(text, _)| text.len() <= REASON_CHARS));
        assert_eq!(demand.all().invalid, 40);
    }
}
