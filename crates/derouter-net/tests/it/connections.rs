//! Listening, dialling, bootstrap nodes.

use std::time::{Duration, Instant};

use derouter_net::{DialError, PeerEvent, StartError, start};
use tokio_util::sync::CancellationToken;

use crate::support::*;

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = config(&format!("/ip4/127.0.0.1/tcp/{port}"));
    let error = start(config, CancellationToken::new()).await.unwrap_err();
    let StartError::Listen { address, reason } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(address.to_string(), format!("/ip4/127.0.0.1/tcp/{port}"));
    assert!(reason.contains("in use"), "{reason}");
}

#[tokio::test]
async fn an_address_of_an_unknown_kind_is_named() {
    let config = config("/dns4/example.org/tcp/1/ws");
    let error = start(config, CancellationToken::new()).await.unwrap_err();
    assert!(
        error.to_string().contains("/dns4/example.org/tcp/1/ws"),
        "{error}"
    );
}

#[tokio::test]
async fn comings_and_goings_are_told_and_shown() {
    let (mut one, other) = pair(TCP).await;
    let event = soon(one.events.peers.recv()).await;
    assert_eq!(event, Some(PeerEvent::Connected(other.id())));
    let net = one.net.clone();
    until(async || net.peers().await[0].agent.is_some()).await;
    let peers = net.peers().await;
    let info = &peers[0];
    assert_eq!(info.peer, other.id());
    assert!(info.agent.as_ref().unwrap().starts_with("derouter/"));
    assert_eq!(info.version_0_1, Some(false));
    assert!(info.connections[0].outbound && !info.connections[0].relayed);
    soon(other.net.shutdown()).await;
    let event = soon(one.events.peers.recv()).await;
    assert_eq!(event, Some(PeerEvent::Disconnected(other.id())));
    assert!(one.net.peers().await.is_empty());
}

#[tokio::test]
async fn a_dial_that_meets_another_peer_or_nobody_fails_in_words() {
    let (one, other) = pair(TCP).await;
    let third = node(TCP).await;
    let mut address = other.net.listen_addresses().await[0].clone();
    address = address.with_p2p(third.id()).unwrap();
    let Err(DialError::Unreachable(reason)) = one.net.dial(address).await else {
        panic!("another peer was taken for the one that was dialled");
    };
    assert!(reason.contains("another peer"), "{reason}");
    let nobody = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let Err(DialError::Unreachable(reason)) = one.net.dial(nobody).await else {
        panic!("nobody listens there");
    };
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_bootstrap_node_that_comes_up_later_is_reached() {
    let late = config(TCP);
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let address: derouter_net::Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let mut early = config(TCP);
    early.options.bootstrap = vec![address.clone()];
    let mut early = node_with(early).await;
    // The first dial has failed once a request to nobody in particular has had its turn behind it.
    let gone = early.net.dial(address.clone()).await;
    assert!(gone.is_err(), "{gone:?}");
    let mut late = late;
    late.options.listen = vec![address];
    let late = node_with(late).await;
    let event = soon(early.events.peers.recv()).await;
    assert_eq!(event, Some(PeerEvent::Connected(late.id())));
}

#[tokio::test]
async fn a_bootstrap_node_that_restarts_is_reached_again() {
    let bootstrap_config = config(TCP);
    let bootstrap = node_with(bootstrap_config.clone()).await;
    let mut restarted_config = bootstrap_config;
    restarted_config.options.listen = bootstrap.net.listen_addresses().await;
    let mut config = config(TCP);
    config.options.bootstrap = vec![bootstrap.address().await];
    let mut node = node_with(config).await;
    let id = bootstrap.id();
    assert_eq!(
        soon(node.events.peers.recv()).await,
        Some(PeerEvent::Connected(id))
    );
    bootstrap.net.shutdown().await;
    assert_eq!(
        soon(node.events.peers.recv()).await,
        Some(PeerEvent::Disconnected(id))
    );
    let _restarted = node_with(restarted_config).await;
    assert_eq!(
        soon(node.events.peers.recv()).await,
        Some(PeerEvent::Connected(id))
    );
}

#[tokio::test]
async fn cancelling_stops_the_node() {
    let cancel = CancellationToken::new();
    let (net, _events) = start(config(TCP), cancel.clone()).await.unwrap();
    let started = Instant::now();
    cancel.cancel();
    until(async || net.listen_addresses().await.is_empty()).await;
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn commands_without_end_do_not_starve_the_swarm() {
    let (one, other) = pair(TCP).await;
    let net = one.net.clone();
    let flood = tokio::spawn(async move {
        loop {
            net.peers().await;
        }
    });
    let third = node(TCP).await;
    within(Duration::from_secs(5), third.dial(&one)).await;
    within(Duration::from_secs(5), one.dial(&other)).await;
    flood.abort();
}

#[tokio::test]
async fn many_connections_that_say_nothing_do_not_keep_others_out() {
    let (one, other) = (node(TCP).await, node(TCP).await);
    let address = one.address().await;
    let Some(libp2p::multiaddr::Protocol::Tcp(port)) = address.iter().nth(1) else {
        panic!("{address}");
    };
    let mut held = Vec::new();
    for _ in 0..400 {
        held.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await);
    }
    until(async || other.net.dial(address.clone()).await.is_ok()).await;
    assert_eq!(held.len(), 400);
}

#[tokio::test]
async fn a_hundred_absent_peers_that_are_wanted_at_once_are_all_dialled_and_keep_nobody_out() {
    let (one, other) = (node(TCP).await, node(TCP).await);
    let nobody: derouter_net::Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    let job = || derouter_wire::JobId::new("job").unwrap();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let absent = derouter_net::PeerId::random();
        one.net.add_address(absent, nobody.clone()).await;
        let net = one.net.clone();
        asked.spawn(async move { net.open_job_stream(absent, job()).await.map(drop) });
    }
    let address = other.net.listen_addresses().await.remove(0);
    one.net.add_address(other.id(), address).await;
    one.net.ping(other.id(), None).await.unwrap();
    while let Some(outcome) = soon(asked.join_next()).await {
        let error = outcome.unwrap().unwrap_err().to_string();
        assert!(error.contains("nothing listens there"), "{error}");
    }
}
