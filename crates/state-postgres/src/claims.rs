//! Claims: deliveries leased to their senders.
//!
//! The due rows of each endpoint are searched separately, so the backlog of an endpoint that is down never
//! blocks another. A claim skips rows that another claim has locked, so nodes that claim at the same time
//! neither wait for each other nor get the same delivery. A claim locks no lane: it only changes deliveries
//! from ready to leased. Work that ends pending deliveries checks their state again in its update.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use state_rows::{DeliveryRow, Row as _, sql};
use tokio::sync::Notify;
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::attempts::Settle;
use crate::bucket::{NEW_LEASE, all_buckets};
use crate::fault::Fault;
use crate::lanes::{DeliveryKey, keys};
use crate::params::{Param, params};
use crate::rows::Columns;
use crate::subscribers::Subscriber;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use crate::waits::RenewLeases;
use domain::delivery::DeliveryClass;
use domain::endpoint::{EndpointId, Payload};
use domain::id::InstanceId;
use domain::lane::ClaimOrder;
use domain::principal::TenantScope;
use domain::time::Timestamp;
use state::{Claim, Dispatch, EventBodies, Result, SettlementBatch, StoredEvent};

#[async_trait]
impl Dispatch for PostgresStore {
    async fn claim_due(
        &self,
        node: InstanceId,
        slots: &[(EndpointId, u32)],
        now: Timestamp,
        lease: Duration,
    ) -> Result<Vec<Claim>> {
        let slots: Vec<_> = slots.iter().filter(|(_, count)| *count > 0).cloned().collect();
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let claimed = self.write(ClaimDue { node, slots, now, lease }).await?;
        Ok(claimed.into_iter().map(|claimed| claimed.into_claim(self.shared.bodies)).collect())
    }

    async fn settle(&self, settled: SettlementBatch, now: Timestamp) -> Result<()> {
        self.write(Settle { settled, now }).await
    }

    async fn renew_leases(&self, node: InstanceId, until: Timestamp) -> Result<()> {
        self.write(RenewLeases { node, until }).await
    }

    async fn restart_waits(&self, now: Timestamp) -> Result<u64> {
        self.restart_all_waits(now).await
    }

    async fn next_due(&self, endpoints: &[EndpointId]) -> Result<Option<Timestamp>> {
        const OPERATION: &str = "find when a delivery is due";
        let wanted: Vec<String> = endpoints.iter().map(|endpoint| endpoint.as_str().to_owned()).collect();
        let found = self.readers.query(OPERATION, NEXT_DUE, params![wanted, all_buckets()]).await?;
        let due = found.first().map(|row| Columns::of(row).next::<Option<Timestamp>>()).transpose();
        due.map(Option::flatten).map_err(|fault| fault.into_error(OPERATION))
    }

    async fn test_endpoint(
        &self,
        scope: TenantScope,
        node: InstanceId,
        id: &EndpointId,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Claim>> {
        self.write(TestEndpoint { scope, node, endpoint: id.clone(), now, lease }).await
    }

    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.bell)
    }
}

/// The earliest due time. Each endpoint needs one row of either index.
const NEXT_DUE: &str = "SELECT min(due.at_ms)
     FROM unnest($1::text[]) AS wanted (endpoint)
     JOIN endpoints ON endpoints.id = wanted.endpoint AND present AND state = 'enabled'
         AND NOT EXISTS (SELECT 1 FROM backlog_jobs WHERE endpoint = wanted.endpoint AND kind = 'cancel')
     CROSS JOIN LATERAL (
         (SELECT next_at_ms FROM deliveries
             WHERE endpoint = wanted.endpoint AND state = 'ready' AND bucket = ANY($2::bigint[])
             ORDER BY next_at_ms LIMIT 1)
         UNION ALL
         (SELECT lease_until_ms FROM deliveries
             WHERE endpoint = wanted.endpoint AND state = 'leased' AND bucket = ANY($2::bigint[])
             ORDER BY lease_until_ms LIMIT 1)) AS due (at_ms)";

struct ClaimDue {
    node: InstanceId,
    slots: Vec<(EndpointId, u32)>,
    now: Timestamp,
    lease: Duration,
}

impl Work for ClaimDue {
    const OPERATION: &'static str = "claim due deliveries";
    /// Deliveries claimed without a response are claimed again when their leases have expired.
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = Vec<StoredClaim>;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<Vec<StoredClaim>, Fault> {
        let subscribers = tx.subscribers().await?;
        // Absent and stopped endpoints get no claims, and neither do endpoints whose backlog is being
        // cancelled.
        let takes = |id: &EndpointId| subscribers.iter().find(|one| one.id == *id && one.availability().takes_claims());
        let wanted: Vec<(&Subscriber, u32)> =
            self.slots.iter().filter_map(|(id, slots)| Some((takes(id)?, *slots))).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let due = due(tx, &wanted, self.now).await?;
        let claimed = lease(tx, &due, self.now.plus(self.lease), self.node).await?;
        let mut claims = Vec::with_capacity(claimed.len());
        for (subscriber, _) in wanted {
            let of_endpoint = claimed.iter().filter(|(claim, _)| claim.endpoint == subscriber.id);
            let mut of_endpoint: Vec<_> = of_endpoint.cloned().collect();
            of_endpoint.sort_by_key(|(_, order)| *order);
            claims.extend(of_endpoint.into_iter().map(|(claim, order)| StoredClaim {
                claim: Claim { begun_at: subscriber.availability().begun_at(claim.begun_at), ..claim },
                sequence: order.sequence,
                payload: subscriber.terms.payload,
            }));
        }
        Ok(claims)
    }
}

/// Locks due rows of one state, for each endpoint at most as many as it has slots, and skips rows that others
/// have locked.
macro_rules! find_due {
    ($state:literal, $due_at:literal, $order:literal) => {
        concat!(
            "SELECT due.source_id, due.id, due.next_at_ms, due.sequence, wanted.endpoint
             FROM unnest($1::text[], $2::bigint[]) AS wanted (endpoint, slots)
             CROSS JOIN LATERAL (SELECT source_id, id, next_at_ms, sequence FROM deliveries
                 WHERE endpoint = wanted.endpoint AND state = '",
            $state,
            "' AND ",
            $due_at,
            " <= $3 AND bucket = ANY($4::bigint[])
                 ORDER BY ",
            $due_at,
            ", ",
            $order,
            " LIMIT wanted.slots FOR UPDATE SKIP LOCKED) AS due"
        )
    };
}

const READY: &str = find_due!("ready", "next_at_ms", "sequence");

/// Deliveries whose sender has let its lease expire, the earliest first; there is rarely one.
const RUN_OUT: &str = find_due!("leased", "lease_until_ms", "id");

/// A row that this transaction has locked and may lease.
struct DueRow {
    key: DeliveryKey,
    order: ClaimOrder,
    is_taken_over: bool,
}

/// Returns the rows to lease for each endpoint: those that have been due for the longest time.
async fn due(
    tx: &Transaction<'_>,
    wanted: &[(&Subscriber, u32)],
    now: Timestamp,
) -> std::result::Result<Vec<DueRow>, Fault> {
    let names: Vec<String> = wanted.iter().map(|(subscriber, _)| subscriber.id.as_str().to_owned()).collect();
    let slots: Vec<i64> = wanted.iter().map(|(_, slots)| i64::from(*slots)).collect();
    let values = params![names, slots, now, all_buckets()];
    let (ready, run_out) = futures::try_join!(tx.query(READY, values), tx.query(RUN_OUT, values))?;
    let found = ready.iter().map(|row| (row, false)).chain(run_out.iter().map(|row| (row, true)));
    let mut of_endpoints = BTreeMap::<String, Vec<DueRow>>::new();
    for (row, is_taken_over) in found {
        let mut columns = Columns::of(row);
        let key = DeliveryKey { source: columns.next()?, id: columns.next()? };
        let order = ClaimOrder { next_at: columns.next()?, sequence: columns.next()? };
        of_endpoints.entry(columns.next()?).or_default().push(DueRow { key, order, is_taken_over });
    }
    let mut due = Vec::new();
    for (subscriber, slots) in wanted {
        let Some(mut rows) = of_endpoints.remove(subscriber.id.as_str()) else { continue };
        rows.sort_by_key(|row| row.order);
        due.extend(rows.into_iter().take(usize::try_from(*slots).unwrap_or(usize::MAX)));
    }
    Ok(due)
}

/// Leases locked rows and returns them with their events, as [`claim`] reads them; the keys come first.
static LEASE: LazyLock<String> = LazyLock::new(|| {
    let columns = sql::columns::<DeliveryRow>();
    let returned = DeliveryRow::COLUMNS.iter().map(|column| format!("deliveries.{column}"));
    let read = DeliveryRow::COLUMNS.iter().map(|column| format!("leased.{column}"));
    format!(
        "WITH leased (bucket, source_id, {columns}) AS (
             UPDATE deliveries SET state = 'leased', lease = {}, lease_until_ms = $6, claimed_by = $7
             FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS due (bucket, source, delivery)
             WHERE deliveries.bucket = due.bucket AND source_id = due.source AND id = due.delivery
                 AND source_id BETWEEN $4 AND $5
             RETURNING deliveries.bucket, source_id, {})
         SELECT {}, events.occurred_at_ms, events.body
         FROM leased JOIN events ON events.bucket = leased.bucket AND events.source_id = leased.source_id
             AND events.sequence = leased.sequence
         WHERE events.source_id BETWEEN $4 AND $5",
        NEW_LEASE,
        returned.collect::<Vec<_>>().join(", "),
        read.collect::<Vec<_>>().join(", "),
    )
});

async fn lease(
    tx: &Transaction<'_>,
    due: &[DueRow],
    until: Timestamp,
    node: InstanceId,
) -> std::result::Result<Vec<(Claim, ClaimOrder)>, Fault> {
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let mut values = keys(&due.iter().map(|row| row.key).collect::<Vec<_>>());
    values.extend([Param::from(until), Param::from(node)]);
    let leased = tx.query(&LEASE, &values).await?;
    let mut claims: Vec<_> = leased.iter().map(claim).collect::<std::result::Result<_, Fault>>()?;
    for (claim, _) in &mut claims {
        claim.is_taken_over = due.iter().any(|row| row.is_taken_over && row.key.id == claim.delivery);
    }
    Ok(claims)
}

/// Reads a claim from [`LEASE`], and its position in the order of claims.
fn claim(row: &Row) -> std::result::Result<(Claim, ClaimOrder), Fault> {
    let mut columns = Columns::of(row);
    let delivery = DeliveryRow::read(&mut columns)?;
    let order = ClaimOrder { next_at: delivery.next_at_ms, sequence: delivery.sequence };
    let claim = Claim {
        delivery: delivery.id,
        lease: delivery.lease.unwrap_or_default(),
        endpoint: delivery.endpoint,
        event: delivery.event_id,
        kind: delivery.kind,
        class: DeliveryClass::of(delivery.kind),
        upload: delivery.upload_id,
        occurred_at: columns.next()?,
        trigger: delivery.trigger,
        begun_at: delivery.begun_at_ms,
        attempts: delivery.attempts,
        attempts_before: delivery.attempts_before,
        is_taken_over: false,
        body: columns.next()?,
    };
    Ok((claim, order))
}

/// A claim with the body as stored, and the payload that the endpoint is set to.
#[derive(Debug)]
struct StoredClaim {
    claim: Claim,
    sequence: u64,
    payload: Payload,
}

impl StoredClaim {
    /// Returns the claim with the body for this endpoint. This runs after the transaction has ended.
    fn into_claim(self, bodies: EventBodies) -> Claim {
        let Self { claim, sequence, payload } = self;
        match (payload, claim.upload) {
            (Payload::Thin, Some(upload)) => {
                let (kind, at) = (claim.kind, claim.occurred_at);
                let body = (bodies.thin)(&StoredEvent { kind, at, upload, sequence, body: &claim.body });
                Claim { body: body.into(), ..claim }
            }
            (Payload::Full | Payload::Thin, _) => claim,
        }
    }
}

/// Writes a test event for an endpoint and leases its delivery. Returns `None` if there is no such endpoint.
struct TestEndpoint {
    scope: TenantScope,
    node: InstanceId,
    endpoint: EndpointId,
    now: Timestamp,
    lease: Duration,
}

impl Work for TestEndpoint {
    const OPERATION: &'static str = "record a test event";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = Option<Claim>;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<Option<Claim>, Fault> {
        let subscribers = tx.subscribers().await?;
        let is_meant = |one: &&Subscriber| one.id == self.endpoint && self.scope.covers(one.tenant);
        let Some(subscriber) = subscribers.iter().find(is_meant) else { return Ok(None) };
        let key = tx.log_ping(subscriber, self.now).await?;
        let order = ClaimOrder { next_at: self.now, sequence: 0 };
        let row = DueRow { key, order, is_taken_over: false };
        let leased = lease(tx, &[row], self.now.plus(self.lease), self.node).await?;
        Ok(leased.into_iter().next().map(|(claim, _)| claim))
    }
}
