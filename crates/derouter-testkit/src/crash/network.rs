//! Runs over networks that lose, double, reorder and cut, and with clocks that are hours apart. Each node
//! is in a network namespace of its own; a link between them does to their packets what the plan says.
//! Needs root.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::node::CrashNode;
use super::points::Side;
use super::run::{CLIENTS, Ran, Trading, finish};
use crate::home::NodeConfig;
use crate::lab::Namespace;
use crate::link::{End, Link, Shape};

/// Where Debian has the library that sets a process's clock.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// By how much a clock jumps: two hours.
const CLOCK_AHEAD: &str = "+7200";

/// How long nodes trade before and after what happens.
const TRADE: Duration = Duration::from_secs(3);

/// How long answers are cut off.
const CUT: Duration = Duration::from_secs(20);

/// Lets nothing in that comes over the link.
const CUT_RULES: &str = "table inet cut {
    chain in {
        type filter hook input priority 0
        iifname \"link0\" drop
    }
}";

/// How long both ledgers are given to come to rest.
const SETTLE: Duration = Duration::from_secs(75);

/// The port of both nodes, each in its own network.
const PORT: u16 = 4101;

/// What the network or the clocks are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// One packet in twenty is lost.
    Loss,
    /// One in twenty comes twice.
    Doubled,
    /// One in five comes 40 ms late.
    Reordered,
    /// What the provider sends does not arrive for 20 s.
    AnswersCut,
    /// What the consumer sends does not arrive for 20 s.
    CallsCut,
    /// The node's clock jumps two hours ahead of the other's. Not before the offer is known: providers
    /// whose clock is over four hours off are not heard at all.
    ClockAhead(Side),
    /// Loss, doubles, disorder and clocks apart at once.
    Everything,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkPlan {
    /// From which the jobs follow.
    pub seed: u64,
    /// What it is like.
    pub weather: Weather,
    /// Whether the nodes speak QUIC in place of TCP.
    pub quic: bool,
}

impl NetworkPlan {
    const WEATHERS: [Weather; 8] = [
        Weather::Loss,
        Weather::Doubled,
        Weather::Reordered,
        Weather::AnswersCut,
        Weather::CallsCut,
        Weather::ClockAhead(Side::Consumer),
        Weather::ClockAhead(Side::Provider),
        Weather::Everything,
    ];

    /// How many seeds in a row name every weather over TCP and over QUIC once.
    pub const CYCLE: u64 = 16;

    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let slot = usize::try_from(seed % Self::CYCLE).unwrap_or_default();
        Self {
            seed,
            weather: Self::WEATHERS[slot / 2],
            quic: slot % 2 == 1,
        }
    }

    /// In a few words.
    pub fn title(&self) -> String {
        let over = if self.quic { "QUIC" } else { "TCP" };
        let what = match self.weather {
            Weather::Loss => "5 % of packets lost".to_owned(),
            Weather::Doubled => "5 % of packets doubled".to_owned(),
            Weather::Reordered => "20 % of packets 40 ms late".to_owned(),
            Weather::AnswersCut => "answers cut off for 20 s".to_owned(),
            Weather::CallsCut => "calls cut off for 20 s".to_owned(),
            Weather::ClockAhead(side) => format!("{}'s clock jumps 2 h ahead", side.name()),
            Weather::Everything => "all but cuts at once".to_owned(),
        };
        format!("{over}: {what}")
    }

    fn shape(&self) -> Shape {
        let mut shape = Shape {
            delay: Duration::from_millis(15),
            jitter: Duration::from_millis(5),
            ..Shape::default()
        };
        let everything = self.weather == Weather::Everything;
        if everything || self.weather == Weather::Loss {
            shape.loss = 0.05;
        }
        if everything || self.weather == Weather::Doubled {
            shape.doubled = 0.05;
        }
        if everything || self.weather == Weather::Reordered {
            shape.late = 0.2;
            shape.late_by = Duration::from_millis(40);
        }
        shape
    }

    /// Whose clock jumps.
    fn ahead(&self) -> Option<Side> {
        match self.weather {
            Weather::ClockAhead(ahead) => Some(ahead),
            Weather::Everything => Some(Side::Consumer),
            _ => None,
        }
    }
}

/// A node's network, and a way to its RPC from outside.
struct Place {
    /// Says what a node's clock is; read again and again.
    clock: PathBuf,
    /// Ends the tasks that lead to the RPC before the network goes.
    leading: JoinHandle<()>,
    namespace: Namespace,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leading.abort();
    }
}

impl Place {
    /// Puts a node into a network of its own.
    async fn of(node: &mut CrashNode, namespace: Namespace) -> Self {
        let name = namespace.name().to_owned();
        let clock = node.home.write("clock", "+0");
        let file = clock.clone();
        node.wrap(Box::new(move |command| inside(&name, &command, &file)));
        let port = node.rpc_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.expect("the port is free out here");
        let inner = namespace.handle().clone();
        let leading = tokio::spawn(async move {
            while let Ok((outside, _)) = listener.accept().await {
                inner.spawn(lead(outside, port));
            }
        });
        Self {
            clock,
            leading,
            namespace,
        }
    }
}

/// Carries a connection to the same port of the network that this runs in.
async fn lead(mut outside: TcpStream, port: u16) {
    if let Ok(mut inside) = TcpStream::connect(("127.0.0.1", port)).await {
        let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
    }
}

/// The same command in a network namespace, with the clock that a file says.
fn inside(namespace: &str, command: &Command, clock: &Path) -> Command {
    let command = command.as_std();
    let mut wrapped = Command::new("ip");
    wrapped.args(["netns", "exec", namespace]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    wrapped
        .env("LD_PRELOAD", FAKETIME)
        .env("FAKETIME_TIMESTAMP_FILE", clock)
        .env("FAKETIME_CACHE_DURATION", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    wrapped
}

/// Two networks with a link between them, and the nodes in them.
struct Ground {
    trading: Trading,
    /// Before the namespaces, whose devices it holds.
    _link: Link,
    consumer: Place,
    provider: Place,
}

const ADDRESSES: [&str; 2] = ["10.88.0.1", "10.88.0.2"];

impl Ground {
    async fn new(binary: &Path, plan: &NetworkPlan) -> Self {
        let listen = |address: &str| match plan.quic {
            true => format!("/ip4/{address}/udp/{PORT}/quic-v1"),
            false => format!("/ip4/{address}/tcp/{PORT}"),
        };
        let [bought, sold] = ADDRESSES.map(listen);
        let selling = NodeConfig::default()
            .with("provider", json!({"name": "crash"}))
            .with("listen", json!([sold]));
        let buying = NodeConfig::default().with("listen", json!([bought]));
        let mut provider = CrashNode::new(Side::Provider, binary, selling);
        let mut consumer = CrashNode::new(Side::Consumer, binary, buying);
        provider.reached_at(&sold);
        let [left, right] = ["crash-buys", "crash-sells"].map(crate::lab::alone);
        let end = |namespace: &Namespace, address: &str| {
            End::named(namespace.name(), "link0", &[&format!("{address}/24")])
        };
        let ends = [end(&left, ADDRESSES[0]), end(&right, ADDRESSES[1])];
        let link = Link::start(&ends[0], &ends[1], plan.shape()).expect("root can make a link");
        let bought = Place::of(&mut consumer, left).await;
        let sold = Place::of(&mut provider, right).await;
        Self {
            trading: Trading::of(consumer, provider),
            _link: link,
            consumer: bought,
            provider: sold,
        }
    }

    fn set_ahead(&self, side: Side) {
        let place = match side {
            Side::Consumer => &self.consumer,
            Side::Provider => &self.provider,
        };
        std::fs::write(&place.clock, CLOCK_AHEAD).expect("the file is ours");
    }

    /// Where packets of the cut direction would arrive.
    fn cut(&self, weather: Weather) -> Option<&Namespace> {
        match weather {
            Weather::AnswersCut => Some(&self.consumer.namespace),
            Weather::CallsCut => Some(&self.provider.namespace),
            _ => None,
        }
    }
}

/// Why there can be no such runs here, if there can't.
pub fn unavailable() -> Option<String> {
    if let Some(reason) = crate::lab::Lab::unavailable().or_else(Link::unavailable) {
        return Some(reason);
    }
    let library = PathBuf::from(FAKETIME);
    (!library.exists()).then(|| format!("{FAKETIME} is not there: install libfaketime"))
}

/// Runs a plan.
pub async fn run(binary: &Path, plan: &NetworkPlan, keep: &Path) -> Ran {
    let begin = Instant::now();
    let mut ground = Ground::new(binary, plan).await;
    let offer = ground.trading.open().await.expect("nothing ends a node");
    ground.trading.trade(&offer, plan.seed, CLIENTS);
    sleep(TRADE).await;
    if let Some(side) = plan.ahead() {
        ground.set_ahead(side);
    }
    if let Some(namespace) = ground.cut(plan.weather) {
        namespace.nft(CUT_RULES);
        sleep(CUT).await;
        namespace.nft("delete table inet cut");
    }
    sleep(TRADE).await;
    let what = (plan.title(), plan.seed, begin);
    finish(&mut ground.trading, what, true, SETTLE, keep).await
}
