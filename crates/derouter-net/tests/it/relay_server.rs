//! What peers of version 0.1.0 have of a relay: its circuits, and what it forwards.

use std::sync::atomic::Ordering;

use derouter_net::{Multiaddr, RelayLimits};
use derouter_wire::UnixSeconds;
use derouter_wire::gossip::Heartbeat;
use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, SwarmBuilder, identify, noise, relay, tcp, yamux};

use crate::raw_peer::{RawPeer, Seen};
use crate::support::*;

async fn relay_of(limits: RelayLimits) -> Node {
    let mut config = config(TCP);
    config.options.relay_server = Some(limits);
    config.options.private_network = true;
    node_with(config).await
}

#[derive(NetworkBehaviour)]
struct OldBehaviour {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
}

/// A peer that is not ours, with libp2p's own relay client, as version 0.1.0 has it.
fn old_peer() -> Swarm<OldBehaviour> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default(),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key, relay| OldBehaviour {
            relay,
            identify: identify::Behaviour::new(identify::Config::new(
                "/derouter/identify/0.1.0".to_owned(),
                key.public(),
            )),
        })
        .unwrap()
        .build()
}

/// Works until `wanted` sees its event.
async fn work<T>(
    swarm: &mut Swarm<OldBehaviour>,
    wanted: impl Fn(&SwarmEvent<OldBehaviourEvent>) -> Option<T>,
) -> T {
    soon(async {
        loop {
            if let Some(found) = wanted(&swarm.select_next_some().await) {
                return found;
            }
        }
    })
    .await
}

async fn forever(swarm: &mut Swarm<OldBehaviour>) {
    loop {
        swarm.select_next_some().await;
    }
}

/// Whether the reservation was granted.
async fn reserve(swarm: &mut Swarm<OldBehaviour>, circuit: &Multiaddr) -> bool {
    swarm.listen_on(circuit.clone()).unwrap();
    work(swarm, |event| match event {
        SwarmEvent::Behaviour(OldBehaviourEvent::Relay(
            relay::client::Event::ReservationReqAccepted { .. },
        )) => Some(true),
        SwarmEvent::ListenerClosed { .. } => Some(false),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_0_1_peer_is_reached_by_another_through_a_reservation_on_our_relay() {
    let relay = relay_of(RelayLimits::default()).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let mut hidden = old_peer();
    assert!(reserve(&mut hidden, &circuit).await);
    let (mut other, target) = (old_peer(), *hidden.local_peer_id());
    other.dial(circuit.with_p2p(target).unwrap()).unwrap();
    let connected = work(&mut other, |event| match event {
        SwarmEvent::ConnectionEstablished {
            peer_id, endpoint, ..
        } if *peer_id == target => Some(endpoint.is_relayed()),
        _ => None,
    });
    let relayed = tokio::select! {
        relayed = connected => relayed,
        () = forever(&mut hidden) => unreachable!(),
    };
    assert!(relayed);
    let counters = &relay.net.counters().relay;
    assert_eq!(counters.reserved_peers.load(Ordering::Relaxed), 1);
    assert_eq!(counters.circuits_accepted.load(Ordering::Relaxed), 1);
    drop((other, hidden));
    until(async || counters.reserved_peers.load(Ordering::Relaxed) == 0).await;
    until(async || counters.circuits.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn a_relay_that_is_full_refuses_a_reservation() {
    let limits = RelayLimits {
        reservations: 1,
        ..RelayLimits::default()
    };
    let relay = relay_of(limits).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let (mut first, mut second) = (old_peer(), old_peer());
    assert!(reserve(&mut first, &circuit).await);
    let granted = tokio::select! {
        granted = reserve(&mut second, &circuit) => granted,
        () = forever(&mut first) => unreachable!(),
    };
    assert!(!granted);
    let counters = &relay.net.counters().relay;
    assert_eq!(counters.reservations_refused.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_relay_that_is_full_renews_the_reservations_that_it_gave() {
    let limits = RelayLimits {
        reservations: 1,
        ..RelayLimits::default()
    };
    let relay = relay_of(limits).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let mut peer = old_peer();
    assert!(reserve(&mut peer, &circuit).await);
    // Over the same connection, as a renewal is.
    assert!(reserve(&mut peer, &circuit).await);
    let counters = &relay.net.counters().relay;
    assert_eq!(counters.reservations_renewed.load(Ordering::Relaxed), 1);
    assert_eq!(counters.reservations_refused.load(Ordering::Relaxed), 0);
    drop(peer);
    until(async || counters.reserved_peers.load(Ordering::Relaxed) == 0).await;
    let mut next = old_peer();
    assert!(reserve(&mut next, &circuit).await, "the place is free");
}

#[tokio::test]
async fn a_peer_opens_as_many_circuits_as_it_may_and_no_more() {
    let limits = RelayLimits {
        circuits_per_peer: 1,
        ..RelayLimits::default()
    };
    let relay = relay_of(limits).await;
    let circuit = relay.address().await.with(Protocol::P2pCircuit);
    let (mut first, mut second) = (old_peer(), old_peer());
    assert!(reserve(&mut first, &circuit).await);
    assert!(reserve(&mut second, &circuit).await);
    let mut other = old_peer();
    let counters = &relay.net.counters().relay;
    let outcomes = [
        &counters.circuits_accepted,
        &counters.circuits_refused_limit,
    ];
    for (hidden, outcome) in [&first, &second]
        .map(|hidden| *hidden.local_peer_id())
        .into_iter()
        .zip(outcomes)
    {
        other
            .dial(circuit.clone().with_p2p(hidden).unwrap())
            .unwrap();
        tokio::select! {
            () = until(async || outcome.load(Ordering::Relaxed) == 1) => {}
            () = forever(&mut first) => unreachable!(),
            () = forever(&mut second) => unreachable!(),
            () = forever(&mut other) => unreachable!(),
        }
    }
    assert_eq!(counters.circuits_accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_relay_forwards_the_heartbeats_of_0_1_peers_to_each_other() {
    let relay = relay_of(RelayLimits::default()).await;
    let (mut one, mut other) = (RawPeer::version_0_1(), RawPeer::version_0_1());
    one.join(relay.address().await).await;
    other.join(relay.address().await).await;
    let both_known = until(async || {
        let peers = relay.net.peers().await;
        peers
            .iter()
            .filter(|peer| peer.version_0_1 == Some(true))
            .count()
            == 2
    });
    tokio::select! {
        () = both_known => {}
        () = one.run() => unreachable!(),
        () = other.run() => unreachable!(),
    }
    let heartbeat = Heartbeat {
        provider: Some(announcement("theirs", 1)),
        timestamp: UnixSeconds(unix_now()),
    };
    one.publish(heartbeat.encode());
    let (source, data) = loop {
        let seen = tokio::select! {
            seen = other.next() => seen,
            () = one.run() => unreachable!(),
        };
        if let Seen::Message(source, data) = seen {
            break (source, data);
        }
    };
    assert_eq!(source, Some(one.id()));
    assert_eq!(Heartbeat::decode(&data).unwrap(), heartbeat);
}
