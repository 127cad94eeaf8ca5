use std::sync::Arc;
use std::time::{Duration, Instant};

use derouter_sdk::{
    CompleteJobError, ConsumerCompletion, CreateJobError, FailJobError, FailureReason, JobKey,
    Node, OpenJobError, ProvideOptions, Provision, SnapshotId, UnixSeconds, Wei,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Echo, Pair, config, jobs, offer, see_job, see_offer, within};

async fn provide(pair: &Pair, service: Arc<Echo>, max_unsigned: Option<u128>) -> Provision {
    let options = ProvideOptions {
        max_unsigned: max_unsigned.map(Wei::from_wei),
    };
    pair.provider
        .handle()
        .provide(vec![offer("echo", "payload")], options, service)
        .await
        .unwrap()
}

/// Runs a job up to the provider's completion; returns when that was.
async fn run_job(node: &Arc<dyn Node>, job: &JobKey, text: &[u8]) -> UnixSeconds {
    let mut stream = within("the job stream", node.open_job(job)).await.unwrap();
    stream.write_all(text).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer[..text.len()], text);
    UnixSeconds(u64::from_be_bytes(answer[text.len()..].try_into().unwrap()))
}

fn completion(length: usize, price: Option<u128>, at: UnixSeconds) -> ConsumerCompletion {
    ConsumerCompletion {
        public_payload: format!("{{\"bytes\":{length}}}"),
        private_payload: None,
        balance_delta: price.map(Wei::from_wei),
        completed_at_sync: at,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_created_served_signed_and_confirmed_on_both_sides() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Echo::new(Some(600)), None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await;
    let job = within(
        "the job",
        consumer.create_job(offer.snapshot_id, Some("{}".into())),
    );
    let job = job.await.unwrap();
    assert_eq!(job.provider, pair.provider.peer_id());

    let at = run_job(&consumer, &job, b"hello").await;
    let remote = consumer.remote_job(&job).await.unwrap();
    assert_eq!(remote.balance_delta, Some(Wei::from_wei(600)));
    assert_eq!(remote.completed_at_sync, Some(at));

    consumer
        .complete_job(&job, completion(5, Some(600), at))
        .await
        .unwrap();
    for node in [consumer.clone(), pair.provider.handle()] {
        let record = see_job(&node, "the confirmation", |job| {
            job.signature_confirmed_at_local.is_some()
        });
        let record = record.await;
        assert_eq!(record.provider_job_id, job.job_id);
        assert_eq!(record.consumer_peer_id, pair.consumer.peer_id());
        assert_eq!(record.balance_delta.as_deref(), Some("600"));
        assert_eq!(record.public_payload.as_deref(), Some("{\"bytes\":5}"));
        assert_eq!(record.completed_at_sync, Some(at));
        assert_eq!(record.confirmation_error, None);
    }
    let again = consumer
        .complete_job(&job, completion(5, Some(600), at))
        .await
        .unwrap_err();
    assert!(matches!(again, CompleteJobError::AlreadyCompleted));
    let failed = consumer
        .fail_job(&job, FailureReason::default())
        .await
        .unwrap_err();
    assert!(matches!(failed, FailJobError::AlreadyCompleted));
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_reaches_the_consumer_as_what_it_is() {
    let pair = Pair::start().await;
    let provision = provide(&pair, Echo::new(None), None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await.snapshot_id;
    let refusal = |args: &str| consumer.create_job(offer, Some(args.into()));
    assert!(matches!(
        refusal("busy").await,
        Err(CreateJobError::ProviderBusy)
    ));
    let bad = refusal("bad").await;
    assert!(matches!(bad, Err(CreateJobError::InvalidJobArgs(text)) if text == "bad args"));
    let unknown = consumer.create_job(SnapshotId(999), None).await;
    assert!(matches!(unknown, Err(CreateJobError::LocalOfferNotFound)));
    assert!(
        jobs(&consumer).await.is_empty(),
        "a refused job leaves no row"
    );
    assert!(jobs(&pair.provider.handle()).await.is_empty());

    let job = consumer.create_job(offer, None).await.unwrap();
    drop(provision);
    let gone = within("the refusal", async {
        loop {
            match consumer.create_job(offer, None).await {
                Err(error) => return error,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    });
    assert!(matches!(gone.await, CreateJobError::ProviderOfferNotFound));
    // It goes on: the job was joined when it was created.
    drop(consumer.open_job(&job).await.unwrap());
    let nobody = JobKey {
        provider: job.provider,
        job_id: derouter_sdk::JobId::new("none").unwrap(),
    };
    assert!(matches!(
        consumer.open_job(&nobody).await,
        Err(OpenJobError::LocalJobNotFound)
    ));

    pair.provider.shutdown().await;
    let unreachable = within("the end of the wait", consumer.create_job(offer, None)).await;
    assert!(
        matches!(unreachable, Err(CreateJobError::ProviderUnreachable)),
        "{unreachable:?}"
    );
    pair.consumer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_never_answers_delays_no_other_job() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Echo::new(None), None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await.snapshot_id;
    let stuck: Vec<_> = (0..50)
        .map(|_| {
            let consumer = consumer.clone();
            tokio::spawn(async move { consumer.create_job(offer, Some("never".into())).await })
        })
        .collect();
    for number in 0..10 {
        let job = within("a job beside stuck ones", consumer.create_job(offer, None))
            .await
            .unwrap();
        run_job(&consumer, &job, format!("{number}").as_bytes()).await;
    }
    let still_waiting = stuck.iter().filter(|task| !task.is_finished()).count();
    assert!(
        still_waiting > 0,
        "the others were served while these waited"
    );
    for task in stuck {
        let outcome = within("the deadline of the module", task).await.unwrap();
        assert!(
            matches!(outcome, Err(CreateJobError::ProviderBusy)),
            "{outcome:?}"
        );
    }
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_sign_is_told_busy_until_it_does() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Echo::new(Some(600)), Some(1_000)).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await.snapshot_id;
    let mut unsigned = Vec::new();
    for _ in 0..2 {
        let job = consumer.create_job(offer, None).await.unwrap();
        let at = run_job(&consumer, &job, b"x").await;
        unsigned.push((job, at));
    }
    assert!(matches!(
        consumer.create_job(offer, None).await,
        Err(CreateJobError::ProviderBusy)
    ));
    let (job, at) = unsigned.remove(0);
    consumer
        .complete_job(&job, completion(1, Some(600), at))
        .await
        .unwrap();
    // The provider's debt book follows its database by a moment.
    let served = async {
        while let Err(error) = consumer.create_job(offer, None).await {
            assert!(matches!(error, CreateJobError::ProviderBusy), "{error}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, served)
        .await
        .unwrap();
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_delivered_after_restarts_of_both_nodes() {
    let pair = Pair::start().await;
    let provision = provide(&pair, Echo::new(Some(600)), None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await.snapshot_id;
    let job = consumer.create_job(offer, None).await.unwrap();
    let at = run_job(&consumer, &job, b"hello").await;

    let Pair {
        provider,
        consumer: consumer_node,
        provider_dir,
        consumer_dir,
    } = pair;
    let listen = provider.listen_addresses().await;
    provider.shutdown().await;
    drop(provision);
    consumer
        .complete_job(&job, completion(5, Some(600), at))
        .await
        .unwrap();
    let record = see_job(&consumer, "a failed delivery", |job| {
        job.confirmation_error.is_some()
    });
    assert_eq!(record.await.signature_confirmed_at_local, None);
    drop(consumer);
    consumer_node.shutdown().await;

    // Both come back; the provider elsewhere than before, as it forgot its ports.
    std::fs::remove_file(provider_dir.path().join("listen_addresses")).unwrap();
    let provider = derouter_node::start(config(provider_dir.path(), Vec::new()))
        .await
        .unwrap();
    let address = provider.listen_addresses().await.remove(0);
    assert!(!listen.contains(&address));
    let consumer_config = config(consumer_dir.path(), vec![address]);
    let consumer_node = derouter_node::start(consumer_config).await.unwrap();
    for node in [consumer_node.handle(), provider.handle()] {
        let confirmed = |job: &derouter_sdk::JobRecord| job.signature_confirmed_at_local.is_some();
        let record = see_job(&node, "the confirmation after restarts", confirmed).await;
        assert_eq!(record.balance_delta.as_deref(), Some("600"));
        assert_eq!(record.confirmation_error, None);
    }
    consumer_node.shutdown().await;
    provider.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_over_another_outcome_is_refused_for_good() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Echo::new(Some(600)), None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await.snapshot_id;
    let job = consumer.create_job(offer, None).await.unwrap();
    let at = run_job(&consumer, &job, b"hello").await;
    consumer
        .complete_job(&job, completion(5, Some(1), at))
        .await
        .unwrap();
    let refused = see_job(&consumer, "the refusal", |job| {
        job.confirmation_error.is_some()
    })
    .await;
    assert_eq!(refused.confirmation_error.as_deref(), Some("HashMismatch"));
    assert_eq!(
        jobs(&pair.provider.handle()).await[0].signature_confirmed_at_local,
        None
    );
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_the_own_offer_works_without_the_network() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut alone = config(dir.path(), Vec::new());
    alone.net.listen.clear();
    let node = derouter_node::start(alone).await.unwrap();
    let handle = node.handle();
    let _provision = handle
        .provide(
            vec![offer("echo", "p")],
            ProvideOptions::default(),
            Echo::new(Some(600)),
        )
        .await
        .unwrap();
    let offer = see_offer(&handle, "echo").await.snapshot_id;
    let job = handle.create_job(offer, None).await.unwrap();
    let at = run_job(&handle, &job, b"hello").await;
    handle
        .complete_job(&job, completion(5, Some(600), at))
        .await
        .unwrap();
    within("both sides confirmed", async {
        loop {
            let all = jobs(&handle).await;
            if all
                .iter()
                .filter(|job| job.signature_confirmed_at_local.is_some())
                .count()
                == 2
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_ran_when_the_provider_stopped_are_given_up_at_its_next_start() {
    let pair = Pair::start().await;
    let provision = provide(&pair, Echo::new(Some(600)), None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await.snapshot_id;
    consumer.create_job(offer, None).await.unwrap();
    let open = jobs(&pair.provider.handle()).await.remove(0);
    assert_eq!((open.reason, open.completed_at_sync), (None, None));
    pair.provider.shutdown().await;
    drop(provision);
    let provider = config(pair.provider_dir.path(), Vec::new());
    let provider = derouter_node::start(provider).await.unwrap();
    let ended = jobs(&provider.handle()).await.remove(0);
    assert!(ended.reason.unwrap().contains("stopped"));
    provider.shutdown().await;
    pair.consumer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_in_the_middle_of_signing_leaves_no_signature_behind() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Echo::new(Some(600)), None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await.snapshot_id;
    let job = consumer.create_job(offer, None).await.unwrap();
    let at = run_job(&consumer, &job, b"hello").await;
    let signing = consumer.complete_job(&job, completion(5, Some(600), at));
    // Begun, and dropped before it could answer.
    let dropped = tokio::time::timeout(Duration::ZERO, signing).await;
    if dropped.is_err() {
        let confirmed = |job: &derouter_sdk::JobRecord| job.signature_confirmed_at_local.is_some();
        see_job(
            &pair.provider.handle(),
            "the signature all the same",
            confirmed,
        )
        .await;
    }
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_at_once_all_end_signed() {
    let pair = Pair::start().await;
    let _provision = provide(&pair, Echo::new(Some(1)), None).await;
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await.snapshot_id;
    let started = Instant::now();
    let running: Vec<_> = (0..100_usize)
        .map(|number| {
            let consumer = consumer.clone();
            tokio::spawn(async move {
                let job = consumer.create_job(offer, None).await.unwrap();
                let text = vec![b'x'; number * 1000];
                let at = run_job(&consumer, &job, &text).await;
                consumer
                    .complete_job(&job, completion(text.len(), Some(1), at))
                    .await
                    .unwrap();
            })
        })
        .collect();
    for task in running {
        within("a job of many", task).await.unwrap();
    }
    within("all confirmed", async {
        loop {
            let signed = |job: &derouter_sdk::JobRecord| job.signature_confirmed_at_local.is_some();
            if jobs(&pair.provider.handle())
                .await
                .iter()
                .filter(|job| signed(job))
                .count()
                == 100
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    eprintln!("100 jobs signed and confirmed in {:?}", started.elapsed());
    pair.shutdown().await;
}
