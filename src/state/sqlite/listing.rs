//! Lists of uploads, newest first.
//!
//! Every list walks one index backwards from its cursor and stops when the page is full: the identifiers of all
//! uploads, of those with a pair of metadata, or of each stage asked for. What else is asked for is looked up for each
//! upload on the way. Of several conditions the one that fewest uploads meet is walked.

use rusqlite::Connection;
use rusqlite::params;

use crate::domain::id::ID_SLACK;
use crate::domain::upload::Stage;
use crate::domain::upload::Upload;
use crate::state::Result;
use crate::state::UploadQuery;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::query::AFTER_ALL;
use crate::state::sqlite::query::Query;
use crate::state::sqlite::query::first_id_of;
use crate::state::sqlite::rows;
use crate::state::sqlite::rows::upload_columns;

/// What more uploads than this have in common is common; how many they are is not looked up.
const COMMON: u32 = 1_000;

impl SqliteStore {
    pub(super) async fn read_list(&self, query: &UploadQuery) -> Result<Vec<Upload>> {
        let query = query.clone();
        self.readers.read("list uploads", move |connection| list(connection, query)).await
    }
}

fn list(connection: &Connection, mut query: UploadQuery) -> rusqlite::Result<Vec<Upload>> {
    query.stages.sort_unstable();
    query.stages.dedup();
    let mut sql =
        Query::new(concat!("SELECT ", upload_columns!(), " FROM uploads JOIN upload_origins USING (id) WHERE id IN ("));
    match route(connection, &query)? {
        Route::All => walk_uploads(&mut sql, &query, None),
        Route::Stages => {
            for (place, stage) in query.stages.iter().enumerate() {
                sql.push(if place == 0 { "" } else { " UNION ALL " });
                walk_uploads(&mut sql, &query, Some(*stage));
            }
        }
        Route::Pair(place) => {
            let pair = query.metadata.remove(place);
            walk_pair(&mut sql, &query, pair);
        }
    }
    sql.push(") ORDER BY id DESC LIMIT ").bind(query.limit);
    sql.fetch(connection, rows::upload)
}

/// Which index to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    All,
    Stages,
    /// The pair of metadata in this place.
    Pair(usize),
}

fn route(connection: &Connection, query: &UploadQuery) -> rusqlite::Result<Route> {
    let mut routes: Vec<_> = (0..query.metadata.len()).map(Route::Pair).collect();
    if !query.stages.is_empty() {
        routes.push(Route::Stages);
    }
    if let [] | [_] = routes.as_slice() {
        return Ok(routes.pop().unwrap_or(Route::All));
    }
    let mut best = (u32::MAX, Route::All);
    for route in routes {
        let uploads = count_up_to_common(connection, query, route)?;
        if uploads < best.0 {
            best = (uploads, route);
        }
    }
    Ok(best.1)
}

fn count_up_to_common(connection: &Connection, query: &UploadQuery, route: Route) -> rusqlite::Result<u32> {
    match route {
        Route::All => Ok(u32::MAX),
        Route::Pair(place) => {
            let (key, value) = &query.metadata[place];
            let sql = "SELECT count(*) FROM (SELECT 1 FROM upload_metadata WHERE key = ?1 AND value = ?2 LIMIT ?3)";
            connection.prepare_cached(sql)?.query_one(params![key, value, COMMON], |row| row.get(0))
        }
        Route::Stages => {
            let sql = "SELECT count(*) FROM (SELECT 1 FROM uploads WHERE stage = ?1 LIMIT ?2)";
            let mut statement = connection.prepare_cached(sql)?;
            let count = |stage: &Stage| statement.query_one(params![stage.name(), COMMON], |row| row.get::<_, u32>(0));
            query.stages.iter().map(count).sum()
        }
    }
}

fn walk_uploads(sql: &mut Query, query: &UploadQuery, stage: Option<Stage>) {
    sql.push("SELECT id FROM (SELECT id FROM uploads WHERE ");
    if let Some(stage) = stage {
        sql.push("stage = ").bind(stage.name().to_owned()).push(" AND ");
    }
    within_bounds(sql, query, "id");
    having(sql, &query.metadata, "uploads.id");
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit).push(")");
}

fn walk_pair(sql: &mut Query, query: &UploadQuery, (key, value): (String, Vec<u8>)) {
    sql.push("SELECT id FROM (SELECT id FROM upload_metadata AS pair CROSS JOIN uploads ON id = pair.upload_id");
    sql.push(" WHERE pair.key = ").bind(key).push(" AND pair.value = ").bind(value).push(" AND ");
    within_bounds(sql, query, "pair.upload_id");
    having(sql, &query.metadata, "pair.upload_id");
    if !query.stages.is_empty() {
        sql.push(" AND stage IN (").bind_all(query.stages.iter().map(|stage| stage.name().to_owned())).push(")");
    }
    sql.push(" ORDER BY pair.upload_id DESC LIMIT ").bind(query.limit).push(")");
}

fn having(sql: &mut Query, metadata: &[(String, Vec<u8>)], id: &'static str) {
    for (key, value) in metadata {
        sql.push(" AND EXISTS (SELECT 1 FROM upload_metadata WHERE key = ").bind(key.clone());
        sql.push(" AND value = ").bind(value.clone()).push(" AND upload_id = ").push(id).push(")");
    }
}

/// The cursor, and the times of creation. An identifier begins with the time it was made, so its index bounds the
/// walk; the column decides.
fn within_bounds(sql: &mut Query, query: &UploadQuery, id: &'static str) {
    let cursor = query.before.map_or(AFTER_ALL.to_vec(), |before| before.as_bytes().to_vec());
    let end = query.created_before.map_or(cursor.clone(), |before| first_id_of(before.plus(ID_SLACK)).min(cursor));
    sql.push(id).push(" < ").bind(end);
    if let Some(before) = query.created_before {
        sql.push(" AND created_at_ms < ").bind(before.unix_ms());
    }
    if let Some(from) = query.created_from {
        sql.push(" AND ").push(id).push(" >= ").bind(first_id_of(from.minus(ID_SLACK)));
        sql.push(" AND created_at_ms >= ").bind(from.unix_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::metadata::Metadata;
    use crate::domain::upload::NewUpload;
    use crate::state::UploadStore;
    use crate::state::conformance::NOW;
    use crate::state::conformance::asked;
    use crate::state::sqlite::SqliteSettings;

    #[tokio::test]
    async fn the_condition_that_fewest_meet_is_walked() {
        let place = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&place.path().join("state.db"), SqliteSettings::default()).await.unwrap();
        let pair = |name: &str, value: u8| (name.to_owned(), vec![value]);
        for number in 0..6_u8 {
            let metadata = Metadata::new(vec![pair("all", 0), pair("third", number % 3)]).unwrap();
            store.insert(Upload::create(NewUpload { metadata, ..asked(number) }, NOW)).await.unwrap();
        }
        let (all, third) = (pair("all", 0), pair("third", 1));
        for (metadata, stages, expected) in [
            (vec![], vec![], Route::All),
            (vec![], vec![Stage::Created], Route::Stages),
            (vec![all.clone()], vec![], Route::Pair(0)),
            (vec![all.clone(), third.clone()], vec![Stage::Created], Route::Pair(1)),
            (vec![third.clone(), all.clone()], vec![], Route::Pair(0)),
            (vec![all, third], vec![Stage::Completed], Route::Stages),
        ] {
            let query = UploadQuery { metadata, stages, limit: 10, ..UploadQuery::default() };
            let asked = query.clone();
            let found = store.readers.read("choose", move |connection| route(connection, &asked)).await.unwrap();
            assert_eq!(found, expected, "{query:?}");
        }
    }
}
