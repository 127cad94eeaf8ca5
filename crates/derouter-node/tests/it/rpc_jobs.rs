//! Provider and consumer modules over TCP: offers, jobs and their bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use derouter_sdk::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::rpc_support::*;

/// Echoes job bytes until the consumer closes its side, and completes the job.
#[derive(Default)]
struct Echo {
    accepted: AtomicUsize,
    aborted: Notify,
}

#[async_trait]
impl ProviderService for Echo {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        match job.job_args.as_deref() {
            Some("busy") => Err(JobRefusal::Busy),
            Some("bad") => Err(JobRefusal::InvalidJobArgs("Expected args".into())),
            Some("silent") => std::future::pending().await,
            _ => Ok(()),
        }
    }

    async fn prepare(&self, _: &JobKey) -> Result<(), ConnectionRefusal> {
        match self.accepted.load(Ordering::SeqCst) {
            1000 => Err(ConnectionRefusal::Busy),
            2000 => Err(ConnectionRefusal::JobNotFound),
            _ => Ok(()),
        }
    }

    async fn serve(&self, job: JobKey, desk: Arc<dyn ProviderDesk>, mut stream: JobStream) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => stream.write_all(&buffer[..count]).await.unwrap(),
                Err(_) => return self.aborted.notify_one(),
            }
        }
        let completion = ProviderCompletion {
            balance_delta: Some(Wei::from_wei(600)),
            public_payload: "{}".into(),
            private_payload: None,
        };
        let at = desk.complete(&job, completion).await.unwrap();
        stream
            .write_all(format!("completed at {at}").as_bytes())
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
    }
}

async fn provide(served: &Served, names: &[&str]) -> (Arc<Echo>, Provision) {
    let echo = Arc::new(Echo::default());
    let offers = names.iter().map(|name| spec(name)).collect();
    let options = ProvideOptions {
        max_unsigned: Some(Wei::from_wei(7)),
    };
    let module = served.module();
    let provided = module.provide(offers, options, echo.clone());
    (echo, soon(provided).await.unwrap())
}

#[tokio::test]
async fn offers_are_on_the_market_as_long_as_their_provision() {
    let served = serve().await;
    let (_, provision) = provide(&served, &["a", "b"]).await;
    assert_eq!(served.node.offers(), 2);
    assert_eq!(served.node.max_unsigned(), Some(Wei::from_wei(7)));
    let module = served.module();
    let offers = vec![spec("c"), spec("a")];
    let again = module.provide(offers, ProvideOptions::default(), Arc::new(Echo::default()));
    match soon(again).await.unwrap_err() {
        ProvideError::Duplicate { offer_id, .. } => assert_eq!(offer_id.as_str(), "a"),
        other => panic!("{other}"),
    }
    // All or none: the other offer of that call goes too.
    until("c is taken back", || served.node.offers() == 2).await;
    drop(provision);
    until("all are taken back", || served.node.offers() == 0).await;
}

#[tokio::test]
async fn a_job_is_served_from_creation_to_completion() {
    let served = serve().await;
    let (echo, _provision) = provide(&served, &["a"]).await;
    let consumer = served.module();
    let offers = soon(consumer.active_offers(&OfferFilter::protocol(protocol())))
        .await
        .unwrap();
    assert_eq!(offers, [offer(peer(), "a", 1)]);
    let key = soon(consumer.create_job(SnapshotId(1), Some("{}".into())))
        .await
        .unwrap();
    assert_eq!(echo.accepted.load(Ordering::SeqCst), 1);
    let mut stream = soon(consumer.open_job(&key)).await.unwrap();
    soon(stream.write_all(b"hello ")).await.unwrap();
    let mut hello = [0; 6];
    soon(stream.read_exact(&mut hello)).await.unwrap();
    assert_eq!(&hello, b"hello ");
    // Half-close: our end is closed, theirs still speaks.
    stream.write_all(b"bye ").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    soon(stream.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "bye completed at 1750000005");
    assert!(served.node.called("provider_complete_job"));
    let remote = soon(consumer.remote_job(&key)).await.unwrap();
    assert_eq!(remote.balance_delta, Some(Wei::MAX));
}

#[tokio::test]
async fn refusals_of_a_service_reach_the_consumer() {
    let served = serve().await;
    let (echo, _provision) = provide(&served, &["a"]).await;
    let consumer = served.module();
    let busy = soon(consumer.create_job(SnapshotId(1), Some("busy".into()))).await;
    assert!(matches!(busy, Err(CreateJobError::ProviderBusy)));
    let bad = soon(consumer.create_job(SnapshotId(1), Some("bad".into()))).await;
    assert!(matches!(bad, Err(CreateJobError::InvalidJobArgs(why)) if why == "Expected args"));
    let key = soon(consumer.create_job(SnapshotId(1), None))
        .await
        .unwrap();
    echo.accepted.store(1000, Ordering::SeqCst);
    let busy = soon(consumer.open_job(&key)).await;
    assert!(matches!(busy, Err(OpenJobError::ProviderBusy)));
    echo.accepted.store(2000, Ordering::SeqCst);
    let unknown = soon(consumer.open_job(&key)).await;
    assert!(matches!(unknown, Err(OpenJobError::ProviderJobNotFound)));
}

#[tokio::test]
async fn a_service_that_never_answers_is_busy_and_holds_up_nobody() {
    let served = serve().await;
    let (_, _provision) = provide(&served, &["a"]).await;
    let consumer = served.module();
    let silent = consumer.create_job(SnapshotId(1), Some("silent".into()));
    let others = async {
        for _ in 0..20 {
            soon(consumer.create_job(SnapshotId(1), None))
                .await
                .unwrap();
        }
        std::time::Instant::now()
    };
    let (silent, others_done) = tokio::join!(soon(silent), others);
    assert!(matches!(silent, Err(CreateJobError::ProviderBusy)));
    assert!(
        others_done.elapsed().as_secs() >= 4,
        "the others waited for the silent one"
    );
}

#[tokio::test]
async fn job_arguments_of_5_mib_and_as_many_bytes_on_the_stream_pass() {
    let served = serve().await;
    let (_, _provision) = provide(&served, &["a"]).await;
    let consumer = served.module();
    let prompt = "x".repeat(5 << 20);
    let key = soon(consumer.create_job(SnapshotId(1), Some(prompt)))
        .await
        .unwrap();
    assert!(served.node.called("5242880"));
    let stream = soon(consumer.open_job(&key)).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..5_u32 << 20).map(|at| (at % 251) as u8).collect();
    let expected = sent.clone();
    let writing = async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let reading = async {
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = soon(async { tokio::join!(writing, reading) }).await;
    assert!(received.starts_with(&expected));
    assert!(received.ends_with(b"completed at 1750000005"));
}

#[tokio::test]
async fn arguments_over_8_mib_are_refused_before_they_are_sent() {
    let served = serve().await;
    let consumer = served.module();
    let prompt = "x".repeat(9 << 20);
    let refused = soon(consumer.create_job(SnapshotId(1), Some(prompt))).await;
    assert!(matches!(
        refused,
        Err(CreateJobError::Node(NodeError::Invalid(_)))
    ));
    soon(consumer.peer_id()).await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_drops_its_stream_aborts_the_service() {
    let served = serve().await;
    let (echo, _provision) = provide(&served, &["a"]).await;
    let consumer = served.module();
    let key = soon(consumer.create_job(SnapshotId(1), None))
        .await
        .unwrap();
    let mut stream = soon(consumer.open_job(&key)).await.unwrap();
    soon(stream.write_all(b"hello")).await.unwrap();
    let mut hello = [0; 5];
    soon(stream.read_exact(&mut hello)).await.unwrap();
    drop(stream);
    // In memory, a dropped pipe reads as closed and fails to be written.
    until("the job ends", || {
        served.node.called("provider_complete_job")
            || futures::FutureExt::now_or_never(echo.aborted.notified()).is_some()
    })
    .await;
}

#[tokio::test]
async fn a_job_can_be_connected_to_many_times_at_once() {
    let served = serve().await;
    let (_, _provision) = provide(&served, &["a"]).await;
    let consumer = served.module();
    let key = soon(consumer.create_job(SnapshotId(1), None))
        .await
        .unwrap();
    let talks = (0..50).map(|number| {
        let (consumer, key) = (consumer.clone(), key.clone());
        async move {
            let mut stream = consumer.open_job(&key).await.unwrap();
            let said = format!("number {number} ");
            stream.write_all(said.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, said + "completed at 1750000005");
        }
    });
    soon(futures::future::join_all(talks)).await;
}

#[tokio::test]
async fn a_provider_fails_jobs_in_its_own_role() {
    let served = serve().await;
    let module = served.module();
    let offers = vec![spec("a")];
    let service = Arc::new(Echo::default());
    let provision = module.provide(offers, ProvideOptions::default(), service);
    let _provision = soon(provision).await.unwrap();
    soon(module.provider_fail_job(&job(peer(), "j"), failure()))
        .await
        .unwrap();
    assert!(served.node.called("provider_fail_job"));
    assert!(!served.node.called(" fail_job"));
    // A job of another provider is one that this node consumes.
    soon(module.provider_fail_job(&job(other_peer(), "j"), failure()))
        .await
        .unwrap();
    assert!(
        served
            .node
            .calls()
            .iter()
            .any(|call| call.starts_with("fail_job"))
    );
    // No row as the provider: the consumer's row is meant.
    soon(module.provider_fail_job(&job(peer(), "consumer-only"), failure()))
        .await
        .unwrap();
    let unknown = soon(module.provider_fail_job(&job(peer(), "unknown"), failure())).await;
    assert!(matches!(unknown, Err(FailJobError::InvalidJobId)));

    let complete = |name| {
        let completion = ProviderCompletion {
            balance_delta: None,
            public_payload: "{}".into(),
            private_payload: Some("p".into()),
        };
        let module = module.clone();
        async move { soon(module.provider_complete_job(&job(peer(), name), completion)).await }
    };
    assert_eq!(complete("j").await.unwrap(), UnixSeconds(1_750_000_005));
    let completed = complete("completed").await;
    assert!(matches!(
        completed,
        Err(ProviderCompleteError::AlreadyCompleted { .. })
    ));
    let failed = complete("failed").await;
    assert!(matches!(
        failed,
        Err(ProviderCompleteError::AlreadyFailed(_))
    ));
    let unknown = complete("unknown").await;
    assert!(matches!(unknown, Err(ProviderCompleteError::InvalidJobId)));
}

fn as_provider() -> ProviderCompletion {
    ProviderCompletion {
        balance_delta: None,
        public_payload: "{}".into(),
        private_payload: None,
    }
}

#[tokio::test]
async fn a_provider_that_fails_a_completed_job_leaves_the_consumer_of_this_node_alone() {
    let served = serve().await;
    let module = served.module();
    let service = Arc::new(Echo::default());
    let provision = module.provide(vec![spec("a")], ProvideOptions::default(), service);
    let _provision = soon(provision).await.unwrap();
    let consumer = served.module();
    let key = soon(consumer.create_job(SnapshotId(1), None))
        .await
        .unwrap();
    soon(module.provider_complete_job(&key, as_provider()))
        .await
        .unwrap();
    let failed = soon(module.provider_fail_job(&key, failure())).await;
    assert!(
        matches!(failed, Err(FailJobError::AlreadyCompleted)),
        "{failed:?}"
    );
    let calls = served.node.calls();
    assert!(!calls.iter().any(|call| call.starts_with("fail_job")));
    // The consumer itself can.
    soon(consumer.fail_job(&key, failure())).await.unwrap();
}

#[tokio::test]
async fn offers_come_back_after_the_node_was_restarted() {
    let served = serve().await;
    let (_, _provision) = provide(&served, &["a", "b"]).await;
    let served = served.restart().await;
    let provided_twice = || {
        let calls = served.node.calls();
        calls
            .iter()
            .filter(|call| call.starts_with("provide "))
            .count()
            >= 4
    };
    until("both are provided again", || {
        provided_twice() && served.node.offers() == 2
    })
    .await;
    let consumer = served.module();
    let offers = soon(consumer.active_offers(&OfferFilter::default()))
        .await
        .unwrap();
    let key = soon(consumer.create_job(offers[0].snapshot_id, None))
        .await
        .unwrap();
    soon(consumer.open_job(&key)).await.unwrap();
}

#[tokio::test]
async fn five_thousand_offers_are_provided_by_one_module() {
    let served = serve().await;
    let offers = (0..5000)
        .map(|number| spec(&format!("offer-{number}")))
        .collect();
    let service = Arc::new(Echo::default());
    let module = served.module();
    let provided = module.provide(offers, ProvideOptions::default(), service);
    let provision = soon(provided).await.unwrap();
    assert_eq!(served.node.offers(), 5000);
    let all = soon(served.module().active_offers(&OfferFilter::default()))
        .await
        .unwrap();
    assert_eq!(all.len(), 5000);
    drop(provision);
    until("all are taken back", || served.node.offers() == 0).await;
}
