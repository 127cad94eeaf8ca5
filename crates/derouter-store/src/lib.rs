//! Memory of the node: SQLite on its own thread.
//!
//! [`Store`] is a cheap handle; every call becomes a command that one thread runs in order.
//! Commands that wait together are committed together, and answered only after that commit.

mod announcements;
mod column;
mod error;
mod faults;
mod file;
mod forget;
mod health;
mod jobs;
mod legacy;
mod peers;
mod reader;
mod retention;
mod schema;
mod store;
mod sync;
mod thread;
mod vacuum;

pub use derouter_market as market;

pub use announcements::{AnnouncedOffer, AnnouncementClock, ProviderRow, SnapshotRow};
pub use error::{ImportError, InsertJobError, OpenError, StoreError};
pub use forget::{Forgotten, Idle};
pub use jobs::{
    ChangeOutcome, JobChanges, JobHistory, JobPage, NewJob, StoredJob, StoredJobs, StoredPage,
};
pub use legacy::{ImportOutcome, ImportReport};
pub use peers::{KnownAddress, KnownPeer};
pub use reader::{BackupError, BackupProgress, CheckReport, Finding, Reader};
pub use retention::{PayloadMark, PayloadSizes, Pruned};
pub use store::{Durability, Store};
pub use thread::Counters;
pub use vacuum::{Vacuumed, vacuum};

/// What one call may name or return, as constants for those who page through the rows.
pub mod limits {
    /// Rows in one page of jobs: the RPC's own limit.
    pub const PAGE_ROWS: usize = 100;

    /// Bytes of payloads in one page of jobs: one that has as many ends there, and the next begins
    /// behind it. One job alone may have more.
    pub const PAGE_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;

    /// Ids in one call, and values in one filter. Matches the RPC's own cap on filters, and keeps
    /// a query of three filters far below SQLite's 32,766 bound parameters.
    pub const IDS: usize = 1024;

    /// Offers in one announcement. A heartbeat of 64 KiB holds fewer; our own modules may provide
    /// 5,000 and more before they are announced in part.
    pub const OFFERS: usize = 16_384;

    /// Peers that are remembered. More than a start ever dials; the longest unseen go first.
    pub const PEERS: u32 = 1000;

    /// Addresses of one remembered peer.
    pub const PEER_ADDRESSES: usize = 8;

    /// Bytes of one remembered address. Real multiaddrs are under 200.
    pub const ADDRESS_BYTES: usize = 1024;

    /// Peers in one call: with their addresses about a millisecond of the thread.
    pub const PEER_BATCH: usize = 64;
}
