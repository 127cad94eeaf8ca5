//! The loop of the discovery task, and what it does with each event.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use derouter_wire::UnixSeconds;
use derouter_wire::announce::{AnnouncementBody, SignedAnnouncement};
use derouter_wire::discovery::{Carried, Want};
use libp2p::gossipsub::MessageAcceptance;
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::exchange::{Commands, ExchangeError};
use super::held::{Held, Judged};
use super::news::News;
use super::pulls::{self, Pulled};
use super::reconcile::{self, Ended};
use super::snapshots::Snapshots;
use super::{
    Ask, DiscoveryPeer, Gossiped, Input, Inputs, Offered, Order, OwnPlace, Published, Shards,
};
use crate::actor::{Command, Offence};
use crate::announcing::{Moment, OwnAnnouncements};
use crate::clock::unix_now;
use crate::counters::{NetCounters, count};
use crate::directory::{Arrival, Directory, Verdict};
use crate::heartbeat::SentHeartbeat;
use crate::heartbeat::bucket::{Bucket, Rate};
use crate::limits;
use crate::offers::OfferNews;
use crate::reachability::clock_watch::OffClock;

/// Providers whose clock is unlike ours, as the swarm task is told: it wants to know of some.
const OFF_CLOCK_RATE: Rate = Rate {
    every: Duration::from_secs(10),
    burst: 16,
};
/// How often it is told that a provider's clock is like ours.
const RIGHT_CLOCK_RATE: Rate = Rate {
    every: Duration::from_secs(60),
    burst: 1,
};
/// How often what is over is forgotten, and where this node is reached is looked at.
const TICK: Duration = Duration::from_secs(2);
/// The pause between two reconciliations with peers of chance, from half to the whole of it.
const RECONCILE_EVERY: Duration = Duration::from_secs(120);
/// A node outside the mesh is told of little: it asks this often.
const RECONCILE_ALONE: Duration = Duration::from_secs(2);
/// Peers are not reconciled with again within this when they come back.
const RECONCILE_PAUSE: Duration = Duration::from_secs(10);
/// Peers with whom a reconciliation failed and brought nothing are left alone for so long, while
/// there are others.
const RECONCILE_AVOID: Duration = Duration::from_secs(300);
/// Announcements of one exchange that are spread by gossip when they are no more than this: those
/// that found no mesh, or that a split network has missed.
const SPREAD: usize = 16;
/// Questions of one peer: ten lists a second, and what a new node asks at once.
const ASK_RATE: Rate = Rate {
    every: Duration::from_millis(50),
    burst: 1000,
};
/// KiB of lists that one peer is given: the whole of a large network's at once, then 1 MiB a second.
const GIVE_RATE: Rate = Rate {
    every: Duration::from_millis(1),
    burst: 128 * 1024,
};
/// Peers whose questions are counted.
const ASKERS: usize = 1024;
/// Providers whose addresses go into the peer book unasked, for when this node is lonely. The others
/// are looked up when they are needed.
const LEARN_RATE: Rate = Rate {
    every: Duration::from_secs(5),
    burst: 256,
};
/// How often the log says that clocks are off.
const COMPLAIN_EVERY: Duration = Duration::from_secs(600);

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

/// What a peer has asked lately.
#[derive(Debug, Default)]
struct Asker {
    questions: Bucket,
    /// KiB of lists.
    given: Bucket,
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
    place: OwnPlace,
    held: Held,
    news: News,
    tasks: JoinSet<Done>,
    pulling: usize,
    reconciling: usize,
    connected: Vec<PeerId>,
    /// Peers that were just connected to.
    fresh: VecDeque<PeerId>,
    /// Peers that were reconciled with when they were dialled: not again before this time.
    not_before: HashMap<PeerId, Instant>,
    /// Peers that are left alone until this time, unless there is nobody else.
    avoided: HashMap<PeerId, Instant>,
    next_reconcile: Instant,
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
            place: OwnPlace::default(),
            held: Held::default(),
            news: News::default(),
            tasks: JoinSet::new(),
            pulling: 0,
            reconciling: 0,
            connected: Vec::new(),
            fresh: VecDeque::new(),
            not_before: HashMap::new(),
            avoided: HashMap::new(),
            next_reconcile: now + RECONCILE_EVERY.mul_f64(0.5 + rand::random::<f64>() / 2.0),
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
        let mut gossip = Vec::with_capacity(limits::ANNOUNCEMENTS_PER_TURN);
        let offers = self.offers.clone();
        loop {
            self.hear_own();
            self.start_pulls();
            self.start_reconciliations();
            let due = tokio::time::Instant::from_std(self.due());
            let telling = !self.news.is_empty() && !offers.is_closed();
            tokio::select! {
                taken = self.gossip.recv_many(&mut gossip, limits::ANNOUNCEMENTS_PER_TURN) => {
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
        let may_pull = self.pulling < limits::PULLS;
        let pull = may_pull.then(|| self.directory.next_pull(Instant::now()));
        let times = [self.own.due(), self.held.due(), pull.flatten()];
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
        let late = self.held.late(now);
        self.tell_judged(late).await;
    }

    async fn tick(&mut self, now: Instant) {
        self.directory.expire(now);
        self.counters
            .announcements_known
            .store(wide(self.directory.len()), Relaxed);
        self.snapshots.forget_old(now);
        self.not_before.retain(|_, time| *time > now);
        self.avoided.retain(|_, time| *time > now);
        if let Some(place) = self.ask_place().await {
            let moved = place.addresses != self.place.addresses;
            self.place = place;
            if moved {
                self.own.moved(now);
            }
        }
        if now >= self.next_reconcile {
            self.reconcile_with_anybody(now);
        }
        if self.place.outside_mesh {
            self.next_reconcile = self.next_reconcile.min(now + RECONCILE_ALONE);
        }
    }

    fn reconcile_with_anybody(&mut self, now: Instant) {
        let pause = RECONCILE_EVERY.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        self.next_reconcile = now + pause;
        let wanted = |peer: &&PeerId| !self.avoided.contains_key(*peer);
        let peer = any(self.connected.iter().filter(wanted)).or(any(self.connected.iter()));
        if let Some(peer) = peer {
            self.reconcile_soon(*peer);
        }
    }

    fn reconcile_soon(&mut self, peer: PeerId) {
        if self.fresh.len() < limits::RECONCILE_QUEUE && !self.fresh.contains(&peer) {
            self.fresh.push_back(peer);
        }
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
            let new = !self.connected.contains(&known.peer);
            if new && known.dialled && !self.not_before.contains_key(&known.peer) {
                self.not_before.insert(known.peer, now + RECONCILE_PAUSE);
                self.reconcile_soon(known.peer);
            }
        }
        self.connected = peers.into_iter().map(|known| known.peer).collect();
        self.directory.set_connected(&self.connected, now);
    }

    // What this node announces.

    /// What the node itself wants goes before all that comes from peers.
    fn hear_own(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.on_order(order);
        }
        if self.offered.has_changed().unwrap_or(false) {
            let offered = self.offered.borrow_and_update().clone();
            self.own.announce(offered.as_deref(), Instant::now());
        }
    }

    fn on_order(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Stop(reply) => {
                let last = self.own.take_last(moment(now));
                let last = last.and_then(|body| self.sign(body, now));
                let _ = reply.send(last.map(|bytes| bytes.to_vec()));
            }
            Order::Slept(unseen) => {
                self.directory.slept(unseen, now);
                self.directory.expire(now);
                self.own.slept(now);
                self.snapshots.clear();
                self.not_before.clear();
                for peer in self.connected.clone() {
                    self.reconcile_soon(peer);
                }
            }
        }
    }

    async fn announce_own(&mut self) {
        let now = Instant::now();
        if self.own.due().is_none_or(|due| due > now) {
            return;
        }
        if let Some(place) = self.ask_place().await {
            self.place = place;
        }
        let addresses = self.place.addresses.iter().map(Multiaddr::to_vec).collect();
        if let Some(body) = self.own.take(moment(now), addresses)
            && let Some(bytes) = self.sign(body, now)
        {
            self.publish_own(&bytes).await;
        } else if self.own.take_again(now)
            && let Some(bytes) = self.directory.announcement(&self.local())
        {
            self.publish_own(&bytes).await;
        }
    }

    fn local(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// Hands our announcement to the mesh, and notes when nobody took it.
    async fn publish_own(&mut self, bytes: &[u8]) {
        let (reply, published) = oneshot::channel();
        let topic = self.shards.topic_of(&self.local());
        self.command(Command::Publish(topic, bytes.to_vec(), Some(reply)))
            .await;
        let published = timeout(limits::COMMAND_DEADLINE, published).await;
        let congested = match published {
            Ok(Ok(Published::Taken)) => return,
            Ok(Ok(Published::Nobody)) => false,
            // Late or closed: the network is overloaded, or stops.
            Ok(Ok(Published::Congested) | Err(_)) | Err(_) => true,
        };
        self.own
            .unpublished(congested, Instant::now(), rand::random());
    }

    fn sign(&mut self, body: AnnouncementBody, now: Instant) -> Option<Arc<[u8]>> {
        // Before it is sent, so that no later run repeats the sequence number.
        let seconds = UnixSeconds(body.sequence / 1000 + 1);
        let updated_at = self.own.updated_at();
        self.sent.send_modify(|sent| {
            sent.timestamp = sent.timestamp.max(seconds);
            sent.updated_at = sent.updated_at.max(updated_at);
        });
        let signed = SignedAnnouncement::sign(body, &self.keypair);
        if signed.is_none() {
            tracing::warn!("only a node with an Ed25519 key can announce offers");
        }
        let list = self.own.list();
        Some(self.directory.insert_own(&signed?, list, now))
    }

    /// Hands an announcement of another provider to the mesh. That there is nobody yet does not
    /// matter: who connects reconciles.
    async fn publish(&self, provider: PeerId, data: Vec<u8>) {
        let topic = self.shards.topic_of(&provider);
        self.command(Command::Publish(topic, data, None)).await;
    }

    // What comes in.

    async fn judge_gossip(&mut self, gossip: &mut Vec<Gossiped>) {
        let mut judged = Vec::with_capacity(gossip.len());
        for message in gossip.drain(..) {
            let Gossiped {
                forwarder,
                id,
                data,
            } = message;
            let verdict = self.judge(forwarder, &data, None).await;
            match verdict {
                Verdict::New {
                    provider,
                    complete: false,
                } => {
                    let now = Instant::now();
                    judged.extend(self.held.hold(provider, id, forwarder, now));
                }
                _ => judged.push((id, forwarder, acceptance(verdict))),
            }
        }
        self.tell_judged(judged).await;
    }

    async fn tell_judged(&self, judged: Vec<Judged>) {
        if !judged.is_empty() {
            self.command(Command::Judged(judged)).await;
        }
    }

    async fn judge(&mut self, forwarder: PeerId, bytes: &[u8], remaining: Option<u32>) -> Verdict {
        let arrival = Arrival {
            forwarder,
            bytes,
            remaining,
        };
        let verdict = self.directory.judge(arrival, Instant::now(), unix_now());
        let checks = self.directory.signature_checks();
        self.counters.signature_checks.store(checks, Relaxed);
        match verdict {
            Verdict::New { provider, complete } => {
                count(&self.counters.announcements_received);
                let now = Instant::now();
                if self.right_clock.try_take(RIGHT_CLOCK_RATE, 1, now) {
                    self.command(Command::ClockIsRight).await;
                }
                if complete {
                    self.news.add(provider);
                }
                if self.learnt.try_take(LEARN_RATE, 1, Instant::now()) {
                    self.learn(&provider).await;
                }
            }
            Verdict::Again {
                provider, longer, ..
            } => {
                count(&self.counters.announcements_stale);
                if longer {
                    self.news.add(provider);
                }
            }
            Verdict::Old => count(&self.counters.announcements_stale),
            Verdict::OffClock(ahead) => {
                count(&self.counters.announcements_off_clock);
                self.complain(ahead);
                self.tell_off_clock(bytes, ahead).await;
            }
            Verdict::TooMany | Verdict::Full => count(&self.counters.announcements_limited),
            Verdict::Invalid => {
                count(&self.counters.announcements_invalid);
                self.blame(forwarder, Offence::InvalidMessage).await;
            }
            Verdict::Forged => {
                count(&self.counters.announcements_forged);
                self.blame(forwarder, Offence::ForgedAnnouncement).await;
            }
        }
        verdict
    }

    /// Tells the peer book where a provider is. False when it does not say.
    async fn learn(&self, provider: &PeerId) -> bool {
        let Some(known) = self.directory.addresses(provider) else {
            return false;
        };
        self.command(Command::Learn(known)).await;
        true
    }

    /// Tells for `netcheck`, whose advice it is to check the clock.
    async fn tell_off_clock(&mut self, bytes: &[u8], ahead: bool) {
        if !self.off_clock.try_take(OFF_CLOCK_RATE, 1, Instant::now()) {
            return;
        }
        if let Ok(signed) = SignedAnnouncement::decode(bytes) {
            let off = OffClock::new(ahead);
            self.command(Command::OffClock(signed.body.peer, off)).await;
        }
    }

    fn complain(&mut self, ahead: bool) {
        let now = Instant::now();
        let recently = self
            .complained
            .is_some_and(|at| now.duration_since(at) < COMPLAIN_EVERY);
        if !recently {
            self.complained = Some(now);
            let direction = if ahead { "ahead" } else { "behind" };
            tracing::warn!(
                direction,
                "announcements that are off by over an hour are ignored; check the clock of this machine"
            );
        }
    }

    async fn on_input(&mut self, input: Input) {
        match input {
            Input::Learn(provider, reply) => {
                let known = self.learn(&provider).await;
                let _ = reply.send(known);
            }
            Input::Ask(peer, ask) => self.on_ask(peer, ask).await,
        }
    }

    async fn on_ask(&mut self, peer: PeerId, ask: Ask) {
        let now = Instant::now();
        if !self.may_ask(peer, now) {
            // Dropping the reply tells who waits.
            return count(&self.counters.discovery_refused);
        }
        match ask {
            Ask::Lists(wants, reply) => {
                let _ = reply.send(self.give_lists(peer, &wants, now));
            }
            Ask::Snapshot(shards, reply) => {
                if let Some(snapshot) = self.snapshots.get(&self.directory, shards, now) {
                    let _ = reply.send(snapshot);
                }
            }
            Ask::Carried(ids, reply) => {
                let carried = ids.iter().filter_map(|id| self.directory.carried(id, now));
                let _ = reply.send(carried.collect());
            }
            Ask::Take(announcements, done) => {
                self.take(peer, announcements).await;
                let _ = done.send(());
            }
        }
    }

    fn may_ask(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.askers.len() >= ASKERS && !self.askers.contains_key(&peer) {
            let idle = |bucket: &Bucket, rate: Rate| bucket.ready_at(rate, rate.burst, now) <= now;
            self.askers.retain(|_, asker| {
                !idle(&asker.questions, ASK_RATE) || !idle(&asker.given, GIVE_RATE)
            });
        }
        if self.askers.len() >= ASKERS && !self.askers.contains_key(&peer) {
            return false;
        }
        let asker = self.askers.entry(peer).or_default();
        asker.questions.try_take(ASK_RATE, 1, now)
    }

    /// The lists that a peer wants, up to what it may have now: it asks for the rest later.
    fn give_lists(&mut self, peer: PeerId, wants: &[Want], now: Instant) -> Vec<Option<Arc<[u8]>>> {
        let asker = self.askers.entry(peer).or_default();
        let mut lists = Vec::with_capacity(wants.len());
        for want in wants {
            let list = self.directory.list(&want.peer, &want.hash);
            let kib = list.as_ref().map_or(0, |list| list.len().div_ceil(1024));
            let kib = u32::try_from(kib).unwrap_or(u32::MAX);
            if !asker.given.try_take(GIVE_RATE, kib, now) {
                break;
            }
            lists.push(list);
        }
        lists
    }

    /// Judges what a peer gave us. A few that are new to us are probably new to others too.
    async fn take(&mut self, peer: PeerId, announcements: Vec<Carried>) {
        let mut new = Vec::new();
        for carried in announcements {
            let bytes = &carried.announcement.0;
            let verdict = self.judge(peer, bytes, Some(carried.remaining)).await;
            if let Verdict::New { provider, .. } = verdict {
                new.push(provider);
            }
            if new.len() % 32 == 31 {
                tokio::task::yield_now().await;
            }
        }
        if new.len() > SPREAD {
            return;
        }
        for provider in new {
            let now = Instant::now();
            if let Some(bytes) = self.directory.fresh_announcement(&provider, now) {
                self.publish(provider, bytes.to_vec()).await;
            }
        }
    }

    // What runs beside.

    fn start_pulls(&mut self) {
        while self.pulling < limits::PULLS {
            let Some(plan) = self.directory.take_pull(Instant::now()) else {
                return;
            };
            self.pulling += 1;
            let commands = self.commands.clone();
            // Only who has to be dialled: the others are connected.
            let stranger = plan.stranger.then_some(plan.source);
            let whereabouts = stranger.and_then(|peer| self.directory.addresses(&peer));
            self.tasks.spawn(async move {
                if let (Some(known), Some(sender)) = (whereabouts, commands.upgrade()) {
                    let _ = sender.send(Command::Learn(known)).await;
                }
                Done::Pulled(pulls::pull(commands, plan).await)
            });
        }
    }

    fn start_reconciliations(&mut self) {
        while self.reconciling < limits::RECONCILIATIONS {
            let Some(peer) = self.fresh.pop_front() else {
                return;
            };
            let (shards, now) = (self.shards.bits(), Instant::now());
            let Some(snapshot) = self.snapshots.get(&self.directory, shards, now) else {
                return;
            };
            self.reconciling += 1;
            let commands = self.commands.clone();
            let inputs = self.own_inputs.clone();
            self.tasks.spawn(async move {
                Done::Reconciled(reconcile::reconcile(commands, inputs, snapshot, peer).await)
            });
        }
    }

    async fn on_done(&mut self, done: Done) {
        match done {
            Done::Pulled(pulled) => self.on_pulled(pulled).await,
            Done::Reconciled(ended) => self.on_reconciled(ended).await,
        }
    }

    async fn on_pulled(&mut self, pulled: Pulled) {
        self.pulling = self.pulling.saturating_sub(1);
        if pulled.wrong {
            count(&self.counters.lists_wrong);
            self.blame(pulled.source, Offence::WrongOfferList).await;
        }
        if pulled.invalid {
            self.blame(pulled.source, Offence::InvalidMessage).await;
        }
        let now = Instant::now();
        self.directory
            .asked(pulled.source, pulled.stranger, pulled.failed, now);
        let mut judged = Vec::new();
        for (provider, hash, outcome) in pulled.outcomes {
            let jitter = rand::random();
            let here = self.directory.pulled(&provider, hash, outcome, now, jitter);
            if here {
                count(&self.counters.lists_pulled);
                self.news.add(provider);
                judged.extend(self.held.release(&provider));
            }
        }
        self.tell_judged(judged).await;
    }

    async fn on_reconciled(&mut self, ended: Ended) {
        self.reconciling = self.reconciling.saturating_sub(1);
        let Ended {
            peer,
            differences,
            outcome,
        } = ended;
        let Err(error) = outcome else {
            count(&self.counters.reconciliations);
            return tracing::debug!(%peer, ?differences, "reconciled");
        };
        tracing::debug!(%peer, ?differences, %error, "not reconciled to the end");
        let is_its_fault = matches!(error, ExchangeError::Timeout | ExchangeError::Invalid(_));
        if is_its_fault && differences.fetched == 0 {
            self.avoided.insert(peer, Instant::now() + RECONCILE_AVOID);
        }
        if matches!(error, ExchangeError::Invalid(_)) {
            self.blame(peer, Offence::InvalidMessage).await;
        }
    }
}

/// One of these by chance.
fn any<'a>(peers: impl Iterator<Item = &'a PeerId>) -> Option<&'a PeerId> {
    rand::seq::IteratorRandom::choose(peers, &mut rand::rng())
}

/// What gossipsub is told.
fn acceptance(verdict: Verdict) -> MessageAcceptance {
    match verdict {
        Verdict::New { .. } | Verdict::Again { spread: true, .. } => MessageAcceptance::Accept,
        Verdict::Invalid | Verdict::Forged => MessageAcceptance::Reject,
        Verdict::Again { spread: false, .. }
        | Verdict::Old
        | Verdict::OffClock(_)
        | Verdict::TooMany
        | Verdict::Full => MessageAcceptance::Ignore,
    }
}

fn moment(now: Instant) -> Moment {
    Moment {
        now,
        unix_millis: unix_millis(),
        jitter: rand::random(),
    }
}

fn unix_millis() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, |elapsed| {
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    })
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
