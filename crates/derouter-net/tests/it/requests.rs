//! Requests and responses between our nodes.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use derouter_net::{InboundRequest, Keypair, RequestError};
use derouter_wire::cbor::IntArray;
use derouter_wire::reqres::{ConfirmJobResult, CreateJobResult, GetJobResult, Request, Response};
use derouter_wire::{Currency, JobId, OfferId, ProtocolId, UnixSeconds};

use crate::support::*;

fn create_job(job_args: Option<String>) -> Request {
    Request::CreateJob {
        protocol_id: ProtocolId::new("test:1").unwrap(),
        offer_id: OfferId::new("offer").unwrap(),
        offer_payload: "payload".to_owned(),
        currency: Currency::Pol,
        job_args,
    }
}

fn get_job() -> Request {
    Request::GetJob {
        provider_job_id: JobId::new("job").unwrap(),
    }
}

pub(super) fn confirm_job() -> Request {
    Request::ConfirmJob {
        provider_job_id: JobId::new("job").unwrap(),
        job_hash: IntArray(vec![1; 32]),
        consumer_public_key: IntArray(vec![2; 36]),
        consumer_signature: IntArray(vec![3; 64]),
    }
}

fn created() -> Response {
    Response::CreateJob(CreateJobResult::Ok {
        provider_job_id: JobId::new("job").unwrap(),
        created_at_sync: UnixSeconds(1_700_000_000),
    })
}

async fn next_request(node: &mut Node) -> InboundRequest {
    soon(node.events.requests.recv()).await.unwrap()
}

#[tokio::test]
async fn every_kind_of_request_gets_its_answer_from_a_peer_that_was_not_connected() {
    let got = Response::GetJob(GetJobResult::Ok {
        public_payload: Some("public".to_owned()),
        balance_delta: None,
        created_at_sync: UnixSeconds(5),
        completed_at_sync: None,
    });
    let mismatch = ConfirmJobResult::HashMismatch(IntArray(vec![9; 32]));
    let exchanges = [
        (create_job(None), created()),
        (create_job(Some("x".repeat(600 * 1024))), created()),
        (get_job(), got),
        (confirm_job(), Response::ConfirmJob(mismatch)),
    ];
    for listen in [TCP, QUIC] {
        let consumer = node(listen).await;
        let mut provider = node(listen).await;
        let address = provider.net.listen_addresses().await[0].clone();
        consumer.net.add_address(provider.id(), address).await;
        for (request, response) in exchanges.clone() {
            let asked = consumer.net.request(provider.id(), request.clone());
            let (answer, ()) = soon(async {
                tokio::join!(asked, async {
                    let inbound = next_request(&mut provider).await;
                    assert_eq!(inbound.peer, consumer.id());
                    assert_eq!(inbound.request, request);
                    assert!(inbound.reply.send(response.clone()));
                })
            })
            .await;
            assert_eq!(answer.unwrap(), response);
        }
    }
}

#[tokio::test]
async fn a_large_response_arrives() {
    let (consumer, mut provider) = pair(TCP).await;
    let response = Response::GetJob(GetJobResult::Ok {
        public_payload: Some("y".repeat(9 * 1024 * 1024)),
        balance_delta: Some("1".to_owned()),
        created_at_sync: UnixSeconds(5),
        completed_at_sync: Some(UnixSeconds(6)),
    });
    let (answer, ()) = tokio::join!(consumer.net.request(provider.id(), get_job()), async {
        let inbound = next_request(&mut provider).await;
        assert!(inbound.reply.send(response.clone()));
    });
    assert_eq!(answer.unwrap(), response);
}

#[tokio::test]
async fn a_request_over_a_mebibyte_is_not_sent() {
    let (consumer, provider) = pair(TCP).await;
    let request = create_job(Some("x".repeat(1024 * 1024)));
    let error = consumer.net.request(provider.id(), request).await;
    assert!(
        matches!(error, Err(RequestError::TooLarge { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_reply_that_is_dropped_tells_the_peer_at_once() {
    let (consumer, mut provider) = pair(TCP).await;
    let started = Instant::now();
    let (answer, ()) = tokio::join!(consumer.net.request(provider.id(), get_job()), async {
        drop(next_request(&mut provider).await);
    });
    assert!(matches!(answer, Err(RequestError::Closed(_))), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_create_job_that_the_node_does_not_answer_is_answered_busy_before_ten_seconds() {
    let (consumer, mut provider) = pair(TCP).await;
    let started = Instant::now();
    let (answer, mut held) = tokio::join!(
        consumer.net.request(provider.id(), create_job(None)),
        next_request(&mut provider)
    );
    assert_eq!(answer.unwrap(), Response::CreateJob(CreateJobResult::Busy));
    assert!(started.elapsed() < Duration::from_secs(10));
    soon(held.reply.closed()).await;
    assert!(!held.reply.send(created()), "nobody waits any more");
}

#[tokio::test]
async fn an_answer_to_another_kind_of_request_is_invalid() {
    let (consumer, mut provider) = pair(TCP).await;
    let (answer, ()) = tokio::join!(consumer.net.request(provider.id(), get_job()), async {
        let inbound = next_request(&mut provider).await;
        assert!(inbound.reply.send(created()));
    });
    assert!(
        matches!(answer, Err(RequestError::InvalidResponse(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_full_queue_is_answered_busy_at_once_and_counted() {
    let (consumer, provider) = pair(TCP).await;
    let asked = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    // More than the queue's 256, fewer than a connection may have unserved at once: in two parts,
    // as a connection's own limit would drop them first.
    let other = node(TCP).await;
    other.dial(&provider).await;
    for net in [&consumer.net, &other.net] {
        for _ in 0..150 {
            let (net, peer) = (net.clone(), provider.id());
            tasks.spawn(async move { net.request(peer, create_job(None)).await });
        }
    }
    for _ in 0..300 - 256 {
        let answer = soon(tasks.join_next()).await.unwrap().unwrap();
        assert_eq!(answer.unwrap(), Response::CreateJob(CreateJobResult::Busy));
    }
    assert!(
        asked.elapsed() < Duration::from_secs(9),
        "not by the deadline"
    );
    assert_eq!(provider.net.counters().requests_refused.load(Relaxed), 44);
}

#[tokio::test]
async fn an_unreachable_peer_is_known_well_before_ten_seconds() {
    let consumer = node(TCP).await;
    let nobody = Keypair::generate_ed25519().public().to_peer_id();
    let started = Instant::now();
    let unknown = consumer.net.request(nobody, get_job()).await;
    assert!(
        matches!(unknown, Err(RequestError::Unreachable(_))),
        "{unknown:?}"
    );

    let gone = node(TCP).await;
    let address = gone.net.listen_addresses().await[0].clone();
    gone.net.shutdown().await;
    consumer.net.add_address(gone.id(), address).await;
    let refused = consumer.net.request(gone.id(), get_job()).await;
    assert!(
        matches!(refused, Err(RequestError::Unreachable(_))),
        "{refused:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_address_that_answers_nothing_is_given_up_before_ten_seconds() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let consumer = node(TCP).await;
    let nobody = Keypair::generate_ed25519().public().to_peer_id();
    let address = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    consumer.net.add_address(nobody, address).await;
    let started = Instant::now();
    let error = consumer.net.request(nobody, get_job()).await;
    assert!(
        matches!(error, Err(RequestError::Unreachable(_))),
        "{error:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn a_stopped_network_says_so() {
    let (consumer, provider) = pair(TCP).await;
    consumer.net.shutdown().await;
    let error = consumer.net.request(provider.id(), get_job()).await;
    assert_eq!(error, Err(RequestError::Stopped));
}
