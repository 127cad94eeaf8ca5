//! Measuring the gateway, and job streams.
//!
//! The gateway: the same requests to a backend, through a chain of two plain reverse
//! proxies, and through two nodes, interleaved in one run.

pub mod jobs;
pub mod load;
pub mod proxy;
pub mod report;
pub mod stage;
pub mod streams;
