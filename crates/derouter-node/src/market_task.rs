//! The task that owns what is on the market: it takes announcements and heartbeats in, lets silent
//! providers go, and announces this node's own offers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use derouter_market::offers::{Assessment, Heard};
use derouter_net::{AnnouncedList, OfferNews, ReceivedHeartbeat};
use derouter_store::{AnnouncementClock, ProviderRow, StoreError};
use derouter_wire::gossip::Announcement;
use derouter_wire::rpc::record::{OfferSnapshot, ProviderRecord};
use derouter_wire::{OfferId, PeerId, ProtocolId, SnapshotId, UnixSeconds};
use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::announcer::Announcer;
use crate::config::ProviderDetails;
use crate::housekeeping::Housekeeper;
use crate::shared::{Refresh, Shared};

/// How often silence is looked for. An offer leaves at most this long after its 90 s.
const EXPIRY_CHECK: Duration = Duration::from_secs(2);

/// How often the times of unchanged heartbeats go to disk, in one write.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Providers whose times wait for that write. Beyond it they are written at once.
const MAX_TOUCHED: usize = 1000;

/// News of providers that are taken in together: the store writes them in one transaction.
const NEWS_TOGETHER: usize = 32;

pub(crate) struct MarketTask {
    shared: Arc<Shared>,
    announcer: Announcer,
    housekeeper: Housekeeper,
    touched: Vec<(PeerId, UnixSeconds, UnixSeconds)>,
}

impl MarketTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        details: ProviderDetails,
        clock: AnnouncementClock,
    ) -> Self {
        Self {
            announcer: Announcer::new(Arc::clone(&shared), details, clock),
            housekeeper: Housekeeper::new(Arc::clone(&shared)),
            shared,
            touched: Vec::new(),
        }
    }

    pub(crate) async fn run(
        mut self,
        mut refresh: mpsc::Receiver<Option<Refresh>>,
        mut heartbeats: mpsc::Receiver<ReceivedHeartbeat>,
        mut offers: mpsc::Receiver<OfferNews>,
        mut sent: tokio::sync::watch::Receiver<derouter_net::SentHeartbeat>,
        stop: CancellationToken,
    ) {
        let mut expiry = tokio::time::interval(EXPIRY_CHECK);
        let mut touch = tokio::time::interval(TOUCH_INTERVAL);
        let mut next_cleaning = Instant::now();
        let mut news = Vec::with_capacity(NEWS_TOGETHER);
        loop {
            let next_try = self.announcer.next_try();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = refresh.recv() => self.refresh(done, &mut refresh).await,
                _ = expiry.tick() => self.expire(),
                _ = touch.tick() => self.write_touched().await,
                Ok(()) = sent.changed() => {
                    let latest = *sent.borrow_and_update();
                    self.own_heartbeat(latest).await;
                }
                () = next_try => self.refresh(None, &mut refresh).await,
                () = tokio::time::sleep_until(next_cleaning) => {
                    next_cleaning = Instant::now() + self.housekeeper.bite().await;
                }
                taken = offers.recv_many(&mut news, NEWS_TOGETHER), if !offers.is_closed() => {
                    if taken > 0 {
                        self.take_news(std::mem::take(&mut news)).await;
                    }
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
        if source == self.shared.local || self.shared.market().index.is_announced(&source) {
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
            let row = self.shared.store.providers(vec![source]).await?.pop();
            // Heard before this node's start: a recording of it is nothing new.
            if row
                .as_ref()
                .is_some_and(|row| timestamp <= row.heartbeat_timestamp)
            {
                tracing::debug!(peer = %source, "replayed announcement");
                return Ok(());
            }
            stored = row.map(|row| row.updated_at);
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
                self.touch(source, timestamp, now.unix).await;
            }
            Assessment::Changed => {
                let by = Heard::Heartbeat;
                self.apply(source, timestamp, announcement, by).await?;
            }
        }
        Ok(())
    }

    /// Takes in what providers announce (0.2). Of each the newest counts.
    async fn take_news(&mut self, news: Vec<OfferNews>) {
        let newest: HashMap<PeerId, OfferNews> =
            news.into_iter().map(|news| (news.source, news)).collect();
        let mut changed = Vec::new();
        for news in newest.into_values() {
            match &news.list {
                None => self.withdraw(&news).await,
                Some(list) if self.holds(&news, list) => self.renew(&news, list).await,
                Some(list) if list.is_here() => changed.push((news.clone(), list.clone())),
                Some(_) => tracing::debug!(peer = %news.source, "no room for its offers"),
            }
        }
        self.forget_recordings(&mut changed).await;
        let take = |(news, list)| self.take_list(news, list);
        join_all(changed.into_iter().map(take)).await;
    }

    /// After a start, nothing is believed that is older than what was heard before: a recording
    /// brings nobody back.
    async fn forget_recordings(&self, changed: &mut Vec<(OfferNews, AnnouncedList)>) {
        let unknown = |(news, _): &&(OfferNews, AnnouncedList)| {
            !self.shared.market().index.knows(&news.source)
        };
        let unknown: Vec<PeerId> = changed
            .iter()
            .filter(unknown)
            .map(|(news, _)| news.source)
            .collect();
        if unknown.is_empty() {
            return;
        }
        let rows = match self.shared.store.providers(unknown).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(%error, "could not look up when providers were heard; their next announcement is looked at");
                return changed.clear();
            }
        };
        let stored: HashMap<PeerId, UnixSeconds> = rows
            .into_iter()
            .map(|row| (row.peer, row.heartbeat_timestamp))
            .collect();
        changed.retain(|(news, _)| {
            let is_old = stored
                .get(&news.source)
                .is_some_and(|heard| news.time() < *heard);
            if is_old {
                tracing::debug!(peer = %news.source, "replayed announcement");
            }
            !is_old
        });
    }

    async fn withdraw(&mut self, news: &OfferNews) {
        let changes = self.shared.market().index.withdraw(&news.source);
        self.shared.emit_market(changes);
        let now = self.shared.clock.now().unix;
        self.touch(news.source, news.time(), now).await;
    }

    fn holds(&self, news: &OfferNews, list: &AnnouncedList) -> bool {
        let market = self.shared.market();
        market.index.holds(&news.source, &list.summary.hash)
    }

    async fn renew(&mut self, news: &OfferNews, list: &AnnouncedList) {
        let now = self.shared.clock.now();
        let by = heard_by(news, list);
        let changes = self.shared.market().index.renew(&news.source, by, now);
        self.shared.emit_market(changes);
        self.touch(news.source, news.time(), now.unix).await;
    }

    /// What can't be stored is taken in with the provider's next announcement.
    async fn take_list(&self, news: OfferNews, list: AnnouncedList) {
        let source = news.source;
        let announcement = match list.decode() {
            Ok(announcement) => announcement,
            Err(error) => {
                return tracing::warn!(peer = %source, %error, "an offer list can't be read");
            }
        };
        let by = heard_by(&news, &list);
        if let Err(error) = self.apply(source, news.time(), announcement, by).await {
            tracing::warn!(peer = %source, %error, "could not store an announcement; the next one is tried again");
        }
    }

    async fn touch(&mut self, provider: PeerId, timestamp: UnixSeconds, now: UnixSeconds) {
        self.touched.push((provider, timestamp, now));
        if self.touched.len() >= MAX_TOUCHED {
            self.write_touched().await;
        }
    }

    async fn apply(
        &self,
        source: PeerId,
        timestamp: UnixSeconds,
        announcement: Announcement,
        by: Heard,
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
        let changes = self
            .shared
            .market()
            .index
            .apply_heard(record, snapshots, by, now);
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

    /// This node has sent a heartbeat: it is heard like any other provider.
    async fn own_heartbeat(&mut self, sent: derouter_net::SentHeartbeat) {
        self.announcer.remember_sent(sent).await;
        if self.announcer.offers_anything() {
            let now = self.shared.clock.now();
            let changes = self.shared.market().index.heard(&self.shared.local, now);
            self.shared.emit_market(changes);
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
        if let Err(error) = self.announcer.announce_own().await {
            tracing::error!(%error, "could not put the own offers on the market; trying again");
            // Dropping the senders tells the callers.
            return;
        }
        for refreshed in done {
            let _ = refreshed.send(());
        }
    }
}

fn heard_by(news: &OfferNews, list: &AnnouncedList) -> Heard {
    Heard::Announcement {
        list: list.summary.hash,
        lasting: news.lasting,
    }
}

pub(crate) fn provider_row(
    record: &ProviderRecord,
    heartbeat_timestamp: UnixSeconds,
) -> ProviderRow {
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

pub(crate) fn snapshots(
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
