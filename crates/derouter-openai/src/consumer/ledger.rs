//! The books behind a lock, reservations that give themselves back, and the wait for one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_sdk::{UnixSeconds, Wei};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::Limits;
use super::error::ApiError;
use super::spending::{OverLimit, Spending};

/// The time by this machine's clock.
pub(crate) fn unix_now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |since| since.as_secs()))
}

/// What was spent and what is reserved.
#[derive(Debug)]
pub(crate) struct Ledger {
    books: Mutex<Spending>,
    /// Told when a reservation ends.
    released: Notify,
}

/// An amount set aside for one job. Dropping it gives all of it back.
#[derive(Debug)]
pub(crate) struct Reservation {
    ledger: Arc<Ledger>,
    amount: Wei,
}

impl Ledger {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            books: Mutex::new(Spending::new(limits)),
            released: Notify::new(),
        }
    }

    /// Counts what was spent on a job of an earlier run.
    pub(crate) fn remember(&self, amount: Wei, at: UnixSeconds) {
        self.books().remember(amount, at, unix_now());
    }

    /// Sets an amount aside, waiting at most `patience` for running requests to give theirs back.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        amount: Wei,
        patience: Duration,
    ) -> Result<Reservation, OverLimit> {
        let deadline = Instant::now() + patience;
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            let over = match self.books().reserve(amount, unix_now()) {
                Ok(()) => break,
                Err(over) => over,
            };
            let waited =
                over.held_by_running && tokio::time::timeout_at(deadline, released).await.is_ok();
            if !waited {
                return Err(over);
            }
        }
        Ok(Reservation {
            ledger: Arc::clone(self),
            amount,
        })
    }

    fn books(&self) -> MutexGuard<'_, Spending> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, reserved: Wei, spent: Wei) {
        self.books().settle(reserved, spent, unix_now());
        self.released.notify_waiters();
    }
}

impl Reservation {
    /// What was set aside.
    pub(crate) fn amount(&self) -> Wei {
        self.amount
    }

    /// The job was agreed to for this amount.
    pub(crate) fn spend(mut self, spent: Wei) {
        let reserved = std::mem::take(&mut self.amount);
        self.ledger.settle(reserved, spent);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.amount.is_zero() {
            self.ledger.settle(self.amount, Wei::ZERO);
        }
    }
}

/// What a client is told when no offer fits the limits.
pub(crate) fn over_limit(over: &OverLimit, needed: Wei) -> ApiError {
    let name = over.name();
    let (limit, spent) = (over.limit.to_pol_text(), over.spent.to_pol_text());
    let needed = needed.to_pol_text();
    if over.held_by_running {
        return ApiError::spending_reserved(format!(
            "Running requests have reserved what is left of the spending limit {name} ({spent} of {limit} POL spent); this one may cost up to {needed} POL. Try again when they are done, set max_tokens, or raise {name}."
        ));
    }
    ApiError::spending_limit(format!(
        "The spending limit {name} is reached: {spent} of {limit} POL are spent, and this request may cost up to {needed} POL. Raise {name} in the configuration, or set max_tokens to make the request cheaper."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(daily: u128) -> Arc<Ledger> {
        Arc::new(Ledger::new(Limits {
            daily: Some(Wei::from_wei(daily)),
            total: None,
        }))
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_running_ones_and_then_begins() {
        let ledger = ledger(100);
        let first = ledger.reserve(Wei::from_wei(80), PATIENCE).await.unwrap();
        let waiting = ledger.reserve(Wei::from_wei(80), PATIENCE);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        first.spend(Wei::from_wei(20));
        assert_eq!(waiting.await.unwrap().amount(), Wei::from_wei(80));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_running_requests_ends() {
        let ledger = ledger(100);
        let _first = ledger.reserve(Wei::from_wei(80), PATIENCE).await.unwrap();
        let over = ledger
            .reserve(Wei::from_wei(80), PATIENCE)
            .await
            .unwrap_err();
        assert!(over.held_by_running);
        assert_eq!(over_limit(&over, Wei::from_wei(80)).status, 429);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_reached_is_told_at_once_with_its_name() {
        let ledger = ledger(100);
        let first = ledger.reserve(Wei::from_wei(100), PATIENCE).await.unwrap();
        first.spend(Wei::from_wei(100));
        let started = Instant::now();
        let over = ledger
            .reserve(Wei::from_wei(1), PATIENCE)
            .await
            .unwrap_err();
        assert_eq!(started.elapsed(), Duration::ZERO);
        let error = over_limit(&over, Wei::from_wei(1));
        assert_eq!(
            (error.status.as_u16(), error.code),
            (402, Some("spending_limit_reached"))
        );
        assert!(error.message.contains("limits.daily"));
        assert_eq!(error.retry_after, None);
    }

    #[tokio::test]
    async fn a_dropped_reservation_is_given_back() {
        let ledger = ledger(100);
        drop(ledger.reserve(Wei::from_wei(100), PATIENCE).await.unwrap());
        assert!(ledger.reserve(Wei::from_wei(100), PATIENCE).await.is_ok());
    }
}
