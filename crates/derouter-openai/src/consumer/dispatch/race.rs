//! Two providers at once: the second one when the first takes longer than it usually does.
//!
//! Both worst cases are set aside before the second is asked. The one whose answer begins first is passed on.
//! The other is told to stop, and is paid for what it had sent, as if its client had left.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Dispatch, Tried};
use crate::consumer::attempt::{Attempt, Begun, Failure};
use crate::consumer::gateway::count;
use crate::consumer::hedge;
use crate::consumer::offers::Offer;

/// Offers that are looked at for a second one.
const MOST_LOOKED_AT: usize = 4;

/// An attempt in a task of its own. Dropped, its provider is told to stop.
struct Running {
    offer: Arc<Offer>,
    since: Instant,
    told: oneshot::Receiver<Result<Begun, Failure>>,
    lost: Option<DropGuard>,
}

impl Running {
    fn start(attempt: Attempt) -> Self {
        let lost = CancellationToken::new();
        let attempt = Attempt {
            lost: lost.clone(),
            ..attempt
        };
        let offer = Arc::clone(&attempt.offer);
        let gateway = Arc::clone(&attempt.gateway);
        let (tell, told) = oneshot::channel();
        let guard = lost.clone().drop_guard();
        // Offers of 0.1 have no word for it: their jobs are given up.
        let patience = match offer.of_0_1 {
            Some(_) => Duration::ZERO,
            None => gateway.config.deadlines.epilogue,
        };
        gateway.tasks.spawn(async move {
            let given_up = async {
                lost.cancelled().await;
                tokio::time::sleep(patience).await;
            };
            tokio::select! {
                result = attempt.run() => if let Err(Ok(begun)) = tell.send(result) {
                    begun.lost();
                },
                () = given_up => {}
            }
        });
        Self {
            offer,
            since: Instant::now(),
            told,
            lost: Some(guard),
        }
    }

    /// How it went. Cancel safe.
    async fn wait(&mut self) -> Result<Begun, Failure> {
        let told = (&mut self.told).await;
        if let Some(guard) = self.lost.take() {
            guard.disarm();
        }
        told.unwrap_or_else(|_| Err(Failure::Local("the task of an attempt ended".into())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.told.close();
        // It may have begun in this very moment.
        if let Ok(Ok(begun)) = self.told.try_recv() {
            begun.lost();
        }
    }
}

impl Dispatch {
    /// After how long another provider is asked besides this one; `None`: not before it failed.
    pub(super) fn hedges_after(&self, offer: &Offer, others: bool) -> Option<Duration> {
        if !self.asked.stream || !others {
            return None;
        }
        let configured = self.gateway.config.routing.hedge;
        let percentile = hedge::percentile(configured, self.asked.preferences.hedge)?;
        self.gateway.hedging().earn();
        self.gateway.slow_first_token(offer, percentile)
    }

    /// Runs an attempt, and another one beside it when it takes longer than that. Fails with the failure of
    /// the first; that of the second is noted.
    pub(super) async fn race(
        &self,
        attempt: Attempt,
        after: Duration,
        others: &[Arc<Offer>],
        tried: &mut Tried,
    ) -> Result<Begun, Failure> {
        let mut first = Running::start(attempt);
        if let Ok(result) = timeout(after, first.wait()).await {
            return self.conclude(&first.offer, result);
        }
        let Some(mut second) = self.second(&first.offer, others, tried).await else {
            let result = first.wait().await;
            return self.conclude(&first.offer, result);
        };
        count(&self.gateway.counters.hedges);
        tried.hedged = Some(second.offer.snapshot_id);
        tracing::info!(
            first = %first.offer.provider, second = %second.offer.provider,
            model = self.asked.model, after_ms = after.as_millis(), "a second provider is asked"
        );
        tokio::select! {
            biased;
            result = first.wait() => match self.conclude(&first.offer, result) {
                Ok(begun) => Ok(begun),
                Err(failure) => {
                    let result = second.wait().await;
                    let result = self.conclude(&second.offer, result);
                    result.map_err(|other| {
                        tried.note(second.offer.provider, other);
                        failure
                    })
                }
            },
            result = second.wait() => match self.conclude(&second.offer, result) {
                Ok(begun) => {
                    count(&self.gateway.counters.hedges_won);
                    // It took so long at least.
                    self.gateway.first_token(&first.offer, first.since.elapsed());
                    Ok(begun)
                }
                Err(failure) => {
                    tried.note(second.offer.provider, failure);
                    let result = first.wait().await;
                    self.conclude(&first.offer, result)
                }
            },
        }
    }

    /// The second attempt, if somebody else can be asked within the limits.
    async fn second(&self, first: &Offer, others: &[Arc<Offer>], tried: &Tried) -> Option<Running> {
        let fits = |offer: &&Arc<Offer>| {
            offer.provider != first.provider && tried.may_try(&offer.provider)
        };
        for offer in others.iter().filter(fits).take(MOST_LOOKED_AT) {
            let Ok(reservation) = self.reserve(offer, false).await else {
                continue;
            };
            if !self.gateway.hedging().take() {
                return None;
            }
            let which = tried.failures.len().saturating_add(2);
            let attempt = self.prepare(offer, reservation, self.deadline, which);
            return Some(Running::start(attempt));
        }
        None
    }
}
