//! One run: two nodes trade, one ends and comes back, and both ledgers are compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use derouter_sdk::{OfferSnapshot, Provision};
use derouter_store::market::Role;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ledgers::{Findings, Ledger, compare};
use super::node::{CrashNode, own_port};
use super::plan::{How, Plan};
use super::points::Side;
use super::trade::{self, Client, Course, Order, Told};
use crate::home::NodeConfig;

/// Clients that buy at once.
pub const CLIENTS: u64 = 4;

/// How long a node is given to come to its point.
const POINT_DEADLINE: Duration = Duration::from_secs(8);

/// How long both nodes are given until the offer can be bought.
const OPEN_DEADLINE: Duration = Duration::from_secs(40);

/// How long both ledgers are given to come to rest.
const SETTLE: Duration = Duration::from_secs(25);

/// How often the ledgers are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(250);

/// What a run came to.
#[derive(Debug)]
pub struct Ran {
    /// What it did.
    pub title: String,
    /// Its seed.
    pub seed: u64,
    /// Whether the node came to its point by itself.
    pub reached: bool,
    /// Whether both ledgers came to rest in time.
    pub quiet: bool,
    /// What both ledgers say.
    pub findings: Findings,
    /// How long it took.
    pub took: Duration,
    /// Where the files of a run with violations are.
    pub kept: Option<PathBuf>,
}

/// Two nodes and their modules.
#[derive(Debug)]
pub struct Trading {
    /// The node that buys.
    pub consumer: CrashNode,
    /// The node that sells.
    pub provider: CrashNode,
    /// What the modules were told.
    pub told: Arc<Told>,
    client: Client,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
    provision: Option<Provision>,
}

impl Trading {
    /// Homes for both, on 127.0.0.1.
    pub fn new(binary: &Path) -> Self {
        let port = own_port();
        let listen = format!("/ip4/127.0.0.1/tcp/{port}");
        let selling = NodeConfig::default()
            .with("provider", json!({"name": "crash"}))
            .with("listen", json!([listen]));
        let provider = CrashNode::new(Side::Provider, binary, selling);
        let consumer = CrashNode::new(Side::Consumer, binary, NodeConfig::default());
        Self::of(consumer, provider)
    }

    /// Of two nodes that were not started.
    pub fn of(consumer: CrashNode, provider: CrashNode) -> Self {
        let told = Arc::new(Told::default());
        let client = Client {
            node: consumer.rpc(),
            told: Arc::clone(&told),
        };
        Self {
            consumer,
            provider,
            told,
            client,
            stop: Arc::default(),
            clients: JoinSet::new(),
            provision: None,
        }
    }

    /// One of the nodes.
    pub fn node(&mut self, side: Side) -> &mut CrashNode {
        match side {
            Side::Consumer => &mut self.consumer,
            Side::Provider => &mut self.provider,
        }
    }

    /// Starts what does not run, puts the offer on the market and waits until it can be bought. `None`
    /// when a node ended before that.
    pub async fn open(&mut self) -> Option<OfferSnapshot> {
        if !self.provider.lives() && !self.provider.start().await {
            return None;
        }
        let address = self.provider.bootstrap_address();
        self.consumer.bootstrap(&address);
        if !self.consumer.lives() && !self.consumer.start().await {
            return None;
        }
        let (sold, told, buyer) = (self.provider.rpc(), &self.told, &self.client.node);
        let provision = &mut self.provision;
        let opening = async {
            if provision.is_none() {
                *provision = trade::provide(&sold, told).await.ok();
            }
            trade::wait_offer(buyer).await
        };
        tokio::select! {
            offer = opening => Some(offer),
            _ = self.consumer.ends_within(OPEN_DEADLINE) => None,
            _ = self.provider.ends_within(OPEN_DEADLINE) => None,
        }
    }

    /// Brings back what has ended.
    pub async fn revive(&mut self) {
        for side in Side::BOTH {
            let node = self.node(side);
            if node.lives() || !node.was_started() {
                continue;
            }
            node.kill().await;
            let back = node.start().await;
            assert!(
                back,
                "a {} does not come back:\n{}",
                side.name(),
                node.log()
            );
        }
    }

    /// Lets so many clients buy until [`Trading::close`].
    pub fn trade(&mut self, offer: &OfferSnapshot, seed: u64, clients: u64) {
        for number in 0..clients {
            let (client, offer) = (self.client.clone(), offer.clone());
            let stop = Arc::clone(&self.stop);
            let mut random = StdRng::seed_from_u64(seed.wrapping_mul(clients).wrapping_add(number));
            self.clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.buy(&offer, order(&mut random)).await;
                    // A node that is gone answers at once.
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
    }

    /// No further jobs.
    pub fn close(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Notes what the nodes say is settled for good.
    pub async fn note_confirmed(&self) {
        self.client.note_confirmed(&self.told.confirmed).await;
        let seller = Client {
            node: self.provider.rpc(),
            told: Arc::clone(&self.told),
        };
        seller.note_confirmed(&self.told.received).await;
    }

    /// Waits until both ledgers are at rest, with the help of the client, which finishes what it finds
    /// open; true when they came to rest.
    pub async fn settle(&mut self, longest: Duration) -> bool {
        let end = Instant::now() + longest;
        let mut finishing = JoinSet::new();
        let mut known = std::collections::HashSet::new();
        while Instant::now() < end {
            while self.clients.try_join_next().is_some() {}
            let at_work = !self.clients.is_empty();
            // The clients look after their own jobs: only those that they lost are found here.
            if !at_work && let Ok(open) = self.client.open().await {
                for key in open {
                    if known.insert(key.job_id.clone()) {
                        let client = self.client.clone();
                        finishing.spawn(async move { client.finish(&key).await });
                    }
                }
            }
            if !at_work && self.is_quiet().await {
                return true;
            }
            sleep(LOOK).await;
        }
        false
    }

    async fn is_quiet(&self) -> bool {
        let ledgers = self.ledgers().await;
        ledgers.is_ok_and(|(bought, sold)| bought.is_quiet() && sold.is_quiet())
    }

    async fn ledgers(&self) -> Result<(Ledger, Ledger), String> {
        let bought = Ledger::read(&self.consumer.data_dir(), Role::Consumer).await?;
        let sold = Ledger::read(&self.provider.data_dir(), Role::Provider).await?;
        Ok((bought, sold))
    }

    /// Ends both nodes and compares their ledgers.
    pub async fn compare(&mut self) -> Findings {
        self.note_confirmed().await;
        self.clients.shutdown().await;
        self.consumer.kill().await;
        self.provider.kill().await;
        match self.ledgers().await {
            Ok((bought, sold)) => compare(&bought, &sold, &self.told),
            Err(error) => Findings {
                violations: vec![format!("a ledger can't be read: {error}")],
                ..Findings::default()
            },
        }
    }

    /// Copies what both nodes left behind.
    pub fn keep(&self, directory: &Path) {
        for node in [&self.consumer, &self.provider] {
            let to = directory.join(node.side.name());
            let _ = fs::create_dir_all(&to);
            let _ = fs::write(to.join("log"), node.log());
            for entry in fs::read_dir(node.data_dir())
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = fs::copy(entry.path(), to.join(entry.file_name()));
            }
        }
    }
}

/// What a client wants next: most jobs are paid, some slowly.
fn order(random: &mut StdRng) -> Order {
    let course = match random.random_range(0..10) {
        0 => Course::GivenUp,
        1 => Course::FailedByService,
        2 => Course::Refused,
        _ => Course::Paid,
    };
    let pace_ms = match random.random_range(0..3) {
        0 => 0,
        1 => 10,
        _ => 100,
    };
    Order {
        course,
        chunks: random.random_range(1..6),
        pace_ms,
    }
}

/// Runs a plan. The files of a run with violations are kept below `keep`.
pub async fn run(binary: &Path, plan: &Plan, keep: &Path) -> Ran {
    let begin = Instant::now();
    let mut trading = Trading::new(binary);
    let reached = crash(&mut trading, plan).await;
    let what = (plan.title(), plan.seed, begin);
    finish(&mut trading, what, reached, SETTLE, keep).await
}

/// Lets both ledgers come to rest and compares them. The files of a run with violations are kept.
pub(super) async fn finish(
    trading: &mut Trading,
    (title, seed, begin): (String, u64, Instant),
    reached: bool,
    settle: Duration,
    keep: &Path,
) -> Ran {
    trading.close();
    let quiet = trading.settle(settle).await;
    let findings = trading.compare().await;
    let kept = (!findings.violations.is_empty()).then(|| {
        let directory = keep.join(seed.to_string());
        trading.keep(&directory);
        let text = findings.violations.join("\n\n");
        let _ = fs::write(directory.join("violations"), text);
        directory
    });
    Ran {
        title,
        seed,
        reached,
        quiet,
        findings,
        took: begin.elapsed(),
        kept,
    }
}

/// Lets the nodes trade and end as planned, and brings both back. Whether the point was reached.
async fn crash(trading: &mut Trading, plan: &Plan) -> bool {
    trading.node(plan.side).arm(&plan.setting());
    let Some(offer) = trading.open().await else {
        return after_no_trade(trading, plan).await;
    };
    trading.trade(&offer, plan.seed, CLIENTS);
    let mut reached = match &plan.how {
        How::Point { .. } => trading.node(plan.side).ends_within(POINT_DEADLINE).await,
        How::Start(_) => {
            sleep(Duration::from_millis(400)).await;
            true
        }
        How::AtRandom(after) => {
            sleep(*after).await;
            true
        }
    };
    trading.note_confirmed().await;
    trading.node(plan.side).kill().await;
    if plan.both {
        trading.consumer.kill().await;
        trading.provider.kill().await;
    }
    if let How::Start(name) = plan.how {
        let node = trading.node(plan.side);
        node.arm(&format!("{name}=return(crash)"));
        reached = !node.start().await;
    }
    trading.revive().await;
    if let Some(after) = plan.again {
        sleep(after).await;
        trading.node(plan.side).kill().await;
        trading.revive().await;
    }
    // Some trade after the return, so that new jobs meet what the crash left.
    sleep(Duration::from_millis(300)).await;
    reached
}

/// The node ended before there was any trade: it trades after a start on what it left. Whether it
/// ended at its point.
async fn after_no_trade(trading: &mut Trading, plan: &Plan) -> bool {
    let reached = !trading.node(plan.side).lives();
    trading.revive().await;
    let offer = trading.open().await.expect("nothing ends a node any more");
    trading.trade(&offer, plan.seed, CLIENTS);
    sleep(Duration::from_millis(500)).await;
    reached
}
