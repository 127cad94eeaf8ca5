use super::*;

const UNIX: UnixSeconds = UnixSeconds(1);

fn address(network: u8) -> Multiaddr {
    format!("/ip4/1.{network}.0.1/tcp/4001").parse().unwrap()
}

/// A manager that knows connected relays in these networks.
fn manager(wanted: usize, networks: &[u8], now: Instant) -> (RelayManager, Vec<PeerId>) {
    let mut manager = RelayManager::new(wanted);
    let mut peers = Vec::new();
    for network in networks {
        let peer = PeerId::random();
        manager.candidate(peer, &address(*network), true, now);
        peers.push(peer);
    }
    (manager, peers)
}

/// Does what the manager asks.
fn obey(manager: &mut RelayManager, now: Instant) -> Vec<(PeerId, ListenerId)> {
    let mut listeners = Vec::new();
    for action in manager.poll(now, Demand::Reserve) {
        let Action::Listen(peer, circuit) = action else {
            panic!("nothing is to be given up");
        };
        assert!(place::is_relayed(&circuit));
        let listener = ListenerId::next();
        manager.listening(&peer, listener, UNIX);
        listeners.push((peer, listener));
    }
    listeners
}

#[test]
fn a_private_node_reserves_on_so_many_relays_in_different_networks() {
    let now = Instant::now();
    let (mut manager, peers) = manager(2, &[1, 1, 1, 2], now);
    let asked = obey(&mut manager, now);
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().any(|(peer, _)| *peer == peers[3]));
    assert!(obey(&mut manager, now).is_empty(), "it waits for them");
    for (peer, _) in &asked {
        assert!(manager.accepted(peer, now, UNIX));
        assert!(!manager.accepted(peer, now, UNIX), "a renewal");
    }
    assert!(obey(&mut manager, now).is_empty());
}

#[test]
fn a_reservation_that_is_lost_or_refused_is_made_at_once_on_another_relay() {
    let now = Instant::now();
    let (mut manager, _) = manager(1, &[1, 2], now);
    let (first, listener) = obey(&mut manager, now)[0];
    manager.accepted(&first, now, UNIX);
    assert_eq!(
        manager.closed(listener, None, (now, UNIX), 0.5),
        Some((first, true))
    );
    let (second, listener) = obey(&mut manager, now)[0];
    assert_ne!(first, second);
    let refusal = Some("full".to_owned());
    assert_eq!(
        manager.closed(listener, refusal, (now, UNIX), 0.5),
        Some((second, false))
    );
    assert!(obey(&mut manager, now).is_empty(), "both wait");
    let states: Vec<_> = manager
        .view()
        .into_iter()
        .map(|relay| relay.state)
        .collect();
    assert_eq!(states, [ReservationState::Failed; 2]);
}

#[test]
fn the_only_relay_is_tried_again_after_5_seconds_to_5_minutes_until_it_works() {
    let start = Instant::now();
    let (mut manager, _) = manager(3, &[1], start);
    let mut now = start;
    let mut delays = Vec::new();
    for _ in 0..8 {
        let (_, listener) = obey(&mut manager, now)[0];
        manager.closed(listener, None, (now, UNIX), 0.5);
        let due = manager.due().unwrap();
        delays.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(delays, [5, 10, 20, 40, 80, 160, 300, 300]);
    let (peer, listener) = obey(&mut manager, now)[0];
    manager.accepted(&peer, now, UNIX);
    manager.closed(listener, None, (now, UNIX), 0.5);
    assert_eq!(manager.due(), Some(now + LOST_DELAY), "a success resets it");
    manager.network_changed(now);
    assert_eq!(obey(&mut manager, now).len(), 1, "at once in a new network");
}

#[test]
fn reservations_are_dropped_when_public_but_a_configured_one_stays() {
    let now = Instant::now();
    let (mut manager, peers) = manager(1, &[1], now);
    let pinned = PeerId::random();
    let circuit = address(2)
        .with(Protocol::P2p(pinned))
        .with(Protocol::P2pCircuit);
    let listener = ListenerId::next();
    assert_eq!(obey(&mut manager, now).len(), 1);
    manager.pin(&circuit, listener, now);
    manager.accepted(&pinned, now, UNIX);
    manager.accepted(&peers[0], now, UNIX);
    assert!(manager.poll(now, Demand::Keep).is_empty());
    let actions = manager.poll(now, Demand::Drop);
    assert_eq!(actions.len(), 1);
    assert_ne!(actions[0], Action::Stop(listener));
    manager.closed(listener, None, (now, UNIX), 0.5);
    let later = now + LAST_DELAY;
    assert_eq!(
        manager.poll(later, Demand::Drop),
        [Action::Listen(pinned, circuit)]
    );
}

#[test]
fn a_reservation_is_not_dropped_while_a_renewal_may_be_under_way() {
    let now = Instant::now();
    let (mut manager, peers) = manager(1, &[1], now);
    obey(&mut manager, now);
    manager.accepted(&peers[0], now, UNIX);
    let renewal = now + Duration::from_secs(45 * 60);
    assert!(manager.poll(renewal, Demand::Drop).is_empty());
    manager.accepted(&peers[0], renewal, UNIX);
    assert_eq!(manager.poll(renewal, Demand::Drop).len(), 1);
}

#[test]
fn a_relay_that_granted_a_reservation_is_tried_again_soon_and_at_once_when_it_is_back() {
    let now = Instant::now();
    let (mut manager, peers) = manager(1, &[1], now);
    let (_, listener) = obey(&mut manager, now)[0];
    manager.accepted(&peers[0], now, UNIX);
    manager.disconnected(&peers[0], now);
    manager.closed(listener, None, (now, UNIX), 0.5);
    assert_eq!(manager.due(), Some(now + LOST_DELAY));
    let mut at = now + LOST_DELAY;
    for _ in 0..5 {
        let (_, listener) = obey(&mut manager, at)[0];
        manager.closed(listener, None, (at, UNIX), 0.5);
        let due = manager.due().unwrap();
        assert!(due <= at + PROVEN_DELAY);
        at = due;
    }
    let back = at - Duration::from_secs(1);
    manager.candidate(peers[0], &address(1), true, back);
    assert_eq!(manager.due(), Some(back));
}

#[test]
fn a_reservation_that_was_lost_is_made_again_as_soon_as_the_dead_connections_are_gone() {
    let now = Instant::now();
    let (mut manager, peers) = manager(1, &[1], now);
    let (_, listener) = obey(&mut manager, now)[0];
    manager.accepted(&peers[0], now, UNIX);
    manager.closed(listener, None, (now, UNIX), 1.0);
    let gone = now + limits::QUICK_LIFE_SIGN;
    assert!(manager.due().unwrap() > gone);
    manager.disconnected(&peers[0], gone);
    assert_eq!(manager.due(), Some(gone));
}

#[test]
fn known_relays_are_bounded_and_those_in_use_are_kept() {
    let now = Instant::now();
    let (mut manager, peers) = manager(1, &[1], now);
    obey(&mut manager, now);
    for _ in 0..2 * limits::RELAY_CANDIDATES {
        manager.candidate(PeerId::random(), &address(2), false, now);
    }
    assert_eq!(manager.relays.len(), limits::RELAY_CANDIDATES);
    assert!(manager.relays.contains_key(&peers[0]));
}

#[test]
fn a_node_that_nobody_reaches_reserves_and_one_that_is_public_does_not() {
    let (short, long) = (Duration::from_secs(1), Duration::from_secs(1000));
    use Reachability::{Private, Public, Unknown};
    assert_eq!(demand(Private, short, true), Demand::Reserve);
    assert_eq!(demand(Unknown, short, false), Demand::Reserve);
    assert_eq!(demand(Unknown, long, false), Demand::Reserve);
    assert_eq!(demand(Unknown, long, true), Demand::Keep);
    assert_eq!(demand(Public, short, false), Demand::Keep);
    assert_eq!(demand(Public, long, false), Demand::Drop);
}
