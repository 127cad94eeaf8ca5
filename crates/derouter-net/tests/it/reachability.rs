//! Whether and how others reach a node: tests by peers, reservations on relays, punched holes.

use derouter_net::{KnownReachability, Multiaddr, NetConfig, PeerId, RelayLimits};
use derouter_wire::rpc::network::{NetworkReport, Reachability, ReservationState};
use libp2p::multiaddr::Protocol;

use crate::support::*;

fn relay_config() -> NetConfig {
    let mut relay = config(TCP);
    relay.options.relay_server = Some(RelayLimits::default());
    relay
}

/// A node that nobody can dial, with a reservation on one of these relays.
async fn private_node(relays: &[&Node]) -> Node {
    let mut private = config(TCP);
    private.options.reachability = KnownReachability::Private;
    private.options.relays = 1;
    for relay in relays {
        private.options.bootstrap.push(relay.address().await);
    }
    node_with(private).await
}

async fn report(node: &Node) -> NetworkReport {
    node.net.network_report().await.unwrap()
}

/// On which relay the node has a reservation.
async fn reserved(node: &Node) -> Option<PeerId> {
    let report = report(node).await;
    let mut relays = report.relays.into_iter();
    let reserved = relays.find(|relay| relay.state == ReservationState::Reserved);
    reserved.map(|relay| relay.peer)
}

async fn until_reserved(node: &Node) -> PeerId {
    let mut relay = None;
    until(async || {
        relay = reserved(node).await;
        relay.is_some()
    })
    .await;
    relay.unwrap()
}

/// The node as others reach it through a relay.
async fn through(relay: &Node, node: &Node) -> Multiaddr {
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    circuit.with_p2p(node.id()).unwrap()
}

#[tokio::test]
async fn a_private_node_moves_to_another_relay_when_its_relay_stops() {
    let relays = [
        node_with(relay_config()).await,
        node_with(relay_config()).await,
    ];
    let private = private_node(&[&relays[0], &relays[1]]).await;
    let first = until_reserved(&private).await;
    let (used, other) = match first == relays[0].id() {
        true => (&relays[0], &relays[1]),
        false => (&relays[1], &relays[0]),
    };
    used.net.shutdown().await;
    until(async || reserved(&private).await == Some(other.id())).await;
    let consumer = node(TCP).await;
    let address = through(other, &private).await;
    assert_eq!(consumer.net.dial(address).await.unwrap(), private.id());
}

#[tokio::test]
async fn a_reservation_is_made_again_when_the_only_relay_restarts() {
    let mut config = relay_config();
    let relay = node_with(config.clone()).await;
    let private = private_node(&[&relay]).await;
    until_reserved(&private).await;
    config.options.listen = relay.net.listen_addresses().await;
    relay.net.shutdown().await;
    until(async || reserved(&private).await.is_none()).await;
    let relay = node_with(config).await;
    until(async || reserved(&private).await == Some(relay.id())).await;
}

#[tokio::test]
async fn a_relay_that_takes_no_more_is_passed_over() {
    let mut full = relay_config();
    full.options.relay_server = Some(RelayLimits {
        reservations: 0,
        ..RelayLimits::default()
    });
    let full = node_with(full).await;
    let relay = node_with(relay_config()).await;
    let private = private_node(&[&full, &relay]).await;
    assert_eq!(until_reserved(&private).await, relay.id());
}

#[tokio::test]
async fn a_node_is_public_once_a_peer_has_dialled_it() {
    for listen in [TCP, QUIC] {
        let mut server = config(listen);
        server.options.private_network = true;
        let server = node_with(server).await;
        let mut client = config(listen);
        client.options.private_network = true;
        client.options.bootstrap.push(server.address().await);
        let client = node_with(client).await;
        until(async || report(&client).await.reachability == Reachability::Public).await;
        let report = report(&client).await;
        let own = client.net.listen_addresses().await[0].to_string();
        let confirmed = report
            .external
            .iter()
            .find(|one| one.reachable == Some(true));
        let confirmed = confirmed.unwrap();
        assert_eq!(confirmed.address, own);
        assert!(confirmed.tested_at.is_some());
    }
}

#[tokio::test]
async fn an_address_that_nobody_can_dial_makes_no_node_public() {
    let mut server = config(TCP);
    server.options.private_network = true;
    let server = node_with(server).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let wrong: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let mut client = NetConfig::new(derouter_net::Keypair::generate_ed25519());
    client.options.private_network = true;
    client.options.external_addresses.push(wrong.clone());
    client.options.bootstrap.push(server.address().await);
    let client = node_with(client).await;
    until(async || {
        let report = report(&client).await;
        let tested = report
            .external
            .iter()
            .find(|one| one.address == wrong.to_string());
        tested.is_some_and(|one| one.tested_at.is_some() && one.error.is_some())
    })
    .await;
    assert_ne!(report(&client).await.reachability, Reachability::Public);
}

#[tokio::test]
async fn a_node_without_peers_is_told_why() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let mut lonely = config(TCP);
    let nobody = format!("/ip4/127.0.0.1/tcp/{port}");
    lonely.options.bootstrap.push(nobody.parse().unwrap());
    let lonely = node_with(lonely).await;
    until(async || {
        let report = report(&lonely).await;
        report.bootstrap[0].error.is_some()
            && report
                .advice
                .iter()
                .any(|advice| advice.code == "bootstrap_unreachable")
    })
    .await;
}

#[tokio::test]
async fn a_peer_behind_a_relay_is_reached_directly_in_the_end() {
    let relay = node_with(relay_config()).await;
    let provider = private_node(&[&relay]).await;
    until_reserved(&provider).await;
    let consumer = node(TCP).await;
    consumer
        .net
        .dial(through(&relay, &provider).await)
        .await
        .unwrap();
    until(async || {
        let peers = consumer.net.peers().await;
        let peer = peers.iter().find(|info| info.peer == provider.id());
        peer.is_some_and(|peer| peer.connections.iter().any(|one| !one.relayed))
    })
    .await;
}

#[tokio::test]
async fn ports_that_were_chosen_are_kept_at_the_next_start_and_shared_by_tcp_and_quic() {
    let mut config = config(TCP);
    config.options.listen.push(QUIC.parse().unwrap());
    let first = node_with(config.clone()).await;
    let chosen = first.net.chosen_listen().to_vec();
    let mut told = first.net.listen_addresses().await;
    told.sort();
    let mut sorted = chosen.clone();
    sorted.sort();
    assert_eq!(sorted, told);
    first.net.shutdown().await;
    config.kept_listen = chosen.clone();
    let second = node_with(config.clone()).await;
    assert_eq!(second.net.chosen_listen(), chosen);

    // While they are taken, another node with the same memory chooses others.
    config.keypair = derouter_net::Keypair::generate_ed25519();
    let other = node_with(config).await;
    assert!(
        other
            .net
            .chosen_listen()
            .iter()
            .all(|one| !chosen.contains(one))
    );
}
