//! What the book knows of one peer. Pure.

use std::time::Duration;

use derouter_wire::UnixSeconds;
use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;

use super::known::{KnownAddress, KnownPeer};
use super::place::{Place, Source, ranked, shortened};
use crate::address::{Scope, Subnet, dialable, first_subnet};
use crate::limits;

/// How long a peer that could not be dialled is left alone when nobody asks for it.
const FIRST_REST: Duration = Duration::from_secs(30);
/// And at most; it doubles with each failure.
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// Who was never reached counts as one that was last connected a month before it was told of.
const STRANGER_AGE: u64 = 30 * 86_400;

/// One peer.
#[derive(Debug)]
pub(crate) struct Entry {
    places: Vec<Place>,
    connections: Vec<(ConnectionId, Scope)>,
    /// Whether this node ever dialled it with success.
    pub(crate) reached: bool,
    /// The network whose count of strangers it is in.
    pub(super) stranger_of: Option<Subnet>,
    /// When it was first told of, or last told of.
    seen: UnixSeconds,
    pub(crate) last_connected: Option<UnixSeconds>,
    pub(crate) agent: Option<String>,
    /// Whether it relays for others.
    pub(crate) relays: bool,
    /// Why the last dial failed, or led to nothing, and when, since it was last connected.
    pub(crate) last_dial_error: Option<(String, UnixSeconds)>,
    dial_failures: u32,
    rests_until: UnixSeconds,
}

impl Entry {
    pub(super) fn new(now: UnixSeconds) -> Self {
        Self {
            places: Vec::new(),
            connections: Vec::new(),
            reached: false,
            stranger_of: None,
            seen: now,
            last_connected: None,
            agent: None,
            relays: false,
            last_dial_error: None,
            dial_failures: 0,
            rests_until: UnixSeconds(0),
        }
    }

    pub(super) fn restore(known: &KnownPeer, now: UnixSeconds) -> Self {
        let mut entry = Self::new(now);
        // A clock that was set back would make it the latest for ever.
        let past = |at: Option<UnixSeconds>| at.map(|at| at.min(now));
        for kept in &known.addresses {
            let Some(address) = dialable(kept.address.clone(), known.peer) else {
                continue;
            };
            let source = match kept.last_success {
                Some(_) => Source::Dialled,
                None => Source::Identify,
            };
            entry.reached |= kept.last_success.is_some();
            entry.learn(&address, source, now);
            if let Some(place) = entry.place(&address) {
                place.last_success = past(kept.last_success);
            }
        }
        entry.last_connected = past(known.last_connected);
        entry.agent = known.agent.clone();
        entry.relays = known.relays;
        entry
    }

    /// The peer may be there. False when there are better addresses enough.
    pub(super) fn learn(&mut self, address: &Multiaddr, source: Source, now: UnixSeconds) -> bool {
        self.seen = now;
        if let Some(place) = self.place(address) {
            place.seen = now;
            place.source = place.source.max(source);
            return true;
        }
        self.places.push(Place::new(address.clone(), source, now));
        if self.places.len() > limits::BOOK_ADDRESSES {
            let places = self.places.iter().enumerate();
            let least = places.min_by_key(|(_, place)| place.worth());
            if let Some((least, _)) = least {
                self.places.remove(least);
            }
        }
        self.place(address).is_some()
    }

    pub(super) fn worked(&mut self, address: &Multiaddr, now: UnixSeconds) {
        if let Some(place) = self.place(address) {
            place.worked(now);
        }
    }

    pub(super) fn failed(&mut self, address: &Multiaddr, reason: &str, now: UnixSeconds) {
        if let Some(place) = self.place(address) {
            place.failed(reason, now);
        }
    }

    /// What the configuration says stays, with its error.
    pub(super) fn belongs_to_another(
        &mut self,
        address: &Multiaddr,
        reason: &str,
        now: UnixSeconds,
    ) {
        self.failed(address, reason, now);
        let wrong = |place: &Place| place.address == *address && place.source != Source::Configured;
        self.places.retain(|place| !wrong(place));
    }

    pub(super) fn connected(&mut self, id: ConnectionId, near: Scope, now: UnixSeconds) {
        self.connections.push((id, near));
        self.last_connected = Some(now);
        self.last_dial_error = None;
        self.rests_until = UnixSeconds(0);
    }

    /// It said who it is: it takes this node, and does not only pick up.
    pub(super) fn identified(&mut self, agent: &str, relays: bool) {
        self.agent = Some(agent.to_owned());
        self.relays = relays;
        self.dial_failures = 0;
    }

    pub(super) fn closed(&mut self, id: ConnectionId, now: UnixSeconds) {
        self.connections.retain(|(known, _)| *known != id);
        self.last_connected = Some(now);
    }

    pub(super) fn dial_failed(&mut self, reason: &str, now: UnixSeconds, chance: f64) {
        self.last_dial_error = Some((shortened(reason), now));
        let doubled = FIRST_REST.saturating_mul(1 << self.dial_failures.min(16));
        let rest = doubled
            .min(LONGEST_REST)
            .mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
        self.rests_until = UnixSeconds(now.0.saturating_add(rest.as_secs()));
        self.dial_failures = self.dial_failures.saturating_add(1);
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.connections.is_empty()
    }

    /// Whether it makes sense to dial it although nobody asks for it.
    pub(super) fn may_be_dialled(&self, now: UnixSeconds) -> bool {
        // A clock that was set back may not let it rest for ever.
        let rested =
            self.rests_until <= now || self.rests_until.0 - now.0 > 2 * LONGEST_REST.as_secs();
        !self.is_connected() && rested && !self.places.is_empty()
    }

    /// From how near it is connected; from anywhere when it is not.
    pub(super) fn near(&self) -> Scope {
        let scopes = self.connections.iter().map(|(_, scope)| *scope);
        scopes.min().unwrap_or(Scope::World)
    }

    /// When it was last good for something: connected, or else told of.
    pub(super) fn last_use(&self) -> UnixSeconds {
        match self.last_connected {
            Some(at) if self.reached => at,
            _ => UnixSeconds(self.seen.0.saturating_sub(STRANGER_AGE)),
        }
    }

    /// The network of its best address.
    pub(super) fn subnet(&self) -> Option<Subnet> {
        first_subnet(&self.places.first()?.address)
    }

    /// Addresses to dial now, best first.
    pub(crate) fn ranked(&self, now: UnixSeconds) -> Vec<&Place> {
        ranked(&self.places, now)
    }

    /// All addresses.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    pub(super) fn known_addresses(&self, now: UnixSeconds) -> Vec<KnownAddress> {
        let known = |place: &Place| KnownAddress {
            address: place.address.clone(),
            last_success: place.last_success,
        };
        let ranked = self.ranked(now);
        let resting = self.places.iter().filter(|place| !ranked.contains(place));
        ranked.iter().copied().chain(resting).map(known).collect()
    }

    pub(super) fn place(&mut self, address: &Multiaddr) -> Option<&mut Place> {
        self.places
            .iter_mut()
            .find(|place| place.address == *address)
    }
}
