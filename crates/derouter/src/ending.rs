//! The end of a node with its modules: it drains, tells how that goes, and stops.

use std::time::{Duration, SystemTime};

use derouter_node::{Left, RunningNode};
use tokio::time::{Instant, interval, timeout_at};

use crate::daemon::claim::Claim;
use crate::modules::RunningModules;
use crate::{supervisor, text};

/// How often it is told how the drain goes, when nothing changes.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How often a service manager is told that it goes on, and how much time it is asked for.
const EXTEND_EVERY: Duration = Duration::from_secs(1);
const EXTEND_BY: Duration = Duration::from_secs(15);

/// What a stop takes behind the drain, at the most: the modules (15 s) and the node (20 s).
const STOP_TIME: Duration = Duration::from_secs(40);

/// Takes the offers back, and lets what runs finish within `limit`.
pub(crate) async fn drain(
    node: &RunningNode,
    modules: &mut RunningModules,
    limit: Duration,
    claim: &Claim,
) {
    supervisor::stopping("taking the offers back");
    let deadline = Instant::now() + limit;
    node.begin_drain(limit).await;
    let finished = {
        let work = async {
            // What it signs at its end is to be delivered too.
            modules.finish_consumer(limit).await;
            timeout_at(deadline, node.drained()).await.is_ok()
        };
        tokio::select! {
            finished = work => finished,
            () = tell(node, deadline, claim) => false,
        }
    };
    let left = node.left();
    if !finished && left.jobs > 0 {
        tracing::warn!(
            jobs = left.jobs,
            "the time is up: jobs that still run are cut off"
        );
    }
}

/// Closes everything.
pub(crate) async fn close(node: RunningNode, modules: RunningModules) {
    supervisor::status("closing");
    supervisor::more_time(STOP_TIME);
    modules.shutdown().await;
    node.shutdown().await;
}

/// Tells how many jobs are left and until when. Never ends.
async fn tell(node: &RunningNode, deadline: Instant, claim: &Claim) {
    let until = text::utc_time(SystemTime::now() + deadline.duration_since(Instant::now()));
    let (mut ticks, mut told, mut told_at) = (interval(EXTEND_EVERY), None, Instant::now());
    loop {
        ticks.tick().await;
        supervisor::more_time(EXTEND_BY);
        let left = node.left();
        if told != Some(left) {
            claim.remaining(left, &until);
        }
        let again = told_at.elapsed() >= TELL_EVERY;
        if left.is_nothing() || (told == Some(left) && !again) {
            continue;
        }
        (told, told_at) = (Some(left), Instant::now());
        let Left { jobs, signatures } = left;
        supervisor::status(&format!(
            "finishing {jobs} jobs and {signatures} signatures, until {until}"
        ));
        tracing::info!(
            jobs,
            signatures,
            until,
            "finishing what runs; a second signal stops at once"
        );
    }
}
