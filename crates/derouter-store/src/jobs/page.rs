//! Pages of jobs: which index serves which filters.

use derouter_market::Job;
use derouter_wire::{PeerId, ProtocolId, RowId};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::row::{JOB_COLUMNS, read_all};
use crate::column::integer;
use crate::error::{StoreError, at_most};
use crate::limits;

/// Which jobs, ascending by row id. Filters combine with AND; an absent one lets all pass, an
/// empty one none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPage {
    /// Only rows behind this one.
    pub after: Option<RowId>,
    /// Only these protocols, at most [`limits::IDS`].
    pub protocol_ids: Option<Vec<ProtocolId>>,
    /// Only these providers, at most [`limits::IDS`].
    pub providers: Option<Vec<PeerId>>,
    /// Only these consumers, at most [`limits::IDS`].
    pub consumers: Option<Vec<PeerId>>,
    /// Rows at most, up to [`limits::PAGE_ROWS`].
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

/// A query, ready to run. Values are only ever bound, never part of the text.
struct PageQuery {
    sql: String,
    values: Vec<Value>,
    /// Whether the text is one of few: then the statement is kept.
    common: bool,
}

fn page_sql(page: &JobPage) -> PageQuery {
    let after = page
        .after
        .map_or(0, |row| integer(row.0).unwrap_or(i64::MAX));
    let mut query = PageQuery {
        sql: format!("SELECT {JOB_COLUMNS} FROM jobs WHERE id > ?"),
        values: vec![Value::Integer(after)],
        common: true,
    };
    let peers = |list: &Vec<PeerId>| {
        list.iter()
            .map(|peer| Value::Blob(peer.to_bytes()))
            .collect()
    };
    let text = |id: &ProtocolId| Value::Text(id.as_str().to_owned());
    let protocols = page
        .protocol_ids
        .as_ref()
        .map(|list| list.iter().map(text).collect());
    // Nearly all jobs are of one protocol, and on either side of a market one of the peers is this
    // node. The unary plus takes a column out of the choice of an index, so that the planner, which
    // has no statistics, goes by the narrower filter.
    let by_peer = page.providers.is_some() || page.consumers.is_some();
    query.filter("provider", page.providers.as_ref().map(peers));
    query.filter("consumer", page.consumers.as_ref().map(peers));
    query.filter(
        if by_peer {
            "+protocol_id"
        } else {
            "protocol_id"
        },
        protocols,
    );
    query.sql.push_str(" ORDER BY id LIMIT ?");
    query.values.push(Value::Integer(
        i64::try_from(page.limit).unwrap_or(i64::MAX),
    ));
    query
}

impl PageQuery {
    fn filter(&mut self, column: &'static str, values: Option<Vec<Value>>) {
        let Some(values) = values else { return };
        // One value keeps the index in the order of row ids, so that the page ends at its limit
        // and nothing is sorted.
        let condition = match values.len() {
            0 => " AND 0".to_owned(),
            1 => format!(" AND {column} = ?"),
            more => format!(
                " AND {column} IN (?{})",
                ", ?".repeat(more.saturating_sub(1))
            ),
        };
        self.common &= values.len() <= 1;
        self.sql.push_str(&condition);
        self.values.extend(values);
    }
}

pub(super) fn read(connection: &Connection, page: &JobPage) -> Result<Vec<Job>, StoreError> {
    let query = page_sql(page);
    let values = params_from_iter(query.values);
    if query.common {
        return read_all(
            connection,
            &mut *connection.prepare_cached(&query.sql)?,
            values,
        );
    }
    read_all(connection, &mut connection.prepare(&query.sql)?, values)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan(page: &JobPage) -> String {
        let connection = Connection::open_in_memory().unwrap();
        crate::schema::migrate(&connection, Path::new("memory")).unwrap();
        let query = page_sql(page);
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
        let consumers = Some(vec![PeerId::random()]);
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
    fn a_filter_by_peer_goes_before_one_by_protocol() {
        let page = JobPage {
            protocol_ids: Some(vec![protocol()]),
            providers: Some(vec![PeerId::random(), PeerId::random()]),
            limit: 100,
            ..JobPage::default()
        };
        let plan = plan(&page);
        assert!(plan.starts_with("SEARCH jobs USING INDEX"), "{plan}");
        assert!(plan.contains("(provider=?"), "{plan}");
    }

    #[test]
    fn values_are_bound_and_never_part_of_the_query() {
        let hostile = ProtocolId::new("x'; DROP TABLE jobs; --").unwrap();
        let protocol_ids = Some(vec![hostile, protocol()]);
        let query = page_sql(&JobPage {
            protocol_ids,
            limit: 7,
            ..JobPage::default()
        });
        assert!(!query.sql.contains("DROP"));
        assert_eq!(query.sql.matches('?').count(), query.values.len());
    }
}
