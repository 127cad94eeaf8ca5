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
mod tests {
    use super::*;

    const UNIX: UnixSeconds = UnixSeconds(7);

    fn public(port: u16) -> Multiaddr {
        format!("/ip4/1.2.3.4/tcp/{port}").parse().unwrap()
    }

    fn addresses(now: Instant) -> ExternalAddresses {
        ExternalAddresses::new(KnownReachability::Detect, Scope::World, now)
    }

    fn servers(count: usize) -> Vec<Server> {
        let server = |id| Server {
            peer: PeerId::random(),
            connection: ConnectionId::new_unchecked(id),
            subnet: None,
        };
        (0..count).map(server).collect()
    }

    fn tests(actions: &[Action]) -> Vec<(Server, Multiaddr)> {
        let test = |action: &Action| match action {
            Action::Test(server, address) => Some((*server, address.clone())),
            _ => None,
        };
        actions.iter().filter_map(test).collect()
    }

    /// Polls every second, with everybody answering `verdict`, and gives who was asked.
    fn run(
        all: &mut ExternalAddresses,
        servers: &[Server],
        start: Instant,
        seconds: u64,
        verdict: &Verdict,
    ) -> Vec<PeerId> {
        let mut asked = Vec::new();
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            for (server, address) in tests(&all.poll(servers, now, 0.5)) {
                asked.push(server.peer);
                all.tested(&address, server.peer, verdict.clone(), (now, UNIX));
            }
        }
        asked
    }

    fn unreachable() -> Verdict {
        Verdict::Unreachable("refused".to_owned())
    }

    #[test]
    fn a_node_is_public_once_a_peer_dialled_one_of_its_addresses() {
        let now = Instant::now();
        let mut all = addresses(now);
        all.candidate(&public(1), AddressSource::Observed, now);
        assert_eq!(all.reachability(now), Reachability::Unknown);
        let servers = servers(1);
        let asked = tests(&all.poll(&servers, now, 0.0));
        assert_eq!(asked, [(servers[0], public(1))]);
        assert!(
            all.poll(&servers, now, 0.0).is_empty(),
            "it is being tested"
        );
        let told = all.tested(&public(1), servers[0].peer, Verdict::Reachable, (now, UNIX));
        assert_eq!(told, Some(Action::Confirm(public(1))));
        assert_eq!(all.reachability(now), Reachability::Public);
    }

    #[test]
    fn two_peers_that_fail_are_believed_and_one_is_not() {
        let now = Instant::now();
        let mut all = addresses(now);
        all.candidate(&public(1), AddressSource::Observed, now);
        let servers = servers(5);
        let asked = run(&mut all, &servers, now, 2, &unreachable());
        assert_eq!(asked.len(), 1);
        assert_eq!(all.reachability(now), Reachability::Unknown);
        let later = now + SECOND_OPINION;
        let more = run(&mut all, &servers, later, 60, &unreachable());
        assert_eq!(more.len(), 1);
        assert_ne!(asked, more, "another peer");
        assert_eq!(all.reachability(later), Reachability::Private);
    }

    #[test]
    fn the_only_peer_there_is_is_believed_after_a_while() {
        let now = Instant::now();
        let mut all = addresses(now);
        all.candidate(&public(1), AddressSource::Observed, now);
        run(&mut all, &servers(1), now, 30, &unreachable());
        assert_eq!(
            all.reachability(now + Duration::from_secs(30)),
            Reachability::Private
        );
    }

    #[test]
    fn a_confirmed_address_that_stops_working_expires_with_its_next_test() {
        let now = Instant::now();
        let mut all = addresses(now);
        let servers = servers(3);
        all.candidate(&public(1), AddressSource::Observed, now);
        run(&mut all, &servers, now, 5, &Verdict::Reachable);
        assert!(
            run(
                &mut all,
                &servers,
                now + Duration::from_secs(5),
                600,
                &unreachable()
            )
            .is_empty()
        );
        let later = now + RETEST + Duration::from_secs(1);
        run(&mut all, &servers, later, 30, &unreachable());
        assert_eq!(all.reachability(later), Reachability::Private);
        assert!(!all.entries[0].told);
    }

    #[test]
    fn reservations_go_on_the_word_of_two_networks_where_there_are_two() {
        let now = Instant::now();
        let mut all = addresses(now);
        all.candidate(&public(1), AddressSource::Observed, now);
        let mut servers = servers(3);
        for (server, network) in servers.iter_mut().zip([1, 1, 2]) {
            server.subnet = Some(Subnet::V4([1, 1, network]));
        }
        let (one, all_three) = (&servers[..1], &servers[..]);
        run(&mut all, one, now, 1, &Verdict::Reachable);
        assert!(all.is_sure(), "there is nobody else to ask");
        all.poll(all_three, now, 0.5);
        assert!(!all.is_sure() && all.reachability(now) == Reachability::Public);
        all.network_changed(now);
        let two = &servers[..2];
        run(&mut all, two, now, 10, &Verdict::Reachable);
        all.poll(all_three, now, 0.5);
        assert!(!all.is_sure(), "two of one network");
        all.network_changed(now);
        let asked = run(&mut all, all_three, now, 10, &Verdict::Reachable);
        assert_eq!(asked.len(), 2);
        assert!(all.is_sure());
    }

    #[test]
    fn after_a_change_of_network_all_is_tested_again() {
        let now = Instant::now();
        let mut all = addresses(now);
        let servers = servers(2);
        all.candidate(&public(1), AddressSource::Observed, now);
        run(&mut all, &servers, now, 5, &Verdict::Reachable);
        all.network_changed(now);
        assert_eq!(
            run(&mut all, &servers, now, 1, &Verdict::Reachable).len(),
            1
        );
    }

    #[test]
    fn what_the_router_maps_is_told_until_a_test_fails_and_what_is_configured_always() {
        let now = Instant::now();
        let mut all = addresses(now);
        all.candidate(&public(1), AddressSource::Mapped, now);
        all.candidate(&public(2), AddressSource::Configured, now);
        let told = all.poll(&[], now, 0.0);
        assert_eq!(
            told,
            [Action::Confirm(public(1)), Action::Confirm(public(2))]
        );
        run(&mut all, &servers(3), now, 30, &unreachable());
        let told: Vec<_> = all.entries.iter().map(|entry| entry.told).collect();
        assert_eq!(told, [false, true]);
        let reachable: Vec<_> = all.view().into_iter().map(|one| one.reachable).collect();
        assert_eq!(reachable, [Some(false); 2]);
        assert_eq!(
            all.withdraw(&public(2), AddressSource::Configured),
            Some(Action::Expire(public(2)))
        );
    }

    #[test]
    fn relayed_and_local_addresses_never_make_a_node_public() {
        let now = Instant::now();
        let mut all = addresses(now);
        let relayed = public(1).with(libp2p::multiaddr::Protocol::P2pCircuit);
        all.candidate(&relayed, AddressSource::Observed, now);
        all.candidate(
            &"/ip4/10.0.0.1/tcp/1".parse().unwrap(),
            AddressSource::Interface,
            now,
        );
        assert!(all.view().is_empty());
        run(&mut all, &servers(1), now, 30, &Verdict::Reachable);
        assert_eq!(
            all.reachability(now + Duration::from_secs(30)),
            Reachability::Private
        );
    }

    #[test]
    fn addresses_are_bounded_and_those_that_work_stay() {
        let now = Instant::now();
        let mut all = addresses(now);
        all.candidate(&public(1), AddressSource::Observed, now);
        run(&mut all, &servers(1), now, 1, &Verdict::Reachable);
        for port in 2..1000 {
            all.candidate(&public(port), AddressSource::Observed, now);
        }
        assert_eq!(all.entries.len(), limits::EXTERNAL_ADDRESSES);
        assert_eq!(all.reachability(now), Reachability::Public);
    }

    #[test]
    fn a_peer_that_sees_ever_new_addresses_has_few_of_them_tested() {
        let now = Instant::now();
        let mut all = addresses(now);
        let servers = servers(4);
        let mut asked = 0;
        for second in 0..600 {
            let now = now + Duration::from_secs(second);
            let port = u16::try_from(1000 + second).unwrap();
            all.observed(IpAddr::from([8, 8, 8, 8]), &public(port), now);
            assert!(all.entries.len() <= 1);
            for (server, address) in tests(&all.poll(&servers, now, 0.5)) {
                asked += 1;
                all.tested(&address, server.peer, unreachable(), (now, UNIX));
            }
        }
        assert!((8..=20).contains(&asked), "{asked}");
        let later = now + Duration::from_secs(600);
        all.candidate(&public(1), AddressSource::Interface, later);
        run(&mut all, &servers, later, 10, &Verdict::Reachable);
        assert_eq!(all.reachability(later), Reachability::Public);
    }

    #[test]
    fn what_two_networks_see_is_tested_at_once_also_at_the_port_that_is_listened_on() {
        let now = Instant::now();
        let mut all = addresses(now);
        while all.doubtful.try_take(DOUBTFUL, 1, now) {}
        let servers = servers(4);
        let observer = |network| IpAddr::from([8, 8, network, 8]);
        all.translated(&public(9), now);
        assert!(all.entries.is_empty(), "nobody sees this node there");
        all.observed(observer(1), &public(1), now);
        all.translated(&public(9), now);
        assert_eq!(tests(&all.poll(&servers, now, 0.5)), []);
        all.observed(observer(2), &public(2), now);
        let tested = tests(&all.poll(&servers, now, 0.5));
        assert_eq!(tested.len(), 1);
        assert_eq!(tested[0].1, public(9), "both see its IP address");
        all.observed(observer(2), &public(1), now);
        let tested = tests(&all.poll(&servers, now, 0.5));
        assert_eq!(tested[0].1, public(1), "both see it");
    }

    #[test]
    fn a_test_that_never_ends_is_made_again_elsewhere() {
        let now = Instant::now();
        let mut all = addresses(now);
        let servers = servers(2);
        all.candidate(&public(1), AddressSource::Observed, now);
        let first = tests(&all.poll(&servers, now, 0.0));
        let later = now + limits::PROBE_DEADLINE * 3;
        let second = tests(&all.poll(&servers, later, 0.0));
        assert_ne!(first[0].0, second[0].0);
        let stale = all.tested(
            &public(1),
            first[0].0.peer,
            Verdict::Reachable,
            (later, UNIX),
        );
        assert_eq!(stale, None);
    }
}
