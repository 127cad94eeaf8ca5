//! On which relays a node keeps reservations. Pure: the caller gives the time and the chance.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;
use derouter_wire::rpc::network::{Reachability, ReservationState};
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::place;
use crate::limits;

/// The first retry on a relay that failed.
const FIRST_DELAY: Duration = Duration::from_secs(5);
/// The slowest retry.
const LAST_DELAY: Duration = Duration::from_secs(5 * 60);
/// The first retry on a relay whose reservation was lost: when other connections with it are dead too,
/// that is known by then ([`limits::QUICK_LIFE_SIGN`]).
const LOST_DELAY: Duration = Duration::from_secs(3);
/// The slowest retry on a relay that granted a reservation not long ago ([`PROVEN`]): most come back
/// soon, and until then others may look for this node in vain.
const PROVEN_DELAY: Duration = Duration::from_secs(8);
/// After a reservation was lost, how long its relay is one of those.
const PROVEN: Duration = Duration::from_secs(10 * 60);
/// How long a node is public before it gives its reservations up.
const SURE: Duration = Duration::from_secs(5 * 60);
/// A reservation is given up within this after it was granted or renewed. libp2p's relay client
/// panics when a renewal, which takes a round trip every 45 minutes, ends after its listener.
const QUIET_AFTER_GRANT: Duration = Duration::from_secs(10 * 60);

/// How much a node wants reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Make them.
    Reserve,
    /// Neither make nor drop any.
    Keep,
    /// Drop them.
    Drop,
}

/// What a node wants that has been `reachability` for `age`. `reached` says that somebody has
/// connected directly. One that does not know yet makes reservations at once: to find out takes
/// 20 s, in which nobody would reach it.
pub(crate) fn demand(reachability: Reachability, age: Duration, reached: bool) -> Demand {
    match reachability {
        Reachability::Private => Demand::Reserve,
        Reachability::Unknown if !reached => Demand::Reserve,
        Reachability::Public if age >= SURE => Demand::Drop,
        Reachability::Unknown | Reachability::Public => Demand::Keep,
    }
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Listen on this circuit address of the relay, then say so by [`RelayManager::listening`].
    Listen(PeerId, Multiaddr),
    /// Remove this listener.
    Stop(ListenerId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Pending(ListenerId),
    Reserved(ListenerId, Instant),
}

#[derive(Debug)]
struct Relay {
    /// Without its peer id.
    address: Multiaddr,
    connected: bool,
    /// Configured as a listen address: kept whatever the node's reachability.
    pinned: bool,
    state: State,
    since: UnixSeconds,
    delay: Duration,
    retry_at: Instant,
    /// When a reservation on it was lost last.
    lost_at: Option<Instant>,
    error: Option<String>,
}

/// A relay as it is told to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayView {
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
    pub(crate) state: ReservationState,
    pub(crate) since: UnixSeconds,
    pub(crate) error: Option<String>,
}

/// The known relays, and the reservations on some of them.
#[derive(Debug)]
pub(crate) struct RelayManager {
    wanted: usize,
    relays: HashMap<PeerId, Relay>,
}

impl RelayManager {
    /// Keeps reservations on `wanted` relays.
    pub(crate) fn new(wanted: usize) -> Self {
        Self {
            wanted: wanted.min(limits::RELAYS),
            relays: HashMap::new(),
        }
    }

    /// The peer relays, or may do so, at this address.
    pub(crate) fn candidate(
        &mut self,
        peer: PeerId,
        address: &Multiaddr,
        connected: bool,
        now: Instant,
    ) {
        if place::is_relayed(address) {
            return;
        }
        let address = place::bare(address);
        if let Some(relay) = self.relays.get_mut(&peer) {
            let better = connected || !relay.connected;
            if relay.state == State::Free && !relay.pinned && better {
                relay.address = address;
            }
            if connected && !relay.connected {
                // It is back, whatever failed before.
                relay.retry_at = relay.retry_at.min(now);
            }
            relay.connected |= connected;
            return;
        }
        if self.relays.len() >= limits::RELAY_CANDIDATES {
            let spare =
                |relay: &Relay| relay.state == State::Free && !relay.connected && !relay.pinned;
            let spare = self.relays.iter().find(|(_, relay)| spare(relay));
            let Some(spare) = spare.map(|(peer, _)| *peer) else {
                return;
            };
            self.relays.remove(&spare);
        }
        self.relays
            .insert(peer, Relay::new(address, connected, now));
    }

    /// The peer does not relay.
    pub(crate) fn no_relay(&mut self, peer: &PeerId) {
        if self
            .relays
            .get(peer)
            .is_some_and(|relay| relay.state == State::Free && !relay.pinned)
        {
            self.relays.remove(peer);
        }
    }

    /// The last connection with a peer is gone. Where a reservation was lost before, it was this
    /// connection that stood in the way of another one.
    pub(crate) fn disconnected(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.relays.get_mut(peer) {
            let waited_for = |at: Instant| now.duration_since(at) < LOST_DELAY;
            if relay.connected && relay.lost_at.is_some_and(waited_for) {
                relay.retry_at = relay.retry_at.min(now);
            }
            relay.connected = false;
        }
    }

    /// The node listens on a configured circuit address, which is from now on made again.
    pub(crate) fn pin(&mut self, address: &Multiaddr, listener: ListenerId, now: Instant) {
        let before = address
            .iter()
            .take_while(|part| *part != Protocol::P2pCircuit);
        let before: Multiaddr = before.collect();
        let Some(Protocol::P2p(peer)) = before.iter().last() else {
            return;
        };
        let relay = self
            .relays
            .entry(peer)
            .or_insert_with(|| Relay::new(place::bare(&before), false, now));
        relay.pinned = true;
        relay.state = State::Pending(listener);
    }

    /// The caller listens, as [`Action::Listen`] asked.
    pub(crate) fn listening(&mut self, peer: &PeerId, listener: ListenerId, unix: UnixSeconds) {
        if let Some(relay) = self.relays.get_mut(peer) {
            relay.state = State::Pending(listener);
            relay.since = unix;
        }
    }

    /// Whether this node has a reservation on it.
    pub(crate) fn is_reserved(&self, peer: &PeerId) -> bool {
        let relay = self.relays.get(peer);
        relay.is_some_and(|relay| matches!(relay.state, State::Reserved(..)))
    }

    /// The relays on which this node has a reservation.
    pub(crate) fn reserved(&self) -> Vec<PeerId> {
        let reserved = |relay: &Relay| matches!(relay.state, State::Reserved(..));
        let relays = self.relays.iter().filter(|(_, relay)| reserved(relay));
        relays.map(|(peer, _)| *peer).collect()
    }

    /// The relay granted or renewed a reservation. True when it is a new one.
    pub(crate) fn accepted(&mut self, peer: &PeerId, now: Instant, unix: UnixSeconds) -> bool {
        let Some(relay) = self.relays.get_mut(peer) else {
            return false;
        };
        let (listener, new) = match relay.state {
            State::Free => return false,
            State::Pending(listener) => (listener, true),
            State::Reserved(listener, _) => (listener, false),
        };
        relay.state = State::Reserved(listener, now);
        relay.delay = FIRST_DELAY;
        relay.error = None;
        if new {
            relay.since = unix;
        }
        new
    }

    /// A listener closed, or (with `None` for its listener) could not be made. Gives the relay whose it was, and
    /// whether it had granted a reservation.
    pub(crate) fn closed(
        &mut self,
        listener: ListenerId,
        error: Option<String>,
        (now, unix): (Instant, UnixSeconds),
        chance: f64,
    ) -> Option<(PeerId, bool)> {
        let of_listener = |state| match state {
            State::Pending(id) | State::Reserved(id, _) => id == listener,
            State::Free => false,
        };
        let (peer, relay) = self
            .relays
            .iter_mut()
            .find(|(_, relay)| of_listener(relay.state))?;
        let was_reserved = matches!(relay.state, State::Reserved(..));
        relay.state = State::Free;
        if was_reserved {
            relay.lost(error, (now, unix), chance);
        } else {
            relay.fail(error, (now, unix), chance);
        }
        Some((*peer, was_reserved))
    }

    /// The listener could not even be made.
    pub(crate) fn refused(
        &mut self,
        peer: &PeerId,
        error: String,
        at: (Instant, UnixSeconds),
        chance: f64,
    ) {
        if let Some(relay) = self.relays.get_mut(peer) {
            relay.fail(Some(error), at, chance);
        }
    }

    /// The machine slept or changed its network: what failed before says nothing now.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        for relay in self.relays.values_mut() {
            relay.delay = FIRST_DELAY;
            relay.retry_at = relay.retry_at.min(now);
        }
    }

    /// When something is due that no event tells.
    pub(crate) fn due(&self) -> Option<Instant> {
        let free = self
            .relays
            .values()
            .filter(|relay| relay.state == State::Free);
        free.map(|relay| relay.retry_at).min()
    }

    /// What is to be done now.
    pub(crate) fn poll(&mut self, now: Instant, demand: Demand) -> Vec<Action> {
        let mut actions = Vec::new();
        if demand == Demand::Drop {
            actions.extend(self.give_up(now));
        }
        for (peer, relay) in &mut self.relays {
            if relay.pinned && relay.state == State::Free && relay.retry_at <= now {
                actions.push(relay.listen(*peer, now));
            }
        }
        if demand != Demand::Reserve {
            return actions;
        }
        let held = |relay: &&Relay| relay.state != State::Free;
        let mut missing = self
            .wanted
            .saturating_sub(self.relays.values().filter(held).count());
        while missing > 0 {
            let Some(peer) = self.best(now) else {
                break;
            };
            if let Some(relay) = self.relays.get_mut(&peer) {
                actions.push(relay.listen(peer, now));
            }
            missing -= 1;
        }
        actions
    }

    /// Connected before remembered, in a network of its own before one that is in use, those that
    /// failed least first.
    fn best(&self, now: Instant) -> Option<PeerId> {
        let busy = |relay: &&Relay| relay.state != State::Free || relay.retry_at > now;
        let used: Vec<_> = self
            .relays
            .values()
            .filter(busy)
            .map(|relay| place::region(&relay.address))
            .collect();
        let ready = |relay: &Relay| relay.state == State::Free && relay.retry_at <= now;
        let rank = |peer: &PeerId, relay: &Relay| {
            let region = place::region(&relay.address);
            let shared = region.is_some() && used.contains(&region);
            (!relay.connected, shared, relay.delay, *peer)
        };
        let ready = self.relays.iter().filter(|(_, relay)| ready(relay));
        ready
            .min_by_key(|(peer, relay)| rank(peer, relay))
            .map(|(peer, _)| *peer)
    }

    fn give_up(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for relay in self.relays.values_mut().filter(|relay| !relay.pinned) {
            let State::Reserved(listener, granted) = relay.state else {
                continue;
            };
            if now.duration_since(granted) <= QUIET_AFTER_GRANT {
                relay.state = State::Free;
                actions.push(Action::Stop(listener));
            }
        }
        actions
    }

    /// The relays that are in use or failed.
    pub(crate) fn view(&self) -> Vec<RelayView> {
        let view = |(peer, relay): (&PeerId, &Relay)| {
            let state = match relay.state {
                State::Pending(_) => ReservationState::Pending,
                State::Reserved(..) => ReservationState::Reserved,
                State::Free if relay.error.is_some() => ReservationState::Failed,
                State::Free => return None,
            };
            Some(RelayView {
                peer: *peer,
                address: relay.address.clone(),
                state,
                since: relay.since,
                error: relay.error.clone(),
            })
        };
        let mut relays: Vec<_> = self.relays.iter().filter_map(view).collect();
        relays.sort_by_key(|relay| relay.peer);
        relays
    }
}

impl Relay {
    fn new(address: Multiaddr, connected: bool, now: Instant) -> Self {
        Self {
            address,
            connected,
            pinned: false,
            state: State::Free,
            since: UnixSeconds(0),
            delay: FIRST_DELAY,
            retry_at: now,
            lost_at: None,
            error: None,
        }
    }

    /// Until the caller has a listener, the relay is not asked again.
    fn listen(&mut self, peer: PeerId, now: Instant) -> Action {
        self.retry_at = now + self.delay;
        let circuit = self
            .address
            .clone()
            .with(Protocol::P2p(peer))
            .with(Protocol::P2pCircuit);
        Action::Listen(peer, circuit)
    }

    fn fail(&mut self, error: Option<String>, (now, unix): (Instant, UnixSeconds), chance: f64) {
        let lately = |at: Instant| now.duration_since(at) < PROVEN;
        let proven = self.lost_at.is_some_and(lately);
        let slowest = if proven { PROVEN_DELAY } else { LAST_DELAY };
        self.retry_at = now + jittered(self.delay.min(slowest), chance);
        self.delay = (self.delay * 2).min(LAST_DELAY);
        self.failed_at(error, unix);
    }

    fn lost(&mut self, error: Option<String>, (now, unix): (Instant, UnixSeconds), chance: f64) {
        self.lost_at = Some(now);
        self.retry_at = now + jittered(LOST_DELAY, chance);
        self.failed_at(error, unix);
    }

    fn failed_at(&mut self, error: Option<String>, unix: UnixSeconds) {
        self.since = unix;
        self.error = error.or_else(|| Some("the connection to the relay closed".to_owned()));
    }
}

fn jittered(delay: Duration, chance: f64) -> Duration {
    delay.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
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
}
