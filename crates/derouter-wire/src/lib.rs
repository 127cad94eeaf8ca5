//! The bytes of the DeRouter wire: identifiers, money, CBOR codecs, size caps, job hashes.
//!
//! Everything here is pure: no I/O, no async, no clock. The layouts follow wire 0.1 exactly
//! (golden tests hold them to recorded bytes); each module names the channel it describes.

pub mod cbor;
pub mod gossip;
pub mod id;
pub mod job;
pub mod limits;
pub mod reqres;
pub mod rpc;
pub mod stream;
pub mod wei;

pub use id::{
    ConnectionId, Currency, JobId, JobKey, OfferId, ProtocolId, RowId, SnapshotId, SubscriptionId,
    UnixSeconds,
};
pub use libp2p_identity::PeerId;
pub use wei::Wei;
