//! Jobs of wire 0.2 between real nodes: broken streams, repeated calls, jobs that are given up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use derouter_node::Multiaddr;
use derouter_sdk::{FailureReason, JobKey, Node, OfferSnapshot, Provision, UnixSeconds, Wei};
use derouter_wire::cbor::Bytes;
use derouter_wire::jobs::{
    CreateJob, FailureCause, JobAnswer, JobCall, RefusalCode, Resume, Settled, SignedJob,
};
use derouter_wire::{Currency, JobId};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{Echo, Pair, config, jobs, offer, see_job, see_offer, show_logs, within};

/// A TCP proxy whose connections can all be cut at once.
struct Proxy {
    address: SocketAddr,
    cuts: watch::Sender<u32>,
}

impl Proxy {
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = watch::Sender::new(0);
        let cut = cuts.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// The port of a TCP multiaddr on 127.0.0.1.
fn socket(address: &Multiaddr) -> SocketAddr {
    let text = address.to_string();
    let mut parts = text.split('/');
    let port = parts.nth(4).unwrap();
    format!("127.0.0.1:{port}").parse().unwrap()
}

/// A pair whose consumer reaches its provider through a proxy.
async fn proxied() -> (Pair, Proxy) {
    show_logs();
    let (provider_dir, consumer_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let provider = derouter_node::start(config(provider_dir.path(), Vec::new()))
        .await
        .unwrap();
    let proxy = Proxy::before(socket(&provider.listen_addresses().await.remove(0))).await;
    let through = format!(
        "/ip4/127.0.0.1/tcp/{}/p2p/{}",
        proxy.address.port(),
        provider.peer_id()
    );
    let consumer = config(consumer_dir.path(), vec![through.parse().unwrap()]);
    let consumer = derouter_node::start(consumer).await.unwrap();
    let pair = Pair {
        provider,
        consumer,
        provider_dir,
        consumer_dir,
    };
    (pair, proxy)
}

async fn provide(pair: &Pair, price: Option<u128>) -> Provision {
    let provider = pair.provider.handle();
    provider
        .provide(
            vec![offer("echo", "payload")],
            Default::default(),
            Echo::new(price),
        )
        .await
        .unwrap()
}

/// What a consumer would send for a job of that offer.
fn creation(offer: &OfferSnapshot, id: &str) -> JobCall {
    JobCall::Create(CreateJob {
        job_id: JobId::new(id).unwrap(),
        protocol_id: offer.protocol_id.clone(),
        offer_id: offer.offer_id.clone(),
        offer_payload_sha256: Bytes(Sha256::digest(&offer.protocol_payload).to_vec()),
        currency: Currency::Pol,
        args_bytes: None,
    })
}

/// Makes a call as the consumer's node; gives the answer.
async fn call(pair: &Pair, call: JobCall) -> JobAnswer {
    let provider = pair.provider.peer_id();
    let reply = pair.consumer.net().call_job(provider, &call, None);
    match within("the answer", reply).await.unwrap() {
        derouter_net::JobReply::Joined(joined, _stream) => JobAnswer::Joined(joined),
        derouter_net::JobReply::Answered(answer) => answer,
    }
}

fn refusal(answer: JobAnswer) -> RefusalCode {
    match answer {
        JobAnswer::Refused(refusal) => refusal.code,
        other => panic!("{other:?} is no refusal"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_on_where_its_connection_broke() {
    let (pair, proxy) = proxied().await;
    let _provision = provide(&pair, Some(600)).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await;
    let job = consumer.create_job(offer.snapshot_id, None).await.unwrap();
    let stream = consumer.open_job(&job).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..400_000_u32)
        .map(|number| number.to_le_bytes()[0])
        .collect();
    let pieces: Vec<Vec<u8>> = sent.chunks(40_000).map(<[u8]>::to_vec).collect();
    let writing = tokio::spawn(async move {
        for piece in pieces {
            writer.write_all(&piece).await.unwrap();
            proxy.cut();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        writer.shutdown().await.unwrap();
        proxy
    });
    let mut answer = Vec::new();
    within("the answer", reader.read_to_end(&mut answer))
        .await
        .unwrap();
    let _proxy = writing.await.unwrap();
    assert!(answer.starts_with(&sent), "of {} bytes", answer.len());
    assert_eq!(answer.len(), sent.len() + 8);
    let open = jobs(&consumer).await;
    assert_eq!((open.len(), open[0].reason.as_deref()), (1, None));
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_is_repeated_counts_once() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await;
    let first = call(&pair, creation(&offer, "one")).await;
    let again = call(&pair, creation(&offer, "one")).await;
    let (JobAnswer::Joined(first), JobAnswer::Joined(again)) = (first, again) else {
        panic!("both are joined");
    };
    assert_eq!(first.created_at, again.created_at);
    assert_ne!(first.session, again.session);
    assert_eq!(jobs(&pair.provider.handle()).await.len(), 1);

    let mut other = offer.clone();
    other.protocol_payload = "another".into();
    let conflict = call(&pair, creation(&other, "one")).await;
    assert_eq!(refusal(conflict), RefusalCode::IdConflict);
    let changed = call(&pair, creation(&other, "two")).await;
    assert_eq!(refusal(changed), RefusalCode::OfferChanged);
    other.offer_id = derouter_sdk::OfferId::new("none").unwrap();
    let unknown = call(&pair, creation(&other, "two")).await;
    assert_eq!(refusal(unknown), RefusalCode::OfferNotFound);
    assert_eq!(jobs(&pair.provider.handle()).await.len(), 1);
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_joins_resumes_signs_or_ends_the_job_of_another() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Some(5)).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await;
    let job = consumer.create_job(offer.snapshot_id, None).await.unwrap();

    let dir = TempDir::new().unwrap();
    let address = pair.provider.listen_addresses().await.remove(0);
    let stranger = derouter_node::start(config(dir.path(), vec![address]))
        .await
        .unwrap();
    let ask = async |call: JobCall| {
        let reply = stranger
            .net()
            .call_job(pair.provider.peer_id(), &call, None);
        match within("the answer", reply).await.unwrap() {
            derouter_net::JobReply::Joined(..) => panic!("a stranger is joined"),
            derouter_net::JobReply::Answered(answer) => answer,
        }
    };
    let id = job.job_id.clone();
    let join = |resume| JobCall::Join {
        job_id: id.clone(),
        resume,
    };
    assert_eq!(refusal(ask(join(None)).await), RefusalCode::JobNotFound);
    let resume = Resume {
        session: 1,
        received: 0,
    };
    assert_eq!(
        refusal(ask(join(Some(resume))).await),
        RefusalCode::JobNotFound
    );
    let asked = JobCall::Ask { job_id: id.clone() };
    assert_eq!(refusal(ask(asked).await), RefusalCode::JobNotFound);
    let conflict = ask(creation(&offer, job.job_id.as_str())).await;
    assert_eq!(refusal(conflict), RefusalCode::IdConflict);
    let signed = SignedJob {
        job_id: id.clone(),
        hash: Bytes(vec![0; 32]),
        signature: Bytes(vec![0; 64]),
    };
    let confirmed = ask(JobCall::Confirm(vec![signed])).await;
    assert_eq!(confirmed, JobAnswer::Confirmed(vec![Settled::JobNotFound]));
    let given_up = derouter_wire::jobs::GivenUp {
        job_id: id.clone(),
        cause: FailureCause::ConsumerGaveUp,
        reason: "x".into(),
    };
    let noted = ask(JobCall::GiveUp(vec![given_up])).await;
    assert_eq!(noted, JobAnswer::GivenUp(vec![Settled::JobNotFound]));

    assert_eq!(jobs(&pair.provider.handle()).await[0].reason, None);
    stranger.shutdown().await;
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_hears_that_its_consumer_gave_up_and_stops() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Some(5)).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await;
    let job = consumer.create_job(offer.snapshot_id, None).await.unwrap();
    let mut stream = consumer.open_job(&job).await.unwrap();
    stream.write_all(b"half").await.unwrap();
    let failure = FailureReason {
        reason: "the answer is bad".into(),
        reason_class: Some(1),
    };
    consumer.fail_job(&job, failure).await.unwrap();
    let provider = pair.provider.handle();
    let ended = see_job(&provider, "the end", |job| job.reason.is_some()).await;
    let reason = ended.reason.unwrap();
    assert!(reason.contains("the answer is bad"), "{reason}");
    let mut rest = Vec::new();
    let end = within("the end of the stream", stream.read_to_end(&mut rest)).await;
    assert!(end.is_err(), "the pipe of a failed job breaks");
    let late = consumer.open_job(&job).await.err().unwrap();
    assert!(
        matches!(late, derouter_sdk::OpenJobError::ProviderJobExpired),
        "{late:?}"
    );
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_given_up_while_its_module_thinks_it_over_is_not_left_open() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Some(5)).await;
    let offer = see_offer(&pair.consumer.handle(), "echo").await;
    let JobCall::Create(mut new) = creation(&offer, "one") else {
        panic!("it creates");
    };
    new.args_bytes = Some(4);
    let (creating, provider) = (JobCall::Create(new), pair.provider.peer_id());
    let created = pair
        .consumer
        .net()
        .call_job(provider, &creating, Some("slow"));
    let given_up = derouter_wire::jobs::GivenUp {
        job_id: JobId::new("one").unwrap(),
        cause: FailureCause::ConsumerGaveUp,
        reason: "too slow".into(),
    };
    let giving_up = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        call(&pair, JobCall::GiveUp(vec![given_up])).await
    };
    let (_created, noted) = tokio::join!(created, giving_up);
    assert_eq!(noted, JobAnswer::GivenUp(vec![Settled::Noted]));
    let ended = jobs(&pair.provider.handle()).await;
    assert!(ended[0].reason.is_some(), "{ended:?}");
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_the_consumer_does_not_sign_is_disputed_and_still_owed() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Some(600)).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await;
    let job = consumer.create_job(offer.snapshot_id, None).await.unwrap();
    finish(&consumer, &job).await;
    let failure = FailureReason {
        reason: "too dear".into(),
        reason_class: None,
    };
    consumer.fail_job(&job, failure).await.unwrap();
    let disputed = see_job(&pair.provider.handle(), "the dispute", |job| {
        job.confirmation_error.is_some()
    })
    .await;
    assert_eq!(
        disputed.confirmation_error.as_deref(),
        Some("consumer-gave-up: too dear")
    );
    assert_eq!(disputed.balance_delta.as_deref(), Some("600"));
    let remote = consumer.remote_job(&job).await.unwrap();
    assert_eq!(remote.balance_delta, Some(Wei::from_wei(600)));
    pair.shutdown().await;
}

/// Runs a job up to the provider's completion.
async fn finish(node: &Arc<dyn Node>, job: &JobKey) -> UnixSeconds {
    let mut stream = within("the job stream", node.open_job(job)).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    UnixSeconds(u64::from_be_bytes(answer.try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_learns_of_its_providers_restart_and_why_its_job_failed() {
    let pair = Pair::start().await;
    let provision = provide(&pair, Some(600)).await;
    let consumer = pair.consumer.handle();
    let offer_seen = see_offer(&consumer, "echo").await;
    let job = consumer
        .create_job(offer_seen.snapshot_id, None)
        .await
        .unwrap();
    let mut stream = consumer.open_job(&job).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let address = pair.provider.listen_addresses().await.remove(0);
    pair.provider.shutdown().await;
    drop(provision);
    let mut again = config(pair.provider_dir.path(), Vec::new());
    again.net.listen = vec![address.iter().take(2).collect()];
    let provider = derouter_node::start(again).await.unwrap();

    let mut rest = Vec::new();
    let broken = within("the end of the stream", stream.read_to_end(&mut rest)).await;
    assert!(broken.is_err());
    // Whoever joins again is told.
    let _ = consumer.open_job(&job).await.map(drop);
    let failed = see_job(&consumer, "the failure", |job| job.reason.is_some()).await;
    let reason = failed.reason.unwrap();
    assert!(reason.contains("provider-stopped"), "{reason}");
    provider.shutdown().await;
    pair.consumer.shutdown().await;
}
