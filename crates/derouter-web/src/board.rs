//! What pages show and streams tell of: it follows the node, sums its jobs, and counts changes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use derouter_sdk::{
    Cursor, JobEvent, JobFilter, NetworkReport, Node, NodeError, NodeState, PeerId, PeerQuery,
    PeerReport, ProviderEvent, ProviderRecord, UnixSeconds,
};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::modules::{JobFacts, Modules};
use crate::pulse::{BEAT_SECONDS, Beat, Pulse, Series};
use crate::tally::Tally;
use crate::text;

/// How often the network and the modules are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// While nobody follows, only each so-manieth look is done: offers may be thousands.
const UNWATCHED: u32 = 5;

/// The wait before a watch that ended is begun again, with jitter.
const AGAIN: Duration = Duration::from_secs(2);

/// Peers that are shown; pages of the node's list have at most 100.
const MAX_PEERS: usize = 1000;
const PEERS_PAGE: u32 = 100;

/// Providers whose names are kept.
const MAX_PROVIDERS: usize = 20_000;

/// What a page is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    /// The overview.
    Overview,
    /// Offers and models.
    Offers,
    /// Jobs and money.
    Jobs,
    /// Peers and reachability.
    Network,
    /// What is sold.
    Provide,
    /// The log.
    Logs,
}

impl Topic {
    const ALL: [(Topic, &'static str); 6] = [
        (Topic::Overview, "overview"),
        (Topic::Offers, "offers"),
        (Topic::Jobs, "jobs"),
        (Topic::Network, "network"),
        (Topic::Provide, "provide"),
        (Topic::Logs, "logs"),
    ];

    /// By its name in URLs.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|(_, known)| *known == name)
            .map(|(topic, _)| topic)
    }

    /// Its name in URLs.
    pub(crate) fn name(self) -> &'static str {
        let mut all = Self::ALL.into_iter();
        all.find(|(topic, _)| *topic == self)
            .map_or("", |(_, name)| name)
    }
}

/// How often each topic changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    overview: u64,
    offers: u64,
    jobs: u64,
    network: u64,
    provide: u64,
    logs: u64,
}

impl Versions {
    fn place(&mut self, topic: Topic) -> &mut u64 {
        match topic {
            Topic::Overview => &mut self.overview,
            Topic::Offers => &mut self.offers,
            Topic::Jobs => &mut self.jobs,
            Topic::Network => &mut self.network,
            Topic::Provide => &mut self.provide,
            Topic::Logs => &mut self.logs,
        }
    }

    /// Of one topic.
    pub(crate) fn of(mut self, topic: Topic) -> u64 {
        *self.place(topic)
    }
}

/// The network, as it was looked at last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) report: Option<Arc<NetworkReport>>,
    pub(crate) peers: Arc<Vec<PeerReport>>,
}

/// All of it. Locks are held for map operations only.
pub(crate) struct Board {
    node: Arc<dyn Node>,
    modules: Modules,
    tally: Mutex<Tally>,
    pulse: Mutex<Pulse>,
    seen: RwLock<Seen>,
    providers: RwLock<HashMap<PeerId, ProviderRecord>>,
    draining: AtomicBool,
    counted: AtomicBool,
    started: UnixSeconds,
    versions: watch::Sender<Versions>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(crate) fn new(node: Arc<dyn Node>, own: PeerId, modules: Modules) -> Self {
        Self {
            node,
            modules,
            tally: Mutex::new(Tally::new(own)),
            pulse: Mutex::default(),
            seen: RwLock::default(),
            providers: RwLock::default(),
            draining: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            started: text::now(),
            versions: watch::Sender::default(),
        }
    }

    /// Follows the changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Versions> {
        self.versions.subscribe()
    }

    /// How often each topic changed.
    pub(crate) fn versions(&self) -> Versions {
        *self.versions.borrow()
    }

    /// Says that something changed.
    pub(crate) fn changed(&self, topics: &[Topic]) {
        self.versions.send_modify(|versions| {
            for topic in topics {
                let place = versions.place(*topic);
                *place = place.wrapping_add(1);
            }
        });
    }

    /// The sums over the jobs.
    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// What was done in the last minutes.
    pub(crate) fn pulse(&self) -> Series {
        lock(&self.pulse).series()
    }

    /// Looks at what is done, once the jobs of earlier runs have been summed. Never ends.
    pub(crate) async fn beat(self: Arc<Self>) {
        let mut ticks = interval(Duration::from_secs(BEAT_SECONDS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.is_counted() {
                continue;
            }
            let beat = {
                let tally = self.tally();
                let (bought, sold) = tally.running();
                Beat {
                    at: text::now(),
                    jobs: bought.saturating_add(sold),
                    ended: tally.counts.bought.saturating_add(tally.counts.sold),
                    tokens: tally.total.tokens,
                }
            };
            lock(&self.pulse).note(beat);
        }
    }

    /// Whether the jobs of earlier runs have been summed.
    pub(crate) fn is_counted(&self) -> bool {
        self.counted.load(Ordering::Relaxed)
    }

    /// The network, as it was looked at last.
    pub(crate) fn seen(&self) -> Seen {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    /// Whether the node is on its way down.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// What a provider says of itself.
    pub(crate) fn provider(&self, peer: &PeerId) -> Option<ProviderRecord> {
        let providers = self
            .providers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        providers.get(peer).cloned()
    }

    /// What can be said of a job.
    pub(crate) fn facts(&self, job: &derouter_sdk::JobRecord) -> JobFacts {
        let protocols = self.modules.protocols.as_ref();
        protocols.map_or_else(JobFacts::default, |protocols| protocols.facts(job))
    }

    /// Sums the jobs, from the first on. Never ends.
    pub(crate) async fn follow_jobs(self: Arc<Self>) {
        let mut place = Cursor::start();
        loop {
            match self.node.resume_jobs(JobFilter::default(), &place).await {
                Ok(mut watch) => {
                    while let Some(event) = watch.next().await {
                        self.take_job(event);
                        if let Some(cursor) = watch.cursor() {
                            place = cursor.clone();
                        }
                    }
                }
                Err(error) => tell("jobs", &error),
            }
            again().await;
        }
    }

    fn take_job(&self, event: JobEvent) {
        let JobEvent::Updated(job) = event else {
            return;
        };
        if job.created_at_local > self.started {
            self.counted.store(true, Ordering::Relaxed);
        }
        let facts = self.facts(&job);
        self.tally().apply(&job, &facts);
        self.changed(&[Topic::Jobs, Topic::Overview]);
    }

    /// Keeps what providers say of themselves. Never ends.
    pub(crate) async fn follow_providers(self: Arc<Self>) {
        loop {
            match self.node.watch_providers().await {
                Ok(mut watch) => {
                    while let Some(event) = watch.next().await {
                        self.take_provider(event);
                    }
                }
                Err(error) => tell("providers", &error),
            }
            again().await;
        }
    }

    fn take_provider(&self, event: ProviderEvent) {
        let mut providers = self
            .providers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let mut keep = |record: ProviderRecord| {
            if providers.len() < MAX_PROVIDERS || providers.contains_key(&record.peer_id) {
                providers.insert(record.peer_id, record);
            }
        };
        match event {
            ProviderEvent::Reset(all) => all.into_iter().for_each(keep),
            ProviderEvent::Updated(record) => keep(record),
            ProviderEvent::Heartbeat(beat) => {
                if let Some(record) = providers.get_mut(&beat.peer_id) {
                    record.latest_heartbeat_at = beat.latest_heartbeat_at;
                }
                return;
            }
        }
        drop(providers);
        self.changed(&[Topic::Offers]);
    }

    /// Notes whether the node is on its way down. Never ends.
    pub(crate) async fn follow_state(self: Arc<Self>) {
        loop {
            match self.node.watch_state().await {
                Ok(mut watch) => {
                    while let Some(state) = watch.next().await {
                        let draining = matches!(state, NodeState::Draining { .. });
                        self.draining.store(draining, Ordering::Relaxed);
                        self.changed(&[Topic::Overview]);
                    }
                }
                Err(error) => tell("the node's state", &error),
            }
            again().await;
        }
    }

    /// Looks at what tells nothing by itself: the network, the modules, the log. Never ends.
    pub(crate) async fn look(self: Arc<Self>) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut offers = 0;
        let (mut provided, mut lines) = (String::new(), 0);
        let mut turn = UNWATCHED;
        loop {
            ticks.tick().await;
            turn = turn.saturating_add(1);
            if self.versions.receiver_count() == 0 && turn < UNWATCHED {
                continue;
            }
            turn = 0;
            self.look_at_network().await;
            let new = self.look_at_offers();
            if new != offers {
                offers = new;
                self.changed(&[Topic::Offers, Topic::Overview]);
            }
            let now = self.modules.provider.as_ref();
            let now = now.map(|provider| format!("{:?}", (provider.offers(), provider.backends())));
            if let Some(now) = now.filter(|now| *now != provided) {
                provided = now;
                self.changed(&[Topic::Provide, Topic::Overview]);
            }
            let count = self.modules.logs.as_ref().map_or(0, |logs| logs.count());
            if count != lines {
                lines = count;
                self.changed(&[Topic::Logs]);
            }
        }
    }

    /// Looks at the network now.
    pub(crate) async fn look_at_network(&self) {
        let report = match self.node.network().await {
            Ok(report) => report,
            Err(error) => return tell("the network", &error),
        };
        let peers = self.all_peers().await.unwrap_or_default();
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let same = seen.report.as_deref() == Some(&report) && *seen.peers == peers;
        if same {
            return;
        }
        *seen = Seen {
            report: Some(Arc::new(report)),
            peers: Arc::new(peers),
        };
        drop(seen);
        self.changed(&[Topic::Network, Topic::Overview]);
    }

    async fn all_peers(&self) -> Result<Vec<PeerReport>, NodeError> {
        let mut all: Vec<PeerReport> = Vec::new();
        while all.len() < MAX_PEERS {
            let query = PeerQuery {
                after: all.last().map(|last| last.peer),
                peer: None,
                connected_only: true,
                limit: PEERS_PAGE,
            };
            let page = self.node.peers(&query).await?;
            let full = page.len() >= usize::try_from(PEERS_PAGE).unwrap_or(usize::MAX);
            all.extend(page);
            if !full {
                break;
            }
        }
        Ok(all)
    }

    /// A number that changes with what the offers are.
    fn look_at_offers(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let Some(gateway) = &self.modules.gateway else {
            return 0;
        };
        let mut hasher = DefaultHasher::new();
        for offer in gateway.offers() {
            let shown = (
                offer.provider,
                &offer.offer_id,
                &offer.path,
                offer.cooling,
                offer.context,
            );
            shown.hash(&mut hasher);
            let measured = [offer.first_token, offer.speed].map(|it| it.map(|it| it.p50.to_bits()));
            (measured, offer.input_price, offer.output_price, offer.load).hash(&mut hasher);
            (offer.success.map(f64::to_bits), offer.excluded.is_some()).hash(&mut hasher);
            std::mem::discriminant(&offer.standing).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Says when the jobs of earlier runs have been summed. Ends then.
    pub(crate) async fn wait_counted(self: Arc<Self>) {
        let mut before = None;
        loop {
            sleep(LOOK_EVERY).await;
            let now = self.tally().last_row;
            // Nothing came for a while: what was there has been read.
            if now == before {
                self.counted.store(true, Ordering::Relaxed);
                return;
            }
            before = now;
        }
    }
}

fn tell(what: &str, error: &NodeError) {
    tracing::debug!(%error, what, "the dashboard can't follow");
}

async fn again() {
    let jitter = rand::rng().random_range(0.5..1.5);
    sleep(AGAIN.mul_f64(jitter)).await;
}
