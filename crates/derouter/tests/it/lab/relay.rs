//! A relay as operators run it: `derouter relay` with its defaults, on a public host.

use derouter_sdk::PeerId;
use derouter_testkit::lab::Site;
use derouter_testkit::{Process, http};
use serde_json::Value;
use tempfile::TempDir;

use crate::DEROUTER;

/// Where a relay listens by default, TCP and QUIC.
const PORT: u16 = 4001;

/// Where its metrics are by default: each relay has a loopback interface of its own.
const METRICS: &str = "http://127.0.0.1:9090/metrics";

/// What its metrics begin with that tell of relaying.
const RELAYING: &str = "derouter_relay_";

/// A relay that runs, or was killed.
pub(crate) struct Relay {
    process: Option<Process>,
    peer: PeerId,
    /// Its key: it is the same peer after a restart.
    directory: TempDir,
    /// Where it is. The last to go.
    site: Site,
}

/// The peer id in the line that it prints once it serves.
fn ready(line: &str) -> Option<PeerId> {
    let ready: Value = serde_json::from_str(line).ok()?;
    if ready["event"] != "ready" {
        return None;
    }
    ready["peer_id"].as_str()?.parse().ok()
}

async fn run(site: &Site, directory: &TempDir) -> (Process, PeerId) {
    let mut command = site.host.command(DEROUTER);
    command
        .args(["relay", "--ready-json", "--key-file"])
        .arg(directory.path().join("key.bin"));
    let level = std::env::var("DEROUTER_TEST_LOG").unwrap_or_else(|_| "info".to_owned());
    command.env("RUST_LOG", level).env("NO_COLOR", "1");
    let mut process = Process::spawn(site.name(), command);
    let peer = process.wait_line("readiness", ready).await;
    (process, peer)
}

impl Relay {
    /// Starts one.
    pub(crate) async fn new(site: Site) -> Self {
        let directory = TempDir::with_prefix("derouter-").expect("there is a temporary directory");
        let (process, peer) = run(&site, &directory).await;
        Self {
            process: Some(process),
            peer,
            directory,
            site,
        }
    }

    /// Starts it again.
    pub(crate) async fn start(&mut self) {
        let (process, peer) = run(&self.site, &self.directory).await;
        assert_eq!(peer, self.peer, "a relay keeps its key");
        self.process = Some(process);
    }

    /// Kills it.
    pub(crate) async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Its peer id.
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// Its addresses, as an operator hands them out.
    pub(crate) fn addresses(&self) -> [String; 4] {
        let (v4, v6) = (self.site.public_address(), self.site.public_address6());
        let peer = self.peer;
        [
            format!("/ip4/{v4}/tcp/{PORT}/p2p/{peer}"),
            format!("/ip4/{v4}/udp/{PORT}/quic-v1/p2p/{peer}"),
            format!("/ip6/{v6}/tcp/{PORT}/p2p/{peer}"),
            format!("/ip6/{v6}/udp/{PORT}/quic-v1/p2p/{peer}"),
        ]
    }

    /// What it counted and said, for whoever looks into a failure.
    pub(crate) async fn explain(&self, lines: usize) -> String {
        let Some(process) = &self.process else {
            return format!("{} does not run", self.site.name());
        };
        let metrics = self.site.host.run(http::get(METRICS)).await;
        let metrics = metrics.map_or_else(|error| error.to_string(), |answer| answer.text());
        let counted = metrics.lines().filter(|line| line.starts_with(RELAYING));
        let said = process.stderr();
        let said = said.iter().skip(said.len().saturating_sub(lines));
        let told: Vec<&str> = counted.chain(said.map(String::as_str)).collect();
        format!("{} ({})\n{}", self.site.name(), self.peer, told.join("\n"))
    }
}
