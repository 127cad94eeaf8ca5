//! Nodes in one process, joined over 127.0.0.1.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub
)]

mod node_0_1;
mod node_disk;
mod node_drain;
mod node_jobs;
mod node_legacy;
mod node_offers;
mod node_peers;
mod old_node;
mod rpc_calls;
mod rpc_events;
mod rpc_hello;
mod rpc_hostile;
mod rpc_jobs;
mod rpc_large;
mod rpc_modern;
mod rpc_raw;
mod rpc_support;
mod support;
mod wire_0_2;
