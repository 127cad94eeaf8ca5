//! Peers and the addresses under which they were last reached: a start dials the best of them. And
//! what is held against them, so that a restart pardons nobody.

use derouter_wire::{PeerId, UnixSeconds};
use rusqlite::{Connection, Row, Statement, params};

use crate::column::{RowName, time};
use crate::error::{StoreError, at_most};
use crate::limits;
use crate::store::{Durability, Store};

/// What the peer book knows of a peer.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownPeer {
    /// Who.
    pub peer: PeerId,
    /// Where it may be reached, best first.
    pub addresses: Vec<KnownAddress>,
    /// When it was last connected, by our clock; `None` when it never was.
    pub connected_at: Option<UnixSeconds>,
    /// What it calls itself.
    pub agent: Option<String>,
    /// Whether it relays circuits for others.
    pub relays: bool,
    /// Its misbehaviour score at `score_at`: 0 to -100.
    pub score: f64,
    /// When it had that score.
    pub score_at: UnixSeconds,
    /// Until when it is banned.
    pub banned_until: Option<UnixSeconds>,
    /// How often it was banned.
    pub bans: u32,
}

/// An address of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAddress {
    /// The multiaddr as text.
    pub address: String,
    /// When the peer was last reached there.
    pub last_success: Option<UnixSeconds>,
}

impl Store {
    /// Keeps what is known of peers in place of what was known: at most [`limits::PEER_BATCH`] at a
    /// time, with at most [`limits::PEER_ADDRESSES`] of at most [`limits::ADDRESS_BYTES`] each. Over
    /// [`limits::PEERS`] peers, those longest neither connected nor banned are forgotten.
    pub async fn remember_peers(&self, peers: Vec<KnownPeer>) -> Result<(), StoreError> {
        at_most("peers", peers.len(), limits::PEER_BATCH)?;
        for peer in &peers {
            at_most("addresses", peer.addresses.len(), limits::PEER_ADDRESSES)?;
            for known in &peer.addresses {
                at_most(
                    "bytes in an address",
                    known.address.len(),
                    limits::ADDRESS_BYTES,
                )?;
            }
        }
        self.write(Durability::Wal, move |connection| {
            for peer in &peers {
                put(connection, peer)?;
            }
            forget(connection)
        })
        .await
    }

    /// The remembered peers, the latest connected or banned first, at most `limit`.
    pub async fn peers(&self, limit: usize) -> Result<Vec<KnownPeer>, StoreError> {
        self.read(move |connection| list(connection, limit)).await
    }
}

fn put(connection: &Connection, peer: &KnownPeer) -> Result<(), StoreError> {
    let id = peer.peer.to_bytes();
    // SQLite has no NaN, and a score outside of its range says nothing.
    let score = if peer.score.is_finite() {
        peer.score.clamp(-100.0, 0.0)
    } else {
        0.0
    };
    connection
        .prepare_cached(
            "INSERT INTO peers
               (peer_id, connected_at, agent, relays, score, score_at, banned_until, bans)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (peer_id) DO UPDATE SET
               connected_at = excluded.connected_at, agent = excluded.agent,
               relays = excluded.relays, score = excluded.score, score_at = excluded.score_at,
               banned_until = excluded.banned_until, bans = excluded.bans",
        )?
        .execute(params![
            id,
            time(peer.connected_at.unwrap_or(UnixSeconds(0)))?,
            peer.agent,
            peer.relays,
            score,
            time(peer.score_at)?,
            peer.banned_until.map(time).transpose()?,
            peer.bans,
        ])?;
    connection
        .prepare_cached("DELETE FROM peer_addresses WHERE peer_id = ?1")?
        .execute([&id])?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO peer_addresses (peer_id, rank, address, last_success)
         VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (rank, known) in (0_u32..).zip(&peer.addresses) {
        let last_success = known.last_success.map(time).transpose()?;
        insert.execute(params![id, rank, known.address, last_success])?;
    }
    Ok(())
}

fn forget(connection: &Connection) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "DELETE FROM peers WHERE peer_id IN
               (SELECT peer_id FROM peers
                ORDER BY max(connected_at, ifnull(banned_until, 0)) DESC LIMIT -1 OFFSET ?1)",
        )?
        .execute([limits::PEERS])?;
    Ok(())
}

fn list(connection: &Connection, limit: usize) -> Result<Vec<KnownPeer>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut addresses = connection.prepare_cached(
        "SELECT address, last_success FROM peer_addresses WHERE peer_id = ?1 ORDER BY rank",
    )?;
    let mut statement = connection.prepare_cached(
        "SELECT peer_id, connected_at, agent, relays, score, score_at, banned_until, bans
         FROM peers ORDER BY max(connected_at, ifnull(banned_until, 0)) DESC LIMIT ?1",
    )?;
    let mut rows = statement.query([limit])?;
    let mut peers = Vec::new();
    while let Some(row) = rows.next()? {
        peers.push(read(row, &mut addresses)?);
    }
    Ok(peers)
}

fn read(row: &Row<'_>, addresses: &mut Statement<'_>) -> Result<KnownPeer, StoreError> {
    let name = RowName {
        table: "peers",
        row: 0,
    };
    let id: Vec<u8> = row.get(0)?;
    let mut found = addresses.query([&id])?;
    let mut known = Vec::new();
    while let Some(address) = found.next()? {
        let last_success: Option<i64> = address.get(1)?;
        known.push(KnownAddress {
            address: address.get(0)?,
            last_success: last_success.map(|at| name.time(at)).transpose()?,
        });
    }
    let connected_at = name.time(row.get(1)?)?;
    let banned_until: Option<i64> = row.get(6)?;
    Ok(KnownPeer {
        peer: name.peer(&id)?,
        addresses: known,
        connected_at: (connected_at.0 > 0).then_some(connected_at),
        agent: row.get(2)?,
        relays: row.get(3)?,
        score: row.get(4)?,
        score_at: name.time(row.get(5)?)?,
        banned_until: banned_until.map(|at| name.time(at)).transpose()?,
        bans: row.get(7)?,
    })
}
