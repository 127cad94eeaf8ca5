//! What systemd is told, on a real socket.

use std::path::Path;
use std::time::Duration;

use derouter_testkit::{NodeConfig, NodeHome, Process};
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::time::timeout;

use crate::DEROUTER;

/// The watchdog's time in these tests; signs of life come twice within it.
const WATCHDOG: Duration = Duration::from_secs(1);

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

/// What a service manager listens on.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        Self { socket, directory }
    }

    fn supervise(&self, command: &mut Command) {
        command
            .env("NOTIFY_SOCKET", self.directory.path().join("notify"))
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    }

    async fn message(&self) -> String {
        let mut buffer = vec![0; 4096];
        let length = self.socket.recv(&mut buffer).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Waits for a message with this line.
    async fn wait(&self, line: &str) -> String {
        let found = timeout(DEADLINE, async {
            loop {
                let message = self.message().await;
                if message.lines().any(|found| found.starts_with(line)) {
                    return message;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no {line}"))
    }

    /// Takes everything that waits.
    fn forget(&self) {
        let mut buffer = [0; 4096];
        while self.socket.try_recv(&mut buffer).is_ok() {}
    }
}

/// Ready, alive, frozen, alive again, at its end.
async fn life(manager: &Manager, process: Process) {
    let ready = manager.wait("READY=1").await;
    assert!(ready.contains("STATUS=serving"), "{ready}");
    for _ in 0..2 {
        let alive = manager.wait("WATCHDOG=1").await;
        assert!(alive.contains("STATUS=serving: 0 peers"), "{alive}");
    }
    process.freeze();
    // What was sent before it froze.
    manager.forget();
    let silence = timeout(2 * WATCHDOG, manager.wait("WATCHDOG=1")).await;
    assert!(silence.is_err(), "{silence:?}");
    process.thaw();
    manager.wait("WATCHDOG=1").await;
    process.terminate();
    manager.wait("STOPPING=1").await;
    let exit = process.exit().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tells_systemd_that_it_is_up_lives_and_stops() {
    let manager = Manager::new();
    let home = NodeHome::new("node", &NodeConfig::default());
    let mut command = home.command(Path::new(DEROUTER));
    manager.supervise(&mut command);
    let process = Process::spawn("node", command);
    let starting = manager.message().await;
    assert_eq!(starting, "STATUS=starting\n");
    life(&manager, process).await;
    let more_time = manager.wait("EXTEND_TIMEOUT_USEC=").await;
    assert!(!more_time.contains("READY"), "{more_time}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_tells_systemd_that_it_is_up_lives_and_stops() {
    let manager = Manager::new();
    let directory = TempDir::new().unwrap();
    let mut command = Command::new(DEROUTER);
    command
        .args(["relay", "--listen", "/ip4/127.0.0.1/tcp/0"])
        .args(["--http", "127.0.0.1:0", "--key-file"])
        .arg(directory.path().join("key.bin"));
    manager.supervise(&mut command);
    life(&manager, Process::spawn("relay", command)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_watchdog_tells_its_state_and_no_sign_of_life() {
    let manager = Manager::new();
    let home = NodeHome::new("node", &NodeConfig::default());
    let mut command = home.command(Path::new(DEROUTER));
    manager.supervise(&mut command);
    command.env_remove("WATCHDOG_USEC");
    let process = Process::spawn("node", command);
    manager.wait("READY=1").await;
    let status = manager.wait("STATUS=serving: 0 peers").await;
    assert!(!status.contains("WATCHDOG"), "{status}");
    process.terminate();
    manager.wait("STOPPING=1").await;
    process.exit().await;
}
