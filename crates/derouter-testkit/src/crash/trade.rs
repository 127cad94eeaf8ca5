//! The two modules of a run, in this process, over the RPC of both nodes: a service that sells and a
//! client that buys, and what each of them was told.
//!
//! The client does what any module has to: whatever happens to a job, it asks the provider for the
//! outcome until it has an answer, and signs it or gives the job up.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use derouter_sdk::{
    CompleteJobError, ConnectionRefusal, ConsumerCompletion, FailJobError, FailureReason, JobId,
    JobKey, JobRefusal, JobStream, Node, NodeError, OfferFilter, OfferId, OfferSnapshot, OfferSpec,
    ProtocolId, ProvideError, ProvideOptions, ProviderCompleteError, ProviderCompletion,
    ProviderDesk, ProviderJob, ProviderService, Provision, RemoteJob, TcpNode, UnixSeconds, Wei,
    async_trait,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::sleep;

use crate::wait::eventually;

/// The protocol of the offer.
const PROTOCOL: &str = "derouter-crash/1";

/// What a chunk costs, in wei.
const CHUNK_WEI: u128 = 1_000_000_007;

/// How often a client asks again for the outcome of a job.
const ASK_AGAIN: Duration = Duration::from_millis(150);

/// How long a client keeps a job open whose provider says that it is not done: the service was cut off
/// from it, and will fail it or has forgotten it.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a job is to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Course {
    /// Served and paid.
    Paid,
    /// The client gives it up after the first chunk.
    GivenUp,
    /// The service fails it after the first chunk.
    FailedByService,
    /// The service does not take it.
    Refused,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What it is to go through.
    pub course: Course,
    /// Pieces of the answer.
    pub chunks: u64,
    /// The pause before each.
    pub pace_ms: u64,
}

/// What the service says last on a pipe.
#[derive(Debug, Serialize, Deserialize)]
struct Bill {
    completed_at: UnixSeconds,
    balance: Wei,
    public_payload: String,
}

/// What the modules were told by their nodes: each of it must still be so afterwards.
#[derive(Debug, Default)]
pub struct Told {
    /// The client: its signature is stored.
    pub signed: Mutex<HashSet<JobId>>,
    /// The service: its outcome is stored.
    pub completed: Mutex<HashSet<JobId>>,
    /// The client: it is given up.
    pub given_up: Mutex<HashSet<JobId>>,
    /// The client: its signature is with the provider.
    pub confirmed: Mutex<HashSet<JobId>>,
    /// The service: the signature is here. Whether the consumer knows that is another matter.
    pub received: Mutex<HashSet<JobId>>,
    /// Jobs that were created.
    pub created: AtomicU64,
}

/// Notes a job.
pub fn note(set: &Mutex<HashSet<JobId>>, key: &JobKey) {
    let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
    set.insert(key.job_id.clone());
}

/// Those noted.
pub fn noted(set: &Mutex<HashSet<JobId>>) -> HashSet<JobId> {
    set.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The service.
#[derive(Debug)]
pub struct Service {
    orders: Mutex<HashMap<JobKey, Order>>,
    told: Arc<Told>,
}

#[async_trait]
impl ProviderService for Service {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        let args = job.job_args.unwrap_or_default();
        let order: Order = serde_json::from_str(&args)
            .map_err(|error| JobRefusal::InvalidJobArgs(error.to_string()))?;
        if order.course == Course::Refused {
            return Err(JobRefusal::InvalidJobArgs("as was asked for".into()));
        }
        self.orders.lock().unwrap().insert(job.key, order);
        Ok(())
    }

    async fn prepare(&self, job: &JobKey) -> Result<(), ConnectionRefusal> {
        let known = self.orders.lock().unwrap().contains_key(job);
        known.then_some(()).ok_or(ConnectionRefusal::JobNotFound)
    }

    async fn serve(&self, job: JobKey, desk: Arc<dyn ProviderDesk>, stream: JobStream) {
        let order = self.orders.lock().unwrap().get(&job).copied();
        let Some(order) = order else { return };
        let served = serve(&self.told, &job, order, desk.as_ref(), stream).await;
        if served.is_err() {
            // The pipe is gone, or the service was told to fail. A completed job stays completed.
            let _ = desk.fail(&job, reason("the service gave up")).await;
        }
    }
}

fn reason(text: &str) -> FailureReason {
    FailureReason {
        reason: text.into(),
        reason_class: None,
    }
}

/// An error ends the job.
async fn serve(
    told: &Told,
    job: &JobKey,
    order: Order,
    desk: &dyn ProviderDesk,
    mut stream: JobStream,
) -> Result<(), ()> {
    for chunk in 0..order.chunks {
        sleep(Duration::from_millis(order.pace_ms)).await;
        let line = format!("chunk {chunk}\n");
        stream.write_all(line.as_bytes()).await.map_err(|_| ())?;
        stream.flush().await.map_err(|_| ())?;
        if order.course == Course::FailedByService {
            return Err(());
        }
    }
    let balance = Wei::from_wei(u128::from(order.chunks).saturating_mul(CHUNK_WEI));
    let public_payload = format!("{{\"job\":\"{}\"}}", job.job_id.as_str());
    let completion = ProviderCompletion {
        balance_delta: Some(balance),
        public_payload: public_payload.clone(),
        private_payload: None,
    };
    let completed_at = match desk.complete(job, completion).await {
        Ok(at) => at,
        Err(ProviderCompleteError::AlreadyCompleted { completed_at_sync }) => completed_at_sync,
        Err(_) => return Err(()),
    };
    note(&told.completed, job);
    let bill = Bill {
        completed_at,
        balance,
        public_payload,
    };
    let line = format!("{}\n", serde_json::to_string(&bill).map_err(|_| ())?);
    // The job is done: from here on the pipe is all that can break.
    let _ = stream.write_all(line.as_bytes()).await;
    let _ = stream.shutdown().await;
    Ok(())
}

/// Puts the offer on the market, and keeps it there for as long as the result lives.
pub async fn provide(node: &TcpNode, told: &Arc<Told>) -> Result<Provision, ProvideError> {
    let service = Arc::new(Service {
        orders: Mutex::default(),
        told: Arc::clone(told),
    });
    let offer = OfferSpec {
        protocol_id: ProtocolId::new(PROTOCOL).unwrap(),
        offer_id: OfferId::new("chunks").unwrap(),
        protocol_payload: "{\"price\":1}".into(),
    };
    let options = ProvideOptions::default();
    node.provide(vec![offer], options, service).await
}

/// Waits until the client's node has the offer.
pub async fn wait_offer(node: &TcpNode) -> OfferSnapshot {
    let filter = OfferFilter {
        protocol_ids: Some(vec![ProtocolId::new(PROTOCOL).unwrap()]),
        ..OfferFilter::default()
    };
    eventually("the offer at the consumer", async || {
        node.active_offers(&filter).await.ok()?.pop()
    })
    .await
}

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its node.
    pub node: TcpNode,
    /// What it was told.
    pub told: Arc<Told>,
}

impl Client {
    /// Buys once, to the end.
    pub async fn buy(&self, offer: &OfferSnapshot, order: Order) {
        let args = serde_json::to_string(&order).expect("an order is JSON");
        let created = self.node.create_job(offer.snapshot_id, Some(args)).await;
        // Without an answer there may be a row; whoever looks for open jobs finds it.
        let Ok(key) = created else { return };
        self.told.created.fetch_add(1, Ordering::Relaxed);
        let bill = match self.node.open_job(&key).await {
            Ok(stream) => self.read(&key, order, stream).await,
            Err(_) => None,
        };
        let done = match bill {
            Some(bill) => self.sign(&key, bill).await,
            None => false,
        };
        if !done {
            self.finish(&key).await;
        }
    }

    async fn read(
        &self,
        key: &JobKey,
        order: Order,
        stream: JobStream,
    ) -> Option<ConsumerCompletion> {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if order.course == Course::GivenUp {
                self.give_up(key).await;
                return None;
            }
            if let Ok(bill) = serde_json::from_str::<Bill>(&line) {
                return Some(ConsumerCompletion {
                    public_payload: bill.public_payload,
                    private_payload: None,
                    balance_delta: Some(bill.balance),
                    completed_at_sync: bill.completed_at,
                });
            }
        }
        None
    }

    /// False when it is not known whether the job is signed.
    async fn sign(&self, key: &JobKey, completion: ConsumerCompletion) -> bool {
        match self.node.complete_job(key, completion).await {
            Ok(()) => {
                note(&self.told.signed, key);
                true
            }
            Err(CompleteJobError::Node(_)) => false,
            Err(_) => true,
        }
    }

    /// False when it is not known whether the job is given up.
    async fn give_up(&self, key: &JobKey) -> bool {
        let failed = self.node.fail_job(key, reason("the client gave up")).await;
        if failed.is_ok() {
            note(&self.told.given_up, key);
        }
        !matches!(failed, Err(FailJobError::Node(_)))
    }

    /// Signs or gives up a job, whatever became of it; until either node answers.
    pub async fn finish(&self, key: &JobKey) {
        let begin = tokio::time::Instant::now();
        loop {
            let done = match self.node.remote_job(key).await {
                Ok(job) => match completion(job) {
                    Some(completion) => self.sign(key, completion).await,
                    None if begin.elapsed() > PATIENCE => self.give_up(key).await,
                    None => false,
                },
                Err(derouter_sdk::RemoteJobError::JobNotFound) => self.give_up(key).await,
                Err(_) => false,
            };
            if done {
                return;
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// Notes which jobs a node says are signed for good.
    pub async fn note_confirmed(&self, of: &Mutex<HashSet<JobId>>) {
        for job in crate::ledger::jobs_or_none(&self.node).await {
            if job.signature_confirmed_at_local.is_some() {
                let key = JobKey {
                    provider: job.provider_peer_id,
                    job_id: job.provider_job_id,
                };
                note(of, &key);
            }
        }
    }

    /// The jobs that this node has open as a consumer; an error when it does not answer.
    pub async fn open(&self) -> Result<Vec<JobKey>, NodeError> {
        let jobs = crate::ledger::try_jobs(&self.node).await?;
        let open = jobs
            .into_iter()
            .filter(|job| job.completed_at_local.is_none() && job.reason.is_none());
        let key = |job: derouter_sdk::JobRecord| JobKey {
            provider: job.provider_peer_id,
            job_id: job.provider_job_id,
        };
        Ok(open.map(key).collect())
    }
}

fn completion(job: RemoteJob) -> Option<ConsumerCompletion> {
    Some(ConsumerCompletion {
        public_payload: job.public_payload?,
        private_payload: None,
        balance_delta: job.balance_delta,
        completed_at_sync: job.completed_at_sync?,
    })
}
