//! Answers and events over the limit of a frame.

use std::sync::Arc;

use derouter_sdk::*;

use crate::rpc_support::*;

struct Nothing;

#[async_trait]
impl ProviderService for Nothing {
    async fn accept(&self, _: ProviderJob) -> Result<(), JobRefusal> {
        Err(JobRefusal::Busy)
    }

    async fn prepare(&self, _: &JobKey) -> Result<(), ConnectionRefusal> {
        Err(ConnectionRefusal::JobNotFound)
    }

    async fn serve(&self, _: JobKey, _: Arc<dyn ProviderDesk>, _: JobStream) {}
}

fn large_job(row: u64, bytes: usize) -> JobRecord {
    let mut job = job_record(row);
    job.private_payload = Some("x".repeat(bytes));
    job
}

#[tokio::test]
async fn a_market_over_8_mib_is_told_as_far_as_it_fits() {
    let served = serve().await;
    let large = (0..200).map(|number| OfferSpec {
        protocol_payload: "x".repeat(60_000),
        ..spec(&format!("large-{number}"))
    });
    let offers = large.chain([spec("small")]).collect();
    let node = Handle(Arc::clone(&served.node));
    let provided = node.provide(offers, ProvideOptions::default(), Arc::new(Nothing));
    let _provision = provided.await.unwrap();
    let module = served.old_module();
    let told = soon(module.active_offers(&OfferFilter::default()))
        .await
        .unwrap();
    assert!((100..200).contains(&told.len()), "{}", told.len());
    assert!(told.iter().any(|offer| offer.offer_id.as_str() == "small"));
    let mut watch = soon(module.watch_offers(OfferFilter::default()))
        .await
        .unwrap();
    match soon(watch.next()).await.unwrap() {
        OfferEvent::Reset(all) => assert_eq!(all.len(), told.len()),
        other => panic!("{other:?}"),
    }
    // 0.2 has pages, and tells a full state as events.
    let module = served.module();
    let told = soon(module.active_offers(&OfferFilter::default()))
        .await
        .unwrap();
    assert_eq!(told.len(), 201);
    let mut watch = soon(module.watch_offers(OfferFilter::default()))
        .await
        .unwrap();
    match soon(watch.next()).await.unwrap() {
        OfferEvent::Reset(all) => assert_eq!(all.len(), 201),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn jobs_over_8_mib_come_in_shorter_pages() {
    let served = serve().await;
    let rows = (1..=5).map(|row| large_job(row, 3 << 20)).collect();
    served.node.set_jobs(rows);
    let module = served.module();
    let mut query = JobQuery {
        limit: 100,
        ..JobQuery::default()
    };
    let mut pages = Vec::new();
    loop {
        let page = soon(module.jobs(&query)).await.unwrap();
        let Some(last) = page.last() else { break };
        query.after = Some(last.job_rowid);
        pages.push(page.iter().map(|job| job.job_rowid.0).collect::<Vec<_>>());
    }
    assert_eq!(pages, [vec![1, 2], vec![3, 4], vec![5]]);
}

#[tokio::test]
async fn a_row_over_8_mib_is_an_error_at_once_and_harms_nothing() {
    let served = serve().await;
    served.node.set_jobs(vec![large_job(1, 9 << 20)]);
    let module = served.module();
    let query = JobQuery {
        limit: 1,
        ..JobQuery::default()
    };
    let refused = soon(module.jobs(&query)).await.unwrap_err();
    assert!(refused.to_string().contains("8 MiB"), "{refused}");
    soon(module.peer_id()).await.unwrap();
}

#[tokio::test]
async fn an_event_over_8_mib_is_left_out_and_the_next_ones_come() {
    let served = serve().await;
    let module = served.module();
    let mut watch = soon(module.watch_jobs(JobFilter::default())).await.unwrap();
    assert!(matches!(soon(watch.next()).await, Some(JobEvent::Reset)));
    let large = JobEvent::Updated(Box::new(large_job(1, 9 << 20)));
    served.node.tell_job(large).await;
    let next = JobEvent::Updated(Box::new(job_record(2)));
    served.node.tell_job(next).await;
    match soon(watch.next()).await {
        Some(JobEvent::Updated(job)) => assert_eq!(job.job_rowid, RowId(2)),
        other => panic!("{other:?}"),
    }
}
