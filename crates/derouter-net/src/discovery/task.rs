//! The loop of the discovery task, and whom it reconciles with when. What it does with what comes
//! in, with questions, and with what runs beside is in the modules below.

mod background;
mod judging;
mod own;
mod questions;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use rand::seq::IteratorRandom;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::exchange::Commands;
use super::held::Held;
use super::news::News;
use super::outbox::Outbox;
use super::pulls::Pulled;
use super::reconcile::Ended;
use super::rounds::Rounds;
use super::snapshots::Snapshots;
use super::{DiscoveryPeer, Gossiped, Input, Inputs, Offered, Order, OwnPlace, Shards};
use crate::actor::{Command, Offence};
use crate::address::Subnet;
use crate::announcing::OwnAnnouncements;
use crate::counters::NetCounters;
use crate::directory::Directory;
use crate::heartbeat::SentHeartbeat;
use crate::heartbeat::bucket::Bucket;
use crate::limits;
use crate::offers::OfferNews;
use questions::Asker;

/// How often what is over is forgotten, and where this node is reached is looked at.
const TICK: Duration = Duration::from_secs(2);
/// Peers are not reconciled with again within this when they come back.
const RECONCILE_PAUSE: Duration = Duration::from_secs(10);

/// What the task is built from.
pub(crate) struct DiscoveryParts {
    pub(crate) keypair: Keypair,
    pub(crate) shards: Shards,
    /// No earlier run used a larger sequence number.
    pub(crate) floor: u64,
    pub(crate) commands: Commands,
    pub(crate) gossip: mpsc::Receiver<Gossiped>,
    pub(crate) inputs: (Inputs, mpsc::Receiver<Input>),
    pub(crate) offered: Offered,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) peers: watch::Receiver<Vec<DiscoveryPeer>>,
    pub(crate) offers: mpsc::Sender<OfferNews>,
    pub(crate) sent: Arc<watch::Sender<SentHeartbeat>>,
    pub(crate) counters: Arc<NetCounters>,
    /// Providers whose announcements are not taken.
    pub(crate) blocked: HashSet<PeerId>,
}

/// Something that ran beside the task has ended.
#[derive(Debug)]
enum Done {
    Pulled(Pulled),
    Reconciled(Ended),
}

pub(crate) struct Discovery {
    keypair: Keypair,
    shards: Shards,
    commands: Commands,
    gossip: mpsc::Receiver<Gossiped>,
    inputs: mpsc::Receiver<Input>,
    own_inputs: Inputs,
    offered: Offered,
    orders: mpsc::Receiver<Order>,
    peers: watch::Receiver<Vec<DiscoveryPeer>>,
    offers: mpsc::Sender<OfferNews>,
    sent: Arc<watch::Sender<SentHeartbeat>>,
    counters: Arc<NetCounters>,
    directory: Directory,
    own: OwnAnnouncements,
    /// See [`OwnPlace::outside_mesh`].
    outside_mesh: bool,
    held: Held,
    outbox: Outbox,
    news: News,
    tasks: JoinSet<Done>,
    reconciling: HashSet<PeerId>,
    /// Of these, those that were chosen by chance while no others were under way.
    by_chance: HashSet<PeerId>,
    /// Providers found by a reconciliation, to be handed on once their list is here, and who gave them.
    found: HashMap<PeerId, PeerId>,
    connected: Vec<DiscoveryPeer>,
    /// Peers that were just connected to.
    fresh: VecDeque<PeerId>,
    /// Peers that were reconciled with when they were dialled: not again before this time.
    not_before: HashMap<PeerId, Instant>,
    /// Peers that are left alone until this time, unless there is nobody else.
    avoided: HashMap<PeerId, Instant>,
    rounds: Rounds,
    next_tick: Instant,
    snapshots: Snapshots,
    askers: HashMap<PeerId, Asker>,
    complained: Option<Instant>,
    /// Providers that the peer book was told of.
    learnt: Bucket,
    off_clock: Bucket,
    right_clock: Bucket,
}

impl Discovery {
    pub(crate) fn new(parts: DiscoveryParts) -> Self {
        let local = parts.keypair.public().to_peer_id();
        let now = Instant::now();
        let mut directory = Directory::new(local);
        directory.block(parts.blocked);
        directory.take_part_in(parts.shards.bits());
        let (own_inputs, inputs) = parts.inputs;
        Self {
            keypair: parts.keypair,
            shards: parts.shards,
            commands: parts.commands,
            gossip: parts.gossip,
            inputs,
            own_inputs,
            offered: parts.offered,
            orders: parts.orders,
            peers: parts.peers,
            offers: parts.offers,
            sent: parts.sent,
            counters: parts.counters,
            directory,
            own: OwnAnnouncements::new(local, parts.floor),
            outside_mesh: false,
            held: Held::default(),
            outbox: Outbox::default(),
            news: News::default(),
            tasks: JoinSet::new(),
            reconciling: HashSet::new(),
            by_chance: HashSet::new(),
            found: HashMap::new(),
            connected: Vec::new(),
            fresh: VecDeque::new(),
            not_before: HashMap::new(),
            avoided: HashMap::new(),
            rounds: Rounds::new(now, rand::random()),
            next_tick: now,
            snapshots: Snapshots::new(parts.shards.bits()),
            askers: HashMap::new(),
            complained: None,
            learnt: Bucket::default(),
            off_clock: Bucket::default(),
            right_clock: Bucket::default(),
        }
    }

    /// Runs until the swarm task is gone.
    pub(crate) async fn run(mut self) {
        let mut gossip = Vec::with_capacity(limits::BATCHES_PER_TURN);
        let offers = self.offers.clone();
        loop {
            self.hear_own();
            self.start_pulls();
            self.start_reconciliations();
            self.hand_on(Instant::now()).await;
            let due = tokio::time::Instant::from_std(self.due());
            let telling = !self.news.is_empty() && !offers.is_closed();
            tokio::select! {
                taken = self.gossip.recv_many(&mut gossip, limits::BATCHES_PER_TURN) => {
                    if taken == 0 {
                        return;
                    }
                    self.judge_gossip(&mut gossip).await;
                }
                Some(order) = self.orders.recv() => self.on_order(order),
                Ok(()) = self.offered.changed() => self.offered.mark_changed(),
                Some(input) = self.inputs.recv() => self.on_input(input).await,
                Some(Ok(done)) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    self.on_done(done).await;
                }
                Ok(()) = self.peers.changed() => self.on_peers(),
                Ok(place) = offers.reserve(), if telling => {
                    if let Some(news) = self.next_news() {
                        place.send(news);
                    }
                }
                () = tokio::time::sleep_until(due) => self.on_time().await,
            }
        }
    }

    fn due(&self) -> Instant {
        let pull = self.directory.next_pull(Instant::now());
        let outbox = self.outbox.due(Instant::now());
        let times = [self.own.due(), self.held.due(), outbox, pull];
        let times = times.into_iter().flatten();
        times.fold(self.next_tick, Instant::min)
    }

    /// The next of those of whom the node has yet to be told.
    fn next_news(&mut self) -> Option<OfferNews> {
        let now = Instant::now();
        while let Some(provider) = self.news.next() {
            if let Some(news) = self.directory.news(&provider, now) {
                return Some(news);
            }
        }
        None
    }

    async fn on_time(&mut self) {
        let now = Instant::now();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now).await;
        }
        self.announce_own().await;
        self.held.forget_late(now);
    }

    async fn tick(&mut self, now: Instant) {
        self.directory.expire(now);
        self.counters
            .announcements_known
            .store(wide(self.directory.len()), Relaxed);
        self.snapshots.forget_old(now);
        let directory = &self.directory;
        self.found
            .retain(|provider, _| directory.is_coming(provider));
        let (reconciling, fresh) = (&self.reconciling, &self.fresh);
        self.by_chance
            .retain(|peer| reconciling.contains(peer) || fresh.contains(peer));
        self.not_before.retain(|_, time| *time > now);
        self.avoided.retain(|_, time| *time > now);
        self.look_at_place(now).await;
        if self.rounds.is_due(now) {
            self.begin_round(now);
        }
        if self.outside_mesh {
            self.rounds.hurry(now);
        }
    }

    fn begin_round(&mut self, now: Instant) {
        self.rounds.begin(self.directory.len(), now, rand::random());
        let Some(peer) = self.peer_by_chance() else {
            return;
        };
        // Of what this node lacks since it has just come, much is on its way.
        if self.reconciling.is_subset(&self.by_chance) {
            self.by_chance.insert(peer);
        }
        self.reconcile_soon(peer);
    }

    fn peer_by_chance(&self) -> Option<PeerId> {
        let is_asked = |peer: &PeerId| self.reconciling.contains(peer) || self.fresh.contains(peer);
        let free = |known: &&DiscoveryPeer| !is_asked(&known.peer);
        let wanted =
            |known: &&DiscoveryPeer| free(known) && !self.avoided.contains_key(&known.peer);
        let connected = || self.connected.iter();
        any(connected().filter(wanted)).or_else(|| any(connected().filter(free)))
    }

    fn reconcile_soon(&mut self, peer: PeerId) {
        if self.fresh.len() < limits::RECONCILE_QUEUE && !self.fresh.contains(&peer) {
            self.fresh.push_back(peer);
        }
    }

    /// Takes in where this node is reached.
    async fn look_at_place(&mut self, now: Instant) {
        let Some(place) = self.ask_place().await else {
            return;
        };
        self.outside_mesh = place.outside_mesh;
        let addresses = place.addresses.iter().map(Multiaddr::to_vec).collect();
        self.own.reached_at(addresses, now);
    }

    /// Where this node is reached, from the swarm task.
    async fn ask_place(&self) -> Option<OwnPlace> {
        let (reply, place) = oneshot::channel();
        self.command(Command::OwnPlace(reply)).await;
        timeout(limits::COMMAND_DEADLINE, place).await.ok()?.ok()
    }

    async fn command(&self, command: Command) {
        if let Some(commands) = self.commands.upgrade() {
            // Closed: the network stops.
            let _ = commands.send(command).await;
        }
    }

    async fn blame(&self, peer: PeerId, offence: Offence) {
        self.command(Command::Blame(peer, offence)).await;
    }

    fn on_peers(&mut self) {
        let peers = self.peers.borrow_and_update().clone();
        let now = Instant::now();
        for known in &peers {
            let same = |before: &DiscoveryPeer| before.peer == known.peer;
            let new = !self.connected.iter().any(same);
            if new && known.dialled && !self.not_before.contains_key(&known.peer) {
                self.not_before.insert(known.peer, now + RECONCILE_PAUSE);
                self.reconcile_soon(known.peer);
            }
        }
        let places = peers.iter().map(|known| (known.peer, known.network));
        let places: Vec<_> = places.collect();
        self.directory.set_connected(&places, now);
        if self.connected.is_empty() {
            self.rounds.begin_anew(now, rand::random());
        }
        self.connected = peers;
    }
}

/// One of these by chance. All of one network, or behind one relay, have the chance of one peer elsewhere.
fn any<'a>(peers: impl Iterator<Item = &'a DiscoveryPeer>) -> Option<PeerId> {
    let mut places: HashMap<Result<Subnet, PeerId>, Vec<PeerId>> = HashMap::new();
    for known in peers {
        let place = known.network.ok_or(known.relay.unwrap_or(known.peer));
        places.entry(place).or_default().push(known.peer);
    }
    let of_place = places.into_values().choose(&mut rand::rng())?;
    of_place.into_iter().choose(&mut rand::rng())
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_peers_of_one_network_are_chosen_as_seldom_as_one_of_another() {
        let peer = |network: Option<&str>| DiscoveryPeer {
            peer: PeerId::random(),
            dialled: false,
            network: network.and_then(|text| crate::address::subnet(&text.parse().unwrap())),
            relay: None,
        };
        let mut peers: Vec<_> = (0..50)
            .map(|number| peer(Some(&format!("/ip4/198.51.100.{number}/tcp/1"))))
            .collect();
        let relay = Some(PeerId::random());
        let relayed = std::iter::repeat_with(|| DiscoveryPeer {
            relay,
            ..peer(None)
        });
        peers.extend(relayed.take(50));
        let honest = [peer(Some("/ip4/203.0.113.1/tcp/1")), peer(None)];
        peers.extend(honest);
        let is_honest = |chosen: &PeerId| honest.iter().any(|known| known.peer == *chosen);
        let chosen = (0..3000).filter_map(|_| any(peers.iter()));
        let times = chosen.filter(is_honest).count();
        assert!((1200..1800).contains(&times), "{times} of 3000 times");
        assert_eq!(any([].iter()), None);
    }
}
