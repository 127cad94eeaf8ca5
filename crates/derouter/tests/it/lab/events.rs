//! What breaks connections: relays that die, addresses that change, sleep, bootstrap nodes that
//! are gone. Jobs that run then may break, but say so; the next ones work.
//!
//! Each event takes its minutes, most of which are waiting, so one test runs them side by side.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use derouter_sdk::PeerId;
use derouter_sdk::wire::rpc::network::{PathKind, ReservationState};
use derouter_testkit::http::{self, Streaming};
use derouter_testkit::lab::{Lab, Nat};
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::task::JoinHandle;

use super::world::{Member, World, chat_body, within};

/// Until a node that starts has reservations and the other one has found it.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Until trade goes on after something broke.
const MEND_LIMIT: Duration = Duration::from_secs(90);

/// Until a job whose connection is gone says so. A silent connection is found out by its missing
/// pings.
const HONESTY_LIMIT: Duration = Duration::from_secs(60);

/// Events at a time: each is four processes, on a machine with two cores, that mostly wait.
const AT_A_TIME: usize = 4;

/// A chat that is paced by its provider.
#[derive(Clone, Copy, Debug)]
struct Paced {
    words: u32,
    pace_ms: u64,
}

/// Half a minute.
const LONG_CHAT: Paced = Paced {
    words: 300,
    pace_ms: 100,
};

/// Longer than the 2 minutes and more than the 128 KiB after which libp2p's relays cut a circuit by
/// default. A word is over 100 bytes on the job stream.
const LONGEST_CHAT: Paced = Paced {
    words: 2600,
    pace_ms: 50,
};

/// What libp2p's relays let through by default, in bytes.
const DEFAULT_CIRCUIT_BYTES: usize = 128 * 1024;

/// How long a machine sleeps in these tests: longer than every keep-alive, idle limit and NAT
/// mapping on the way, and than the 2 minutes after which a reservation has to be seen again.
const SLEEP: Duration = Duration::from_secs(180);

/// How a chat over a connection that breaks ended.
#[derive(Debug)]
struct Ended {
    /// All that came.
    text: String,
    /// Whether the HTTP answer itself broke.
    broken: bool,
}

impl Ended {
    fn is_complete(&self) -> bool {
        !self.broken && self.text.contains("[DONE]") && !self.text.contains("\"error\"")
    }

    /// A chat that is cut short must not look like a whole one.
    fn check_honest(&self) {
        let says_so = self.broken || self.text.contains("\"error\"");
        assert!(
            self.is_complete() || says_so,
            "an answer that is neither whole nor an error: {self:?}"
        );
    }
}

/// A chat that runs while things happen.
struct Running {
    reader: JoinHandle<Ended>,
    limit: Duration,
}

impl Running {
    /// Starts a long chat and waits for its first words.
    async fn start(consumer: &Member, chat: Paced) -> Self {
        let url = format!("{}/chat/completions", consumer.running().ready.openai_url());
        let body = chat_body(chat.words, chat.pace_ms);
        let host = &consumer.site.host;
        let open = host.run(async move {
            let mut stream = http::stream(&url, &body)
                .await
                .map_err(|error| error.to_string())?;
            match stream.next().await {
                Ok(Some(first)) if stream.status() == 200 => Ok((stream, first)),
                other => Err(format!("{}: {other:?}", stream.status())),
            }
        });
        let (stream, first): (Streaming, String) = open.await.expect("a chat starts");
        let reader = host.handle().spawn(read(stream, first));
        let whole = Duration::from_millis(u64::from(chat.words) * chat.pace_ms);
        let limit = whole + whole / 2 + HONESTY_LIMIT;
        Self { reader, limit }
    }

    async fn end(self) -> Ended {
        let ended = tokio::time::timeout(self.limit, self.reader).await;
        ended
            .expect("a chat ends in time")
            .expect("reading does not panic")
    }
}

async fn read(mut stream: Streaming, mut text: String) -> Ended {
    let (rest, end) = stream.rest().await;
    text.push_str(&rest);
    Ended {
        text,
        broken: end.is_err(),
    }
}

/// Tries until a chat is answered; panics with why the last one was not. Returns how long it took.
async fn trade(consumer: &Member, when: &str, limit: Duration) -> Duration {
    let begin = Instant::now();
    let mut last = String::new();
    let answered = within(limit, async || {
        consumer.chat(4).await.map_err(|error| last = error).ok()
    });
    let answered = answered.await;
    let network = consumer.network().await;
    assert!(answered.is_some(), "no chat {when}: {last}; {network:#?}");
    let took = begin.elapsed();
    eprintln!("a chat {when} after {:.1} s", took.as_secs_f64());
    took
}

/// Waits until a node has reservations on so many relays.
async fn wait_reservations(member: &Member, count: usize, when: &str) {
    let begin = Instant::now();
    let reserved = within(MEND_LIMIT, async || {
        let relays = member.network().await?.relays;
        let reserved = relays
            .iter()
            .filter(|relay| relay.state == ReservationState::Reserved);
        (reserved.count() >= count).then_some(())
    });
    let reserved = reserved.await;
    let network = member.network().await;
    assert!(
        reserved.is_some(),
        "{count} reservations {when}: {network:#?}"
    );
    eprintln!(
        "{count} reservations {when} after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
}

/// The relay that the consumer reaches a peer through.
async fn relay_between(consumer: &Member, provider: PeerId) -> Option<PeerId> {
    let report = consumer.peer_report(provider).await?;
    let path = report.paths.first()?;
    if path.kind != PathKind::Relayed {
        return None;
    }
    path.relay.as_ref()?.parse().ok()
}

fn find(world: &World, relay: PeerId) -> usize {
    let found = world.relays.iter().position(|known| known.peer() == relay);
    found.expect("it is one of the relays")
}

async fn trade_goes_on_when_relays_are_killed_and_come_back() {
    let mut world = World::new(2).await;
    let (provider, consumer) = world.pair(Nat::Symmetric, Nat::Symmetric).await;
    wait_reservations(&provider, 2, "at the start").await;
    trade(&consumer, "through a relay", START_LIMIT).await;

    // Under an active consumer.
    let used = within(START_LIMIT, async || {
        relay_between(&consumer, provider.peer()).await
    });
    let used = find(&world, used.await.expect("two symmetric NATs need a relay"));
    let chat = Running::start(&consumer, LONG_CHAT).await;
    world.relays[used].kill().await;
    let ended = chat.end().await;
    ended.check_honest();
    trade(&consumer, "through the other relay", MEND_LIMIT).await;
    world.relays[used].start().await;
    wait_reservations(&provider, 2, "after the relay came back").await;

    // Under an idle one.
    let other = 1 - used;
    world.relays[other].kill().await;
    trade(&consumer, "after the second relay was killed", MEND_LIMIT).await;
    world.relays[other].start().await;
    wait_reservations(&provider, 2, "after the second relay came back").await;
}

async fn trade_goes_on_after_both_ends_slept() {
    let mut world = World::new(2).await;
    let (provider, consumer) = world.pair(Nat::PortRestricted, Nat::PortRestricted).await;
    trade(&consumer, "before the sleep", START_LIMIT).await;
    for member in [&provider, &consumer] {
        member.process().freeze();
    }
    // The sleep itself is what is tested: there is no event to wait for.
    tokio::time::sleep(SLEEP).await;
    for member in [&provider, &consumer] {
        member.process().thaw();
    }
    trade(&consumer, "after the sleep", MEND_LIMIT).await;
}

/// Something happens to the addresses in the middle of a job.
async fn trade_through(
    pair: (Nat, Nat),
    when: &str,
    change: impl FnOnce(&mut Member, &mut Member),
) {
    let mut world = World::new(2).await;
    let (mut provider, mut consumer) = world.pair(pair.0, pair.1).await;
    trade(&consumer, "before", START_LIMIT).await;
    let chat = Running::start(&consumer, LONG_CHAT).await;
    change(&mut provider, &mut consumer);
    trade(&consumer, when, MEND_LIMIT).await;
    let ended = chat.end().await;
    ended.check_honest();
    eprintln!(
        "{when}, the running job was complete: {}",
        ended.is_complete()
    );
}

async fn trade_goes_on_after_the_providers_router_gets_another_address() {
    let pair = (Nat::PortRestricted, Nat::PortRestricted);
    let change = |provider: &mut Member, _: &mut Member| provider.site.change_public_address();
    trade_through(pair, "after the provider's public address changed", change).await;
}

async fn trade_goes_on_after_the_consumers_host_gets_another_address() {
    let pair = (Nat::PortRestricted, Nat::PortRestricted);
    let change = |_: &mut Member, consumer: &mut Member| consumer.site.change_private_address();
    trade_through(pair, "after the consumer's own address changed", change).await;
}

async fn peers_that_know_each_other_need_no_bootstrap_nodes_also_after_restarts() {
    let mut world = World::new(2).await;
    let (mut provider, mut consumer) = world.pair(Nat::FullCone, Nat::PortRestricted).await;
    trade(&consumer, "with bootstrap nodes", START_LIMIT).await;
    let direct = within(START_LIMIT, async || {
        let path = consumer.path(provider.peer()).await?;
        (path != PathKind::Relayed).then_some(())
    });
    direct
        .await
        .expect("a provider behind a full cone is reached directly");
    for relay in &mut world.relays {
        relay.kill().await;
    }
    trade(&consumer, "without bootstrap nodes", MEND_LIMIT).await;
    // A node has a quarter of a second to keep whom it met, and it takes longer to find the relays gone.
    let alone = within(MEND_LIMIT, async || {
        (consumer.network().await?.peers == 1).then_some(())
    });
    alone.await.expect("the relays are gone for the consumer");
    consumer.kill().await;
    consumer.start().await;
    trade(&consumer, "after the consumer's restart", MEND_LIMIT).await;
    provider.kill().await;
    provider.start().await;
    trade(&consumer, "after the provider's restart", MEND_LIMIT).await;
}

async fn a_job_over_a_relay_lasts_longer_than_two_minutes() {
    let mut world = World::new(2).await;
    let (provider, consumer) = world.pair(Nat::Symmetric, Nat::Symmetric).await;
    trade(&consumer, "before a long job", START_LIMIT).await;
    let begin = Instant::now();
    let chat = Running::start(&consumer, LONGEST_CHAT).await;
    let ended = chat.end().await;
    let (took, bytes) = (begin.elapsed(), ended.text.len());
    assert!(
        ended.is_complete(),
        "{bytes} bytes in {took:?}, broken: {}",
        ended.broken
    );
    assert!(took > Duration::from_secs(120) && bytes > 2 * DEFAULT_CIRCUIT_BYTES);
    let path = consumer.path(provider.peer()).await;
    assert_eq!(path, Some(PathKind::Relayed));
    eprintln!(
        "a job over a relay was complete after {:.0} s and {bytes} bytes",
        took.as_secs_f64()
    );
}

type Event = fn() -> LocalBoxFuture<'static, ()>;

/// All events by name, the longest first.
const EVENTS: [(&str, Event); 6] = [
    ("sleep", || Box::pin(trade_goes_on_after_both_ends_slept())),
    ("long-job", || {
        Box::pin(a_job_over_a_relay_lasts_longer_than_two_minutes())
    }),
    ("relays", || {
        Box::pin(trade_goes_on_when_relays_are_killed_and_come_back())
    }),
    ("bootstrap", || {
        Box::pin(peers_that_know_each_other_need_no_bootstrap_nodes_also_after_restarts())
    }),
    ("provider-address", || {
        Box::pin(trade_goes_on_after_the_providers_router_gets_another_address())
    }),
    ("consumer-address", || {
        Box::pin(trade_goes_on_after_the_consumers_host_gets_another_address())
    }),
];

/// Those that `DEROUTER_LAB_ONLY` names (comma between), or all.
fn chosen() -> Vec<(&'static str, Event)> {
    let only = std::env::var("DEROUTER_LAB_ONLY").unwrap_or_default();
    let named = |name: &str| only.is_empty() || only.split(',').any(|wanted| wanted == name);
    EVENTS.into_iter().filter(|(name, _)| named(name)).collect()
}

/// Whether it went well; what went wrong was shown when it did.
async fn went_well(name: &'static str, event: Event) -> bool {
    let begin = Instant::now();
    let ended = AssertUnwindSafe(event()).catch_unwind().await;
    eprintln!("{name} took {:.0} s", begin.elapsed().as_secs_f64());
    ended.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trade_goes_on_through_everything_that_breaks_connections() {
    if Lab::skip() {
        return;
    }
    let events = futures::stream::iter(chosen());
    let ended = events
        .map(async |(name, event)| (name, went_well(name, event).await))
        .buffer_unordered(AT_A_TIME);
    let failed = ended.filter_map(async |(name, well)| (!well).then_some(name));
    let failed: Vec<&str> = failed.collect().await;
    assert!(failed.is_empty(), "these events failed: {failed:?}");
}
