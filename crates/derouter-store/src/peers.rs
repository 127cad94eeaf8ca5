//! Peers and the addresses under which they were last reached: a start dials the best of them.

use derouter_wire::{PeerId, UnixSeconds};
use rusqlite::{Connection, params};

use crate::column::{RowName, time};
use crate::error::{StoreError, at_most};
use crate::limits;
use crate::store::{Durability, Store};

/// A peer that was reached before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Who.
    pub peer: PeerId,
    /// Its multiaddrs as text, best first.
    pub addresses: Vec<String>,
    /// When it was last connected, by our clock.
    pub connected_at: UnixSeconds,
}

impl Store {
    /// Keeps a peer's good addresses, best first, in place of those known. At most
    /// [`limits::PEER_ADDRESSES`] of at most [`limits::ADDRESS_BYTES`] each. Over
    /// [`limits::PEERS`] peers, the one longest not connected is forgotten.
    pub async fn remember_peer(&self, peer: KnownPeer) -> Result<(), StoreError> {
        at_most("addresses", peer.addresses.len(), limits::PEER_ADDRESSES)?;
        for address in &peer.addresses {
            at_most("bytes in an address", address.len(), limits::ADDRESS_BYTES)?;
        }
        self.write(Durability::Wal, move |connection| put(connection, &peer))
            .await
    }

    /// The remembered peers, the latest connected first, at most `limit`.
    pub async fn peers(&self, limit: usize) -> Result<Vec<KnownPeer>, StoreError> {
        self.read(move |connection| list(connection, limit)).await
    }
}

fn put(connection: &Connection, peer: &KnownPeer) -> Result<(), StoreError> {
    let id = peer.peer.to_bytes();
    connection
        .prepare_cached(
            "INSERT INTO peers (peer_id, connected_at) VALUES (?1, ?2)
             ON CONFLICT (peer_id) DO UPDATE SET connected_at = excluded.connected_at",
        )?
        .execute(params![id, time(peer.connected_at)?])?;
    connection
        .prepare_cached("DELETE FROM peer_addresses WHERE peer_id = ?1")?
        .execute([&id])?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO peer_addresses (peer_id, rank, address) VALUES (?1, ?2, ?3)",
    )?;
    for (rank, address) in (0_u32..).zip(&peer.addresses) {
        insert.execute(params![id, rank, address])?;
    }
    connection
        .prepare_cached(
            "DELETE FROM peers WHERE peer_id IN
               (SELECT peer_id FROM peers ORDER BY connected_at DESC LIMIT -1 OFFSET ?1)",
        )?
        .execute([limits::PEERS])?;
    Ok(())
}

fn list(connection: &Connection, limit: usize) -> Result<Vec<KnownPeer>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let name = RowName {
        table: "peers",
        row: 0,
    };
    let mut addresses = connection
        .prepare_cached("SELECT address FROM peer_addresses WHERE peer_id = ?1 ORDER BY rank")?;
    let mut statement = connection.prepare_cached(
        "SELECT peer_id, connected_at FROM peers ORDER BY connected_at DESC LIMIT ?1",
    )?;
    let mut rows = statement.query([limit])?;
    let mut peers = Vec::new();
    while let Some(row) = rows.next()? {
        let id: Vec<u8> = row.get(0)?;
        let texts = addresses.query_map([&id], |row| row.get(0))?;
        peers.push(KnownPeer {
            peer: name.peer(&id)?,
            addresses: texts.collect::<Result<_, _>>()?,
            connected_at: name.time(row.get(1)?)?,
        });
    }
    Ok(peers)
}
