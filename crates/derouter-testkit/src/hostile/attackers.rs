//! The attackers: a process of their own, behind all others in the queue for a processor, because they
//! stand for machines that have their own.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use derouter_net::Multiaddr;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use super::Attack;
use super::attack::Armed;
use super::ground::Machine;
use crate::process::Process;
use crate::wait::eventually;

/// The first argument of this program when it is to attack.
pub const ARGUMENT: &str = "--attack";
/// How often the attackers tell how far they are.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// The politest there is.
const NICE: i32 = 19;

/// How far attackers are.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Since they began.
    pub seconds: f64,
    /// Messages sent, connections made or substreams opened.
    pub done: u64,
    /// Connections that the nodes refused or closed.
    pub refused: u64,
}

impl Progress {
    /// What is done and refused in a second, from an earlier moment to this.
    pub fn rates_since(&self, earlier: &Progress) -> [f64; 2] {
        let seconds = (self.seconds - earlier.seconds).max(0.001);
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        [
            rate(earlier.done, self.done),
            rate(earlier.refused, self.refused),
        ]
    }
}

/// Attacks until it is killed; tells its progress on the standard output. `arguments` are those that
/// [`Attackers::start`] gave.
pub fn run(arguments: &[String]) -> Option<()> {
    let (attack, victims) = arguments.split_first()?;
    let armed = Arc::new(Armed::new(Attack::named(attack)?));
    let victims = victims.iter().map(|victim| victim.parse().ok());
    let victims = victims.collect::<Option<Vec<Multiaddr>>>()?;
    step_back();
    let runtime = Builder::new_multi_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let begin = Instant::now();
        armed.start(&victims, &CancellationToken::new());
        loop {
            let progress = Progress {
                seconds: begin.elapsed().as_secs_f64(),
                done: armed.done().done.load(Ordering::Relaxed),
                refused: armed.done().refused.load(Ordering::Relaxed),
            };
            let line = serde_json::to_string(&progress).expect("numbers");
            // Nobody listens any more: the bench was killed.
            if writeln!(std::io::stdout(), "{line}").is_err() {
                return;
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    });
    Some(())
}

/// Lets the nodes go first, where that is allowed. Before there are other threads, which take over what
/// this one has. Where sessions share the processors (autogroup), priorities count within a session
/// alone: in one of their own, attackers have a share beside that of all nodes.
fn step_back() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// The process, from outside. Dropping it ends the attack.
#[derive(Debug)]
pub struct Attackers {
    process: Process,
}

impl Attackers {
    /// Starts them on a machine, and waits until they are at it.
    pub async fn start(attack: Attack, machine: &Machine, victims: &[String]) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = machine.command(program);
        command.args([ARGUMENT, attack.name()]);
        command.args(victims);
        let attackers = Self {
            process: Process::spawn(attack.name(), command),
        };
        eventually("attackers that do something", async || {
            let progress = attackers.progress();
            (progress.done + progress.refused > 0).then_some(())
        })
        .await;
        attackers
    }

    /// How far they are.
    pub fn progress(&self) -> Progress {
        let lines = self.process.stdout();
        let last = lines.last();
        let progress = last.and_then(|line| serde_json::from_str(line).ok());
        progress.unwrap_or_default()
    }

    /// Ends them.
    pub async fn stop(self) {
        self.process.kill().await;
    }
}
