//! The testkit's own tests: a fault that does not happen would make other tests pass for nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    missing_docs
)]

mod backend;
mod batches;
mod lab;
mod link;
mod plain;
mod points;
mod process;
mod proxy;
