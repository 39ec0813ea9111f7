//! Lists of uploads, newest first.
//!
//! Every list walks one index backwards from its cursor and stops when the page is full. The index holds the
//! identifiers of all uploads, of those with a pair of metadata, or of each requested stage or type of
//! content. All other conditions are checked for each upload on the way. If there are several conditions, the
//! index of the rarest one is walked. A walk also stops after [`MAX_SCANNED`] uploads; the page then has a
//! cursor although it is not full.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::query::{AFTER_ALL, SqlQuery, first_id_of};
use crate::rows::UPLOAD_COLUMNS;
use crate::{SqliteStore, rows};
use domain::id::{ID_SLACK, UploadId};
use domain::policy::TypePattern;
use domain::principal::TenantScope;
use domain::query::{UploadPage, UploadQuery};
use domain::stage::Stage;
use state::Result;
use state_rows::listing::{COMMON, MAX_SCANNED, MOST_TYPES, UploadRoute, share_of_type};

impl SqliteStore {
    pub(super) async fn read_list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage> {
        let query = query.clone();
        self.readers.read("list uploads", move |connection| list(connection, scope, query.clone())).await
    }
}

fn list(connection: &Connection, scope: TenantScope, mut query: UploadQuery) -> rusqlite::Result<UploadPage> {
    query.stages.sort_unstable();
    query.stages.dedup();
    let types = types_of(connection, &query.types)?;
    if types.is_empty() && !query.types.is_empty() {
        return Ok(UploadPage { found: Vec::new(), next: None });
    }
    query.types = types;
    let mut sql = SqlQuery::new("SELECT ");
    sql.push(&UPLOAD_COLUMNS).push(" FROM uploads JOIN upload_origins USING (id) WHERE id IN (");
    let route = route(connection, &query)?;
    let last = if route.is_walk(scope, &query) { last_of_walk(connection, &query, route)? } else { None };
    match route {
        UploadRoute::All => scan_uploads(&mut sql, scope, &query, ScanArm::All, last),
        UploadRoute::Stages => {
            for (place, stage) in query.stages.iter().enumerate() {
                sql.push(if place == 0 { "" } else { " UNION ALL " });
                scan_uploads(&mut sql, scope, &query, ScanArm::Stage(*stage), last);
            }
        }
        UploadRoute::Types => {
            for (place, content_type) in query.types.iter().enumerate() {
                sql.push(if place == 0 { "" } else { " UNION ALL " });
                scan_uploads(&mut sql, scope, &query, ScanArm::Type(content_type.as_str()), last);
            }
        }
        UploadRoute::Pair(place) => walk_pair(&mut sql, scope, &query, place, last),
    }
    sql.push(") ORDER BY id DESC LIMIT ").bind(query.limit);
    let rows = sql.fetch(connection, rows::one_of_uploads)?;
    let is_full = rows.len() == usize::try_from(query.limit).unwrap_or(usize::MAX);
    let next = if is_full { rows.last().map(|(id, _)| *id) } else { last };
    Ok(UploadPage { found: rows.into_iter().filter_map(|(_, upload)| upload).collect(), next })
}

/// Resolves patterns to distinct types: a pattern for all subtypes becomes the types that some upload has.
fn types_of(connection: &Connection, patterns: &[TypePattern]) -> rusqlite::Result<Vec<TypePattern>> {
    let mut found = BTreeSet::new();
    let mut next = connection.prepare_cached(
        "SELECT facts ->> '$.content_type' FROM uploads INDEXED BY uploads_by_type
         WHERE facts IS NOT NULL AND facts ->> '$.content_type' > ?1 AND facts ->> '$.content_type' < ?2
         ORDER BY facts ->> '$.content_type' LIMIT 1",
    )?;
    for pattern in patterns {
        let Some(kind) = pattern.as_str().strip_suffix("/*") else {
            found.insert(pattern.as_str().to_owned());
            continue;
        };
        // Steps from one type to the next along the index: `0` is the character after `/`.
        let (mut last, end) = (format!("{kind}/"), format!("{kind}0"));
        while found.len() < MOST_TYPES
            && let Some(content_type) = next.query_one(params![last, end], |row| row.get::<_, String>(0)).optional()?
        {
            last.clone_from(&content_type);
            found.insert(content_type);
        }
    }
    Ok(found.iter().filter_map(|content_type| TypePattern::new(content_type)).collect())
}

/// Returns the end of a walk that is too long for one query: the last upload it examines.
fn last_of_walk(
    connection: &Connection,
    query: &UploadQuery,
    route: UploadRoute,
) -> rusqlite::Result<Option<UploadId>> {
    let first = upper_bound(query);
    let id = |row: &Row<'_>| row.get(0).map(UploadId::from_bytes);
    let last = match route {
        // The table of origins has an index of identifiers only.
        UploadRoute::All => connection
            .prepare_cached("SELECT id FROM upload_origins WHERE id < ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2 - 1")?
            .query_one(params![first, MAX_SCANNED], id)
            .optional()?,
        UploadRoute::Stages => {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM uploads WHERE stage = ?1 AND id < ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3 - 1",
            )?;
            let mut last = None;
            for stage in &query.stages {
                last = last.max(statement.query_one(params![stage.name(), first, MAX_SCANNED], id).optional()?);
            }
            last
        }
        UploadRoute::Types => {
            let mut statement = connection.prepare_cached(
                "SELECT id FROM uploads INDEXED BY uploads_by_type
                 WHERE facts IS NOT NULL AND facts ->> '$.content_type' = ?1 AND id < ?2
                 ORDER BY id DESC LIMIT 1 OFFSET ?3 - 1",
            )?;
            let share = share_of_type(query);
            let mut last = None;
            for content_type in &query.types {
                last = last.max(statement.query_one(params![content_type.as_str(), first, share], id).optional()?);
            }
            last
        }
        UploadRoute::Pair(place) => {
            let (key, value) = &query.metadata[place];
            connection
                .prepare_cached(
                    "SELECT upload_id FROM upload_metadata WHERE key = ?1 AND value = ?2 AND upload_id < ?3
                     ORDER BY upload_id DESC LIMIT 1 OFFSET ?4 - 1",
                )?
                .query_one(params![key, value, first, MAX_SCANNED], id)
                .optional()?
        }
    };
    let is_wanted = |last: &UploadId| {
        query.created_from.is_none_or(|from| *first_id_of(from.minus(ID_SLACK)) <= last.as_bytes()[..])
    };
    Ok(last.filter(is_wanted))
}

/// Returns the exclusive upper bound of the listed identifiers.
fn upper_bound(query: &UploadQuery) -> Vec<u8> {
    let cursor = query.before.map_or(AFTER_ALL.to_vec(), |before| before.as_bytes().to_vec());
    query.created_before.map_or(cursor.clone(), |before| first_id_of(before.plus(ID_SLACK)).min(cursor))
}

fn route(connection: &Connection, query: &UploadQuery) -> rusqlite::Result<UploadRoute> {
    let mut routes = UploadRoute::candidates(query);
    if let [] | [_] = routes.as_slice() {
        return Ok(routes.pop().unwrap_or(UploadRoute::All));
    }
    let mut best = (u32::MAX, UploadRoute::All);
    for route in routes {
        let uploads = count_up_to_common(connection, query, route)?;
        if uploads < best.0 {
            best = (uploads, route);
        }
    }
    Ok(best.1)
}

fn count_up_to_common(connection: &Connection, query: &UploadQuery, route: UploadRoute) -> rusqlite::Result<u32> {
    match route {
        UploadRoute::All => Ok(u32::MAX),
        UploadRoute::Pair(place) => {
            let (key, value) = &query.metadata[place];
            let sql = "SELECT count(*) FROM (SELECT 1 FROM upload_metadata WHERE key = ?1 AND value = ?2 LIMIT ?3)";
            connection.prepare_cached(sql)?.query_one(params![key, value, COMMON], |row| row.get(0))
        }
        UploadRoute::Stages => {
            let sql = "SELECT count(*) FROM (SELECT 1 FROM uploads WHERE stage = ?1 LIMIT ?2)";
            let mut statement = connection.prepare_cached(sql)?;
            let count = |stage: &Stage| statement.query_one(params![stage.name(), COMMON], |row| row.get::<_, u32>(0));
            query.stages.iter().map(count).sum()
        }
        UploadRoute::Types => {
            let sql = "SELECT count(*) FROM (SELECT 1 FROM uploads INDEXED BY uploads_by_type
                 WHERE facts IS NOT NULL AND facts ->> '$.content_type' = ?1 LIMIT ?2)";
            let mut statement = connection.prepare_cached(sql)?;
            let count =
                |kind: &TypePattern| statement.query_one(params![kind.as_str(), COMMON], |row| row.get::<_, u32>(0));
            query.types.iter().map(count).sum()
        }
    }
}

/// The index that one arm of the walk follows.
#[derive(Debug, Clone, Copy)]
enum ScanArm<'q> {
    All,
    Stage(Stage),
    Type(&'q str),
}

fn scan_uploads(sql: &mut SqlQuery, scope: TenantScope, query: &UploadQuery, arm: ScanArm<'_>, last: Option<UploadId>) {
    sql.push("SELECT id FROM (SELECT id FROM uploads ");
    match arm {
        ScanArm::All => sql.push("WHERE "),
        ScanArm::Stage(stage) => sql.push("WHERE stage = ").bind(stage.name().to_owned()).push(" AND "),
        ScanArm::Type(content_type) => sql
            .push("INDEXED BY uploads_by_type WHERE facts IS NOT NULL AND facts ->> '$.content_type' = ")
            .bind(content_type.to_owned())
            .push(" AND "),
    };
    sql.within("tenant", scope).push(" AND ");
    within_bounds(sql, query, "id", last);
    having(sql, query.metadata.iter(), "uploads.id");
    match arm {
        ScanArm::All => {}
        ScanArm::Stage(_) => with_types(sql, query),
        ScanArm::Type(_) => with_stages(sql, query),
    }
    with_facts(sql, query);
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit).push(")");
}

fn walk_pair(sql: &mut SqlQuery, scope: TenantScope, query: &UploadQuery, place: usize, last: Option<UploadId>) {
    let (key, value) = query.metadata[place].clone();
    let others = query.metadata.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, pair)| pair);
    sql.push("SELECT id FROM (SELECT id FROM upload_metadata AS pair CROSS JOIN uploads ON id = pair.upload_id");
    sql.push(" WHERE pair.key = ").bind(key).push(" AND pair.value = ").bind(value).push(" AND ");
    sql.within("uploads.tenant", scope).push(" AND ");
    within_bounds(sql, query, "pair.upload_id", last);
    having(sql, others, "pair.upload_id");
    with_stages(sql, query);
    with_types(sql, query);
    with_facts(sql, query);
    sql.push(" ORDER BY pair.upload_id DESC LIMIT ").bind(query.limit).push(")");
}

/// Adds the condition on types. The plus sign keeps the planner from using the index for it.
fn with_types(sql: &mut SqlQuery, query: &UploadQuery) {
    if !query.types.is_empty() {
        let types = query.types.iter().map(|content_type| content_type.as_str().to_owned());
        sql.push(" AND +(facts ->> '$.content_type') IN (").bind_all(types).push(")");
    }
}

/// Adds the conditions on dimensions and duration.
fn with_facts(sql: &mut SqlQuery, query: &UploadQuery) {
    for (field, bounds) in [
        (" AND (facts ->> '$.width')", query.width),
        (" AND (facts ->> '$.height')", query.height),
        (" AND (facts ->> '$.duration_ms')", query.duration_ms),
    ] {
        if let Some(least) = bounds.least {
            sql.push(field).push(" >= ").bind(rows::integer(least));
        }
        if let Some(most) = bounds.most {
            sql.push(field).push(" <= ").bind(rows::integer(most));
        }
    }
}

fn with_stages(sql: &mut SqlQuery, query: &UploadQuery) {
    if !query.stages.is_empty() {
        sql.push(" AND +stage IN (").bind_all(query.stages.iter().map(|stage| stage.name().to_owned())).push(")");
    }
}

fn having<'q>(sql: &mut SqlQuery, pairs: impl Iterator<Item = &'q (String, Vec<u8>)>, id: &'static str) {
    for (key, value) in pairs {
        sql.push(" AND EXISTS (SELECT 1 FROM upload_metadata WHERE key = ").bind(key.clone());
        sql.push(" AND value = ").bind(value.clone()).push(" AND upload_id = ").push(id).push(")");
    }
}

/// Adds the cursor and the times of creation. An identifier begins with its time of creation, so its index
/// bounds the walk; the column decides.
fn within_bounds(sql: &mut SqlQuery, query: &UploadQuery, id: &'static str, last: Option<UploadId>) {
    sql.push(id).push(" < ").bind(upper_bound(query));
    if let Some(last) = last {
        sql.push(" AND ").push(id).push(" >= ").bind(last.as_bytes().to_vec());
    }
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
    use crate::SqliteSettings;
    use domain::metadata::Metadata;
    use domain::principal::TenantId;
    use domain::query::NumberBounds;
    use domain::time::Timestamp;
    use domain::upload::{NewUpload, Upload};
    use state::conformance::{NOW, asked, bodies, change_of};
    use state::{Store, Uploads};

    #[tokio::test]
    async fn the_condition_that_fewest_meet_is_walked() {
        let place = tempfile::tempdir().unwrap();
        let store =
            SqliteStore::open(&place.path().join("state.db"), SqliteSettings::default(), bodies()).await.unwrap();
        let pair = |name: &str, value: u8| (name.to_owned(), vec![value]);
        for number in 0..6_u8 {
            let metadata = Metadata::new(vec![pair("all", 0), pair("third", number % 3)]).unwrap();
            store.insert(change_of(Upload::create(NewUpload { metadata, ..asked(number) }, NOW))).await.unwrap();
        }
        let (all, third) = (pair("all", 0), pair("third", 1));
        for (metadata, stages, expected) in [
            (vec![], vec![], UploadRoute::All),
            (vec![], vec![Stage::Created], UploadRoute::Stages),
            (vec![all.clone()], vec![], UploadRoute::Pair(0)),
            (vec![all.clone(), third.clone()], vec![Stage::Created], UploadRoute::Pair(1)),
            (vec![third.clone(), all.clone()], vec![], UploadRoute::Pair(0)),
            (vec![all, third], vec![Stage::Completed], UploadRoute::Stages),
        ] {
            let query = UploadQuery { metadata, stages, limit: 10, ..UploadQuery::default() };
            let with_type = UploadQuery { types: vec![TypePattern::new("video/mp4").unwrap()], ..query.clone() };
            let rare = store.readers.read("choose", move |connection| route(connection, &with_type)).await.unwrap();
            assert!(
                rare == UploadRoute::Types || expected == UploadRoute::Stages,
                "nothing has been looked into: {query:?}"
            );
            let asked = query.clone();
            let found = store.readers.read("choose", move |connection| route(connection, &asked)).await.unwrap();
            assert_eq!(found, expected, "{query:?}");
        }
    }

    /// Adds `count` copies of an existing upload; every other one has the pair `a`, and the rest `b`.
    fn fill(path: &std::path::Path, count: u32) {
        let connection = Connection::open(path).unwrap();
        let others = |table: &str| {
            let sql = format!("SELECT group_concat(name) FROM pragma_table_info('{table}') WHERE name <> 'id'");
            connection.query_row(&sql, [], |row| row.get::<_, String>(0)).unwrap()
        };
        for table in ["uploads", "upload_origins"] {
            let columns = others(table);
            let sql = format!(
                "INSERT INTO {table} (id, {columns})
                 WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count})
                 SELECT unhex(printf('%032x', number)), {columns} FROM numbers, (SELECT * FROM {table} LIMIT 1)"
            );
            connection.execute(&sql, []).unwrap();
        }
        let facts = r#"UPDATE uploads SET facts = iif(unicode(substr(hex(id), -1)) % 2,
             '{"content_type":"video/mp4","duration_ms":9}', '{"content_type":"image/gif","duration_ms":9}')"#;
        connection.execute(facts, []).unwrap();
        let sql = "INSERT INTO upload_metadata (key, value, upload_id)
             SELECT iif(id % 2, 'a', 'b'), x'31', unhex(printf('%032x', id))
             FROM (WITH RECURSIVE numbers (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < ?1)
                 SELECT id FROM numbers)";
        connection.execute(sql, [count]).unwrap();
    }

    /// Two common pairs that never occur together, and a rare stage: the walk is bounded, and continues page
    /// by page.
    #[tokio::test]
    async fn a_list_that_fits_hardly_anything_is_walked_in_stages() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state.db");
        let store = SqliteStore::open(&path, SqliteSettings::default(), bodies()).await.unwrap();
        let pair = |name: &str| (name.to_owned(), b"1".to_vec());
        store.insert(change_of(Upload::create(asked(0), NOW))).await.unwrap();
        store.close().await;
        fill(&path, 6 * MAX_SCANNED);
        let store = SqliteStore::open(&path, SqliteSettings::default(), bodies()).await.unwrap();
        let all = UploadQuery { limit: 10, ..UploadQuery::default() };
        let stages = vec![Stage::Created, Stage::Completed];
        let [film, image] = ["video/mp4", "image/*"].map(|pattern| TypePattern::new(pattern).unwrap());
        let long = NumberBounds { least: Some(10), most: None };
        for (query, pages) in [
            (UploadQuery { metadata: vec![pair("a"), pair("b")], ..all.clone() }, 4),
            (UploadQuery { metadata: vec![pair("a")], stages: vec![Stage::Completed], ..all.clone() }, 1),
            (UploadQuery { metadata: vec![pair("a"), pair("b")], stages, ..all.clone() }, 4),
            (UploadQuery { created_before: Some(Timestamp::from_unix_ms(i64::MIN)), ..all.clone() }, 1),
            (UploadQuery { created_before: Some(NOW), ..all.clone() }, 7),
            (UploadQuery { types: vec![film.clone()], duration_ms: long, ..all.clone() }, 4),
            (UploadQuery { types: vec![film, image], duration_ms: long, ..all.clone() }, 7),
            (UploadQuery { duration_ms: long, ..all.clone() }, 7),
        ] {
            let (mut asked, mut count) = (query.clone(), 0);
            loop {
                let page = store.list(TenantScope::All, &asked).await.unwrap();
                assert_eq!(page.found, [], "{query:?}");
                count += 1;
                asked.before = page.next;
                if page.next.is_none() {
                    break;
                }
            }
            assert_eq!(count, pages, "{query:?}");
        }

        // A tenant without uploads, next to one that has them all.
        let another = TenantScope::One(TenantId::from_number(7));
        let created = UploadQuery { stages: vec![Stage::Created], ..all.clone() };
        for query in [all, created] {
            let (mut asked, mut count) = (query.clone(), 1);
            while let Some(next) = store.list(another, &asked).await.unwrap().next {
                (asked.before, count) = (Some(next), count + 1);
            }
            assert_eq!(count, 7, "{query:?}");
            let own = store.list(TenantScope::One(TenantId::DEFAULT), &query).await.unwrap();
            assert_eq!(own, store.list(TenantScope::All, &query).await.unwrap(), "{query:?}");
            assert_eq!(own.found.len(), 10);
        }
    }
}
