//! Lists of uploads, newest first.
//!
//! Every list walks one index backwards from its cursor and stops when the page is full: the identifiers of all
//! uploads, of those with a pair of metadata, or of each stage asked for.

use std::time::Duration;

use sqlx::QueryBuilder;
use sqlx::Sqlite;

use crate::domain::time::Timestamp;
use crate::domain::upload::Stage;
use crate::domain::upload::Upload;
use crate::state::Result;
use crate::state::UploadQuery;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::failed;
use crate::state::sqlite::rows;

/// How far the time in an identifier may lie from the time of creation. Both are taken while one request is served.
const ID_SLACK: Duration = Duration::from_secs(24 * 60 * 60);

impl SqliteStore {
    pub(super) async fn read_list(&self, query: &UploadQuery) -> Result<Vec<Upload>> {
        let mut sql = QueryBuilder::new("SELECT * FROM uploads JOIN upload_origins USING (id) WHERE id IN (");
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
        sql.push(") ORDER BY id DESC LIMIT ").push_bind(query.limit);
        let listed = sql.build().fetch_all(&self.reads).await;
        let uploads = listed.and_then(|found| found.iter().map(rows::upload).collect());
        uploads.map_err(failed("list uploads"))
    }
}

fn distinct(stages: &[Stage]) -> Vec<Stage> {
    let mut stages = stages.to_vec();
    stages.sort_unstable();
    stages.dedup();
    stages
}

fn walk_uploads(sql: &mut QueryBuilder<Sqlite>, query: &UploadQuery, stage: Option<Stage>) {
    sql.push("SELECT id FROM (SELECT id FROM uploads WHERE true");
    if let Some(stage) = stage {
        sql.push(" AND stage = ").push_bind(stage.name());
    }
    within_bounds(sql, query, "id");
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(query.limit).push(")");
}

fn walk_metadata(
    sql: &mut QueryBuilder<Sqlite>,
    query: &UploadQuery,
    (key, value): &(String, Vec<u8>),
    others: &[(String, Vec<u8>)],
    stages: &[Stage],
) {
    sql.push("SELECT id FROM (SELECT id FROM upload_metadata AS pair CROSS JOIN uploads ON id = pair.upload_id");
    sql.push(" WHERE pair.key = ").push_bind(key.clone()).push(" AND pair.value = ").push_bind(value.clone());
    for (key, value) in others {
        sql.push(" AND EXISTS (SELECT 1 FROM upload_metadata WHERE key = ").push_bind(key.clone());
        sql.push(" AND value = ").push_bind(value.clone()).push(" AND upload_id = pair.upload_id)");
    }
    if !stages.is_empty() {
        sql.push(" AND stage IN (");
        let mut names = sql.separated(", ");
        for stage in stages {
            names.push_bind(stage.name());
        }
        sql.push(")");
    }
    within_bounds(sql, query, "pair.upload_id");
    sql.push(" ORDER BY pair.upload_id DESC LIMIT ").push_bind(query.limit).push(")");
}

/// The cursor, and the times of creation. An identifier begins with the time it was made, so its index bounds the
/// walk; the column decides.
fn within_bounds(sql: &mut QueryBuilder<Sqlite>, query: &UploadQuery, id: &'static str) {
    if let Some(before) = query.before {
        sql.push(" AND ").push(id).push(" < ").push_bind(before.as_bytes().to_vec());
    }
    if let Some(from) = query.created_from {
        sql.push(" AND ").push(id).push(" >= ").push_bind(first_id_of(from.minus(ID_SLACK)));
        sql.push(" AND created_at_ms >= ").push_bind(from.unix_ms());
    }
    if let Some(before) = query.created_before {
        sql.push(" AND ").push(id).push(" < ").push_bind(first_id_of(before.plus(ID_SLACK)));
        sql.push(" AND created_at_ms < ").push_bind(before.unix_ms());
    }
}

/// What every identifier made at this instant or later is not below: its first 48 bits, in milliseconds.
fn first_id_of(at: Timestamp) -> Vec<u8> {
    let unix_ms = at.unix_ms().clamp(0, (1 << 48) - 1);
    unix_ms.to_be_bytes()[2..].to_vec()
}
