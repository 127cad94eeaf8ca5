//! The open jobs of this run: when they end, and who is joined to them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use derouter_market::Role;
use derouter_market::deadlines::JobSide;
use derouter_market::job::{Job, JobState};
use derouter_sdk::{FailureReason, JobKey};
use derouter_store::limits::PAGE_ROWS;
use derouter_store::{Durability, Store, StoreError};
use derouter_wire::jobs::FailureCause;
use derouter_wire::{RowId, UnixSeconds};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::unix_now;
use crate::shared::Shared;

/// How often deadlines are looked at: they are a minute and longer.
const LOOK: Duration = Duration::from_secs(5);

/// Jobs given up in one look, so that a thousand ghosts do not fill the store's queue at once.
const ENDED_PER_LOOK: usize = 256;

/// How often it is looked for outcomes that nobody signed.
const UNSIGNED_LOOK: Duration = Duration::from_secs(3600);

/// How long an outcome waits for its signature before it counts as disputed: a week. A consumer that
/// was away for a while still signs.
const UNSIGNED_SECS: u64 = 7 * 86_400;

/// Gives up the jobs whose time is over, until the node stops.
pub(crate) async fn end_overdue(shared: Arc<Shared>) {
    let mut unsigned_at = Duration::ZERO;
    loop {
        let now = shared.clock.now().uptime;
        let overdue = shared.open_jobs().overdue(now, ENDED_PER_LOOK);
        for (side, cause) in overdue {
            end_one(&shared, side, cause).await;
        }
        shared.sessions.sweep(now);
        shared.opened.sweep(now);
        if now >= unsigned_at {
            unsigned_at = now + UNSIGNED_LOOK;
            dispute_unsigned(&shared).await;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return shared.opened.close(),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn end_one(shared: &Arc<Shared>, side: JobSide, cause: FailureCause) {
    let (role, key) = side;
    let reason = FailureReason {
        reason: expiry_text(cause).to_owned(),
        reason_class: None,
    };
    tracing::info!(job = %key, ?role, cause = cause.name(), "gave up a job whose time is over");
    if let Err(error) = crate::jobs::fail(shared, role, &key, cause, reason).await {
        tracing::debug!(job = %key, %error, "could not give up an overdue job");
        // Ended by somebody else, or not there: nothing to look after. A database that fails keeps
        // it on the list.
        if !matches!(error, derouter_sdk::FailJobError::Node(_)) {
            shared.open_jobs().ended(&(role, key));
        }
    }
}

fn expiry_text(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::NotAnswered => "the provider did not answer whether it takes the job",
        FailureCause::NotJoined => "the consumer never joined the job",
        FailureCause::Idle => "nobody was joined to the job for too long",
        _ => "the job was open for too long",
    }
}

async fn dispute_unsigned(shared: &Shared) {
    let now = unix_now();
    let since = UnixSeconds(now.0.saturating_sub(UNSIGNED_SECS));
    let reason = "the consumer has not signed within a week";
    loop {
        match shared.store.dispute_unsigned(since, reason, now).await {
            Ok(PAGE_ROWS..) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "could not look for outcomes that nobody signed");
                return;
            }
        }
    }
}

/// What a start makes of the jobs that were open when the node stopped.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Jobs of ours as a consumer that may still go on.
    pub(crate) open: Vec<Job>,
    /// How many were given up.
    pub(crate) ended: usize,
}

/// Before anything is accepted: the jobs that this node served end, as their modules and streams are
/// gone, and so do those that it had asked for without an answer. Their providers are told.
pub(crate) async fn recover(store: &Store) -> Result<Recovered, StoreError> {
    let reason = "the provider's node stopped while the job was open";
    let cause = FailureCause::ProviderStopped;
    crate::failpoint!("start::before-recovered");
    let ended = store.fail_open_provided(cause, reason, unix_now()).await?;
    crate::failpoint!("start::provided-ended");
    let mut recovered = Recovered {
        ended,
        ..Recovered::default()
    };
    let mut after: Option<RowId> = None;
    loop {
        let page = store.open_jobs(Role::Consumer, PAGE_ROWS, after).await?;
        let Some(last) = page.last() else {
            crate::failpoint!("start::recovered");
            return Ok(recovered);
        };
        after = Some(last.row_id);
        for job in page {
            recovered.take(store, job).await?;
        }
    }
}

impl Recovered {
    async fn take(&mut self, store: &Store, job: Job) -> Result<(), StoreError> {
        if job.state != JobState::Open(derouter_market::job::Stage::Created) {
            self.open.push(job);
            return Ok(());
        }
        let reason = FailureReason {
            reason: "the consumer's node stopped before the provider answered".to_owned(),
            reason_class: None,
        };
        let step = move |job: &Job| {
            let failed = job.fail(FailureCause::ConsumerStopped, reason, unix_now());
            failed.ok()
        };
        store
            .update_job(job.role, &job.key, Durability::Wal, step)
            .await?;
        self.ended += 1;
        Ok(())
    }
}

/// Says that a side is joined to a job for as long as it lives.
pub(crate) struct JoinedGuard {
    shared: Arc<Shared>,
    side: JobSide,
    /// Whether a drain waits for it.
    counted: bool,
}

impl JoinedGuard {
    /// The first time, it is stored that the job runs, before anybody relies on it.
    pub(crate) async fn new(shared: &Arc<Shared>, role: Role, key: &JobKey) -> Self {
        let now = shared.clock.now().uptime;
        let guard = Self {
            shared: Arc::clone(shared),
            side: (role, key.clone()),
            counted: shared.with_running(|running| running.opened(role, key, now)),
        };
        let first = shared.open_jobs().joined(&guard.side);
        if first {
            let stored = shared
                .store
                .update_job(role, key, Durability::Wal, Job::joined)
                .await;
            match stored {
                Ok(Some(job)) => shared.emit_job(&job),
                Ok(None) => {}
                // It runs all the same; a restart would end it either way.
                Err(error) => tracing::warn!(job = %key, %error, "could not store that a job runs"),
            }
        }
        guard
    }
}

impl Drop for JoinedGuard {
    fn drop(&mut self) {
        let now = self.shared.clock.now().uptime;
        self.shared.open_jobs().left(&self.side, now);
        if self.counted {
            let (role, key) = &self.side;
            self.shared
                .with_running(|running| running.closed(*role, key, now));
        }
    }
}

/// A stream with what has to live as long as it.
pub(crate) struct Guarded<S, G> {
    stream: S,
    _guard: G,
}

impl<S, G> Guarded<S, G> {
    pub(crate) fn new(stream: S, guard: G) -> Self {
        Self {
            stream,
            _guard: guard,
        }
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for Guarded<S, G> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Guarded<S, G> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
