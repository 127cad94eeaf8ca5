//! Every call of the trait, over TCP.

use derouter_sdk::*;

use crate::rpc_support::*;

#[tokio::test]
async fn queries_reach_the_node_and_come_back() {
    let served = serve().await;
    let module = served.module();
    assert_eq!(soon(module.peer_id()).await.unwrap(), peer());
    served
        .node
        .set_providers(vec![record(other_peer(), 5), record(peer(), 6)]);
    assert_eq!(
        soon(module.active_providers()).await.unwrap(),
        [other_peer(), peer()]
    );
    assert_eq!(
        soon(module.providers(&[peer()])).await.unwrap(),
        [record(peer(), 6)]
    );
    let query = JobQuery {
        after: Some(RowId(70_000)),
        newest_first: true,
        filter: JobFilter {
            protocol_ids: Some(vec![protocol()]),
            provider_peer_ids: Some(vec![peer()]),
            consumer_peer_ids: Some(vec![other_peer()]),
        },
        limit: 100,
    };
    // A record of our own node is not taken for one of a 0.1 node: "30" stays thirty wei.
    assert_eq!(
        soon(module.jobs(&query)).await.unwrap(),
        [job_record(70_001)]
    );
    assert!(served.node.called(&format!("jobs {query:?}")));
    let filter = OfferFilter {
        protocol_ids: None,
        provider_peer_ids: Some(vec![other_peer()]),
    };
    assert_eq!(soon(module.active_offers(&filter)).await.unwrap(), []);
    assert!(served.node.called(&format!("active_offers {filter:?}")));
    assert_eq!(
        soon(module.offer_snapshots(&[SnapshotId(300)]))
            .await
            .unwrap(),
        []
    );
}

#[tokio::test]
async fn arguments_out_of_their_limits_are_invalid() {
    let served = serve().await;
    let module = served.module();
    for limit in [0, 101] {
        let query = JobQuery {
            limit,
            ..JobQuery::default()
        };
        let error = soon(module.jobs(&query)).await.unwrap_err();
        assert!(matches!(error, NodeError::Invalid(_)), "{error}");
    }
    let error = soon(module.providers(&[peer(); 101])).await.unwrap_err();
    assert!(matches!(error, NodeError::Invalid(_)), "{error}");
    let error = soon(module.offer_snapshots(&[SnapshotId(1); 101]))
        .await
        .unwrap_err();
    assert!(matches!(error, NodeError::Invalid(_)), "{error}");
    assert!(!served.node.called("jobs"));
}

#[tokio::test]
async fn what_the_node_says_of_itself_comes_through() {
    let served = serve().await;
    let module = served.module();
    soon(module.peer_id()).await.unwrap();
    for (error, text) in [
        (NodeError::Internal("disk full".into()), "disk full"),
        (NodeError::Invalid("too long".into()), "too long"),
        (NodeError::ShuttingDown, "shutting down"),
    ] {
        served.node.fail("active_providers", error.clone());
        let told = soon(module.active_providers()).await.unwrap_err();
        assert_eq!(
            std::mem::discriminant(&told),
            std::mem::discriminant(&error)
        );
        assert!(told.to_string().contains(text), "{told}");
    }
}

#[tokio::test]
async fn a_consumer_completes_and_fails_jobs() {
    let served = serve().await;
    let module = served.module();
    let completion = ConsumerCompletion {
        public_payload: "{\"x\":1}".into(),
        private_payload: Some("mine".into()),
        balance_delta: Some(Wei::MAX),
        completed_at_sync: UnixSeconds(1_750_000_005),
    };
    let complete = |name| {
        let (module, completion) = (module.clone(), completion.clone());
        async move { soon(module.complete_job(&job(other_peer(), name), completion)).await }
    };
    complete("j").await.unwrap();
    assert!(served.node.called(&format!("{completion:?}")));
    let failed = complete("failed").await;
    assert!(matches!(failed, Err(CompleteJobError::AlreadyFailed(why)) if why == failure()));
    let completed = complete("completed").await;
    assert!(matches!(completed, Err(CompleteJobError::AlreadyCompleted)));
    let foreign = complete("foreign").await;
    assert!(matches!(
        foreign,
        Err(CompleteJobError::InvalidConsumerPeerId)
    ));
    let unknown = complete("unknown").await;
    assert!(matches!(unknown, Err(CompleteJobError::InvalidJobId)));

    let fail = |name| {
        let module = module.clone();
        async move { soon(module.fail_job(&job(other_peer(), name), failure())).await }
    };
    fail("j").await.unwrap();
    assert!(
        served
            .node
            .called(&format!("{:?}", (job(other_peer(), "j"), failure())))
    );
    assert!(matches!(
        fail("completed").await,
        Err(FailJobError::AlreadyCompleted)
    ));
    assert!(matches!(
        fail("failed").await,
        Err(FailJobError::AlreadyFailed(_))
    ));
    assert!(matches!(
        fail("unknown").await,
        Err(FailJobError::InvalidJobId)
    ));
    assert!(!served.node.called("provider_fail_job"));
}

#[tokio::test]
async fn jobs_that_do_not_exist_are_not_found() {
    let served = serve().await;
    let module = served.module();
    let nobody = job(other_peer(), "nobody");
    let remote = soon(module.remote_job(&nobody)).await;
    assert!(matches!(remote, Err(RemoteJobError::JobNotFound)));
    let opened = soon(module.open_job(&nobody)).await;
    assert!(matches!(opened, Err(OpenJobError::LocalJobNotFound)));
    let created = soon(module.create_job(SnapshotId(9), None)).await;
    assert!(matches!(created, Err(CreateJobError::LocalOfferNotFound)));
}

#[tokio::test]
async fn a_node_that_is_not_there_is_unreachable_and_later_it_is_reached() {
    let served = serve().await;
    let module = served.module();
    soon(module.peer_id()).await.unwrap();
    let served = served.restart().await;
    // The old connection may be found broken by the first call only.
    let reached = async {
        while let Err(error) = module.peer_id().await {
            assert!(matches!(error, NodeError::Unreachable(_)), "{error}");
        }
    };
    soon(reached).await;
    let address = served.address.to_string();
    drop(served);
    let gone = TcpNode::connect(address, TcpOptions::default());
    let refused = async {
        loop {
            match gone.peer_id().await {
                Err(NodeError::Unreachable(_)) => return,
                Err(other) => panic!("{other}"),
                Ok(_) => {}
            }
        }
    };
    soon(refused).await;
}
