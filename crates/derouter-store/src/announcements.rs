//! What providers announce, ourselves among them: their details, their offers' snapshots, and the
//! clock of our own announcements.

use std::collections::HashMap;

use derouter_wire::{OfferId, PeerId, ProtocolId, SnapshotId, UnixSeconds};
use rusqlite::{Connection, OptionalExtension, Row, params};
use sha2::{Digest, Sha256};

use crate::column::{RowName, integer, time};
use crate::error::{StoreError, at_most};
use crate::limits;
use crate::store::{Durability, Store};

/// A provider as last heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderRow {
    /// Who.
    pub peer: PeerId,
    /// Its name.
    pub name: Option<String>,
    /// One line about it.
    pub teaser: Option<String>,
    /// More about it.
    pub description: Option<String>,
    /// When its details or offers changed, by its clock.
    pub updated_at: UnixSeconds,
    /// The newest heartbeat's own time, by its clock.
    pub heartbeat_timestamp: UnixSeconds,
    /// When that heartbeat came, by our clock.
    pub heard_at: UnixSeconds,
}

/// An offer of an announcement: its protocol, its name, its payload.
pub type AnnouncedOffer = (ProtocolId, OfferId, String);

/// One (provider, protocol, offer, payload), for ever. Whether it is on offer now is not stored:
/// nothing is, after a start, until its provider is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its id on this node.
    pub id: SnapshotId,
    /// Who offers.
    pub provider: PeerId,
    /// The offer's protocol.
    pub protocol_id: ProtocolId,
    /// The offer's name with its provider.
    pub offer_id: OfferId,
    /// What is offered, byte for byte.
    pub payload: String,
}

/// What our announcements must not go back behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnouncementClock {
    /// The `updated_at` that was announced last.
    pub updated_at: UnixSeconds,
    /// Of the content that was announced with it, so that equal content keeps its time.
    pub digest: [u8; 32],
    /// No heartbeat's `timestamp` was at or over this; later ones must be.
    pub heartbeat_floor: UnixSeconds,
}

impl Store {
    /// Takes over an announcement: the provider's details and times, and the snapshots of its
    /// offers, made where there are none, in the order of `offers` (at most
    /// [`limits::OFFERS`]). The caller has checked that it is newer than the stored one.
    pub async fn apply_announcement(
        &self,
        provider: ProviderRow,
        offers: Vec<AnnouncedOffer>,
    ) -> Result<Vec<SnapshotId>, StoreError> {
        at_most("offers", offers.len(), limits::OFFERS)?;
        self.write(Durability::Wal, move |connection| {
            put_provider(connection, &provider)?;
            snapshots_of(connection, &provider.peer, &offers)
        })
        .await
    }

    /// The snapshots of offers, made where there are none, in the order of `offers` (at most
    /// [`limits::OFFERS`]). The provider's details and times stay as they are.
    pub async fn snapshot_ids(
        &self,
        provider: PeerId,
        offers: Vec<AnnouncedOffer>,
    ) -> Result<Vec<SnapshotId>, StoreError> {
        at_most("offers", offers.len(), limits::OFFERS)?;
        self.write(Durability::Wal, move |connection| {
            snapshots_of(connection, &provider, &offers)
        })
        .await
    }

    /// Heartbeats of providers that changed nothing: (who, the heartbeat's time, when it came). At
    /// most [`limits::IDS`]; unknown providers are left out.
    pub async fn touch_providers(
        &self,
        heard: Vec<(PeerId, UnixSeconds, UnixSeconds)>,
    ) -> Result<(), StoreError> {
        at_most("providers", heard.len(), limits::IDS)?;
        self.write(Durability::Wal, move |connection| {
            let mut update = connection.prepare_cached(
                "UPDATE providers SET heartbeat_timestamp = MAX(heartbeat_timestamp, ?2), heard_at = ?3
                 WHERE peer_id = ?1",
            )?;
            for (peer, timestamp, at) in heard {
                update.execute(params![peer.to_bytes(), time(timestamp)?, time(at)?])?;
            }
            Ok(())
        })
        .await
    }

    /// Snapshots by id, at most [`limits::IDS`]. Unknown ones are left out.
    pub async fn snapshots(&self, ids: Vec<SnapshotId>) -> Result<Vec<SnapshotRow>, StoreError> {
        at_most("snapshot ids", ids.len(), limits::IDS)?;
        self.read(move |connection| {
            let found = ids.iter().map(|id| snapshot(connection, *id));
            found.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Providers by peer id, at most [`limits::IDS`]. Unknown ones are left out.
    pub async fn providers(&self, ids: Vec<PeerId>) -> Result<Vec<ProviderRow>, StoreError> {
        at_most("providers", ids.len(), limits::IDS)?;
        self.read(move |connection| {
            let found = ids.iter().map(|peer| provider(connection, peer));
            found.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// The clock of our announcements; `None` before the first.
    pub async fn announcement_clock(&self) -> Result<Option<AnnouncementClock>, StoreError> {
        self.read(read_clock).await
    }

    /// Keeps the clock of our announcements. To be called before one is sent.
    pub async fn set_announcement_clock(&self, clock: AnnouncementClock) -> Result<(), StoreError> {
        self.write(Durability::Fsync, move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO announcement_clock (id, updated_at, digest, heartbeat_floor)
                     VALUES (1, ?1, ?2, ?3)
                     ON CONFLICT (id) DO UPDATE SET updated_at = excluded.updated_at,
                       digest = excluded.digest, heartbeat_floor = excluded.heartbeat_floor",
                )?
                .execute(params![
                    time(clock.updated_at)?,
                    clock.digest,
                    time(clock.heartbeat_floor)?
                ])?;
            Ok(())
        })
        .await
    }
}

fn read_clock(connection: &Connection) -> Result<Option<AnnouncementClock>, StoreError> {
    let sql = "SELECT updated_at, digest, heartbeat_floor FROM announcement_clock WHERE id = 1";
    let row = connection
        .prepare_cached(sql)?
        .query_row([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let Some((updated_at, digest, floor)) = row else {
        return Ok(None);
    };
    let name = RowName {
        table: "announcement_clock",
        row: 1,
    };
    Ok(Some(AnnouncementClock {
        updated_at: name.time(updated_at)?,
        digest,
        heartbeat_floor: name.time(floor)?,
    }))
}

/// Stores a provider's details and times in place of what was known.
fn put_provider(connection: &Connection, provider: &ProviderRow) -> Result<(), StoreError> {
    insert_provider(
        connection,
        provider,
        "ON CONFLICT (peer_id) DO UPDATE SET name = excluded.name, teaser = excluded.teaser,
         description = excluded.description, updated_at = excluded.updated_at,
         heartbeat_timestamp = excluded.heartbeat_timestamp, heard_at = excluded.heard_at",
    )
    .map(|_| ())
}

/// Stores a provider unless it is known. Says whether it was new.
pub(crate) fn add_provider(
    connection: &Connection,
    provider: &ProviderRow,
) -> Result<bool, StoreError> {
    insert_provider(connection, provider, "ON CONFLICT (peer_id) DO NOTHING")
}

fn insert_provider(
    connection: &Connection,
    provider: &ProviderRow,
    on_conflict: &'static str,
) -> Result<bool, StoreError> {
    let sql = format!(
        "INSERT INTO providers
           (peer_id, name, teaser, description, updated_at, heartbeat_timestamp, heard_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) {on_conflict}"
    );
    let rows = connection.prepare_cached(&sql)?.execute(params![
        provider.peer.to_bytes(),
        provider.name,
        provider.teaser,
        provider.description,
        time(provider.updated_at)?,
        time(provider.heartbeat_timestamp)?,
        time(provider.heard_at)?,
    ])?;
    Ok(rows > 0)
}

fn provider(connection: &Connection, peer: &PeerId) -> Result<Option<ProviderRow>, StoreError> {
    type Columns = (
        Option<String>,
        Option<String>,
        Option<String>,
        i64,
        i64,
        i64,
    );
    let columns = |row: &Row<'_>| -> rusqlite::Result<Columns> {
        Ok((
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
        ))
    };
    let sql = "SELECT name, teaser, description, updated_at, heartbeat_timestamp, heard_at
               FROM providers WHERE peer_id = ?1";
    let row = connection
        .prepare_cached(sql)?
        .query_row([peer.to_bytes()], columns)
        .optional()?;
    let Some((name, teaser, description, updated_at, timestamp, heard_at)) = row else {
        return Ok(None);
    };
    // The table has no row numbers, and its CHECKs keep times from being negative.
    let row = RowName {
        table: "providers",
        row: 0,
    };
    Ok(Some(ProviderRow {
        peer: *peer,
        name,
        teaser,
        description,
        updated_at: row.time(updated_at)?,
        heartbeat_timestamp: row.time(timestamp)?,
        heard_at: row.time(heard_at)?,
    }))
}

fn snapshots_of(
    connection: &Connection,
    provider: &PeerId,
    offers: &[AnnouncedOffer],
) -> Result<Vec<SnapshotId>, StoreError> {
    let mut ids = Vec::with_capacity(offers.len());
    for (protocol_id, offer_id, payload) in offers {
        let (id, _) = snapshot_of(connection, provider, protocol_id, offer_id, payload)?;
        ids.push(id);
    }
    Ok(ids)
}

/// The snapshot of an offer, made if there is none. Says whether it was made.
pub(crate) fn snapshot_of(
    connection: &Connection,
    provider: &PeerId,
    protocol_id: &ProtocolId,
    offer_id: &OfferId,
    payload: &str,
) -> Result<(SnapshotId, bool), StoreError> {
    let provider = provider.to_bytes();
    let digest: [u8; 32] = Sha256::digest(payload).into();
    let table = "offer_snapshots";
    let known: Option<i64> = connection
        .prepare_cached(
            "SELECT id FROM offer_snapshots WHERE provider = ?1 AND protocol_id = ?2
             AND offer_id = ?3 AND payload_sha256 = ?4",
        )?
        .query_row(
            params![provider, protocol_id.as_str(), offer_id.as_str(), digest],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(row) = known {
        return Ok((SnapshotId(RowName { table, row }.unsigned(row)?), false));
    }
    let row = connection
        .prepare_cached(
            "INSERT INTO offer_snapshots (provider, protocol_id, offer_id, payload, payload_sha256)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .insert(params![
            provider,
            protocol_id.as_str(),
            offer_id.as_str(),
            payload,
            digest
        ])?;
    Ok((SnapshotId(RowName { table, row }.unsigned(row)?), true))
}

fn snapshot(connection: &Connection, id: SnapshotId) -> Result<Option<SnapshotRow>, StoreError> {
    type Columns = (Vec<u8>, String, String, String);
    let columns = |row: &Row<'_>| -> rusqlite::Result<Columns> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    };
    let Ok(row) = integer(id.0) else {
        return Ok(None);
    };
    let sql = "SELECT provider, protocol_id, offer_id, payload FROM offer_snapshots WHERE id = ?1";
    let found = connection
        .prepare_cached(sql)?
        .query_row([row], columns)
        .optional()?;
    let Some((provider, protocol_id, offer_id, payload)) = found else {
        return Ok(None);
    };
    let name = RowName {
        table: "offer_snapshots",
        row,
    };
    Ok(Some(SnapshotRow {
        id,
        provider: name.peer(&provider)?,
        protocol_id: ProtocolId::new(protocol_id).map_err(|error| name.bad(error.to_string()))?,
        offer_id: OfferId::new(offer_id).map_err(|error| name.bad(error.to_string()))?,
        payload,
    }))
}

/// Snapshots by id, for those who join them to something else.
pub(crate) type SnapshotCache = HashMap<SnapshotId, SnapshotRow>;

/// A snapshot that another row refers to.
pub(crate) fn snapshot_for(
    connection: &Connection,
    cache: &mut SnapshotCache,
    id: SnapshotId,
    from: RowName,
) -> Result<SnapshotRow, StoreError> {
    if let Some(known) = cache.get(&id) {
        return Ok(known.clone());
    }
    let found = snapshot(connection, id)?
        .ok_or_else(|| from.bad(format!("its offer snapshot {id} is missing")))?;
    cache.insert(id, found.clone());
    Ok(found)
}
