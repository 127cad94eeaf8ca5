//! Watches: a full state first, then changes. After a lost connection or a slow reader there is
//! another full state, so that a watcher never works on what it missed.

use std::time::Duration;

use derouter_wire::rpc::event::{OfferRemoved, ProviderHeartbeat};
use derouter_wire::rpc::record::{JobRecord, OfferSnapshot, ProviderRecord};
use tokio::sync::mpsc;

/// A change of the offers that a watch looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfferEvent {
    /// All active offers. Comes first, and again whenever changes may have been missed.
    Reset(Vec<OfferSnapshot>),
    /// An offer is on the market, new or changed: it replaces the one of the same provider,
    /// protocol and offer id.
    Updated(OfferSnapshot),
    /// An offer left the market.
    Removed(OfferRemoved),
}

/// A change of the providers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderEvent {
    /// All active providers. Comes first, and again whenever changes may have been missed.
    Reset(Vec<ProviderRecord>),
    /// A provider is new, or its details changed.
    Updated(ProviderRecord),
    /// A provider was heard.
    Heartbeat(ProviderHeartbeat),
}

/// A change of the jobs that a watch looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// The watch begins, or changes may have been missed: query what matters.
    Reset,
    /// A job was made or changed.
    Updated(Box<JobRecord>),
}

/// Whether a node takes new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeState {
    /// It does.
    Serving,
    /// It is on its way down: its offers are off the market, it creates no jobs, and jobs that run
    /// go on.
    Draining {
        /// How long they have. It was right when the node said it.
        left: Duration,
    },
}

/// The events of a watch. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch<T> {
    events: mpsc::Receiver<T>,
}

impl<T> Watch<T> {
    /// A watch fed through a bounded channel. The feeder stops when the channel is closed.
    pub fn new(events: mpsc::Receiver<T>) -> Self {
        Self { events }
    }

    /// The next event, or `None` when the node has shut down for good.
    pub async fn next(&mut self) -> Option<T> {
        self.events.recv().await
    }
}
