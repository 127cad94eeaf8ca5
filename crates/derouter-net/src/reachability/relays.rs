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
mod tests;
