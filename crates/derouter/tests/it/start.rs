//! Starts that can't be: one clear message, exit code 2 or 3, no panic, no half-started node.

use std::net::TcpListener;

use derouter_testkit::{Exit, NodeConfig, NodeHome};
use serde_json::{Value, json};

use crate::DEROUTER;

/// Runs a node that must not start; `names` is what the message must name.
async fn refused(config: &NodeConfig, names: &[&str]) -> Exit {
    let home = NodeHome::new("node", config);
    refused_at(&home, names).await
}

async fn refused_at(home: &NodeHome, names: &[&str]) -> Exit {
    let exit = home.spawn(DEROUTER.as_ref()).exit().await;
    let shown = format!("{:?}: {}", exit.code, exit.stderr);
    assert!(matches!(exit.code, Some(2 | 3)), "{shown}");
    for name in names {
        assert!(exit.stderr.contains(name), "{name} is not named: {shown}");
    }
    assert!(!exit.stderr.contains("panicked"), "{shown}");
    assert!(!exit.stdout.contains("ready"), "{shown}");
    let told: Vec<&str> = exit
        .stderr
        .lines()
        .filter(|line| line.starts_with("derouter: "))
        .collect();
    assert_eq!(told.len(), 1, "one clear message: {shown}");
    exit
}

fn selling(offer_key: &str, value: Value) -> NodeConfig {
    let mut config = NodeConfig::default().provides("http://127.0.0.1:9/v1", &["m"]);
    config.0["openai"]["provider"]["offers"]["m"][offer_key] = value;
    config
}

#[tokio::test]
async fn wrong_keys_are_named_with_what_is_meant() {
    refused(
        &NodeConfig::default().with("lisen", json!([])),
        &["lisen", "listen"],
    )
    .await;
    refused(&selling("modelid", "x".into()), &["modelid", "model_id"]).await;
}

#[tokio::test]
async fn bad_values_are_named_with_their_place() {
    let listen = NodeConfig::default().with("listen", json!(["/ip4/1.2.3/tcp/1"]));
    refused(&listen, &["listen", "config.json"]).await;
    let bootstrap = NodeConfig::default().bootstrap("127.0.0.1:4001");
    refused(&bootstrap, &["bootstrap", "127.0.0.1:4001"]).await;
    for price in [
        json!({"$pol": "1e3"}),
        json!({"$pol": 1}),
        json!({"$pol": "-1"}),
        json!("1"),
    ] {
        let config = selling("input_token_price", price);
        refused(&config, &["input_token_price"]).await;
    }
}

#[tokio::test]
async fn text_that_is_not_json5_is_named_with_its_line() {
    let home = NodeHome::new("node", &NodeConfig::default());
    home.write("config.json", "{\n  mdns: false\n  listen: []\n}\n");
    refused_at(&home, &["config.json:3"]).await;
}

#[tokio::test]
async fn a_configuration_that_is_not_there_is_named() {
    let home = NodeHome::new("node", &NodeConfig::default());
    std::fs::remove_file(home.config_path()).unwrap();
    refused_at(&home, &["config.json"]).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let named = port.to_string();
    let rpc = NodeConfig::default().with("server", json!({"port": port}));
    let peers = NodeConfig::default().with("listen", json!([format!("/ip4/127.0.0.1/tcp/{port}")]));
    let mut openai = NodeConfig::default().consumes();
    openai.0["openai"]["consumer"]["server"]["port"] = port.into();
    for config in [rpc, peers, openai] {
        let exit = refused(&config, &[&named]).await;
        assert_eq!(exit.code, Some(3), "{}", exit.stderr);
    }
}

#[tokio::test]
async fn a_key_file_that_can_not_be_read_is_named_and_never_overwritten() {
    let home = NodeHome::new("node", &NodeConfig::default());
    std::fs::create_dir_all(home.data_dir()).unwrap();
    let key = home.data_dir().join("keypair.bin");
    std::fs::write(&key, b"not a key").unwrap();
    refused_at(&home, &["keypair.bin"]).await;
    assert_eq!(std::fs::read(&key).unwrap(), b"not a key");

    std::fs::remove_file(&key).unwrap();
    std::fs::create_dir(&key).unwrap();
    refused_at(&home, &["keypair.bin"]).await;
    assert!(key.is_dir());
}
