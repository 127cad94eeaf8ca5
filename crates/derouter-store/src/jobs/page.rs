//! Pages of jobs: which index serves which filters.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use derouter_market::Job;
use derouter_wire::{PeerId, ProtocolId, RowId};
use rusqlite::types::Value;
use rusqlite::{Connection, ParamsFromIter, Statement, params_from_iter};

use super::row::{JOB_COLUMNS, PayloadBytes, read_all, read_page};
use crate::column::integer;
use crate::error::{StoreError, at_most};
use crate::limits;

/// Which jobs, by row id. Filters combine with AND; an absent one lets all pass, an
/// empty one none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPage {
    /// Only rows behind this one, in the order of the page.
    pub after: Option<RowId>,
    /// Whether the newest come first, else the oldest.
    pub newest_first: bool,
    /// Only these protocols, at most [`limits::IDS`].
    pub protocol_ids: Option<Vec<ProtocolId>>,
    /// Only these providers, at most [`limits::IDS`].
    pub providers: Option<Vec<PeerId>>,
    /// Only these consumers, at most [`limits::IDS`].
    pub consumers: Option<Vec<PeerId>>,
    /// Rows at most, up to [`limits::PAGE_ROWS`]; fewer come where payloads are large.
    pub limit: usize,
}

impl JobPage {
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let len = |list: &Option<Vec<PeerId>>| list.as_ref().map_or(0, Vec::len);
        let protocols = self.protocol_ids.as_ref().map_or(0, Vec::len);
        at_most("protocol ids in a filter", protocols, limits::IDS)?;
        at_most("providers in a filter", len(&self.providers), limits::IDS)?;
        at_most("consumers in a filter", len(&self.consumers), limits::IDS)?;
        at_most("rows", self.limit, limits::PAGE_ROWS)
    }
}

/// A filter as values to bind.
struct Filter {
    column: &'static str,
    values: Vec<Value>,
}

/// What is looked up by index, each with one value for a column: in such an index, rows come in the
/// order of their ids, so that a page ends at its limit and nothing is sorted.
type Lookup = Vec<(&'static str, Value)>;

/// How the jobs of a page are found: those of any of the lookups that pass all filters.
struct Plan {
    order: Order,
    lookups: Vec<Lookup>,
    filters: Vec<Filter>,
}

/// In which order rows come, and behind which one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    newest_first: bool,
    after: i64,
}

impl Order {
    pub(super) fn new(newest_first: bool, after: Option<RowId>) -> Self {
        let first = if newest_first { i64::MAX } else { 0 };
        Self {
            newest_first,
            after: after.map_or(first, |row| integer(row.0).unwrap_or(i64::MAX)),
        }
    }

    /// The row behind which the page begins.
    pub(super) fn after(self) -> i64 {
        self.after
    }

    /// The condition on a row's id, whose value is bound as `value`.
    pub(super) fn condition(self, value: &str) -> String {
        let side = if self.newest_first { "<" } else { ">" };
        format!("id {side} {value}")
    }

    pub(super) fn by(self) -> &'static str {
        match self.newest_first {
            true => "ORDER BY id DESC",
            false => "ORDER BY id",
        }
    }
}

impl Plan {
    /// Nearly all jobs are of one protocol, and on either side of a market one of the peers is this
    /// node: peers are looked up before protocols, one peer before several, and a peer together with
    /// a protocol where that makes few lookups.
    fn new(page: &JobPage) -> Self {
        let order = Order::new(page.newest_first, page.after);
        let mut filters = peer_filters(page);
        let protocols = protocol_filter(page);
        if filters.is_empty() {
            return Self {
                order,
                lookups: protocols.map_or(vec![Vec::new()], |filter| lookups(&filter)),
                filters,
            };
        }
        let mut found = lookups(&filters.remove(0));
        match protocols {
            Some(protocols) if found.len() > 1 && protocols.values.len() > 1 => {
                filters.push(protocols);
            }
            Some(protocols) => {
                let pairs = found.iter().flat_map(|peer| {
                    let pair = |protocol| peer.iter().cloned().chain(protocol).collect();
                    lookups(&protocols).into_iter().map(pair)
                });
                found = pairs.collect();
            }
            None => {}
        }
        Self {
            order,
            lookups: found,
            filters,
        }
    }
}

fn lookups(filter: &Filter) -> Vec<Lookup> {
    let values = filter.values.iter();
    values
        .map(|value| vec![(filter.column, value.clone())])
        .collect()
}

fn peer_filters(page: &JobPage) -> Vec<Filter> {
    let filter = |column, list: &Option<Vec<PeerId>>| {
        let values = list.as_ref()?.iter();
        Some(Filter {
            column,
            values: values.map(|peer| Value::Blob(peer.to_bytes())).collect(),
        })
    };
    let of_peers = [
        filter("provider", &page.providers),
        filter("consumer", &page.consumers),
    ];
    let mut filters: Vec<Filter> = of_peers.into_iter().flatten().collect();
    filters.sort_by_key(|filter| filter.values.len());
    filters
}

fn protocol_filter(page: &JobPage) -> Option<Filter> {
    let values = page.protocol_ids.as_ref()?.iter();
    Some(Filter {
        column: "protocol_id",
        values: values
            .map(|id| Value::Text(id.as_str().to_owned()))
            .collect(),
    })
}

/// A query, ready to run. Values are only ever bound, never part of the text.
struct PageQuery {
    sql: String,
    values: Vec<Value>,
    /// Whether the text is one of few: then the statement is kept.
    common: bool,
}

impl PageQuery {
    /// `select` the first jobs of the plan's order, at most `limit`, that a lookup finds and that pass.
    fn new(select: &str, plan: &Plan, lookup: &Lookup, limit: usize) -> Self {
        let Plan { order, filters, .. } = plan;
        let condition = order.condition("?");
        let mut query = Self {
            sql: format!("SELECT {select} FROM jobs WHERE {condition}"),
            values: vec![Value::Integer(order.after())],
            common: true,
        };
        for (column, value) in lookup {
            let _ = write!(query.sql, " AND {column} = ?");
            query.values.push(value.clone());
        }
        for filter in filters {
            query.filter(filter);
        }
        let _ = write!(query.sql, " {} LIMIT ?", order.by());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        query.values.push(Value::Integer(limit));
        query
    }

    /// The unary plus takes a column out of the choice of an index, as the planner has no
    /// statistics.
    fn filter(&mut self, filter: &Filter) {
        let column = filter.column;
        let condition = match filter.values.len() {
            0 => " AND 0".to_owned(),
            1 => format!(" AND +{column} = ?"),
            more => {
                let rest = ", ?".repeat(more.saturating_sub(1));
                format!(" AND +{column} IN (?{rest})")
            }
        };
        self.common &= filter.values.len() <= 1;
        self.sql.push_str(&condition);
        self.values.extend(filter.values.iter().cloned());
    }

    fn run<T>(
        self,
        connection: &Connection,
        read: impl FnOnce(&mut Statement<'_>, ParamsFromIter<Vec<Value>>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let values = params_from_iter(self.values);
        match self.common {
            true => read(&mut *connection.prepare_cached(&self.sql)?, values),
            false => read(&mut connection.prepare(&self.sql)?, values),
        }
    }
}

pub(super) fn read(connection: &Connection, page: &JobPage) -> Result<Vec<Job>, StoreError> {
    let plan = Plan::new(page);
    let [lookup] = plan.lookups.as_slice() else {
        return read_merged(connection, &plan, page.limit);
    };
    let query = PageQuery::new(JOB_COLUMNS, &plan, lookup, page.limit);
    query.run(connection, |statement, values| {
        read_page(connection, statement, values)
    })
}

/// A page of the jobs of several lookups: the first rows of each, of which the first count. One
/// search for all would read and sort all their jobs for each page.
fn read_merged(connection: &Connection, plan: &Plan, limit: usize) -> Result<Vec<Job>, StoreError> {
    let newest_first = plan.order.newest_first;
    let mut rows = BTreeSet::new();
    for lookup in &plan.lookups {
        let query = PageQuery::new("id", plan, lookup, limit);
        let found = query.run(connection, |statement, values| {
            let ids = statement.query_map(values, |row| row.get::<_, i64>(0))?;
            Ok(ids.collect::<Result<Vec<_>, _>>()?)
        })?;
        rows.extend(found);
        while rows.len() > limit {
            match newest_first {
                true => rows.pop_first(),
                false => rows.pop_last(),
            };
        }
    }
    let mut rows: Vec<i64> = rows.into_iter().collect();
    if newest_first {
        rows.reverse();
    }
    let sql = format!("SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let (mut jobs, mut bytes) = (Vec::with_capacity(rows.len()), PayloadBytes::default());
    for row in rows {
        for job in read_all(connection, &mut statement, [row])? {
            bytes.add(&job, None);
            jobs.push(job);
        }
        if bytes.are_enough() {
            break;
        }
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The first query of a page.
    fn query(page: &JobPage) -> PageQuery {
        let plan = Plan::new(page);
        PageQuery::new(JOB_COLUMNS, &plan, &plan.lookups[0], page.limit)
    }

    fn plan(page: &JobPage) -> String {
        let connection = Connection::open_in_memory().unwrap();
        crate::schema::migrate(&connection, Path::new("memory")).unwrap();
        let query = query(page);
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {}", query.sql))
            .unwrap();
        let rows = statement
            .query_map(params_from_iter(query.values), |row| row.get(3))
            .unwrap();
        rows.collect::<Result<Vec<String>, _>>().unwrap().join("; ")
    }

    fn protocol() -> ProtocolId {
        ProtocolId::new("openai:0.1").unwrap()
    }

    #[test]
    fn a_page_is_searched_by_index_and_not_sorted() {
        let all = JobPage {
            limit: 100,
            ..JobPage::default()
        };
        assert_eq!(
            plan(&all),
            "SEARCH jobs USING INTEGER PRIMARY KEY (rowid>?)"
        );
        let newest = JobPage {
            newest_first: true,
            ..all.clone()
        };
        assert_eq!(
            plan(&newest),
            "SEARCH jobs USING INTEGER PRIMARY KEY (rowid<?)"
        );
        let consumers = Some(vec![PeerId::random()]);
        let newest_of_one = JobPage {
            consumers: consumers.clone(),
            ..newest
        };
        assert_eq!(
            plan(&newest_of_one),
            "SEARCH jobs USING INDEX jobs_by_consumer (consumer=? AND rowid<?)"
        );
        let of_one = JobPage {
            consumers,
            ..all.clone()
        };
        assert_eq!(
            plan(&of_one),
            "SEARCH jobs USING INDEX jobs_by_consumer (consumer=? AND rowid>?)"
        );
        let of_protocol = JobPage {
            protocol_ids: Some(vec![protocol()]),
            ..all
        };
        assert_eq!(
            plan(&of_protocol),
            "SEARCH jobs USING INDEX jobs_by_protocol (protocol_id=? AND rowid>?)"
        );
    }

    #[test]
    fn one_peer_goes_before_several_and_together_with_a_protocol() {
        let page = JobPage {
            protocol_ids: Some(vec![protocol()]),
            providers: Some(vec![PeerId::random(), PeerId::random()]),
            consumers: Some(vec![PeerId::random()]),
            limit: 100,
            ..JobPage::default()
        };
        assert_eq!(
            plan(&page),
            "SEARCH jobs USING INDEX jobs_by_consumer_protocol (consumer=? AND protocol_id=? AND rowid>?)"
        );
        let several = JobPage {
            consumers: None,
            ..page
        };
        assert_eq!(
            plan(&several),
            "SEARCH jobs USING INDEX jobs_by_provider_protocol (provider=? AND protocol_id=? AND rowid>?)"
        );
        assert_eq!(Plan::new(&several).lookups.len(), 2);
        let many = JobPage {
            protocol_ids: Some(vec![protocol(), protocol(), protocol()]),
            ..several
        };
        // Not six: with the limits of filters that could be a million.
        assert_eq!(Plan::new(&many).lookups.len(), 2);
    }

    /// A database of so many jobs of one peer, each with a payload of so many bytes.
    fn database(jobs: usize, payload: usize) -> (Connection, PeerId) {
        let connection = Connection::open_in_memory().unwrap();
        crate::schema::migrate(&connection, Path::new("memory")).unwrap();
        let peer = PeerId::random();
        connection
            .execute(
                "INSERT INTO offer_snapshots (id, provider, protocol_id, offer_id, payload, payload_sha256)
                 VALUES (1, ?1, 'p', 'o', '{}', zeroblob(32))",
                [peer.to_bytes()],
            )
            .unwrap();
        for number in 0..jobs {
            connection
                .execute(
                    "INSERT INTO jobs (wire, role, provider, job_id, consumer, snapshot_id, protocol_id, currency,
                       created_at_sync, created_at_local, private_payload, job_args, state, news)
                     VALUES (2, 'consumer', ?1, ?2, ?1, 1, 'p', 0, 1, 1, ?3, '', 'running', 0)",
                    rusqlite::params![peer.to_bytes(), number.to_string(), "x".repeat(payload)],
                )
                .unwrap();
        }
        (connection, peer)
    }

    #[test]
    fn pages_end_at_the_bytes_of_payloads_and_leave_no_job_out() {
        let half = limits::PAGE_PAYLOAD_BYTES / 2;
        for (payload, rows_of_pages) in [
            (0, vec![5]),
            (half, vec![2, 2, 1]),
            (3 * half, vec![1, 1, 1, 1, 1]),
        ] {
            let (connection, peer) = database(5, payload);
            let all = JobPage {
                limit: 100,
                ..JobPage::default()
            };
            let merged = JobPage {
                providers: Some(vec![peer, PeerId::random()]),
                newest_first: true,
                ..all.clone()
            };
            for mut page in [all, merged] {
                let (mut found, mut lengths) = (Vec::new(), Vec::new());
                loop {
                    let jobs = read(&connection, &page).unwrap();
                    let Some(last) = jobs.last() else { break };
                    page.after = Some(last.row_id);
                    lengths.push(jobs.len());
                    found.extend(jobs.iter().map(|job| job.row_id.0));
                }
                if page.newest_first {
                    found.reverse();
                }
                assert_eq!(found, [1, 2, 3, 4, 5]);
                assert_eq!(lengths, rows_of_pages);
            }
            let (mut stored, mut rows) = (super::super::stored::StoredJobs::default(), Vec::new());
            loop {
                let page = super::super::stored::read(&connection, &stored).unwrap();
                rows.push(page.jobs.len());
                let Some(next) = page.next else { break };
                stored.after = Some(next);
            }
            rows.retain(|rows| *rows > 0);
            assert_eq!(rows, rows_of_pages, "of an export");
        }
    }

    #[test]
    fn values_are_bound_and_never_part_of_the_query() {
        let hostile = ProtocolId::new("x'; DROP TABLE jobs; --").unwrap();
        let page = JobPage {
            protocol_ids: Some(vec![hostile, protocol()]),
            providers: Some(vec![PeerId::random()]),
            limit: 7,
            ..JobPage::default()
        };
        let query = query(&page);
        assert!(!query.sql.contains("DROP"));
        assert_eq!(query.sql.matches('?').count(), query.values.len());
    }
}
