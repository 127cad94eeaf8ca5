//! Real swarms on 127.0.0.1, over TCP and QUIC, with peers that behave and peers that do not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

mod announcements;
mod connections;
mod heartbeats;
mod job_streams;
mod kademlia;
mod liveness;
mod peer_book;
mod raw_peer;
mod reachability;
mod relay_server;
mod relayed;
mod requests;
mod stream_bounds;
mod support;
mod version_0_1;
