//! From an empty home directory to a chat, and back to nothing that runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use derouter_testkit::backend::Backend;
use derouter_testkit::{Process, eventually, http};
use serde_json::{Value, json};

use super::Home;
use crate::DEROUTER;

const MODEL: &str = "test-model";
const LOCAL: &str = "['/ip4/127.0.0.1/tcp/0']";

/// Sets up a node that stays on this machine, and starts it.
async fn start(home: &Home, init: &[&str]) -> Value {
    let common = [
        "init",
        "--yes",
        "--no-mdns",
        "--rpc-port",
        "0",
        "--endpoint-port",
        "0",
    ];
    let made = home.document(&[&common, init].concat()).await;
    assert_eq!(made["path"], home.config().to_str().unwrap());
    let mode = fs::metadata(home.config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    home.good(&["config", "set", "listen", LOCAL]).await;
    home.good(&["config", "set", "port_mapping", "false"]).await;
    let up = home.document(&["up"]).await;
    assert_eq!(up["started"], true);
    up
}

fn address(up: &Value) -> &str {
    up["node"]["listen"][0].as_str().unwrap()
}

#[tokio::test]
async fn a_fresh_home_comes_to_a_chat_in_three_commands_and_to_rest_in_one() {
    let backend = Backend::start().await;
    let seller = Home::new();
    let url = backend.url();
    let sold = start(
        &seller,
        &["--role", "sell", "--backend", &url, "--model", MODEL],
    )
    .await;
    let buyer = Home::new();
    let bought = start(
        &buyer,
        &[
            "--role",
            "buy",
            "--daily",
            "2",
            "--bootstrap",
            address(&sold),
        ],
    )
    .await;
    let endpoint = bought["node"]["openai"].as_str().unwrap().to_owned();

    // Once the offer is there, a chat goes through.
    let body = json!({"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": "Say some words"}]});
    let answer = eventually("an offer", async || {
        let answer = http::post_json(&format!("{endpoint}/chat/completions"), &body).await;
        answer.ok().filter(|answer| answer.status == 200)
    })
    .await;
    assert!(answer.json()["choices"][0]["message"]["content"].is_string());

    // Whatever asks the node finds it without being told where it is.
    let (_, network) = buyer.documents(&["netcheck"]).await;
    assert_eq!(network[0]["peers"], 1);
    let peers = buyer.document(&["peers"]).await;
    assert_eq!(peers["peers"][0]["peer"], sold["node"]["peer_id"]);
    let peer = sold["node"]["peer_id"].as_str().unwrap();
    buyer.document(&["peers", peer]).await;
    let (exit, pings) = buyer
        .documents(&["ping", peer, "-n", "2", "--interval", "0.1"])
        .await;
    assert_eq!((exit.code, pings.len()), (Some(0), 2), "{exit:?}");
    let quote = buyer.document(&["quote", MODEL, "--url", &endpoint]).await;
    assert_eq!(quote["fitting"], 1);
    let key = buyer.document(&["key", "show"]).await;
    assert_eq!(key["peer_id"], bought["node"]["peer_id"]);
    // The market, the money and the job, as commands of their own tell them.
    let status = buyer.document(&["status"]).await;
    assert_eq!(status["schema"], "derouter.status/1");
    buyer.document(&["models"]).await;
    let chat = buyer.document(&["chat", MODEL, "Say some words"]).await;
    assert_eq!(chat["schema"], "derouter.chat/1");
    let jobs = buyer.document(&["jobs", "list"]).await;
    let job = jobs["jobs"][0]["job_id"].as_str().unwrap();
    eventually("the signature", async || {
        let proof = buyer.run(&["jobs", "proof", job, "-o", "proof.json"]).await;
        (proof.code == Some(0)).then_some(())
    })
    .await;
    let verified = buyer.document(&["jobs", "verify", "proof.json"]).await;
    assert_eq!(verified["by_consumer"], true);
    let doctor = buyer.document(&["doctor"]).await;
    assert_eq!(doctor["fail"], 0, "{doctor:#}");
    let (_, lines) = buyer.documents(&["logs", "-n", "5"]).await;
    assert_eq!(lines.len(), 5);

    // A second start says that it runs, and starts nothing.
    let again = buyer.document(&["up"]).await;
    assert_eq!(
        (&again["started"], &again["pid"]),
        (&json!(false), &bought["pid"])
    );
    let restarted = buyer.document(&["restart"]).await;
    assert_ne!(restarted["pid"], bought["pid"]);
    assert_eq!(restarted["node"]["peer_id"], bought["node"]["peer_id"]);
    for home in [&buyer, &seller] {
        home.document(&["down"]).await;
        let told = home.bad(&["down"], 4).await;
        assert!(told.contains("derouter up"), "{told}");
        assert!(!home.data().join("node.json").exists());
        assert!(!home.data().join("rpc.sock").exists());
    }
    let told = buyer.bad(&["peers"], 4).await;
    assert!(told.contains("no node runs"), "{told}");
}

#[tokio::test]
async fn what_people_read_says_what_to_do_next() {
    let home = Home::new();
    let made = home
        .good(&[
            "init",
            "--yes",
            "--role",
            "buy",
            "--no-mdns",
            "--rpc-port",
            "0",
            "--endpoint-port",
            "0",
        ])
        .await;
    for step in ["derouter doctor", "derouter up", "derouter netcheck"] {
        assert!(made.contains(step), "{made}");
    }
    let told = home.bad(&["init", "--yes", "--role", "buy"], 3).await;
    assert!(told.contains("--force"), "{told}");
    home.good(&["config", "set", "listen", LOCAL]).await;
    home.good(&["config", "set", "port_mapping", "false"]).await;
    let up = home.good(&["up"]).await;
    assert!(
        up.contains("http://127.0.0.1:") && up.contains("derouter down"),
        "{up}"
    );
    let told = home.good(&["logs", "--grep", "the node is up"]).await;
    assert_eq!(told.lines().count(), 1, "{told}");
    let down = home.good(&["down"]).await;
    assert!(down.contains("has stopped"), "{down}");
    // The log stays.
    home.good(&["logs"]).await;
}

#[tokio::test]
async fn a_node_that_can_not_start_says_why_where_it_was_asked_to() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    home.configure(&json!({"server": {"port": port}, "listen": ["/ip4/127.0.0.1/tcp/0"], "mdns": false, "port_mapping": false}).to_string());
    let told = home.bad(&["up"], 3).await;
    assert!(told.contains("server.port"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    home.bad(&["down"], 4).await;
    home.configure("{ server: { prt: 1 } }");
    let told = home.bad(&["up"], 3).await;
    assert!(told.contains("did you mean `port`"), "{told}");
    let told = home.bad(&["up", "-c", "nowhere.json"], 3).await;
    assert!(told.contains("nowhere.json"), "{told}");
}

#[tokio::test]
async fn a_stop_waits_for_what_runs_unless_it_is_to_be_now() {
    let backend = Backend::start().await;
    let seller = Home::new();
    let url = backend.url();
    let sold = start(
        &seller,
        &["--role", "sell", "--backend", &url, "--model", MODEL],
    )
    .await;
    let buyer = Home::new();
    let bought = start(&buyer, &["--role", "buy", "--bootstrap", address(&sold)]).await;
    let endpoint = bought["node"]["openai"].as_str().unwrap().to_owned();
    let models = format!("{endpoint}/models");
    eventually("the model", async || {
        let answer = http::get(&models).await.ok()?;
        answer.text().contains(MODEL).then_some(())
    })
    .await;
    // An answer that does not end by itself.
    backend.set_behaviour(derouter_testkit::fault::Behaviour {
        fault: Some(derouter_testkit::fault::Fault::StallMiddle),
        ..Default::default()
    });
    let body =
        json!({"model": MODEL, "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let asking = tokio::spawn(async move {
        http::post_json(&format!("{endpoint}/chat/completions"), &body).await
    });
    backend
        .wait_seen("the request", |request| {
            request.path.ends_with("chat/completions")
        })
        .await;
    let waiting = Process::spawn("down", seller.command(DEROUTER, &["down"]));
    eventually("the drain", async || {
        let state = fs::read_to_string(seller.data().join("node.json")).ok()?;
        let state: Value = serde_json::from_str(&state).ok()?;
        (state["phase"] == "stopping" && state["remaining"]["jobs"] == 1).then_some(())
    })
    .await;
    let now = seller.good(&["down", "--now"]).await;
    assert!(now.contains("has stopped"), "{now}");
    let exit = waiting.exit_within(Duration::from_secs(60)).await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    asking.abort();
    buyer.good(&["down", "--now"]).await;
}

#[tokio::test]
async fn a_node_says_that_it_is_up_in_a_documented_shape() {
    let home = Home::new();
    home.configure(&json!({"server": {"port": 0}, "listen": ["/ip4/127.0.0.1/tcp/0"], "mdns": false, "port_mapping": false}).to_string());
    let mut node = Process::spawn("run", home.command(DEROUTER, &["run", "--ready-json"]));
    let line = node
        .wait_line("readiness", |line| {
            line.starts_with('{').then(|| line.to_owned())
        })
        .await;
    super::checked(&line, &["run", "--ready-json"]);
    // A node in a terminal is found and stopped like any other, but started anew only there.
    let told = home.bad(&["logs"], 1).await;
    assert!(told.contains("standard error"), "{told}");
    home.bad(&["restart"], 1).await;
    home.good(&["down"]).await;
    let exit = node.exit().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
}

#[tokio::test]
async fn on_a_terminal_the_role_is_asked_for_until_it_is_one() {
    let home = Home::new();
    let pty = "import os, pty, sys\n\
               answers = iter([b'perhaps\\n', b'buy\\n'])\n\
               def read(fd):\n    \
                   data = os.read(fd, 4096)\n    \
                   if b'sell or both?' in data:\n        \
                       os.write(fd, next(answers))\n    \
                   return data\n\
               sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:], read)))\n";
    fs::write(home.path().join("terminal.py"), pty).unwrap();
    let command = home.command("python3", &["terminal.py", DEROUTER, "init"]);
    let exit = Process::spawn("init", command).exit().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.stdout.contains("Write buy, sell or both."), "{exit:?}");
    let written = fs::read_to_string(home.config()).unwrap();
    assert!(
        written.contains("consumer: {") && !written.contains("provider: {"),
        "{written}"
    );
}

#[tokio::test]
async fn a_node_that_systemd_runs_is_left_to_systemd() {
    let home = Home::new();
    fs::create_dir_all(home.data()).unwrap();
    // As such a node has it: the lock is held, and the file says by whom it is run.
    let lock = fs::File::create(home.data().join("node.lock")).unwrap();
    lock.try_lock().unwrap();
    let state = json!({
        "pid": 2_000_000_000, "version": "0.2.0", "started_at": 1, "config": null, "data_dir_flag": null,
        "log": null, "manager": {"kind": "systemd", "unit": "derouter.service", "user": true},
        "drain_seconds": 30, "phase": "serving",
    });
    fs::write(home.data().join("node.json"), state.to_string()).unwrap();
    for (command, said) in [
        ("down", "systemctl --user stop derouter.service"),
        ("restart", "systemctl --user restart derouter.service"),
        ("logs", "journalctl --user -u derouter.service"),
    ] {
        let told = home.bad(&[command], 1).await;
        assert!(told.contains(said), "{command}: {told}");
    }
    let told = home.bad(&["key", "restore", "nothing"], 3).await;
    assert!(told.contains("derouter down"), "{told}");
    let up = home.document(&["up"]).await;
    assert_eq!(up["started"], false);
    drop(lock);
    // It crashed: what it said means nothing any more.
    home.bad(&["down"], 4).await;
    fs::remove_file(home.data().join("node.json")).unwrap();
}
