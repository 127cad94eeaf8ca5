//! The provider module: puts OpenAI-compatible servers ("backends") on the market.
//!
//! A job flows like this: `service` checks it and claims a slot, a pump (`pump`) asks the
//! `backend` at once and writes the values of the answer to the job's `log`, and each connection
//! (`connection`) of the job's consumer reads that log from its beginning. So a later connection
//! replays for free, and a slow one never holds a faster one up.

pub mod backend;
pub mod config;
mod connection;
pub mod counters;
pub mod detect;
pub mod echo;
mod job;
mod log;
mod normalize;
mod pump;
mod registry;
mod request;
mod running;
mod service;
mod sse;
mod usage;
mod window;

pub use config::{BackendConfig, Limits, OfferConfig, ProviderConfig, Secret};
pub use counters::{Counters, CountersSnapshot};
pub use detect::{DetectedBackend, detect_backends};
pub use echo::{EchoBackend, start_echo_backend};
pub use running::{RunningProvider, StartError, start};
