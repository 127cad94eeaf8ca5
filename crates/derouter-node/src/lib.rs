//! The node: market, net and store joined. [`start`] brings one up; modules use it through
//! [`derouter_sdk::Node`], in process ([`RunningNode::handle`]) or over the RPC, which only
//! translates frames into that same trait.

mod announcer;
mod clock;
pub mod config;
mod confirm;
mod event_log;
mod handle;
mod housekeeping;
pub mod identity;
mod inbound;
mod jobs;
mod listen_ports;
mod market_task;
mod network;
mod peer_keeper;
mod places;
mod provided;
mod recent;
mod records;
pub mod rpc;
mod shared;
mod start;
mod wanted;
mod watches;

pub use config::{NodeConfig, ProviderDetails};
pub use derouter_net::{
    DiscoveryMode, DiscoveryOptions, KnownReachability, Multiaddr, NetOptions, PeerRule,
    RelayLimits,
};
pub use handle::LocalNode;
pub use listen_ports::kept_listen;
pub use rpc::RpcOptions;
pub use start::{RunningNode, StartError, start};
