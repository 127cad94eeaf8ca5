//! What nodes remember of their peers, whom they refuse, and what they tell of them.

use derouter_net::{DialError, KnownPeer, PeerEvent, PeerRule};
use derouter_wire::rpc::network::{PathKind, PeerReport};
use libp2p::PeerId;
use libp2p::multiaddr::Protocol;

use crate::raw_peer::RawPeer;
use crate::support::*;

async fn report(node: &Node, peer: PeerId) -> PeerReport {
    let reports = node.net.peer_reports().await;
    let found = reports.into_iter().find(|report| report.peer == peer);
    found.expect("the peer is known")
}

/// Stops a node; what it wants to be kept.
async fn kept(mut node: Node) -> Vec<KnownPeer> {
    node.net.shutdown().await;
    let mut kept = Vec::new();
    while let Some(changes) = soon(node.events.known_peers.recv()).await {
        kept.extend(changes);
    }
    kept
}

#[tokio::test]
async fn a_node_without_bootstrap_nodes_finds_the_peers_of_its_last_run() {
    let (one, other) = pair(TCP).await;
    let known = kept(one).await;
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].peer, other.id());
    assert!(known[0].addresses[0].last_success.is_some());
    let mut restarted = config(TCP);
    restarted.known_peers = known;
    let mut restarted = node_with(restarted).await;
    let event = soon(restarted.events.peers.recv()).await;
    assert_eq!(event, Some(PeerEvent::Connected(other.id())));
}

/// Well before the turn at which all changes are given out.
const NEWS_LIMIT: std::time::Duration = std::time::Duration::from_secs(15);

/// What is given out of this peer until it is known where it was reached.
async fn news_of(node: &mut Node, peer: PeerId) -> KnownPeer {
    let reached = |known: &KnownPeer| {
        let mut addresses = known.addresses.iter();
        known.peer == peer && addresses.any(|known| known.last_success.is_some())
    };
    within(NEWS_LIMIT, async {
        loop {
            let told = node.events.known_peers.recv().await.unwrap();
            if let Some(known) = told.into_iter().find(reached) {
                return known;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_node_that_is_killed_soon_after_its_first_connection_finds_its_peer_again() {
    let (mut one, other) = pair(TCP).await;
    let known = news_of(&mut one, other.id()).await;
    // What it has not given out by now is lost.
    let mut restarted = config(TCP);
    restarted.known_peers = vec![known];
    let mut restarted = node_with(restarted).await;
    let event = soon(restarted.events.peers.recv()).await;
    assert_eq!(event, Some(PeerEvent::Connected(other.id())));
}

#[tokio::test]
async fn a_remembered_peer_behind_a_relay_is_reached_although_the_relay_is_not_connected() {
    let mut relay_config = config(TCP);
    relay_config.options.relay_server = Some(derouter_net::RelayLimits::default());
    let relay = node_with(relay_config).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let mut hidden = derouter_net::NetConfig::new(derouter_net::Keypair::generate_ed25519());
    hidden.options.listen = vec![circuit.clone()];
    let hidden = node_with(hidden).await;
    let net = hidden.net.clone();
    until(async || !net.listen_addresses().await.is_empty()).await;
    let first = node(TCP).await;
    first
        .net
        .dial(circuit.with_p2p(hidden.id()).unwrap())
        .await
        .unwrap();
    let known = kept(first).await;
    let hidden_only = known.into_iter().filter(|known| known.peer == hidden.id());

    let mut restarted = config(TCP);
    restarted.known_peers = hidden_only.collect();
    let restarted = node_with(restarted).await;
    let pinged = soon(restarted.net.ping(hidden.id(), None)).await.unwrap();
    assert_eq!(pinged.path.kind, PathKind::Relayed);
    assert_eq!(pinged.path.relay, Some(relay.id().to_string()));
}

#[tokio::test]
async fn a_peer_that_sends_garbage_is_banned_refused_and_not_dialled() {
    let node = node(TCP).await;
    let mut raw = RawPeer::hostile();
    let peer = raw.id();
    let address = raw.listen().await;
    raw.join(node.address().await).await;
    for number in 0..10 {
        raw.publish(vec![0xfb; 100 + number]);
    }
    let banned = async || {
        let reports = node.net.peer_reports().await;
        let report = reports.iter().find(|report| report.peer == peer);
        report.is_some_and(|report| report.banned_until.is_some())
    };
    let gone = async || banned().await && node.net.peers().await.is_empty();
    tokio::select! {
        () = raw.run() => {}
        () = until(gone) => {}
    }
    let told = report(&node, peer).await;
    assert_eq!(told.score, -100);
    assert!(told.paths.is_empty());
    assert!(told.offence.unwrap().contains("no message"));

    node.net.add_address(peer, address.clone()).await;
    let dialled = node.net.dial(address.with_p2p(peer).unwrap());
    let refused = tokio::select! {
        () = raw.run() => unreachable!(),
        refused = dialled => refused,
    };
    let Err(DialError::Unreachable(reason)) = refused else {
        panic!("a banned peer was dialled");
    };
    assert!(reason.contains("banned"), "{reason}");

    // It comes again: the connection is refused once it is known who it is.
    let dials = libp2p::swarm::dial_opts::DialOpts::unknown_peer_id()
        .address(node.address().await)
        .build();
    raw.swarm.dial(dials).unwrap();
    let closed = async {
        loop {
            let event = futures::StreamExt::select_next_some(&mut raw.swarm).await;
            match event {
                libp2p::swarm::SwarmEvent::ConnectionClosed { .. }
                | libp2p::swarm::SwarmEvent::OutgoingConnectionError { .. } => return,
                _ => {}
            }
        }
    };
    soon(closed).await;
    assert!(node.net.peers().await.is_empty());
}

#[tokio::test]
async fn a_blocked_peer_is_refused_in_and_out_and_others_are_not() {
    let (blocked, other) = (node(TCP).await, node(TCP).await);
    let mut strict = config(TCP);
    strict.options.block = vec![PeerRule::Peer(blocked.id())];
    let strict = node_with(strict).await;
    other.dial(&strict).await;
    // The dialler's side is done before the other side refuses.
    let _ = blocked.net.dial(strict.address().await).await;
    until(async || blocked.net.peers().await.is_empty()).await;
    let Err(DialError::Unreachable(reason)) = strict.net.dial(blocked.address().await).await else {
        panic!("a blocked peer was dialled");
    };
    assert!(reason.contains("configuration"), "{reason}");
    let peers = strict.net.peers().await;
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].peer, other.id());
}

#[tokio::test]
async fn who_is_turned_away_is_told_why_that_may_be() {
    for listen in [TCP, QUIC] {
        let keypair = derouter_net::Keypair::generate_ed25519();
        let mut strict = config(listen);
        let blocked = PeerRule::Peer(keypair.public().to_peer_id());
        strict.options.block = vec![blocked];
        let strict = node_with(strict).await;
        let mut stubborn = derouter_net::NetConfig::new(keypair);
        stubborn.options.bootstrap = vec![strict.address().await];
        let stubborn = node_with(stubborn).await;
        let reason = async || {
            let reports = stubborn.net.peer_reports().await;
            let report = reports
                .into_iter()
                .find(|report| report.peer == strict.id());
            report?.last_dial_error
        };
        let is_told = |reason: String| reason.contains("closed the connection");
        until(async || reason().await.is_some_and(is_told)).await;
        assert!(stubborn.net.peers().await.is_empty());
        let refused = &strict.net.counters().inbound_refused;
        assert!(refused.load(std::sync::atomic::Ordering::Relaxed) > 0);
        let network = stubborn.net.network_report().await.unwrap();
        let bootstrap = &network.bootstrap[0];
        assert!(!bootstrap.connected, "{bootstrap:?}");
        let told = bootstrap.error.as_ref().unwrap();
        assert!(told.contains("closed the connection"), "{told}");
    }
}

#[tokio::test]
async fn a_blocked_network_is_refused_before_any_handshake() {
    let other = node(TCP).await;
    let mut strict = config(TCP);
    strict.options.block = vec!["127.0.0.0/8".parse().unwrap()];
    let strict = node_with(strict).await;
    let refused = other.net.dial(strict.address().await).await;
    assert!(
        matches!(refused, Err(DialError::Unreachable(_))),
        "{refused:?}"
    );
    let refused = strict.net.dial(other.address().await).await;
    assert!(
        matches!(refused, Err(DialError::Unreachable(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_address_that_a_peer_tells_of_itself_is_not_dialled_where_the_operator_blocks_it() {
    let mut told = config(TCP);
    let listen = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.2/tcp/0"];
    told.options.listen = listen.map(|address| address.parse().unwrap()).to_vec();
    let told = node_with(told).await;
    let mut strict = config(TCP);
    strict.options.block = vec!["127.0.0.2".parse().unwrap()];
    let strict = node_with(strict).await;
    let addresses = told.net.listen_addresses().await;
    let open = addresses
        .iter()
        .find(|address| address.to_string().contains("127.0.0.1"));
    let open = open.unwrap().clone().with_p2p(told.id()).unwrap();
    strict.net.dial(open).await.unwrap();
    // From now on it is known where the peer says that it is.
    until(async || strict.net.peers().await[0].agent.is_some()).await;
    let peer = told.id();
    soon(told.net.shutdown()).await;
    until(async || strict.net.peers().await.is_empty()).await;
    let error = strict.net.ping(peer, None).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1"), "{error}");
    assert!(!error.contains("127.0.0.2"), "{error}");
}

#[tokio::test]
async fn with_an_allow_list_only_its_peers_and_bootstrap_nodes_connect() {
    let (friend, hub, stranger) = (node(TCP).await, node(TCP).await, node(TCP).await);
    let mut closed = config(TCP);
    closed.options.allow = vec![PeerRule::Peer(friend.id())];
    // Without its peer id: whoever answers there is meant.
    closed.options.bootstrap = hub.net.listen_addresses().await;
    let closed = node_with(closed).await;
    let _ = stranger.net.dial(closed.address().await).await;
    friend.dial(&closed).await;
    until(async || {
        let peers = closed.net.peers().await;
        let is = |id: PeerId| peers.iter().any(|info| info.peer == id);
        peers.len() == 2 && is(friend.id()) && is(hub.id())
    })
    .await;
    until(async || stranger.net.peers().await.is_empty()).await;
    assert!(closed.net.dial(stranger.address().await).await.is_err());
}

#[tokio::test]
async fn a_ping_dials_measures_and_tells_its_path() {
    let (one, other) = (node(TCP).await, node(QUIC).await);
    let unknown = one.net.ping(other.id(), None).await.unwrap_err();
    assert!(unknown.to_string().contains("no address"), "{unknown}");
    let itself = one.net.ping(one.id(), None).await.unwrap_err();
    assert!(itself.to_string().contains("itself"), "{itself}");
    let mut address = other.net.listen_addresses().await.remove(0);
    let pinged = one.net.ping(other.id(), Some(address.clone())).await;
    let pinged = pinged.unwrap();
    assert!(pinged.rtt_us > 0);
    assert_eq!(pinged.path.kind, PathKind::Lan);
    assert!(pinged.path.outbound);
    address.push(Protocol::P2p(other.id()));
    for _ in 0..5 {
        one.net
            .ping(other.id(), Some(address.clone()))
            .await
            .unwrap();
    }
    let peers = one.net.peers().await;
    assert_eq!(peers[0].connections.len(), 1, "it is dialled once");
}

#[tokio::test]
async fn a_peer_that_was_never_reached_is_reported_with_the_reason_for_each_address() {
    let one = node(TCP).await;
    let gone = node(TCP).await;
    let address = gone.net.listen_addresses().await.remove(0);
    gone.net.shutdown().await;
    one.net.add_address(gone.id(), address.clone()).await;
    one.net.ping(gone.id(), None).await.unwrap_err();
    let told = report(&one, gone.id()).await;
    let error = told.last_dial_error.unwrap();
    assert!(error.contains("nothing listens there"), "{error}");
    assert_eq!(told.addresses.len(), 1);
    assert_eq!(told.addresses[0].address, address.to_string());
    let error = told.addresses[0].error.as_ref().unwrap();
    assert!(error.contains("nothing listens there"), "{error}");
    assert!(told.paths.is_empty() && told.last_connected.is_none());
}

#[tokio::test]
async fn the_round_trip_of_each_connection_and_why_a_bootstrap_node_fails_are_told() {
    let other = node(TCP).await;
    let gone = node(TCP).await;
    let nobody = gone.address().await;
    gone.net.shutdown().await;
    let mut one = config(TCP);
    one.options.bootstrap = vec![other.address().await, nobody.clone()];
    let one = node_with(one).await;
    until(async || {
        let reports = one.net.peer_reports().await;
        let paths = reports.iter().flat_map(|report| &report.paths);
        paths.into_iter().any(|path| path.rtt_us.is_some())
    })
    .await;
    until(async || {
        let report = one.net.network_report().await.unwrap();
        let failed = report
            .bootstrap
            .iter()
            .find(|node| node.address == nobody.to_string());
        failed.is_some_and(|node| node.error.is_some() && !node.connected)
    })
    .await;
    let bootstrap = one.net.network_report().await.unwrap().bootstrap;
    assert!(bootstrap[0].connected && bootstrap[0].error.is_none());
}
