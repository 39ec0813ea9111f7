//! Lists of uploads, newest first.
//!
//! Every list walks one index backwards from its cursor and stops when the page is full. The index holds
//! the identifiers of all uploads, of those with a pair of metadata, or of each requested stage or type of
//! content. All other conditions are checked for each upload on the way. If there are several conditions,
//! the index of the rarest one is walked. A walk also stops after about [`MAX_SCANNED`] uploads; the page
//! then has a cursor although it is not full.
//!
//! The days are walked in windows, each by a separate statement, so that a page costs as many days as it
//! needs.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::PostgresStore;
use crate::bucket::{SourceId, all_buckets, first_id_of};
use crate::fault::Fault;
use crate::params::params;
use crate::query::{AFTER_ALL, Query};
use crate::read_source::ReadSource;
use crate::rows::{self, Columns, UPLOAD_COLUMNS};
use crate::transaction::one;
use crate::windows::Window;
use domain::id::{ID_SLACK, UploadId};
use domain::policy::TypePattern;
use domain::principal::TenantScope;
use domain::query::{UploadPage, UploadQuery};
use domain::stage::Stage;
use domain::upload::Upload;
use state::Result;
use state_rows::listing::{COMMON, MAX_SCANNED, MOST_TYPES, UploadRoute, share_of_type};

const OPERATION: &str = "list uploads";

static SELECT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM (SELECT id, bucket FROM (", *UPLOAD_COLUMNS));

/// The uploads of a window that a page takes.
struct WindowPage {
    /// In the order of the list, without those that cannot be read; their identifiers count.
    rows: Vec<(UploadId, Option<Upload>)>,
    /// The last upload that was examined, if the walk was too long.
    cut_at: Option<UploadId>,
}

impl PostgresStore {
    pub(crate) async fn read_list(
        &self,
        from: ReadSource<'_>,
        scope: TenantScope,
        query: &UploadQuery,
    ) -> Result<UploadPage> {
        let mut query = query.clone();
        query.stages.sort_unstable();
        query.stages.dedup();
        let first = query.created_from.map_or(SourceId::default(), |from| first_id_of(from.minus(ID_SLACK)));
        let mut page = UploadPage { found: Vec::new(), next: None };
        let mut budget = MAX_SCANNED;
        for window in self.shared.days.newest_first(first_behind(&query), self.time.now()) {
            if window.end <= first {
                break;
            }
            let window = Window { from: window.from.max(first), ..window };
            let Some(types) = types_of(from, &query.types, window).await? else { continue };
            let WindowPage { rows, cut_at } = read_window(from, scope, &query, types, window, &mut budget).await?;
            query.limit = query.limit.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
            page.next = if query.limit == 0 { rows.last().map(|(id, _)| *id) } else { cut_at };
            page.found.extend(rows.into_iter().filter_map(|(_, upload)| upload));
            if page.next.is_some() || query.limit == 0 {
                break;
            }
        }
        Ok(page)
    }
}

async fn read_window(
    from: ReadSource<'_>,
    scope: TenantScope,
    query: &UploadQuery,
    types: Vec<TypePattern>,
    window: Window,
    budget: &mut u32,
) -> Result<WindowPage> {
    let query = &UploadQuery { types, ..query.clone() };
    let route = route(from, query, window).await?;
    let mut walked = window;
    let mut cut_at = None;
    if route.is_walk(scope, query) {
        cut_at = last_of_walk(from, query, route, window, *budget).await?;
        if let Some(last) = cut_at {
            walked.from = *last.as_bytes();
        } else {
            let passed = count_up_to(from, query, route, window, *budget).await?;
            *budget = budget.saturating_sub(passed).max(COMMON);
        }
    }
    let mut sql = Query::new(&SELECT);
    match route {
        UploadRoute::All => walk_uploads(&mut sql, scope, query, Arm::All, walked),
        UploadRoute::Stages => {
            for (place, stage) in query.stages.iter().enumerate() {
                sql.push(if place == 0 { "" } else { " UNION ALL " });
                walk_uploads(&mut sql, scope, query, Arm::Stage(*stage), walked);
            }
        }
        UploadRoute::Types => {
            for (place, content_type) in query.types.iter().enumerate() {
                sql.push(if place == 0 { "" } else { " UNION ALL " });
                walk_uploads(&mut sql, scope, query, Arm::Type(content_type.as_str()), walked);
            }
        }
        UploadRoute::Pair(place) => walk_pair(&mut sql, scope, query, place, walked),
    }
    sql.push(") AS walked ORDER BY id DESC LIMIT ").bind(query.limit);
    sql.push(") AS page JOIN uploads USING (id, bucket) JOIN upload_progress USING (id, bucket) WHERE ");
    within_window(&mut sql, "uploads.id", window);
    sql.push(" AND ");
    within_window(&mut sql, "upload_progress.id", window);
    sql.push(" ORDER BY id DESC");
    let rows = from.query(OPERATION, sql.sql(), sql.values()).await?;
    let read: std::result::Result<Vec<_>, Fault> = rows.iter().map(rows::one_of_uploads).collect();
    Ok(WindowPage { rows: read.map_err(|fault| fault.into_error(OPERATION))?, cut_at })
}

/// Resolves patterns to distinct types: a pattern for all subtypes becomes the types that some upload of
/// the window has. Returns `None` if no upload of the window can match.
async fn types_of(from: ReadSource<'_>, patterns: &[TypePattern], window: Window) -> Result<Option<Vec<TypePattern>>> {
    if patterns.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut found = BTreeSet::new();
    for pattern in patterns {
        let Some(kind) = pattern.as_str().strip_suffix("/*") else {
            found.insert(pattern.as_str().to_owned());
            continue;
        };
        // `0` is the character after `/`.
        let (least, end) = (format!("{kind}/"), format!("{kind}0"));
        let most = u32::try_from(MOST_TYPES.saturating_sub(found.len())).unwrap_or(u32::MAX);
        let values = params![least, end, window.from, window.end, all_buckets(), most];
        for row in from.query(OPERATION, TYPES, values).await? {
            found.insert(Columns::of(&row).next().map_err(|fault| fault.into_error(OPERATION))?);
        }
    }
    let types: Vec<_> = found.iter().filter_map(|content_type: &String| TypePattern::new(content_type)).collect();
    Ok(if types.is_empty() { None } else { Some(types) })
}

/// Returns the end of a walk that is too long for one query: the last upload it examines.
async fn last_of_walk(
    from: ReadSource<'_>,
    query: &UploadQuery,
    route: UploadRoute,
    window: Window,
    budget: u32,
) -> Result<Option<UploadId>> {
    let share = match route {
        UploadRoute::Types => share_of_type(query).min(budget),
        UploadRoute::All | UploadRoute::Stages | UploadRoute::Pair(_) => budget,
    };
    let mut last: Option<UploadId> = None;
    for arm in arms(query, route) {
        let mut sql = Query::new("SELECT ");
        sql.push(arm.id()).push(" FROM ");
        arm.index(&mut sql, window);
        sql.push(" ORDER BY ").push(arm.id()).push(" DESC LIMIT 1 OFFSET ").bind(share.saturating_sub(1));
        let rows = from.query(OPERATION, sql.sql(), sql.values()).await?;
        let found = rows.first().map(|row| Columns::of(row).next()).transpose();
        last = last.max(found.map_err(|fault| fault.into_error(OPERATION))?);
    }
    Ok(last)
}

async fn route(from: ReadSource<'_>, query: &UploadQuery, window: Window) -> Result<UploadRoute> {
    let mut routes = UploadRoute::candidates(query);
    if let [] | [_] = routes.as_slice() {
        return Ok(routes.pop().unwrap_or(UploadRoute::All));
    }
    let mut best = (u32::MAX, UploadRoute::All);
    for route in routes {
        let uploads = count_up_to(from, query, route, window, COMMON).await?;
        if uploads < best.0 {
            best = (uploads, route);
        }
    }
    Ok(best.1)
}

/// Counts the uploads of a walk, at most `most` of each arm.
async fn count_up_to(
    from: ReadSource<'_>,
    query: &UploadQuery,
    route: UploadRoute,
    window: Window,
    most: u32,
) -> Result<u32> {
    let mut count = 0_u32;
    for arm in arms(query, route) {
        let mut sql = Query::new("SELECT count(*) FROM (SELECT 1 FROM ");
        arm.index(&mut sql, window);
        sql.push(" LIMIT ").bind(most).push(") AS counted");
        let rows = from.query(OPERATION, sql.sql(), sql.values()).await?;
        let found: std::result::Result<u32, Fault> = one(&rows).and_then(|row| Columns::of(row).next());
        count = count.saturating_add(found.map_err(|fault| fault.into_error(OPERATION))?);
    }
    Ok(count)
}

/// The types between two texts that some upload of a window has: steps from one to the next along the index.
const TYPES: &str = "WITH RECURSIVE step (content_type) AS (
         (SELECT content_type FROM uploads WHERE content_type IS NOT NULL AND content_type > $1 AND content_type < $2
              AND id >= $3 AND id < $4 AND bucket = ANY($5::bigint[]) ORDER BY content_type LIMIT 1)
         UNION ALL
         SELECT (SELECT next.content_type FROM uploads AS next
              WHERE next.content_type IS NOT NULL AND next.content_type > step.content_type AND next.content_type < $2
                  AND next.id >= $3 AND next.id < $4 AND next.bucket = ANY($5::bigint[])
              ORDER BY next.content_type LIMIT 1)
         FROM step WHERE step.content_type IS NOT NULL)
     SELECT content_type FROM step WHERE content_type IS NOT NULL LIMIT $6";

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
    Pair(&'q (String, Vec<u8>)),
}

impl Arm<'_> {
    const fn id(self) -> &'static str {
        match self {
            Self::All | Self::Stage(_) | Self::Type(_) => "id",
            Self::Pair(_) => "upload_id",
        }
    }

    /// Adds the table and the condition of the index.
    fn index(self, sql: &mut Query, window: Window) {
        match self {
            Self::All => sql.push("uploads WHERE "),
            Self::Stage(stage) => sql.push("uploads WHERE stage = ").bind(stage.name()).push(" AND "),
            Self::Type(content_type) => {
                sql.push("uploads WHERE content_type = ").bind(content_type.to_owned()).push(" AND ")
            }
            Self::Pair((key, value)) => sql
                .push("upload_metadata WHERE key = ")
                .bind(key.clone())
                .push(" AND value = ")
                .bind(value.clone())
                .push(" AND "),
        };
        within_window(sql, self.id(), window);
        sql.push(" AND bucket = ANY(").bind(all_buckets()).push("::bigint[])");
    }
}

fn arms(query: &UploadQuery, route: UploadRoute) -> Vec<Arm<'_>> {
    match route {
        UploadRoute::All => vec![Arm::All],
        UploadRoute::Stages => query.stages.iter().map(|stage| Arm::Stage(*stage)).collect(),
        UploadRoute::Types => query.types.iter().map(|content_type| Arm::Type(content_type.as_str())).collect(),
        UploadRoute::Pair(place) => query.metadata.get(place).map(Arm::Pair).into_iter().collect(),
    }
}

fn within_window(sql: &mut Query, id: &'static str, window: Window) {
    sql.push(id).push(" >= ").bind(window.from).push(" AND ").push(id).push(" < ").bind(window.end);
}

fn walk_uploads(sql: &mut Query, scope: TenantScope, query: &UploadQuery, arm: Arm<'_>, window: Window) {
    sql.push("(SELECT id, bucket FROM ");
    arm.index(sql, window);
    sql.push(" AND ").within("tenant", scope);
    created_within(sql, query);
    having(sql, query.metadata.iter(), window);
    match arm {
        Arm::All | Arm::Pair(_) => {}
        Arm::Stage(_) => with_types(sql, query),
        Arm::Type(_) => with_stages(sql, query),
    }
    with_facts(sql, query);
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit).push(")");
}

fn walk_pair(sql: &mut Query, scope: TenantScope, query: &UploadQuery, place: usize, window: Window) {
    let (key, value) = query.metadata[place].clone();
    let others = query.metadata.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, pair)| pair);
    sql.push("(SELECT uploads.id, uploads.bucket FROM upload_metadata AS pair");
    sql.push(" JOIN uploads ON uploads.id = pair.upload_id AND uploads.bucket = pair.bucket");
    sql.push(" WHERE pair.key = ").bind(key).push(" AND pair.value = ").bind(value).push(" AND ");
    sql.within("uploads.tenant", scope).push(" AND ");
    within_window(sql, "pair.upload_id", window);
    sql.push(" AND ");
    within_window(sql, "uploads.id", window);
    sql.push(" AND pair.bucket = ANY(").bind(all_buckets()).push("::bigint[])");
    created_within(sql, query);
    having(sql, others, window);
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

fn having<'q>(sql: &mut Query, pairs: impl Iterator<Item = &'q (String, Vec<u8>)>, window: Window) {
    for (key, value) in pairs {
        sql.push(" AND EXISTS (SELECT 1 FROM upload_metadata AS other WHERE other.key = ").bind(key.clone());
        sql.push(" AND other.value = ").bind(value.clone());
        sql.push(" AND other.upload_id = uploads.id AND other.bucket = uploads.bucket AND ");
        within_window(sql, "other.upload_id", window);
        sql.push(")");
    }
}

/// Adds the times of creation. An identifier begins with its time of creation, so the window bounds the walk;
/// the column decides.
fn created_within(sql: &mut Query, query: &UploadQuery) {
    if let Some(before) = query.created_before {
        sql.push(" AND created_at_ms < ").bind(before);
    }
    if let Some(from) = query.created_from {
        sql.push(" AND created_at_ms >= ").bind(from);
    }
}
