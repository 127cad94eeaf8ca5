//! The task that owns what is on the market: it takes heartbeats in, lets silent providers go, and
//! announces this node's own offers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use derouter_market::offers::Assessment;
use derouter_net::ReceivedHeartbeat;
use derouter_store::{AnnouncementClock, ProviderRow, StoreError};
use derouter_wire::gossip::{self, Announcement};
use derouter_wire::rpc::record::{OfferSnapshot, ProviderRecord};
use derouter_wire::{OfferId, PeerId, ProtocolId, SnapshotId, UnixSeconds};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::ProviderDetails;
use crate::provided::OfferName;
use crate::shared::{Refresh, Shared};

/// How often silence is looked for. An offer leaves at most this long after its 90 s.
const EXPIRY_CHECK: Duration = Duration::from_secs(2);

/// How often the times of unchanged heartbeats go to disk, in one write.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Providers whose times wait for that write. Beyond it they are written at once.
const MAX_TOUCHED: usize = 1000;

pub(crate) struct MarketTask {
    shared: Arc<Shared>,
    details: ProviderDetails,
    clock: AnnouncementClock,
    left_out: HashSet<OfferName>,
    touched: Vec<(PeerId, UnixSeconds, UnixSeconds)>,
}

impl MarketTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        details: ProviderDetails,
        clock: AnnouncementClock,
    ) -> Self {
        Self {
            shared,
            details,
            clock,
            left_out: HashSet::new(),
            touched: Vec::new(),
        }
    }

    pub(crate) async fn run(
        mut self,
        mut refresh: mpsc::Receiver<Option<Refresh>>,
        mut heartbeats: mpsc::Receiver<ReceivedHeartbeat>,
        mut sent: tokio::sync::watch::Receiver<derouter_net::SentHeartbeat>,
        stop: CancellationToken,
    ) {
        let mut expiry = tokio::time::interval(EXPIRY_CHECK);
        let mut touch = tokio::time::interval(TOUCH_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = refresh.recv() => self.refresh(done, &mut refresh).await,
                _ = expiry.tick() => self.expire(),
                _ = touch.tick() => self.write_touched().await,
                Ok(()) = sent.changed() => {
                    let latest = *sent.borrow_and_update();
                    self.remember_sent(latest).await;
                }
                Some(heartbeat) = heartbeats.recv() => self.heartbeat(heartbeat).await,
                else => break,
            }
        }
        self.write_touched().await;
    }

    fn expire(&self) {
        let changes = self.shared.market().index.expire(self.shared.clock.now());
        self.shared.emit_market(changes);
    }

    async fn heartbeat(&mut self, received: ReceivedHeartbeat) {
        let ReceivedHeartbeat {
            source, heartbeat, ..
        } = received;
        if source == self.shared.local {
            return;
        }
        let Some(announcement) = heartbeat.provider else {
            let changes = self.shared.market().index.withdraw(&source);
            return self.shared.emit_market(changes);
        };
        if let Err(error) = self
            .take_in(source, heartbeat.timestamp, announcement)
            .await
        {
            tracing::warn!(peer = %source, %error, "could not store an announcement; the next one is tried again");
        }
    }

    async fn take_in(
        &mut self,
        source: PeerId,
        timestamp: UnixSeconds,
        announcement: Announcement,
    ) -> Result<(), StoreError> {
        let knows = self.shared.market().index.knows(&source);
        let mut stored = None;
        if !knows {
            let mut rows = self.shared.store.providers(vec![source]).await?;
            stored = rows.pop().map(|row| row.updated_at);
        }
        let updated_at = announcement.updated_at;
        let assessment = self
            .shared
            .market()
            .index
            .assess(&source, updated_at, stored);
        let now = self.shared.clock.now();
        match assessment {
            Assessment::Stale => tracing::debug!(peer = %source, "stale announcement"),
            Assessment::Unchanged => {
                let changes = self.shared.market().index.heard(&source, now);
                self.shared.emit_market(changes);
                self.touched.push((source, timestamp, now.unix));
                if self.touched.len() >= MAX_TOUCHED {
                    self.write_touched().await;
                }
            }
            Assessment::Changed => self.apply(source, timestamp, announcement).await?,
        }
        Ok(())
    }

    async fn apply(
        &self,
        source: PeerId,
        timestamp: UnixSeconds,
        announcement: Announcement,
    ) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        let record = ProviderRecord {
            peer_id: source,
            name: announcement.name,
            teaser: announcement.teaser,
            description: announcement.description,
            updated_at: announcement.updated_at,
            latest_heartbeat_at: now.unix,
        };
        let offers: Vec<(ProtocolId, OfferId, String)> = announcement
            .offers
            .into_iter()
            .flat_map(|(protocol_id, offers)| {
                offers.into_iter().map(move |(offer_id, offer)| {
                    (protocol_id.clone(), offer_id, offer.protocol_payload)
                })
            })
            .collect();
        let row = provider_row(&record, timestamp);
        let ids = self
            .shared
            .store
            .apply_announcement(row, offers.clone())
            .await?;
        let snapshots = snapshots(source, ids, offers);
        let changes = self.shared.market().index.apply(record, snapshots, now);
        self.shared.emit_market(changes);
        Ok(())
    }

    async fn write_touched(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let touched = std::mem::take(&mut self.touched);
        if let Err(error) = self.shared.store.touch_providers(touched).await {
            tracing::warn!(%error, "could not store when providers were heard");
        }
    }

    async fn remember_sent(&mut self, sent: derouter_net::SentHeartbeat) {
        self.clock.heartbeat_floor = self.clock.heartbeat_floor.max(sent.timestamp);
        self.clock.updated_at = self.clock.updated_at.max(sent.updated_at);
        if let Err(error) = self.shared.store.set_announcement_clock(self.clock).await {
            tracing::warn!(%error, "could not store the time of the last heartbeat");
        }
    }

    /// Puts what is provided now on the market and into the announcement. Takes all wishes that
    /// wait at once.
    async fn refresh(
        &mut self,
        first: Option<Refresh>,
        more: &mut mpsc::Receiver<Option<Refresh>>,
    ) {
        let mut done: Vec<Refresh> = first.into_iter().collect();
        while let Ok(next) = more.try_recv() {
            done.extend(next);
        }
        if let Err(error) = self.announce_own().await {
            tracing::error!(%error, "could not put the own offers on the market");
            // Dropping the senders tells the callers.
            return;
        }
        for refreshed in done {
            let _ = refreshed.send(());
        }
    }

    async fn announce_own(&mut self) -> Result<(), StoreError> {
        let provided = self.shared.market().provided.in_order();
        let fitted = self.fit(&provided);
        self.tell_left_out(&fitted.left_out);
        let digest: [u8; 32] =
            Sha256::digest(derouter_wire::cbor::to_vec(&fitted.announcement)).into();
        let now = self.shared.clock.now();
        if self.clock.digest != digest {
            let next = UnixSeconds(self.clock.updated_at.0.saturating_add(1));
            self.clock.updated_at = next.max(now.unix);
            self.clock.digest = digest;
            // Before it is sent: a heartbeat after a restart must not look older than this one.
            self.shared.store.set_announcement_clock(self.clock).await?;
        }
        let announcement = Announcement {
            updated_at: self.clock.updated_at,
            ..fitted.announcement
        };
        let record = ProviderRecord {
            peer_id: self.shared.local,
            name: self.details.name.clone(),
            teaser: self.details.teaser.clone(),
            description: self.details.description.clone(),
            updated_at: self.clock.updated_at,
            latest_heartbeat_at: now.unix,
        };
        let announced = !announcement.offers.is_empty();
        let offers: Vec<(ProtocolId, OfferId, String)> = provided
            .into_iter()
            .map(|((protocol_id, offer_id), payload)| (protocol_id, offer_id, payload))
            .collect();
        let row = provider_row(&record, now.unix);
        let ids = self
            .shared
            .store
            .apply_announcement(row, offers.clone())
            .await?;
        let own = snapshots(self.shared.local, ids, offers);
        let changes = self.shared.market().index.apply(record, own, now);
        self.shared.emit_market(changes);
        self.shared
            .net
            .announce(announced.then_some(announcement))
            .await;
        Ok(())
    }

    /// The announcement with `updated_at` zero, so that its digest is that of the content.
    fn fit(&self, provided: &[(OfferName, String)]) -> gossip::FittedAnnouncement {
        let details = Announcement {
            name: self.details.name.clone(),
            teaser: self.details.teaser.clone(),
            description: self.details.description.clone(),
            ..Announcement::default()
        };
        let offers = provided
            .iter()
            .map(|((protocol_id, offer_id), payload)| (protocol_id, offer_id, payload.as_str()));
        gossip::fit_announcement(details, offers)
    }

    /// Warns of offers that peers can't see, once for each.
    fn tell_left_out(&mut self, left_out: &[OfferName]) {
        const NAMED: usize = 20;
        let fresh: Vec<String> = left_out
            .iter()
            .filter(|name| !self.left_out.contains(*name))
            .map(|(protocol_id, offer_id)| format!("{protocol_id}/{offer_id}"))
            .collect();
        self.left_out = left_out.iter().cloned().collect();
        if fresh.is_empty() {
            return;
        }
        let named = fresh.get(..NAMED).unwrap_or(&fresh).join(", ");
        tracing::warn!(
            count = fresh.len(),
            offers = %named,
            "offers do not fit the 64 KiB announcement and are invisible to other nodes: provide fewer, or shorten their descriptions"
        );
    }
}

fn provider_row(record: &ProviderRecord, heartbeat_timestamp: UnixSeconds) -> ProviderRow {
    ProviderRow {
        peer: record.peer_id,
        name: record.name.clone(),
        teaser: record.teaser.clone(),
        description: record.description.clone(),
        updated_at: record.updated_at,
        heartbeat_timestamp,
        heard_at: record.latest_heartbeat_at,
    }
}

fn snapshots(
    provider: PeerId,
    ids: Vec<SnapshotId>,
    offers: Vec<(ProtocolId, OfferId, String)>,
) -> Vec<OfferSnapshot> {
    let named = ids.into_iter().zip(offers);
    let snapshot = |(snapshot_id, (protocol_id, offer_id, protocol_payload))| OfferSnapshot {
        snapshot_id,
        active: true,
        provider_peer_id: provider,
        protocol_id,
        offer_id,
        protocol_payload,
    };
    named.map(snapshot).collect()
}
