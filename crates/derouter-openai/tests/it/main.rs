//! Whole modules, with real HTTP on 127.0.0.1 and a node that is played by the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod consumer_answers;
mod consumer_failover;
mod consumer_limits;
mod consumer_node;
mod consumer_refusals;
mod consumer_routing;
mod consumer_support;
mod golden;
mod provider_answers;
mod provider_connections;
mod provider_faults;
mod provider_support;
