//! What this node refused, dropped and rejected, for metrics and tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::relay_server::RelayCounters;

/// Counts since the start. All only rise.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct NetCounters {
    /// Heartbeats passed on to the node.
    pub heartbeats_received: AtomicU64,
    /// Heartbeats that were no heartbeat: bad CBOR, too large, no source.
    pub heartbeats_invalid: AtomicU64,
    /// Heartbeats not newer than the last one of their source.
    pub heartbeats_stale: AtomicU64,
    /// Heartbeats of the future (over four hours ahead).
    pub heartbeats_future: AtomicU64,
    /// Heartbeats of the past (over four hours ago).
    pub heartbeats_past: AtomicU64,
    /// Heartbeats over the rate of their source or of who forwarded them.
    pub heartbeats_limited: AtomicU64,
    /// Good heartbeats that the node was too slow to take.
    pub heartbeats_dropped: AtomicU64,
    /// Heartbeats that this node published.
    pub heartbeats_sent: AtomicU64,
    /// Tries to publish that failed, mostly for want of peers; they are repeated.
    pub heartbeats_unsent: AtomicU64,
    /// New announcements (0.2), by gossip and by reconciliation.
    pub announcements_received: AtomicU64,
    /// Announcements that were known, older than what is known, or over.
    pub announcements_stale: AtomicU64,
    /// Announcements from over four hours ahead or ago.
    pub announcements_off_clock: AtomicU64,
    /// Announcements over the rate of their source or forwarder, or of more providers than fit.
    pub announcements_limited: AtomicU64,
    /// What was no announcement.
    pub announcements_invalid: AtomicU64,
    /// Announcements whose signature was wrong.
    pub announcements_forged: AtomicU64,
    /// Batches of gossiped announcements for which the queue was full; reconciliation brings them.
    pub announcements_dropped: AtomicU64,
    /// Announcements of others that were not handed on, for want of room; reconciliation brings them.
    pub announcements_unsent: AtomicU64,
    /// Batches of announcements that were handed to neighbours.
    pub announcements_sent: AtomicU64,
    /// Announcements that hold now. This one falls, too.
    pub announcements_known: AtomicU64,
    /// Signatures of announcements that were checked.
    pub signature_checks: AtomicU64,
    /// Offer lists that were pulled.
    pub lists_pulled: AtomicU64,
    /// Answers with a list that was not the one announced.
    pub lists_wrong: AtomicU64,
    /// Reconciliations that this node began and finished.
    pub reconciliations: AtomicU64,
    /// Reconciliations with a peer of chance that brought what the mesh should have brought long before.
    pub meshes_late: AtomicU64,
    /// Requests of the discovery protocol that were answered.
    pub discovery_served: AtomicU64,
    /// Requests of the discovery protocol that were refused, or were none.
    pub discovery_refused: AtomicU64,
    /// Inbound requests passed on to the node.
    pub requests_received: AtomicU64,
    /// Inbound requests refused because the node's queue was full.
    pub requests_refused: AtomicU64,
    /// Inbound requests that could not be read in time or were no request.
    pub requests_invalid: AtomicU64,
    /// Inbound requests that the node did not answer in time.
    pub requests_unanswered: AtomicU64,
    /// Job streams passed on to the node.
    pub streams_received: AtomicU64,
    /// Job streams refused because the node's queue was full.
    pub streams_refused: AtomicU64,
    /// Job streams whose head did not come in time or was none.
    pub streams_invalid: AtomicU64,
    /// Inbound substreams dropped because their connection or the node had too many unserved.
    pub substreams_dropped: AtomicU64,
    /// Inbound connections closed, new ones among them, because there were too many.
    pub inbound_closed: AtomicU64,
    /// Inbound connections refused before they were one: blocked, banned, or too many.
    pub inbound_refused: AtomicU64,
    /// Bans of peers that misbehaved.
    pub peers_banned: AtomicU64,
    /// Connect and disconnect notices that the node was too slow to take.
    pub peer_events_dropped: AtomicU64,
    /// What this node gave and refused as a relay.
    pub relay: Arc<RelayCounters>,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
