//! Lists of uploads, newest first.
//!
//! Every list walks one index backwards from its cursor and stops when the page is full. The index holds the
//! identifiers of all uploads, of those with a pair of metadata, or of each requested stage or type of
//! content. All other conditions are checked for each upload on the way. If there are several conditions, the
//! index of the rarest one is walked. A walk also stops after [`MAX_SCANNED`] uploads; the page then has a
//! cursor although it is not full.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::PostgresStore;
use crate::bucket::first_id_of;
use crate::fault::Fault;
use crate::params::params;
use crate::query::{AFTER_ALL, Query};
use crate::rows::{self, Columns, UPLOAD_COLUMNS};
use domain::id::{ID_SLACK, UploadId};
use domain::policy::TypePattern;
use domain::principal::TenantScope;
use domain::query::{UploadPage, UploadQuery};
use domain::stage::Stage;
use state::Result;
use state_rows::listing::{COMMON, MAX_SCANNED, MOST_TYPES, UploadRoute, share_of_type};

const OPERATION: &str = "list uploads";

static SELECT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM (SELECT id, bucket FROM (", *UPLOAD_COLUMNS));

impl PostgresStore {
    pub(crate) async fn read_list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage> {
        let mut query = query.clone();
        query.stages.sort_unstable();
        query.stages.dedup();
        let types = self.types_of(&query.types).await?;
        if types.is_empty() && !query.types.is_empty() {
            return Ok(UploadPage { found: Vec::new(), next: None });
        }
        query.types = types;
        let route = self.route(&query).await?;
        let last = if route.is_walk(scope, &query) { self.last_of_walk(&query, route).await? } else { None };
        let mut sql = Query::new(&SELECT);
        match route {
            UploadRoute::All => walk_uploads(&mut sql, scope, &query, Arm::All, last),
            UploadRoute::Stages => {
                for (place, stage) in query.stages.iter().enumerate() {
                    sql.push(if place == 0 { "" } else { " UNION ALL " });
                    walk_uploads(&mut sql, scope, &query, Arm::Stage(*stage), last);
                }
            }
            UploadRoute::Types => {
                for (place, content_type) in query.types.iter().enumerate() {
                    sql.push(if place == 0 { "" } else { " UNION ALL " });
                    walk_uploads(&mut sql, scope, &query, Arm::Type(content_type.as_str()), last);
                }
            }
            UploadRoute::Pair(place) => walk_pair(&mut sql, scope, &query, place, last),
        }
        sql.push(") AS walked ORDER BY id DESC LIMIT ").bind(query.limit);
        sql.push(") AS page JOIN uploads USING (id, bucket) JOIN upload_progress USING (id, bucket) ORDER BY id DESC");
        let rows = self.readers.query(OPERATION, sql.sql(), sql.values()).await?;
        let read: std::result::Result<Vec<_>, Fault> = rows.iter().map(rows::one_of_uploads).collect();
        let read = read.map_err(|fault| fault.into_error(OPERATION))?;
        let is_full = read.len() == usize::try_from(query.limit).unwrap_or(usize::MAX);
        let next = if is_full { read.last().map(|(id, _)| *id) } else { last };
        Ok(UploadPage { found: read.into_iter().filter_map(|(_, upload)| upload).collect(), next })
    }

    /// Resolves patterns to distinct types: a pattern for all subtypes becomes the types that some upload
    /// has.
    async fn types_of(&self, patterns: &[TypePattern]) -> Result<Vec<TypePattern>> {
        let mut found = BTreeSet::new();
        let next = "SELECT content_type FROM uploads
             WHERE content_type IS NOT NULL AND content_type > $1 AND content_type < $2
             ORDER BY content_type LIMIT 1";
        for pattern in patterns {
            let Some(kind) = pattern.as_str().strip_suffix("/*") else {
                found.insert(pattern.as_str().to_owned());
                continue;
            };
            // Steps from one type to the next along the index: `0` is the character after `/`.
            let (mut last, end) = (format!("{kind}/"), format!("{kind}0"));
            while found.len() < MOST_TYPES {
                let rows = self.readers.query(OPERATION, next, params![last.clone(), end.clone()]).await?;
                let Some(row) = rows.first() else { break };
                let content_type: String = Columns::of(row).next().map_err(|fault| fault.into_error(OPERATION))?;
                last.clone_from(&content_type);
                found.insert(content_type);
            }
        }
        Ok(found.iter().filter_map(|content_type| TypePattern::new(content_type)).collect())
    }

    /// Returns the end of a walk that is too long for one query: the last upload it examines.
    async fn last_of_walk(&self, query: &UploadQuery, route: UploadRoute) -> Result<Option<UploadId>> {
        let first = first_behind(query);
        let mut last = None;
        let mut look = async |sql: &Query| -> Result<()> {
            let rows = self.readers.query(OPERATION, sql.sql(), sql.values()).await?;
            let found: Option<UploadId> = match rows.first() {
                Some(row) => Some(Columns::of(row).next().map_err(|fault| fault.into_error(OPERATION))?),
                None => None,
            };
            last = last.max(found);
            Ok(())
        };
        let end = |sql: &mut Query, most: u32| {
            sql.push(" LIMIT 1 OFFSET ").bind(most - 1);
        };
        match route {
            UploadRoute::All => {
                let mut sql = Query::new("SELECT id FROM uploads WHERE id < ");
                sql.bind(first).push(" ORDER BY id DESC");
                end(&mut sql, MAX_SCANNED);
                look(&sql).await?;
            }
            UploadRoute::Stages => {
                for stage in &query.stages {
                    let mut sql = Query::new("SELECT id FROM uploads WHERE stage = ");
                    sql.bind(stage.name()).push(" AND id < ").bind(first).push(" ORDER BY id DESC");
                    end(&mut sql, MAX_SCANNED);
                    look(&sql).await?;
                }
            }
            UploadRoute::Types => {
                let share = share_of_type(query);
                for content_type in &query.types {
                    let mut sql = Query::new("SELECT id FROM uploads WHERE content_type = ");
                    sql.bind(content_type.as_str().to_owned()).push(" AND id < ").bind(first);
                    sql.push(" ORDER BY id DESC");
                    end(&mut sql, share);
                    look(&sql).await?;
                }
            }
            UploadRoute::Pair(place) => {
                let (key, value) = query.metadata[place].clone();
                let mut sql = Query::new("SELECT upload_id FROM upload_metadata WHERE key = ");
                sql.bind(key).push(" AND value = ").bind(value).push(" AND upload_id < ").bind(first);
                sql.push(" ORDER BY upload_id DESC");
                end(&mut sql, MAX_SCANNED);
                look(&sql).await?;
            }
        }
        let is_wanted = |last: &UploadId| {
            query.created_from.is_none_or(|from| first_id_of(from.minus(ID_SLACK)) <= *last.as_bytes())
        };
        Ok(last.filter(is_wanted))
    }

    async fn route(&self, query: &UploadQuery) -> Result<UploadRoute> {
        let mut routes = UploadRoute::candidates(query);
        if let [] | [_] = routes.as_slice() {
            return Ok(routes.pop().unwrap_or(UploadRoute::All));
        }
        let mut best = (u32::MAX, UploadRoute::All);
        for route in routes {
            let uploads = self.count_up_to_common(query, route).await?;
            if uploads < best.0 {
                best = (uploads, route);
            }
        }
        Ok(best.1)
    }

    async fn count_up_to_common(&self, query: &UploadQuery, route: UploadRoute) -> Result<u32> {
        let mut count = 0;
        let mut add = async |sql: &mut Query| -> Result<()> {
            sql.push(" LIMIT ").bind(COMMON).push(") AS counted");
            let rows = self.readers.query(OPERATION, sql.sql(), sql.values()).await?;
            let found: u32 = rows
                .first()
                .map_or(Ok(0), |row| Columns::of(row).next())
                .map_err(|fault: Fault| fault.into_error(OPERATION))?;
            count += found;
            Ok(())
        };
        match route {
            UploadRoute::All => return Ok(u32::MAX),
            UploadRoute::Pair(place) => {
                let (key, value) = query.metadata[place].clone();
                let mut sql = Query::new("SELECT count(*) FROM (SELECT 1 FROM upload_metadata WHERE key = ");
                sql.bind(key).push(" AND value = ").bind(value);
                add(&mut sql).await?;
            }
            UploadRoute::Stages => {
                for stage in &query.stages {
                    let mut sql = Query::new("SELECT count(*) FROM (SELECT 1 FROM uploads WHERE stage = ");
                    sql.bind(stage.name());
                    add(&mut sql).await?;
                }
            }
            UploadRoute::Types => {
                for content_type in &query.types {
                    let mut sql = Query::new("SELECT count(*) FROM (SELECT 1 FROM uploads WHERE content_type = ");
                    sql.bind(content_type.as_str().to_owned());
                    add(&mut sql).await?;
                }
            }
        }
        Ok(count)
    }
}

/// Returns the exclusive upper bound of the listed identifiers.
fn first_behind(query: &UploadQuery) -> [u8; 16] {
    let cursor = query.before.map_or(AFTER_ALL, |before| *before.as_bytes());
    query.created_before.map_or(cursor, |before| first_id_of(before.plus(ID_SLACK)).min(cursor))
}

/// The index that one arm of the walk follows.
#[derive(Debug, Clone, Copy)]
enum Arm<'q> {
    All,
    Stage(Stage),
    Type(&'q str),
}

fn walk_uploads(sql: &mut Query, scope: TenantScope, query: &UploadQuery, arm: Arm<'_>, last: Option<UploadId>) {
    sql.push("(SELECT id, bucket FROM uploads WHERE ");
    match arm {
        Arm::All => {}
        Arm::Stage(stage) => {
            sql.push("stage = ").bind(stage.name()).push(" AND ");
        }
        Arm::Type(content_type) => {
            sql.push("content_type = ").bind(content_type.to_owned()).push(" AND ");
        }
    }
    sql.within("tenant", scope).push(" AND ");
    within_bounds(sql, query, "id", last);
    having(sql, query.metadata.iter(), "uploads.id");
    match arm {
        Arm::All => {}
        Arm::Stage(_) => with_types(sql, query),
        Arm::Type(_) => with_stages(sql, query),
    }
    with_facts(sql, query);
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit).push(")");
}

fn walk_pair(sql: &mut Query, scope: TenantScope, query: &UploadQuery, place: usize, last: Option<UploadId>) {
    let (key, value) = query.metadata[place].clone();
    let others = query.metadata.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, pair)| pair);
    sql.push("(SELECT uploads.id, uploads.bucket FROM upload_metadata AS pair");
    sql.push(" JOIN uploads ON uploads.id = pair.upload_id AND uploads.bucket = pair.bucket");
    sql.push(" WHERE pair.key = ").bind(key).push(" AND pair.value = ").bind(value).push(" AND ");
    sql.within("uploads.tenant", scope).push(" AND ");
    within_bounds(sql, query, "pair.upload_id", last);
    having(sql, others, "pair.upload_id");
    with_stages(sql, query);
    with_types(sql, query);
    with_facts(sql, query);
    sql.push(" ORDER BY pair.upload_id DESC LIMIT ").bind(query.limit).push(")");
}

fn with_types(sql: &mut Query, query: &UploadQuery) {
    if !query.types.is_empty() {
        let types: Vec<String> = query.types.iter().map(|content_type| content_type.as_str().to_owned()).collect();
        sql.push(" AND content_type = ANY(").bind(types).push(")");
    }
}

/// Adds the conditions on dimensions and duration.
fn with_facts(sql: &mut Query, query: &UploadQuery) {
    for (field, bounds) in
        [(" AND width", query.width), (" AND height", query.height), (" AND duration_ms", query.duration_ms)]
    {
        if let Some(least) = bounds.least {
            sql.push(field).push(" >= ").bind(least);
        }
        if let Some(most) = bounds.most {
            sql.push(field).push(" <= ").bind(most);
        }
    }
}

fn with_stages(sql: &mut Query, query: &UploadQuery) {
    if !query.stages.is_empty() {
        let stages: Vec<String> = query.stages.iter().map(|stage| stage.name().to_owned()).collect();
        sql.push(" AND stage = ANY(").bind(stages).push(")");
    }
}

fn having<'q>(sql: &mut Query, pairs: impl Iterator<Item = &'q (String, Vec<u8>)>, id: &'static str) {
    for (key, value) in pairs {
        sql.push(" AND EXISTS (SELECT 1 FROM upload_metadata WHERE key = ").bind(key.clone());
        sql.push(" AND value = ").bind(value.clone()).push(" AND upload_id = ").push(id).push(")");
    }
}

/// Adds the cursor and the times of creation. An identifier begins with its time of creation, so its index
/// bounds the walk; the column decides.
fn within_bounds(sql: &mut Query, query: &UploadQuery, id: &'static str, last: Option<UploadId>) {
    sql.push(id).push(" < ").bind(first_behind(query));
    if let Some(last) = last {
        sql.push(" AND ").push(id).push(" >= ").bind(last);
    }
    if let Some(before) = query.created_before {
        sql.push(" AND created_at_ms < ").bind(before);
    }
    if let Some(from) = query.created_from {
        sql.push(" AND ").push(id).push(" >= ").bind(first_id_of(from.minus(ID_SLACK)));
        sql.push(" AND created_at_ms >= ").bind(from);
    }
}
