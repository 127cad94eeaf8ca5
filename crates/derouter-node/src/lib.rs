//! The node: market, net and store joined. [`start`] brings one up; modules use it through
//! [`derouter_sdk::Node`], in process ([`RunningNode::handle`]) or over the RPC, which only
//! translates frames into that same trait.

/// A named place where tests make the node crash, stall or fail (feature `failpoints`, which no release
/// has).
macro_rules! failpoint {
    ($name:literal) => {{
        #[cfg(feature = "failpoints")]
        $crate::points::reached($name);
    }};
}
pub(crate) use failpoint;

mod announcer;
mod clock;
pub mod config;
mod confirm;
mod disk_watch;
mod drain;
mod event_log;
#[doc(hidden)]
pub mod fuzz;
mod handle;
mod housekeeping;
pub mod identity;
mod inbound;
mod jobs;
mod legacy;
mod listen_ports;
mod market_task;
mod module_book;
mod network;
mod open_jobs;
mod opened;
mod peer_keeper;
mod places;
#[cfg(feature = "failpoints")]
mod points;
mod provided;
mod pulse;
mod recent;
mod records;
mod retention;
pub mod rpc;
mod running;
mod session;
mod shared;
mod start;
mod wanted;
mod watches;

pub use config::{NodeConfig, PayloadRetention, ProviderDetails};
pub use derouter_net::{
    DiscoveryMode, DiscoveryOptions, KnownReachability, Multiaddr, NetOptions, PeerRule,
    RelayLimits,
};
pub use drain::Left;
pub use handle::LocalNode;
pub use listen_ports::kept_listen;
pub use pulse::{Pulse, Silent};
pub use rpc::RpcOptions;
pub use start::{Database, RunningNode, StartError, start};
