//! Processes: started, listened to, stopped in every way there is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::home::NodeHome;
use crate::measure;
use crate::wait::{DEADLINE, eventually};

/// Lines of output kept of each process; the oldest go first.
const KEPT_LINES: usize = 10_000;

/// Lines shown when a test fails.
const SHOWN_LINES: usize = 200;

/// How a process ended, and all that it said.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Stdout,
    Stderr,
}

type Lines = Arc<Mutex<VecDeque<(Source, String)>>>;

/// A process with its output kept. Dropping it kills it, and shows its output when the test is
/// failing.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: u32,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
}

fn keep(lines: &Lines, source: Source, line: String) {
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() >= KEPT_LINES {
        lines.pop_front();
    }
    lines.push_back((source, line));
}

async fn read_lines(reader: impl AsyncRead + Unpin, source: Source, lines: Lines) {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while let Ok(length) = reader.read_until(b'\n', &mut line).await {
        if length == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&line);
        keep(&lines, source, text.trim_end().to_owned());
        line.clear();
    }
}

impl Process {
    /// Starts `command`; `name` is what its output is shown under.
    pub fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{name} can't be started: {error}; {command:?}"),
        };
        let pid = child.id().expect("a child that was not awaited has an id");
        let lines = Lines::default();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let readers = vec![
            tokio::spawn(read_lines(stdout, Source::Stdout, Arc::clone(&lines))),
            tokio::spawn(read_lines(stderr, Source::Stderr, Arc::clone(&lines))),
        ];
        Self {
            name: name.to_owned(),
            child,
            pid,
            lines,
            readers,
        }
    }

    /// Starts `binary` with `arguments`.
    pub fn run(name: &str, binary: impl AsRef<Path>, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary.as_ref());
        command.args(arguments);
        Self::spawn(name, command)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn said(&self, source: Source) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let own = lines.iter().filter(|(from, _)| *from == source);
        own.map(|(_, line)| line.clone()).collect()
    }

    /// The lines of its standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.said(Source::Stdout)
    }

    /// The lines of its standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.said(Source::Stderr)
    }

    /// All of its output so far, as one text.
    pub fn output(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
        all.join("\n")
    }

    /// Waits for a line of output, on either stream, that `pick` makes something of. Panics when
    /// the process ends first, or at the deadline.
    pub async fn wait_line<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let lines = Arc::clone(&self.lines);
        let (name, child) = (&self.name, &mut self.child);
        let what_of = format!("{what} from {name}");
        eventually(&what_of, async || {
            // Before the lines are looked at: an ended process says nothing new.
            let ended = child.try_wait().ok().flatten();
            let found = {
                let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.iter().find_map(|(_, line)| pick(line))
            };
            if found.is_none()
                && let Some(status) = ended
            {
                panic!("{name} ended ({status}) before {what}");
            }
            found
        })
        .await
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().ok().flatten().is_some()
    }

    fn signal(&self, signal: Signal) {
        let raw = i32::try_from(self.pid).expect("a process id fits");
        let pid = Pid::from_raw(raw).expect("a process id is positive");
        if let Err(error) = kill_process(pid, signal) {
            panic!("{} can't be signalled: {error}", self.name);
        }
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Asks it to end, as a service manager does.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Stops it in its tracks (SIGSTOP): its sockets stay open, and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a child can be killed");
    }

    /// Waits until it ends by itself, and panics when it does not in time.
    pub async fn exit(self) -> Exit {
        self.exit_within(DEADLINE).await
    }

    /// Waits until it ends by itself within `limit`.
    pub async fn exit_within(mut self, limit: Duration) -> Exit {
        let status = match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => status.expect("a child can be awaited"),
            Err(_) => panic!("{} did not end within {limit:?}", self.name),
        };
        for reader in std::mem::take(&mut self.readers) {
            // A grandchild may hold the pipe; what came so far counts.
            let _ = tokio::time::timeout(Duration::from_secs(1), reader).await;
        }
        Exit {
            code: status.code(),
            stdout: self.stdout().join("\n"),
            stderr: self.stderr().join("\n"),
        }
    }

    /// Its resident memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        measure::memory_bytes(self.pid)
    }

    /// The most resident memory that it ever had, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        measure::peak_memory_bytes(self.pid)
    }

    /// How many files and sockets it has open.
    pub fn open_files(&self) -> usize {
        measure::open_files(self.pid)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = lines.len().saturating_sub(SHOWN_LINES);
        eprintln!("---- output of {} ({hidden} lines not shown)", self.name);
        for (_, line) in lines.iter().skip(hidden) {
            eprintln!("{line}");
        }
        eprintln!("---- end of {}", self.name);
    }
}

/// The line that `derouter run --ready-json` prints on its standard output once it serves.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// Always `ready`.
    pub event: String,
    /// The node's peer id, base58.
    pub peer_id: String,
    /// Where it listens for peers: multiaddrs with real ports.
    #[serde(default)]
    pub listen: Vec<String>,
    /// Where it listens for modules.
    pub rpc: SocketAddr,
    /// The base URL of its OpenAI endpoint, when it has one.
    #[serde(default)]
    pub openai: Option<String>,
    /// The URL of its dashboard, when it has one.
    #[serde(default)]
    pub dashboard: Option<String>,
}

impl Ready {
    fn parse(line: &str) -> Option<Self> {
        let ready: Ready = serde_json::from_str(line).ok()?;
        (ready.event == "ready").then_some(ready)
    }

    /// A TCP address of 127.0.0.1 with the peer id, for another node's `bootstrap`.
    pub fn bootstrap(&self) -> String {
        let local = |address: &&String| address.starts_with("/ip4/127.0.0.1/tcp/");
        let address = self.listen.iter().find(local);
        let address = address.expect("the node listens on TCP on 127.0.0.1");
        if address.contains("/p2p/") {
            return address.clone();
        }
        format!("{address}/p2p/{}", self.peer_id)
    }

    /// The base URL of its OpenAI endpoint.
    pub fn openai_url(&self) -> &str {
        self.openai.as_deref().expect("this node is a consumer")
    }
}

/// A running node.
#[derive(Debug)]
pub struct NodeProcess {
    /// Where it is reached.
    pub ready: Ready,
    process: Process,
}

impl NodeProcess {
    /// Starts the node of `home` and waits until it serves.
    pub async fn start(binary: impl AsRef<Path>, home: &NodeHome) -> Self {
        Self::of_process(home.spawn(binary.as_ref())).await
    }

    /// Waits until a node that was started in another way serves.
    pub async fn of_process(mut process: Process) -> Self {
        let ready = process.wait_line("readiness", Ready::parse).await;
        Self { ready, process }
    }

    /// Waits until a node serves; when it ends before, its process.
    pub async fn or_ended(mut process: Process) -> Result<Self, Process> {
        let started = eventually("readiness or the end of a node", async || {
            let ended = process.has_ended();
            let ready = process.stdout().iter().find_map(|line| Ready::parse(line));
            match ready {
                Some(ready) => Some(Some(ready)),
                None => ended.then_some(None),
            }
        });
        match started.await {
            Some(ready) => Ok(Self { ready, process }),
            None => Err(process),
        }
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// The process, to be looked at and signalled.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it (SIGKILL) and waits until it is gone. Its files stay in its home.
    pub async fn kill(self) {
        self.process.kill().await;
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(self) -> Exit {
        self.process.terminate();
        self.process.exit().await
    }

    /// How it ended, after a signal that was sent to its [`Self::process`].
    pub async fn terminated(self) -> Exit {
        self.process.exit().await
    }

    /// How it ended, within `limit`.
    pub async fn exit_within(self, limit: Duration) -> Exit {
        self.process.exit_within(limit).await
    }

    /// Ctrl-C, and how it ended.
    pub async fn interrupt(self) -> Exit {
        self.process.interrupt();
        self.process.exit().await
    }
}
