//! Watches over TCP.

use std::sync::Arc;

use derouter_sdk::wire::rpc::event::OfferRemoved;
use derouter_sdk::*;

use crate::rpc_support::*;

struct Nothing;

#[async_trait]
impl ProviderService for Nothing {
    async fn accept(&self, _: ProviderJob) -> Result<(), JobRefusal> {
        Err(JobRefusal::Busy)
    }

    async fn prepare(&self, _: &JobKey) -> Result<(), ConnectionRefusal> {
        Err(ConnectionRefusal::Busy)
    }

    async fn serve(&self, _: JobKey, _: Arc<dyn ProviderDesk>, _: JobStream) {}
}

async fn next<T>(watch: &mut Watch<T>) -> T {
    soon(watch.next()).await.expect("an event")
}

fn removed(offer: &OfferSnapshot) -> OfferRemoved {
    OfferRemoved {
        snapshot_id: offer.snapshot_id,
        provider_peer_id: offer.provider_peer_id,
        protocol_id: offer.protocol_id.clone(),
        offer_id: offer.offer_id.clone(),
    }
}

#[tokio::test]
async fn a_watch_of_offers_begins_with_all_and_goes_on_with_changes() {
    let served = serve().await;
    let module = served.module();
    let provided = module.provide(
        vec![spec("a")],
        ProvideOptions::default(),
        Arc::new(Nothing),
    );
    let provision = soon(provided).await.unwrap();
    let filter = OfferFilter::protocol(protocol());
    let mut watch = soon(module.watch_offers(filter.clone())).await.unwrap();
    assert!(served.node.called(&format!("watch_offers {filter:?}")));
    let first = offer(peer(), "a", 1);
    assert_eq!(
        next(&mut watch).await,
        OfferEvent::Reset(vec![first.clone()])
    );
    let second = offer(other_peer(), "b", 8);
    served
        .node
        .tell_offer(OfferEvent::Updated(second.clone()))
        .await;
    assert_eq!(next(&mut watch).await, OfferEvent::Updated(second));
    drop(provision);
    assert_eq!(next(&mut watch).await, OfferEvent::Removed(removed(&first)));
}

#[tokio::test]
async fn a_later_full_state_of_the_node_is_what_changed_to_0_1_and_a_full_state_to_0_2() {
    let served = serve().await;
    let mut modern = soon(served.module().watch_offers(OfferFilter::default()))
        .await
        .unwrap();
    let mut watch = soon(served.old_module().watch_offers(OfferFilter::default()))
        .await
        .unwrap();
    assert_eq!(next(&mut watch).await, OfferEvent::Reset(vec![]));
    let (a, b) = (offer(other_peer(), "a", 1), offer(other_peer(), "b", 2));
    served.node.tell_offer(OfferEvent::Updated(a.clone())).await;
    assert_eq!(next(&mut watch).await, OfferEvent::Updated(a.clone()));
    served
        .node
        .tell_offer(OfferEvent::Reset(vec![b.clone()]))
        .await;
    assert_eq!(next(&mut watch).await, OfferEvent::Updated(b.clone()));
    assert_eq!(next(&mut watch).await, OfferEvent::Removed(removed(&a)));
    assert_eq!(next(&mut modern).await, OfferEvent::Reset(vec![]));
    assert_eq!(next(&mut modern).await, OfferEvent::Updated(a));
    assert_eq!(next(&mut modern).await, OfferEvent::Reset(vec![b]));
}

#[tokio::test]
async fn a_watch_of_providers_begins_with_all_and_goes_on_with_changes() {
    let served = serve().await;
    served.node.set_providers(vec![record(peer(), 1)]);
    let mut watch = soon(served.module().watch_providers()).await.unwrap();
    assert_eq!(
        next(&mut watch).await,
        ProviderEvent::Reset(vec![record(peer(), 1)])
    );
    let event = ProviderEvent::Heartbeat(heartbeat(peer()));
    served.node.tell_provider(event.clone()).await;
    assert_eq!(next(&mut watch).await, event);
    let event = ProviderEvent::Updated(record(other_peer(), 3));
    served.node.tell_provider(event.clone()).await;
    assert_eq!(next(&mut watch).await, event);
}

#[tokio::test]
async fn a_heartbeat_of_a_new_provider_is_introduced() {
    let served = serve().await;
    let mut watch = soon(served.module().watch_providers()).await.unwrap();
    assert_eq!(next(&mut watch).await, ProviderEvent::Reset(vec![]));
    served.node.set_providers(vec![record(other_peer(), 3)]);
    let event = ProviderEvent::Heartbeat(heartbeat(other_peer()));
    served.node.tell_provider(event.clone()).await;
    let introduction = ProviderEvent::Updated(record(other_peer(), 3));
    assert_eq!(next(&mut watch).await, introduction);
    assert_eq!(next(&mut watch).await, event);
}

#[tokio::test]
async fn a_watch_of_jobs_tells_each_change() {
    let served = serve().await;
    let filter = JobFilter {
        consumer_peer_ids: Some(vec![peer()]),
        ..JobFilter::default()
    };
    let mut watch = soon(served.module().watch_jobs(filter.clone()))
        .await
        .unwrap();
    assert!(served.node.called(&format!("watch_jobs {filter:?}")));
    assert_eq!(next(&mut watch).await, JobEvent::Reset);
    let event = JobEvent::Updated(Box::new(job_record(4)));
    served.node.tell_job(event.clone()).await;
    assert_eq!(next(&mut watch).await, event);
}

#[tokio::test]
async fn watches_begin_again_after_the_node_was_restarted() {
    let served = serve().await;
    let module = served.module();
    let mut offers = soon(module.watch_offers(OfferFilter::default()))
        .await
        .unwrap();
    let mut providers = soon(module.watch_providers()).await.unwrap();
    let mut jobs = soon(module.watch_jobs(JobFilter::default())).await.unwrap();
    assert_eq!(next(&mut offers).await, OfferEvent::Reset(vec![]));
    assert_eq!(next(&mut providers).await, ProviderEvent::Reset(vec![]));
    assert_eq!(next(&mut jobs).await, JobEvent::Reset);
    let served = served.restart().await;
    assert_eq!(next(&mut offers).await, OfferEvent::Reset(vec![]));
    assert_eq!(next(&mut providers).await, ProviderEvent::Reset(vec![]));
    assert_eq!(next(&mut jobs).await, JobEvent::Reset);
    let event = OfferEvent::Updated(offer(other_peer(), "b", 8));
    served.node.tell_offer(event.clone()).await;
    assert_eq!(next(&mut offers).await, event);
}

#[tokio::test]
async fn a_dropped_watch_ends_its_subscription() {
    let served = serve().await;
    let module = served.module();
    let watch = soon(module.watch_offers(OfferFilter::default()))
        .await
        .unwrap();
    let other = soon(module.watch_jobs(JobFilter::default())).await.unwrap();
    assert_eq!(served.node.watchers(), (1, 0, 1));
    drop(watch);
    until("it is cancelled", || served.node.watchers() == (0, 0, 1)).await;
    drop((other, module));
    until("the connection is closed", || {
        served.node.watchers() == (0, 0, 0)
    })
    .await;
}

#[tokio::test]
async fn a_watcher_that_is_slow_gets_a_new_full_state_and_slows_nobody() {
    let served = serve().await;
    slow_watcher(&served, served.module()).await;
    slow_watcher(&served, served.old_module()).await;
}

async fn slow_watcher(served: &Served, module: TcpNode) {
    let mut slow = soon(module.watch_offers(OfferFilter::default()))
        .await
        .unwrap();
    assert_eq!(next(&mut slow).await, OfferEvent::Reset(vec![]));
    // More than all queues on the way hold. The feeder here waits; the module reads on.
    for snapshot in 0..5000 {
        let event = OfferEvent::Updated(offer(other_peer(), "b", snapshot));
        soon(served.node.tell_offer(event)).await;
    }
    soon(module.peer_id()).await.unwrap();
    let reset = async {
        loop {
            if let Some(OfferEvent::Reset(_)) = slow.next().await {
                return;
            }
        }
    };
    // The next event after the gap shows it.
    let feed = async {
        for snapshot in 5000.. {
            let event = OfferEvent::Updated(offer(other_peer(), "b", snapshot));
            served.node.tell_offer(event).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = soon(reset) => {}
        () = feed => {}
    }
}
