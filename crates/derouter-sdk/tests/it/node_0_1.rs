use std::sync::Arc;

use derouter_sdk::wire::cbor;
use derouter_sdk::wire::rpc::event::{
    Event, EventJobUpdated, EventProviderHeartbeat, PrepareJobConnectionReply, ProviderCreateJob,
    ProviderCreateJobReply, ProviderHeartbeat, ProviderOpenJobConnection,
    ProviderPrepareJobConnection,
};
use derouter_sdk::wire::rpc::request::ProviderProvide;
use derouter_sdk::wire::rpc::{Call, FrameKind};
use derouter_sdk::wire::{ConnectionId, SubscriptionId};
use derouter_sdk::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::old_node::*;

fn provider() -> PeerId {
    let text = "12D3KooWSrKnMZUcSxK8G7wmBbXdU8nFEfWGhLu6H8xjn8LmCSJb";
    text.parse().unwrap()
}

fn other() -> PeerId {
    let text = "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7";
    text.parse().unwrap()
}

fn job(name: &str) -> JobKey {
    JobKey {
        provider: provider(),
        job_id: JobId::new(name).unwrap(),
    }
}

fn connect(node: &OldNode) -> TcpNode {
    TcpNode::connect(node.address.to_string(), TcpOptions::default())
}

/// A job of `consumer`, with a balance as the node has it.
fn record(consumer: PeerId, balance: &str) -> JobRecord {
    JobRecord {
        job_rowid: RowId(1),
        provider_job_id: JobId::new("j-1").unwrap(),
        provider_peer_id: other(),
        consumer_peer_id: consumer,
        offer_id: OfferId::new("a").unwrap(),
        offer_snapshot_rowid: SnapshotId(1),
        offer_protocol_id: ProtocolId::new("p").unwrap(),
        offer_payload: "{}".into(),
        offer_active: true,
        currency: Currency::Pol,
        balance_delta: Some(balance.into()),
        public_payload: None,
        private_payload: None,
        reason: None,
        reason_class: None,
        created_at_local: UnixSeconds(1),
        created_at_sync: UnixSeconds(2),
        completed_at_local: None,
        completed_at_sync: None,
        signature_confirmed_at_local: None,
        confirmation_error: None,
    }
}

#[tokio::test]
async fn its_answers_are_read() {
    let node = OldNode::start().await;
    let module = connect(&node);
    let script = async {
        let client = node.accept().await;
        for (request, answer) in [
            ("QueryActiveOffers", "query_active_offers.ok"),
            ("QueryActiveProviders", "query_active_providers.ok"),
            ("ConsumerCreateJob", "consumer_create_job.ok"),
            ("ConsumerCreateJob", "consumer_create_job.provider_busy"),
            ("ConsumerGetJob", "consumer_get_job.ok_as_0_1_sends_it"),
            (
                "ConsumerCompleteJob",
                "consumer_complete_job.already_failed",
            ),
            ("FailJob", "fail_job.job_not_found"),
            ("QueryJobs", "query_jobs.invalid_limit"),
        ] {
            client.answer_recorded(request, answer).await;
        }
        client
    };
    let calls = async {
        assert_eq!(module.peer_id().await.unwrap(), provider());
        let offers = module.active_offers(&OfferFilter::default()).await.unwrap();
        assert_eq!(offers.len(), 1);
        assert_eq!(module.active_providers().await.unwrap(), [provider()]);
        let created = module.create_job(SnapshotId(1), None).await.unwrap();
        assert_eq!(created.provider, provider());
        let busy = module.create_job(SnapshotId(1), None).await;
        assert!(matches!(busy, Err(CreateJobError::ProviderBusy)));
        let remote = module.remote_job(&created).await.unwrap();
        assert_eq!((remote.public_payload, remote.balance_delta), (None, None));
        let completion = ConsumerCompletion {
            public_payload: String::new(),
            private_payload: None,
            balance_delta: None,
            completed_at_sync: UnixSeconds(1),
        };
        let failed = module.complete_job(&created, completion).await;
        assert!(matches!(failed, Err(CompleteJobError::AlreadyFailed(why)) if why.reason == "r"));
        let unknown = module.fail_job(&created, FailureReason::default()).await;
        assert!(matches!(unknown, Err(FailJobError::InvalidJobId)));
        let limit = module.jobs(&JobQuery::default()).await;
        assert!(matches!(limit, Err(NodeError::Invalid(_))));
    };
    soon(async { tokio::join!(script, calls) }).await;
}

#[tokio::test]
async fn the_hex_of_its_own_balances_becomes_decimal() {
    let node = OldNode::start().await;
    let module = connect(&node);
    // "600" in hex for what this node consumes, plain for what it does not.
    let (own, foreign) = (record(provider(), "363030"), record(other(), "363030"));
    let script = async {
        let client = node.accept().await;
        let rows = tagged("Ok", &[own.clone(), foreign.clone()]);
        client.answer("QueryJobs", &rows).await;
        client
            .answer_recorded("SubscribeToJobs", "subscribe_to_jobs.ok")
            .await;
        let event = EventJobUpdated(Event {
            subscription_id: SubscriptionId(2),
            payload: own.clone(),
            cursor: None,
        });
        client
            .send(&frame(
                "Request",
                5,
                "EventJobUpdated",
                &cbor::to_vec(&event),
            ))
            .await;
        let (kind, id, name, data) = client.next().await;
        assert_eq!((kind, id, name.as_str()), (FrameKind::Response, 5, "Ack"));
        assert_eq!(data, [0xa0], "undefined counts as nothing");
        client
    };
    let calls = async {
        let query = JobQuery {
            limit: 10,
            ..JobQuery::default()
        };
        let rows = module.jobs(&query).await.unwrap();
        let balances: Vec<_> = rows
            .iter()
            .map(|row| row.balance_delta.as_deref())
            .collect();
        assert_eq!(balances, [Some("600"), Some("363030")]);
        let mut watch = module.watch_jobs(JobFilter::default()).await.unwrap();
        assert_eq!(watch.next().await, Some(JobEvent::Reset));
        let expected = JobEvent::Updated(Box::new(record(provider(), "600")));
        assert_eq!(watch.next().await, Some(expected));
    };
    soon(async { tokio::join!(script, calls) }).await;
}

#[tokio::test]
async fn its_new_providers_are_introduced_by_a_query() {
    let node = OldNode::start().await;
    let module = connect(&node);
    let heartbeat = ProviderHeartbeat {
        peer_id: other(),
        latest_heartbeat_at: UnixSeconds(9),
    };
    let introduced = ProviderRecord {
        peer_id: other(),
        name: None,
        teaser: None,
        description: None,
        updated_at: UnixSeconds(3),
        latest_heartbeat_at: UnixSeconds(9),
    };
    let script = async {
        let client = node.accept().await;
        client
            .answer("SubscribeToActiveProviders", &tagged("Ok", &0))
            .await;
        client
            .answer("QueryActiveProviders", &tagged::<[u8; 0]>("Ok", &[]))
            .await;
        let event = EventProviderHeartbeat(Event {
            subscription_id: SubscriptionId(0),
            payload: heartbeat.clone(),
            cursor: None,
        });
        client
            .send(&frame(
                "Request",
                0,
                "EventProviderHeartbeat",
                &cbor::to_vec(&event),
            ))
            .await;
        let (kind, ..) = client.next().await;
        assert_eq!(kind, FrameKind::Response);
        client
            .answer("QueryProviders", &tagged("Ok", &vec![&introduced]))
            .await;
        client
    };
    let calls = async {
        let mut watch = module.watch_providers().await.unwrap();
        assert_eq!(watch.next().await, Some(ProviderEvent::Reset(vec![])));
        let first = watch.next().await;
        assert_eq!(first, Some(ProviderEvent::Updated(introduced.clone())));
        let second = watch.next().await;
        assert_eq!(second, Some(ProviderEvent::Heartbeat(heartbeat.clone())));
    };
    soon(async { tokio::join!(script, calls) }).await;
}

#[tokio::test]
async fn a_job_connection_is_claimed_by_its_number() {
    let node = OldNode::start().await;
    let module = connect(&node);
    let script = async {
        let client = node.accept().await;
        let name = "consumer_open_job_connection.ok";
        client
            .answer_recorded("ConsumerOpenJobConnection", name)
            .await;
        let mut stream = soon(async { client.streams.lock().await.recv().await })
            .await
            .unwrap();
        assert_eq!(stream.read_u64().await.unwrap(), 1);
        stream.write_all(b"welcome").await.unwrap();
        stream.shutdown().await.unwrap();
        client
    };
    let calls = async {
        let mut stream = module.open_job(&job("j-1")).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "welcome");
    };
    soon(async { tokio::join!(script, calls) }).await;
}

/// Tells what it is asked.
struct Telling(mpsc::Sender<String>);

#[async_trait]
impl ProviderService for Telling {
    async fn accept(&self, job: ProviderJob) -> Result<(), JobRefusal> {
        self.0
            .send(format!("accept {} {:?}", job.key.job_id, job.job_args))
            .await
            .unwrap();
        Ok(())
    }

    async fn prepare(&self, job: &JobKey) -> Result<(), ConnectionRefusal> {
        self.0
            .send(format!("prepare {}", job.job_id))
            .await
            .unwrap();
        Ok(())
    }

    async fn serve(&self, job: JobKey, desk: Arc<dyn ProviderDesk>, mut stream: JobStream) {
        stream.write_all(b"served").await.unwrap();
        let completion = ProviderCompletion {
            balance_delta: None,
            public_payload: "{}".into(),
            private_payload: None,
        };
        let at = desk.complete(&job, completion).await.unwrap();
        self.0
            .send(format!("completed {} at {at}", job.job_id))
            .await
            .unwrap();
    }
}

fn spec(name: &str) -> OfferSpec {
    OfferSpec {
        protocol_id: ProtocolId::new("p").unwrap(),
        offer_id: OfferId::new(name).unwrap(),
        protocol_payload: "{}".into(),
    }
}

#[tokio::test]
async fn its_jobs_are_served_once_all_offers_are_provided() {
    let node = OldNode::start().await;
    let module = connect(&node);
    let (told, mut telling) = mpsc::channel(16);
    let service = Arc::new(Telling(told));
    let offers = vec![spec("a"), spec("b")];
    let provide = module.provide(offers, ProvideOptions::default(), service);
    let script = async {
        let client = node.accept().await;
        // Both are asked for at once; the node asks for a job between its two answers.
        let (first, data) = client.request("ProviderProvide").await;
        let asked: ProviderProvide = cbor::from_slice(&data).unwrap();
        assert_eq!(asked.offer_id.as_str(), "a");
        let (second, _) = client.request("ProviderProvide").await;
        let ok = frame(
            "Response",
            first,
            "ProviderProvide",
            &tagged("Ok", &None::<u8>),
        );
        client.send(&ok).await;
        let create = ProviderCreateJob {
            provider_peer_id: provider(),
            protocol_id: ProtocolId::new("p").unwrap(),
            offer_id: OfferId::new("a").unwrap(),
            provider_job_id: JobId::new("j-1").unwrap(),
            created_at_sync: UnixSeconds(1),
            job_args: None,
            consumer_peer_id: None,
        };
        let create = cbor::to_vec(&create);
        client
            .send(&frame("Request", 0, ProviderCreateJob::TYPE, &create))
            .await;
        let ok = frame(
            "Response",
            second,
            "ProviderProvide",
            &tagged("Ok", &None::<u8>),
        );
        client.send(&ok).await;
        let (_, id, name, data) = client.next().await;
        assert_eq!((id, name.as_str()), (0, ProviderCreateJob::TYPE));
        let reply: ProviderCreateJobReply = cbor::from_slice(&data).unwrap();
        assert_eq!(reply, ProviderCreateJobReply::Ok);
        serve_connection(&client).await;
        client
    };
    let (client, provision) = soon(async { tokio::join!(script, provide) }).await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(soon(telling.recv()).await.unwrap());
    }
    let expected = [
        "accept j-1 None",
        "prepare j-1",
        "completed j-1 at 1750000005",
    ];
    assert_eq!(heard, expected);
    drop((provision.unwrap(), client));
}

async fn serve_connection(client: &Client) {
    let prepare = ProviderPrepareJobConnection {
        provider_peer_id: provider(),
        provider_job_id: JobId::new("j-1").unwrap(),
    };
    let prepare = cbor::to_vec(&prepare);
    client
        .send(&frame(
            "Request",
            1,
            ProviderPrepareJobConnection::TYPE,
            &prepare,
        ))
        .await;
    let (_, id, _, data) = client.next().await;
    assert_eq!(id, 1);
    let PrepareJobConnectionReply::Ok(nonce) = cbor::from_slice(&data).unwrap() else {
        panic!("not prepared");
    };
    let open = ProviderOpenJobConnection {
        connection_id: ConnectionId(3).into(),
        nonce,
    };
    let open = cbor::to_vec(&open);
    client
        .send(&frame("Request", 2, ProviderOpenJobConnection::TYPE, &open))
        .await;
    let (kind, id, ..) = client.next().await;
    assert_eq!((kind, id), (FrameKind::Response, 2));
    let stream = async { client.streams.lock().await.recv().await };
    let mut stream = soon(stream).await.unwrap();
    assert_eq!(stream.read_u64().await.unwrap(), 3);
    let mut served = [0; 6];
    stream.read_exact(&mut served).await.unwrap();
    assert_eq!(&served, b"served");
    let completed = "provider_complete_job.ok";
    client
        .answer_recorded("ProviderCompleteJob", completed)
        .await;
}

/// A module that would speak 0.2, as it has a token.
fn modern(node: &OldNode, directory: &std::path::Path) -> TcpNode {
    let cookie = directory.join(tcp::COOKIE_FILE);
    std::fs::write(&cookie, "00ff\n").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&cookie, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let mut options = TcpOptions::default();
    options.cookie = Some(cookie);
    options.hello_wait = std::time::Duration::from_millis(200);
    TcpNode::connect(node.address.to_string(), options)
}

/// What a node of 0.1 may do with a Hello.
#[derive(Clone, Copy, Debug)]
enum OnHello {
    Refuse,
    Close,
    SayNothing,
}

#[tokio::test]
async fn a_node_that_knows_no_hello_is_spoken_to_as_before() {
    for on_hello in [OnHello::Refuse, OnHello::Close, OnHello::SayNothing] {
        let directory = tempfile::tempdir().unwrap();
        let node = OldNode::start().await;
        let module = modern(&node, directory.path());
        let script = async {
            let first = node.accept_silently().await;
            let (id, _) = first.request("Hello").await;
            match on_hello {
                OnHello::Refuse => {
                    let refusal = tagged("UnknownRequest", &"Hello");
                    first.send(&frame("Response", id, "Hello", &refusal)).await;
                }
                OnHello::Close => first.close().await,
                OnHello::SayNothing => {}
            }
            let client = node.accept().await;
            client
                .answer_recorded("QueryActiveProviders", "query_active_providers.ok")
                .await;
            (first, client)
        };
        let calls = async {
            assert_eq!(module.peer_id().await.unwrap(), provider());
            assert_eq!(module.active_providers().await.unwrap(), [provider()]);
        };
        soon(async { tokio::join!(script, calls) }).await;
    }
}
