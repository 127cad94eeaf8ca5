//! `derouter relay` as a process.

use std::path::Path;

use derouter_testkit::pair::wait_model;
use derouter_testkit::{Backend, Exit, NodeConfig, NodeHome, Process, eventually, http};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::DEROUTER;

const MODEL: &str = "test-model";
const SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

struct Relay {
    process: Process,
    ready: Value,
    _directory: TempDir,
}

impl Relay {
    async fn start(flags: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let key = directory.path().join("key.bin");
        Self::start_with(directory, &key, None, flags).await
    }

    async fn start_with(
        directory: TempDir,
        key: &Path,
        secret: Option<&str>,
        flags: &[&str],
    ) -> Self {
        let mut command = Command::new(DEROUTER);
        command
            .args(["relay", "--ready-json", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .args(["--http", "127.0.0.1:0", "--key-file"])
            .arg(key)
            .args(flags)
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1");
        if let Some(secret) = secret {
            command.env("DEROUTER_RELAY_KEY", secret);
        }
        let mut process = Process::spawn("relay", command);
        let parse = |line: &str| {
            let ready = serde_json::from_str::<Value>(line).ok()?;
            (ready["event"] == "ready").then_some(ready)
        };
        let ready = process.wait_line("readiness", parse).await;
        Self {
            process,
            ready,
            _directory: directory,
        }
    }

    fn peer_id(&self) -> &str {
        self.ready["peer_id"].as_str().unwrap()
    }

    /// Where it is dialled, with its peer id.
    fn address(&self) -> &str {
        self.ready["listen"][0].as_str().unwrap()
    }

    fn circuit(&self) -> String {
        format!("{}/p2p-circuit", self.address())
    }

    fn http(&self) -> &str {
        self.ready["http"].as_str().unwrap()
    }

    /// A metric's value now.
    async fn metric(&self, name: &str) -> u64 {
        let url = format!("http://{}/metrics", self.http());
        let text = http::get(&url).await.unwrap().text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("{name} is not in:\n{text}"));
        value.trim().parse().unwrap()
    }

    async fn wait_metric(&self, name: &str, least: u64) {
        let what = format!("{name} is {least}");
        eventually(&what, async || {
            (self.metric(name).await >= least).then_some(())
        })
        .await;
    }

    async fn terminate(self) -> Exit {
        self.process.terminate();
        self.process.exit().await
    }
}

/// A node that is reached through a relay alone.
fn behind(relay: &Relay) -> NodeConfig {
    NodeConfig::default().with("listen", json!([relay.circuit()]))
}

#[tokio::test]
async fn a_provider_behind_a_relay_sells_to_a_consumer_that_listens_nowhere() {
    let relay = Relay::start(&[]).await;
    let backend = Backend::start().await;
    let selling = behind(&relay).provides(&backend.url(), &[MODEL]);
    let provider_home = NodeHome::new("provider", &selling);
    let provider = provider_home.start(DEROUTER).await;
    let through = format!("{}/p2p/{}", relay.circuit(), provider.ready.peer_id);
    let buying = NodeConfig::default()
        .with("listen", json!([]))
        .bootstrap(relay.address())
        .bootstrap(through)
        .consumes();
    let consumer_home = NodeHome::new("consumer", &buying);
    let consumer = consumer_home.start(DEROUTER).await;
    let url = consumer.ready.openai_url();
    wait_model(url, MODEL).await;
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "Say some words"}]});
    let answer = http::post_json(&format!("{url}/chat/completions"), &body).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["choices"][0]["message"]["content"].is_string());

    let rpc = consumer.ready.rpc.to_string();
    let arguments = ["peers", &provider.ready.peer_id, "--json", "--rpc", &rpc];
    let exit = Process::run("peers", DEROUTER, &arguments).exit().await;
    let peer: Value = serde_json::from_str(&exit.stdout).unwrap();
    assert_eq!(peer["paths"][0]["kind"], "relayed", "{peer}");
    assert!(relay.metric("derouter_relay_reserved_peers ").await >= 1);
    assert!(relay.metric("derouter_relay_open_circuits ").await >= 1);
}

#[tokio::test]
async fn a_relay_that_is_full_refuses_and_says_so() {
    let relay = Relay::start(&["--reservations", "1"]).await;
    let refused = r#"derouter_relay_reservations_total{outcome="refused"} "#;
    let first_home = NodeHome::new("first", &behind(&relay));
    let _first = first_home.start(DEROUTER).await;
    relay.wait_metric("derouter_relay_reserved_peers ", 1).await;
    assert_eq!(relay.metric(refused).await, 0);
    let second_home = NodeHome::new("second", &behind(&relay));
    let _second = second_home.spawn(DEROUTER.as_ref());
    relay.wait_metric(refused, 1).await;
    assert_eq!(relay.metric("derouter_relay_reserved_peers ").await, 1);
}

#[tokio::test]
async fn metrics_and_health_are_served() {
    let relay = Relay::start(&[]).await;
    let health = http::get(&format!("http://{}/healthz", relay.http())).await;
    assert_eq!(health.unwrap().text(), "ok\n");
    let scraped = http::get(&format!("http://{}/metrics", relay.http())).await;
    let scraped = scraped.unwrap();
    assert!(
        scraped
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let text = scraped.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
    for part in [
        "# TYPE derouter_relay_circuits counter\n",
        "derouter_relay_circuits_total{outcome=\"refused_limit\"} 0\n",
        "# TYPE derouter_peers gauge\nderouter_peers 0\n",
        "process_open_fds ",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let asked = ["relay", "--health", "--http", relay.http()];
    let exit = Process::run("health", DEROUTER, &asked).exit().await;
    assert_eq!(
        (exit.code, exit.stdout.as_str()),
        (Some(0), "ok"),
        "{exit:?}"
    );
    let mut empty = Command::new(DEROUTER);
    empty.args(asked).env("DEROUTER_RELAY_HTTP", "");
    let exit = Process::spawn("health", empty).exit().await;
    assert_eq!(exit.code, Some(0), "an empty variable is none: {exit:?}");
    let mut told = Command::new(DEROUTER);
    told.args(["relay", "--health"])
        .env("DEROUTER_RELAY_HTTP", relay.http());
    let exit = Process::spawn("health", told).exit().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let http = relay.http().to_owned();
    let exit = relay.terminate().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    let asked = ["relay", "--health", "--http", &http];
    let exit = Process::run("health", DEROUTER, &asked).exit().await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
}

#[tokio::test]
async fn the_key_is_of_the_environment_or_of_a_file_that_stays() {
    let kept = TempDir::new().unwrap();
    let file = kept.path().join("relay.bin");
    let start = async |secret| Relay::start_with(TempDir::new().unwrap(), &file, secret, &[]).await;
    let relay = start(Some(SECRET)).await;
    let of_environment = relay.peer_id().to_owned();
    assert!(!file.exists(), "the environment goes before the file");
    let exit = relay.terminate().await;
    assert!(!exit.stderr.contains(SECRET), "{}", exit.stderr);
    let relay = start(Some(SECRET)).await;
    assert_eq!(relay.peer_id(), of_environment);
    relay.terminate().await;

    let relay = start(None).await;
    let of_file = relay.peer_id().to_owned();
    assert_ne!(of_file, of_environment);
    relay.terminate().await;
    let relay = start(None).await;
    assert_eq!(relay.peer_id(), of_file);
}

#[tokio::test]
async fn what_a_relay_can_not_use_is_named() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let busy = format!("/ip4/127.0.0.1/tcp/{}", taken.port());
    let refused = async |flags: &[&str], secret: &str, code: i32, part: &str| {
        let directory = TempDir::new().unwrap();
        let mut command = Command::new(DEROUTER);
        command
            .args(["relay", "--key-file"])
            .arg(directory.path().join("key.bin"))
            .args(flags)
            .env("DEROUTER_RELAY_KEY", secret);
        let exit = Process::spawn("relay", command).exit().await;
        assert_eq!(exit.code, Some(code), "{exit:?}");
        assert!(exit.stderr.contains(part), "{part}: {exit:?}");
        exit
    };
    refused(
        &["--http", "127.0.0.1:0", "--listen", &busy],
        SECRET,
        3,
        &busy,
    )
    .await;
    refused(&["--http", &taken.to_string()], SECRET, 3, "--http").await;
    let exit = refused(&["--listen", "/ip4/127.0.0.1/tcp/0"], "c0ffee", 3, "64 hex").await;
    assert!(!exit.stderr.contains("c0ffee"), "{exit:?}");
    let another = "/ip4/203.0.113.5/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let external = ["--external-address", another];
    refused(&external, SECRET, 3, "names another peer").await;
    let circuits = ["--circuit-minutes", "0"];
    refused(&circuits, SECRET, 2, "--circuit-minutes").await;
}
