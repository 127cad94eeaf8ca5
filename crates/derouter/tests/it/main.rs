//! Whole processes on 127.0.0.1: nodes, modules, real OpenAI clients.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    clippy::large_futures,
    missing_docs
)]

mod browser;
mod cancel;
mod client;
mod commands;
mod compat;
mod corpus;
mod crash;
mod dashboard;
mod db;
mod discovery;
mod drain;
mod endpoint;
mod fault_matrix;
mod faults;
mod hedge;
mod hostile;
mod http_jobs;
mod js_module;
mod lab;
mod logs;
mod market;
mod mdns;
mod network;
mod old_only;
mod relay;
mod selling;
mod signature;
mod start;
mod stop;
mod supervised;
mod token;
mod trade;

/// The binary under test.
const DEROUTER: &str = env!("CARGO_BIN_EXE_derouter");
