//! Simulating discovery at scale: many real nodes in one process, and one real node that hears of
//! as many providers as a large network has.

pub mod cost;
mod counted;
pub mod feed;
pub mod frames;
pub mod inbound;
pub mod mesh;
pub mod options;
pub mod plain;
pub mod providers;
pub mod raw_peer;
pub mod subject;
pub mod usage;
