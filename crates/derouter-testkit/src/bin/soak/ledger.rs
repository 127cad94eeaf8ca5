//! Two nodes that trade at a steady pace: do their memory, their open files or their logs grow?

use std::path::PathBuf;
use std::time::{Duration, Instant};

use derouter_testkit::crash::run::Trading;
use tokio::time::sleep;

use crate::judge::{SHORTEST_MINUTES, Samples, course, judge, pause, sample};

/// Buyers at once: so many that the bounded memories of a node, of a few thousand jobs each, are full well
/// before it counts.
const CLIENTS: u64 = 64;

/// How long both ledgers are given to come to rest.
const SETTLE: Duration = Duration::from_secs(30);

/// Runs it. True when nothing grows and both ledgers agree.
pub(crate) async fn soak(node: PathBuf, minutes: u64) -> bool {
    let mut trading = Trading::new(&node);
    let Some(offer) = trading.open().await else {
        eprintln!("the nodes do not come up");
        return false;
    };
    let begin = Instant::now();
    let longest = Duration::from_secs(minutes * 60);
    let pause = pause(longest);
    trading.trade(&offer, minutes, CLIENTS);
    let mut samples: [Samples; 2] = Default::default();
    while begin.elapsed() < longest {
        sleep(pause).await;
        let at = begin.elapsed().as_secs_f64() / 3600.0;
        for (node, samples) in [&trading.consumer, &trading.provider]
            .iter()
            .zip(&mut samples)
        {
            samples.push((at, sample(node)));
        }
    }
    trading.close();
    let quiet = trading.settle(SETTLE).await;
    let findings = trading.compare().await;
    println!(
        "{} jobs in {minutes} minutes ({:.1} a second); at rest: {quiet}; {} violations",
        findings.jobs(),
        findings.jobs() as f64 / longest.as_secs_f64(),
        findings.violations.len()
    );
    course("consumer", &samples[0]);
    course("provider", &samples[1]);
    let consumer = judge("consumer", &samples[0]);
    let provider = judge("provider", &samples[1]);
    let steady = consumer && provider;
    if !steady && minutes < SHORTEST_MINUTES {
        println!(
            "a run of less than {SHORTEST_MINUTES} minutes judges no growth: logs and caches still fill"
        );
    }
    (steady || minutes < SHORTEST_MINUTES) && findings.violations.is_empty()
}
