//! The peer book over restarts of whole nodes.

use std::path::Path;
use std::time::Duration;

use derouter_sdk::{PeerId, ProvideOptions};
use derouter_store::Store;
use derouter_wire::UnixSeconds;
use tempfile::TempDir;

use crate::support::{Echo, Pair, config, offer, see_offer, show_logs, within};

#[tokio::test]
async fn a_restarted_node_finds_its_peers_again_without_a_bootstrap_node() {
    show_logs();
    let (one_dir, other_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let one = derouter_node::start(config(one_dir.path(), Vec::new()))
        .await
        .unwrap();
    let address = one.listen_addresses().await.remove(0);
    let other = config(other_dir.path(), vec![address]);
    let other = derouter_node::start(other).await.unwrap();
    within("the first connection", async {
        while other.net().peers().await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    other.shutdown().await;

    let other = derouter_node::start(config(other_dir.path(), Vec::new()))
        .await
        .unwrap();
    within("the remembered peer", async {
        while other.net().peers().await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let reports = other.net().peer_reports().await;
    let report = reports
        .iter()
        .find(|report| report.peer == one.peer_id())
        .unwrap();
    assert!(report.last_connected > Some(UnixSeconds(0)));
    assert!(report.paths.iter().any(|path| path.outbound));
    other.shutdown().await;
    one.shutdown().await;
}

/// Before the turn at which all that changed is kept.
const NEWS_LIMIT: Duration = Duration::from_secs(15);

/// A directory as a node would find it, were the one that uses `dir` killed now.
fn crashed(dir: &Path) -> TempDir {
    let image = TempDir::new().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            // A file of SQLite's may be gone by now.
            let _ = std::fs::copy(entry.path(), image.path().join(entry.file_name()));
        }
    }
    image
}

/// Whether the database in `image` knows where the peer was reached.
async fn remembers(image: &TempDir, peer: PeerId) -> bool {
    // Copied while it was written, it may be one that can't be opened.
    let Ok(store) = Store::open(&image.path().join("derouter.sqlite")) else {
        return false;
    };
    let known = store.peers(100).await.unwrap_or_default();
    let reached = known.iter().any(|known| {
        let mut addresses = known.addresses.iter();
        known.peer == peer && addresses.any(|known| known.last_success.is_some())
    });
    store.close().await.unwrap();
    reached
}

#[tokio::test]
async fn a_node_that_is_killed_soon_after_its_first_connection_finds_peer_and_offers_again() {
    show_logs();
    let pair = Pair::start().await;
    let desk = pair.provider.handle();
    let provision = desk.provide(
        vec![offer("first", "payload")],
        ProvideOptions::default(),
        Echo::new(None),
    );
    let _provision = provision.await.unwrap();
    see_offer(&pair.consumer.handle(), "first").await;
    let provider = pair.provider.peer_id();
    let image = tokio::time::timeout(NEWS_LIMIT, async {
        loop {
            let image = crashed(pair.consumer_dir.path());
            if remembers(&image, provider).await {
                return image;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the peer is kept soon");
    pair.consumer.shutdown().await;

    let consumer = derouter_node::start(config(image.path(), Vec::new()))
        .await
        .unwrap();
    see_offer(&consumer.handle(), "first").await;
    consumer.shutdown().await;
    pair.provider.shutdown().await;
}
