//! Starting on the directories of a real 0.1.0 pair.

use std::path::Path;

use derouter_node::NodeConfig;
use derouter_sdk::JobRecord;
use tempfile::TempDir;

use crate::support::{config, jobs, see_job};

const DATA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../testdata/vectors/0.1-data"
);
const PROVIDER: &str = "12D3KooWJpTBAVj9c1e4M5PURYT5abtsribkxtnAvz4bKdw7cNYT";
const CONSUMER: &str = "12D3KooWDmVvgetaQQffnmER5pZxrY5aLSEQSPP11J4bA2YEiVNh";

/// A copy of a 0.1.0 directory, and the configuration of a node that takes it over.
fn take_over(side: &str) -> (TempDir, NodeConfig) {
    let dir = TempDir::new().unwrap();
    for file in ["db.sqlite", "keypair.bin"] {
        std::fs::copy(Path::new(DATA).join(side).join(file), dir.path().join(file)).unwrap();
    }
    let mut config = config(dir.path(), Vec::new());
    config.legacy_database_path = Some(dir.path().join("db.sqlite"));
    (dir, config)
}

/// As if the provider had never been told of the signatures.
fn forget_confirmations(dir: &TempDir, columns: &str) {
    let database = rusqlite::Connection::open(dir.path().join("db.sqlite")).unwrap();
    let changed = database
        .execute(&format!("UPDATE service_jobs SET {columns}"), [])
        .unwrap();
    assert_eq!(changed, 3);
}

fn confirmed(job: &JobRecord) -> bool {
    job.signature_confirmed_at_local.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_0_1_0_directory_keeps_its_peer_id_and_its_jobs() {
    for (side, peer) in [("provider", PROVIDER), ("consumer", CONSUMER)] {
        let (dir, config) = take_over(side);
        let before = std::fs::read(dir.path().join("db.sqlite")).unwrap();
        for _start in 0..2 {
            let node = derouter_node::start(config.clone()).await.unwrap();
            assert_eq!(node.peer_id().to_string(), peer);
            let imported = jobs(&node.handle()).await;
            assert_eq!(imported.len(), 3, "imported once");
            for job in &imported {
                assert_eq!(job.provider_peer_id.to_string(), PROVIDER);
                assert_eq!(job.consumer_peer_id.to_string(), CONSUMER);
                assert_eq!(job.balance_delta.as_deref(), Some("600000000000000"));
                assert!(confirmed(job));
            }
            node.shutdown().await;
        }
        assert_eq!(std::fs::read(dir.path().join("db.sqlite")).unwrap(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_0_1_0_never_delivered_are_delivered() {
    let (provider_dir, provider) = take_over("provider");
    forget_confirmations(
        &provider_dir,
        "consumer_signature = NULL, signature_confirmed_at_local = NULL",
    );
    let (consumer_dir, mut consumer) = take_over("consumer");
    forget_confirmations(&consumer_dir, "signature_confirmed_at_local = NULL");

    let provider = derouter_node::start(provider).await.unwrap();
    consumer.net.bootstrap = provider.listen_addresses().await;
    let consumer = derouter_node::start(consumer).await.unwrap();
    for node in [provider.handle(), consumer.handle()] {
        for unconfirmed in jobs(&node).await {
            let this = |job: &JobRecord| job.job_rowid == unconfirmed.job_rowid && confirmed(job);
            see_job(&node, "the delivery of an old signature", this).await;
        }
    }
    consumer.shutdown().await;
    provider.shutdown().await;
}
