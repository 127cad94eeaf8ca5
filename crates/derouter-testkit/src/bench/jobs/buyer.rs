//! The process that buys, and that measures.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use derouter_sdk::{
    ConsumerCompletion, CreateJobError, JobEvent, JobFilter, JobId, JobKey, JobQuery, JobRecord,
    Node, OfferFilter, RowId, SnapshotId, UnixSeconds, Wei,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::cost::Cost;
use super::seller::Selling;
use super::{BYTES, PRICE, node, protocol};
use crate::wait::eventually;

/// Rows of a page, the most that a node gives.
const PAGE: u32 = 100;

/// How often it is looked whether all jobs are confirmed.
const LOOK: Duration = Duration::from_millis(5);

/// The pause before a creation that was answered with Busy is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The rest behind each job of the quiet round: long enough that its signature is confirmed and the disk
/// is idle, so that what is measured is what one user waits for.
const REST: Duration = Duration::from_millis(20);

/// How long the baseline takes, and the jobs before the first round, which are not counted.
const WARM: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Jobs under way at once, in each round.
    pub concurrency: Vec<usize>,
    /// How long each round creates jobs.
    pub round: Duration,
}

/// How long each part of a job took.
#[derive(Clone, Copy, Debug)]
struct Phases([Duration; 3]);

const PHASES: [&str; 3] = ["create and join", "answer", "sign"];

type SignedAt = Arc<Mutex<HashMap<JobId, Instant>>>;

struct Buyer {
    node: Arc<dyn Node>,
    offer: SnapshotId,
    signed: SignedAt,
    busy: AtomicU64,
}

impl Buyer {
    async fn job(&self) -> Phases {
        let begin = Instant::now();
        let key = self.create().await;
        let stream = self.node.open_job(&key).await;
        let mut stream = stream.expect("the job was joined when it was created");
        let created = begin.elapsed();
        let mut bytes = [7; BYTES];
        stream.write_all(&bytes).await.expect("the pipe is open");
        stream.flush().await.expect("the pipe is open");
        stream.read_exact(&mut bytes).await.expect("an answer");
        let answered = begin.elapsed();
        let at = bytes.first_chunk().copied().unwrap_or_default();
        let completion = ConsumerCompletion {
            public_payload: "{}".into(),
            private_payload: None,
            balance_delta: Some(Wei::from_wei(PRICE)),
            completed_at_sync: UnixSeconds(u64::from_be_bytes(at)),
        };
        let signed = self.node.complete_job(&key, completion).await;
        signed.expect("the job is open");
        let all = begin.elapsed();
        let mut times = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        times.insert(key.job_id, Instant::now());
        Phases([created, answered - created, all - answered])
    }

    /// A provider answers so many calls of one peer at once, and the others with Busy: then again, as a
    /// module would.
    async fn create(&self) -> JobKey {
        loop {
            match self.node.create_job(self.offer, None).await {
                Ok(key) => return key,
                Err(CreateJobError::ProviderBusy) => {
                    self.busy.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(error) => panic!("a job can't be created: {error}"),
            }
        }
    }

    async fn page(&self, after: Option<RowId>) -> Vec<JobRecord> {
        let query = JobQuery {
            after,
            limit: PAGE,
            ..JobQuery::default()
        };
        self.node.jobs(&query).await.expect("the node answers")
    }

    /// The last row, walking on from one.
    async fn last_row(&self, mut after: Option<RowId>) -> Option<RowId> {
        while let Some(last) = self.page(after).await.last() {
            after = Some(last.job_rowid);
        }
        after
    }

    /// Waits until all jobs behind a row are confirmed.
    async fn all_confirmed(&self, mut after: Option<RowId>) {
        loop {
            let page = self.page(after).await;
            if page.is_empty() {
                return;
            }
            let done = page.iter();
            let done = done.take_while(|job| job.signature_confirmed_at_local.is_some());
            match done.last() {
                Some(last) => after = Some(last.job_rowid),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

/// Notes how long confirmations take, as a watcher of the node's jobs sees them.
async fn watch(node: Arc<dyn Node>, signed: SignedAt, took: Arc<Mutex<Vec<Duration>>>) {
    let Ok(mut events) = node.watch_jobs(JobFilter::default()).await else {
        return;
    };
    while let Some(event) = events.next().await {
        let JobEvent::Updated(job) = event else {
            continue;
        };
        if job.signature_confirmed_at_local.is_none() {
            continue;
        }
        let mut signed = signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = signed.remove(&job.provider_job_id) {
            let mut took = took.lock().unwrap_or_else(PoisonError::into_inner);
            took.push(at.elapsed());
        }
    }
}

fn percentile(times: &mut [Duration], part: usize) -> f64 {
    times.sort_unstable();
    let place = (times.len() * part / 100).min(times.len().saturating_sub(1));
    times.get(place).map_or(0.0, Duration::as_secs_f64) * 1e3
}

fn spread(times: &mut [Duration]) -> String {
    format!(
        "{:.2} / {:.2} ms",
        percentile(times, 50),
        percentile(times, 99)
    )
}

/// Buys from the seller and says what it took, line by line.
pub async fn buy(directory: &Path, seller: &Selling, options: &Options, say: impl Fn(&str)) {
    let running = node(directory, std::slice::from_ref(&seller.address)).await;
    let handle = running.handle();
    let filter = OfferFilter {
        protocol_ids: Some(vec![protocol()]),
        ..OfferFilter::default()
    };
    let offer = eventually("the offer", async || {
        handle.active_offers(&filter).await.ok()?.pop()
    });
    let buyer = Arc::new(Buyer {
        offer: offer.await.snapshot_id,
        node: Arc::clone(&handle),
        signed: SignedAt::default(),
        busy: AtomicU64::new(0),
    });
    let confirmed = Arc::new(Mutex::new(Vec::new()));
    let watching = watch(handle, Arc::clone(&buyer.signed), Arc::clone(&confirmed));
    let watching = tokio::spawn(watching);
    jobs(&buyer, Pace::full(16), WARM).await;
    buyer.all_confirmed(None).await;
    let full = options.concurrency.iter().copied().map(Pace::full);
    for pace in std::iter::once(Pace::QUIET).chain(full) {
        baseline(seller, pace.many, &say).await;
        confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        round(&buyer, seller, pace, options.round, &say).await;
        let mut took = confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        say(&format!("  {:<16} {}", "confirm", spread(&mut took)));
    }
    watching.abort();
    running.shutdown().await;
}

/// How jobs follow each other.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Jobs under way at once.
    many: usize,
    /// Between a job and the next.
    rest: Duration,
}

impl Pace {
    const QUIET: Self = Self {
        many: 1,
        rest: REST,
    };

    fn full(many: usize) -> Self {
        Self {
            many,
            rest: Duration::ZERO,
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rest.as_millis() {
            0 => write!(f, "{} at once", self.many),
            rest => write!(f, "{} at once, {rest} ms of rest behind each", self.many),
        }
    }
}

async fn round(
    buyer: &Arc<Buyer>,
    seller: &Selling,
    pace: Pace,
    longest: Duration,
    say: &impl Fn(&str),
) {
    let after = buyer.last_row(None).await;
    let own = std::process::id();
    let before = [Cost::of(own), Cost::of(seller.pid)];
    let begin = Instant::now();
    let done = jobs(buyer, pace, longest).await;
    buyer.all_confirmed(after).await;
    let took = begin.elapsed();
    let cost = [Cost::of(own), Cost::of(seller.pid)];
    let count = done.len();
    let rate = count as f64 / took.as_secs_f64();
    let busy = buyer.busy.swap(0, Ordering::Relaxed);
    if busy > 0 {
        say(&format!("  (the provider answered Busy {busy} times)"));
    }
    say(&format!(
        "jobs, {pace}: {rate:.0} a second ({count} in {:.1} s)",
        took.as_secs_f64()
    ));
    for (name, (before, now)) in ["consumer", "provider"]
        .iter()
        .zip(before.iter().zip(&cost))
    {
        say(&format!("  {name:<16} {}", now.since(before).each(count)));
    }
    for (place, name) in PHASES.iter().enumerate() {
        let times = done
            .iter()
            .filter_map(|phases| phases.0.get(place).copied());
        say(&format!(
            "  {name:<16} {}",
            spread(&mut times.collect::<Vec<_>>())
        ));
    }
}

async fn jobs(buyer: &Arc<Buyer>, pace: Pace, longest: Duration) -> Vec<Phases> {
    let end = Instant::now() + longest;
    let mut buying = JoinSet::new();
    for _ in 0..pace.many {
        let buyer = Arc::clone(buyer);
        buying.spawn(async move {
            let mut done = Vec::new();
            while Instant::now() < end {
                done.push(buyer.job().await);
                if !pace.rest.is_zero() {
                    tokio::time::sleep(pace.rest).await;
                }
            }
            done
        });
    }
    buying.join_all().await.into_iter().flatten().collect()
}

/// Round trips of the same bytes over plain TCP.
async fn baseline(seller: &Selling, many: usize, say: &impl Fn(&str)) {
    let end = Instant::now() + WARM;
    let before = [Cost::of(std::process::id()), Cost::of(seller.pid)];
    let mut asking = JoinSet::new();
    for _ in 0..many {
        let port = seller.echo_port;
        asking.spawn(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await;
            let mut stream = stream.expect("the echo listens");
            let _ = stream.set_nodelay(true);
            let mut bytes = [7; BYTES];
            let mut count = 0_usize;
            while Instant::now() < end {
                stream.write_all(&bytes).await.expect("the echo lives");
                stream.read_exact(&mut bytes).await.expect("the echo lives");
                count += 1;
            }
            count
        });
    }
    let count: usize = asking.join_all().await.into_iter().sum();
    let used = [Cost::of(std::process::id()), Cost::of(seller.pid)];
    let rate = count as f64 / WARM.as_secs_f64();
    let each = |place: usize| {
        let since = used[place].since(&before[place]);
        (since.user + since.kernel).as_secs_f64() * 1e6 / count.max(1) as f64
    };
    say(&format!(
        "plain TCP echo, {many} at once: {rate:.0} a second; {:.0} us and {:.0} us of processor each",
        each(0),
        each(1)
    ));
}
