//! The whole life of jobs, between two processes that each run a node with its module inside, as
//! `derouter run` does: created, joined, answered by an echo, completed, signed, confirmed on both
//! sides. Against round trips of the same bytes over plain TCP between the same two processes.

mod buyer;
mod cost;
mod seller;

pub use buyer::{Options, buy};
pub use seller::{Selling, sell};

use std::path::Path;

use derouter_node::{NetOptions, NodeConfig, PayloadRetention, ProviderDetails, RunningNode};
use derouter_sdk::{OfferId, ProtocolId};

/// The protocol of the offer.
const PROTOCOL: &str = "derouter-bench-jobs/1";

/// The offer.
const OFFER: &str = "echo";

/// Bytes of a request, and about as many of an answer.
const BYTES: usize = 256;

/// What a job costs, in wei: it is a debt and signed like any other.
const PRICE: u128 = 1_000;

fn protocol() -> ProtocolId {
    ProtocolId::new(PROTOCOL).expect("a short name")
}

fn offer() -> OfferId {
    OfferId::new(OFFER).expect("a short name")
}

/// A node on 127.0.0.1 with its data in a directory.
async fn node(directory: &Path, bootstrap: &[String]) -> RunningNode {
    let bootstrap = bootstrap.iter();
    let bootstrap = bootstrap.map(|address| address.parse().expect("an address"));
    let net = NetOptions {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
        bootstrap: bootstrap.collect(),
        mdns: false,
        port_mapping: false,
        ..NetOptions::default()
    };
    let config = NodeConfig {
        keypair_path: directory.join("key"),
        database_path: directory.join("derouter.sqlite"),
        legacy_database_path: None,
        net,
        provider: ProviderDetails::default(),
        rpc: None,
        store_payloads: false,
        retention: PayloadRetention::default(),
    };
    derouter_node::start(config).await.expect("the node starts")
}
