//! `derouter db`, and two nodes on one database.

use std::os::unix::fs::PermissionsExt;

use derouter_testkit::{Exit, NodeConfig, NodeHome, Pair, Process, http};
use serde_json::{Value, json};

use crate::DEROUTER;

const MODEL: &str = "test-model";

async fn db(arguments: &[&str]) -> Exit {
    let arguments: Vec<&str> = std::iter::once(&"db").chain(arguments).copied().collect();
    let exit = Process::run("db", DEROUTER, &arguments).exit().await;
    assert!(!exit.stderr.contains("panicked"), "{}", exit.stderr);
    exit
}

#[track_caller]
fn expect(exit: &Exit, code: i32, said: &str) {
    let shown = format!("{:?}: {}{}", exit.code, exit.stdout, exit.stderr);
    assert_eq!(exit.code, Some(code), "{shown}");
    assert!(shown.contains(said), "{said}: {shown}");
}

#[tokio::test]
async fn a_second_node_on_the_same_data_is_refused_with_what_to_do() {
    let home = NodeHome::new("node", &NodeConfig::default());
    let first = home.start(DEROUTER).await;
    let second = home.spawn(DEROUTER.as_ref()).exit().await;
    expect(&second, 3, "is in use by another process");
    assert!(second.stderr.contains("data_dir"), "{}", second.stderr);
    let exit = first.terminate().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[tokio::test]
async fn a_traded_job_is_checked_backed_up_and_exported_while_the_nodes_run() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let mut ledger = pair.ledger().await;
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "Say some words"}]});
    let url = format!("{}/chat/completions", pair.url());
    assert_eq!(http::post_json(&url, &chat).await.unwrap().status, 200);
    let trade = ledger.one_signed().await;
    let config = pair.consumer_home.config_path();
    let config = config.to_str().unwrap();

    expect(
        &db(&["check", "-c", config]).await,
        0,
        "1 job, 2 signatures checked: sound",
    );
    expect(&db(&["vacuum", "-c", config]).await, 3, "stop the node");

    let copy = pair.consumer_home.path().join("copy.sqlite");
    let to = copy.to_str().unwrap();
    expect(&db(&["backup", "-c", config, to]).await, 0, "copied");
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    expect(
        &db(&["backup", "-c", config, to]).await,
        1,
        "is there already",
    );
    expect(&db(&["check", "--database", to]).await, 0, "sound");

    let exported = db(&["export", "-c", config]).await;
    expect(&exported, 0, "confirmed");
    let line: Value = serde_json::from_str(exported.stdout.trim()).unwrap();
    assert_eq!(line["job_id"], trade.consumer.provider_job_id.as_str());
    assert_eq!(
        line["public_payload"],
        trade.consumer.public_payload.unwrap()
    );
    assert_eq!(line["signature"].as_str().unwrap().len(), 128);
    let sold = db(&["export", "-c", config, "--role", "provider"]).await;
    assert_eq!((sold.code, sold.stdout.trim()), (Some(0), ""));
    let csv = db(&["export", "-c", config, "--format", "csv"]).await;
    assert_eq!(csv.stdout.lines().count(), 2, "{}", csv.stdout);
    assert!(csv.stdout.starts_with("row,created,"), "{}", csv.stdout);

    assert_eq!(pair.consumer.terminate().await.code, Some(0));
    expect(&db(&["vacuum", "-c", config]).await, 0, "now");
    expect(&db(&["check", "-c", config]).await, 0, "sound");
}

#[tokio::test]
async fn a_database_that_is_not_there_or_damaged_is_told_with_what_to_do() {
    let home = NodeHome::new("node", &NodeConfig::default());
    let directory = home.data_dir();
    let directory = directory.to_str().unwrap();
    expect(
        &db(&["check", "--data-dir", directory]).await,
        3,
        "--database FILE",
    );
    home.start(DEROUTER).await.terminate().await;
    expect(&db(&["check", "--data-dir", directory]).await, 0, "sound");
    let path = home.data_dir().join("derouter.sqlite");
    let whole = std::fs::read(&path).unwrap();

    // A table's page in the middle.
    let mut bytes = whole.clone();
    bytes[8 * 4096..9 * 4096].fill(0x55);
    std::fs::write(&path, &bytes).unwrap();
    let damaged = db(&["check", "--data-dir", directory]).await;
    expect(&damaged, 1, "restore a backup");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);

    // The header.
    std::fs::write(&path, "these are my notes").unwrap();
    expect(
        &db(&["check", "--data-dir", directory]).await,
        3,
        "restore it from a backup",
    );
    let node = home.spawn(DEROUTER.as_ref()).exit().await;
    expect(&node, 3, "restore it from a backup");

    std::fs::write(&path, whole).unwrap();
    expect(&db(&["check", "--data-dir", directory]).await, 0, "sound");
}

#[tokio::test]
async fn either_side_proves_a_trade_and_a_changed_proof_does_not_hold() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let mut ledger = pair.ledger().await;
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "Say some words"}]});
    let url = format!("{}/chat/completions", pair.url());
    assert_eq!(http::post_json(&url, &chat).await.unwrap().status, 200);
    let trade = ledger.one_signed().await;
    let id = trade.consumer.provider_job_id.to_string();
    let short = id.get(..8).unwrap();
    let mut proofs = Vec::new();
    for home in [&pair.consumer_home, &pair.provider_home] {
        let config = home.config_path();
        let config = config.to_str().unwrap();
        let exit = jobs(&["proof", short, "-c", config]).await;
        assert_eq!(exit.code, Some(0), "{}", exit.stderr);
        let file = home.path().join("proof.json");
        std::fs::write(&file, &exit.stdout).unwrap();
        let verified = jobs(&["verify", file.to_str().unwrap()]).await;
        expect(&verified, 0, "the proof holds: signed by both sides");
        expect(&verified, 0, &id);
        proofs.push(serde_json::from_str::<Value>(&exit.stdout).unwrap());
    }
    assert_eq!(proofs[0], proofs[1], "both sides prove the same");

    let file = pair.consumer_home.path().join("changed.json");
    let file = file.to_str().unwrap();
    let mut changed = proofs.remove(0);
    changed["balance_delta"] = "1".into();
    std::fs::write(file, changed.to_string()).unwrap();
    expect(&jobs(&["verify", file]).await, 1, "was changed");
    std::fs::write(file, "{}").unwrap();
    expect(&jobs(&["verify", file]).await, 1, "is no proof");
    expect(
        &jobs(&["verify", "/nowhere/proof.json"]).await,
        3,
        "can't read",
    );
    let config = pair.consumer_home.config_path();
    let config = config.to_str().unwrap();
    expect(
        &jobs(&["proof", "nothing", "-c", config]).await,
        1,
        "no job nothing",
    );
    let taken = ["proof", &id, "-c", config, "--output", file];
    expect(&jobs(&taken).await, 3, "exists");
    assert_eq!(pair.consumer.terminate().await.code, Some(0));
}

async fn jobs(arguments: &[&str]) -> Exit {
    let arguments: Vec<&str> = std::iter::once(&"jobs").chain(arguments).copied().collect();
    let exit = Process::run("jobs", DEROUTER, &arguments).exit().await;
    assert!(!exit.stderr.contains("panicked"), "{}", exit.stderr);
    exit
}
