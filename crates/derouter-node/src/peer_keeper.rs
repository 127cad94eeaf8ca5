//! Keeps the peer book over restarts.

use derouter_net::{KnownAddress, KnownPeer};
use derouter_store::{Store, limits};
use tokio::sync::mpsc;

/// What an earlier run knew of peers. A node without it still starts: it has bootstrap nodes.
pub(crate) async fn recall(store: &Store) -> Vec<KnownPeer> {
    let most = usize::try_from(limits::PEERS).unwrap_or(usize::MAX);
    match store.peers(most).await {
        Ok(peers) => peers.into_iter().map(recalled).collect(),
        Err(error) => {
            tracing::warn!(%error, "the peers of the last run can't be read; starting without them");
            Vec::new()
        }
    }
}

/// Stores the changes that the network side tells, until it has stopped.
pub(crate) async fn keep(store: Store, mut changes: mpsc::Receiver<Vec<KnownPeer>>) {
    while let Some(changed) = changes.recv().await {
        for batch in changed.chunks(limits::PEER_BATCH) {
            let batch = batch.iter().map(stored).collect();
            // The next change of these peers is stored again.
            if let Err(error) = store.remember_peers(batch).await {
                tracing::warn!(%error, "could not store what is known of peers");
            }
        }
    }
}

fn recalled(stored: derouter_store::KnownPeer) -> KnownPeer {
    let address = |stored: derouter_store::KnownAddress| {
        Some(KnownAddress {
            address: stored.address.parse().ok()?,
            last_success: stored.last_success,
        })
    };
    KnownPeer {
        peer: stored.peer,
        addresses: stored.addresses.into_iter().filter_map(address).collect(),
        last_connected: stored.connected_at,
        agent: stored.agent,
        relays: stored.relays,
        score: stored.score,
        score_at: stored.score_at,
        banned_until: stored.banned_until,
        bans: stored.bans,
    }
}

fn stored(known: &KnownPeer) -> derouter_store::KnownPeer {
    let address = |known: &KnownAddress| derouter_store::KnownAddress {
        address: known.address.to_string(),
        last_success: known.last_success,
    };
    derouter_store::KnownPeer {
        peer: known.peer,
        addresses: known.addresses.iter().map(address).collect(),
        connected_at: known.last_connected,
        agent: known.agent.clone(),
        relays: known.relays,
        score: known.score,
        score_at: known.score_at,
        banned_until: known.banned_until,
        bans: known.bans,
    }
}
