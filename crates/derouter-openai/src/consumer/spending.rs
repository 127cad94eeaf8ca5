//! What was spent, what running requests may still cost, and whether another one may begin. Pure.
//!
//! A request reserves the most that it can cost before its job exists, so that no interleaving of
//! requests goes over a limit. What was agreed to counts for the day on which it was.

use derouter_sdk::{UnixSeconds, Wei};

use super::config::Limits;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Which limit keeps a request from beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitKind {
    Daily,
    Total,
}

/// Why nothing could be reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverLimit {
    pub(crate) kind: LimitKind,
    pub(crate) limit: Wei,
    pub(crate) spent: Wei,
    /// It would fit once running requests are done and cost nothing: worth waiting for.
    pub(crate) held_by_running: bool,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Spending {
    limits: Limits,
    /// The day, counted from 1970, that `today` is about. It never goes back.
    day: u64,
    today: Wei,
    total: Wei,
    reserved: Wei,
}

impl Spending {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            day: 0,
            today: Wei::ZERO,
            total: Wei::ZERO,
            reserved: Wei::ZERO,
        }
    }

    /// Counts what was spent on a job of an earlier run.
    pub(crate) fn remember(&mut self, amount: Wei, at: UnixSeconds, now: UnixSeconds) {
        self.turn_day(now);
        self.total = self.total.saturating_add(amount);
        if at.0 / DAY >= self.day {
            self.today = self.today.saturating_add(amount);
        }
    }

    /// Sets an amount aside for a request that begins.
    pub(crate) fn reserve(&mut self, amount: Wei, now: UnixSeconds) -> Result<(), OverLimit> {
        self.turn_day(now);
        let daily = (LimitKind::Daily, self.limits.daily, self.today);
        let total = (LimitKind::Total, self.limits.total, self.total);
        // The total first: waiting for midnight does not help with it.
        for (kind, limit, spent) in [total, daily] {
            let Some(limit) = limit else { continue };
            let alone = spent.saturating_add(amount);
            if alone.saturating_add(self.reserved) <= limit || amount.is_zero() {
                continue;
            }
            return Err(OverLimit {
                kind,
                limit,
                spent,
                held_by_running: alone <= limit,
            });
        }
        self.reserved = self.reserved.saturating_add(amount);
        Ok(())
    }

    /// Ends a reservation of which `spent` was agreed to; at most what was reserved.
    pub(crate) fn settle(&mut self, reserved: Wei, spent: Wei, now: UnixSeconds) {
        debug_assert!(spent <= reserved, "the bill is checked against it");
        self.turn_day(now);
        self.reserved = self.reserved.saturating_sub(reserved);
        self.today = self.today.saturating_add(spent);
        self.total = self.total.saturating_add(spent);
    }

    fn turn_day(&mut self, now: UnixSeconds) {
        let day = now.0 / DAY;
        if day > self.day {
            self.day = day;
            self.today = Wei::ZERO;
        }
    }
}

impl OverLimit {
    /// The limit's name in the configuration.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind {
            LimitKind::Daily => "limits.daily",
            LimitKind::Total => "limits.total",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wei(amount: u64) -> Wei {
        Wei::from_wei(amount.into())
    }

    fn spending(daily: Option<u64>, total: Option<u64>) -> Spending {
        Spending::new(Limits {
            daily: daily.map(wei),
            total: total.map(wei),
        })
    }

    const NOON: UnixSeconds = UnixSeconds(10 * DAY + DAY / 2);
    const NEXT_DAY: UnixSeconds = UnixSeconds(11 * DAY);

    #[test]
    fn running_requests_hold_what_they_may_cost() {
        let mut books = spending(Some(100), None);
        books.reserve(wei(60), NOON).unwrap();
        let refused = books.reserve(wei(60), NOON).unwrap_err();
        assert!(refused.held_by_running);
        books.settle(wei(60), wei(10), NOON);
        books.reserve(wei(90), NOON).unwrap();
        let refused = books.reserve(wei(91), NOON).unwrap_err();
        assert!(!refused.held_by_running);
        assert_eq!((refused.kind, refused.spent), (LimitKind::Daily, wei(10)));
    }

    #[test]
    fn midnight_frees_the_daily_limit_and_not_the_total() {
        let mut books = spending(Some(100), Some(150));
        books.reserve(wei(100), NOON).unwrap();
        books.settle(wei(100), wei(100), NOON);
        assert_eq!(
            books.reserve(wei(1), NOON).unwrap_err().kind,
            LimitKind::Daily
        );
        let refused = books.reserve(wei(100), NEXT_DAY).unwrap_err();
        assert_eq!(refused.kind, LimitKind::Total);
        books.reserve(wei(50), NEXT_DAY).unwrap();
    }

    #[test]
    fn a_job_agreed_to_after_midnight_counts_for_the_new_day() {
        let mut books = spending(Some(100), None);
        books.reserve(wei(80), NOON).unwrap();
        books.settle(wei(80), wei(80), NEXT_DAY);
        assert!(books.reserve(wei(21), NEXT_DAY).is_err());
        books.reserve(wei(20), NEXT_DAY).unwrap();
    }

    #[test]
    fn jobs_of_earlier_runs_count_by_their_day() {
        let mut books = spending(Some(100), Some(1000));
        books.remember(wei(70), UnixSeconds(9 * DAY), NOON);
        books.remember(wei(30), UnixSeconds(10 * DAY), NOON);
        assert!(books.reserve(wei(71), NOON).is_err());
        books.reserve(wei(70), NOON).unwrap();
        assert_eq!(books.total, wei(100));
    }

    #[test]
    fn a_clock_that_goes_back_frees_nothing() {
        let mut books = spending(Some(100), None);
        books.reserve(wei(100), NEXT_DAY).unwrap();
        books.settle(wei(100), wei(100), NEXT_DAY);
        assert!(books.reserve(wei(1), NOON).is_err());
        books.reserve(Wei::ZERO, NOON).unwrap();
    }

    #[test]
    fn sums_beyond_all_numbers_are_over_the_limit() {
        let mut books = spending(Some(100), None);
        books.reserve(wei(100), NOON).unwrap();
        assert!(books.reserve(Wei::MAX, NOON).is_err());
    }

    proptest! {
        #[test]
        fn no_interleaving_goes_over_a_limit(
            daily in 0_u64..500,
            total in 0_u64..1500,
            steps in proptest::collection::vec((0_u64..200, 0_u64..=100, 0_usize..8, 0_u64..30_000), 1..200),
        ) {
            let mut books = spending(Some(daily), Some(total));
            let mut running: Vec<u64> = Vec::new();
            let mut by_day = std::collections::BTreeMap::<u64, u64>::new();
            let mut now = NOON;
            for (amount, percent, pick, seconds) in steps {
                now = UnixSeconds(now.0 + seconds);
                if books.reserve(wei(amount), now).is_ok() {
                    running.push(amount);
                }
                if pick < running.len() {
                    let reserved = running.swap_remove(pick);
                    let spent = reserved * percent / 100;
                    books.settle(wei(reserved), wei(spent), now);
                    *by_day.entry(now.0 / DAY).or_default() += spent;
                }
                prop_assert!(by_day.values().all(|spent| *spent <= daily));
                prop_assert!(by_day.values().sum::<u64>() <= total);
                prop_assert_eq!(books.reserved, wei(running.iter().sum()));
            }
        }
    }
}
