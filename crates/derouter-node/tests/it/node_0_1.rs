//! Nodes of ours with nodes of version 0.1.0, on both sides of a job.

use derouter_node::RunningNode;
use derouter_sdk::{
    ConsumerCompletion, CreateJobError, FailureReason, JobKey, JobRecord, OfferSnapshot,
    OpenJobError, PeerId, ProvideOptions, Provision, UnixSeconds, Wei,
};
use derouter_wire::cbor::IntArray;
use derouter_wire::job::{JobOutcome, JobWire};
use derouter_wire::jobs::{JobAnswer, JobCall, Joined, Refusal, RefusalCode, Settled};
use derouter_wire::reqres::{ConfirmJobResult, CreateJobResult, GetJobResult, Request, Response};
use derouter_wire::stream::JobConnectionResult;
use derouter_wire::{Currency, JobId, OfferId, ProtocolId, limits};
use libp2p::identity::Keypair;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::old_node::{Asked, OldNode, Pipe};
use crate::support::{Echo, PROTOCOL, config, jobs, offer, see_job, see_offer, show_logs, within};

/// When the old provider says that its jobs were created and completed.
const CREATED: UnixSeconds = UnixSeconds(1_700_000_000);
const COMPLETED: UnixSeconds = UnixSeconds(1_700_000_007);

/// A consumer of ours that has heard of an offer of an old provider.
struct Buying {
    old: OldNode,
    node: RunningNode,
    dir: TempDir,
    offer: OfferSnapshot,
}

impl Buying {
    async fn start() -> Self {
        Self::from(OldNode::start().await).await
    }

    async fn from(mut old: OldNode) -> Self {
        show_logs();
        let dir = TempDir::new().unwrap();
        let bootstrap = vec![old.address.clone()];
        let node = derouter_node::start(config(dir.path(), bootstrap))
            .await
            .unwrap();
        old.offer(node.peer_id(), "old", "payload").await;
        let offer = see_offer(&node.handle(), "old").await;
        Self {
            old,
            node,
            dir,
            offer,
        }
    }

    /// Creates a job; the provider answers so. Gives what it was asked, too.
    async fn create(
        &mut self,
        args: Option<String>,
        answer: CreateJobResult,
    ) -> (Result<JobKey, CreateJobError>, Request) {
        let consumer = self.node.handle();
        let snapshot = self.offer.snapshot_id;
        let creating = tokio::spawn(async move { consumer.create_job(snapshot, args).await });
        let asked = self.old.asked().await;
        assert_eq!(asked.peer, self.node.peer_id());
        self.old.answer(asked.channel, Response::CreateJob(answer));
        let created = within("the end of the creation", creating).await.unwrap();
        (created, asked.request)
    }

    async fn create_ok(&mut self, id: &str) -> JobKey {
        let answer = CreateJobResult::Ok {
            provider_job_id: JobId::new(id).unwrap(),
            created_at_sync: CREATED,
        };
        let (created, _) = self.create(None, answer).await;
        created.unwrap()
    }

    /// The outcome that the consumer signs with [`completion`].
    fn outcome(&self, id: &str) -> JobOutcome {
        JobOutcome {
            wire: JobWire::V0_1,
            key: JobKey {
                provider: self.old.id(),
                job_id: JobId::new(id).unwrap(),
            },
            consumer: self.node.peer_id(),
            protocol_id: ProtocolId::new(PROTOCOL).unwrap(),
            offer_id: OfferId::new("old").unwrap(),
            offer_payload: "payload".into(),
            currency: Currency::Pol,
            created_at_sync: CREATED,
            public_payload: "{}".into(),
            completed_at_sync: COMPLETED,
            balance_delta: Some(Wei::from_wei(600)),
        }
    }

    /// Waits for a confirmation of this job and checks everything in it.
    async fn confirmation(&mut self, id: &str) -> Asked {
        let asked = self.old.asked().await;
        let Request::ConfirmJob {
            provider_job_id,
            job_hash,
            consumer_public_key,
            consumer_signature,
        } = &asked.request
        else {
            panic!("{:?}", asked.request);
        };
        assert_eq!(asked.peer, self.node.peer_id());
        assert_eq!(provider_job_id.as_str(), id);
        let hash = self.outcome(id).hash();
        assert_eq!(job_hash.0, hash.0);
        hash.verify(&asked.peer, &consumer_public_key.0, &consumer_signature.0)
            .unwrap();
        asked
    }
}

fn completion() -> ConsumerCompletion {
    ConsumerCompletion {
        public_payload: "{}".into(),
        private_payload: None,
        balance_delta: Some(Wei::from_wei(600)),
        completed_at_sync: COMPLETED,
    }
}

fn is_confirmed(job: &JobRecord) -> bool {
    job.signature_confirmed_at_local.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn our_consumer_buys_from_a_0_1_provider() {
    let mut buying = Buying::start().await;
    let answer = CreateJobResult::Ok {
        provider_job_id: JobId::new("first").unwrap(),
        created_at_sync: CREATED,
    };
    let (job, asked) = buying.create(Some("args".into()), answer).await;
    let job = job.unwrap();
    let expected = Request::CreateJob {
        protocol_id: ProtocolId::new(PROTOCOL).unwrap(),
        offer_id: OfferId::new("old").unwrap(),
        offer_payload: "payload".into(),
        currency: Currency::Pol,
        job_args: Some("args".into()),
    };
    assert_eq!(asked, expected);
    assert_eq!(job.provider, buying.old.id());
    assert_eq!(job.job_id.as_str(), "first");
    let consumer = buying.node.handle();
    let rows = jobs(&consumer).await;
    assert_eq!(rows.len(), 1, "of the try on wire 0.2 nothing is left");
    assert_eq!(rows[0].provider_job_id, job.job_id);
    assert_eq!(rows[0].created_at_sync, CREATED);

    let opening = {
        let (consumer, job) = (consumer.clone(), job.clone());
        tokio::spawn(async move { consumer.open_job(&job).await })
    };
    let (peer, id, mut theirs) = buying.old.connected(JobConnectionResult::Ok).await;
    assert_eq!((peer, &id), (buying.node.peer_id(), &job.job_id));
    let mut ours = within("the pipe", opening).await.unwrap().unwrap();
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut question = String::new();
    within("the question", theirs.read_to_string(&mut question))
        .await
        .unwrap();
    assert_eq!(question, "question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut answer = String::new();
    within("the answer", ours.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "answer");
    drop(ours);

    consumer.complete_job(&job, completion()).await.unwrap();
    let asked = buying.confirmation("first").await;
    buying
        .old
        .answer(asked.channel, Response::ConfirmJob(ConfirmJobResult::Ok));
    let record = see_job(&consumer, "the confirmation", is_confirmed).await;
    assert_eq!(record.balance_delta.as_deref(), Some("600"));
    assert_eq!(record.confirmation_error, None);
    buying.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_0_1_provider_is_not_tried_on_wire_0_2_again() {
    let mut buying = Buying::start().await;
    buying.create_ok("first").await;
    buying.create_ok("second").await;
    let rows = jobs(&buying.node.handle()).await;
    let numbers: Vec<u64> = rows.iter().map(|row| row.job_rowid.0).collect();
    // Each try has a row for a while, and a row's number is never given again.
    assert_eq!(numbers, [2, 3]);
    buying.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_arguments_reach_a_0_1_provider() {
    let mut buying = Buying::start().await;
    let args = "x".repeat(900 * 1024);
    let answer = CreateJobResult::Ok {
        provider_job_id: JobId::new("large").unwrap(),
        created_at_sync: CREATED,
    };
    let (job, asked) = buying.create(Some(args.clone()), answer).await;
    job.unwrap();
    let Request::CreateJob { job_args, .. } = asked else {
        panic!("{asked:?}");
    };
    assert!(job_args.as_deref() == Some(&args));
    assert_eq!(jobs(&buying.node.handle()).await.len(), 1);
    buying.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_a_0_1_provider_are_told_as_what_they_are() {
    let mut buying = Buying::start().await;
    let (busy, _) = buying.create(None, CreateJobResult::Busy).await;
    assert!(
        matches!(busy, Err(CreateJobError::ProviderBusy)),
        "{busy:?}"
    );
    let (gone, _) = buying.create(None, CreateJobResult::OfferNotFound).await;
    let gone = gone.unwrap_err();
    assert!(matches!(gone, CreateJobError::ProviderOfferNotFound));
    let other = CreateJobResult::OfferPayloadMismatch;
    let (other, _) = buying.create(None, other).await;
    let other = other.unwrap_err();
    assert!(matches!(
        other,
        CreateJobError::ProviderOfferPayloadMismatch
    ));
    let bad = CreateJobResult::InvalidJobArgs("why".into());
    let (bad, _) = buying.create(None, bad).await;
    assert!(matches!(bad, Err(CreateJobError::InvalidJobArgs(text)) if text == "why"));
    let consumer = buying.node.handle();
    assert!(jobs(&consumer).await.is_empty());

    let job = buying.create_ok("job").await;
    let reason = "later".to_owned();
    for answer in [
        JobConnectionResult::JobNotFound,
        JobConnectionResult::JobExpired,
        JobConnectionResult::Busy,
        JobConnectionResult::AnotherError(reason),
    ] {
        let opening = {
            let (consumer, job) = (consumer.clone(), job.clone());
            tokio::spawn(async move { consumer.open_job(&job).await.map(drop) })
        };
        // Held, so that no reset overtakes the head.
        let (_, _, _pipe) = buying.old.connected(answer.clone()).await;
        let refusal = within("the refusal", opening).await.unwrap().unwrap_err();
        let fits = match answer {
            JobConnectionResult::JobNotFound => {
                matches!(refusal, OpenJobError::ProviderJobNotFound)
            }
            JobConnectionResult::JobExpired => matches!(refusal, OpenJobError::ProviderJobExpired),
            JobConnectionResult::Busy => matches!(refusal, OpenJobError::ProviderBusy),
            _ => matches!(&refusal, OpenJobError::OtherRemote(text) if text == "later"),
        };
        assert!(fits, "{refusal:?}");
    }
    buying.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_0_1_provider_that_has_not_completed_yet_is_told_again() {
    let mut buying = Buying::start().await;
    let job = buying.create_ok("slow").await;
    let consumer = buying.node.handle();
    consumer.complete_job(&job, completion()).await.unwrap();
    let asked = buying.confirmation("slow").await;
    let not_yet = Response::ConfirmJob(ConfirmJobResult::NotCompletedYet);
    buying.old.answer(asked.channel, not_yet);
    let waiting = |job: &JobRecord| job.confirmation_error.as_deref() == Some("NotCompletedYet");
    see_job(&consumer, "the failed delivery", waiting).await;
    let asked = buying.confirmation("slow").await;
    let already = Response::ConfirmJob(ConfirmJobResult::AlreadyConfirmed);
    buying.old.answer(asked.channel, already);
    see_job(&consumer, "the confirmation", is_confirmed).await;
    buying.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_consumer_asks_a_0_1_provider_for_a_job() {
    let mut buying = Buying::start().await;
    let job = buying.create_ok("job").await;
    let consumer = buying.node.handle();
    let asking = tokio::spawn(async move { consumer.remote_job(&job).await });
    let asked = buying.old.asked().await;
    let provider_job_id = JobId::new("job").unwrap();
    assert_eq!(asked.request, Request::GetJob { provider_job_id });
    let answer = GetJobResult::Ok {
        public_payload: Some("{}".into()),
        balance_delta: Some("600".into()),
        created_at_sync: CREATED,
        completed_at_sync: Some(COMPLETED),
    };
    buying.old.answer(asked.channel, Response::GetJob(answer));
    let remote = within("the job", asking).await.unwrap().unwrap();
    assert_eq!(remote.balance_delta, Some(Wei::from_wei(600)));
    assert_eq!(remote.completed_at_sync, Some(COMPLETED));
    buying.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_a_provider_may_have_taken_is_given_up_when_it_says_busy() {
    let mut provider = OldNode::start().await;
    let mut calls = provider.calls();
    let buying = Buying::from(provider).await;
    let consumer = buying.node.handle();
    let snapshot = buying.offer.snapshot_id;
    let creating = tokio::spawn(async move { consumer.create_job(snapshot, None).await });
    // The first answer is lost, and to the others there is no room.
    let (JobCall::Create(created), pipe) = calls.next().await else {
        panic!("no creation");
    };
    drop(pipe);
    let given_up = loop {
        let (call, pipe) = calls.next().await;
        let busy = || JobAnswer::Refused(Refusal::new(RefusalCode::Busy, "no room"));
        let (answer, given_up) = match call {
            JobCall::Create(_) => (busy(), None),
            JobCall::GiveUp(jobs) => (JobAnswer::GivenUp(vec![Settled::Noted]), Some(jobs)),
            other => panic!("{other:?}"),
        };
        answer_call(pipe, &answer).await;
        if let Some(given_up) = given_up {
            break given_up;
        }
    };
    assert_eq!(given_up[0].job_id, created.job_id);
    let created = within("the end of the creation", creating).await.unwrap();
    assert!(
        matches!(created, Err(CreateJobError::ProviderUnreachable)),
        "{created:?}"
    );
    let rows = jobs(&buying.node.handle()).await;
    assert_eq!(rows.len(), 1, "its row is kept");
    assert!(rows[0].reason.is_some());
    buying.node.shutdown().await;
}

async fn answer_call(mut pipe: Pipe, answer: &JobAnswer) {
    pipe.write_all(&answer.encode()).await.unwrap();
    pipe.shutdown().await.unwrap();
    // Until the asker has it.
    let _ = pipe.read(&mut [0; 1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_a_refusal_are_cut_to_their_limit() {
    let mut provider = OldNode::start().await;
    let mut calls = provider.calls();
    let buying = Buying::from(provider).await;
    let consumer = buying.node.handle();
    let snapshot = buying.offer.snapshot_id;
    let creating = tokio::spawn(async move { consumer.create_job(snapshot, None).await });
    let (_, pipe) = calls.next().await;
    let words = "x".repeat(limits::REASON_BYTES + 1);
    let mut refusal = Refusal::new(RefusalCode::InvalidArgs, "");
    refusal.message = words;
    answer_call(pipe, &JobAnswer::Refused(refusal)).await;
    let refused = within("the refusal", creating).await.unwrap();
    let Err(CreateJobError::InvalidJobArgs(words)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(words.len(), limits::REASON_BYTES);
    assert!(jobs(&buying.node.handle()).await.is_empty());
    buying.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_takes_a_job_after_its_end_is_told_again() {
    let mut provider = OldNode::start().await;
    let mut calls = provider.calls();
    let buying = Buying::from(provider).await;
    let consumer = buying.node.handle();
    let snapshot = buying.offer.snapshot_id;
    let creating = {
        let consumer = consumer.clone();
        tokio::spawn(async move { consumer.create_job(snapshot, None).await })
    };
    let (JobCall::Create(created), taking) = calls.next().await else {
        panic!("no creation");
    };
    let key = JobKey {
        provider: buying.old.id(),
        job_id: created.job_id,
    };
    consumer
        .fail_job(&key, FailureReason::default())
        .await
        .unwrap();
    let (_, pipe) = calls.next().await;
    let unknown = JobAnswer::GivenUp(vec![Settled::JobNotFound]);
    answer_call(pipe, &unknown).await;
    let joined = Joined {
        created_at: CREATED,
        session: 1,
        received: 0,
    };
    answer_call(taking, &JobAnswer::Joined(joined)).await;
    let (JobCall::GiveUp(given_up), pipe) = calls.next().await else {
        panic!("it is not told");
    };
    assert_eq!(given_up[0].job_id, key.job_id);
    answer_call(pipe, &JobAnswer::GivenUp(vec![Settled::Noted])).await;
    let created = within("the end of the creation", creating).await.unwrap();
    assert!(
        matches!(created, Err(CreateJobError::ProviderUnreachable)),
        "{created:?}"
    );
    buying.node.shutdown().await;
}

/// A provider of ours to which an old consumer is connected.
struct Selling {
    old: OldNode,
    node: RunningNode,
    dir: TempDir,
}

impl Selling {
    async fn start() -> Self {
        show_logs();
        let dir = TempDir::new().unwrap();
        let node = derouter_node::start(config(dir.path(), Vec::new()))
            .await
            .unwrap();
        let old = old_consumer(&node).await;
        Self { old, node, dir }
    }

    async fn provide(&self) -> Provision {
        provide(&self.node, "echo", Some(600)).await
    }

    async fn create(&self, args: Option<&str>) -> CreateJobResult {
        let request = creation("echo", "payload", args);
        let Response::CreateJob(result) = self.old.ask(self.node.peer_id(), request).await else {
            panic!("another answer");
        };
        result
    }

    async fn create_ok(&self) -> (JobId, UnixSeconds) {
        match self.create(None).await {
            CreateJobResult::Ok {
                provider_job_id,
                created_at_sync,
            } => (provider_job_id, created_at_sync),
            refused => panic!("{refused:?}"),
        }
    }

    /// Runs a job up to its completion; returns when that was.
    async fn run(&mut self, job: &JobId) -> UnixSeconds {
        let (result, mut pipe) = self.old.connect(self.node.peer_id(), job.clone()).await;
        assert_eq!(result, JobConnectionResult::Ok);
        pipe.write_all(b"hello").await.unwrap();
        finish(pipe).await
    }

    fn outcome(&self, job: &JobId, created: UnixSeconds, completed: UnixSeconds) -> JobOutcome {
        JobOutcome {
            wire: JobWire::V0_1,
            key: JobKey {
                provider: self.node.peer_id(),
                job_id: job.clone(),
            },
            consumer: self.old.id(),
            protocol_id: ProtocolId::new(PROTOCOL).unwrap(),
            offer_id: OfferId::new("echo").unwrap(),
            offer_payload: "payload".into(),
            currency: Currency::Pol,
            created_at_sync: created,
            public_payload: "{\"bytes\":5}".into(),
            completed_at_sync: completed,
            balance_delta: Some(Wei::from_wei(600)),
        }
    }

    async fn confirm(&self, job: &JobId, hash: &[u8], key: &Keypair) -> ConfirmJobResult {
        confirm(&self.old, self.node.peer_id(), job, hash, key, key).await
    }
}

async fn old_consumer(node: &RunningNode) -> OldNode {
    let mut old = OldNode::start().await;
    old.dial(node.listen_addresses().await.remove(0));
    old.meet(node.peer_id()).await;
    old
}

async fn provide(node: &RunningNode, name: &str, price: Option<u128>) -> Provision {
    let options = ProvideOptions::default();
    let offers = vec![offer(name, "payload")];
    let node = node.handle();
    let provided = node.provide(offers, options, Echo::new(price));
    provided.await.unwrap()
}

fn creation(name: &str, payload: &str, args: Option<&str>) -> Request {
    Request::CreateJob {
        protocol_id: ProtocolId::new(PROTOCOL).unwrap(),
        offer_id: OfferId::new(name).unwrap(),
        offer_payload: payload.into(),
        currency: Currency::Pol,
        job_args: args.map(str::to_owned),
    }
}

/// Ends what is asked, and reads the answer of [`Echo`] to "hello" and when it completed the job.
async fn finish(mut pipe: Pipe) -> UnixSeconds {
    pipe.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the answer", pipe.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer[..5], b"hello");
    UnixSeconds(u64::from_be_bytes(answer[5..].try_into().unwrap()))
}

/// Presents a signature by `signer` with the public key of `key`.
async fn confirm(
    old: &OldNode,
    provider: PeerId,
    job: &JobId,
    hash: &[u8],
    key: &Keypair,
    signer: &Keypair,
) -> ConfirmJobResult {
    let request = Request::ConfirmJob {
        provider_job_id: job.clone(),
        job_hash: IntArray(hash.to_vec()),
        consumer_public_key: IntArray(key.public().encode_protobuf()),
        consumer_signature: IntArray(signer.sign(hash).unwrap()),
    };
    match old.ask(provider, request).await {
        Response::ConfirmJob(result) => result,
        other => panic!("{other:?}"),
    }
}

/// Wire and state of every row of a database, in order.
fn rows(dir: &TempDir) -> Vec<(i64, String)> {
    let database = rusqlite::Connection::open(dir.path().join("derouter.sqlite")).unwrap();
    let mut query = database
        .prepare("SELECT wire, state FROM jobs ORDER BY id")
        .unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_0_1_consumer_buys_from_our_provider() {
    let mut selling = Selling::start().await;
    let _provision = selling.provide().await;
    let provider = selling.node.peer_id();
    let (job, created) = selling.create_ok().await;
    // Not joined: it ends as `not-joined` when that stays so.
    assert_eq!(rows(&selling.dir), [(1, "accepted".to_owned())]);
    let hash = selling.outcome(&job, created, created).hash();
    let key = selling.old.keypair.clone();
    let early = selling.confirm(&job, &hash.0, &key).await;
    assert_eq!(early, ConfirmJobResult::NotCompletedYet);

    let (result, first) = selling.old.connect(provider, job.clone()).await;
    assert_eq!(result, JobConnectionResult::Ok);
    assert_eq!(rows(&selling.dir), [(1, "running".to_owned())]);
    let (result, mut second) = selling.old.connect(provider, job.clone()).await;
    assert_eq!(result, JobConnectionResult::Ok);
    drop(first);
    second.write_all(b"hello").await.unwrap();
    let completed = finish(second).await;

    let get = Request::GetJob {
        provider_job_id: job.clone(),
    };
    let expected = Response::GetJob(GetJobResult::Ok {
        public_payload: Some("{\"bytes\":5}".into()),
        balance_delta: Some("600".into()),
        created_at_sync: created,
        completed_at_sync: Some(completed),
    });
    assert_eq!(selling.old.ask(provider, get.clone()).await, expected);

    let hash = selling.outcome(&job, created, completed).hash();
    let mismatch = ConfirmJobResult::HashMismatch(IntArray(hash.0.to_vec()));
    assert_eq!(selling.confirm(&job, &[7; 32], &key).await, mismatch);
    let other = Keypair::generate_ed25519();
    let old = &selling.old;
    let another_key = confirm(old, provider, &job, &hash.0, &other, &other).await;
    assert_eq!(another_key, ConfirmJobResult::InvalidPublicKey);
    let another_signer = confirm(old, provider, &job, &hash.0, &key, &other).await;
    assert_eq!(another_signer, ConfirmJobResult::InvalidSignature);
    assert_eq!(rows(&selling.dir), [(1, "awaited".to_owned())]);
    let ok = selling.confirm(&job, &hash.0, &key).await;
    assert_eq!(ok, ConfirmJobResult::Ok);
    let again = selling.confirm(&job, &hash.0, &key).await;
    assert_eq!(again, ConfirmJobResult::AlreadyConfirmed);
    let record = jobs(&selling.node.handle()).await.remove(0);
    assert!(is_confirmed(&record));
    assert_eq!(record.consumer_peer_id, selling.old.id());
    assert_eq!(record.balance_delta.as_deref(), Some("600"));
    let (result, _pipe) = selling.old.connect(provider, job.clone()).await;
    assert_eq!(result, JobConnectionResult::Ok, "also after its end");

    let mut stranger = old_consumer(&selling.node).await;
    let unknown = Response::GetJob(GetJobResult::JobNotFound);
    assert_eq!(stranger.ask(provider, get).await, unknown);
    let theirs = stranger.keypair.clone();
    let signed = confirm(&stranger, provider, &job, &hash.0, &theirs, &theirs).await;
    assert_eq!(signed, ConfirmJobResult::JobNotFound);
    let (result, _pipe) = stranger.connect(provider, job).await;
    assert_eq!(result, JobConnectionResult::JobNotFound);
    selling.node.shutdown().await;
    assert_eq!(rows(&selling.dir), [(1, "confirmed".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_0_1_consumer_is_refused_with_the_reason() {
    let selling = Selling::start().await;
    let _provision = selling.provide().await;
    assert_eq!(selling.create(Some("busy")).await, CreateJobResult::Busy);
    let bad = CreateJobResult::InvalidJobArgs("bad args".into());
    assert_eq!(selling.create(Some("bad")).await, bad);
    let provider = selling.node.peer_id();
    let changed = selling.old.ask(provider, creation("echo", "other", None));
    let mismatch = Response::CreateJob(CreateJobResult::OfferPayloadMismatch);
    assert_eq!(changed.await, mismatch);
    let unknown = selling.old.ask(provider, creation("none", "payload", None));
    let not_found = Response::CreateJob(CreateJobResult::OfferNotFound);
    assert_eq!(unknown.await, not_found);
    assert!(jobs(&selling.node.handle()).await.is_empty());
    selling.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_0_1_consumer_is_not_served_a_job_that_the_node_gave_up() {
    let Selling { mut old, node, dir } = Selling::start().await;
    let provision = provide(&node, "echo", Some(600)).await;
    let peer = node.peer_id();
    let Response::CreateJob(CreateJobResult::Ok {
        provider_job_id, ..
    }) = old.ask(peer, creation("echo", "payload", None)).await
    else {
        panic!("no job");
    };
    node.shutdown().await;
    drop(provision);
    let node = derouter_node::start(config(dir.path(), Vec::new()))
        .await
        .unwrap();
    let _provision = provide(&node, "echo", Some(600)).await;
    old.meet_again(&node).await;
    let (result, _pipe) = old.connect(peer, provider_job_id).await;
    assert_eq!(result, JobConnectionResult::JobExpired);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_with_jobs_of_both_wires_signs_each_on_its_own_after_a_restart() {
    let mut buying = Buying::start().await;
    let seller_dir = TempDir::new().unwrap();
    let seller = config(seller_dir.path(), buying.node.listen_addresses().await);
    let seller = derouter_node::start(seller).await.unwrap();
    let _provision = provide(&seller, "new", Some(600)).await;
    let old_job = buying.create_ok("old-job").await;
    let consumer = buying.node.handle();
    let offer = see_offer(&consumer, "new").await;
    let creating = consumer.create_job(offer.snapshot_id, None);
    let new_job = within("the job", creating).await.unwrap();
    let mut pipe = consumer.open_job(&new_job).await.unwrap();
    pipe.shutdown().await.unwrap();
    let mut at = [0; 8];
    within("the completion", pipe.read_exact(&mut at))
        .await
        .unwrap();
    drop((pipe, consumer));
    let wires = |dir: &TempDir| {
        rows(dir)
            .into_iter()
            .map(|(wire, _)| wire)
            .collect::<Vec<_>>()
    };
    assert_eq!(wires(&buying.dir), [1, 2]);

    buying.node.shutdown().await;
    let mut bootstrap = seller.listen_addresses().await;
    bootstrap.push(buying.old.address.clone());
    buying.node = derouter_node::start(config(buying.dir.path(), bootstrap))
        .await
        .unwrap();
    let consumer = buying.node.handle();
    let of_new = ConsumerCompletion {
        public_payload: "{\"bytes\":0}".into(),
        completed_at_sync: UnixSeconds(u64::from_be_bytes(at)),
        ..completion()
    };
    consumer.complete_job(&old_job, completion()).await.unwrap();
    consumer.complete_job(&new_job, of_new).await.unwrap();
    let asked = buying.confirmation("old-job").await;
    let ok = Response::ConfirmJob(ConfirmJobResult::Ok);
    buying.old.answer(asked.channel, ok);
    for job in [&old_job, &new_job] {
        let this = |row: &JobRecord| row.provider_job_id == job.job_id && is_confirmed(row);
        see_job(&consumer, "the confirmation", this).await;
    }
    see_job(&seller.handle(), "the signature", is_confirmed).await;
    buying.node.shutdown().await;
    seller.shutdown().await;
    assert_eq!(wires(&buying.dir), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_jobs_of_both_wires_takes_a_signature_for_each_after_a_restart() {
    let mut selling = Selling::start().await;
    let provision = selling.provide().await;
    let (old_job, created) = selling.create_ok().await;
    let completed = selling.run(&old_job).await;
    let buyer_dir = TempDir::new().unwrap();
    let address = selling.node.listen_addresses().await.remove(0);
    let buyer = config(buyer_dir.path(), vec![address.clone()]);
    let buyer = derouter_node::start(buyer).await.unwrap();
    let consumer = buyer.handle();
    let offer = see_offer(&consumer, "echo").await;
    let creating = consumer.create_job(offer.snapshot_id, None);
    let new_job = within("the job", creating).await.unwrap();
    let mut pipe = consumer.open_job(&new_job).await.unwrap();
    pipe.shutdown().await.unwrap();
    let mut at = [0; 8];
    within("the completion", pipe.read_exact(&mut at))
        .await
        .unwrap();

    let Selling { mut old, node, dir } = selling;
    node.shutdown().await;
    drop(provision);
    let node = derouter_node::start(config(dir.path(), Vec::new()))
        .await
        .unwrap();
    assert_eq!(rows(&dir), [(1, "awaited".into()), (2, "awaited".into())]);
    old.meet_again(&node).await;
    let of_new = ConsumerCompletion {
        public_payload: "{\"bytes\":0}".into(),
        completed_at_sync: UnixSeconds(u64::from_be_bytes(at)),
        ..completion()
    };
    consumer.complete_job(&new_job, of_new).await.unwrap();
    let selling = Selling { old, node, dir };
    let hash = selling.outcome(&old_job, created, completed).hash();
    let key = selling.old.keypair.clone();
    let ok = selling.confirm(&old_job, &hash.0, &key).await;
    assert_eq!(ok, ConfirmJobResult::Ok);
    let new = |row: &JobRecord| row.provider_job_id == new_job.job_id && is_confirmed(row);
    see_job(&selling.node.handle(), "the signature", new).await;
    see_job(&consumer, "its delivery", is_confirmed).await;
    buyer.shutdown().await;
    selling.node.shutdown().await;
    let both = [(1, "confirmed".into()), (2, "confirmed".into())];
    assert_eq!(rows(&selling.dir), both);
}
