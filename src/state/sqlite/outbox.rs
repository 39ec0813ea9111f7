//! The outbox: opened at start, read by people, and the doors to claims and attempts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::QueryBuilder;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::sqlite::SqliteRow;
use tokio::sync::Notify;

use crate::domain::delivery::Attempt;
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
use crate::state::sqlite::failed;
use crate::state::sqlite::lanes;
use crate::state::sqlite::rows;
use crate::state::sqlite::writer::Desk;
use crate::state::sqlite::writer::Work;

/// The most attempts shown of one delivery, the latest. Only shutdowns in a loop make so many.
const MAX_ATTEMPTS_SHOWN: usize = 100;

#[async_trait]
impl Outbox for SqliteStore {
    async fn open_for(&self, subscriptions: Vec<Subscription>, now: Timestamp) -> Result<()> {
        self.writer.write(OpenFor { subscriptions, now }).await
    }

    async fn claim_due(&self, slots: &[(EndpointId, u32)], now: Timestamp, lease: Duration) -> Result<Vec<Claim>> {
        self.writer.write(ClaimDue { slots: slots.to_vec(), now, lease }).await
    }

    async fn settle(&self, settlements: Vec<Settlement>, now: Timestamp) -> Result<()> {
        self.writer.write(Settle { settlements, now }).await
    }

    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>> {
        let mut earliest = None;
        for endpoint in endpoints {
            let due = self.next_due_of(endpoint).await.map_err(failed("find when a delivery is due"))?;
            earliest = earliest.into_iter().chain(due).min();
        }
        Ok(earliest)
    }

    async fn pause_endpoint(&self, endpoint: &EndpointId, now: Timestamp) -> Result<()> {
        self.writer.write(PauseEndpoint { endpoint: endpoint.clone(), now }).await
    }

    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Vec<DeliveryRecord>> {
        self.read_deliveries(query).await.map_err(failed("list deliveries"))
    }

    async fn backlog(&self) -> Result<Vec<(DeliveryState, u64)>> {
        self.read_backlog().await.map_err(failed("count unfinished deliveries"))
    }

    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}

impl SqliteStore {
    async fn next_due_of(&self, endpoint: &EndpointId) -> sqlx::Result<Option<Timestamp>> {
        let row = sqlx::query(
            "SELECT min(due_ms) AS due_ms FROM (
                 SELECT min(next_at_ms) AS due_ms FROM deliveries WHERE endpoint = ?1 AND state = 'ready'
                 UNION ALL
                 SELECT min(lease_until_ms) FROM deliveries WHERE endpoint = ?1 AND state = 'leased')
             WHERE NOT EXISTS (SELECT 1 FROM endpoints WHERE id = ?1 AND paused_at_ms IS NOT NULL)",
        )
        .bind(endpoint.as_str().to_owned())
        .fetch_one(&self.reads)
        .await?;
        rows::maybe_instant(&row, "due_ms")
    }

    async fn read_deliveries(&self, query: &DeliveryQuery) -> sqlx::Result<Vec<DeliveryRecord>> {
        let mut transaction = self.reads.begin().await?;
        let found = deliveries_query(query).build().fetch_all(&mut *transaction).await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM attempts WHERE delivery_id IN (");
        let mut ids = sql.separated(", ");
        for row in &found {
            ids.push_bind(rows::id(row, "id")?.to_vec());
        }
        sql.push(") ORDER BY delivery_id, started_at_ms, number");
        let mut attempts: HashMap<[u8; 16], Vec<Attempt>> = HashMap::new();
        for row in sql.build().fetch_all(&mut *transaction).await? {
            attempts.entry(rows::id(&row, "delivery_id")?).or_default().push(rows::attempt(&row)?);
        }
        found.iter().map(|row| delivery(row, &mut attempts)).collect()
    }

    /// Every count is the size of a partial index.
    async fn read_backlog(&self) -> sqlx::Result<Vec<(DeliveryState, u64)>> {
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM deliveries WHERE state = 'waiting') AS waiting,
                 (SELECT count(*) FROM deliveries WHERE state = 'ready') AS ready,
                 (SELECT count(*) FROM deliveries WHERE state = 'leased') AS leased,
                 (SELECT count(*) FROM deliveries WHERE state = 'paused') AS paused",
        )
        .fetch_one(&self.reads)
        .await?;
        let unfinished = [DeliveryState::Waiting, DeliveryState::Ready, DeliveryState::Leased, DeliveryState::Paused];
        unfinished.into_iter().map(|state| Ok((state, rows::count(&row, state.name())?))).collect()
    }
}

fn deliveries_query(query: &DeliveryQuery) -> QueryBuilder<Sqlite> {
    let mut sql = QueryBuilder::new("SELECT * FROM deliveries");
    if let (Some(state), None) = (query.state.filter(|state| has_index(*state)), query.upload) {
        sql.push(" INDEXED BY deliveries_").push(state.name());
    }
    sql.push(" WHERE true");
    if let Some(endpoint) = &query.endpoint {
        sql.push(" AND endpoint = ").push_bind(endpoint.as_str().to_owned());
    }
    if let Some(upload) = query.upload {
        sql.push(" AND upload_id = ").push_bind(upload.as_bytes().to_vec());
    }
    if let Some(kind) = query.kind {
        sql.push(" AND kind = ").push_bind(kind.name());
    }
    if let Some(state) = query.state {
        // As text, not as a parameter: only so does the planner see that a partial index fits.
        sql.push(" AND state = '").push(state.name()).push("'");
    }
    if let Some(before) = query.before {
        sql.push(" AND id < ").push_bind(before.as_bytes().to_vec());
    }
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(query.limit);
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

fn delivery(row: &SqliteRow, attempts: &mut HashMap<[u8; 16], Vec<Attempt>>) -> sqlx::Result<DeliveryRecord> {
    let id = rows::id(row, "id")?;
    let state = rows::named(row, "state", DeliveryState::by_name)?;
    let next_at = rows::instant(row, "next_at_ms")?;
    let mut attempts = attempts.remove(&id).unwrap_or_default();
    attempts.drain(..attempts.len().saturating_sub(MAX_ATTEMPTS_SHOWN));
    Ok(DeliveryRecord {
        id: DeliveryId::from_bytes(id),
        event: EventId::from_bytes(rows::id(row, "event_id")?),
        event_name: row.try_get("kind")?,
        upload: UploadId::from_bytes(rows::id(row, "upload_id")?),
        sequence: rows::count(row, "sequence")?,
        endpoint: rows::endpoint(row)?,
        state,
        created_at: rows::instant(row, "created_at_ms")?,
        next_attempt_at: (state == DeliveryState::Ready).then_some(next_at),
        finished_at: rows::maybe_instant(row, "finished_at_ms")?,
        attempts,
    })
}

struct OpenFor {
    subscriptions: Vec<Subscription>,
    now: Timestamp,
}

#[async_trait]
impl Work for OpenFor {
    const OPERATION: &'static str = "open the outbox";
    type Output = ();

    async fn run(self, desk: &mut Desk) -> sqlx::Result<()> {
        sqlx::query(
            "UPDATE deliveries SET state = 'ready', next_at_ms = ?1, lease = NULL, lease_until_ms = NULL
             WHERE state = 'leased'",
        )
        .bind(self.now.unix_ms())
        .execute(&mut desk.connection)
        .await?;
        for subscription in &self.subscriptions {
            sqlx::query("INSERT INTO endpoints (id) VALUES (?1) ON CONFLICT DO UPDATE SET paused_at_ms = NULL")
                .bind(subscription.endpoint.as_str().to_owned())
                .execute(&mut desk.connection)
                .await?;
            lanes::resume(desk, &subscription.endpoint, self.now).await?;
        }
        desk.subscriptions = self.subscriptions;
        desk.made_ready = true;
        Ok(())
    }
}

struct PauseEndpoint {
    endpoint: EndpointId,
    now: Timestamp,
}

#[async_trait]
impl Work for PauseEndpoint {
    const OPERATION: &'static str = "pause an endpoint";
    type Output = ();

    async fn run(self, desk: &mut Desk) -> sqlx::Result<()> {
        sqlx::query(
            "INSERT INTO endpoints (id, paused_at_ms) VALUES (?1, ?2)
             ON CONFLICT DO UPDATE SET paused_at_ms = coalesce(paused_at_ms, excluded.paused_at_ms)",
        )
        .bind(self.endpoint.as_str().to_owned())
        .bind(self.now.unix_ms())
        .execute(&mut desk.connection)
        .await?;
        lanes::pause(desk, &self.endpoint).await
    }
}
