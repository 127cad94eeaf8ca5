//! The node that is measured: a process of its own, so that its memory and processor time are its
//! own too. It answers each line on its standard input with one line of JSON.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use derouter_node::{NodeConfig, ProviderDetails};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::options::Wire;
use super::plain::PlainNode;
use super::usage::Sample;

/// What the node says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Where it listens.
    pub address: Option<String>,
    /// Connected peers.
    pub peers: u32,
    /// Providers whose announcement (0.2) it holds.
    pub announcements: u32,
    /// Providers whose offers are on its market.
    pub providers: usize,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
}

/// Runs the node until its standard input ends.
pub async fn serve(wire: Wire, directory: &Path, bootstrap: &[String]) {
    let bootstrap = bootstrap.iter();
    let bootstrap = bootstrap.map(|address| address.parse().expect("an address"));
    if wire == Wire::PlainHeartbeats {
        let node = PlainNode::start(&bootstrap.collect::<Vec<_>>()).await;
        return answer(async || node.status()).await;
    }
    let node = derouter_node::start(NodeConfig {
        keypair_path: directory.join("key"),
        database_path: directory.join("database.sqlite"),
        legacy_database_path: None,
        net: wire.net_options(bootstrap.collect()),
        provider: ProviderDetails::default(),
        rpc: None,
        store_payloads: false,
        retention: derouter_node::PayloadRetention::default(),
    })
    .await
    .expect("the node starts");
    let handle = node.handle();
    answer(async || {
        let network = handle.network().await.expect("the node answers");
        let providers = handle.active_providers().await.expect("the node answers");
        Status {
            address: network.listen.into_iter().next(),
            peers: network.peers,
            announcements: network.announcements,
            providers: providers.len(),
            bytes_in: network.bytes_in,
            bytes_out: network.bytes_out,
        }
    })
    .await;
    node.shutdown().await;
}

/// Answers each question with the status, until there are no more.
async fn answer(mut status: impl AsyncFnMut() -> Status) {
    let mut questions = questions();
    while questions.recv().await.is_some() {
        let status = status().await;
        let mut line = serde_json::to_vec(&status).expect("numbers");
        line.push(b'\n');
        let mut answers = std::io::stdout().lock();
        if answers.write_all(&line).is_err() || answers.flush().is_err() {
            return;
        }
    }
}

/// The lines of the standard input, read by a thread of their own.
fn questions() -> mpsc::Receiver<()> {
    let (sender, questions) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    questions
}

/// The process, from outside.
pub struct Subject {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// Its process id.
    pub pid: u32,
    _directory: tempfile::TempDir,
}

impl Subject {
    /// Starts it: this program once more.
    pub fn start(wire: Wire, bootstrap: &[String]) -> Self {
        let directory = tempfile::TempDir::with_prefix("derouter-sim-").expect("a directory");
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--subject", wire.name()])
            .arg(directory.path())
            .args(bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("this program starts once more");
        let answers = child.stdout.take().expect("it is piped");
        Self {
            questions: child.stdin.take().expect("it is piped"),
            answers: BufReader::new(answers).lines(),
            pid: child.id().expect("it runs"),
            child,
            _directory: directory,
        }
    }

    /// Asks it.
    pub async fn status(&mut self) -> Status {
        self.questions.write_all(b"?\n").await.expect("it listens");
        let line = self.answers.next_line().await.expect("it answers");
        serde_json::from_str(&line.expect("it runs")).expect("a status")
    }

    /// Bytes and processor time so far.
    pub async fn sample(&mut self) -> Sample {
        let status = self.status().await;
        Sample::new(status.bytes_in, status.bytes_out, self.pid)
    }

    /// Ends it.
    pub async fn stop(mut self) {
        drop(self.questions);
        let _ = self.child.wait().await;
    }
}
