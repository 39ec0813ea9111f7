//! The ports of the outbox: queries by operators, and the entry points to endpoints, claims, attempts,
//! replays and retention.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use state_rows::listing::passes_tenants;
use state_rows::{AttemptRow, DeliveryRow, Row as _, sql};
use tokio::sync::Notify;

use crate::attempts::Settle;
use crate::claims::{ClaimDue, TestEndpoint};
use crate::endpoints::{CancelBacklog, Configure, Put, PutEndpoint, RemoveEndpoint};
use crate::notices::Announce;
use crate::query::{AFTER_ALL, SqlQuery, first_id_of, tenants};
use crate::replay::{AdvanceReplay, BeginReplay, CancelReplay, ReplayDelivery};
use crate::rows::{Columns, integer};
use crate::{SqliteStore, endpoints, replay, rows};
use domain::delivery::{Attempt, AttemptOutcome, Backlog, DeliveryRecord, DeliveryState, ReplayOutcome};
use domain::endpoint::{Endpoint, EndpointId};
use domain::id::{DeliveryId, InstanceId, ReplayId, UploadId};
use domain::lane::ClaimLimits;
use domain::notice::Notice;
use domain::principal::{TenantId, TenantScope};
use domain::query::{DeliveryPage, DeliveryQuery};
use domain::replay::ReplayJob;
use domain::time::Timestamp;
use state::{
    BacklogLimits, Claim, ConfigurationStanding, Deliveries, Dispatch, EndpointConfiguration, Endpoints, Error,
    Notices, Replays, Result, Retention, RetentionHorizon, SettlementBatch,
};

/// The maximum number of attempts shown for one delivery; the latest are shown. Only repeated shutdowns cause
/// so many.
const MAX_ATTEMPTS_SHOWN: u32 = 100;

#[async_trait]
impl Endpoints for SqliteStore {
    async fn configure(
        &self,
        node: InstanceId,
        configuration: EndpointConfiguration,
        now: Timestamp,
    ) -> Result<ConfigurationStanding> {
        self.writer.write(Configure { node, configuration, now }).await
    }

    async fn endpoints(&self, scope: TenantScope) -> Result<Vec<Endpoint>> {
        let found = self.readers.look_up("list endpoints", move |connection| {
            connection.prepare_cached(&endpoints::IN_SCOPE)?.query_map(tenants(scope), endpoints::endpoint)?.collect()
        });
        found.await
    }

    async fn put_endpoint(&self, endpoint: Endpoint, now: Timestamp) -> Result<Endpoint> {
        let id = endpoint.id.clone();
        match self.writer.write(PutEndpoint { endpoint, most: None, now }).await? {
            Put::Written(written) => Ok(*written),
            Put::Conflict | Put::TooMany => Err(Error::EndpointConflict(id)),
        }
    }

    async fn add_endpoint(&self, endpoint: Endpoint, most: u32, now: Timestamp) -> Result<Option<Endpoint>> {
        let id = endpoint.id.clone();
        match self.writer.write(PutEndpoint { endpoint, most: Some(most), now }).await? {
            Put::Written(written) => Ok(Some(*written)),
            Put::Conflict => Err(Error::EndpointConflict(id)),
            Put::TooMany => Ok(None),
        }
    }

    async fn remove_endpoint(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool> {
        self.writer.write(RemoveEndpoint { scope, id: id.clone(), now }).await
    }

    async fn cancel_backlog(&self, scope: TenantScope, id: &EndpointId, now: Timestamp) -> Result<bool> {
        self.writer.write(CancelBacklog { scope, id: id.clone(), now }).await
    }

    async fn advance_backlog(&self, limit: u32, now: Timestamp) -> Result<bool> {
        self.advance_backlog_job(limit, now).await
    }
}

#[async_trait]
impl Dispatch for SqliteStore {
    async fn claim_due(
        &self,
        node: InstanceId,
        limits: &[(EndpointId, ClaimLimits)],
        now: Timestamp,
        lease: Duration,
    ) -> Result<Vec<Claim>> {
        let claimed = self.writer.write(ClaimDue { node, limits: limits.to_vec(), now, lease }).await?;
        Ok(claimed.into_iter().map(|claimed| claimed.into_claim(self.bodies)).collect())
    }

    async fn settle(&self, settled: SettlementBatch, now: Timestamp) -> Result<()> {
        self.writer.write(Settle { settled, now }).await
    }

    async fn renew_leases(&self, node: InstanceId, until: Timestamp) -> Result<()> {
        self.renew_all_leases(node, until).await
    }

    async fn restart_waits(&self, now: Timestamp) -> Result<u64> {
        self.restart_all_waits(now).await
    }

    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>> {
        let endpoints = endpoints.to_vec();
        let earliest = self.readers.look_up("find when a delivery is due", move |connection| {
            let mut due = Vec::with_capacity(endpoints.len());
            for endpoint in &endpoints {
                due.extend(next_due_of(connection, endpoint)?);
            }
            Ok(due.into_iter().min())
        });
        earliest.await
    }

    async fn test_endpoint(
        &self,
        scope: TenantScope,
        node: InstanceId,
        id: &EndpointId,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Claim>> {
        self.writer.write(TestEndpoint { scope, node, endpoint: id.clone(), now, lease }).await
    }

    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}

#[async_trait]
impl Deliveries for SqliteStore {
    async fn deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> Result<DeliveryPage> {
        let query = query.clone();
        self.readers.read("list deliveries", move |connection| read_page(connection, scope, &query)).await
    }

    async fn delivery(&self, scope: TenantScope, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        let mut query = SqlQuery::new(&DELIVERIES);
        query.push(" WHERE id = ").bind(id.as_bytes().to_vec()).push(" AND ").within("tenant", scope);
        let found = self.readers.look_up("find a delivery", move |connection| read_deliveries(connection, &query));
        Ok(found.await?.pop())
    }

    async fn backlog(&self, scope: TenantScope, endpoint: Option<&EndpointId>) -> Result<Backlog> {
        let endpoint = endpoint.cloned();
        let count =
            move |connection: &mut Connection| read_backlog(connection, scope, endpoint.as_ref(), Backlog::MOST);
        self.readers.read("count unfinished deliveries", count).await
    }

    async fn replay(&self, scope: TenantScope, id: DeliveryId, force: bool, now: Timestamp) -> Result<ReplayOutcome> {
        self.writer.write(ReplayDelivery { scope, delivery: id, force, now }).await
    }
}

#[async_trait]
impl Notices for SqliteStore {
    async fn announce(&self, tenant: TenantId, notice: Notice, now: Timestamp) -> Result<()> {
        self.writer.write(Announce { tenant, notice, now }).await
    }
}

#[async_trait]
impl Replays for SqliteStore {
    async fn begin_replay(&self, job: ReplayJob) -> Result<ReplayJob> {
        self.writer.write(BeginReplay(job)).await
    }

    async fn replay_jobs(&self, scope: TenantScope) -> Result<Vec<ReplayJob>> {
        let jobs = self.readers.look_up("list replays", move |connection| {
            connection.prepare_cached(&replay::JOBS)?.query_map(tenants(scope), replay::job)?.collect()
        });
        jobs.await
    }

    async fn advance_replay(&self, id: ReplayId, limit: u32, now: Timestamp) -> Result<Option<ReplayJob>> {
        self.writer.write(AdvanceReplay { id, limit, now }).await
    }

    async fn cancel_replay(&self, scope: TenantScope, id: ReplayId, now: Timestamp) -> Result<bool> {
        self.writer.write(CancelReplay { scope, id, now }).await
    }
}

#[async_trait]
impl Retention for SqliteStore {
    async fn expire(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64> {
        self.expire_piece(begun_before, limit, now).await
    }

    async fn drop_excess(&self, limits: BacklogLimits, limit: u32, now: Timestamp) -> Result<Vec<(EndpointId, u64)>> {
        self.drop_excess_piece(limits, limit, now).await
    }

    async fn prune(&self, horizon: RetentionHorizon, limit: u32) -> Result<u64> {
        self.prune_piece(horizon, limit).await
    }

    async fn expunge(&self, scope: TenantScope, upload: UploadId) -> Result<u64> {
        self.expunge_in_pieces(scope, upload).await
    }

    fn superseded(&self) -> u64 {
        self.writer.superseded()
    }
}

/// The condition that the endpoint of a delivery is stopped. Its pending deliveries are then shown as paused.
macro_rules! is_stopped {
    () => {
        "EXISTS (SELECT 1 FROM endpoints WHERE endpoints.id = deliveries.endpoint AND endpoints.state <> 'enabled')"
    };
}

/// Selects deliveries, each with a flag for a stopped endpoint.
pub(super) static DELIVERIES: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {}, {} FROM deliveries", sql::columns::<DeliveryRow>(), is_stopped!()));

const NEXT_DUE: &str = "SELECT min(due_ms) FROM (
         SELECT min(next_at_ms) AS due_ms FROM deliveries WHERE endpoint = ?1 AND state = 'ready'
         UNION ALL
         SELECT min(lease_until_ms) FROM deliveries WHERE endpoint = ?1 AND state = 'leased')
     WHERE EXISTS (SELECT 1 FROM endpoints WHERE id = ?1 AND present = 1 AND state = 'enabled')
         AND NOT EXISTS (SELECT 1 FROM backlog_jobs WHERE endpoint = ?1 AND kind = 'cancel')";

fn next_due_of(connection: &Connection, endpoint: &EndpointId) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = connection.prepare_cached(NEXT_DUE)?;
    statement.query_one([endpoint.as_str()], |row| Columns::of(row).next())
}

fn read_deliveries(connection: &mut Connection, query: &SqlQuery) -> rusqlite::Result<Vec<DeliveryRecord>> {
    // One transaction, so that deliveries and attempts come from the same snapshot.
    let transaction = connection.transaction()?;
    let mut deliveries = query.fetch(&transaction, delivery)?;
    let mut statement = transaction.prepare_cached(&ATTEMPTS)?;
    for delivery in &mut deliveries {
        let values = params![delivery.id.as_bytes(), MAX_ATTEMPTS_SHOWN];
        let latest = statement.query_map(values, |row| rows::read::<AttemptRow>(row).map(Attempt::from))?;
        delivery.attempts = latest.collect::<rusqlite::Result<_>>()?;
        delivery.attempts.sort_by_key(|attempt| (attempt.started_at, attempt.number));
    }
    drop(statement);
    Ok(deliveries)
}

/// Counts each state separately, because each has an index.
macro_rules! count_in {
    ($state:literal) => {
        concat!(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE endpoint = ?1 AND state = '",
            $state,
            "' LIMIT ?2)"
        )
    };
}

/// Counts unfinished deliveries by endpoint: every count is the size of a part of a partial index. At most
/// `most` of each kind are counted.
pub(super) fn read_backlog(
    connection: &Connection,
    scope: TenantScope,
    endpoint: Option<&EndpointId>,
    most: u32,
) -> rusqlite::Result<Backlog> {
    let enough = u64::from(most) + 1;
    let mut backlog = Backlog::default();
    for CountedEndpoint { id, is_present, is_enabled } in endpoints_to_count(connection, scope, endpoint)? {
        let count = |sql: &str, so_far: u64| {
            let left = integer(enough.saturating_sub(so_far));
            connection.prepare_cached(sql)?.query_one(params![id, left], |row| Columns::of(row).next::<u64>())
        };
        backlog.leased += count(count_in!("leased"), backlog.leased)?;
        if is_enabled {
            backlog.waiting += count(count_in!("waiting"), backlog.waiting)?;
            backlog.ready += count(count_in!("ready"), backlog.ready)?;
        } else {
            backlog.paused += count(count_in!("waiting"), backlog.paused)?;
            backlog.paused += count(count_in!("ready"), backlog.paused)?;
        }
        if is_enabled && is_present || endpoint.is_some() {
            let due: Option<Timestamp> = connection
                .prepare_cached("SELECT min(next_at_ms) FROM deliveries WHERE endpoint = ?1 AND state = 'ready'")?
                .query_one([&id], |row| Columns::of(row).next())?;
            backlog.oldest_due = backlog.oldest_due.into_iter().chain(due.filter(|_| is_enabled)).min();
        }
    }
    for count in [&mut backlog.waiting, &mut backlog.ready, &mut backlog.leased, &mut backlog.paused] {
        backlog.has_more |= *count > u64::from(most);
        *count = (*count).min(u64::from(most));
    }
    Ok(backlog)
}

/// An endpoint whose backlog is counted.
struct CountedEndpoint {
    id: String,
    /// False for an endpoint that was removed from the configuration.
    is_present: bool,
    is_enabled: bool,
}

fn endpoints_to_count(
    connection: &Connection,
    scope: TenantScope,
    endpoint: Option<&EndpointId>,
) -> rusqlite::Result<Vec<CountedEndpoint>> {
    let counted =
        |row: &Row<'_>| Ok(CountedEndpoint { id: row.get(0)?, is_present: row.get(1)?, is_enabled: row.get(2)? });
    let mut statement = connection.prepare_cached(
        "SELECT id, present, state = 'enabled' FROM endpoints
         WHERE (?1 IS NULL OR id = ?1) AND tenant BETWEEN ?2 AND ?3",
    )?;
    let (least, most) = tenants(scope);
    statement.query_map(params![endpoint.map(EndpointId::as_str), least, most], counted)?.collect()
}

const LAST_STATUS: &str =
    "SELECT status FROM attempts WHERE delivery_id = deliveries.id ORDER BY number DESC, started_at_ms DESC LIMIT 1";

const LAST_ERROR: &str =
    "SELECT error FROM attempts WHERE delivery_id = deliveries.id ORDER BY number DESC, started_at_ms DESC LIMIT 1";

static ATTEMPTS: LazyLock<String> = LazyLock::new(|| {
    let columns = sql::columns::<AttemptRow>();
    format!("SELECT {columns} FROM attempts WHERE delivery_id = ?1 ORDER BY number DESC, started_at_ms DESC LIMIT ?2")
});

/// The maximum number of deliveries that a query examines or sorts, including those that do not match.
const MAX_SCANNED: u32 = 20_000;

/// The access path of a list of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeliveryRoute {
    /// A walk by identifier, newest first, over a bounded number of rows.
    Scan(ScanIndex),
    /// A sort of all deliveries in this state, which are few.
    Few(DeliveryState),
}

/// The index to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScanIndex {
    All,
    Upload,
    Dead,
}

fn read_page(connection: &mut Connection, scope: TenantScope, query: &DeliveryQuery) -> rusqlite::Result<DeliveryPage> {
    let route = route(connection, query)?;
    let last = match route {
        DeliveryRoute::Scan(scan) if may_skip_rows(scope, query, scan) => last_of_scan(connection, query, scan)?,
        DeliveryRoute::Scan(_) | DeliveryRoute::Few(_) => None,
    };
    let found = read_deliveries(connection, &deliveries_query(scope, query, route, last))?;
    let is_full = found.len() == usize::try_from(query.limit).unwrap_or(usize::MAX);
    let next = if is_full { found.last().map(|delivery| delivery.id) } else { last };
    Ok(DeliveryPage { found, next })
}

fn route(connection: &Connection, query: &DeliveryQuery) -> rusqlite::Result<DeliveryRoute> {
    if query.upload.is_some() {
        return Ok(DeliveryRoute::Scan(ScanIndex::Upload));
    }
    let Some(state) = query.state else { return Ok(DeliveryRoute::Scan(ScanIndex::All)) };
    match (state, index_of(state)) {
        (DeliveryState::Dead, _) => Ok(DeliveryRoute::Scan(ScanIndex::Dead)),
        (_, None) => Ok(DeliveryRoute::Scan(ScanIndex::All)),
        (state, Some(index)) => {
            let mut sql = SqlQuery::new("SELECT count(*) FROM (SELECT 1 FROM deliveries INDEXED BY ");
            sql.push(index).push(" WHERE ").push(condition_of(state));
            if let Some(endpoint) = &query.endpoint {
                sql.push(" AND endpoint = ").bind(endpoint.as_str().to_owned());
            }
            sql.push(" LIMIT ").bind(MAX_SCANNED + 1).push(")");
            let count = sql.fetch(connection, |row| row.get::<_, u32>(0))?;
            let are_few = count.first().is_some_and(|count| *count <= MAX_SCANNED);
            Ok(if are_few { DeliveryRoute::Few(state) } else { DeliveryRoute::Scan(ScanIndex::All) })
        }
    }
}

/// Reports whether a walk may pass deliveries that do not match or belong to other tenants. Without a
/// condition, every delivery matches.
fn may_skip_rows(scope: TenantScope, query: &DeliveryQuery, scan: ScanIndex) -> bool {
    let DeliveryQuery { endpoint, event, kind, state, last_status, last_error, .. } = query;
    let by_attempt = last_status.is_some() || last_error.is_some();
    let by_state = state.is_some() && scan != ScanIndex::Dead;
    passes_tenants(scope) || endpoint.is_some() || event.is_some() || kind.is_some() || by_attempt || by_state
}

/// Returns the end of a walk that is too long for one query.
fn last_of_scan(
    connection: &Connection,
    query: &DeliveryQuery,
    scan: ScanIndex,
) -> rusqlite::Result<Option<DeliveryId>> {
    let mut sql = SqlQuery::new("SELECT id FROM deliveries ");
    match scan {
        ScanIndex::All => sql.push("WHERE id < "),
        ScanIndex::Upload => {
            let upload = query.upload.map(|upload| upload.as_bytes().to_vec());
            sql.push("WHERE upload_id = ").bind(upload).push(" AND id < ")
        }
        ScanIndex::Dead => sql.push("INDEXED BY deliveries_dead WHERE state = 'dead' AND id < "),
    };
    sql.bind(upper_bound(query)).push(" ORDER BY id DESC LIMIT 1 OFFSET ").bind(MAX_SCANNED - 1);
    let last = sql.fetch(connection, |row| row.get(0).map(DeliveryId::from_bytes))?.pop();
    let is_wanted = |last: &DeliveryId| query.created_from.is_none_or(|from| *first_id_of(from) <= last.as_bytes()[..]);
    Ok(last.filter(is_wanted))
}

/// Returns the exclusive upper bound of the requested identifiers.
fn upper_bound(query: &DeliveryQuery) -> Vec<u8> {
    let cursor = query.before.map_or(AFTER_ALL.to_vec(), |before| before.as_bytes().to_vec());
    query.created_before.map_or(cursor.clone(), |before| first_id_of(before).min(cursor))
}

fn deliveries_query(
    scope: TenantScope,
    query: &DeliveryQuery,
    route: DeliveryRoute,
    last: Option<DeliveryId>,
) -> SqlQuery {
    let mut sql = SqlQuery::new(&DELIVERIES);
    let index = match route {
        DeliveryRoute::Scan(ScanIndex::Dead) => Some("deliveries_dead"),
        DeliveryRoute::Scan(ScanIndex::All | ScanIndex::Upload) => None,
        DeliveryRoute::Few(state) => index_of(state),
    };
    if let Some(index) = index {
        sql.push(" INDEXED BY ").push(index);
    }
    // Always present, so that a list without conditions also walks from a position. An identifier begins with
    // the time of its delivery.
    sql.push(" WHERE id < ").bind(upper_bound(query));
    sql.push(" AND ").within("tenant", scope);
    if let Some(last) = last {
        sql.push(" AND id >= ").bind(last.as_bytes().to_vec());
    }
    if let Some(from) = query.created_from {
        sql.push(" AND id >= ").bind(first_id_of(from));
    }
    if let Some(endpoint) = &query.endpoint {
        // The plus sign keeps a walk by identifier from using an index of the endpoint, which would require a
        // sort.
        sql.push(if index.is_some() { " AND endpoint = " } else { " AND +endpoint = " });
        sql.bind(endpoint.as_str().to_owned());
    }
    if let Some(upload) = query.upload {
        sql.push(" AND upload_id = ").bind(upload.as_bytes().to_vec());
    }
    if let Some(event) = query.event {
        sql.push(" AND event_id = ").bind(event.as_bytes().to_vec());
    }
    if let Some(kind) = query.kind {
        sql.push(" AND kind = ").bind(kind.name().to_owned());
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
        sql.push(" AND (").push(LAST_STATUS).push(") BETWEEN ").bind(*statuses.start());
        sql.push(" AND ").bind(*statuses.end());
    }
    if let Some(error) = query.last_error.and_then(AttemptOutcome::error_class) {
        sql.push(" AND (").push(LAST_ERROR).push(") = ").bind(error.to_owned());
    }
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit);
    sql
}

/// Returns the index of the deliveries that may be in a state. States without an index are those in which
/// nearly all deliveries end.
fn index_of(state: DeliveryState) -> Option<&'static str> {
    match state {
        DeliveryState::Waiting => Some("deliveries_waiting"),
        DeliveryState::Ready => Some("deliveries_ready"),
        DeliveryState::Paused => Some("deliveries_by_age"),
        DeliveryState::Leased => Some("deliveries_leased"),
        DeliveryState::Dead => Some("deliveries_dead"),
        DeliveryState::Succeeded | DeliveryState::Superseded | DeliveryState::Cancelled => None,
    }
}

/// Returns the condition for a delivery in this state, as literal text and not as a parameter: otherwise the
/// planner does not recognize that a partial index applies.
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

/// Reads a delivery from [`DELIVERIES`], without its attempts.
fn delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRecord> {
    let mut columns = Columns::of(row);
    let delivery = DeliveryRow::read(&mut columns)?;
    let is_stopped = columns.next()?;
    Ok(delivery.record(is_stopped))
}
