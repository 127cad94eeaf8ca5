//! A plain reverse proxy: `testkit_proxy <upstream ip:port>`, on a free port. Prints one JSON line
//! with its address, and serves until it is killed.
#![allow(clippy::print_stdout, clippy::expect_used)]

use derouter_testkit::bench::proxy;

#[tokio::main]
async fn main() {
    let upstream = std::env::args().nth(1).unwrap_or_default();
    let upstream = upstream
        .parse()
        .expect("usage: testkit_proxy <upstream ip:port>");
    let (address, serve) = proxy::bind(upstream).await;
    println!(
        "{}",
        serde_json::json!({"event": "ready", "address": address})
    );
    serve.await;
}
