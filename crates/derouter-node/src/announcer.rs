//! This node's own offers: on the market here, and in the announcement to peers.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use derouter_store::{AnnouncementClock, StoreError};
use derouter_wire::announce::fit_offer_list;
use derouter_wire::gossip::{self, Announcement};
use derouter_wire::rpc::record::ProviderRecord;
use derouter_wire::{OfferId, ProtocolId, UnixSeconds};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::config::ProviderDetails;
use crate::market_task::{provider_row, snapshots};
use crate::provided::OfferName;
use crate::shared::Shared;

/// The pause before offers that could not be stored are put on the market again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Announcer {
    shared: Arc<Shared>,
    details: ProviderDetails,
    clock: AnnouncementClock,
    /// What peers are told now.
    announced: Option<Announcement>,
    /// Offers that the operator was told are invisible.
    left_out: HashSet<OfferName>,
    /// When to try again, after a failure.
    retry_at: Option<Instant>,
}

impl Announcer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        details: ProviderDetails,
        clock: AnnouncementClock,
    ) -> Self {
        Self {
            shared,
            details,
            clock,
            announced: None,
            left_out: HashSet::new(),
            retry_at: None,
        }
    }

    /// Whether peers are told of any offer.
    pub(crate) fn offers_anything(&self) -> bool {
        self.announced.is_some()
    }

    /// Resolves when a failed announcement is to be tried again; never without a failure.
    pub(crate) fn next_try(&self) -> impl Future<Output = ()> + use<> {
        let retry_at = self.retry_at;
        async move {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Puts what is provided now on the market here and into the announcement.
    pub(crate) async fn announce_own(&mut self) -> Result<(), StoreError> {
        self.retry_at = None;
        let outcome = self.try_to_announce().await;
        if outcome.is_err() {
            self.retry_at = Some(Instant::now() + RETRY_PAUSE);
            self.take_back_what_is_gone().await;
        }
        outcome
    }

    /// Nothing new can be stored, so nothing new is shown; but what is no longer provided must not
    /// stay on offer.
    async fn take_back_what_is_gone(&mut self) {
        let Some(announced) = &mut self.announced else {
            return;
        };
        let (mut gone, draining) = (false, self.shared.is_draining());
        {
            let market = self.shared.market();
            for (protocol_id, offers) in &mut announced.offers {
                offers.retain(|offer_id, offer| {
                    if draining {
                        gone = true;
                        return false;
                    }
                    let name = (protocol_id.clone(), offer_id.clone());
                    let provided = market.provided.get(&name);
                    let stays = provided.is_some_and(|now| now.payload == offer.protocol_payload);
                    gone |= !stays;
                    stays
                });
            }
            announced
                .offers
                .retain(|_, offers| !BTreeMap::is_empty(offers));
        }
        if gone {
            let left = Some(announced.clone()).filter(|left| !left.offers.is_empty());
            self.announced.clone_from(&left);
            self.shared.net.announce(left).await;
        }
    }

    /// Keeps the times of a heartbeat, for the next start.
    pub(crate) async fn remember_sent(&mut self, sent: derouter_net::SentHeartbeat) {
        self.clock.heartbeat_floor = self.clock.heartbeat_floor.max(sent.timestamp);
        self.clock.updated_at = self.clock.updated_at.max(sent.updated_at);
        if let Err(error) = self.shared.store.set_announcement_clock(self.clock).await {
            tracing::warn!(%error, "could not store the time of the last heartbeat");
        }
    }

    async fn try_to_announce(&mut self) -> Result<(), StoreError> {
        let provided = match self.shared.is_draining() {
            true => Vec::new(),
            false => self.shared.market().provided.in_order(),
        };
        let fitted = fit_offer_list(self.no_offers(), named(&provided));
        let heartbeat = gossip::fit_announcement(self.no_offers(), named(&provided)).announcement;
        self.tell_left_out(&fitted.left_out);
        let digest: [u8; 32] =
            Sha256::digest(derouter_wire::cbor::to_vec(&fitted.announcement)).into();
        let now = self.shared.clock.now();
        if self.clock.digest != digest {
            let next = UnixSeconds(self.clock.updated_at.0.saturating_add(1));
            let updated_at = next.max(now.unix);
            let clock = AnnouncementClock {
                updated_at,
                digest,
                ..self.clock
            };
            // Before it is sent: a heartbeat after a restart must not look older than this one.
            self.shared.store.set_announcement_clock(clock).await?;
            self.clock = clock;
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
        self.announced = announced.then_some(announcement);
        let heartbeat = Announcement {
            updated_at: self.clock.updated_at,
            ..heartbeat
        };
        self.shared
            .net
            .announce_fitted(self.announced.clone(), announced.then_some(heartbeat))
            .await;
        Ok(())
    }

    /// An announcement of nothing, with `updated_at` zero, so that a digest is that of the content.
    fn no_offers(&self) -> Announcement {
        Announcement {
            name: self.details.name.clone(),
            teaser: self.details.teaser.clone(),
            description: self.details.description.clone(),
            ..Announcement::default()
        }
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
            "offers do not fit the list of 256 KiB or 1024 offers and are invisible to other nodes: provide fewer, or shorten their descriptions"
        );
    }
}

fn named(provided: &[(OfferName, String)]) -> impl Iterator<Item = (&ProtocolId, &OfferId, &str)> {
    provided
        .iter()
        .map(|((protocol_id, offer_id), payload)| (protocol_id, offer_id, payload.as_str()))
}
