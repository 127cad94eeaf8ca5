//! When bootstrap nodes are dialled. Pure: the caller gives the time and the chance.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::time::{Duration, Instant};

/// The first retry.
const FIRST_DELAY: Duration = Duration::from_secs(5);
/// The slowest retry.
const LAST_DELAY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be dialled then.
    Waiting(Instant),
    Dialling,
    Connected,
    /// Never to be dialled: it is this node.
    Ourselves,
}

#[derive(Debug)]
struct Node {
    address: Multiaddr,
    peer: Option<PeerId>,
    state: State,
    delay: Duration,
    complained: bool,
    /// Why the last dial failed, or led to nothing, until the node says who it is.
    error: Option<String>,
}

impl Node {
    /// Its address when this is the first failure in a row.
    fn fail(&mut self, reason: &str, now: Instant, chance: f64) -> Option<&Multiaddr> {
        self.error = Some(reason.to_owned());
        let jittered = self.delay.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 2.0);
        self.state = State::Waiting(now + jittered);
        self.delay = (self.delay * 2).min(LAST_DELAY);
        let first = !std::mem::replace(&mut self.complained, true);
        first.then_some(&self.address)
    }
}

/// The configured bootstrap nodes.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    nodes: Vec<Node>,
}

impl Bootstrap {
    /// All are due at once.
    pub(crate) fn new(addresses: Vec<Multiaddr>, now: Instant) -> Self {
        let node = |address: Multiaddr| Node {
            peer: peer_of(&address),
            address,
            state: State::Waiting(now),
            delay: FIRST_DELAY,
            complained: false,
            error: None,
        };
        Self {
            nodes: addresses.into_iter().map(node).collect(),
        }
    }

    /// When the next dial is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waiting = self.nodes.iter().filter_map(|node| match node.state {
            State::Waiting(until) => Some(until),
            _ => None,
        });
        waiting.min()
    }

    /// A node to dial now; it then counts as being dialled.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(usize, Multiaddr)> {
        let due = |node: &Node| matches!(node.state, State::Waiting(until) if until <= now);
        let (index, node) = self
            .nodes
            .iter_mut()
            .enumerate()
            .find(|(_, node)| due(node))?;
        node.state = State::Dialling;
        Some((index, node.address.clone()))
    }

    /// A dial from [`Bootstrap::take`] failed. `chance` from 0 to 1. Gives the address when this
    /// is worth a line in the log: the first time in a row.
    pub(crate) fn failed(
        &mut self,
        index: usize,
        reason: &str,
        now: Instant,
        chance: f64,
    ) -> Option<&Multiaddr> {
        let node = self.nodes.get_mut(index)?;
        if node.state != State::Dialling {
            return None;
        }
        node.fail(reason, now, chance)
    }

    /// `peer` closed its only connection before it said who it is. As [`Bootstrap::failed`].
    pub(crate) fn turned_away(
        &mut self,
        peer: PeerId,
        reason: &str,
        now: Instant,
        chance: f64,
    ) -> Option<&Multiaddr> {
        let mut told = None;
        let meant = |node: &&mut Node| node.peer == Some(peer) && node.state == State::Connected;
        for node in self.nodes.iter_mut().filter(meant) {
            told = node.fail(reason, now, chance).or(told);
        }
        told
    }

    /// The dial ended at this node itself.
    pub(crate) fn is_ourselves(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.state = State::Ourselves;
        }
    }

    /// The configured address.
    pub(crate) fn address(&self, index: usize) -> Option<&Multiaddr> {
        self.nodes.get(index).map(|node| &node.address)
    }

    /// There is a connection with `peer`, from the dial of `index` or from elsewhere.
    pub(crate) fn connected(&mut self, peer: PeerId, index: Option<usize>) {
        if let Some(node) = index.and_then(|index| self.nodes.get_mut(index)) {
            node.peer = Some(peer);
        }
        for node in self.nodes.iter_mut().filter(|node| node.peer == Some(peer)) {
            node.state = State::Connected;
        }
    }

    /// `peer`, which is connected, said who it is: it takes this node. True when that ends a failure
    /// that was logged.
    pub(crate) fn welcomed(&mut self, peer: PeerId) -> bool {
        let mut recovered = false;
        for node in self.nodes.iter_mut().filter(|node| node.peer == Some(peer)) {
            node.delay = FIRST_DELAY;
            node.error = None;
            recovered |= std::mem::replace(&mut node.complained, false);
        }
        recovered
    }

    /// All that are not connected are due very soon: the machine woke up, or changed its network.
    pub(crate) fn hurry(&mut self, now: Instant, chance: f64) {
        for node in &mut self.nodes {
            node.delay = FIRST_DELAY;
            if let State::Waiting(until) = node.state {
                let soon = now + Duration::from_secs(1).mul_f64(chance.clamp(0.0, 1.0));
                node.state = State::Waiting(until.min(soon));
            }
        }
    }

    /// Each node: its address, whether there is a connection, and why the last dial failed.
    pub(crate) fn report(&self) -> impl Iterator<Item = (&Multiaddr, bool, Option<&str>)> {
        self.nodes.iter().map(|node| {
            let connected = node.state == State::Connected;
            (&node.address, connected, node.error.as_deref())
        })
    }

    /// The last connection with `peer` is gone.
    pub(crate) fn disconnected(&mut self, peer: PeerId, now: Instant, chance: f64) {
        let connected =
            |node: &&mut Node| node.peer == Some(peer) && node.state == State::Connected;
        for node in self.nodes.iter_mut().filter(connected) {
            // Soon, but not at once from everybody when a bootstrap node restarts.
            let delay = Duration::from_secs(1).mul_f64(1.0 + chance.clamp(0.0, 1.0) * 2.0);
            node.state = State::Waiting(now + delay);
        }
    }
}

/// The peer id at the end of an address.
pub(crate) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_node_that_does_not_answer_is_dialled_again_after_5_to_60_seconds_for_ever() {
        let start = Instant::now();
        let mut bootstrap = Bootstrap::new(vec![address(1)], start);
        let mut now = start;
        let mut delays = Vec::new();
        for attempt in 0..8 {
            let (index, _) = bootstrap.take(now).unwrap();
            assert_eq!(bootstrap.take(now), None, "it is being dialled");
            let told = bootstrap.failed(index, "refused", now, 0.5).is_some();
            assert_eq!(told, attempt == 0, "said once");
            let due = bootstrap.due().unwrap();
            delays.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(delays, [5, 10, 20, 40, 60, 60, 60, 60]);
    }

    #[test]
    fn a_connected_node_is_left_alone_until_it_goes() {
        let now = Instant::now();
        let peer = PeerId::random();
        let mut bootstrap = Bootstrap::new(vec![address(1), address(2)], now);
        let (first, _) = bootstrap.take(now).unwrap();
        let (second, _) = bootstrap.take(now).unwrap();
        bootstrap.failed(first, "refused", now, 0.0);
        let errors: Vec<_> = bootstrap.report().map(|(_, _, error)| error).collect();
        assert_eq!(errors, [Some("refused"), None]);
        bootstrap.connected(peer, Some(second));
        assert!(!bootstrap.welcomed(peer));
        bootstrap.connected(peer, Some(first));
        assert!(bootstrap.welcomed(peer), "it had failed");
        assert_eq!(bootstrap.due(), None);
        bootstrap.disconnected(PeerId::random(), now, 0.0);
        assert_eq!(bootstrap.due(), None);
        bootstrap.disconnected(peer, now, 1.0);
        assert!(bootstrap.due().unwrap() <= now + Duration::from_secs(3));
    }

    #[test]
    fn who_takes_the_connection_and_closes_it_is_dialled_ever_more_rarely_and_it_is_told_once() {
        let mut now = Instant::now();
        let peer = PeerId::random();
        let mut bootstrap = Bootstrap::new(vec![address(1)], now);
        let mut delays = Vec::new();
        for attempt in 0..5 {
            let (index, _) = bootstrap.take(now).unwrap();
            bootstrap.connected(peer, Some(index));
            let told = bootstrap.turned_away(peer, "full", now, 0.5).is_some();
            assert_eq!(told, attempt == 0);
            let errors: Vec<_> = bootstrap.report().map(|(_, _, error)| error).collect();
            assert_eq!(errors, [Some("full")]);
            let due = bootstrap.due().unwrap();
            delays.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(delays, [5, 10, 20, 40, 60]);
        let (index, _) = bootstrap.take(now).unwrap();
        bootstrap.connected(peer, Some(index));
        assert!(bootstrap.welcomed(peer));
        assert!(
            bootstrap
                .report()
                .all(|(_, connected, error)| connected && error.is_none())
        );
    }

    #[test]
    fn this_nodes_own_address_is_not_dialled_again() {
        let now = Instant::now();
        let mut bootstrap = Bootstrap::new(vec![address(1)], now);
        let (index, _) = bootstrap.take(now).unwrap();
        bootstrap.is_ourselves(index);
        assert_eq!(bootstrap.due(), None);
    }
}
