//! Kademlia: peers and providers that nobody told of.

use derouter_net::{Keypair, KnownReachability, Multiaddr, PeerEvent, PeerId, RequestError};
use derouter_wire::ProtocolId;
use derouter_wire::reqres::{ConfirmJobResult, Request, Response};
use futures::StreamExt;
use libp2p::kad::{self, QueryResult, Quorum, Record, RecordKey};
use libp2p::swarm::SwarmEvent;
use libp2p::{StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};

use crate::support::*;

/// A node that looks up, and does not answer.
async fn asker(bootstrap: Option<&Node>) -> Node {
    with_kademlia(bootstrap, KnownReachability::Detect).await
}

/// A node that answers.
async fn server(bootstrap: Option<&Node>) -> Node {
    with_kademlia(bootstrap, KnownReachability::Public).await
}

async fn with_kademlia(bootstrap: Option<&Node>, reachability: KnownReachability) -> Node {
    let mut config = config(TCP);
    config.options.kademlia = true;
    config.options.reachability = reachability;
    if let Some(bootstrap) = bootstrap {
        config.options.bootstrap = vec![bootstrap.address().await];
    }
    node_with(config).await
}

/// Each knows only the one before.
async fn chain(length: usize) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..length {
        let node = server(nodes.last()).await;
        if !nodes.is_empty() {
            let net = node.net.clone();
            until(async || kademlia_peers(&net).await > 0).await;
        }
        nodes.push(node);
    }
    nodes
}

async fn kademlia_peers(net: &derouter_net::Net) -> u32 {
    let report = net.network_report().await;
    report.map_or(0, |report| report.kademlia_peers)
}

fn request() -> Request {
    super::requests::confirm_job()
}

fn answer_all(node: Node) -> PeerId {
    let id = node.id();
    tokio::spawn(async move {
        // All of it, or its network side would stop.
        let mut node = node;
        while let Some(inbound) = node.events.requests.recv().await {
            let answer = Response::ConfirmJob(ConfirmJobResult::Ok);
            let _ = inbound.reply.send(answer);
        }
    });
    id
}

#[tokio::test]
async fn a_peer_far_down_a_chain_of_knowledge_is_found_and_asked() {
    let mut nodes = chain(20).await;
    let last = nodes.pop().unwrap();
    let first = answer_all(nodes.remove(0));

    let mut without = config(TCP);
    without.options.bootstrap = vec![last.address().await];
    let without = node_with(without).await;
    until(async || !without.net.peers().await.is_empty()).await;
    let Err(RequestError::Unreachable(reason)) = without.net.request(first, request()).await else {
        panic!("nobody told where it is");
    };
    assert!(reason.contains("no address"), "{reason}");

    let consumer = asker(Some(&last)).await;
    until(async || consumer.net.request(first, request()).await.is_ok()).await;
    let report = consumer.net.network_report().await.unwrap();
    assert!(!report.kademlia_server && report.kademlia_peers > 0);
    let report = last.net.network_report().await.unwrap();
    assert!(report.kademlia_server);
}

#[tokio::test]
async fn a_provider_that_answers_no_queries_is_found_by_what_it_published_of_itself() {
    let mut nodes = chain(8).await;
    let provider = asker(Some(&nodes[0])).await;
    provider
        .net
        .announce(Some(announcement("payload", 1)))
        .await;
    let provider = answer_all(provider);
    let consumer = asker(nodes.last()).await;
    until(async || consumer.net.request(provider, request()).await.is_ok()).await;
    nodes.clear();
}

#[tokio::test]
async fn providers_of_a_protocol_are_found_from_a_cold_start_with_one_bootstrap_node() {
    let bootstrap = server(None).await;
    let mut servers = Vec::new();
    for _ in 0..6 {
        servers.push(server(Some(&bootstrap)).await);
    }
    let provider = asker(Some(&servers[0])).await;
    provider
        .net
        .announce(Some(announcement("payload", 1)))
        .await;

    let mut consumer = asker(Some(&bootstrap)).await;
    let wanted = ProtocolId::new("test:1").unwrap();
    until(async || {
        let found = consumer.net.find_providers(wanted.clone()).await;
        found == [provider.id()]
    })
    .await;
    let met = PeerEvent::Connected(provider.id());
    while soon(consumer.events.peers.recv()).await.unwrap() != met {}
    let nobody = ProtocolId::new("test:2").unwrap();
    assert!(consumer.net.find_providers(nobody).await.is_empty());
}

#[tokio::test]
async fn providers_of_a_wanted_protocol_are_met_without_being_asked_for_again() {
    let bootstrap = server(None).await;
    let middle = server(Some(&bootstrap)).await;
    let provider = asker(Some(&middle)).await;
    provider
        .net
        .announce(Some(announcement("payload", 1)))
        .await;
    let wanted = ProtocolId::new("test:1").unwrap();
    // It is published.
    let scout = asker(Some(&bootstrap)).await;
    until(async || {
        let found = scout.net.find_providers(wanted.clone()).await;
        !found.is_empty()
    })
    .await;

    let mut consumer = asker(Some(&bootstrap)).await;
    consumer.net.want_protocols(vec![wanted]).await;
    let met = PeerEvent::Connected(provider.id());
    while soon(consumer.events.peers.recv()).await.unwrap() != met {}
}

#[tokio::test]
async fn a_lookup_of_a_peer_that_is_nowhere_ends_in_time() {
    let nodes = chain(3).await;
    let consumer = asker(nodes.last()).await;
    let net = consumer.net.clone();
    until(async || kademlia_peers(&net).await > 0).await;
    let nowhere = Keypair::generate_ed25519().public().to_peer_id();
    let outcome = soon(net.request(nowhere, request())).await;
    assert!(
        matches!(outcome, Err(RequestError::Unreachable(_))),
        "{outcome:?}"
    );
}

fn raw_kademlia() -> Swarm<kad::Behaviour<kad::store::MemoryStore>> {
    SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|keypair| {
            let peer = keypair.public().to_peer_id();
            let protocol = StreamProtocol::new("/derouter/kad/0.2.0");
            let store = kad::store::MemoryStore::new(peer);
            kad::Behaviour::with_config(peer, store, kad::Config::new(protocol))
        })
        .unwrap()
        .build()
}

async fn query(
    swarm: &mut Swarm<kad::Behaviour<kad::store::MemoryStore>>,
    wanted: impl Fn(&QueryResult) -> bool,
) -> QueryResult {
    soon(async {
        loop {
            let event = swarm.select_next_some().await;
            if let SwarmEvent::Behaviour(kad::Event::OutboundQueryProgressed { result, .. }) = event
                && wanted(&result)
            {
                return result;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_value_record_is_not_kept() {
    let victim = server(None).await;
    let address: Multiaddr = victim.address().await;
    let key = RecordKey::new(b"value");
    let mut writer = raw_kademlia();
    writer
        .behaviour_mut()
        .add_address(&victim.id(), address.clone());
    let record = Record::new(key.clone(), vec![7; 1024]);
    let to = std::iter::once(victim.id());
    writer
        .behaviour_mut()
        .put_record_to(record, to, Quorum::One);
    query(&mut writer, |result| {
        matches!(result, QueryResult::PutRecord(_))
    })
    .await;

    let mut reader = raw_kademlia();
    reader.behaviour_mut().add_address(&victim.id(), address);
    reader.behaviour_mut().get_record(key);
    let result = query(&mut reader, |result| {
        matches!(result, QueryResult::GetRecord(_))
    })
    .await;
    let QueryResult::GetRecord(Err(error)) = result else {
        panic!("{result:?}");
    };
    assert!(matches!(error, kad::GetRecordError::NotFound { .. }));
}
