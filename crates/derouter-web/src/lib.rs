//! The dashboard: pages for whoever runs a node, its health and its metrics, over HTTP.
//!
//! It knows the node as [`derouter_sdk::Node`]; what the modules of a process know comes through
//! the traits of [`modules`], and pages say plainly what is not in this process. `guard` decides who
//! is served, `derouter_http` bounds how much, `board` keeps what pages show and streams tell of.

mod assets;
mod board;
mod chart;
mod events;
mod filter;
mod guard;
mod hosts;
pub mod logs;
mod metrics;
pub mod modules;
mod options;
mod pages;
mod pulse;
mod routes;
mod running;
mod sessions;
mod state;
mod tally;
mod text;
mod ui;

pub use modules::Modules;
pub use options::{DEFAULT_PORT, WebOptions};
pub use running::{RunningWeb, StartError, start};
