//! Kademlia among nodes of 0.2: where a peer is, and who provides offers of a protocol.
//!
//! Only `FIND_NODE` and provider records are used; value records are refused. Public nodes and
//! relays answer, the others only ask. Decisions are in the modules below, without sockets or a
//! clock; the swarm task joins them (`actor::kademlia`).

mod behaviour;
pub(crate) mod lookups;
pub(crate) mod publications;
pub(crate) mod scope;
mod store;
pub(crate) mod wanted;

pub(crate) use behaviour::{Behaviour, Event};
