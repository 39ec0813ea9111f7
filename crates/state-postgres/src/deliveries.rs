//! Queries of deliveries by operators, with the attempts; and the replay of a single delivery.

use std::sync::LazyLock;

use async_trait::async_trait;
use state_rows::listing::passes_tenants;
use state_rows::{AttemptRow, DeliveryRow, Row as _};
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::bucket::{all_buckets, bucket_of, first_id_of};
use crate::fault::Fault;
use crate::past_days::{self, ReadWindow};
use crate::query::{AFTER_ALL, Query};
use crate::read_source::ReadSource;
use crate::replay::ReplayDelivery;
use crate::rows::Columns;
use crate::unfinished;
use crate::windows::{KnownDays, Window};
use domain::delivery::{Attempt, AttemptOutcome, Backlog, DeliveryRecord, DeliveryState, ReplayOutcome};
use domain::endpoint::EndpointId;
use domain::id::DeliveryId;
use domain::principal::TenantScope;
use domain::query::{DeliveryPage, DeliveryQuery};
use domain::time::Timestamp;
use state::{Deliveries, Result};

const LIST: &str = "list deliveries";

#[async_trait]
impl Deliveries for PostgresStore {
    async fn deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> Result<DeliveryPage> {
        list(self.primary(), &self.shared.days, scope, query).await
    }

    async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        find(self.primary(), &self.shared.days, scope, id).await
    }

    async fn backlog(&self, scope: TenantScope, endpoint: Option<&EndpointId>) -> Result<Backlog> {
        self.count_backlog(scope, endpoint, Backlog::MOST).await
    }

    async fn replay(&self, scope: TenantScope, id: DeliveryId, force: bool, now: Timestamp) -> Result<ReplayOutcome> {
        self.write(ReplayDelivery { scope, delivery: id, force, now }).await
    }
}

/// The maximum number of attempts shown for one delivery; the latest are shown. Only repeated shutdowns cause
/// so many.
const MAX_ATTEMPTS_SHOWN: u32 = 100;

/// The condition that the endpoint of a delivery is stopped. Its pending deliveries are then shown as paused.
macro_rules! is_stopped {
    () => {
        "EXISTS (SELECT 1 FROM endpoints WHERE endpoints.id = deliveries.endpoint AND endpoints.state <> 'enabled')"
    };
}

fn prefixed<R: state_rows::Row>(prefix: &str) -> String {
    R::COLUMNS.iter().map(|column| format!("{prefix}.{column}")).collect::<Vec<_>>().join(", ")
}

/// Selects deliveries and their latest attempts, up to the conditions. A single statement, so that both come
/// from the same snapshot.
static DELIVERIES: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {}, found.is_stopped, latest.delivery_id IS NOT NULL, {}
         FROM (SELECT bucket, source_id, {}, {} AS is_stopped FROM deliveries WHERE ",
        prefixed::<DeliveryRow>("found"),
        prefixed::<AttemptRow>("latest"),
        state_rows::sql::columns::<DeliveryRow>(),
        is_stopped!(),
    )
});

/// The end of the statement, after the conditions.
static WITH_ATTEMPTS: LazyLock<String> = LazyLock::new(|| {
    format!(
        ") AS found
         LEFT JOIN LATERAL (SELECT {} FROM attempts
             WHERE attempts.bucket = found.bucket AND attempts.source_id = found.source_id
                 AND attempts.delivery_id = found.id AND attempts.source_id >= $1 AND attempts.source_id < $2
             ORDER BY number DESC, started_at_ms DESC LIMIT {MAX_ATTEMPTS_SHOWN}) AS latest ON true
         ORDER BY found.id DESC",
        state_rows::sql::columns::<AttemptRow>(),
    )
});

/// Selects a column of a delivery's latest attempt.
macro_rules! last {
    ($column:literal) => {
        concat!(
            "(SELECT ",
            $column,
            " FROM attempts WHERE attempts.bucket = deliveries.bucket AND attempts.source_id = deliveries.source_id
                 AND delivery_id = deliveries.id ORDER BY number DESC, started_at_ms DESC LIMIT 1)"
        )
    };
}

/// The maximum number of deliveries that a query examines or sorts, including those that do not match.
const MAX_SCANNED: u32 = 20_000;

/// The access path of a list of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeliveryRoute {
    /// A walk by identifier, newest first, over a bounded number of rows.
    Scan(ScanIndex),
    /// A sort of all deliveries in one state, which are few.
    Few,
}

/// The index to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScanIndex {
    All,
    Upload,
    Dead,
}

/// Lists deliveries on a server, whose partitions are looked at window by window.
pub(crate) async fn list(
    from: ReadSource<'_>,
    days: &KnownDays,
    scope: TenantScope,
    query: &DeliveryQuery,
) -> Result<DeliveryPage> {
    let route = delivery_route(from, query).await?;
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let (mut found, mut last) = (Vec::<DeliveryRecord>::new(), None);
    for window in windows(from, days, query).await? {
        let needed = if found.len() == limit { found.last().map(|delivery| delivery.id) } else { last };
        if needed.is_some_and(|needed: DeliveryId| window.newest_delivery < *needed.as_bytes()) {
            break;
        }
        if let DeliveryRoute::Scan(scan) = route
            && may_skip_rows(scope, query, scan)
        {
            last = last_delivery(from, query, scan, window).await?.max(last);
        }
        found.extend(read_deliveries(from, LIST, &deliveries_query(scope, query, last, window)).await?);
        found.sort_by_key(|delivery| std::cmp::Reverse(delivery.id));
        found.truncate(limit);
    }
    found.retain(|delivery| last.is_none_or(|last| delivery.id >= last));
    let next = if found.len() == limit { found.last().map(|delivery| delivery.id) } else { last };
    Ok(DeliveryPage { found, next })
}

/// Returns the days to look at for a list, those with the newest deliveries first.
async fn windows(from: ReadSource<'_>, days: &KnownDays, query: &DeliveryQuery) -> Result<Vec<ReadWindow>> {
    if query.upload.is_some() {
        // One partition, by the identifier.
        return Ok(vec![ReadWindow::ALL]);
    }
    if query.state.is_some_and(|state| !state.is_finished()) {
        let first = unfinished::read_from(from, LIST).await?.deliveries;
        let days = Window { from: first, ..ReadWindow::ALL.days };
        return Ok(vec![ReadWindow { days, ..ReadWindow::ALL }]);
    }
    let least = query.created_from.map_or([0; 16], first_id_of);
    past_days::with_deliveries(from, LIST, days, least).await
}

/// Finds a delivery on a server.
pub(crate) async fn find(
    from: ReadSource<'_>,
    days: &KnownDays,
    scope: TenantScope,
    id: DeliveryId,
) -> Result<Option<DeliveryRecord>> {
    const OPERATION: &str = "find a delivery";
    for window in past_days::with_deliveries(from, OPERATION, days, *id.as_bytes()).await? {
        let mut sql = Query::new(&DELIVERIES);
        within_days(&mut sql, window);
        sql.push(" AND id = ").bind(id).push(" AND bucket = ").bind(bucket_of(id.as_bytes()));
        sql.push(" AND ").within("tenant", scope).push(&WITH_ATTEMPTS);
        if let Some(found) = read_deliveries(from, OPERATION, &sql).await?.pop() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Adds the condition that the source of a delivery lies in a window, whose bounds are the first values of
/// [`WITH_ATTEMPTS`].
fn within_days(sql: &mut Query, ReadWindow { days, .. }: ReadWindow) {
    sql.push("source_id >= ").bind(days.from).push(" AND source_id < ").bind(days.end);
}

async fn read_deliveries(from: ReadSource<'_>, operation: &'static str, sql: &Query) -> Result<Vec<DeliveryRecord>> {
    let rows = from.query(operation, sql.sql(), sql.values()).await?;
    deliveries(&rows).map_err(|fault| fault.into_error(operation))
}

async fn delivery_route(from: ReadSource<'_>, query: &DeliveryQuery) -> Result<DeliveryRoute> {
    if query.upload.is_some() {
        return Ok(DeliveryRoute::Scan(ScanIndex::Upload));
    }
    let Some(state) = query.state else { return Ok(DeliveryRoute::Scan(ScanIndex::All)) };
    if state == DeliveryState::Dead {
        return Ok(DeliveryRoute::Scan(ScanIndex::Dead));
    }
    if state.is_finished() {
        return Ok(DeliveryRoute::Scan(ScanIndex::All));
    }
    let mut sql = Query::new("SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ");
    let first = unfinished::read_from(from, LIST).await?.deliveries;
    sql.push(condition_of(state)).push(" AND source_id >= ").bind(first);
    sql.push(" AND bucket = ANY(").bind(all_buckets()).push("::bigint[])");
    if let Some(endpoint) = &query.endpoint {
        sql.push(" AND endpoint = ").bind(endpoint);
    }
    sql.push(" LIMIT ").bind(MAX_SCANNED + 1).push(") AS found");
    let counted = from.query(LIST, sql.sql(), sql.values()).await?;
    let are_few = counted.first().is_some_and(|row| row.get::<_, i64>(0) <= i64::from(MAX_SCANNED));
    Ok(if are_few { DeliveryRoute::Few } else { DeliveryRoute::Scan(ScanIndex::All) })
}

/// Returns the end of a walk that is too long for one query.
async fn last_delivery(
    from: ReadSource<'_>,
    query: &DeliveryQuery,
    scan: ScanIndex,
    window: ReadWindow,
) -> Result<Option<DeliveryId>> {
    let mut sql = Query::new("SELECT id FROM deliveries WHERE id < ");
    sql.bind(upper_bound(query)).push(" AND ");
    within_days(&mut sql, window);
    match (scan, query.upload) {
        (ScanIndex::Upload, Some(upload)) => {
            sql.push(" AND source_id = ").bind(upload).push(" AND bucket = ").bind(bucket_of(upload.as_bytes()))
        }
        (ScanIndex::Dead, _) => {
            sql.push(" AND state = 'dead' AND bucket = ANY(").bind(all_buckets()).push("::bigint[])")
        }
        (ScanIndex::All | ScanIndex::Upload, _) => {
            sql.push(" AND bucket = ANY(").bind(all_buckets()).push("::bigint[])")
        }
    };
    sql.push(" ORDER BY id DESC LIMIT 1 OFFSET ").bind(MAX_SCANNED - 1);
    let found = from.query(LIST, sql.sql(), sql.values()).await?;
    let last = found.first().map(|row| Columns::of(row).next::<DeliveryId>()).transpose();
    let last = last.map_err(|fault| fault.into_error(LIST))?;
    let is_wanted = |last: &DeliveryId| query.created_from.is_none_or(|from| first_id_of(from) <= *last.as_bytes());
    Ok(last.filter(is_wanted))
}

/// Reports whether a walk may pass deliveries that do not match or belong to other tenants. Without a
/// condition, every delivery matches.
fn may_skip_rows(scope: TenantScope, query: &DeliveryQuery, scan: ScanIndex) -> bool {
    let DeliveryQuery { endpoint, event, kind, state, last_status, last_error, .. } = query;
    let by_attempt = last_status.is_some() || last_error.is_some();
    let by_state = state.is_some() && scan != ScanIndex::Dead;
    passes_tenants(scope) || endpoint.is_some() || event.is_some() || kind.is_some() || by_attempt || by_state
}

/// Returns the exclusive upper bound of the requested identifiers.
fn upper_bound(query: &DeliveryQuery) -> [u8; 16] {
    let cursor = query.before.map_or(AFTER_ALL, |before| *before.as_bytes());
    query.created_before.map_or(cursor, |before| first_id_of(before).min(cursor))
}

fn deliveries_query(scope: TenantScope, query: &DeliveryQuery, last: Option<DeliveryId>, window: ReadWindow) -> Query {
    let mut sql = Query::new(&DELIVERIES);
    // Always present, so that a list without conditions also walks from a position. An identifier begins with
    // the time of its delivery.
    within_days(&mut sql, window);
    sql.push(" AND id < ").bind(upper_bound(query));
    sql.push(" AND ").within("tenant", scope);
    if let Some(last) = last {
        sql.push(" AND id >= ").bind(last);
    }
    if let Some(from) = query.created_from {
        sql.push(" AND id >= ").bind(first_id_of(from));
    }
    if let Some(endpoint) = &query.endpoint {
        sql.push(" AND endpoint = ").bind(endpoint);
    }
    if let Some(upload) = query.upload {
        sql.push(" AND source_id = ").bind(upload).push(" AND bucket = ").bind(bucket_of(upload.as_bytes()));
        sql.push(" AND upload_id IS NOT NULL");
    } else {
        sql.push(" AND bucket = ANY(").bind(all_buckets()).push("::bigint[])");
    }
    if let Some(event) = query.event {
        sql.push(" AND event_id = ").bind(event);
    }
    if let Some(kind) = query.kind {
        sql.push(" AND kind = ").bind(kind.name());
    }
    if let Some(state) = query.state {
        sql.push(" AND ").push(condition_of(state));
        match state {
            DeliveryState::Paused => sql.push(concat!(" AND ", is_stopped!())),
            DeliveryState::Ready | DeliveryState::Waiting => sql.push(concat!(" AND NOT ", is_stopped!())),
            DeliveryState::Leased | DeliveryState::Dead => &mut sql,
            DeliveryState::Succeeded | DeliveryState::Superseded | DeliveryState::Cancelled => &mut sql,
        };
    }
    if let Some(statuses) = &query.last_status {
        sql.push(" AND ").push(last!("status")).push(" BETWEEN ").bind(u32::from(*statuses.start()));
        sql.push(" AND ").bind(u32::from(*statuses.end()));
    }
    if let Some(error) = query.last_error.and_then(AttemptOutcome::error_class) {
        sql.push(" AND ").push(last!("error")).push(" = ").bind(error.to_owned());
    }
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit).push(&WITH_ATTEMPTS);
    sql
}

/// Returns the condition for a delivery in this state, as literal text and not as a value, so that the
/// planner recognizes the matching partial index.
fn condition_of(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Waiting => "state = 'waiting'",
        DeliveryState::Ready => "state = 'ready'",
        DeliveryState::Paused => "state IN ('ready', 'waiting')",
        DeliveryState::Leased => "state = 'leased'",
        DeliveryState::Dead => "state = 'dead'",
        DeliveryState::Succeeded => "state = 'succeeded'",
        DeliveryState::Superseded => "state = 'superseded'",
        DeliveryState::Cancelled => "state = 'cancelled'",
    }
}

/// Reads deliveries from [`DELIVERIES`]: one row for each attempt, or one row without an attempt.
fn deliveries(rows: &[Row]) -> std::result::Result<Vec<DeliveryRecord>, Fault> {
    let mut found = Vec::<DeliveryRecord>::new();
    for row in rows {
        let mut columns = Columns::of(row);
        let delivery = DeliveryRow::read(&mut columns)?;
        let is_stopped = columns.next()?;
        if found.last().is_none_or(|last| last.id != delivery.id) {
            found.push(delivery.record(is_stopped));
        }
        if columns.next::<bool>()?
            && let Some(last) = found.last_mut()
        {
            last.attempts.push(Attempt::from(AttemptRow::read(&mut columns)?));
        }
    }
    for delivery in &mut found {
        delivery.attempts.sort_by_key(|attempt| (attempt.started_at, attempt.number));
    }
    Ok(found)
}
