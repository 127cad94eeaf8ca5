//! The bytes of the DeRouter wire: identifiers, money, CBOR codecs, size caps, job hashes.
//!
//! Everything here is pure: no I/O, no async, no clock. The layouts of wire 0.1 follow it
//! exactly (golden tests hold them to recorded bytes), [`announce`], [`discovery`] and [`jobs`] are wire 0.2;
//! each module names the channel it describes.

pub mod announce;
pub mod cbor;
pub mod discovery;
#[doc(hidden)]
pub mod fuzz;
pub mod gossip;
pub mod id;
pub mod job;
pub mod jobs;
pub mod kademlia;
pub mod limits;
pub mod reqres;
pub mod rpc;
pub mod stream;
pub mod wei;

pub use id::{
    ConnectionId, Currency, JobId, JobKey, OfferId, OfferKey, ProtocolId, RowId, SnapshotId,
    SubscriptionId, UnixSeconds,
};
pub use libp2p_identity::PeerId;
pub use wei::Wei;
