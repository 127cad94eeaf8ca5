//! Real nodes with directories of their own, and a service that echoes.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use derouter_node::{Multiaddr, NetOptions, NodeConfig, ProviderDetails, RunningNode};
use derouter_sdk::{
    ConnectionRefusal, JobKey, JobQuery, JobRecord, JobRefusal, JobStream, Node, OfferEvent,
    OfferFilter, OfferId, OfferSnapshot, OfferSpec, ProtocolId, ProviderCompletion, ProviderDesk,
    ProviderJob, ProviderService, Wei, async_trait,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The longest any step of a test takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub const PROTOCOL: &str = "echo:1";

pub fn config(dir: &Path, bootstrap: Vec<Multiaddr>) -> NodeConfig {
    NodeConfig {
        keypair_path: dir.join("keypair.bin"),
        database_path: dir.join("derouter.sqlite"),
        legacy_database_path: None,
        net: NetOptions {
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            bootstrap,
            ..NetOptions::default()
        },
        provider: ProviderDetails {
            name: Some("tester".into()),
            ..ProviderDetails::default()
        },
        rpc: Some(derouter_node::RpcOptions::default()),
        store_payloads: false,
        retention: derouter_node::PayloadRetention::default(),
    }
}

/// A provider node and a consumer node that dials it.
pub struct Pair {
    pub provider: RunningNode,
    pub consumer: RunningNode,
    pub provider_dir: TempDir,
    pub consumer_dir: TempDir,
}

/// Shows logs of a test when RUST_LOG is set.
pub fn show_logs() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_test_writer()
        .try_init();
}

impl Pair {
    pub async fn start() -> Self {
        show_logs();
        let (provider_dir, consumer_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let provider = derouter_node::start(config(provider_dir.path(), Vec::new()))
            .await
            .unwrap();
        let address = provider.listen_addresses().await.remove(0);
        let consumer = config(consumer_dir.path(), vec![address]);
        let consumer = derouter_node::start(consumer).await.unwrap();
        Self {
            provider,
            consumer,
            provider_dir,
            consumer_dir,
        }
    }

    pub async fn shutdown(self) {
        self.consumer.shutdown().await;
        self.provider.shutdown().await;
    }
}

/// Waits for something, with a deadline that names it.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(DEADLINE, future).await;
    waited.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

pub fn offer(name: &str, payload: &str) -> OfferSpec {
    OfferSpec {
        protocol_id: ProtocolId::new(PROTOCOL).unwrap(),
        offer_id: OfferId::new(name).unwrap(),
        protocol_payload: payload.into(),
    }
}

/// Waits until a node sees an offer of that name on the market.
pub async fn see_offer(node: &Arc<dyn Node>, name: &str) -> OfferSnapshot {
    let mut watch = node.watch_offers(OfferFilter::default()).await.unwrap();
    let wanted = |offer: &OfferSnapshot| offer.offer_id.as_str() == name;
    within("the offer on the market", async {
        loop {
            match watch.next().await.expect("the watch goes on") {
                OfferEvent::Reset(offers) => {
                    if let Some(offer) = offers.into_iter().find(wanted) {
                        return offer;
                    }
                }
                OfferEvent::Updated(offer) if wanted(&offer) => return offer,
                _ => {}
            }
        }
    })
    .await
}

/// Waits until a node no longer sees the offer.
pub async fn see_offer_gone(node: &Arc<dyn Node>, name: &str) {
    let mut watch = node.watch_offers(OfferFilter::default()).await.unwrap();
    within("the offer off the market", async {
        loop {
            match watch.next().await.expect("the watch goes on") {
                OfferEvent::Reset(offers)
                    if offers.iter().all(|offer| offer.offer_id.as_str() != name) =>
                {
                    return;
                }
                OfferEvent::Removed(gone) if gone.offer_id.as_str() == name => return,
                _ => {}
            }
        }
    })
    .await;
}

/// All jobs of a node.
pub async fn jobs(node: &Arc<dyn Node>) -> Vec<JobRecord> {
    node.jobs(&JobQuery {
        limit: 100,
        ..JobQuery::default()
    })
    .await
    .unwrap()
}

/// Waits until a job of the node satisfies `done`.
pub async fn see_job(
    node: &Arc<dyn Node>,
    what: &str,
    done: impl Fn(&JobRecord) -> bool,
) -> JobRecord {
    let mut watch = node.watch_jobs(Default::default()).await.unwrap();
    within(what, async {
        loop {
            if let Some(job) = jobs(node).await.into_iter().find(&done) {
                return job;
            }
            watch.next().await.expect("the watch goes on");
        }
    })
    .await
}

/// Echoes what comes until the other side closes its direction, then completes the job for the
/// price and writes the time as 8 bytes.
pub struct Echo {
    pub price: Option<Wei>,
    pub accepted: AtomicUsize,
}

impl Echo {
    pub fn new(price: Option<u128>) -> Arc<Self> {
        Arc::new(Self {
            price: price.map(Wei::from_wei),
            accepted: AtomicUsize::new(0),
        })
    }
}

#[async_trait]
impl ProviderService for Echo {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        match job.job_args.as_deref() {
            Some("busy") => return Err(JobRefusal::Busy),
            Some("bad") => return Err(JobRefusal::InvalidJobArgs("bad args".into())),
            Some("never") => std::future::pending().await,
            Some("slow") => tokio::time::sleep(Duration::from_secs(1)).await,
            _ => {}
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn prepare(&self, _job: &JobKey) -> Result<(), ConnectionRefusal> {
        Ok(())
    }

    async fn serve(&self, job: JobKey, desk: Arc<dyn ProviderDesk>, mut stream: JobStream) {
        let mut bytes = Vec::new();
        if stream.read_to_end(&mut bytes).await.is_err() {
            return;
        }
        stream.write_all(&bytes).await.unwrap();
        let completion = ProviderCompletion {
            balance_delta: self.price,
            public_payload: format!("{{\"bytes\":{}}}", bytes.len()),
            private_payload: None,
        };
        let at = desk.complete(&job, completion).await.unwrap();
        stream.write_all(&at.0.to_be_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}
