//! Measuring the gateway, and job streams.
//!
//! The gateway: the same requests to a backend, through one and two plain reverse proxies, through nginx
//! and LiteLLM where they are installed, and through two nodes, interleaved in one run.

pub mod baselines;
pub mod jobs;
pub mod load;
pub mod proxy;
pub mod report;
pub mod stage;
pub mod streams;
