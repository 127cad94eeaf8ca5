//! Lists by pages (0.2).

use derouter_sdk::{
    Cursor, JobQuery, JobRecord, OfferQuery, OfferSnapshot, PeerQuery, PeerReport, ProviderQuery,
    ProviderRecord,
};
use derouter_wire::cbor::{InvalidPeerId, PeerIdArg};
use derouter_wire::limits::RPC_QUERY_ITEMS;
use derouter_wire::rpc::error::ErrorCode;
use derouter_wire::rpc::list::*;
use derouter_wire::rpc::request::FilteredReply;
use serde::Serialize;

use super::queries::{job_filter, offer_filter};
use super::{Failure, Session};
use crate::rpc::fitting::{LIST_BYTES, first_that_fit};

/// The answer of a list.
type Listed<T> = Result<FilteredReply<Page<T>>, Failure>;

/// The place that a list goes on from; a cursor of another list is none.
fn place<T>(
    after: Option<&Cursor>,
    read: impl Fn(&Cursor) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let Some(after) = after else { return Ok(None) };
    let place = read(after).ok_or_else(|| Failure::of(ErrorCode::InvalidCursor))?;
    Ok(Some(place))
}

fn page_limit(limit: u64) -> Result<u32, Failure> {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let fits = usize::try_from(limit).is_ok_and(|limit| (1..=RPC_QUERY_ITEMS).contains(&limit));
    if fits {
        Ok(limit)
    } else {
        Err(Failure::of(ErrorCode::InvalidLimit))
    }
}

/// What fits of the rows that were asked for. When all came that may come, there may be more.
fn page<T: Serialize>(rows: Vec<T>, limit: u32, behind: impl Fn(&T) -> Cursor) -> Listed<T> {
    let found = rows.len();
    let is_full = u32::try_from(found).is_ok_and(|found| found >= limit);
    let mut page = unended_page(rows, behind);
    if !is_full && page.items.len() >= found {
        page.next = None;
    }
    Ok(FilteredReply::Ok(page))
}

/// What fits of rows behind which there may be more, unless there are none.
fn unended_page<T: Serialize>(rows: Vec<T>, behind: impl Fn(&T) -> Cursor) -> Page<T> {
    let items = first_that_fit(rows, LIST_BYTES);
    let next = items.last().map(behind);
    Page { items, next }
}

impl Session {
    pub(super) async fn list_offers(&self, query: ListOffers) -> Listed<OfferSnapshot> {
        let filter = match offer_filter(query.protocol_ids, query.provider_peer_ids) {
            Ok(filter) => filter,
            Err(bad) => return bad.reply(),
        };
        let query = OfferQuery {
            after: place(query.after.as_ref(), Cursor::offer)?,
            filter,
            limit: page_limit(query.limit)?,
        };
        let rows = self.node.offers_page(&query).await?;
        page(rows, query.limit, |offer| {
            Cursor::behind_offer(&offer.key())
        })
    }

    pub(super) async fn list_providers(&self, query: ListProviders) -> Listed<ProviderRecord> {
        let query = ProviderQuery {
            after: place(query.after.as_ref(), Cursor::peer)?,
            limit: page_limit(query.limit)?,
        };
        let rows = self.node.providers_page(&query).await?;
        page(rows, query.limit, |record| {
            Cursor::behind_peer(&record.peer_id)
        })
    }

    pub(super) async fn list_jobs(&self, query: ListJobs) -> Listed<JobRecord> {
        let filter = job_filter(
            query.protocol_ids,
            query.provider_peer_ids,
            query.consumer_peer_ids,
        );
        let filter = match filter {
            Ok(filter) => filter,
            Err(bad) => return bad.reply(),
        };
        let query = JobQuery {
            after: place(query.after.as_ref(), Cursor::row)?,
            newest_first: query.newest_first,
            filter,
            limit: page_limit(query.limit)?,
        };
        let rows = self.node.jobs(&query).await?;
        // A page of jobs ends early where payloads are large.
        let page = unended_page(rows, |job| Cursor::behind_row(job.job_rowid));
        Ok(FilteredReply::Ok(page))
    }

    pub(super) async fn list_peers(&self, query: ListPeers) -> Listed<PeerReport> {
        let peer = match query.peer_id.as_ref().map(PeerIdArg::get).transpose() {
            Ok(peer) => peer,
            Err(InvalidPeerId(text)) => return Ok(FilteredReply::InvalidPeerId(text)),
        };
        let query = PeerQuery {
            after: place(query.after.as_ref(), Cursor::peer)?,
            peer,
            connected_only: query.connected_only,
            limit: page_limit(query.limit)?,
        };
        let rows = self.node.peers(&query).await?;
        page(rows, query.limit, |report| {
            Cursor::behind_peer(&report.peer)
        })
    }
}

#[cfg(test)]
mod tests {
    use derouter_wire::RowId;

    use super::*;

    #[test]
    fn a_page_that_ended_early_goes_on_and_one_without_rows_is_the_last() {
        let behind = |row: &u64| Cursor::behind_row(RowId(*row));
        let next = |rows: Vec<u64>| unended_page(rows, behind).next;
        assert_eq!(next(vec![3, 4]), Some(Cursor::behind_row(RowId(4))));
        assert_eq!(next(Vec::new()), None);
        let next = |rows: Vec<u64>| match page(rows, 2, behind) {
            Ok(FilteredReply::Ok(page)) => page.next,
            _ => panic!("no page"),
        };
        assert_eq!(next(vec![3, 4]), Some(Cursor::behind_row(RowId(4))));
        assert_eq!(next(vec![3]), None);
    }
}
