//! Lists of uploads, newest first.
//!
//! Every list walks one index backwards from its cursor and stops when the page is full: the identifiers of all
//! uploads, of those with a pair of metadata, or of each stage asked for.

use std::time::Duration;

use crate::domain::time::Timestamp;
use crate::domain::upload::Stage;
use crate::domain::upload::Upload;
use crate::state::Result;
use crate::state::UploadQuery;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::query::Query;
use crate::state::sqlite::rows;
use crate::state::sqlite::rows::upload_columns;

/// How far the time in an identifier may lie from the time of creation. Both are taken while one request is served.
const ID_SLACK: Duration = Duration::from_secs(24 * 60 * 60);

impl SqliteStore {
    pub(super) async fn read_list(&self, query: &UploadQuery) -> Result<Vec<Upload>> {
        let query = list_query(query);
        self.readers.read("list uploads", move |connection| query.fetch(connection, rows::upload)).await
    }
}

pub(super) fn list_query(query: &UploadQuery) -> Query {
    let mut sql =
        Query::new(concat!("SELECT ", upload_columns!(), " FROM uploads JOIN upload_origins USING (id) WHERE id IN ("));
    match (query.metadata.as_slice(), distinct(&query.stages).as_slice()) {
        ([], []) => walk_uploads(&mut sql, query, None),
        ([], stages) => {
            for (place, stage) in stages.iter().enumerate() {
                sql.push(if place == 0 { "" } else { " UNION ALL " });
                walk_uploads(&mut sql, query, Some(*stage));
            }
        }
        ([pair, others @ ..], stages) => walk_metadata(&mut sql, query, pair, others, stages),
    }
    sql.push(") ORDER BY id DESC LIMIT ").bind(query.limit);
    sql
}

fn distinct(stages: &[Stage]) -> Vec<Stage> {
    let mut stages = stages.to_vec();
    stages.sort_unstable();
    stages.dedup();
    stages
}

fn walk_uploads(sql: &mut Query, query: &UploadQuery, stage: Option<Stage>) {
    sql.push("SELECT id FROM (SELECT id FROM uploads WHERE true");
    if let Some(stage) = stage {
        sql.push(" AND stage = ").bind(stage.name().to_owned());
    }
    within_bounds(sql, query, "id");
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit).push(")");
}

fn walk_metadata(
    sql: &mut Query,
    query: &UploadQuery,
    (key, value): &(String, Vec<u8>),
    others: &[(String, Vec<u8>)],
    stages: &[Stage],
) {
    sql.push("SELECT id FROM (SELECT id FROM upload_metadata AS pair CROSS JOIN uploads ON id = pair.upload_id");
    sql.push(" WHERE pair.key = ").bind(key.clone()).push(" AND pair.value = ").bind(value.clone());
    for (key, value) in others {
        sql.push(" AND EXISTS (SELECT 1 FROM upload_metadata WHERE key = ").bind(key.clone());
        sql.push(" AND value = ").bind(value.clone()).push(" AND upload_id = pair.upload_id)");
    }
    if !stages.is_empty() {
        sql.push(" AND stage IN (").bind_all(stages.iter().map(|stage| stage.name().to_owned())).push(")");
    }
    within_bounds(sql, query, "pair.upload_id");
    sql.push(" ORDER BY pair.upload_id DESC LIMIT ").bind(query.limit).push(")");
}

/// The cursor, and the times of creation. An identifier begins with the time it was made, so its index bounds the
/// walk; the column decides.
fn within_bounds(sql: &mut Query, query: &UploadQuery, id: &'static str) {
    if let Some(before) = query.before {
        sql.push(" AND ").push(id).push(" < ").bind(before.as_bytes().to_vec());
    }
    if let Some(from) = query.created_from {
        sql.push(" AND ").push(id).push(" >= ").bind(first_id_of(from.minus(ID_SLACK)));
        sql.push(" AND created_at_ms >= ").bind(from.unix_ms());
    }
    if let Some(before) = query.created_before {
        sql.push(" AND ").push(id).push(" < ").bind(first_id_of(before.plus(ID_SLACK)));
        sql.push(" AND created_at_ms < ").bind(before.unix_ms());
    }
}

/// What every identifier made at this instant or later is not below: its first 48 bits, in milliseconds.
fn first_id_of(at: Timestamp) -> Vec<u8> {
    let unix_ms = at.unix_ms().clamp(0, (1 << 48) - 1);
    unix_ms.to_be_bytes()[2..].to_vec()
}
