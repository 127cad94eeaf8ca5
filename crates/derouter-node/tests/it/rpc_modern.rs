//! What 0.2 adds behind its Hello: deadlines, cancelling, pages, tickets, places.

use std::sync::Arc;
use std::time::Duration;

use derouter_sdk::wire::rpc::event::*;
use derouter_sdk::wire::rpc::list::*;
use derouter_sdk::wire::rpc::request::*;
use derouter_sdk::wire::rpc::ticket::Ticket;
use derouter_sdk::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use crate::rpc_raw::*;
use crate::rpc_support::*;
use crate::support;

/// Answers when it is let, and serves a word.
struct Held(Arc<Semaphore>);

#[async_trait]
impl ProviderService for Held {
    async fn accept(&self, _: ProviderJob) -> Result<(), JobRefusal> {
        self.0.acquire().await.unwrap().forget();
        Ok(())
    }

    async fn prepare(&self, _: &JobKey) -> Result<(), ConnectionRefusal> {
        self.0.acquire().await.unwrap().forget();
        Ok(())
    }

    async fn serve(&self, _: JobKey, _: Arc<dyn ProviderDesk>, mut stream: JobStream) {
        let _ = stream.write_all(b"served").await;
        let _ = stream.shutdown().await;
    }
}

/// An offer whose jobs wait for a permit each.
async fn hold(served: &Served) -> (Arc<Semaphore>, Provision) {
    let permits = Arc::new(Semaphore::new(0));
    let node = Handle(Arc::clone(&served.node));
    let service = Arc::new(Held(Arc::clone(&permits)));
    let provided = node.provide(vec![spec("a")], ProvideOptions::default(), service);
    (permits, provided.await.unwrap())
}

fn create() -> ConsumerCreateJob {
    ConsumerCreateJob {
        offer_snapshot_id: SnapshotId(1),
        currency: Currency::Pol,
        job_args: None,
    }
}

async fn created(raw: &mut Raw, permits: &Semaphore) -> ConsumerOpenJobConnection {
    permits.add_permits(1);
    match raw.ask(1, &create()).await.unwrap() {
        CreateJobReply::Ok {
            provider_peer_id,
            provider_job_id,
        } => ConsumerOpenJobConnection {
            provider_peer_id: provider_peer_id.into(),
            provider_job_id: provider_job_id.to_string(),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_request_that_only_asks_is_cancelled_and_answered_once() {
    let served = serve().await;
    let (permits, _provision) = hold(&served).await;
    let mut raw = Raw::greet(&served).await;
    let open = created(&mut raw, &permits).await;
    raw.send(7, &open, 60_000).await;
    until("it is in work", || served.node.called("open_job")).await;
    raw.cancel(7).await;
    raw.cancel(7).await;
    let error = raw.reply::<ConsumerOpenJobConnection>(7).await.unwrap_err();
    assert_eq!(error.code, "Cancelled");
    // What nobody waits for any more, and what never was, can be cancelled in vain.
    raw.cancel(7).await;
    raw.cancel(12_345).await;
    // The id is free again.
    permits.add_permits(1);
    let opened = raw.ask(7, &open).await.unwrap();
    assert!(matches!(opened, OpenJobConnectionReply::Ok { .. }));
}

#[tokio::test]
async fn a_request_is_cancelled_by_the_very_next_frame() {
    let served = serve().await;
    let (permits, _provision) = hold(&served).await;
    let mut raw = Raw::greet(&served).await;
    let open = created(&mut raw, &permits).await;
    for id in 10..60 {
        let mut both = wire::rpc::encode_request(
            id,
            <ConsumerOpenJobConnection as wire::rpc::Call>::TYPE,
            &open,
            60_000,
        );
        both.extend(wire::rpc::encode_cancel(id));
        raw.write(&both).await;
        let error = raw
            .reply::<ConsumerOpenJobConnection>(id)
            .await
            .unwrap_err();
        assert_eq!(error.code, "Cancelled");
    }
}

#[tokio::test]
async fn a_step_on_a_job_is_taken_to_its_end_whoever_cancels() {
    let served = serve().await;
    let (permits, _provision) = hold(&served).await;
    let mut raw = Raw::greet(&served).await;
    raw.send(3, &create(), 60_000).await;
    until("it is in work", || served.node.called("create_job")).await;
    raw.cancel(3).await;
    permits.add_permits(1);
    let reply = raw.reply::<ConsumerCreateJob>(3).await.unwrap();
    assert!(matches!(reply, CreateJobReply::Ok { .. }));
}

#[tokio::test]
async fn behind_its_deadline_a_request_is_answered_once_and_a_step_goes_on() {
    let served = serve().await;
    let (permits, _provision) = hold(&served).await;
    let mut raw = Raw::greet(&served).await;
    raw.send(3, &create(), 20).await;
    let error = raw.reply::<ConsumerCreateJob>(3).await.unwrap_err();
    assert_eq!(error.code, "DeadlineExceeded");
    // The step is still being taken: its id is not free.
    let error = raw
        .ask(
            3,
            &ListProviders {
                after: None,
                limit: 1,
            },
        )
        .await
        .unwrap_err();
    assert_eq!(error.code, "BadRequest");
    permits.add_permits(1);
    let free = async {
        let list = ListProviders {
            after: None,
            limit: 1,
        };
        while raw.ask(3, &list).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // Its own answer never comes: every answer here is one to the list.
    soon(free).await;
}

#[tokio::test]
async fn a_call_that_its_caller_drops_is_cancelled() {
    let served = serve().await;
    let (permits, _provision) = hold(&served).await;
    let module = served.module();
    permits.add_permits(1);
    let key = soon(module.create_job(SnapshotId(1), None)).await.unwrap();
    let opening = tokio::spawn({
        let (module, key) = (module.clone(), key.clone());
        async move { module.open_job(&key).await.map(drop) }
    });
    until("it is in work", || served.node.called("open_job")).await;
    opening.abort();
    // Only the second one is there to take the permit.
    let second = module.open_job(&key);
    let permit = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        permits.add_permits(1);
    };
    let (second, ()) = soon(async { tokio::join!(second, permit) }).await;
    let mut said = String::new();
    soon(second.unwrap().read_to_string(&mut said))
        .await
        .unwrap();
    assert_eq!(said, "served");
}

#[tokio::test]
async fn a_ticket_is_good_once_and_only_on_its_connection() {
    let served = serve().await;
    let (permits, _provision) = hold(&served).await;
    let (mut raw, mut thief) = (Raw::greet(&served).await, Raw::greet(&served).await);
    let open = created(&mut raw, &permits).await;
    permits.add_permits(1);
    let OpenJobConnectionReply::Ok { connection_id } = raw.ask(2, &open).await.unwrap() else {
        panic!("not opened");
    };
    let Ticket::Random(bytes) = connection_id else {
        panic!("not random");
    };
    let list = ListProviders {
        after: None,
        limit: 1,
    };
    thief.ask(1, &list).await.unwrap();
    let mut stolen = thief.mux.open().await.unwrap();
    stolen.write_all(&bytes).await.unwrap();
    soon(stolen.read_u8()).await.unwrap_err();
    let mut guessed = raw.mux.open().await.unwrap();
    guessed.write_all(&[0; 16]).await.unwrap();
    soon(guessed.read_u8()).await.unwrap_err();
    let mut stream = raw.mux.open().await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut said = [0; 6];
    soon(stream.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"served");
    let mut again = raw.mux.open().await.unwrap();
    again.write_all(&bytes).await.unwrap();
    soon(again.read_u8()).await.unwrap_err();
}

fn list_jobs(after: Option<Cursor>, limit: u64) -> ListJobs {
    ListJobs {
        protocol_ids: None,
        provider_peer_ids: None,
        consumer_peer_ids: None,
        after,
        newest_first: false,
        limit,
    }
}

#[tokio::test]
async fn lists_come_in_pages_with_cursors_of_their_own() {
    let served = serve().await;
    served.node.set_jobs((1..=7).map(job_record).collect());
    let mut raw = Raw::greet(&served).await;
    for newest_first in [false, true] {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let mut asked = list_jobs(after, 3);
            asked.newest_first = newest_first;
            let reply = raw.ask(1, &asked).await.unwrap();
            let FilteredReply::Ok(page) = reply else {
                panic!("no page");
            };
            assert!(page.items.len() <= 3);
            rows.extend(page.items.into_iter().map(|job| job.job_rowid.0));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut all: Vec<u64> = (1..=7).collect();
        if newest_first {
            all.reverse();
        }
        assert_eq!(rows, all);
    }
    for limit in [0, 101, u64::from(u32::MAX) + 1] {
        let error = raw.ask(2, &list_jobs(None, limit)).await.unwrap_err();
        assert_eq!(error.code, "InvalidLimit");
    }
    let others = Cursor::behind_peer(&peer());
    let error = raw.ask(3, &list_jobs(Some(others), 1)).await.unwrap_err();
    assert_eq!(error.code, "InvalidCursor");
}

#[tokio::test]
async fn a_subscription_tells_its_state_and_then_what_changes() {
    let served = serve().await;
    served.node.set_providers(vec![record(peer(), 1)]);
    let mut raw = Raw::greet(&served).await;
    let subscribe = SubscribeToActiveProviders { since: None };
    let FilteredReply::Ok(subscribed) = raw.ask(1, &subscribe).await.unwrap() else {
        panic!("refused");
    };
    assert!(!subscribed.resumed());
    let subscription_id = subscribed.id();
    assert_eq!(
        raw.event::<EventReset>().await,
        EventReset { subscription_id }
    );
    let EventProviderUpdated(state) = raw.event().await;
    assert_eq!((state.payload, state.cursor), (record(peer(), 1), None));
    let ready: EventReady = raw.event().await;
    assert_eq!(ready.subscription_id, subscription_id);
    let event = ProviderEvent::Heartbeat(heartbeat(peer()));
    served.node.tell_provider(event).await;
    let EventProviderHeartbeat(beat) = raw.event().await;
    assert_eq!(beat.payload, heartbeat(peer()));
}

#[tokio::test]
async fn errors_of_every_kind_have_one_form() {
    let served = serve().await;
    let mut raw = Raw::greet(&served).await;
    raw.request(1, "MakeCoffee", &NULL).await;
    let body = raw.read().await;
    let frame = wire::rpc::Frame::decode(&body).unwrap();
    let error = wire::rpc::error::decode_answer::<QuerySystem>(frame.data);
    assert_eq!(error.unwrap().unwrap_err().code, "UnknownRequest");
    let cancel = CancelSubscription {
        subscription_id: wire::SubscriptionId(9),
    };
    let reply = raw.ask(2, &cancel).await.unwrap();
    assert_eq!(reply, CancelSubscriptionReply::InvalidSubscriptionId);
    served
        .node
        .fail("offer_snapshots", NodeError::Internal("disk full".into()));
    let query = QueryOfferSnapshots::default();
    let error = raw.ask(3, &query).await.unwrap_err();
    assert_eq!(error.code, "InternalError");
    assert!(error.message.contains("disk full"));
}

async fn next<T>(watch: &mut Watch<T>) -> T {
    soon(watch.next()).await.expect("an event")
}

/// A node of its own, whose jobs are on its own offer.
async fn trading(dir: &std::path::Path) -> (derouter_node::RunningNode, Provision, Arc<Semaphore>) {
    let node = derouter_node::start(support::config(dir, vec![]))
        .await
        .unwrap();
    let permits = Arc::new(Semaphore::new(1000));
    let service = Arc::new(Held(Arc::clone(&permits)));
    let options = ProvideOptions::default();
    let handle = node.handle();
    let provided = handle.provide(vec![spec("a")], options, service);
    let provision = soon(provided).await.unwrap();
    (node, provision, permits)
}

async fn make_job(node: &dyn Node) -> JobKey {
    let offers = node.active_offers(&OfferFilter::default()).await.unwrap();
    soon(node.create_job(offers[0].snapshot_id, None))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_watch_of_jobs_goes_on_across_a_restart_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let (node, provision, _permits) = trading(dir.path()).await;
    let handle = node.handle();
    let mut watch = handle.watch_jobs(JobFilter::default()).await.unwrap();
    assert_eq!(next(&mut watch).await, JobEvent::Reset);
    let first = make_job(&*handle).await;
    // Both sides have a row.
    for _ in 0..2 {
        let JobEvent::Updated(job) = next(&mut watch).await else {
            panic!("no job");
        };
        assert_eq!(job.provider_job_id, first.job_id);
    }
    let since = watch.cursor().cloned().unwrap();
    let second = make_job(&*handle).await;
    drop((watch, provision, handle));
    node.shutdown().await;
    let node = derouter_node::start(support::config(dir.path(), vec![]))
        .await
        .unwrap();
    let handle = node.handle();
    let mut watch = handle
        .resume_jobs(JobFilter::default(), &since)
        .await
        .unwrap();
    assert!(watch.resumed());
    // What changed meanwhile: the second job was made, and the provider's rows of both were given up
    // at the start.
    let mut told = std::collections::HashMap::new();
    let mut events = 0;
    while told.len() < 2 || events < 3 {
        let JobEvent::Updated(job) = next(&mut watch).await else {
            panic!("not a change");
        };
        events += 1;
        told.insert(job.provider_job_id.clone(), job);
    }
    assert!(told.contains_key(&first.job_id) && told.contains_key(&second.job_id));
    let strange = Cursor::new("j.0000000000000000.1").unwrap();
    let mut anew = handle
        .resume_jobs(JobFilter::default(), &strange)
        .await
        .unwrap();
    assert!(!anew.resumed());
    assert_eq!(next(&mut anew).await, JobEvent::Reset);
    let start = Cursor::start();
    let mut all = handle
        .resume_jobs(JobFilter::default(), &start)
        .await
        .unwrap();
    for _ in 0..4 {
        assert!(matches!(next(&mut all).await, JobEvent::Updated(_)));
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_watch_of_offers_goes_on_in_one_run_and_starts_anew_in_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = support::config(dir.path(), vec![]);
    config.rpc = Some(derouter_node::RpcOptions {
        directory: Some(dir.path().to_path_buf()),
        ..Default::default()
    });
    let node = derouter_node::start(config.clone()).await.unwrap();
    let address = node.rpc_addr().unwrap().to_string();
    let module = TcpNode::find(dir.path(), address, TcpOptions::default());
    let filter = OfferFilter::default();
    let mut watch = soon(module.watch_offers(filter.clone())).await.unwrap();
    assert_eq!(next(&mut watch).await, OfferEvent::Reset(vec![]));
    let since = watch.cursor().cloned().expect("a place");
    drop(watch);
    let permits = Arc::new(Semaphore::new(1));
    let service = Arc::new(Held(permits));
    let options = ProvideOptions::default();
    let handle = node.handle();
    let provided = handle.provide(vec![spec("a")], options, service);
    let provision = soon(provided).await.unwrap();
    let resumed = module.resume_offers(filter.clone(), &since);
    let mut watch = soon(resumed).await.unwrap();
    assert!(watch.resumed());
    let OfferEvent::Updated(offer) = next(&mut watch).await else {
        panic!("not the change alone");
    };
    assert_eq!(offer.offer_id.as_str(), "a");
    drop((watch, provision, handle));
    node.shutdown().await;
    let node = derouter_node::start(config).await.unwrap();
    let mut anew = soon(node.handle().resume_offers(filter, &since))
        .await
        .unwrap();
    assert!(!anew.resumed());
    assert_eq!(next(&mut anew).await, OfferEvent::Reset(vec![]));
    node.shutdown().await;
}
