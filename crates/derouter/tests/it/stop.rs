//! Clean ends.

use std::os::unix::fs::PermissionsExt;

use derouter_testkit::pair::wait_no_model;
use derouter_testkit::{NodeConfig, NodeHome, Pair};

use crate::DEROUTER;

const MODEL: &str = "test-model";

#[tokio::test]
async fn ctrl_c_takes_the_offers_back_and_ends_with_zero() {
    let pair = Pair::start(DEROUTER, &[MODEL]).await;
    let url = pair.url().to_owned();
    let exit = pair.provider.interrupt().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert!(!exit.stderr.contains("panicked"), "{}", exit.stderr);
    wait_no_model(&url, MODEL).await;
    let exit = pair.consumer.interrupt().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[tokio::test]
async fn sigterm_ends_cleanly_too() {
    let home = NodeHome::new("node", &NodeConfig::default());
    let node = home.start(DEROUTER).await;
    let exit = node.terminate().await;
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
}

#[tokio::test]
async fn the_key_is_private_and_stays_the_same() {
    let home = NodeHome::new("node", &NodeConfig::default());
    let first = home.start(DEROUTER).await;
    let peer_id = first.ready.peer_id.clone();
    let key = home.data_dir().join("keypair.bin");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    first.interrupt().await;
    let second = home.start(DEROUTER).await;
    assert_eq!(second.ready.peer_id, peer_id);
}
