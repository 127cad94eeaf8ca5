//! A gateway under mixed load, whose providers come and go, are killed and restarted, and have backends
//! that fail. One good provider lives all the time, at a higher price, so every request can be answered.
//!
//! An answer that breaks after it has begun can't be given by another provider. It is no failure of the
//! gateway when it ends with an error event and its provider was in trouble meanwhile; such answers are
//! told apart.

mod load;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use derouter_testkit::ledger;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::judge::{SHORTEST_MINUTES, Samples, course, judge, sample};
use load::Load;
use world::World;

/// Clients at once.
const CLIENTS: u64 = 64;

/// Memory is compared at rest: while clients come and go it swings with what runs. The rest is longer than a
/// provider keeps answers for consumers that may lack their ends (20 s).
const WORK: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_secs(30);

/// The end of a rest, in which samples are taken.
const SAMPLED: Duration = Duration::from_secs(5);

/// How often it is looked at all this.
const LOOK: Duration = Duration::from_millis(500);

/// Of all requests that were not cancelled, so many may fail.
const MAY_FAIL: f64 = 0.001;

/// Failures that are shown.
const SHOWN: usize = 20;

/// How long requests and bills are given to come to rest.
const SETTLE: Duration = Duration::from_secs(60);

/// Runs it. True when the gateway answered and nothing grows.
pub(crate) async fn soak(node: PathBuf, minutes: u64) -> bool {
    let mut world = World::start(&node).await;
    let load = Load::new(
        world.url(),
        Arc::clone(&world.troubles),
        world.restless_peers(),
    );
    let load = Arc::new(load);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).run(number));
    }
    let begin = Instant::now();
    let longest = Duration::from_secs(minutes * 60);
    let mut samples: [Samples; 2] = Default::default();
    let mut failed = 0;
    while begin.elapsed() < longest {
        let (cycle, at) = (WORK + REST, begin.elapsed());
        let of_cycle = Duration::from_secs(at.as_secs() % cycle.as_secs());
        let rests = of_cycle >= WORK;
        load.rest.store(rests, Ordering::Relaxed);
        if rests && of_cycle + SAMPLED >= cycle {
            let at = at.as_secs_f64() / 3600.0;
            for (node, samples) in [&world.consumer, &world.steady].iter().zip(&mut samples) {
                samples.push((at, sample(node)));
            }
        }
        world.trouble().await;
        let failures = load.counts.lock().unwrap().failures.len();
        if failures > failed {
            world.tell_attempts();
            failed = failures;
        }
        sleep(LOOK).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    let ended = tokio::time::timeout(SETTLE, async {
        while clients.join_next().await.is_some() {}
    });
    let hang = ended.await.is_err();
    world.calm().await;
    let good = tell(&load, longest, hang);
    println!(
        "{} attempts failed and were made good, in the last of its log",
        world.failed_attempts()
    );
    let agree = settled(&world).await;
    course("consumer", &samples[0]);
    course("provider", &samples[1]);
    let consumer = judge("consumer", &samples[0]);
    let provider = judge("provider", &samples[1]);
    println!("{}", world.told());
    let steady = consumer && provider;
    if !steady && minutes < SHORTEST_MINUTES {
        println!(
            "a run of less than {SHORTEST_MINUTES} minutes judges no growth: logs and caches still fill"
        );
    }
    good && agree && (steady || minutes < SHORTEST_MINUTES)
}

fn tell(load: &Load, longest: Duration, hang: bool) -> bool {
    let counts = load.counts.lock().unwrap();
    let failed = counts.failures.len();
    let judged = counts.answered + failed as u64;
    let share = failed as f64 / (judged.max(1)) as f64;
    println!(
        "{} requests ({:.1} a second): {} answered, {} cancelled, {} broke off with their providers, {failed} failed ({:.3} %)",
        counts.total(),
        counts.total() as f64 / longest.as_secs_f64(),
        counts.answered,
        counts.cancelled,
        counts.broke_off,
        share * 100.0
    );
    for (kind, many) in &counts.kinds {
        println!("  {kind:<18} {many}");
    }
    for failure in counts.failures.iter().take(SHOWN) {
        println!("failed: {failure}");
    }
    if hang {
        println!("requests hang");
    }
    !hang && judged > 0 && share <= MAY_FAIL
}

/// Every job of the gateway has ended, and the good provider has each signature of its own.
async fn settled(world: &World) -> bool {
    let (consumer, steady) = (world.consumer.rpc(), world.steady.rpc());
    let begin = Instant::now();
    loop {
        let bought = ledger::jobs_or_none(&consumer).await;
        let sold = ledger::jobs_or_none(&steady).await;
        let signed = |job: &&derouter_sdk::JobRecord| job.signature_confirmed_at_local.is_some();
        let open = bought
            .iter()
            .filter(|job| !signed(job) && job.reason.is_none())
            .count();
        let unended = sold
            .iter()
            .filter(|job| job.completed_at_sync.is_none() && job.reason.is_none())
            .count();
        let own = bought
            .iter()
            .filter(signed)
            .filter(|job| job.provider_peer_id.to_string() == world.steady_peer);
        let (ours, theirs) = (own.count(), sold.iter().filter(signed).count());
        if open == 0 && unended == 0 && ours == theirs && !bought.is_empty() {
            println!(
                "{} jobs on record, all ended; {ours} signed with the good provider",
                bought.len()
            );
            return true;
        }
        if begin.elapsed() > SETTLE {
            println!(
                "not at rest: {open} jobs open with the gateway, {unended} with the good provider, {ours} and {theirs} signatures"
            );
            for job in bought
                .iter()
                .filter(|job| !signed(job) && job.reason.is_none())
                .take(3)
            {
                println!("open: {job:?}");
            }
            return false;
        }
        sleep(Duration::from_secs(1)).await;
    }
}
