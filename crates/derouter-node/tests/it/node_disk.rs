//! A disk that is full, and has room again.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use derouter_sdk::{CreateJobError, Node, NodeError, ProvideOptions, SnapshotId};
use tempfile::TempDir;

use crate::support::{Echo, config, offer, see_offer, show_logs, within};

/// Unmounts what a test mounted.
struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn mount(path: &Path) -> Option<Mount<'_>> {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m", "derouter-test"])
        .arg(path)
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
        {
            eprintln!("skipped: a tmpfs can't be mounted here (not root?)");
        }
        return None;
    }
    Some(Mount(path))
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let block = [1; 4096];
    while file.write_all(&block).is_ok() {}
}

/// Creates jobs until one is refused: the log may have some room of its own.
async fn until_refused(node: &Arc<dyn Node>, offer: SnapshotId) -> CreateJobError {
    let args = || Some("x".repeat(100_000));
    within("a refusal", async {
        loop {
            if let Err(error) = node.create_job(offer, args()).await {
                return error;
            }
        }
    })
    .await
}

async fn until_taken(node: &Arc<dyn Node>, offer: SnapshotId) {
    within("a job that is taken again", async {
        while node.create_job(offer, None).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_jobs_on_either_side_until_there_is_room() {
    show_logs();
    let (sells, buys) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (Some(_sells), Some(_buys)) = (mount(sells.path()), mount(buys.path())) else {
        return;
    };
    let with_payloads = |mut config: derouter_node::NodeConfig| {
        config.store_payloads = true;
        config
    };
    let selling = with_payloads(config(sells.path(), Vec::new()));
    let provider = derouter_node::start(selling).await.unwrap();
    let address = provider.listen_addresses().await.remove(0);
    let buying = config(buys.path(), vec![address]);
    let consumer = derouter_node::start(with_payloads(buying)).await.unwrap();
    let service = Echo::new(Some(1));
    let _provision = provider
        .handle()
        .provide(
            vec![offer("echo", "payload")],
            ProvideOptions::default(),
            Arc::clone(&service) as _,
        )
        .await
        .unwrap();
    let node = consumer.handle();
    let snapshot = see_offer(&node, "echo").await.snapshot_id;

    let ballast = sells.path().join("ballast");
    fill(&ballast);
    let refused = until_refused(&node, snapshot).await;
    assert!(matches!(refused, CreateJobError::ProviderBusy), "{refused}");
    // From now on the module is not even asked.
    let asked = service.accepted.load(Ordering::Relaxed);
    let refused = node.create_job(snapshot, None).await.unwrap_err();
    assert!(matches!(refused, CreateJobError::ProviderBusy), "{refused}");
    assert_eq!(service.accepted.load(Ordering::Relaxed), asked);
    fs::remove_file(&ballast).unwrap();
    until_taken(&node, snapshot).await;

    let ballast = buys.path().join("ballast");
    fill(&ballast);
    let refused = until_refused(&node, snapshot).await;
    assert!(refused.to_string().contains("disk is full"), "{refused}");
    let asked = service.accepted.load(Ordering::Relaxed);
    let refused = node.create_job(snapshot, None).await.unwrap_err();
    let CreateJobError::Node(NodeError::Internal(why)) = refused else {
        panic!("{refused}");
    };
    assert!(
        why.contains("no new jobs") && why.contains("disk is full"),
        "{why}"
    );
    assert_eq!(
        service.accepted.load(Ordering::Relaxed),
        asked,
        "no provider is asked"
    );
    fs::remove_file(&ballast).unwrap();
    until_taken(&node, snapshot).await;
    consumer.shutdown().await;
    provider.shutdown().await;
}
