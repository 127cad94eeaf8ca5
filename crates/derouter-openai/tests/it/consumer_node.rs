//! A node whose providers do what a test says.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use derouter_openai::frames::Json;
use derouter_openai::protocol::{
    EPILOGUE_OBJECT, Epilogue, OfferPayload, Usage, protocol_id, protocol_ids, public_payload,
};
use derouter_sdk::wire::cbor;
use derouter_sdk::{
    CompleteJobError, ConsumerCompletion, CreateJobError, FailJobError, FailureReason, JobEvent,
    JobFilter, JobId, JobKey, JobQuery, JobRecord, JobStream, Node, NodeError, OfferEvent,
    OfferFilter, OfferId, OfferSnapshot, OfferSpec, OpenJobError, PeerId, ProvideError,
    ProvideOptions, ProviderCompleteError, ProviderCompletion, ProviderEvent, ProviderRecord,
    ProviderService, Provision, RemoteJob, RemoteJobError, SnapshotId, UnixSeconds, Watch,
    async_trait,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

/// Nothing in a test takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One thing that a provider does on a job stream.
#[derive(Clone)]
pub(crate) enum Step {
    Value(Value),
    Bytes(Vec<u8>),
    /// An epilogue for the request, which the function may spoil.
    Epilogue(fn(&mut Epilogue)),
    /// Waits until the test lets it go on.
    Gate(Arc<Notify>),
    /// Says nothing of use every few milliseconds, for ever.
    Chatter,
    /// Closes the stream.
    Close,
}

/// What a provider does with one job.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) create: Result<(), CreateJobError>,
    pub(crate) create_gate: Option<Arc<Notify>>,
    pub(crate) open: Result<(), OpenJobError>,
    pub(crate) steps: Vec<Step>,
    /// What it bills, and tells when asked for the job.
    pub(crate) usage: Usage,
    pub(crate) remote: bool,
}

pub(crate) const USAGE: Usage = Usage {
    prompt_tokens: 10,
    completion_tokens: 4,
};

pub(crate) fn prologue() -> Step {
    Step::Value(json!({"status": "Ok"}))
}

pub(crate) fn chunk(text: &str) -> Step {
    Step::Value(
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": null}]}),
    )
}

pub(crate) fn finish() -> Step {
    Step::Value(
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]}),
    )
}

pub(crate) fn usage_chunk(usage: Usage) -> Step {
    Step::Value(
        json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [], "usage": usage.to_json()}),
    )
}

pub(crate) fn honest() -> Step {
    Step::Epilogue(|_| {})
}

pub(crate) fn plain_answer(text: &str) -> Step {
    Step::Value(
        json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": USAGE.to_json()}),
    )
}

impl Script {
    pub(crate) fn of(steps: Vec<Step>) -> Self {
        Self {
            create: Ok(()),
            create_gate: None,
            open: Ok(()),
            steps,
            usage: USAGE,
            remote: false,
        }
    }

    pub(crate) fn streamed(texts: &[&str]) -> Self {
        let mut steps = vec![prologue()];
        steps.extend(texts.iter().map(|text| chunk(text)));
        steps.extend([finish(), usage_chunk(USAGE), honest()]);
        Self::of(steps)
    }

    pub(crate) fn plain(text: &str) -> Self {
        Self::of(vec![prologue(), plain_answer(text), honest()])
    }

    pub(crate) fn refusing(error: CreateJobError) -> Self {
        Self {
            create: Err(error),
            ..Self::of(Vec::new())
        }
    }
}

/// How a job ended here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ended {
    Completed(ConsumerCompletion),
    Failed(FailureReason),
}

struct Provider {
    snapshot: OfferSnapshot,
    /// What it does with one job after another; the last stays.
    scripts: VecDeque<Script>,
}

struct Job {
    provider: usize,
    script: Script,
    args: String,
}

#[derive(Default)]
struct State {
    providers: Vec<Provider>,
    jobs: HashMap<JobKey, Job>,
    watchers: Vec<mpsc::Sender<OfferEvent>>,
    past: Vec<JobRecord>,
    unavailable: bool,
}

pub(crate) struct FakeNode {
    pub(crate) own: PeerId,
    state: Mutex<State>,
    /// (provider, job_args) of each job that was asked for.
    pub(crate) asked: watch::Sender<Vec<(usize, String)>>,
    pub(crate) ended: watch::Sender<Vec<(usize, Ended)>>,
    /// Providers whose consumer closed the job stream.
    pub(crate) left: watch::Sender<Vec<usize>>,
}

pub(crate) fn now() -> UnixSeconds {
    UnixSeconds(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
}

/// Waits until a list that a fake keeps has `count` entries, and returns it.
pub(crate) async fn until<T: Clone>(list: &watch::Sender<Vec<T>>, count: usize) -> Vec<T> {
    let mut list = list.subscribe();
    let reached = list.wait_for(|list| list.len() >= count);
    timeout(PATIENCE, reached)
        .await
        .expect("in time")
        .unwrap()
        .clone()
}

impl FakeNode {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            own: PeerId::random(),
            state: Mutex::default(),
            asked: watch::Sender::default(),
            ended: watch::Sender::default(),
            left: watch::Sender::default(),
        })
    }

    /// Adds a provider of model `m` that asks `price` wei for a million tokens each way.
    pub(crate) fn provider(&self, price: u128, script: Script) -> usize {
        self.provider_of("m", 8192, price, vec![script])
    }

    pub(crate) fn provider_of(
        &self,
        model: &str,
        context: u64,
        price: u128,
        scripts: Vec<Script>,
    ) -> usize {
        self.add(PeerId::random(), model, context, price, scripts)
    }

    /// Adds an offer of a provider that is there already.
    pub(crate) fn another_offer(&self, provider: usize, price: u128, script: Script) -> usize {
        self.add(self.peer(provider), "m", 8192, price, vec![script])
    }

    pub(crate) fn own_offer(&self, price: u128, script: Script) -> usize {
        self.add(self.own, "m", 8192, price, vec![script])
    }

    fn add(
        &self,
        peer: PeerId,
        model: &str,
        context: u64,
        price: u128,
        scripts: Vec<Script>,
    ) -> usize {
        let mut state = self.state.lock().unwrap();
        let index = state.providers.len();
        let payload = json!({"model_id": model, "context_size": context,
            "input_token_price": {"$pol": price.to_string()},
            "output_token_price": {"$pol": price.to_string()}});
        let snapshot = OfferSnapshot {
            snapshot_id: SnapshotId(u64::try_from(index).unwrap()),
            active: true,
            provider_peer_id: peer,
            protocol_id: protocol_id(),
            offer_id: OfferId::new(format!("offer-{index}")).unwrap(),
            protocol_payload: payload.to_string(),
        };
        state.providers.push(Provider {
            snapshot: snapshot.clone(),
            scripts: scripts.into(),
        });
        for watcher in &state.watchers {
            watcher
                .try_send(OfferEvent::Updated(snapshot.clone()))
                .unwrap();
        }
        index
    }

    pub(crate) fn peer(&self, provider: usize) -> PeerId {
        self.state.lock().unwrap().providers[provider]
            .snapshot
            .provider_peer_id
    }

    /// Puts a finished job into the node's records.
    pub(crate) fn past_job(&self, balance: &str, completed_at: UnixSeconds) {
        let mut state = self.state.lock().unwrap();
        let row = u64::try_from(state.past.len()).unwrap() + 1;
        state.past.push(JobRecord {
            job_rowid: derouter_sdk::RowId(row),
            provider_job_id: JobId::new(format!("past-{row}")).unwrap(),
            provider_peer_id: PeerId::random(),
            consumer_peer_id: self.own,
            offer_id: OfferId::new("o").unwrap(),
            offer_snapshot_rowid: SnapshotId(900),
            offer_protocol_id: protocol_id(),
            offer_payload: "{}".into(),
            offer_active: false,
            currency: derouter_sdk::Currency::Pol,
            balance_delta: Some(balance.into()),
            public_payload: Some("{}".into()),
            private_payload: None,
            reason: None,
            reason_class: None,
            created_at_local: completed_at,
            created_at_sync: completed_at,
            completed_at_local: Some(completed_at),
            completed_at_sync: Some(completed_at),
            signature_confirmed_at_local: None,
            confirmation_error: None,
        });
    }

    /// Whether the node answers at all.
    pub(crate) fn set_available(&self, available: bool) {
        self.state.lock().unwrap().unavailable = !available;
    }

    fn check_available(&self) -> Result<(), NodeError> {
        if self.state.lock().unwrap().unavailable {
            return Err(NodeError::Unreachable("test".into()));
        }
        Ok(())
    }

    fn end(&self, key: &JobKey, ended: Ended) {
        let provider = self.state.lock().unwrap().jobs[key].provider;
        self.ended.send_modify(|list| list.push((provider, ended)));
    }
}

fn epilogue(offer: &str, args: &str, script: &Script, spoil: fn(&mut Epilogue)) -> Epilogue {
    let request: serde_json::Map<String, Value> = serde_json::from_str(args).unwrap();
    let streamed = request.get("stream") == Some(&Value::Bool(true));
    let mut epilogue = Epilogue {
        object: streamed.then(|| EPILOGUE_OBJECT.to_owned()),
        public_payload: public_payload(&request, &script.usage.to_json()),
        balance_delta: OfferPayload::parse(offer).unwrap().cost(&script.usage),
        completed_at_sync: now(),
    };
    spoil(&mut epilogue);
    epilogue
}

#[async_trait]
impl Node for FakeNode {
    async fn peer_id(&self) -> Result<PeerId, NodeError> {
        self.check_available()?;
        Ok(self.own)
    }

    async fn active_offers(&self, _: &OfferFilter) -> Result<Vec<OfferSnapshot>, NodeError> {
        panic!("a gateway has no need of it")
    }

    async fn active_providers(&self) -> Result<Vec<PeerId>, NodeError> {
        panic!("a gateway has no need of it")
    }

    async fn offer_snapshots(&self, _: &[SnapshotId]) -> Result<Vec<OfferSnapshot>, NodeError> {
        panic!("a gateway has no need of it")
    }

    async fn providers(&self, _: &[PeerId]) -> Result<Vec<ProviderRecord>, NodeError> {
        panic!("a gateway has no need of it")
    }

    async fn jobs(&self, query: &JobQuery) -> Result<Vec<JobRecord>, NodeError> {
        self.check_available()?;
        assert_eq!(query.filter.consumer_peer_ids, Some(vec![self.own]));
        let after = query.after.unwrap_or_default();
        let state = self.state.lock().unwrap();
        let page = state.past.iter().filter(|job| job.job_rowid > after);
        Ok(page
            .take(usize::try_from(query.limit).unwrap())
            .cloned()
            .collect())
    }

    async fn watch_offers(&self, filter: OfferFilter) -> Result<Watch<OfferEvent>, NodeError> {
        self.check_available()?;
        assert_eq!(
            filter,
            OfferFilter {
                protocol_ids: Some(protocol_ids()),
                ..OfferFilter::default()
            }
        );
        let (events, receiver) = mpsc::channel(64);
        let mut state = self.state.lock().unwrap();
        let offers = state.providers.iter().map(|p| p.snapshot.clone()).collect();
        events.try_send(OfferEvent::Reset(offers)).unwrap();
        state.watchers.push(events);
        Ok(Watch::new(receiver))
    }

    async fn watch_providers(&self) -> Result<Watch<ProviderEvent>, NodeError> {
        panic!("a gateway has no need of it")
    }

    async fn watch_jobs(&self, _: JobFilter) -> Result<Watch<JobEvent>, NodeError> {
        panic!("a gateway has no need of it")
    }

    async fn provide(
        &self,
        _: Vec<OfferSpec>,
        _: ProvideOptions,
        _: Arc<dyn ProviderService>,
    ) -> Result<Provision, ProvideError> {
        panic!("a gateway has no need of it")
    }

    async fn create_job(
        &self,
        offer: SnapshotId,
        args: Option<String>,
    ) -> Result<JobKey, CreateJobError> {
        let index = usize::try_from(offer.0).unwrap();
        let args = args.unwrap();
        self.asked
            .send_modify(|list| list.push((index, args.clone())));
        let (script, peer, id) = {
            let mut state = self.state.lock().unwrap();
            let id = format!("job-{}", state.jobs.len());
            let provider = &mut state.providers[index];
            let script = if provider.scripts.len() > 1 {
                provider.scripts.pop_front().unwrap()
            } else {
                provider.scripts[0].clone()
            };
            (script, provider.snapshot.provider_peer_id, id)
        };
        if let Some(gate) = &script.create_gate {
            gate.notified().await;
        }
        script.create.clone()?;
        let key = JobKey {
            provider: peer,
            job_id: JobId::new(id).unwrap(),
        };
        let job = Job {
            provider: index,
            script,
            args,
        };
        self.state.lock().unwrap().jobs.insert(key.clone(), job);
        Ok(key)
    }

    async fn open_job(&self, key: &JobKey) -> Result<JobStream, OpenJobError> {
        let (script, args, offer, index) = {
            let state = self.state.lock().unwrap();
            let job = &state.jobs[key];
            let offer = state.providers[job.provider]
                .snapshot
                .protocol_payload
                .clone();
            (job.script.clone(), job.args.clone(), offer, job.provider)
        };
        script.open.clone()?;
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let left = self.left.clone();
        tokio::spawn(async move {
            let (mut reading, mut writing) = tokio::io::split(theirs);
            let play = async {
                for step in &script.steps {
                    let bytes = match step {
                        Step::Value(value) => cbor::to_framed_vec(&Json(value)),
                        Step::Bytes(bytes) => bytes.clone(),
                        Step::Epilogue(spoil) => {
                            cbor::to_framed_vec(&epilogue(&offer, &args, &script, *spoil))
                        }
                        Step::Gate(gate) => {
                            gate.notified().await;
                            continue;
                        }
                        Step::Chatter => loop {
                            let nothing = cbor::to_framed_vec(&json!({"ping": 1}));
                            if writing.write_all(&nothing).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        },
                        Step::Close => {
                            let _ = writing.shutdown().await;
                            continue;
                        }
                    };
                    if writing.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                // Like a JavaScript module, it never closes by itself.
                std::future::pending::<()>().await;
            };
            let gone = async {
                let mut nothing = [0; 16];
                while reading.read(&mut nothing).await.is_ok_and(|read| read > 0) {}
            };
            tokio::select! { () = play => {}, () = gone => {} }
            left.send_modify(|list| list.push(index));
        });
        Ok(Box::new(ours))
    }

    async fn remote_job(&self, key: &JobKey) -> Result<RemoteJob, RemoteJobError> {
        let state = self.state.lock().unwrap();
        let job = &state.jobs[key];
        if !job.script.remote {
            return Err(RemoteJobError::JobNotFound);
        }
        let offer = &state.providers[job.provider].snapshot.protocol_payload;
        let bill = epilogue(offer, &job.args, &job.script, |_| {});
        Ok(RemoteJob {
            public_payload: Some(bill.public_payload),
            balance_delta: bill.balance_delta,
            created_at_sync: now(),
            completed_at_sync: Some(bill.completed_at_sync),
        })
    }

    async fn complete_job(
        &self,
        key: &JobKey,
        completion: ConsumerCompletion,
    ) -> Result<(), CompleteJobError> {
        self.check_available()?;
        self.end(key, Ended::Completed(completion));
        Ok(())
    }

    async fn fail_job(&self, key: &JobKey, failure: FailureReason) -> Result<(), FailJobError> {
        self.end(key, Ended::Failed(failure));
        Ok(())
    }

    async fn provider_complete_job(
        &self,
        _: &JobKey,
        _: ProviderCompletion,
    ) -> Result<UnixSeconds, ProviderCompleteError> {
        panic!("a gateway has no need of it")
    }

    async fn provider_fail_job(&self, _: &JobKey, _: FailureReason) -> Result<(), FailJobError> {
        panic!("a gateway has no need of it")
    }
}
