//! A market of one node: puts a provider on it and buys from it, without any network.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use derouter_openai::frames::{ReadValueError, read_value};
use derouter_openai::protocol::{Epilogue, Prologue, protocol_id};
use derouter_openai::provider::{
    self, BackendCheck, BackendConfig, BackendOptions, Limits, OfferConfig, OfferTerms,
    ProviderConfig,
};
use derouter_openai::provider::{RunningProvider, Secret};
use derouter_sdk::node::ConsumerCompletion;
use derouter_sdk::{
    CompleteJobError, ConnectionRefusal, CreateJobError, FailJobError, FailureReason, JobEvent,
    JobFilter, JobId, JobKey, JobQuery, JobRecord, JobRefusal, JobStream, Node, NodeDesk,
    NodeError, OfferEvent, OfferFilter, OfferId, OfferSnapshot, OfferSpec, OpenJobError, PeerId,
    ProvideError, ProvideOptions, ProviderCompleteError, ProviderCompletion, ProviderEvent,
    ProviderJob, ProviderRecord, ProviderService, Provision, RemoteJob, RemoteJobError, SnapshotId,
    UnixSeconds, Watch, Wei, async_trait,
};
use derouter_testkit::{Backend, eventually};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::io::DuplexStream;

/// When every job of the tests is completed.
pub(crate) const COMPLETED_AT: UnixSeconds = UnixSeconds(1_750_000_005);

/// The model of the offer.
pub(crate) const MODEL: &str = "test-model";

/// How a job ended on the node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Completed(ProviderCompletion),
    Failed(FailureReason),
}

/// A node that keeps one provision and the ends of its jobs.
#[derive(Default)]
pub(crate) struct TestNode {
    offered: Mutex<BTreeMap<OfferId, Offered>>,
    /// What was provided, also when it was taken back.
    services: Mutex<HashMap<OfferId, Weak<dyn ProviderService>>>,
    /// How often an offer was put on the market.
    provided: AtomicUsize,
    /// In so many calls.
    calls: AtomicUsize,
    /// What the node knows of earlier jobs.
    records: Mutex<Vec<JobRecord>>,
    outcomes: Mutex<HashMap<JobId, Outcome>>,
    /// How many more calls fail as if the node could not be reached.
    unreachable: Mutex<u32>,
    /// Who asks for the next jobs.
    consumer: Mutex<Option<PeerId>>,
}

struct Offered {
    offer: OfferSpec,
    options: ProvideOptions,
    service: Arc<dyn ProviderService>,
}

struct TakesBack(Arc<TestNode>, Vec<OfferId>);

impl Drop for TakesBack {
    fn drop(&mut self) {
        let mut offered = self.0.offered.lock().unwrap();
        offered.retain(|offer_id, _| !self.1.contains(offer_id));
    }
}

/// The node as the provider module sees it.
pub(crate) struct Handle(pub(crate) Arc<TestNode>);

impl TestNode {
    fn reach(&self) -> Result<(), NodeError> {
        let mut unreachable = self.unreachable.lock().unwrap();
        if *unreachable == 0 {
            return Ok(());
        }
        *unreachable -= 1;
        Err(NodeError::Unreachable("the test says so".to_owned()))
    }
}

fn not_here<T, E: From<NodeError>>() -> Result<T, E> {
    Err(NodeError::Internal("a provider does not need this".to_owned()).into())
}

#[async_trait]
impl Node for Handle {
    async fn provide(
        &self,
        offers: Vec<OfferSpec>,
        options: ProvideOptions,
        service: Arc<dyn ProviderService>,
    ) -> Result<Provision, ProvideError> {
        let mut offered = self.0.offered.lock().unwrap();
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        // The same service serves the same offer of `openai:0.2`.
        let of_0_1 = offers
            .into_iter()
            .filter(|offer| offer.protocol_id == protocol_id());
        let offers: Vec<OfferSpec> = of_0_1.collect();
        let ids: Vec<OfferId> = offers.iter().map(|offer| offer.offer_id.clone()).collect();
        for offer in offers {
            let id = offer.offer_id.clone();
            assert!(!offered.contains_key(&id), "{id} is there already");
            self.0.provided.fetch_add(1, Ordering::Relaxed);
            let weak = Arc::downgrade(&service);
            self.0.services.lock().unwrap().insert(id.clone(), weak);
            offered.insert(
                id,
                Offered {
                    offer,
                    options: options.clone(),
                    service: Arc::clone(&service),
                },
            );
        }
        Ok(Provision::new(TakesBack(Arc::clone(&self.0), ids)))
    }

    async fn provider_complete_job(
        &self,
        job: &JobKey,
        completion: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        self.0.reach()?;
        let mut outcomes = self.0.outcomes.lock().unwrap();
        assert!(!outcomes.contains_key(&job.job_id), "a job ends once");
        outcomes.insert(job.job_id.clone(), Outcome::Completed(completion));
        Ok(COMPLETED_AT)
    }

    async fn provider_fail_job(
        &self,
        job: &JobKey,
        failure: FailureReason,
    ) -> Result<(), FailJobError> {
        self.0.reach()?;
        let mut outcomes = self.0.outcomes.lock().unwrap();
        assert!(!outcomes.contains_key(&job.job_id), "a job ends once");
        outcomes.insert(job.job_id.clone(), Outcome::Failed(failure));
        Ok(())
    }

    async fn peer_id(&self) -> Result<PeerId, NodeError> {
        not_here()
    }
    async fn active_offers(&self, _: &OfferFilter) -> Result<Vec<OfferSnapshot>, NodeError> {
        not_here()
    }
    async fn active_providers(&self) -> Result<Vec<PeerId>, NodeError> {
        not_here()
    }
    async fn offer_snapshots(&self, _: &[SnapshotId]) -> Result<Vec<OfferSnapshot>, NodeError> {
        not_here()
    }
    async fn providers(&self, _: &[PeerId]) -> Result<Vec<ProviderRecord>, NodeError> {
        not_here()
    }
    async fn jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, NodeError> {
        let records = self.0.records.lock().unwrap();
        let consumers = query.filter.consumer_peer_ids.as_ref().unwrap();
        let fits = |job: &&JobRecord| consumers.contains(&job.consumer_peer_id);
        Ok(records.iter().filter(fits).cloned().collect())
    }
    async fn watch_offers(&self, _: OfferFilter) -> Result<Watch<OfferEvent>, NodeError> {
        not_here()
    }
    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError> {
        not_here()
    }
    async fn watch_jobs(&self, _: JobFilter) -> Result<Watch<JobEvent>, NodeError> {
        not_here()
    }
    async fn create_job(&self, _: SnapshotId, _: Option<String>) -> Result<JobKey, CreateJobError> {
        not_here()
    }
    async fn open_job(&self, _: &JobKey) -> Result<JobStream, OpenJobError> {
        not_here()
    }
    async fn remote_job(&self, _: &JobKey) -> Result<RemoteJob, RemoteJobError> {
        not_here()
    }
    async fn complete_job(
        &self,
        _: &JobKey,
        _: ConsumerCompletion,
    ) -> Result<(), CompleteJobError> {
        not_here()
    }
    async fn fail_job(&self, _: &JobKey, _: FailureReason) -> Result<(), FailJobError> {
        not_here()
    }
}

/// A provider in front of a backend, and the consumer's side of its jobs.
pub(crate) struct Market {
    pub(crate) node: Arc<TestNode>,
    pub(crate) backend: Backend,
    pub(crate) provider: RunningProvider,
}

/// A price of 10 POL for the prompt and 5 for the answer.
pub(crate) fn offer() -> OfferConfig {
    OfferConfig {
        model_id: MODEL.to_owned(),
        context_size: 8_192,
        description: None,
        input_token_price: Wei::from_pol_text("10").unwrap(),
        output_token_price: Wei::from_pol_text("5").unwrap(),
        max_concurrency: None,
        backend_model: None,
        terms: OfferTerms::default(),
    }
}

pub(crate) fn config(base_url: String, offer: OfferConfig) -> ProviderConfig {
    ProviderConfig {
        backends: vec![BackendConfig {
            base_url,
            api_key: Some(Secret::new("sk-ours")),
            offers: BTreeMap::from([("offer".to_owned(), offer)]),
            options: BackendOptions::default(),
        }],
        max_unsigned: Some(Wei::from_wei(7)),
        store_payloads: false,
        ..ProviderConfig::default()
    }
}

impl Market {
    pub(crate) async fn open() -> Self {
        Self::open_with(offer(), Limits::default()).await
    }

    pub(crate) async fn open_with(offer: OfferConfig, limits: Limits) -> Self {
        let backend = Backend::start().await;
        let mut config = config(backend.url(), offer);
        config.limits = limits;
        Self::open_at(backend, config).await
    }

    /// A provider in front of a backend that says what the test made up.
    pub(crate) async fn open_before(raw: &RawBackend, limits: Limits) -> Self {
        let mut config = config(raw.url.clone(), offer());
        config.backends[0].options.check = BackendCheck::Off;
        config.limits = limits;
        Self::open_at(Backend::start().await, config).await
    }

    pub(crate) async fn open_at(backend: Backend, config: ProviderConfig) -> Self {
        let node = Arc::new(TestNode::default());
        let handle = Arc::new(Handle(Arc::clone(&node)));
        let provider = provider::start(handle, config).await.unwrap();
        Self {
            node,
            backend,
            provider,
        }
    }

    /// What is on offer now.
    pub(crate) fn offers(&self) -> Option<(Vec<OfferSpec>, ProvideOptions)> {
        let offered = self.node.offered.lock().unwrap();
        let options = offered.values().next()?.options.clone();
        let offers = offered.values().map(|offered| offered.offer.clone());
        Some((offers.collect(), options))
    }

    /// The ids of what is on offer now.
    pub(crate) fn offer_ids(&self) -> Vec<String> {
        let offered = self.node.offered.lock().unwrap();
        offered.keys().map(ToString::to_string).collect()
    }

    /// How often an offer was put on the market.
    pub(crate) fn times_provided(&self) -> usize {
        self.node.provided.load(Ordering::Relaxed)
    }

    /// In how many calls offers were put on the market.
    pub(crate) fn calls(&self) -> usize {
        self.node.calls.load(Ordering::Relaxed)
    }

    /// Waits until these are on offer, and no others.
    pub(crate) async fn wait_offers(&self, ids: &[&str]) {
        let look = async || (self.offer_ids() == ids).then_some(());
        eventually(&format!("{ids:?} on offer"), look).await;
    }

    /// What the node remembers of earlier jobs.
    pub(crate) fn remember(&self, job: JobRecord) {
        self.node.records.lock().unwrap().push(job);
    }

    /// From now on this consumer asks.
    pub(crate) fn ask_as(&self, consumer: Option<PeerId>) {
        *self.node.consumer.lock().unwrap() = consumer;
    }

    /// The next calls to the node fail.
    pub(crate) fn make_unreachable(&self, calls: u32) {
        *self.node.unreachable.lock().unwrap() = calls;
    }

    fn service(&self, offer_id: &OfferId) -> Arc<dyn ProviderService> {
        let offered = self.node.offered.lock().unwrap();
        Arc::clone(&offered.get(offer_id).expect("on offer").service)
    }

    /// Who serves jobs, also after the offers were taken back.
    fn any_service(&self) -> Arc<dyn ProviderService> {
        let services = self.node.services.lock().unwrap();
        let any = services.values().find_map(Weak::upgrade);
        any.expect("a service that lives")
    }

    /// Asks for a job.
    pub(crate) async fn create(&self, request: &Value) -> Result<JobKey, JobRefusal> {
        self.create_raw(Some(request.to_string())).await
    }

    pub(crate) async fn create_raw(&self, job_args: Option<String>) -> Result<JobKey, JobRefusal> {
        self.create_at("offer", job_args).await
    }

    /// Asks for a job at one of several offers.
    pub(crate) async fn create_at(
        &self,
        offer_id: &str,
        job_args: Option<String>,
    ) -> Result<JobKey, JobRefusal> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let key = JobKey {
            provider: PeerId::from_bytes(&[0, 2, 8, 1]).unwrap(),
            job_id: JobId::new(format!("job-{number}")).unwrap(),
        };
        let job = ProviderJob {
            key: key.clone(),
            protocol_id: protocol_id(),
            offer_id: OfferId::new(offer_id).unwrap(),
            created_at_sync: UnixSeconds(1_750_000_000),
            job_args,
            consumer: *self.node.consumer.lock().unwrap(),
        };
        let service = self.service(&job.offer_id);
        service.accept(job).await.map(|()| key)
    }

    /// Connects to a job.
    pub(crate) async fn connect(&self, key: &JobKey) -> Result<DuplexStream, ConnectionRefusal> {
        let service = self.any_service();
        service.prepare(key).await?;
        let (consumer, provider) = tokio::io::duplex(64 * 1024);
        let desk = Arc::new(NodeDesk(Arc::new(Handle(Arc::clone(&self.node)))));
        let key = key.clone();
        tokio::spawn(async move { service.serve(key, desk, Box::new(provider)).await });
        Ok(consumer)
    }

    /// Creates a job, connects to it and reads it to its end.
    pub(crate) async fn buy(&self, request: &Value) -> (JobKey, Bought) {
        let key = self.create(request).await.unwrap();
        let stream = self.connect(&key).await.unwrap();
        (key, read_all(stream).await)
    }

    /// Waits for a job's end on the node.
    pub(crate) async fn outcome(&self, key: &JobKey) -> Outcome {
        let look = async || self.node.outcomes.lock().unwrap().get(&key.job_id).cloned();
        eventually("the job's end", look).await
    }

    /// Waits for a job's completion.
    pub(crate) async fn completion(&self, key: &JobKey) -> ProviderCompletion {
        match self.outcome(key).await {
            Outcome::Completed(completion) => completion,
            Outcome::Failed(failure) => panic!("the job failed: {failure:?}"),
        }
    }

    /// Waits for a job's failure.
    pub(crate) async fn failure(&self, key: &JobKey) -> FailureReason {
        match self.outcome(key).await {
            Outcome::Failed(failure) => failure,
            Outcome::Completed(completion) => panic!("the job is completed: {completion:?}"),
        }
    }
}

/// A backend that answers every request with the same parts.
pub(crate) struct RawBackend {
    pub(crate) url: String,
    sent: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl RawBackend {
    pub(crate) async fn start(parts: Vec<String>) -> Self {
        let sent = Arc::new(AtomicUsize::new(0));
        let (count, parts) = (Arc::clone(&sent), Arc::new(parts));
        let answer = move || {
            let (count, parts) = (Arc::clone(&count), Arc::clone(&parts));
            let stream = futures::stream::iter(0..parts.len()).map(move |number| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(parts[number].clone())
            });
            async { axum::body::Body::from_stream(stream) }
        };
        let app = axum::Router::new().fallback(answer);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, sent, server }
    }

    /// How many parts left it.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// All values of a job stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bought {
    pub(crate) prologue: Prologue,
    pub(crate) values: Vec<Value>,
}

impl Bought {
    /// The message of a ServiceError.
    pub(crate) fn service_error(&self) -> &str {
        match &self.prologue {
            Prologue::ServiceError { message } => message.as_deref().unwrap(),
            Prologue::Ok => panic!("no service error but {self:?}"),
        }
    }

    /// The epilogue, if the stream ended with one.
    pub(crate) fn epilogue(&self) -> Option<Epilogue> {
        let last = self.values.last()?;
        serde_json::from_value(last.clone()).ok()
    }

    /// The values of the answer.
    pub(crate) fn answer(&self) -> &[Value] {
        assert!(self.epilogue().is_some(), "no epilogue: {self:?}");
        &self.values[..self.values.len() - 1]
    }
}

/// Reads a job stream to its end.
pub(crate) async fn read_all(mut stream: DuplexStream) -> Bought {
    let read = async {
        let prologue = read_value(&mut stream).await.unwrap();
        let mut values = Vec::new();
        loop {
            match read_value(&mut stream).await {
                Ok(value) => values.push(value),
                Err(ReadValueError::Ended) => return Bought { prologue, values },
                Err(error) => panic!("{error}"),
            }
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, read)
        .await
        .expect("the stream ends")
}

/// A chat request.
pub(crate) fn chat(stream: bool) -> Value {
    json!({
        "model": MODEL, "stream": stream,
        "messages": [{"role": "user", "content": "Say something"}],
    })
}

/// A chat request with which something goes wrong.
pub(crate) fn faulty(fault: &str, stream: bool) -> Value {
    let mut request = chat(stream);
    request["derouter_test"] = json!({ "fault": fault });
    request
}
