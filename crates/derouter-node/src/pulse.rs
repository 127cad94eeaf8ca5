//! Whether the node lives: its loops answer. For whoever restarts what hangs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::drain::Left;
use crate::shared::Shared;

/// A loop that does not answer. Its work stands still, and nothing but a new start mends that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Silent {
    /// The task that owns the connections.
    #[error("the network's task does not answer")]
    Network,
    /// The thread that owns the database.
    #[error("the database's thread does not answer")]
    Database,
}

/// Asks the loops that everything else waits for. After the node's stop they are silent.
#[derive(Clone)]
pub struct Pulse {
    pub(crate) shared: Arc<Shared>,
}

impl Pulse {
    /// Whether both loops answer within `limit`.
    pub async fn feel(&self, limit: Duration) -> Result<(), Silent> {
        let net = timeout(limit, self.shared.net.answers());
        let store = timeout(limit, self.shared.store.ping());
        let (net, store) = tokio::join!(net, store);
        if !net.unwrap_or(false) {
            return Err(Silent::Network);
        }
        match store {
            Ok(Ok(())) => Ok(()),
            _ => Err(Silent::Database),
        }
    }

    /// How many peers are connected.
    pub async fn peers(&self) -> usize {
        self.shared.net.peers().await.len()
    }

    /// The jobs that run now, and the signatures on their way.
    pub fn left(&self) -> Left {
        self.shared.left()
    }
}
