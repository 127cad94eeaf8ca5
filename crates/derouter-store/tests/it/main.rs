//! Tests of the store over its public interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs
)]

mod announcements;
mod batches;
mod crash;
mod disk;
#[cfg(feature = "failpoints")]
mod faults;
mod forgetting;
mod job_changes;
mod jobs;
mod legacy;
mod legacy_odd;
mod migrations;
mod opening;
mod peers;
mod reader;
mod retention;
mod states;
mod support;
