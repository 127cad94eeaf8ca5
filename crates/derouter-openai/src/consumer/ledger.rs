//! The books behind a lock, what is set aside for one job, and the wait for that.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_sdk::{JobKey, PeerId, UnixSeconds, Wei};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::Limits;
use super::error::ApiError;
use super::journal::Journal;
use super::keys::KeyRecord;
use super::spending::{LimitKind, OverLimit, Place, RequestId, Spending};

/// The time by this machine's clock.
pub(crate) fn unix_now() -> UnixSeconds {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixSeconds(since.map_or(0, |since| since.as_secs()))
}

/// What was spent and what is set aside.
#[derive(Debug)]
pub(crate) struct Ledger {
    books: Mutex<Spending>,
    /// Told when an amount is given back.
    released: Notify,
    /// What was spent with each key, where there can be keys.
    journal: OnceLock<Journal>,
}

/// A request of a client, over all its attempts.
#[derive(Debug)]
pub(crate) struct RequestScope {
    ledger: Arc<Ledger>,
    id: RequestId,
    key: Option<Arc<KeyRecord>>,
}

/// What a job's cost counts against: its request, the request's key, and its provider.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) request: Arc<RequestScope>,
    pub(crate) provider: PeerId,
}

/// An amount set aside for one job. Dropping it gives all of it back.
#[derive(Debug)]
pub(crate) struct Reservation {
    scope: Scope,
    amount: Wei,
    /// When it was set aside.
    since: UnixSeconds,
}

/// A bill is over what was set aside for it: it must not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cost} wei are more than the {reserved} set aside")]
pub(crate) struct OverReserved {
    cost: Wei,
    reserved: Wei,
}

impl Ledger {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            books: Mutex::new(Spending::new(limits)),
            released: Notify::new(),
            journal: OnceLock::new(),
        }
    }

    /// From now on, what keys spend goes through this file.
    pub(crate) fn keep(&self, journal: Journal) {
        // A second one would be of the same directory, which only one may have.
        let _ = self.journal.set(journal);
    }

    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }

    /// Counts what was spent on a job of an earlier run.
    pub(crate) fn remember(&self, provider: PeerId, amount: Wei, at: UnixSeconds) {
        self.books().remember(provider, amount, at, unix_now());
    }

    /// All jobs of earlier runs are known: counts what was spent with each key.
    pub(crate) fn remember_keys(&self) {
        let sums = self.journal().map(Journal::settle_past);
        let mut books = self.books();
        for (key, sum) in sums.into_iter().flatten() {
            books.remember_key(&key, sum.total, &sum.days);
        }
    }

    /// A client asks for an answer. Fails when what its key spends can't be written down.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        key: Option<Arc<KeyRecord>>,
    ) -> Result<Arc<RequestScope>, ApiError> {
        if let Some(key) = &key {
            self.note_use(key).await.map_err(|error| {
                tracing::error!(%error, "can't write what is spent with keys");
                let message = "The gateway can't write what is spent with keys: its disk fails. Its log says more.";
                ApiError::unavailable("spending_not_kept", message)
            })?;
        }
        let id = self.books().begin();
        let ledger = Arc::clone(self);
        Ok(Arc::new(RequestScope { ledger, id, key }))
    }

    async fn note_use(&self, key: &KeyRecord) -> io::Result<()> {
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        journal.recover().await?;
        journal.used(&key.id, unix_now()).await
    }

    /// Sets aside the most that a job can cost, against all limits at once. Waits at most
    /// `patience` for running requests to give theirs back.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        scope: &Scope,
        most: Wei,
        patience: Duration,
    ) -> Result<Reservation, Box<OverLimit>> {
        let deadline = Instant::now() + patience;
        let since = loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            let now = unix_now();
            let over = match self.books().reserve(&scope.place(), most, now) {
                Ok(()) => break now,
                Err(over) => over,
            };
            let waited =
                over.held_by_running && tokio::time::timeout_at(deadline, released).await.is_ok();
            if !waited {
                return Err(over);
            }
        };
        Ok(Reservation {
            scope: scope.clone(),
            amount: most,
            since,
        })
    }

    /// Looks at the books. What is done with them must be short.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Spending) -> T) -> T {
        look(&self.books())
    }

    fn books(&self) -> MutexGuard<'_, Spending> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, scope: &Scope, reserved: Wei, spent: Wei, at: UnixSeconds) {
        self.books().settle(&scope.place(), reserved, spent, at);
        self.released.notify_waiters();
    }
}

impl RequestScope {
    /// Whether a signature was begun for it: trying again may cost a second time.
    pub(crate) fn may_owe(&self) -> bool {
        self.ledger.books().may_owe(self.id)
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        self.ledger.books().end(self.id);
    }
}

impl Scope {
    fn place(&self) -> Place<'_> {
        let key = self.request.key.as_deref();
        Place {
            key: key.map(|key| (key.id.as_str(), key.limits())),
            provider: self.provider,
            request: self.request.id,
        }
    }

    fn ledger(&self) -> &Ledger {
        &self.request.ledger
    }

    /// The journal, and the key whose spending goes there.
    fn journal(&self) -> Option<(&Journal, &KeyRecord)> {
        let key = self.request.key.as_deref()?;
        Some((self.ledger().journal()?, key))
    }
}

impl Reservation {
    /// The time for which it counts: a clock that was set back meanwhile is not believed.
    fn at(&self) -> UnixSeconds {
        unix_now().max(self.since)
    }

    /// What is set aside.
    pub(crate) fn amount(&self) -> Wei {
        self.amount
    }

    /// The job will be signed. From now on a client must not try its request again by itself.
    pub(crate) fn will_sign(&self) {
        let request = &self.scope.request;
        request.ledger.books().signing(request.id);
    }

    /// A job is about to be signed for `cost`: what is set aside over that is given back, and a
    /// crash does not forget the rest. Must come before the signature.
    pub(crate) async fn sign(&mut self, job: &JobKey, cost: Wei) -> Result<(), OverReserved> {
        if cost > self.amount {
            let reserved = self.amount;
            return Err(OverReserved { cost, reserved });
        }
        let ledger = self.scope.ledger();
        ledger
            .books()
            .narrow(&self.scope.place(), self.amount, cost);
        ledger.released.notify_waiters();
        self.amount = cost;
        let Some((journal, key)) = self.scope.journal().filter(|_| !cost.is_zero()) else {
            return Ok(());
        };
        // The provider has answered and is owed. What could not be written is in memory, and goes
        // to the disk before the next request of any key is taken.
        if let Err(error) = journal.signing(&key.id, job, cost, self.at()).await {
            tracing::error!(%job, key = key.name, %error, "can't write what is spent with a key yet");
        }
        Ok(())
    }

    /// The job was signed, or may have been, for this amount.
    pub(crate) fn settle(mut self, job: &JobKey, spent: Wei) {
        if let Some((journal, _)) = self.scope.journal() {
            journal.signed(job);
        }
        let reserved = std::mem::take(&mut self.amount);
        let at = self.at();
        self.scope.ledger().settle(&self.scope, reserved, spent, at);
    }

    /// The job was not signed after all. Gives all back.
    pub(crate) async fn release(self, job: &JobKey) {
        if let Some((journal, key)) = self.scope.journal()
            && let Err(error) = journal.not_signed(job).await
        {
            tracing::error!(%job, key = key.name, %error, "can't write what is spent with a key yet");
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.amount.is_zero() {
            let ledger = self.scope.ledger();
            ledger.settle(&self.scope, self.amount, Wei::ZERO, self.at());
        }
    }
}

/// The end of an error's code, and what to change, in words.
fn told(kind: LimitKind, key: &str) -> (&'static str, String) {
    let of_key = |flag: &str| format!("`derouter token set {key} {flag} POL`");
    match kind {
        LimitKind::Job => ("spending_limit_job", "`limits.job`".into()),
        LimitKind::Request => ("spending_limit_request", "`limits.request`".into()),
        LimitKind::Total => ("spending_limit_total", "`limits.total`".into()),
        LimitKind::Day => ("spending_limit_day", "`limits.daily`".into()),
        LimitKind::ProviderDay => (
            "spending_limit_provider_day",
            "`limits.provider_daily`".into(),
        ),
        LimitKind::KeyRequest => ("spending_limit_key_request", of_key("--per-request")),
        LimitKind::KeyTotal => ("spending_limit_key_total", of_key("--total")),
        LimitKind::KeyDay => ("spending_limit_key_day", of_key("--daily")),
    }
}

/// What a limit is about, in words.
fn subject(kind: LimitKind) -> &'static str {
    match kind {
        LimitKind::Job => "one job",
        LimitKind::Request => "one request",
        LimitKind::Total => "all requests together",
        LimitKind::Day => "one day",
        LimitKind::ProviderDay => "one day with one provider",
        LimitKind::KeyRequest => "one request of this key",
        LimitKind::KeyTotal => "all requests of this key together",
        LimitKind::KeyDay => "one day of this key",
    }
}

/// What a client is told when no offer fits the limits. `key` is the name of its key.
pub(crate) fn over_limit(over: &OverLimit, key: Option<&str>) -> ApiError {
    let (code, change) = told(over.kind, key.unwrap_or("NAME"));
    let pol = |amount: Wei| format!("{} POL", amount.to_pol_text());
    let (limit, spent) = (pol(over.limit), pol(over.spent));
    let (reserved, needed) = (pol(over.reserved), pol(over.needed));
    let subject = subject(over.kind);
    let numbers = format!(
        "The spending limit for {subject} is {limit}: {spent} are spent, {reserved} are set aside for running requests, and this request may cost up to {needed}."
    );
    if over.held_by_running {
        return ApiError::spending_reserved(format!(
            "{numbers} Try again when running requests are done, set max_tokens, or raise the limit with {change}."
        ));
    }
    let reset = match over.resets_at.and_then(utc) {
        Some(at) => format!(" It fits again from {at} on."),
        None => String::new(),
    };
    ApiError::spending_limit(
        code,
        format!(
            "{numbers}{reset} Set max_tokens to make the request cheaper, or raise the limit with {change}."
        ),
    )
}

/// A time as people read it.
pub(crate) fn utc(at: UnixSeconds) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(at.0).ok()?).ok()?;
    let (date, hour, minute) = (at.date(), at.hour(), at.minute());
    Some(format!("{date} {hour:02}:{minute:02} UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use derouter_sdk::JobId;

    fn ledger(daily: u128) -> Arc<Ledger> {
        Arc::new(Ledger::new(Limits {
            daily: Some(Wei::from_wei(daily)),
            ..Limits::NONE
        }))
    }

    async fn scope(ledger: &Arc<Ledger>, key: Option<KeyRecord>) -> Scope {
        Scope {
            request: ledger.begin(key.map(Arc::new)).await.unwrap(),
            provider: PeerId::random(),
        }
    }

    async fn reserve(ledger: &Arc<Ledger>, amount: u128) -> Result<Reservation, Box<OverLimit>> {
        let scope = scope(ledger, None).await;
        ledger
            .reserve(&scope, Wei::from_wei(amount), PATIENCE)
            .await
    }

    fn job() -> JobKey {
        JobKey {
            provider: PeerId::random(),
            job_id: JobId::new("j").unwrap(),
        }
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_running_ones_and_then_begins() {
        let ledger = ledger(100);
        let first = reserve(&ledger, 80).await.unwrap();
        let waiting = reserve(&ledger, 80);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        first.settle(&job(), Wei::from_wei(20));
        assert_eq!(waiting.await.unwrap().amount(), Wei::from_wei(80));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_running_requests_ends() {
        let ledger = ledger(100);
        let _first = reserve(&ledger, 80).await.unwrap();
        let over = reserve(&ledger, 80).await.unwrap_err();
        assert!(over.held_by_running);
        let error = over_limit(&over, None);
        assert_eq!(
            (error.status.as_u16(), error.retry_after.is_some()),
            (429, true)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_reached_is_told_at_once_with_all_that_one_wants_to_know() {
        let ledger = ledger(3_000_000_000_000_000_000);
        let first = reserve(&ledger, 2_000_000_000_000_000_000).await.unwrap();
        first.settle(&job(), Wei::from_wei(2_000_000_000_000_000_000));
        let started = Instant::now();
        let over = reserve(&ledger, 1_500_000_000_000_000_000)
            .await
            .unwrap_err();
        assert_eq!(started.elapsed(), Duration::ZERO);
        let error = over_limit(&over, None);
        assert_eq!(error.status, 402);
        assert_eq!(error.code, Some("spending_limit_day"));
        assert_eq!(error.retry_after, None);
        for part in [
            "one day is 3 POL",
            "2 POL are spent",
            "0 POL are set aside",
            "up to 1.5 POL",
            "00:00 UTC",
            "`limits.daily`",
        ] {
            assert!(error.message.contains(part), "{part} in {}", error.message);
        }
    }

    #[test]
    fn a_keys_limit_names_the_command_that_changes_it() {
        let over = OverLimit {
            kind: LimitKind::KeyTotal,
            limit: Wei::ZERO,
            spent: Wei::ZERO,
            reserved: Wei::ZERO,
            needed: Wei::from_wei(1),
            resets_at: None,
            held_by_running: false,
        };
        let error = over_limit(&over, Some("laptop"));
        assert_eq!(error.code, Some("spending_limit_key_total"));
        assert!(
            error
                .message
                .contains("`derouter token set laptop --total POL`")
        );
        assert_eq!(
            utc(UnixSeconds(951_782_400)).unwrap(),
            "2000-02-29 00:00 UTC"
        );
    }

    #[tokio::test]
    async fn a_dropped_reservation_is_given_back() {
        let ledger = ledger(100);
        drop(reserve(&ledger, 100).await.unwrap());
        assert!(reserve(&ledger, 100).await.is_ok());
    }

    #[tokio::test]
    async fn more_than_was_set_aside_is_never_signed() {
        let ledger = ledger(100);
        let mut reservation = reserve(&ledger, 50).await.unwrap();
        let request = Arc::clone(&reservation.scope.request);
        assert!(reservation.sign(&job(), Wei::from_wei(51)).await.is_err());
        reservation.sign(&job(), Wei::from_wei(50)).await.unwrap();
        assert!(!request.may_owe());
        reservation.will_sign();
        assert!(request.may_owe());
    }

    fn key(total: u128) -> KeyRecord {
        let text = format!(
            r#"{{"id":"k","name":"laptop","sha256":"","rules":{{"total":"{total}"}},"created":1}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    async fn with_journal(directory: &std::path::Path) -> Arc<Ledger> {
        let ledger = ledger(1_000_000);
        ledger.keep(Journal::open(directory).await.unwrap());
        ledger.remember_keys();
        ledger
    }

    async fn try_key(ledger: &Arc<Ledger>, amount: u128) -> Result<Reservation, Box<OverLimit>> {
        let scope = scope(ledger, Some(key(100))).await;
        ledger
            .reserve(&scope, Wei::from_wei(amount), Duration::ZERO)
            .await
    }

    #[tokio::test]
    async fn what_a_key_spent_outlasts_restarts_and_crashes() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = with_journal(directory.path()).await;
        let mut first = try_key(&ledger, 60).await.unwrap();
        let signed = job();
        first.sign(&signed, Wei::from_wei(40)).await.unwrap();
        first.settle(&signed, Wei::from_wei(40));
        let mut given_up = try_key(&ledger, 60).await.unwrap();
        let second = job();
        given_up.sign(&second, Wei::from_wei(20)).await.unwrap();
        given_up.release(&second).await;
        // The process ends before the outcome of this one is known.
        let mut crashed = try_key(&ledger, 60).await.unwrap();
        crashed.sign(&job(), Wei::from_wei(5)).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        let file = "spending.jsonl";
        std::fs::copy(directory.path().join(file), copy.path().join(file)).unwrap();
        let ledger = with_journal(copy.path()).await;
        let over = try_key(&ledger, 56).await.unwrap_err();
        assert_eq!(
            (over.kind, over.spent),
            (LimitKind::KeyTotal, Wei::from_wei(45))
        );
        assert!(try_key(&ledger, 55).await.is_ok());
    }
}
