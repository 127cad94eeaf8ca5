//! Under which addresses others may reach this node, and when these are tested. Pure.
//!
//! An address counts after a peer dialled it (AutoNAT v2), or when the operator or the router vouches
//! for it and no test says otherwise. It is tested again every 20 minutes and after a change of
//! network; two peers that fail to dial it are believed, one is not.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use derouter_wire::UnixSeconds;
use derouter_wire::rpc::network::{AddressSource, ExternalAddress, Reachability};
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::claims::Claims;
use super::place::{self, Scope};
use crate::address::Subnet;
use crate::config::KnownReachability;
use crate::heartbeat::bucket::{Bucket, Rate};
use crate::limits;

/// Between tests of an address whose state is settled.
const RETEST: Duration = Duration::from_secs(20 * 60);
/// Before the next peer is asked after one that could not dial the address.
const SECOND_OPINION: Duration = Duration::from_secs(3);
/// Before another try after one that said nothing.
const NO_ANSWER: Duration = Duration::from_secs(15);
/// Peers that have to fail before an address counts as unreachable.
const OPINIONS: usize = 2;
/// A node with nobody to ask twice believes one peer after this.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tests of addresses that no two networks agree on: at first as many as a node with one bootstrap
/// node needs, for two transports with and without a mapped port, each with a second opinion.
const DOUBTFUL: Rate = Rate {
    every: Duration::from_secs(60),
    burst: 8,
};
/// An observed address that nobody saw again is forgotten after this.
const FORGET: Duration = Duration::from_secs(3600);

/// A peer that tests addresses, and the connection to ask it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    /// Its network; `None` in a private one.
    pub(crate) subnet: Option<Subnet>,
}

/// Whom a server speaks for: all of one network are taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    Network(Subnet),
    Peer(PeerId),
}

impl Server {
    fn origin(&self) -> Origin {
        self.subnet.map_or(Origin::Peer(self.peer), Origin::Network)
    }
}

/// The outcome of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The peer dialled the address.
    Reachable,
    /// It could not, for this reason.
    Unreachable(String),
    /// The test did not take place, for this reason.
    Untested(String),
}

/// What the caller has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Have the address tested, and give the outcome to [`ExternalAddresses::tested`].
    Test(Server, Multiaddr),
    /// Tell peers of the address.
    Confirm(Multiaddr),
    /// Tell peers of it no longer.
    Expire(Multiaddr),
}

#[derive(Debug)]
struct Entry {
    address: Multiaddr,
    source: AddressSource,
    reachable: Option<bool>,
    tested_at: Option<UnixSeconds>,
    error: Option<String>,
    /// Who failed to dial it since somebody last did.
    failed: HashSet<PeerId>,
    asked: HashSet<PeerId>,
    /// Who dialled it, until two did.
    dialled: HashSet<Origin>,
    /// Peers of two networks dialled it, or it is not one that peers only saw.
    sure: bool,
    testing: Option<(Server, Instant)>,
    next_test: Instant,
    seen: Instant,
    /// Whether peers are told of it.
    told: bool,
    /// It is at a port that this node listens on: who sees the IP address vouches for it.
    own_port: bool,
    /// It is not tested for now: too few see it.
    waits: bool,
}

/// The addresses, at most [`limits::EXTERNAL_ADDRESSES`].
#[derive(Debug)]
pub(crate) struct ExternalAddresses {
    entries: Vec<Entry>,
    known: KnownReachability,
    started: Instant,
    /// Since when there is somebody to ask.
    servers_since: Option<Instant>,
    servers: usize,
    origins: HashSet<Origin>,
    /// Addresses that reach less far are neither tested nor counted.
    minimum: Scope,
    claims: Claims,
    doubtful: Bucket,
}

impl ExternalAddresses {
    /// Addresses narrower than `minimum` are ignored, unless they are configured.
    pub(crate) fn new(known: KnownReachability, minimum: Scope, now: Instant) -> Self {
        Self {
            entries: Vec::new(),
            known,
            started: now,
            servers_since: None,
            servers: 0,
            origins: HashSet::new(),
            minimum,
            claims: Claims::default(),
            doubtful: Bucket::default(),
        }
    }

    /// The node may be reached there, says `source`.
    pub(crate) fn candidate(&mut self, address: &Multiaddr, source: AddressSource, now: Instant) {
        let address = place::bare(address);
        let wide = place::scope(&address).is_some_and(|scope| scope >= self.minimum);
        let configured = source == AddressSource::Configured;
        if place::is_relayed(&address) || (!wide && !configured) {
            return;
        }
        if let Some(entry) = self
            .entries
            .iter_mut()
            .find(|entry| entry.address == address)
        {
            entry.seen = now;
            if rank(source) < rank(entry.source) {
                entry.source = source;
            }
            return;
        }
        if self.entries.len() >= limits::EXTERNAL_ADDRESSES && !self.make_place(source) {
            return;
        }
        self.entries.push(Entry {
            address,
            source,
            reachable: None,
            tested_at: None,
            error: None,
            failed: HashSet::new(),
            asked: HashSet::new(),
            dialled: HashSet::new(),
            sure: false,
            testing: None,
            next_test: now,
            seen: now,
            told: false,
            own_port: false,
            waits: false,
        });
    }

    /// The peer at `observer` sees this node at `address`. What it said before goes, unless others
    /// see it too or it works.
    pub(crate) fn observed(&mut self, observer: IpAddr, address: &Multiaddr, now: Instant) {
        let address = place::bare(address);
        if self.claims.observed(observer, &address, now) {
            let claims = &self.claims;
            self.entries.retain(|entry| {
                entry.source != AddressSource::Observed
                    || entry.told
                    || entry.address == address
                    || claims.networks(&entry.address, entry.own_port) > 0
            });
        }
        self.candidate(&address, AddressSource::Observed, now);
    }

    /// An address whose IP address somebody sees, at a port that this node listens on.
    pub(crate) fn translated(&mut self, address: &Multiaddr, now: Instant) {
        let address = place::bare(address);
        if self.claims.networks(&address, true) == 0 {
            return;
        }
        self.candidate(&address, AddressSource::Observed, now);
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.address == address);
        if let Some(entry) = entry {
            entry.own_port = true;
        }
    }

    /// Whether more than one peer's word says that the address may be one of ours.
    fn is_likely(&self, entry: &Entry) -> bool {
        let known = |entry: &Entry| {
            entry.source != AddressSource::Observed || entry.reachable == Some(true)
        };
        let ip = place::ip(&entry.address);
        let at_known = |other: &Entry| known(other) && place::ip(&other.address) == ip;
        known(entry)
            || self.claims.networks(&entry.address, entry.own_port) >= OPINIONS
            || (entry.own_port && self.entries.iter().any(at_known))
    }

    /// Forgets the least useful address, if it is less useful than one from `source`.
    fn make_place(&mut self, source: AddressSource) -> bool {
        let spare = |entry: &Entry| {
            !entry.told && entry.testing.is_none() && rank(entry.source) >= rank(source)
        };
        let spare = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| spare(entry));
        let Some(index) = spare
            .min_by_key(|(_, entry)| entry.seen)
            .map(|(index, _)| index)
        else {
            return false;
        };
        self.entries.swap_remove(index);
        true
    }

    /// The source takes the address back: the interface is gone, or the mapping.
    pub(crate) fn withdraw(
        &mut self,
        address: &Multiaddr,
        source: AddressSource,
    ) -> Option<Action> {
        let address = place::bare(address);
        let index = self
            .entries
            .iter()
            .position(|entry| entry.address == address && entry.source == source)?;
        let entry = self.entries.swap_remove(index);
        entry.told.then_some(Action::Expire(entry.address))
    }

    /// What is to be done now, with these peers to ask. `chance` from 0 to 1.
    pub(crate) fn poll(&mut self, servers: &[Server], now: Instant, chance: f64) -> Vec<Action> {
        self.servers = servers.len();
        self.origins = servers.iter().map(Server::origin).collect();
        if servers.is_empty() {
            self.servers_since = None;
        } else {
            self.servers_since.get_or_insert(now);
        }
        let mut actions = self.forget(now);
        let likely = self.entries.iter().map(|entry| self.is_likely(entry));
        let likely: Vec<bool> = likely.collect();
        let mut busy: HashSet<PeerId> = HashSet::new();
        for entry in &mut self.entries {
            if entry
                .testing
                .is_some_and(|(_, since)| now.duration_since(since) > limits::PROBE_DEADLINE * 2)
            {
                entry.testing = None;
            }
            busy.extend(entry.testing.map(|(server, _)| server.peer));
        }
        for (entry, likely) in self.entries.iter_mut().zip(likely) {
            let server = entry.next_server(servers, &busy, now, chance);
            let may = |bucket: &mut Bucket| likely || bucket.try_take(DOUBTFUL, 1, now);
            entry.waits = server.is_some() && !may(&mut self.doubtful);
            if let Some(server) = server.filter(|_| !entry.waits) {
                busy.insert(server.peer);
                entry.testing = Some((server, now));
                entry.asked.insert(server.peer);
                actions.push(Action::Test(server, entry.address.clone()));
            }
            actions.extend(entry.tell());
        }
        actions
    }

    /// Observed addresses that nobody sees any more go.
    fn forget(&mut self, now: Instant) -> Vec<Action> {
        let old = |entry: &Entry| {
            entry.source == AddressSource::Observed
                && entry.reachable != Some(true)
                && now.duration_since(entry.seen) > FORGET
        };
        let expired = self.entries.iter().filter(|entry| old(entry) && entry.told);
        let actions = expired
            .map(|entry| Action::Expire(entry.address.clone()))
            .collect();
        self.entries.retain(|entry| !old(entry));
        actions
    }

    /// A test ended.
    pub(crate) fn tested(
        &mut self,
        address: &Multiaddr,
        server: PeerId,
        verdict: Verdict,
        (now, unix): (Instant, UnixSeconds),
    ) -> Option<Action> {
        let patient = self
            .servers_since
            .is_none_or(|since| now.duration_since(since) < PATIENCE);
        let others = self.servers.saturating_sub(1);
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.address == *address)?;
        let (asked, _) = entry.testing.filter(|(asked, _)| asked.peer == server)?;
        entry.testing = None;
        match verdict {
            Verdict::Reachable => {
                entry.tested_at = Some(unix);
                entry.succeed(asked.origin(), &self.origins, now);
            }
            Verdict::Unreachable(reason) => {
                entry.failed.insert(server);
                entry.tested_at = Some(unix);
                entry.error = Some(reason);
                let alone = others == 0 && !patient;
                if entry.failed.len() >= OPINIONS || alone {
                    entry.settle(false, now);
                } else {
                    entry.next_test = now + SECOND_OPINION;
                }
            }
            Verdict::Untested(reason) => {
                entry.error.get_or_insert(reason);
                entry.next_test = now + NO_ANSWER;
            }
        }
        entry.tell()
    }

    /// The machine slept or changed its network: everything is tested again.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        self.claims.clear();
        for entry in &mut self.entries {
            entry.next_test = now;
            entry.asked.clear();
            entry.failed.clear();
            entry.dialled.clear();
            entry.sure = false;
            entry.testing = None;
        }
    }

    /// Whether others can dial this node.
    pub(crate) fn reachability(&self, now: Instant) -> Reachability {
        match self.known {
            KnownReachability::Public => return Reachability::Public,
            KnownReachability::Private => return Reachability::Private,
            KnownReachability::Detect => {}
        }
        if self
            .entries
            .iter()
            .any(|entry| entry.reachable == Some(true))
        {
            return Reachability::Public;
        }
        let patient = self
            .servers_since
            .is_none_or(|since| now.duration_since(since) < PATIENCE);
        // What a peer made up does not keep the node from a judgement.
        let waits = |entry: &&Entry| entry.waits && entry.reachable.is_none();
        let mut counted = self.entries.iter().filter(|entry| !waits(entry)).peekable();
        let testable = counted.peek().is_some();
        let all_failed = counted.all(|entry| entry.reachable == Some(false));
        // With peers to ask and no address that could be asked about, there is none to dial.
        let nothing_to_test = !testable && !patient && now.duration_since(self.started) >= PATIENCE;
        if (testable && all_failed) || nothing_to_test {
            Reachability::Private
        } else {
            Reachability::Unknown
        }
    }

    /// Whether more than the word of one network says that others can dial this node, where there
    /// is somebody else to ask.
    pub(crate) fn is_sure(&self) -> bool {
        let mut working = self
            .entries
            .iter()
            .filter(|entry| entry.reachable == Some(true));
        self.known == KnownReachability::Public
            || working.any(|entry| !entry.wants_another(&self.origins))
    }

    /// The addresses as they are told to the user.
    pub(crate) fn view(&self) -> Vec<ExternalAddress> {
        let view = |entry: &Entry| ExternalAddress {
            address: entry.address.to_string(),
            source: entry.source,
            reachable: entry.reachable,
            tested_at: entry.tested_at,
            error: entry
                .error
                .clone()
                .filter(|_| entry.reachable != Some(true)),
        };
        self.entries.iter().map(view).collect()
    }
}

impl Entry {
    fn next_server(
        &mut self,
        servers: &[Server],
        busy: &HashSet<PeerId>,
        now: Instant,
        chance: f64,
    ) -> Option<Server> {
        if self.testing.is_some() || self.next_test > now || servers.is_empty() {
            return None;
        }
        let unasked = |asked: &HashSet<PeerId>, server: &&Server| !asked.contains(&server.peer);
        if !servers.iter().any(|server| unasked(&self.asked, &server)) {
            // All were asked: those that are there decide, and later it begins again.
            if !self.failed.is_empty() && self.reachable != Some(false) {
                // Where one network says so and another does not, it stays told and unsure.
                self.settle(!self.dialled.is_empty(), now);
                return None;
            }
            self.asked.clear();
        }
        // Who has not dialled it yet comes first.
        let another = self.reachable == Some(true)
            && servers.iter().any(|server| {
                unasked(&self.asked, &server) && !self.dialled.contains(&server.origin())
            });
        let free = servers
            .iter()
            .filter(|server| unasked(&self.asked, server) && !busy.contains(&server.peer))
            .filter(|server| !another || !self.dialled.contains(&server.origin()));
        let free: Vec<&Server> = free.collect();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a short list"
        )]
        let index = (chance.clamp(0.0, 0.999) * free.len() as f64) as usize;
        free.get(index).copied().copied()
    }

    /// Somebody dialled it. One that peers only saw is soon dialled by somebody of another network.
    fn succeed(&mut self, origin: Origin, origins: &HashSet<Origin>, now: Instant) {
        if !self.sure {
            self.dialled.insert(origin);
            self.sure = self.dialled.len() >= OPINIONS;
        }
        if self.wants_another(origins) {
            self.reachable = Some(true);
            self.error = None;
            self.next_test = now + SECOND_OPINION;
        } else {
            self.settle(true, now);
        }
    }

    /// Whether it works on the word of one network alone, and another could be asked.
    fn wants_another(&self, origins: &HashSet<Origin>) -> bool {
        let observed = self.source == AddressSource::Observed;
        observed && !self.sure && origins.iter().any(|one| !self.dialled.contains(one))
    }

    fn settle(&mut self, reachable: bool, now: Instant) {
        self.reachable = Some(reachable);
        self.failed.clear();
        self.asked.clear();
        self.next_test = now + RETEST;
        if reachable {
            self.error = None;
        } else {
            self.dialled.clear();
            self.sure = false;
        }
    }

    /// Peers are told of what works, and of what the operator or the router says unless it fails.
    fn tell(&mut self) -> Option<Action> {
        let vouched = matches!(
            self.source,
            AddressSource::Configured | AddressSource::Mapped
        );
        let told = match self.source {
            AddressSource::Configured => true,
            _ => self.reachable.unwrap_or(vouched),
        };
        if self.told == told {
            return None;
        }
        self.told = told;
        let address = self.address.clone();
        Some(if told {
            Action::Confirm(address)
        } else {
            Action::Expire(address)
        })
    }
}

/// Sources that know best come first.
fn rank(source: AddressSource) -> u8 {
    match source {
        AddressSource::Configured => 0,
        AddressSource::Mapped => 1,
        AddressSource::Interface => 2,
        AddressSource::Observed | AddressSource::Relay => 3,
    }
}

#[cfg(test)]
mod tests;
