//! Queries and subscriptions.

use derouter_sdk::{Cursor, JobFilter, JobQuery, OfferFilter, OfferSnapshot, PeerId, ProtocolId};
use derouter_wire::cbor::{self, InvalidPeerId, PeerIdArg};
use derouter_wire::limits::{RPC_FILTER_ITEMS, RPC_QUERY_ITEMS};
use derouter_wire::rpc::record::ProviderRecord;
use derouter_wire::rpc::request::*;

use super::{Asked, Dialect, Failure, Session};
use crate::rpc::fitting::{LIST_BYTES, first_that_fit, smallest_that_fit};
use crate::rpc::subscriptions::Source;

/// Why a filter can't be used.
pub(super) enum BadFilter {
    Peer(InvalidPeerId),
    TooLong,
}

impl From<InvalidPeerId> for BadFilter {
    fn from(error: InvalidPeerId) -> Self {
        Self::Peer(error)
    }
}

impl BadFilter {
    fn too_long() -> Failure {
        Failure::bad(format_args!("a filter has over {RPC_FILTER_ITEMS} items"))
    }

    /// The typed error that 0.1 has for peer ids.
    pub(super) fn reply<T>(self) -> Result<FilteredReply<T>, Failure> {
        match self {
            Self::Peer(InvalidPeerId(text)) => Ok(FilteredReply::InvalidPeerId(text)),
            Self::TooLong => Err(Self::too_long()),
        }
    }
}

fn peers(filter: Option<Vec<PeerIdArg>>) -> Result<Option<Vec<PeerId>>, BadFilter> {
    let Some(peers) = filter else {
        return Ok(None);
    };
    if peers.len() > RPC_FILTER_ITEMS {
        return Err(BadFilter::TooLong);
    }
    let peers: Result<_, _> = peers.iter().map(PeerIdArg::get).collect();
    Ok(Some(peers?))
}

/// Texts that can't be protocol ids match nothing, and are left out.
fn protocols(filter: Option<Vec<String>>) -> Result<Option<Vec<ProtocolId>>, BadFilter> {
    match filter {
        None => Ok(None),
        Some(texts) if texts.len() > RPC_FILTER_ITEMS => Err(BadFilter::TooLong),
        Some(texts) => Ok(Some(
            texts
                .into_iter()
                .filter_map(|text| ProtocolId::new(text).ok())
                .collect(),
        )),
    }
}

pub(super) fn offer_filter(
    protocol_ids: Option<Vec<String>>,
    provider_peer_ids: Option<Vec<PeerIdArg>>,
) -> Result<OfferFilter, BadFilter> {
    Ok(OfferFilter {
        protocol_ids: protocols(protocol_ids)?,
        provider_peer_ids: peers(provider_peer_ids)?,
    })
}

pub(super) fn job_filter(
    protocol_ids: Option<Vec<String>>,
    provider_peer_ids: Option<Vec<PeerIdArg>>,
    consumer_peer_ids: Option<Vec<PeerIdArg>>,
) -> Result<JobFilter, BadFilter> {
    Ok(JobFilter {
        protocol_ids: protocols(protocol_ids)?,
        provider_peer_ids: peers(provider_peer_ids)?,
        consumer_peer_ids: peers(consumer_peer_ids)?,
    })
}

/// A market can hold more than one answer, and 0.1 has no pages of offers.
fn sendable_offers(offers: Vec<OfferSnapshot>) -> Vec<OfferSnapshot> {
    let (offers, left_out) = smallest_that_fit(offers, LIST_BYTES);
    if left_out > 0 {
        let sent = offers.len();
        tracing::warn!(
            sent,
            left_out,
            "the active offers do not fit into one answer: the largest are left out"
        );
    }
    offers
}

/// Events begin behind the answer that tells the subscription's id.
type Begun = Result<(FilteredReply<Subscribed>, Option<Source>), Failure>;

impl Session {
    pub(super) async fn query_system(&self, _: QuerySystem) -> Result<QuerySystemReply, Failure> {
        let peer_id = self.node.peer_id().await?;
        Ok(QuerySystemReply::Ok { peer_id })
    }

    pub(super) async fn query_active_offers(
        &self,
        query: QueryActiveOffers,
    ) -> Result<FilteredReply<Vec<OfferSnapshot>>, Failure> {
        match offer_filter(query.protocol_ids, query.provider_peer_ids) {
            Ok(filter) => {
                let offers = self.node.active_offers(&filter).await?;
                Ok(FilteredReply::Ok(sendable_offers(offers)))
            }
            Err(bad) => bad.reply(),
        }
    }

    pub(super) async fn query_active_providers(
        &self,
        _: QueryActiveProviders,
    ) -> Result<PeersReply, Failure> {
        let peers = self.node.active_providers().await?;
        Ok(PeersReply::Ok(
            peers.into_iter().map(PeerIdArg::from).collect(),
        ))
    }

    pub(super) async fn query_offer_snapshots(
        &self,
        query: QueryOfferSnapshots,
    ) -> Result<ListReply<OfferSnapshot>, Failure> {
        if query.snapshot_ids.len() > RPC_QUERY_ITEMS {
            return Ok(ListReply::Length);
        }
        let snapshots = self.node.offer_snapshots(&query.snapshot_ids).await?;
        Ok(ListReply::Ok(snapshots))
    }

    pub(super) async fn query_providers(
        &self,
        query: QueryProviders,
    ) -> Result<ListReply<ProviderRecord>, Failure> {
        if query.provider_peer_ids.len() > RPC_QUERY_ITEMS {
            return Ok(ListReply::Length);
        }
        // What is no peer id is no known provider either.
        let ids = query.provider_peer_ids.iter();
        let ids: Vec<PeerId> = ids.filter_map(|id| id.get().ok()).collect();
        Ok(ListReply::Ok(self.node.providers(&ids).await?))
    }

    pub(super) async fn query_jobs(&self, query: QueryJobs) -> Result<QueryJobsReply, Failure> {
        let limit = u32::try_from(query.limit).unwrap_or(u32::MAX);
        if limit == 0 || usize::try_from(limit).is_ok_and(|limit| limit > RPC_QUERY_ITEMS) {
            let text = format!(
                "limit is {}, and must be 1 to {RPC_QUERY_ITEMS}",
                query.limit
            );
            return Ok(QueryJobsReply::InvalidLimit(Some(text)));
        }
        let filter = job_filter(
            query.protocol_ids,
            query.provider_peer_ids,
            query.consumer_peer_ids,
        );
        // Wire 0.1 has no typed error for a bad peer id here.
        let filter = filter.map_err(|bad| match bad {
            BadFilter::Peer(error) => Failure::bad(error),
            BadFilter::TooLong => BadFilter::too_long(),
        })?;
        let query = JobQuery {
            after: query.database_row_id_cursor,
            newest_first: false,
            filter,
            limit,
        };
        let jobs = self.node.jobs(&query).await?;
        // Pages go by cursor: the rows that are left out come with the next one.
        Ok(QueryJobsReply::Ok(first_that_fit(jobs, LIST_BYTES)))
    }

    pub(super) async fn subscribe_to_offers(&self, asked: &Asked<'_>) {
        let begun = self.watch_offers(asked).await;
        self.begin_events(asked, begun).await;
    }

    pub(super) async fn subscribe_to_providers(&self, asked: &Asked<'_>) {
        let begun = self.watch_providers(asked).await;
        self.begin_events(asked, begun).await;
    }

    pub(super) async fn subscribe_to_jobs(&self, asked: &Asked<'_>) {
        let begun = self.watch_jobs(asked).await;
        self.begin_events(asked, begun).await;
    }

    pub(super) async fn subscribe_to_state(&self, asked: &Asked<'_>) {
        let begun = self.watch_state(asked).await;
        self.begin_events(asked, begun).await;
    }

    async fn watch_offers(&self, asked: &Asked<'_>) -> Begun {
        let query: SubscribeToActiveOffers = cbor::from_slice(asked.frame.data)?;
        let filter = match offer_filter(query.protocol_ids, query.provider_peer_ids) {
            Ok(filter) => filter,
            Err(bad) => return Ok((bad.reply()?, None)),
        };
        let watch = match self.since(query.since) {
            Some(since) => self.node.resume_offers(filter, &since).await?,
            None => self.node.watch_offers(filter).await?,
        };
        let subscribed = self.subscribed(watch.resumed())?;
        Ok((FilteredReply::Ok(subscribed), Some(Source::Offers(watch))))
    }

    async fn watch_providers(&self, asked: &Asked<'_>) -> Begun {
        let query: SubscribeToActiveProviders = cbor::from_slice(asked.frame.data)?;
        let watch = match self.since(query.since) {
            Some(since) => self.node.resume_providers(&since).await?,
            None => self.node.watch_providers().await?,
        };
        let subscribed = self.subscribed(watch.resumed())?;
        Ok((
            FilteredReply::Ok(subscribed),
            Some(Source::Providers(watch)),
        ))
    }

    async fn watch_jobs(&self, asked: &Asked<'_>) -> Begun {
        let query: SubscribeToJobs = cbor::from_slice(asked.frame.data)?;
        let filter = job_filter(
            query.protocol_ids,
            query.provider_peer_ids,
            query.consumer_peer_ids,
        );
        let filter = match filter {
            Ok(filter) => filter,
            Err(bad) => return Ok((bad.reply()?, None)),
        };
        let watch = match self.since(query.since) {
            Some(since) => self.node.resume_jobs(filter, &since).await?,
            None => self.node.watch_jobs(filter).await?,
        };
        let subscribed = self.subscribed(watch.resumed())?;
        Ok((FilteredReply::Ok(subscribed), Some(Source::Jobs(watch))))
    }

    async fn watch_state(&self, asked: &Asked<'_>) -> Begun {
        let SubscribeToNodeState {} = cbor::from_slice(asked.frame.data)?;
        let watch = self.node.watch_state().await?;
        // How it is now comes first, as an event like the others: there is no state to begin with.
        let subscribed = self.subscribed(true)?;
        Ok((FilteredReply::Ok(subscribed), Some(Source::State(watch))))
    }

    fn is_0_2(&self) -> bool {
        self.dialect().is_some_and(Dialect::is_0_2)
    }

    /// The place to go on from; 0.1 has none.
    fn since(&self, since: Option<Cursor>) -> Option<Cursor> {
        since.filter(|_| self.is_0_2())
    }

    /// A new subscription, as the connection's version says it.
    fn subscribed(&self, resumed: bool) -> Result<Subscribed, Failure> {
        let too_many = || Failure::bad("this connection has too many subscriptions");
        let subscription_id = self.subscriptions.reserve().ok_or_else(too_many)?;
        Ok(match self.is_0_2() {
            true => Subscribed::Since {
                subscription_id,
                resumed,
            },
            false => Subscribed::Legacy(subscription_id),
        })
    }

    async fn begin_events(&self, asked: &Asked<'_>, begun: Begun) {
        let (reply, source) = match begun {
            Ok(begun) => begun,
            Err(failure) => return self.refuse(asked, failure).await,
        };
        self.respond(asked, &reply).await;
        if let (FilteredReply::Ok(subscribed), Some(source)) = (reply, source) {
            self.subscriptions.begin(subscribed.id(), source).await;
        }
    }

    pub(super) async fn cancel_subscription(
        &self,
        query: CancelSubscription,
    ) -> Result<CancelSubscriptionReply, Failure> {
        if self.subscriptions.cancel(query.subscription_id) {
            Ok(CancelSubscriptionReply::Ok)
        } else {
            Ok(CancelSubscriptionReply::InvalidSubscriptionId)
        }
    }
}
