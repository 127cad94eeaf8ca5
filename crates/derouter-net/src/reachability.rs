//! Whether and where others reach this node. The decisions are pure; `actor::reachability` does what
//! they ask.

pub(crate) mod advice;
pub(crate) mod busy;
pub(crate) mod claims;
pub(crate) mod clock_watch;
pub(crate) mod external;
pub(crate) mod mapping;
pub(crate) mod nat;
pub(crate) mod place;
pub(crate) mod punched;
pub(crate) mod punching;
pub(crate) mod relays;
pub(crate) mod suspects;
pub(crate) mod udp;
pub(crate) mod wake;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use derouter_wire::rpc::network::{AddressSource, PortMapping, PortMappingState, Reachability};
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;

use crate::config::NetOptions;
use crate::limits;
use busy::Busy;
use clock_watch::ClockWatch;
use external::ExternalAddresses;
use nat::Observations;
use place::{Scope, Transport};
use punching::Punching;
use relays::{Demand, RelayManager};
use suspects::Suspects;
use udp::Udp;
use wake::{Slept, Wake};

/// How often everything is looked at.
const TICK: Duration = Duration::from_secs(5);
/// Addresses of this machine that appear in this time after the start are no change.
const STARTING: Duration = Duration::from_secs(10);
/// How soon it is looked at after something happened; a burst of events costs one look.
const SOON: Duration = Duration::from_millis(200);
/// Before a peer is dialled again over the transport on which nobody has seen this node.
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// All that is known of this node's reachability.
#[derive(Debug)]
pub(crate) struct ReachabilityState {
    pub(crate) relays: RelayManager,
    pub(crate) punching: Punching,
    pub(crate) external: ExternalAddresses,
    pub(crate) nat: Observations,
    pub(crate) udp: Udp,
    pub(crate) wake: Wake,
    pub(crate) suspects: Suspects,
    pub(crate) busy: Busy,
    pub(crate) clock: ClockWatch,
    pub(crate) mapping: PortMapping,
    /// Of the two ways to ask a router (UPnP, and PCP or NAT-PMP), those that failed.
    pub(crate) mapping_failed: HashSet<&'static str>,
    /// Addresses that reach less far neither count nor are tested.
    pub(crate) minimum: Scope,
    /// Connections that others take over for, to be closed once they are idle.
    pub(crate) retiring: HashMap<ConnectionId, PeerId>,
    /// Dials that look whether a peer is reached over another transport.
    pub(crate) looking: HashMap<ConnectionId, (PeerId, Transport)>,
    looked: HashMap<(PeerId, Transport), Instant>,
    current: (Reachability, Instant),
    /// Somebody connected directly from elsewhere.
    pub(crate) reached: bool,
    next: Instant,
    started: Instant,
}

impl ReachabilityState {
    pub(crate) fn new(options: &NetOptions, now: Instant, boot_time: Duration) -> Self {
        let minimum = options.tested_scope();
        let mut external = ExternalAddresses::new(options.reachability, minimum, now);
        for address in &options.external_addresses {
            external.candidate(address, AddressSource::Configured, now);
        }
        let current = external.reachability(now);
        Self {
            relays: RelayManager::new(options.relays),
            punching: Punching::default(),
            external,
            nat: Observations::default(),
            udp: Udp::default(),
            wake: Wake::new(now, boot_time),
            suspects: Suspects::default(),
            busy: Busy::default(),
            clock: ClockWatch::default(),
            mapping: PortMapping {
                state: if options.port_mapping {
                    PortMappingState::Searching
                } else {
                    PortMappingState::Off
                },
                ..PortMapping::default()
            },
            mapping_failed: HashSet::new(),
            minimum,
            retiring: HashMap::new(),
            looking: HashMap::new(),
            looked: HashMap::new(),
            current: (current, now),
            reached: false,
            next: now,
            started: now,
        }
    }

    /// Whether the start is over, in which interfaces appear one after the other.
    pub(crate) fn settled(&self, now: Instant) -> bool {
        now.duration_since(self.started) > STARTING
    }

    /// When everything is looked at next.
    pub(crate) fn due(&self) -> Instant {
        self.next
    }

    /// Something happened that may need an action.
    pub(crate) fn look_soon(&mut self, now: Instant) {
        self.next = self.next.min(now + SOON);
    }

    /// Everything is looked at now. Gives how long was slept before.
    pub(crate) fn begin(&mut self, now: Instant, boot_time: Duration) -> Option<Slept> {
        self.next = now + TICK;
        self.wake.tick(now, boot_time)
    }

    /// Looks again at the latest then.
    pub(crate) fn no_later_than(&mut self, then: Option<Instant>, now: Instant) {
        if let Some(then) = then {
            self.next = self.next.min(then.max(now + SOON));
        }
    }

    /// Whether others can dial this node.
    pub(crate) fn current(&self) -> Reachability {
        self.current.0
    }

    /// Judges anew. Gives the new state when it changed.
    pub(crate) fn judge(&mut self, now: Instant) -> Option<Reachability> {
        let judged = self.external.reachability(now);
        let known = self.current.0;
        // A private node stays one while another address of it is looked at: behind some routers
        // every peer sees it at another.
        let looks_again = known == Reachability::Private && judged == Reachability::Unknown;
        if judged == known || looks_again {
            return None;
        }
        self.current = (judged, now);
        Some(judged)
    }

    /// Whether reservations are wanted.
    pub(crate) fn demand(&self, now: Instant) -> Demand {
        let (reachability, since) = self.current;
        let demand = relays::demand(reachability, now.duration_since(since), self.reached);
        if demand == Demand::Drop && !self.external.is_sure() {
            // One hostile peer could say so to cut the node off.
            return Demand::Keep;
        }
        demand
    }

    /// The machine slept or changed its network: what was learned is learned again.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        self.relays.network_changed(now);
        self.punching.network_changed(now);
        self.external.network_changed(now);
        self.nat.clear();
        self.udp.clear();
        self.looked.clear();
        self.reached = false;
        self.look_soon(now);
    }

    /// Whether to dial the peer over this transport, to see whether that works and where it sees
    /// this node. True once in [`LOOK_AGAIN`].
    pub(crate) fn may_look(&mut self, peer: PeerId, transport: Transport, now: Instant) -> bool {
        self.looked
            .retain(|_, when| now.duration_since(*when) < LOOK_AGAIN);
        if self.looked.len() >= limits::OBSERVERS || self.looked.contains_key(&(peer, transport)) {
            return false;
        }
        self.looked.insert((peer, transport), now);
        true
    }
}
