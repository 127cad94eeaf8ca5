//! The testkit's backend as a process: `testkit_backend [address]`, by default on a free port.
//! Prints one JSON line with its address, and serves until it is killed.
#![allow(clippy::print_stdout, clippy::expect_used)]

use derouter_testkit::{Backend, BackendOptions};

#[tokio::main]
async fn main() {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let backend = Backend::start_with(BackendOptions {
        address: address.parse().expect("usage: testkit_backend [ip:port]"),
        record: false,
        ..BackendOptions::default()
    })
    .await;
    println!(
        "{}",
        serde_json::json!({"event": "ready", "address": backend.address()})
    );
    std::future::pending::<()>().await;
}
