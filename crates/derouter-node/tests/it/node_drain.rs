//! A node drains: no new work comes in, and what runs goes on.

use std::sync::Arc;
use std::time::Duration;

use derouter_node::{Left, Silent};
use derouter_sdk::{
    ConsumerCompletion, CreateJobError, JobKey, Node, NodeError, NodeState, ProvideError,
    ProvideOptions, Provision, TcpNode, TcpOptions, UnixSeconds,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Echo, Pair, jobs, offer, see_job, see_offer, see_offer_gone, within};

const LIMIT: Duration = Duration::from_secs(30);

async fn provide(pair: &Pair) -> Provision {
    pair.provider
        .handle()
        .provide(
            vec![offer("echo", "payload")],
            ProvideOptions::default(),
            Echo::new(Some(600)),
        )
        .await
        .unwrap()
}

async fn job(pair: &Pair) -> JobKey {
    let consumer = pair.consumer.handle();
    let offer = see_offer(&consumer, "echo").await;
    let created = consumer.create_job(offer.snapshot_id, None);
    within("the job", created).await.unwrap()
}

fn over_rpc(node: &derouter_node::RunningNode) -> TcpNode {
    let address = node.rpc_addr().unwrap().to_string();
    TcpNode::connect(address, TcpOptions::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_accepted_is_served_and_signed_during_the_drain() {
    let pair = Pair::start().await;
    let _provision = provide(&pair).await;
    let job = job(&pair).await;
    let consumer = pair.consumer.handle();
    within("the drain", pair.provider.begin_drain(LIMIT)).await;
    see_offer_gone(&consumer, "echo").await;
    assert_eq!(pair.provider.left().jobs, 1);

    let mut stream = within("the stream", consumer.open_job(&job)).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    let at = u64::from_be_bytes(answer[5..].try_into().unwrap());
    let completion = ConsumerCompletion {
        public_payload: "{\"bytes\":5}".into(),
        private_payload: None,
        balance_delta: Some(derouter_sdk::Wei::from_wei(600)),
        completed_at_sync: UnixSeconds(at),
    };
    consumer.complete_job(&job, completion).await.unwrap();
    within("the end of the drain", pair.provider.drained()).await;
    assert_eq!(pair.provider.left(), Left::default());
    let sold = &jobs(&pair.provider.handle()).await[0];
    assert!(sold.signature_confirmed_at_local.is_some(), "{sold:?}");
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_comes_in_while_a_node_drains() {
    let pair = Pair::start().await;
    let _provision = provide(&pair).await;
    let consumer = pair.consumer.handle();
    let offer_id = see_offer(&consumer, "echo").await.snapshot_id;
    within("the drain", pair.provider.begin_drain(LIMIT)).await;
    let refused = within("an answer", consumer.create_job(offer_id, None)).await;
    assert!(
        matches!(refused, Err(CreateJobError::ProviderOfferNotFound)),
        "{refused:?}"
    );
    let late = pair
        .provider
        .handle()
        .provide(
            vec![offer("late", "payload")],
            ProvideOptions::default(),
            Echo::new(None),
        )
        .await;
    assert!(
        matches!(late, Err(ProvideError::Node(NodeError::ShuttingDown))),
        "{late:?}"
    );
    within("the end of the drain", pair.provider.drained()).await;
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_over_the_rpc_are_told_and_keep_their_connection() {
    let pair = Pair::start().await;
    let _provision = provide(&pair).await;
    let module = over_rpc(&pair.consumer);
    let module_node: Arc<dyn Node> = Arc::new(module);
    let offer_id = see_offer(&module_node, "echo").await.snapshot_id;
    let running = module_node.create_job(offer_id, None).await.unwrap();
    let mut stream = module_node.open_job(&running).await.unwrap();
    let mut states = module_node.watch_state().await.unwrap();
    assert_eq!(states.next().await, Some(NodeState::Serving));

    within("the drain", pair.consumer.begin_drain(LIMIT)).await;
    let draining = within("the state", async {
        loop {
            if let Some(NodeState::Draining { left }) = states.next().await {
                return left;
            }
        }
    });
    let left = draining.await;
    assert!(left <= LIMIT && left > LIMIT / 2, "{left:?}");
    let refused = module_node.create_job(offer_id, None).await;
    assert!(
        matches!(refused, Err(CreateJobError::Node(NodeError::ShuttingDown))),
        "{refused:?}"
    );
    assert_eq!(pair.consumer.left().jobs, 1);
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer[..5], b"hello");
    drop(stream);
    within("the end of the drain", pair.consumer.drained()).await;
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_begins_during_the_drain_is_told_too() {
    let pair = Pair::start().await;
    within("the drain", pair.consumer.begin_drain(LIMIT)).await;
    let in_process = pair.consumer.handle();
    let over_rpc: Arc<dyn Node> = Arc::new(over_rpc(&pair.consumer));
    for node in [in_process, over_rpc] {
        let mut states = node.watch_state().await.unwrap();
        within("the state", async {
            while let Some(NodeState::Serving) = states.next().await {}
        })
        .await;
    }
    pair.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_a_pulse_until_it_stops() {
    let pair = Pair::start().await;
    let pulse = pair.consumer.pulse();
    pulse.feel(LIMIT).await.unwrap();
    pair.shutdown().await;
    assert_eq!(pulse.feel(LIMIT).await, Err(Silent::Network));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_an_earlier_run_are_settled_before_anything_is_served() {
    let pair = Pair::start().await;
    let _provision = provide(&pair).await;
    let _job = job(&pair).await;
    let provider = pair.provider.handle();
    see_job(&provider, "the open job", |job| job.reason.is_none()).await;
    drop(provider);
    let dir = pair.provider_dir;
    pair.provider.shutdown().await;
    let again = derouter_node::start(crate::support::config(dir.path(), Vec::new()))
        .await
        .unwrap();
    // The first thing that anybody can ask.
    let found = jobs(&again.handle()).await;
    assert!(found[0].reason.is_some(), "{found:?}");
    again.shutdown().await;
    pair.consumer.shutdown().await;
}
