//! A module as the service behind its offers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use derouter_sdk::tcp::link::{CallError, Caller};
use derouter_sdk::{
    ConnectionRefusal, JobKey, JobRefusal, JobStream, ProviderDesk, ProviderJob, ProviderService,
    async_trait,
};
use derouter_wire::rpc::Call;
use derouter_wire::rpc::event::{
    PrepareJobConnectionReply, ProviderCreateJob, ProviderCreateJobReply,
    ProviderOpenJobConnection, ProviderPrepareJobConnection,
};
use tokio::time::Instant;

use super::job_connections::JobConnections;

/// A module's time to answer. The asking peer gives up after 10 s, and must hear Busy before.
const ANSWER_WAIT: Duration = Duration::from_secs(8);

/// Connections that a module prepared and that were not served yet. The node serves a prepared
/// connection at once, so a full table means a broken consumer.
const MAX_PREPARED: usize = 1024;

/// How long a prepared connection is remembered.
const PREPARED_FOR: Duration = Duration::from_secs(60);

/// Asks the module behind an RPC connection.
pub(super) struct ModuleService {
    caller: Caller,
    job_connections: Arc<JobConnections>,
    prepared: Mutex<Prepared>,
}

/// Nonces of prepared connections, oldest first.
#[derive(Default)]
struct Prepared {
    nonces: HashMap<JobKey, VecDeque<(Instant, String)>>,
    count: usize,
}

impl Prepared {
    fn put(&mut self, now: Instant, job: JobKey, nonce: String) -> bool {
        if self.count >= MAX_PREPARED {
            self.expire(now);
        }
        if self.count >= MAX_PREPARED {
            return false;
        }
        self.nonces.entry(job).or_default().push_back((now, nonce));
        self.count += 1;
        true
    }

    fn take(&mut self, job: &JobKey) -> Option<String> {
        let waiting = self.nonces.get_mut(job)?;
        let nonce = waiting.pop_front();
        if waiting.is_empty() {
            self.nonces.remove(job);
        }
        self.count -= usize::from(nonce.is_some());
        nonce.map(|(_, nonce)| nonce)
    }

    fn expire(&mut self, now: Instant) {
        self.nonces.retain(|_, waiting| {
            waiting.retain(|(since, _)| now.duration_since(*since) < PREPARED_FOR);
            !waiting.is_empty()
        });
        self.count = self.nonces.values().map(VecDeque::len).sum();
    }
}

impl ModuleService {
    pub(super) fn new(caller: Caller, job_connections: Arc<JobConnections>) -> Self {
        Self {
            caller,
            job_connections,
            prepared: Mutex::default(),
        }
    }

    fn prepared(&self) -> MutexGuard<'_, Prepared> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_silence(job: &JobKey, what: &'static str, error: &CallError) {
    tracing::warn!(%job, what, %error, "a provider module gives no answer");
}

#[async_trait]
impl ProviderService for ModuleService {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        let request = ProviderCreateJob {
            provider_peer_id: job.key.provider,
            protocol_id: job.protocol_id,
            offer_id: job.offer_id,
            provider_job_id: job.key.job_id.clone(),
            created_at_sync: job.created_at_sync,
            job_args: job.job_args,
            // 0.1 had no such field.
            consumer_peer_id: job.consumer.filter(|_| self.job_connections.is_0_2()),
        };
        match self.caller.call(&request, ANSWER_WAIT).await {
            Ok(ProviderCreateJobReply::Ok) => Ok(()),
            Ok(ProviderCreateJobReply::Busy) => Err(JobRefusal::Busy),
            Ok(ProviderCreateJobReply::InvalidJobArgs(reason)) => {
                Err(JobRefusal::InvalidJobArgs(reason))
            }
            Err(error) => {
                log_silence(&job.key, ProviderCreateJob::TYPE, &error);
                Err(JobRefusal::Busy)
            }
        }
    }

    async fn prepare(&self, job: &JobKey) -> Result<(), ConnectionRefusal> {
        let request = ProviderPrepareJobConnection {
            provider_peer_id: job.provider,
            provider_job_id: job.job_id.clone(),
        };
        let nonce = match self.caller.call(&request, ANSWER_WAIT).await {
            Ok(PrepareJobConnectionReply::Ok(nonce)) => nonce,
            Ok(PrepareJobConnectionReply::JobNotFound) => {
                return Err(ConnectionRefusal::JobNotFound);
            }
            Ok(PrepareJobConnectionReply::Busy) => return Err(ConnectionRefusal::Busy),
            Err(error) => {
                log_silence(job, ProviderPrepareJobConnection::TYPE, &error);
                return Err(ConnectionRefusal::Busy);
            }
        };
        if self.prepared().put(Instant::now(), job.clone(), nonce) {
            Ok(())
        } else {
            Err(ConnectionRefusal::Busy)
        }
    }

    async fn serve(&self, job: JobKey, _desk: Arc<dyn ProviderDesk>, stream: JobStream) {
        let Some(nonce) = self.prepared().take(&job) else {
            tracing::warn!(%job, "a job connection that no module prepared");
            return;
        };
        let Some(opened) = self.job_connections.open(job.clone(), stream) else {
            tracing::warn!(%job, "a module leaves too many job connections unclaimed");
            return;
        };
        let request = ProviderOpenJobConnection {
            connection_id: opened.ticket,
            nonce,
        };
        // The module opens its stream whether or not its acknowledgement comes in time.
        if let Err(error) = self.caller.call(&request, ANSWER_WAIT).await {
            log_silence(&job, ProviderOpenJobConnection::TYPE, &error);
        }
        opened.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use derouter_sdk::JobId;

    use super::*;

    fn job(name: &str) -> JobKey {
        let text = "12D3KooWSrKnMZUcSxK8G7wmBbXdU8nFEfWGhLu6H8xjn8LmCSJb";
        JobKey {
            provider: text.parse().unwrap(),
            job_id: JobId::new(name).unwrap(),
        }
    }

    #[tokio::test]
    async fn nonces_of_a_job_are_used_once_and_in_order() {
        let (mut prepared, now) = (Prepared::default(), Instant::now());
        assert!(prepared.put(now, job("a"), "1".into()));
        assert!(prepared.put(now, job("a"), "2".into()));
        assert_eq!(prepared.take(&job("a")).as_deref(), Some("1"));
        assert_eq!(prepared.take(&job("a")).as_deref(), Some("2"));
        assert_eq!(prepared.take(&job("a")), None);
        assert_eq!(prepared.count, 0);
    }

    #[tokio::test]
    async fn forgotten_nonces_make_room_after_a_minute() {
        let (mut prepared, now) = (Prepared::default(), Instant::now());
        for index in 0..MAX_PREPARED {
            assert!(prepared.put(now, job(&index.to_string()), "n".into()));
        }
        assert!(!prepared.put(now + PREPARED_FOR / 2, job("more"), "n".into()));
        assert!(prepared.put(now + PREPARED_FOR, job("more"), "n".into()));
        assert_eq!(prepared.count, 1);
    }
}
