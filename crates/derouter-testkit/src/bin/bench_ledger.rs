//! `cargo xtask bench ledger`, which builds and starts it: a database of many jobs, made through the
//! store, then asked, and started on by a real node.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use derouter_sdk::wire::rpc::record::FailureReason;
use derouter_sdk::{
    JobId, JobKey, OfferId, PeerId, ProtocolId, RowId, SnapshotId, UnixSeconds, Wei,
};
use derouter_store::market::job::{Delivery, Outcome, Presented, Stage};
use derouter_store::market::{Job, JobChange, Role};
use derouter_store::{Durability, Idle, JobPage, NewJob, Store};
use derouter_testkit::measure::{memory_bytes, peak_memory_bytes};
use derouter_testkit::sim::usage::processor_time;
use derouter_testkit::{NodeConfig, NodeHome};
use derouter_wire::Currency;
use derouter_wire::job::JobWire;
use derouter_wire::jobs::FailureCause;
use derouter_wire::reqres::ConfirmJobResult;
use futures::StreamExt;
use libp2p::identity::Keypair;

const USAGE: &str = "\
Usage: bench_ledger --node <derouter binary> [--jobs N] [--payload-bytes N]
  --jobs N            jobs in the database (1000000); half sold, half bought
  --payload-bytes N   bytes of stored request of each job (0: none, as by default)
";

/// Steps that wait for the store at once, as many as one transaction takes.
const TOGETHER: usize = 256;
/// Others that this node trades with.
const OTHERS: u64 = 100;
/// How often each question is asked.
const TIMES: usize = 20;
/// When the first job was made: each second brings ten.
const FIRST: u64 = 1_750_000_000;
const PROTOCOL: &str = "openai:0.1";

struct Options {
    node: PathBuf,
    jobs: u64,
    payload_bytes: usize,
}

fn options(arguments: &[String]) -> Option<Options> {
    let mut options = Options {
        node: PathBuf::new(),
        jobs: 1_000_000,
        payload_bytes: 0,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let value = arguments.next()?;
        match argument.as_str() {
            "--node" => options.node = value.into(),
            "--jobs" => options.jobs = value.parse().ok()?,
            "--payload-bytes" => options.payload_bytes = value.parse().ok()?,
            _ => return None,
        }
    }
    (!options.node.as_os_str().is_empty()).then_some(options)
}

/// Who trades: this node and others, each with what it offers.
struct Traders {
    own: Keypair,
    others: Vec<Keypair>,
    own_offer: SnapshotId,
    offers: Vec<SnapshotId>,
}

impl Traders {
    async fn new(store: &Store, own: Keypair) -> Self {
        let own_offer = offer(store, own.public().to_peer_id()).await;
        let others: Vec<Keypair> = (0..OTHERS).map(|_| Keypair::generate_ed25519()).collect();
        let mut offers = Vec::new();
        for other in &others {
            offers.push(offer(store, other.public().to_peer_id()).await);
        }
        Self {
            own,
            others,
            own_offer,
            offers,
        }
    }
}

async fn offer(store: &Store, provider: PeerId) -> SnapshotId {
    let payload = r#"{"model_id":"llama3.2","context_size":131072,"input_token_price":{"$pol":"0.1"},"output_token_price":{"$pol":"0.4"}}"#;
    let protocol = ProtocolId::new(PROTOCOL).expect("a constant");
    let name = OfferId::new("llama").expect("a constant");
    let made = store.snapshot_ids(provider, vec![(protocol, name, payload.to_owned())]);
    *made.await.expect("the store works").first().expect("one")
}

/// How a job ends. Of a thousand: 30 fail, 10 wait for a signature or delivery, one runs.
#[derive(Clone, Copy)]
enum Fate {
    Failed,
    Waiting,
    Open,
    Confirmed,
}

fn fate(number: u64) -> Fate {
    match number / 2 % 1000 {
        0 if number < 200_000 => Fate::Open,
        1..=30 => Fate::Failed,
        // Nearly all signatures are delivered at once; providers wait for more.
        31..=40 if number.is_multiple_of(2) || number < 20_000 => Fate::Waiting,
        _ => Fate::Confirmed,
    }
}

async fn job(store: &Store, traders: &Traders, number: u64, payload_bytes: usize) {
    let sold = number.is_multiple_of(2);
    let other = usize::try_from(number / 2 % OTHERS).expect("under 100");
    let other_key = &traders.others[other];
    let (own, peer) = (
        traders.own.public().to_peer_id(),
        other_key.public().to_peer_id(),
    );
    let (role, provider, consumer) = match sold {
        true => (Role::Provider, own, peer),
        false => (Role::Consumer, peer, own),
    };
    let key = JobKey {
        provider,
        job_id: JobId::new(format!("018f3a5e-1111-4222-8333-{number:012}")).expect("short"),
    };
    let at = UnixSeconds(FIRST + number / 10);
    let new = NewJob {
        role,
        key: key.clone(),
        consumer,
        snapshot_id: if sold {
            traders.own_offer
        } else {
            traders.offers[other]
        },
        currency: Currency::Pol,
        job_args: (payload_bytes > 0).then(|| "x".repeat(payload_bytes)),
        created_at_sync: at,
        created_at_local: at,
        wire: JobWire::V0_1,
        stage: Stage::Accepted,
    };
    store
        .insert_job(new, Durability::Wal)
        .await
        .expect("a new job");
    let signer = if sold {
        other_key.clone()
    } else {
        traders.own.clone()
    };
    let fate = fate(number);
    if !matches!(fate, Fate::Open) {
        let step = move |job: &Job| end(job, fate, &signer, at);
        let ended = store.update_job(role, &key, Durability::Wal, step).await;
        ended.expect("the store works").expect("an open job ends");
    }
    if let Fate::Confirmed = fate {
        let signer = if sold {
            other_key.clone()
        } else {
            traders.own.clone()
        };
        let step = move |job: &Job| confirm(job, &signer, at);
        let confirmed = store.update_job(role, &key, Durability::Wal, step).await;
        confirmed
            .expect("the store works")
            .expect("it is confirmed");
    }
}

fn end(job: &Job, fate: Fate, signer: &Keypair, at: UnixSeconds) -> Option<JobChange> {
    let outcome = Outcome {
        public_payload: r#"{"request":{"model":"llama3.2"},"response":{"usage":{"prompt_tokens":120,"completion_tokens":480}}}"#.into(),
        balance_delta: Some(Wei::from_wei(204_000_000_000_000)),
        completed_at_sync: at,
        completed_at_local: at,
    };
    let failure = FailureReason {
        reason: "the backend did not answer".into(),
        reason_class: None,
    };
    match (fate, job.role) {
        (Fate::Failed, _) => job.fail(FailureCause::ConsumerGaveUp, failure, at).ok(),
        (_, Role::Provider) => job.complete_as_provider(outcome, None, None).ok(),
        (_, Role::Consumer) => {
            let signature = job.outcome_to_hash(&outcome).hash().sign(signer)?;
            job.sign_as_consumer(outcome, signature, None).ok()
        }
    }
}

fn confirm(job: &Job, signer: &Keypair, at: UnixSeconds) -> Option<JobChange> {
    match job.role {
        Role::Consumer => job.delivered(Delivery::Answered(ConfirmJobResult::Ok), at),
        Role::Provider => {
            let hash = job.hash()?;
            let key = signer.public().encode_protobuf();
            let signature = hash.sign(signer)?;
            let presented = Presented {
                asker: &job.consumer,
                hash: &hash.0,
                signature: &signature,
            };
            job.confirm(presented, &key, at).ok()
        }
    }
}

async fn fill(path: &Path, own: Keypair, options: &Options) -> PeerId {
    let store = Store::open(path).expect("the node left its database");
    let traders = Traders::new(&store, own).await;
    let begin = Instant::now();
    let (store_ref, traders_ref) = (&store, &traders);
    futures::stream::iter(0..options.jobs)
        .for_each_concurrent(TOGETHER, |number| {
            job(store_ref, traders_ref, number, options.payload_bytes)
        })
        .await;
    let seconds = begin.elapsed().as_secs_f64();
    store.close().await.expect("the store closes");
    let megabytes = std::fs::metadata(path).map_or(0, |file| file.len()) / 1_000_000;
    println!("{} jobs in {seconds:.0} s, {megabytes} MB", options.jobs);
    traders.others[0].public().to_peer_id()
}

/// Asks the same several times, and tells the median and the longest.
async fn ask<T>(name: &str, mut question: impl AsyncFnMut() -> T) {
    let mut took = Vec::new();
    for _ in 0..TIMES {
        let begin = Instant::now();
        let _ = question().await;
        took.push(begin.elapsed());
    }
    took.sort();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    println!(
        "{name:<58} {:>9.2} {:>9.2} ms",
        ms(took.get(TIMES / 2)),
        ms(took.last())
    );
}

async fn questions(path: &Path, own: PeerId, other: PeerId, jobs: u64) {
    let begin = Instant::now();
    let store = Store::open(path).expect("it was closed");
    println!("open: {:.1} ms", begin.elapsed().as_secs_f64() * 1000.0);
    println!("{:<58} {:>9} {:>9}", "question", "median", "longest");
    let protocol = || Some(vec![ProtocolId::new(PROTOCOL).expect("a constant")]);
    let none = || Some(vec![ProtocolId::new("another").expect("a constant")]);
    let page = |after: u64| JobPage {
        after: Some(RowId(after)),
        limit: 100,
        ..JobPage::default()
    };
    let middle = jobs / 2;
    let many = Some(vec![own, other]);
    let own = Some(vec![own]);
    let other = Some(vec![other]);
    let pages = [
        ("page: first", page(0)),
        ("page: in the middle", page(middle)),
        (
            "page: by protocol, in the middle",
            JobPage {
                protocol_ids: protocol(),
                ..page(middle)
            },
        ),
        (
            "page: by protocol that no job has",
            JobPage {
                protocol_ids: none(),
                ..page(0)
            },
        ),
        (
            "page: this node as consumer, by protocol",
            JobPage {
                consumers: own.clone(),
                protocol_ids: protocol(),
                ..page(middle)
            },
        ),
        (
            "page: this node as consumer, protocol that no job has",
            JobPage {
                consumers: own.clone(),
                protocol_ids: none(),
                ..page(0)
            },
        ),
        (
            "page: one other provider",
            JobPage {
                providers: other.clone(),
                ..page(middle)
            },
        ),
        (
            "page: this node as provider, to one consumer",
            JobPage {
                providers: own.clone(),
                consumers: other,
                ..page(middle)
            },
        ),
        (
            "page: two providers",
            JobPage {
                providers: many,
                ..page(middle)
            },
        ),
    ];
    for (name, page) in pages {
        ask(name, async || {
            store.jobs_page(page.clone()).await.expect("a page")
        })
        .await;
    }
    let key = store.jobs_page(page(middle)).await.expect("a page");
    let key = key.first().expect("a job").clone();
    ask("one job", async || store.job(key.role, &key.key).await).await;
    ask("signatures to deliver: a page", async || {
        store.jobs_with_news(100, None).await
    })
    .await;
    ask("start: unsigned debts", async || {
        store.unsigned_debts().await.expect("debts")
    })
    .await;
    ask("start: running jobs given up", async || {
        store
            .fail_open_provided(FailureCause::ProviderStopped, "bench", UnixSeconds(1))
            .await
    })
    .await;
    ask("hourly: what may be forgotten of offers", async || {
        store
            .forget_idle(Idle {
                up_to: SnapshotId(1000),
                ..Idle::default()
            })
            .await
    })
    .await;
    ask("hourly: 4096 payloads sized", async || {
        store.payload_sizes(None, u64::MAX).await
    })
    .await;
    store.close().await.expect("the store closes");
}

async fn start(name: &str, home: &NodeHome, node: &Path) {
    for _ in 0..3 {
        let begin = Instant::now();
        let process = home.start(node).await;
        let ready = begin.elapsed();
        let pid = process.process().pid();
        let at_ready = memory_bytes(pid);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let mib = |bytes: u64| bytes / (1 << 20);
        println!(
            "{name}: ready after {:.0} ms; memory {} MiB then, {} MiB after 10 s, {} MiB at most; {:.1} s of processor",
            ready.as_secs_f64() * 1000.0,
            mib(at_ready),
            mib(memory_bytes(pid)),
            mib(peak_memory_bytes(pid)),
            processor_time(pid).as_secs_f64(),
        );
        process.terminate().await;
    }
}

async fn command(node: &Path, database: &Path, arguments: &[&str]) {
    let mut all = vec!["db"];
    all.extend(arguments);
    let database = database.to_string_lossy();
    all.extend(["--database", &database]);
    let begin = Instant::now();
    let mut process = tokio::process::Command::new(node);
    let status = process
        .args(&all)
        .stdout(std::process::Stdio::null())
        .status();
    let status = status.await.expect("the binary starts");
    println!(
        "derouter db {}: {:.1} s, {status}",
        arguments.join(" "),
        begin.elapsed().as_secs_f64()
    );
}

async fn bench(options: &Options) {
    let home = NodeHome::new("ledger", &NodeConfig::default());
    // Makes the key and the database.
    home.start(&options.node).await.terminate().await;
    let key = std::fs::read(home.data_dir().join("keypair.bin")).expect("the node made a key");
    let own = Keypair::from_protobuf_encoding(&key).expect("a key");
    let id = own.public().to_peer_id();
    let database = home.data_dir().join("derouter.sqlite");
    let other = fill(&database, own, options).await;
    start(
        "node, first start given up jobs included",
        &home,
        &options.node,
    )
    .await;
    questions(&database, id, other, options.jobs).await;
    home.configure(&NodeConfig::default().consumes());
    start("node with the gateway", &home, &options.node).await;
    let copy = home.path().join("copy.sqlite");
    for arguments in [
        &["check", "--quick"][..],
        &["check"],
        &["backup", &copy.to_string_lossy()],
        &["export"],
        &["vacuum"],
    ] {
        command(&options.node, &database, arguments).await;
    }
    println!(
        "load: {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default()
    );
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(options) = options(&arguments) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be made");
    runtime.block_on(bench(&options));
    ExitCode::SUCCESS
}
