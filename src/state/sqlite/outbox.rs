//! The outbox: opened at start, read by people, and the doors to claims and attempts.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use rusqlite::Row;
use rusqlite::params;
use tokio::sync::Notify;

use crate::domain::delivery::DeliveryRecord;
use crate::domain::delivery::DeliveryState;
use crate::domain::delivery::EndpointId;
use crate::domain::delivery::Subscription;
use crate::domain::id::DeliveryId;
use crate::domain::id::EventId;
use crate::domain::id::UploadId;
use crate::domain::time::Timestamp;
use crate::state::Claim;
use crate::state::DeliveryQuery;
use crate::state::Outbox;
use crate::state::Result;
use crate::state::Settlement;
use crate::state::sqlite::SqliteStore;
use crate::state::sqlite::attempts::Settle;
use crate::state::sqlite::claims::ClaimDue;
use crate::state::sqlite::lanes;
use crate::state::sqlite::query::AFTER_ALL;
use crate::state::sqlite::query::Query;
use crate::state::sqlite::rows;
use crate::state::sqlite::rows::Columns;
use crate::state::sqlite::rows::attempt_columns;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

/// The most attempts shown of one delivery, the latest. Only shutdowns in a loop make so many.
const MAX_ATTEMPTS_SHOWN: u32 = 100;

#[async_trait]
impl Outbox for SqliteStore {
    async fn open_for(&self, subscriptions: Vec<Subscription>, now: Timestamp) -> Result<()> {
        self.writer.write(OpenFor { subscriptions: subscriptions.into(), now }).await
    }

    async fn claim_due(&self, slots: &[(EndpointId, u32)], now: Timestamp, lease: Duration) -> Result<Vec<Claim>> {
        self.writer.write(ClaimDue { slots: slots.to_vec(), now, lease }).await
    }

    async fn settle(&self, settlements: Vec<Settlement>, now: Timestamp) -> Result<()> {
        self.writer.write(Settle { settlements, now }).await
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

    async fn pause_endpoint(&self, endpoint: &EndpointId, now: Timestamp) -> Result<()> {
        self.writer.write(PauseEndpoint { endpoint: endpoint.clone(), now }).await
    }

    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Vec<DeliveryRecord>> {
        let query = deliveries_query(query);
        self.readers.read("list deliveries", move |connection| read_deliveries(connection, &query)).await
    }

    async fn backlog(&self) -> Result<Vec<(DeliveryState, u64)>> {
        self.readers.read("count unfinished deliveries", |connection| read_backlog(connection)).await
    }

    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}

const NEXT_DUE: &str = "SELECT min(due_ms) FROM (
         SELECT min(next_at_ms) AS due_ms FROM deliveries WHERE endpoint = ?1 AND state = 'ready'
         UNION ALL
         SELECT min(lease_until_ms) FROM deliveries WHERE endpoint = ?1 AND state = 'leased')
     WHERE NOT EXISTS (SELECT 1 FROM endpoints WHERE id = ?1 AND paused_at_ms IS NOT NULL)";

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

/// Every count is the size of a partial index.
fn read_backlog(connection: &Connection) -> rusqlite::Result<Vec<(DeliveryState, u64)>> {
    let mut statement = connection.prepare_cached(BACKLOG)?;
    statement.query_one([], |row| {
        let mut columns = Columns::of(row);
        let unfinished = [DeliveryState::Waiting, DeliveryState::Ready, DeliveryState::Leased, DeliveryState::Paused];
        unfinished.into_iter().map(|state| Ok((state, columns.count()?))).collect()
    })
}

const BACKLOG: &str = "SELECT (SELECT count(*) FROM deliveries WHERE state = 'waiting'),
         (SELECT count(*) FROM deliveries WHERE state = 'ready'),
         (SELECT count(*) FROM deliveries WHERE state = 'leased'),
         (SELECT count(*) FROM deliveries WHERE state = 'paused')";

const ATTEMPTS: &str = concat!(
    "SELECT ",
    attempt_columns!(),
    " FROM attempts WHERE delivery_id = ?1 ORDER BY number DESC, started_at_ms DESC LIMIT ?2"
);

fn deliveries_query(query: &DeliveryQuery) -> Query {
    let mut sql = Query::new(
        "SELECT id, event_id, kind, upload_id, sequence, endpoint, state, created_at_ms, next_at_ms, finished_at_ms
         FROM deliveries",
    );
    if let (Some(state), None) = (query.state.filter(|state| has_index(*state)), query.upload) {
        sql.push(" INDEXED BY deliveries_").push(state.name());
    }
    // Always there, so that a list without conditions is a walk from a place, too.
    let before = query.before.map_or(AFTER_ALL.to_vec(), |before| before.as_bytes().to_vec());
    sql.push(" WHERE id < ").bind(before);
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
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit);
    sql
}

/// The states that few deliveries are in have an index each; the others are where nearly all of them end.
fn has_index(state: DeliveryState) -> bool {
    match state {
        DeliveryState::Waiting | DeliveryState::Ready | DeliveryState::Leased => true,
        DeliveryState::Paused | DeliveryState::Dead => true,
        DeliveryState::Succeeded | DeliveryState::Superseded => false,
    }
}

/// A delivery without its attempts.
fn delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRecord> {
    let mut columns = Columns::of(row);
    let (id, event, event_name, upload) = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
    let (sequence, endpoint) = (columns.count()?, columns.endpoint()?);
    let state = columns.named(DeliveryState::by_name)?;
    let (created_at, next_at) = (columns.instant()?, columns.instant()?);
    Ok(DeliveryRecord {
        id: DeliveryId::from_bytes(id),
        event: EventId::from_bytes(event),
        event_name,
        upload: UploadId::from_bytes(upload),
        sequence,
        endpoint,
        state,
        created_at,
        next_attempt_at: (state == DeliveryState::Ready).then_some(next_at),
        finished_at: columns.maybe_instant()?,
        attempts: Vec::new(),
    })
}

struct OpenFor {
    subscriptions: Arc<[Subscription]>,
    now: Timestamp,
}

impl Work for OpenFor {
    const OPERATION: &'static str = "open the outbox";
    type Output = ();

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<()> {
        desk.execute(
            "UPDATE deliveries SET state = 'ready', next_at_ms = ?1, lease = NULL, lease_until_ms = NULL
             WHERE state = 'leased'",
            [self.now.unix_ms()],
        )?;
        for subscription in self.subscriptions.iter() {
            desk.execute(
                "INSERT INTO endpoints (id) VALUES (?1) ON CONFLICT DO UPDATE SET paused_at_ms = NULL",
                [subscription.endpoint.as_str()],
            )?;
            lanes::resume(desk, &subscription.endpoint, self.now)?;
        }
        desk.subscriptions = Arc::clone(&self.subscriptions);
        desk.made_ready = true;
        Ok(())
    }
}

struct PauseEndpoint {
    endpoint: EndpointId,
    now: Timestamp,
}

impl Work for PauseEndpoint {
    const OPERATION: &'static str = "pause an endpoint";
    type Output = ();

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<()> {
        desk.execute(
            "INSERT INTO endpoints (id, paused_at_ms) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET paused_at_ms = coalesce(paused_at_ms, excluded.paused_at_ms)",
            params![self.endpoint.as_str(), self.now.unix_ms()],
        )?;
        lanes::pause(desk, &self.endpoint)
    }
}
