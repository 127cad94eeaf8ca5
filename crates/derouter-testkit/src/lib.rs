//! Real nodes for tests, and backends that misbehave on demand. Only for tests.
//!
//! [`Backend`] is an OpenAI-compatible server whose faults are chosen for each request,
//! [`NodeProcess`] a `derouter` process in a directory of its own, [`Pair`] a provider and a
//! consumer that know each other. Everything listens on 127.0.0.1 and on ports that were free.
//!
//! What goes wrong in here fails the test at the place where it goes wrong: these functions panic
//! with the node's log instead of returning errors.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

pub mod backend;
pub mod bench;
pub mod crash;
pub mod fault;
pub mod home;
pub mod hostile;
pub mod http;
pub mod lab;
pub mod ledger;
pub mod link;
pub mod measure;
pub mod pair;
pub mod process;
pub mod schema;
pub mod sim;
pub mod soak;
pub mod sockets;
pub mod wait;

pub use backend::{Backend, BackendOptions, Outcome, SeenRequest};
pub use fault::{Behaviour, Fault, Usage};
pub use home::{NodeConfig, NodeHome};
pub use ledger::{Ledger, Trade};
pub use pair::{Modules, Pair};
pub use process::{Exit, NodeProcess, Process, Ready};
pub use wait::{DEADLINE, eventually};
