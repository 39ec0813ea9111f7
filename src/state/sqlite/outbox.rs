//! The outbox: opened at start, read by people, and the doors to claims and attempts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::params;
use tokio::sync::Notify;

use crate::domain::delivery::AttemptOutcome;
use crate::domain::delivery::DeliveryRecord;
use crate::domain::delivery::DeliveryState;
use crate::domain::endpoint::Endpoint;
use crate::domain::endpoint::EndpointId;
use crate::domain::id::DeliveryId;
use crate::domain::id::EventId;
use crate::domain::id::UploadId;
use crate::domain::time::Timestamp;
use crate::state::Backlog;
use crate::state::Claim;
use crate::state::DeliveryPage;
use crate::state::DeliveryQuery;
use crate::state::Error;
use crate::state::Horizon;
use crate::state::Notice;
use crate::state::Outbox;
use crate::state::ReplayId;
use crate::state::ReplayJob;
use crate::state::Replayed;
use crate::state::Result;
use crate::state::Settled;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::attempts::Settle;
use crate::state::sqlite::claims::ClaimDue;
use crate::state::sqlite::claims::Claimed;
use crate::state::sqlite::claims::TestEndpoint;
use crate::state::sqlite::endpoints;
use crate::state::sqlite::endpoints::CancelBacklog;
use crate::state::sqlite::endpoints::OpenFor;
use crate::state::sqlite::endpoints::PutEndpoint;
use crate::state::sqlite::endpoints::RemoveEndpoint;
use crate::state::sqlite::notices::Announce;
use crate::state::sqlite::query::AFTER_ALL;
use crate::state::sqlite::query::Query;
use crate::state::sqlite::query::first_id_of;
use crate::state::sqlite::replay;
use crate::state::sqlite::replay::AdvanceReplay;
use crate::state::sqlite::replay::BeginReplay;
use crate::state::sqlite::replay::CancelReplay;
use crate::state::sqlite::replay::Replay;
use crate::state::sqlite::retention::Expunge;
use crate::state::sqlite::rows;
use crate::state::sqlite::rows::Columns;
use crate::state::sqlite::rows::attempt_columns;

/// The most attempts shown of one delivery, the latest. Only shutdowns in a loop make so many.
const MAX_ATTEMPTS_SHOWN: u32 = 100;

#[async_trait]
impl Outbox for SqliteStore {
    async fn open_for(&self, configured: Vec<Endpoint>, now: Timestamp) -> Result<()> {
        self.writer.write(OpenFor { configured, now }).await
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>> {
        let all = self.readers.read("list endpoints", |connection| {
            connection.prepare_cached(endpoints::ALL)?.query_map([], endpoints::endpoint)?.collect()
        });
        all.await
    }

    async fn put_endpoint(&self, endpoint: Endpoint, now: Timestamp) -> Result<Endpoint> {
        let written = Endpoint { version: endpoint.version + 1, ..endpoint.clone() };
        let won = self.writer.write(PutEndpoint { endpoint, now }).await?;
        if won { Ok(written) } else { Err(Error::EndpointConflict(written.id)) }
    }

    async fn remove_endpoint(&self, id: &EndpointId, now: Timestamp) -> Result<bool> {
        self.writer.write(RemoveEndpoint { id: id.clone(), now }).await
    }

    async fn cancel_backlog(&self, id: &EndpointId, now: Timestamp) -> Result<()> {
        self.writer.write(CancelBacklog { id: id.clone(), now }).await
    }

    async fn claim_due(&self, slots: &[(EndpointId, u32)], now: Timestamp, lease: Duration) -> Result<Vec<Claim>> {
        let claimed = self.writer.write(ClaimDue { slots: slots.to_vec(), now, lease }).await?;
        Ok(claimed.into_iter().map(Claimed::told).collect())
    }

    async fn settle(&self, settled: Settled, now: Timestamp) -> Result<()> {
        self.writer.write(Settle { settled, now }).await
    }

    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>> {
        let endpoints = endpoints.to_vec();
        let earliest = self.readers.read("find when a delivery is due", move |connection| {
            let mut due = Vec::with_capacity(endpoints.len());
            for endpoint in &endpoints {
                due.extend(next_due_of(connection, endpoint)?);
            }
            Ok(due.into_iter().min())
        });
        earliest.await
    }

    async fn announce(&self, notice: Notice, now: Timestamp) -> Result<()> {
        self.writer.write(Announce { notice, now }).await
    }

    async fn test_endpoint(&self, id: &EndpointId, now: Timestamp, lease: Duration) -> Result<Option<Claim>> {
        self.writer.write(TestEndpoint { endpoint: id.clone(), now, lease }).await
    }

    async fn deliveries(&self, query: &DeliveryQuery) -> Result<DeliveryPage> {
        let query = query.clone();
        self.readers.read("list deliveries", move |connection| read_page(connection, &query)).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        let mut query = Query::new(DELIVERIES);
        query.push(" WHERE id = ").bind(id.as_bytes().to_vec());
        let found = self.readers.read("find a delivery", move |connection| read_deliveries(connection, &query));
        Ok(found.await?.pop())
    }

    async fn replay(&self, id: DeliveryId, force: bool, now: Timestamp) -> Result<Replayed> {
        self.writer.write(Replay { delivery: id, force, now }).await
    }

    async fn begin_replay(&self, job: ReplayJob) -> Result<()> {
        self.writer.write(BeginReplay(job)).await
    }

    async fn replay_jobs(&self) -> Result<Vec<ReplayJob>> {
        let jobs = self.readers.read("list replays", |connection| {
            connection.prepare_cached(replay::JOBS)?.query_map([], replay::job)?.collect()
        });
        jobs.await
    }

    async fn advance_replay(&self, id: ReplayId, limit: u32, now: Timestamp) -> Result<Option<ReplayJob>> {
        self.writer.write(AdvanceReplay { id, limit, now }).await
    }

    async fn cancel_replay(&self, id: ReplayId, now: Timestamp) -> Result<bool> {
        self.writer.write(CancelReplay { id, now }).await
    }

    async fn backlog(&self, endpoint: Option<&EndpointId>) -> Result<Backlog> {
        let endpoint = endpoint.cloned();
        let count = move |connection: &mut Connection| read_backlog(connection, endpoint.as_ref(), Backlog::MOST);
        self.readers.read("count unfinished deliveries", count).await
    }

    async fn expunge(&self, upload: UploadId) -> Result<u64> {
        self.writer.write(Expunge(upload)).await
    }

    async fn expire(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64> {
        self.expire_piece(begun_before, limit, now).await
    }

    async fn prune(&self, horizon: Horizon, limit: u32) -> Result<u64> {
        self.prune_piece(horizon, limit).await
    }

    fn superseded(&self) -> u64 {
        self.writer.superseded()
    }

    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}

const DELIVERIES: &str =
    "SELECT id, event_id, kind, upload_id, sequence, endpoint, state, created_at_ms, next_at_ms, finished_at_ms
         FROM deliveries";

const NEXT_DUE: &str = "SELECT min(due_ms) FROM (
         SELECT min(next_at_ms) AS due_ms FROM deliveries WHERE endpoint = ?1 AND state = 'ready'
         UNION ALL
         SELECT min(lease_until_ms) FROM deliveries WHERE endpoint = ?1 AND state = 'leased')
     WHERE EXISTS (SELECT 1 FROM endpoints WHERE id = ?1 AND present = 1 AND state = 'enabled')";

fn next_due_of(connection: &Connection, endpoint: &EndpointId) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = connection.prepare_cached(NEXT_DUE)?;
    statement.query_one([endpoint.as_str()], |row| Columns::of(row).maybe_instant())
}

fn read_deliveries(connection: &mut Connection, query: &Query) -> rusqlite::Result<Vec<DeliveryRecord>> {
    // One transaction, so that deliveries and attempts are of the same moment.
    let transaction = connection.transaction()?;
    let mut deliveries = query.fetch(&transaction, delivery)?;
    let mut statement = transaction.prepare_cached(ATTEMPTS)?;
    for delivery in &mut deliveries {
        let latest = statement.query_map(params![delivery.id.as_bytes(), MAX_ATTEMPTS_SHOWN], rows::attempt)?;
        delivery.attempts = latest.collect::<rusqlite::Result<_>>()?;
        delivery.attempts.sort_by_key(|attempt| (attempt.started_at, attempt.number));
    }
    drop(statement);
    Ok(deliveries)
}

/// One count for each state, because each has an index of its own.
macro_rules! backlog_counts {
    ($whose:literal) => {
        concat!(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ",
            $whose,
            "state = 'waiting' LIMIT ?1)),
                 (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ",
            $whose,
            "state = 'ready' LIMIT ?1)),
                 (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ",
            $whose,
            "state = 'leased' LIMIT ?1)),
                 (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ",
            $whose,
            "state = 'paused' LIMIT ?1))"
        )
    };
}

/// Every count is the size of a partial index, or of a part of one, but for what goes beyond `most`.
pub(super) fn read_backlog(
    connection: &Connection,
    endpoint: Option<&EndpointId>,
    most: u32,
) -> rusqlite::Result<Backlog> {
    let named = match endpoint {
        Some(endpoint) => vec![endpoint.clone()],
        None => {
            let all = endpoints::subscribers(connection)?;
            all.iter().filter(|one| one.is_enabled).map(|one| one.id.clone()).collect()
        }
    };
    let mut oldest_due = None;
    for endpoint in &named {
        let due: Option<Timestamp> = connection
            .prepare_cached("SELECT min(next_at_ms) FROM deliveries WHERE endpoint = ?1 AND state = 'ready'")?
            .query_one([endpoint.as_str()], |row| Columns::of(row).maybe_instant())?;
        oldest_due = oldest_due.into_iter().chain(due).min();
    }
    let counts = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        Ok([columns.count()?, columns.count()?, columns.count()?, columns.count()?])
    };
    let enough = i64::from(most) + 1;
    let counted = match endpoint {
        Some(endpoint) => connection
            .prepare_cached(backlog_counts!("endpoint = ?2 AND "))?
            .query_one(params![enough, endpoint.as_str()], counts)?,
        None => connection.prepare_cached(backlog_counts!(""))?.query_one([enough], counts)?,
    };
    let [waiting, ready, leased, paused] = counted.map(|count| count.min(u64::from(most)));
    let has_more = counted.into_iter().any(|count| count > u64::from(most));
    Ok(Backlog { has_more, waiting, ready, leased, paused, oldest_due })
}

const LAST_STATUS: &str =
    "SELECT status FROM attempts WHERE delivery_id = deliveries.id ORDER BY number DESC, started_at_ms DESC LIMIT 1";

const LAST_ERROR: &str =
    "SELECT error FROM attempts WHERE delivery_id = deliveries.id ORDER BY number DESC, started_at_ms DESC LIMIT 1";

const ATTEMPTS: &str = concat!(
    "SELECT ",
    attempt_columns!(),
    " FROM attempts WHERE delivery_id = ?1 ORDER BY number DESC, started_at_ms DESC LIMIT ?2"
);

/// The most deliveries that a question walks by, if it has no index of its own to go by.
const MOST_WALKED: i64 = 20_000;

fn read_page(connection: &mut Connection, query: &DeliveryQuery) -> rusqlite::Result<DeliveryPage> {
    let last = if is_walk(query) { last_of_walk(connection, query)? } else { None };
    let found = read_deliveries(connection, &deliveries_query(query, last))?;
    let is_full = found.len() == usize::try_from(query.limit).unwrap_or(usize::MAX);
    let next = if is_full { found.last().map(|delivery| delivery.id) } else { last };
    Ok(DeliveryPage { found, next })
}

/// Whether rows are passed by that do not fit, with no index to go by. Without a condition, every row fits.
fn is_walk(query: &DeliveryQuery) -> bool {
    let DeliveryQuery { endpoint, upload, kind, state, last_status, last_error, .. } = query;
    let by_attempt = last_status.is_some() || last_error.is_some();
    let picks = endpoint.is_some() || kind.is_some() || state.is_some() || by_attempt;
    picks && upload.is_none() && !state.is_some_and(has_index)
}

/// Where a walk that is too long for one question ends.
fn last_of_walk(connection: &Connection, query: &DeliveryQuery) -> rusqlite::Result<Option<DeliveryId>> {
    let mut statement =
        connection.prepare_cached("SELECT id FROM deliveries WHERE id < ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2 - 1")?;
    let last = statement.query_one(params![first_behind(query), MOST_WALKED], |row| row.get(0)).optional()?;
    let is_wanted = |last: &DeliveryId| query.created_from.is_none_or(|from| *first_id_of(from) <= last.as_bytes()[..]);
    Ok(last.map(DeliveryId::from_bytes).filter(is_wanted))
}

/// The identifier that all that is asked for is before.
fn first_behind(query: &DeliveryQuery) -> Vec<u8> {
    let cursor = query.before.map_or(AFTER_ALL.to_vec(), |before| before.as_bytes().to_vec());
    query.created_before.map_or(cursor.clone(), |before| first_id_of(before).min(cursor))
}

fn deliveries_query(query: &DeliveryQuery, last: Option<DeliveryId>) -> Query {
    let mut sql = Query::new(DELIVERIES);
    if let (Some(state), None) = (query.state.filter(|state| has_index(*state)), query.upload) {
        sql.push(" INDEXED BY deliveries_").push(state.name());
    }
    // Always there, so that a list without conditions is a walk from a place, too. An identifier begins with the time of
    // its delivery.
    sql.push(" WHERE id < ").bind(first_behind(query));
    if let Some(last) = last {
        sql.push(" AND id >= ").bind(last.as_bytes().to_vec());
    }
    if let Some(from) = query.created_from {
        sql.push(" AND id >= ").bind(first_id_of(from));
    }
    if let Some(endpoint) = &query.endpoint {
        sql.push(" AND endpoint = ").bind(endpoint.as_str().to_owned());
    }
    if let Some(upload) = query.upload {
        sql.push(" AND upload_id = ").bind(upload.as_bytes().to_vec());
    }
    if let Some(kind) = query.kind {
        sql.push(" AND kind = ").bind(kind.name().to_owned());
    }
    if let Some(state) = query.state {
        // As text, not as a parameter: only so does the planner see that a partial index fits.
        sql.push(" AND state = '").push(state.name()).push("'");
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

/// The states that few deliveries are in have an index each; the others are where nearly all of them end.
fn has_index(state: DeliveryState) -> bool {
    match state {
        DeliveryState::Waiting | DeliveryState::Ready | DeliveryState::Leased => true,
        DeliveryState::Paused | DeliveryState::Dead => true,
        DeliveryState::Succeeded | DeliveryState::Superseded | DeliveryState::Cancelled => false,
    }
}

/// A delivery without its attempts.
fn delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRecord> {
    let mut columns = Columns::of(row);
    let (id, event, event_name) = (columns.next()?, columns.next()?, columns.next()?);
    let upload: Option<_> = columns.next()?;
    let (sequence, endpoint) = (columns.count()?, columns.endpoint()?);
    let state = columns.named(DeliveryState::by_name)?;
    let (created_at, next_at) = (columns.instant()?, columns.instant()?);
    Ok(DeliveryRecord {
        id: DeliveryId::from_bytes(id),
        event: EventId::from_bytes(event),
        event_name,
        upload: upload.map(UploadId::from_bytes),
        sequence,
        endpoint,
        state,
        created_at,
        next_attempt_at: (state == DeliveryState::Ready).then_some(next_at),
        finished_at: columns.maybe_instant()?,
        attempts: Vec::new(),
    })
}
