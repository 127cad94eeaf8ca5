//! JavaScript modules over the plain wire, with the packages that 0.1.0 modules use
//! (tests/js-module).

use std::path::PathBuf;
use std::time::Duration;

use derouter_testkit::{NodeConfig, NodeHome, NodeProcess};
use serde_json::json;
use tokio::process::Command;

use crate::DEROUTER;

/// All steps together; each has its own, shorter deadline.
const DEADLINE: Duration = Duration::from_secs(180);

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/js-module/module.mjs")
}

/// `cargo xtask test` installs the packages, and says where it can't.
fn is_installed() -> bool {
    if std::env::var_os("DEROUTER_TEST_NODE_MODULES").is_some() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "the npm packages are not installed: run the tests with `cargo xtask test`"
    );
    eprintln!("skipped: `cargo xtask test` installs the npm packages of tests/js-module");
    false
}

async fn run_modules(provider: &NodeProcess, consumer: &NodeProcess) {
    let mut node = Command::new("node");
    node.arg(script()).kill_on_drop(true);
    for process in [provider, consumer] {
        node.arg(process.ready.rpc.port().to_string());
    }
    let ended = tokio::time::timeout(DEADLINE, node.output()).await;
    let output = ended.expect("the modules end").expect("node runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.ends_with("done\n"),
        "{said}{errors}"
    );
}

fn config() -> NodeConfig {
    NodeConfig::default().with("provider", json!({"name": "js"}))
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_modules_at_two_nodes_use_every_request() {
    if !is_installed() {
        return;
    }
    let provider_home = NodeHome::new("provider", &config());
    let provider = provider_home.start(DEROUTER).await;
    let buying = config().bootstrap(provider.ready.bootstrap());
    let consumer_home = NodeHome::new("consumer", &buying);
    let consumer = consumer_home.start(DEROUTER).await;
    run_modules(&provider, &consumer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_modules_at_one_node_use_every_request() {
    if !is_installed() {
        return;
    }
    let home = NodeHome::new("both", &config());
    let both = home.start(DEROUTER).await;
    run_modules(&both, &both).await;
}
