//! Runs with disks that fail: errors at named points of the store, a disk that is full for a while, and
//! one that has become read-only when the node starts again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use super::node::{CrashNode, own_port};
use super::points::Side;
use super::run::{CLIENTS, Ran, Trading, finish};
use crate::home::NodeConfig;

/// The errors that the points of the store can return.
const ERRORS: [&str; 3] = ["eio", "enospc", "erofs"];

/// The points of the store that can fail.
const POINTS: [&str; 3] = ["store::begin", "store::commit", "store::sync"];

/// The size of the small disk: a database, its log, and little more.
const DISK: &str = "size=12m";

/// How long a disk is full.
const FULL: Duration = Duration::from_millis(1500);

/// What a node says when its disk has failed.
const FAILURES: [&str; 2] = ["database transaction lost", "the disk did not take"];

/// How long both ledgers are given to come to rest.
const SETTLE: Duration = Duration::from_secs(40);

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// So many errors at a point of the store, which it passed so often before.
    Error {
        /// The point.
        point: &'static str,
        /// The error.
        error: &'static str,
        /// How often it is passed first.
        passed: u32,
        /// How often it fails.
        times: u32,
    },
    /// It is full for a while.
    Full,
    /// It is read-only when the node starts again, and not any more at the start after that.
    ReadOnly,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// From which everything follows.
    pub seed: u64,
    /// Whose disk.
    pub side: Side,
    /// What is wrong with it.
    pub trouble: Trouble,
    /// Whether the node is killed while its disk fails.
    pub killed: bool,
}

impl DiskPlan {
    /// How many seeds in a row name every trouble on each side once.
    pub const CYCLE: u64 = 22;

    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let slot = usize::try_from(seed % Self::CYCLE).unwrap_or_default();
        let (side, kind) = (Side::BOTH[slot % 2], slot / 2);
        let trouble = match kind {
            0 => Trouble::Full,
            1 => Trouble::ReadOnly,
            kind => Trouble::Error {
                point: POINTS[(kind - 2) / ERRORS.len()],
                error: ERRORS[(kind - 2) % ERRORS.len()],
                passed: match POINTS[(kind - 2) / ERRORS.len()] {
                    "store::sync" => random.random_range(1..10),
                    _ => random.random_range(15..35),
                },
                times: random.random_range(1..30),
            },
        };
        Self {
            seed,
            side,
            trouble,
            killed: random.random_bool(0.3),
        }
    }

    /// In a few words.
    pub fn title(&self) -> String {
        let what = match self.trouble {
            Trouble::Error {
                point,
                error,
                passed,
                times,
            } => format!("{error} at {point} +{passed}, {times} times"),
            Trouble::Full => "disk full for a while".to_owned(),
            Trouble::ReadOnly => "disk read-only at the next start".to_owned(),
        };
        let killed = if self.killed { ", killed" } else { "" };
        format!("{}: {what}{killed}", self.side.name())
    }

    fn needs_disk(&self) -> bool {
        !matches!(self.trouble, Trouble::Error { .. })
    }
}

/// A small disk in memory. Needs root.
#[derive(Debug)]
pub struct SmallDisk {
    directory: TempDir,
}

fn mount(arguments: &[&str]) -> bool {
    let output = Command::new("mount").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

impl SmallDisk {
    /// `None` where none can be mounted.
    pub fn new() -> Option<Self> {
        let directory = TempDir::with_prefix("derouter-disk-").ok()?;
        let path = directory.path().to_str()?;
        let mounted = mount(&["-t", "tmpfs", "-o", DISK, "derouter-test", path]);
        mounted.then_some(Self { directory })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Leaves nothing free.
    pub fn fill(&self) {
        let Ok(mut file) = File::create(self.ballast()) else {
            return;
        };
        let block = vec![0; 4096];
        while file.write_all(&block).is_ok() {}
    }

    /// Gives the space back.
    pub fn empty(&self) {
        let _ = fs::remove_file(self.ballast());
    }

    /// Lets nobody write, or again everybody. False when something is open for writing.
    pub fn set_read_only(&self, read_only: bool) -> bool {
        let options = if read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        let path = self.path().to_string_lossy();
        mount(&["-o", options, &path])
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

fn nodes(binary: &Path, side: Side, disk: Option<&SmallDisk>) -> Trading {
    let listen = format!("/ip4/127.0.0.1/tcp/{}", own_port());
    let node = |own: Side, config: NodeConfig| {
        let data = disk.filter(|_| own == side);
        let data = data.map(|disk| disk.path().join("data").to_string_lossy().into_owned());
        let config = match data {
            Some(data) => config.with("data_dir", data),
            None => config,
        };
        CrashNode::new(own, binary, config)
    };
    let selling = NodeConfig::default()
        .with("provider", json!({"name": "crash"}))
        .with("listen", json!([listen]));
    Trading::of(
        node(Side::Consumer, NodeConfig::default()),
        node(Side::Provider, selling),
    )
}

/// Runs a plan; `None` where a small disk can't be made.
pub async fn run(binary: &Path, plan: &DiskPlan, keep: &Path) -> Option<Ran> {
    let begin = Instant::now();
    let disk = match plan.needs_disk() {
        true => Some(SmallDisk::new()?),
        false => None,
    };
    let mut trading = nodes(binary, plan.side, disk.as_ref());
    let failed = fail(&mut trading, plan, disk.as_ref()).await;
    let what = (plan.title(), plan.seed, begin);
    Some(finish(&mut trading, what, failed, SETTLE, keep).await)
}

/// Trades while the disk fails, and a little afterwards. Whether it failed as planned.
async fn fail(trading: &mut Trading, plan: &DiskPlan, disk: Option<&SmallDisk>) -> bool {
    if let Trouble::Error {
        point,
        error,
        passed,
        times,
    } = plan.trouble
    {
        let setting = format!("{point}={passed}*off->{times}*return({error})");
        trading.node(plan.side).arm(&setting);
    }
    let offer = match trading.open().await {
        Some(offer) => offer,
        None => {
            trading.revive().await;
            trading.open().await.expect("nothing ends a node any more")
        }
    };
    trading.trade(&offer, plan.seed, CLIENTS);
    sleep(Duration::from_millis(800)).await;
    let mut failed = true;
    match (plan.trouble, disk) {
        (Trouble::Full, Some(disk)) => {
            disk.fill();
            sleep(FULL).await;
        }
        (Trouble::ReadOnly, Some(disk)) => {
            let node = trading.node(plan.side);
            node.kill().await;
            failed = disk.set_read_only(true) && !node.start().await;
            disk.set_read_only(false);
        }
        _ => sleep(FULL).await,
    }
    trading.note_confirmed().await;
    if plan.killed {
        trading.node(plan.side).kill().await;
    }
    if let Some(disk) = disk {
        disk.empty();
    }
    trading.revive().await;
    sleep(Duration::from_millis(1000)).await;
    let lost = |line: &str| FAILURES.iter().any(|failure| line.contains(failure));
    let log = trading.node(plan.side).log();
    failed && (plan.trouble == Trouble::ReadOnly || log.lines().any(lost))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_cycle_of_seeds_has_every_trouble_on_each_side() {
        let kind = |plan: &DiskPlan| match plan.trouble {
            Trouble::Error { point, error, .. } => format!("{point} {error}"),
            other => format!("{other:?}"),
        };
        let plans = (0..DiskPlan::CYCLE).map(DiskPlan::of);
        let kinds: HashSet<_> = plans.map(|plan| (plan.side, kind(&plan))).collect();
        assert_eq!(kinds.len(), 22);
    }
}
