//! Whole modules, with real HTTP on 127.0.0.1 and a node that is played by the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

// The client packages are driven as by the tests of the whole program, which use more of it.
#[allow(dead_code, clippy::print_stderr)]
#[path = "../../../derouter/tests/it/client.rs"]
mod client;
mod consumer_answers;
mod consumer_failover;
mod consumer_hedging;
mod consumer_keys;
mod consumer_limits;
mod consumer_messages;
mod consumer_messages_client;
mod consumer_node;
mod consumer_refusals;
mod consumer_routing;
mod consumer_support;
mod golden;
mod provider_answers;
mod provider_connections;
mod provider_faults;
mod provider_market;
mod provider_support;
