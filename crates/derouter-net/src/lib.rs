//! Peers: the libp2p swarm behind one actor (wire 0.1, "Node to node").
//!
//! [`start`] spawns the task that owns the swarm and gives a [`Net`] handle and the inbound halves
//! ([`NetEvents`]). The swarm task only decides and negotiates; every exchange with a peer
//! (request, response, stream head) runs in its own task with its own deadline, so that no peer
//! makes another wait.

mod access;
mod actor;
mod address;
mod announcing;
mod autonat;
mod behaviour;
mod bootstrap;
mod circuits;
mod clock;
mod config;
mod connector;
mod counters;
mod dial_error;
mod dial_queue;
mod directory;
mod discovery;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod guests;
mod heartbeat;
mod job_calls;
mod job_stream;
mod kademlia;
mod legacy;
mod limits;
mod listen_ports;
mod net;
mod offers;
mod paced;
mod peer;
mod peer_book;
mod peer_places;
mod ping;
mod reachability;
mod relay_server;
mod reqres;
mod serve;
mod streams;
mod subnets;
mod transport;
mod varied;

pub use access::{PeerRule, PeerRuleError};
pub use address::is_global;
pub use behaviour::MESH_PROTOCOL;
pub use clock::boot_time;
pub use config::{
    DiscoveryMode, DiscoveryOptions, KnownReachability, NetConfig, NetOptions, RelayLimits,
};
pub use counters::NetCounters;
pub use error::{DialError, OpenStreamError, RequestError, StartError};
pub use heartbeat::{ReceivedHeartbeat, SentHeartbeat};
pub use job_calls::{Answering, InboundJobCall, JobLine, JobReply};
pub use job_stream::{InboundJobStream, JobStream};
pub use libp2p::identity::Keypair;
pub use libp2p::{Multiaddr, PeerId};
pub use net::{Net, NetEvents, start};
pub use offers::{AnnouncedList, OfferNews};
pub use peer::{PeerConnection, PeerEvent, PeerInfo};
pub use peer_book::{KnownAddress, KnownPeer};
pub use relay_server::RelayCounters;
pub use reqres::{InboundRequest, Reply};
pub use transport::Traffic;
