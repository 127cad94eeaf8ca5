//! The peer book over restarts of whole nodes.

use derouter_wire::UnixSeconds;
use tempfile::TempDir;

use crate::support::{config, show_logs, within};

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
