//! Pairs of NATs: which path is reached, and in how many seconds. A chat runs over each.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use derouter_sdk::wire::rpc::network::PathKind;
use derouter_testkit::lab::{Lab, Nat, Site};
use futures::StreamExt;

use super::world::{Member, World, within};

/// Pairs at a time: each is four processes, on a machine with two cores.
const AT_A_TIME: usize = 4;

/// A chat must work within this from when both nodes run. Private nodes need a reservation first.
const CHAT_LIMIT: Duration = Duration::from_secs(60);

/// A direct path must be there within this, where there can be one.
const DIRECT_LIMIT: Duration = Duration::from_secs(90);

/// How long a pair that can't reach each other directly is watched for a wonder.
const RELAYED_LOOK: Duration = Duration::from_secs(10);

/// Lines of a node's log that are shown when its pair failed.
const SHOWN_LINES: usize = 60;

/// What a pair must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// A path without a relay.
    Direct,
    /// Any path.
    Any,
}

/// Provider, consumer, and what they must reach.
const PAIRS: [(Nat, Nat, Expected); 21] = {
    use Expected::{Any, Direct};
    [
        (Nat::Public, Nat::Public, Direct),
        (Nat::Public, Nat::PortRestricted, Direct),
        (Nat::Public, Nat::Symmetric, Direct),
        (Nat::Public, Nat::Ipv6Only, Direct),
        (Nat::PortRestricted, Nat::Public, Direct),
        (Nat::Symmetric, Nat::Public, Direct),
        (Nat::Ipv6Only, Nat::Public, Direct),
        (Nat::NoUdp, Nat::Public, Direct),
        (Nat::FullCone, Nat::PortRestricted, Direct),
        (Nat::FullCone, Nat::Symmetric, Direct),
        (Nat::PortRestricted, Nat::PortRestricted, Direct),
        (Nat::PortRestricted, Nat::Symmetric, Any),
        (Nat::Symmetric, Nat::Symmetric, Any),
        (Nat::Double, Nat::PortRestricted, Direct),
        (Nat::NoUdp, Nat::PortRestricted, Any),
        (Nat::Ipv6Only, Nat::PortRestricted, Any),
        (Nat::PortRestricted, Nat::Ipv6Only, Any),
        (Nat::Lossy, Nat::PortRestricted, Direct),
        (Nat::Far, Nat::PortRestricted, Direct),
        (Nat::Upnp, Nat::Symmetric, Direct),
        (Nat::NatPmp, Nat::Symmetric, Direct),
    ]
};

/// What was seen of a pair.
struct Row {
    provider: Nat,
    consumer: Nat,
    expected: Expected,
    /// Seconds until a chat was answered, or why none was.
    chat: Result<f64, String>,
    /// The path that it took.
    first: Option<PathKind>,
    /// The last path seen.
    last: Option<PathKind>,
    /// Seconds until it was direct.
    direct: Option<f64>,
}

fn is_direct(path: PathKind) -> bool {
    path != PathKind::Relayed
}

fn path_name(path: Option<PathKind>) -> &'static str {
    match path {
        None => "-",
        Some(PathKind::Lan) => "lan",
        Some(PathKind::Direct) => "direct",
        Some(PathKind::HolePunched) => "hole-punched",
        Some(PathKind::Relayed) => "relayed",
    }
}

impl Row {
    /// What is wrong, if anything.
    fn failure(&self) -> Option<String> {
        if let Err(error) = &self.chat {
            return Some(format!("no chat: {error}"));
        }
        if self.expected == Expected::Direct && self.direct.is_none() {
            return Some("never direct".to_owned());
        }
        None
    }

    fn line(&self) -> String {
        let seconds = |value: f64| format!("{value:.1}");
        let chat = self
            .chat
            .as_ref()
            .map_or("-".to_owned(), |chat| seconds(*chat));
        let verdict = self
            .failure()
            .map_or("ok".to_owned(), |why| format!("FAILED: {why}"));
        format!(
            "{:<16} {:<16} {:>7}  {:<13} {:>8}  {:<13} {verdict}",
            self.provider.name(),
            self.consumer.name(),
            chat,
            path_name(self.first),
            self.direct.map_or("-".to_owned(), seconds),
            path_name(self.last),
        )
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:<16} {:<16} {:>7}  {:<13} {:>8}  {:<13}\n",
        "provider", "consumer", "chat s", "over", "direct s", "in the end"
    );
    for row in rows {
        let _ = writeln!(text, "{}", row.line());
    }
    text
}

/// Tries until a chat is answered.
async fn first_chat(consumer: &Member) -> Result<(), String> {
    let mut last = "no answer".to_owned();
    let answered = within(CHAT_LIMIT, async || match consumer.chat(4).await {
        Ok(_) => Some(()),
        Err(error) => {
            last = error;
            None
        }
    });
    answered.await.ok_or(last)
}

async fn measure(provider_nat: Nat, consumer_nat: Nat, expected: Expected) -> Row {
    let mut world = World::new(2).await;
    let (provider, consumer) = world.pair(provider_nat, consumer_nat).await;
    let begin = Instant::now();
    let peer = provider.peer();
    let chat = first_chat(&consumer).await;
    let chat = chat.map(|()| begin.elapsed().as_secs_f64());
    let first = consumer.path(peer).await;
    let mut last = first;
    let limit = match expected {
        Expected::Direct => DIRECT_LIMIT,
        Expected::Any => RELAYED_LOOK,
    };
    let look = async || {
        let path = consumer.path(peer).await;
        last = path.or(last);
        path.filter(|path| is_direct(*path))
    };
    let direct = match chat {
        Ok(_) => within(limit, look).await,
        Err(_) => None,
    };
    let direct = direct.map(|_| begin.elapsed().as_secs_f64());
    // The way that it is now, a chat must go as well.
    let chat = match (chat, consumer.chat(4).await) {
        (Ok(_), Err(error)) => Err(format!("the second one failed: {error}")),
        (chat, _) => chat,
    };
    let row = Row {
        provider: provider_nat,
        consumer: consumer_nat,
        expected,
        chat,
        first,
        last,
        direct,
    };
    if row.failure().is_some() {
        explain(&world, &provider, &consumer).await;
    }
    row
}

/// What all nodes know, for whoever looks into a failure.
async fn explain(world: &World, provider: &Member, consumer: &Member) {
    for relay in &world.relays {
        eprintln!("---- {}", relay.explain(SHOWN_LINES).await);
    }
    for member in [provider, consumer] {
        let name = format!("{} ({})", member.site.name(), member.site.nat());
        eprintln!("---- {name}: {:#?}", member.network().await);
        let mut lines = member.process().stderr();
        // One for each try.
        lines.retain(|line| !line.contains("attempt failed"));
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)) {
            eprintln!("{line}");
        }
    }
    eprintln!("{:#?}", consumer.peer_report(provider.peer()).await);
}

/// The pairs that `DEROUTER_LAB_ONLY` names (`provider/consumer`, comma between), or all.
fn chosen() -> Vec<(Nat, Nat, Expected)> {
    let only = std::env::var("DEROUTER_LAB_ONLY").unwrap_or_default();
    let named = |pair: &&(Nat, Nat, Expected)| {
        let name = format!("{}/{}", pair.0, pair.1);
        only.is_empty() || only.split(',').any(|wanted| wanted == name)
    };
    PAIRS.iter().filter(named).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_of_nats_trades_and_directly_where_a_hole_can_be_punched() {
    if Lab::skip() {
        return;
    }
    let (pairs, missing): (Vec<_>, Vec<_>) =
        chosen().into_iter().partition(|(provider, consumer, _)| {
            Site::available(*provider) && Site::available(*consumer)
        });
    for (provider, consumer, _) in missing {
        eprintln!("skipped: {provider}/{consumer}: there is no program `miniupnpd`");
    }
    let measured = futures::stream::iter(pairs)
        .map(|(provider, consumer, expected)| measure(provider, consumer, expected))
        .buffered(AT_A_TIME);
    let rows: Vec<Row> = measured.collect().await;
    let table = table(&rows);
    eprintln!("{table}");
    assert!(rows.iter().all(|row| row.failure().is_none()), "{table}");
}
