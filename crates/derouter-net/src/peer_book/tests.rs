//! What the book remembers and forgets.

use libp2p::multiaddr::Protocol;
use proptest::prelude::*;

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_000_000_000);

fn later(seconds: u64) -> UnixSeconds {
    UnixSeconds(NOW.0 + seconds)
}

fn address(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn public(host: u8, port: u16) -> Multiaddr {
    address(&format!("/ip4/203.0.113.{host}/tcp/{port}"))
}

/// Each in a network of its own.
fn elsewhere(number: usize) -> Multiaddr {
    let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
    address(&format!("/ip4/{}.{b}.{c}.1/tcp/1000", 20 + a))
}

fn told(book: &mut PeerBook, peer: PeerId, address: Multiaddr) -> bool {
    book.learn(peer, address, Source::Told, Scope::World, NOW)
}

fn reach(book: &mut PeerBook, peer: PeerId, address: &Multiaddr, now: UnixSeconds) {
    let connection = ConnectionId::new_unchecked(1);
    let met = Met {
        peer,
        connection,
        address,
        outbound: true,
        near: Scope::World,
    };
    book.met(met, now);
    book.parted(peer, connection, now);
}

fn everybody(_: &PeerId) -> bool {
    true
}

#[test]
fn what_worked_is_dialled_first() {
    let mut book = PeerBook::default();
    let peer = PeerId::random();
    for port in 1..=3 {
        assert!(told(&mut book, peer, public(1, port)));
    }
    reach(&mut book, peer, &public(1, 2), NOW);
    assert_eq!(book.addresses(&peer, NOW).first(), Some(&public(1, 2)));
    assert_eq!(book.addresses(&peer, NOW).len(), 3);
}

#[test]
fn an_address_with_the_peers_own_id_is_the_same_address() {
    let mut book = PeerBook::default();
    let peer = PeerId::random();
    told(&mut book, peer, public(1, 1).with(Protocol::P2p(peer)));
    told(&mut book, peer, public(1, 1));
    assert_eq!(book.addresses(&peer, NOW), [public(1, 1)]);
}

#[test]
fn a_peer_that_tells_many_addresses_keeps_those_that_worked_and_the_configured_one() {
    let mut book = PeerBook::default();
    let peer = PeerId::random();
    reach(&mut book, peer, &public(1, 1), NOW);
    book.learn(peer, public(2, 1), Source::Configured, Scope::Machine, NOW);
    for port in 3..1000 {
        book.learn(
            peer,
            public(1, port),
            Source::Identify,
            Scope::World,
            later(u64::from(port)),
        );
    }
    let known = book.addresses(&peer, NOW);
    assert_eq!(known.len(), limits::BOOK_ADDRESSES);
    assert!(known.contains(&public(1, 1)) && known.contains(&public(2, 1)));
    assert!(known.contains(&public(1, 999)), "the latest is known");
}

#[test]
fn an_address_where_another_peer_answers_is_forgotten_unless_it_is_configured() {
    let mut book = PeerBook::default();
    let peer = PeerId::random();
    told(&mut book, peer, public(1, 1));
    book.learn(peer, public(2, 1), Source::Configured, Scope::Machine, NOW);
    for host in [1, 2] {
        book.belongs_to_another(peer, public(host, 1), "another peer", NOW);
    }
    assert_eq!(book.addresses(&peer, NOW), [public(2, 1)]);
}

#[test]
fn private_addresses_are_believed_of_a_peer_that_is_connected_from_there_only() {
    let mut book = PeerBook::default();
    let (near, far) = (PeerId::random(), PeerId::random());
    let private = address("/ip4/192.168.1.2/tcp/1");
    for (peer, scope) in [(near, Scope::Network), (far, Scope::World)] {
        let met = Met {
            peer,
            connection: ConnectionId::new_unchecked(1),
            address: &private,
            outbound: false,
            near: scope,
        };
        book.met(met, NOW);
        let near = book.near(&peer);
        book.learn(peer, private.clone(), Source::Identify, near, NOW);
        book.learn(
            peer,
            address("/ip4/127.0.0.1/tcp/1"),
            Source::Identify,
            near,
            NOW,
        );
    }
    assert_eq!(book.addresses(&near, NOW), [private]);
    assert!(book.addresses(&far, NOW).is_empty());
}

#[test]
fn strangers_of_one_network_leave_room_to_others_and_push_out_nobody_who_was_reached() {
    let mut book = PeerBook::default();
    let friend = PeerId::random();
    reach(&mut book, friend, &public(1, 1), NOW);
    for port in 0..1000 {
        told(&mut book, PeerId::random(), public(9, port + 1));
    }
    assert_eq!(book.peers.len(), 1 + limits::BOOK_STRANGERS_PER_SUBNET);
    for number in 0..2 * limits::BOOK_PEERS {
        assert!(told(&mut book, PeerId::random(), elsewhere(number)));
    }
    assert_eq!(book.peers.len(), limits::BOOK_PEERS);
    assert!(book.get(&friend).is_some());
    let counted: usize = book.strangers.values().sum();
    assert_eq!(counted, limits::BOOK_PEERS - 1);
}

#[test]
fn a_book_full_of_useful_peers_takes_no_strangers_until_some_have_been_away_for_a_month() {
    let mut book = PeerBook::default();
    for number in 0..limits::BOOK_PEERS {
        reach(&mut book, PeerId::random(), &elsewhere(number), NOW);
    }
    assert!(!told(&mut book, PeerId::random(), public(1, 1)));
    let month = later(USEFUL_SECONDS);
    assert!(book.learn(
        PeerId::random(),
        public(1, 1),
        Source::Told,
        Scope::World,
        month
    ));
    assert_eq!(book.peers.len(), limits::BOOK_PEERS);
}

#[test]
fn candidates_are_those_reached_last_one_of_each_network_first() {
    let mut book = PeerBook::default();
    let [a, b, c, d] = [(); 4].map(|()| PeerId::random());
    reach(&mut book, a, &public(1, 1), later(10));
    reach(&mut book, b, &public(2, 1), later(9));
    reach(&mut book, c, &address("/ip4/198.51.100.1/tcp/1"), later(8));
    told(&mut book, d, address("/ip4/192.0.2.1/tcp/1"));
    let now = later(20);
    assert_eq!(book.candidates(10, now, everybody), [a, c, d, b]);
    assert_eq!(book.candidates(2, now, everybody), [a, c]);
    assert_eq!(book.candidates(9, now, |peer| *peer != a), [b, c, d]);
    book.blame(c, Offence::ForgedAnnouncement, None, now);
    book.blame(c, Offence::ForgedAnnouncement, None, now);
    book.dial_failed(d, "refused", now, 0.5);
    assert_eq!(book.candidates(10, now, everybody), [a, b]);
    assert_eq!(book.candidates(10, later(20 + 30), everybody), [a, d, b]);
}

#[test]
fn a_connected_peer_is_no_candidate_and_is_never_forgotten() {
    let mut book = PeerBook::default();
    let peer = PeerId::random();
    let met = Met {
        peer,
        connection: ConnectionId::new_unchecked(1),
        address: &public(1, 1),
        outbound: false,
        near: Scope::World,
    };
    book.met(met, NOW);
    told(&mut book, peer, public(1, 1));
    assert!(book.candidates(1, NOW, everybody).is_empty());
    for number in 0..limits::BOOK_PEERS + 10 {
        reach(&mut book, PeerId::random(), &elsewhere(number), later(100));
    }
    assert!(book.get(&peer).is_some());
    assert_eq!(book.peers.len(), limits::BOOK_PEERS);
}

#[test]
fn the_last_dial_error_is_told_until_the_peer_is_connected() {
    let mut book = PeerBook::default();
    let peer = PeerId::random();
    told(&mut book, peer, public(1, 1));
    book.dial_failed(peer, &"x".repeat(1000), NOW, 0.5);
    let (reason, at) = book.get(&peer).unwrap().last_dial_error.clone().unwrap();
    assert_eq!((reason.len(), at), (200, NOW));
    reach(&mut book, peer, &public(1, 1), NOW);
    assert_eq!(book.get(&peer).unwrap().last_dial_error, None);
}

#[test]
fn who_picks_up_and_closes_is_left_alone_ever_longer_until_it_says_who_it_is() {
    let mut book = PeerBook::default();
    let peer = PeerId::random();
    let mut now = NOW;
    let mut rests = Vec::new();
    let mut turn_away = |book: &mut PeerBook| {
        reach(book, peer, &public(1, 1), now);
        book.dial_failed(peer, "turned away", now, 0.5);
        assert!(book.get(&peer).unwrap().last_dial_error.is_some());
        let start = now;
        while book.candidates(1, now, |_| true).is_empty() {
            now.0 += 1;
        }
        now.0 - start.0
    };
    for _ in 0..3 {
        rests.push(turn_away(&mut book));
    }
    book.identified(peer, "derouter/9", false);
    rests.push(turn_away(&mut book));
    assert_eq!(rests, [30, 60, 120, 30]);
}

#[test]
fn what_is_kept_comes_back_addresses_bans_and_all() {
    let mut book = PeerBook::default();
    let [friend, banned, stranger] = [(); 3].map(|()| PeerId::random());
    let relay = PeerId::random();
    let relayed = address(&format!("/ip4/198.51.100.1/tcp/1/p2p/{relay}/p2p-circuit"));
    reach(&mut book, friend, &public(1, 1), NOW);
    book.learn(friend, relayed.clone(), Source::Identify, Scope::World, NOW);
    book.identified(friend, "derouter/9", true);
    told(&mut book, stranger, public(3, 1));
    let until = (0..10).find_map(|_| book.blame(banned, Offence::Flood, None, NOW));
    let kept = book.take_changes(NOW);
    assert_eq!(kept.len(), 2, "strangers are not kept");
    assert!(!book.has_changes() && book.take_changes(NOW).is_empty());

    let book = PeerBook::restore(kept, later(60));
    assert_eq!(book.addresses(&friend, later(60)), [public(1, 1), relayed]);
    let entry = book.get(&friend).unwrap();
    assert_eq!(entry.last_connected, Some(NOW));
    assert_eq!(entry.agent.as_deref(), Some("derouter/9"));
    assert!(entry.relays && entry.reached);
    assert_eq!(book.candidates(9, later(60), everybody), [friend]);
    assert!(until.is_some());
    assert_eq!(book.banned_until(&banned, later(60)), until);
}

#[test]
fn kept_times_from_the_future_count_as_now() {
    let peer = PeerId::random();
    let mut book = PeerBook::default();
    reach(&mut book, peer, &public(1, 1), later(1_000_000));
    let book = PeerBook::restore(book.take_changes(later(1_000_000)), NOW);
    assert_eq!(book.get(&peer).unwrap().last_connected, Some(NOW));
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u8, u8, u16),
    Reach(u8, u8, u16),
    Fail(u8, u8, u16),
    DialFailed(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<u8>(), any::<u8>(), 1_u16..20).prop_map(|(a, b, c)| Step::Learn(a, b, c)),
        (any::<u8>(), any::<u8>(), 1_u16..20).prop_map(|(a, b, c)| Step::Reach(a, b, c)),
        (any::<u8>(), any::<u8>(), 1_u16..20).prop_map(|(a, b, c)| Step::Fail(a, b, c)),
        any::<u8>().prop_map(Step::DialFailed),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_bounds_hold_and_a_peer_with_addresses_can_be_dialled(
        steps in prop::collection::vec((step(), 0_u64..100), 1..300)
    ) {
        let peers: Vec<PeerId> = (0..=u8::MAX).map(|_| PeerId::random()).collect();
        let mut book = PeerBook::default();
        let mut now = NOW;
        for (step, seconds) in steps {
            now = UnixSeconds(now.0 + seconds);
            match step {
                Step::Learn(peer, host, port) => {
                    let peer = peers[usize::from(peer)];
                    book.learn(peer, public(host, port), Source::Told, Scope::World, now);
                }
                Step::Reach(peer, host, port) => {
                    reach(&mut book, peers[usize::from(peer)], &public(host, port), now);
                }
                Step::Fail(peer, host, port) => {
                    let peer = peers[usize::from(peer)];
                    book.address_failed(peer, public(host, port), "refused", now);
                }
                Step::DialFailed(peer) => {
                    book.dial_failed(peers[usize::from(peer)], "refused", now, 0.3);
                }
            }
            let strangers = book.peers.values().filter(|entry| !entry.reached).count();
            prop_assert!(strangers <= limits::BOOK_STRANGERS_PER_SUBNET);
            let counted: usize = book.strangers.values().sum();
            prop_assert_eq!(counted, strangers);
        }
        for (peer, entry) in &book.peers {
            prop_assert!((1..=limits::BOOK_ADDRESSES).contains(&entry.places().len()));
            prop_assert!(!book.addresses(peer, now).is_empty());
        }
    }
}
