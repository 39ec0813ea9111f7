//! Claims: deliveries leased to their senders.
//!
//! The due rows of each endpoint are searched separately, so the backlog of an endpoint that is down never
//! blocks another. A claim skips rows that another claim has locked, so nodes that claim at the same time
//! never get the same delivery. Claims for one endpoint are made one after the other, so that each counts the
//! deliveries that other nodes are sending. A claim locks no lane: it only changes deliveries from ready to
//! leased. Work that ends pending deliveries checks their state again in its update.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::try_join_all;
use state_rows::{DeliveryRow, Row as _, sql};
use tokio::sync::Notify;
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::attempts::Settle;
use crate::bucket::{NEW_LEASE, all_buckets};
use crate::due_places::{DuePlace, Search, due_places};
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
use domain::lane::{ClaimLimits, ClaimOrder};
use domain::principal::TenantScope;
use domain::time::Timestamp;
use state::{Claim, Dispatch, EventBodies, Result, SettlementBatch, StoredEvent};

#[async_trait]
impl Dispatch for PostgresStore {
    async fn claim_due(
        &self,
        node: InstanceId,
        limits: &[(EndpointId, ClaimLimits)],
        now: Timestamp,
        lease: Duration,
    ) -> Result<Vec<Claim>> {
        let limits: BTreeMap<_, _> = limits.iter().filter(|(_, limits)| limits.slots > 0).cloned().collect();
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        let claimed = self.write(ClaimDue { node, limits, now, lease }).await?;
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
        let from = self.unfinished_from(OPERATION).await?.deliveries;
        let places = due_places(&self.shared.days, from, self.time.now(), &self.shared.later_days, Search::NextDue);
        let mut first = None::<Timestamp>;
        for place in places {
            let values = params![wanted.clone(), all_buckets(), place.from, place.end];
            let found = self.readers.query_as(OPERATION, NEXT_DUE, place.planning, values).await?;
            let due = found.first().map(|row| Columns::of(row).next::<Option<Timestamp>>()).transpose();
            let due = due.map(Option::flatten).map_err(|fault| fault.into_error(OPERATION))?;
            first = first.into_iter().chain(due).min();
        }
        Ok(first)
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
                 AND source_id >= $3 AND source_id < $4
             ORDER BY next_at_ms LIMIT 1)
         UNION ALL
         (SELECT lease_until_ms FROM deliveries
             WHERE endpoint = wanted.endpoint AND state = 'leased' AND bucket = ANY($2::bigint[])
                 AND source_id >= $3 AND source_id < $4
             ORDER BY lease_until_ms LIMIT 1)) AS due (at_ms)";

struct ClaimDue {
    node: InstanceId,
    limits: BTreeMap<EndpointId, ClaimLimits>,
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
        let takes = |one: &&Subscriber| self.limits.contains_key(&one.id) && one.availability().takes_claims();
        let open: Vec<&Subscriber> = subscribers.iter().filter(takes).collect();
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let from = tx.unfinished_from().await?.deliveries;
        let places = due_places(&tx.shared.days, from, self.now, &tx.shared.later_days, Search::Claim);
        let wanted = self.claimable(tx, &places, open).await?;
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let due = due(tx, &places, &wanted, self.now).await?;
        let claimed = lease(tx, &due, self.now.plus(self.lease), self.node).await?;
        let mut claims = Vec::with_capacity(claimed.len());
        for (subscriber, _) in wanted {
            let of_endpoint = claimed.iter().filter(|(claim, _)| claim.endpoint == subscriber.id);
            let mut of_endpoint: Vec<_> = of_endpoint.cloned().collect();
            of_endpoint.sort_by_key(|(_, order)| *order);
            claims.extend(of_endpoint.into_iter().map(|(claim, order)| StoredClaim {
                claim: Claim {
                    endpoint_version: subscriber.version,
                    begun_at: subscriber.availability().begun_at(claim.begun_at),
                    ..claim
                },
                sequence: order.sequence,
                payload: subscriber.terms.payload,
            }));
        }
        Ok(claims)
    }
}

/// Selects the end of the pause of each endpoint's breaker, and the number of deliveries that other nodes are
/// sending to it.
const LEASED_ELSEWHERE: &str = "SELECT id, open_until_ms,
         (SELECT count(*) FROM deliveries WHERE endpoint = endpoints.id AND state = 'leased' AND lease_until_ms > $2
             AND claimed_by IS DISTINCT FROM $3 AND bucket = ANY($4::bigint[]) AND source_id >= $5 AND source_id < $6)
     FROM endpoints WHERE id = ANY($1::text[])";

impl ClaimDue {
    /// Returns the number of deliveries to claim for each endpoint, at least one. Claims by other nodes for
    /// these endpoints wait until this transaction has ended, so that they count its deliveries.
    async fn claimable<'s>(
        &self,
        tx: &mut Transaction<'_>,
        places: &[DuePlace],
        open: Vec<&'s Subscriber>,
    ) -> std::result::Result<Vec<(&'s Subscriber, u32)>, Fault> {
        let names: Vec<String> = open.iter().map(|subscriber| subscriber.id.as_str().to_owned()).collect();
        let values = |place: &DuePlace| {
            params![names.clone(), self.now, self.node, all_buckets(), place.from, place.end].to_vec()
        };
        let count = async |place: &DuePlace| tx.query_as(LEASED_ELSEWHERE, place.planning, &values(place)).await;
        // The other statements begin when the locks are granted, and see what was committed before.
        let ((), counted) = futures::try_join!(
            tx.lock_claims(open.iter().map(|subscriber| &subscriber.id)),
            try_join_all(places.iter().map(count))
        )?;
        let mut found = BTreeMap::<EndpointId, (Option<Timestamp>, u32)>::new();
        for row in counted.iter().flatten() {
            let mut columns = Columns::of(row);
            let (id, open_until): (EndpointId, Option<Timestamp>) = (columns.next()?, columns.next()?);
            found.entry(id).or_insert((open_until, 0)).1 += columns.next::<u32>()?;
        }
        let mut wanted = Vec::new();
        for (id, (open_until, elsewhere)) in found {
            let Some(subscriber) = open.iter().find(|subscriber| subscriber.id == id) else { continue };
            let Some(limits) = self.limits.get(&id) else { continue };
            let slots = limits.claimable(elsewhere, open_until, self.now);
            wanted.extend((slots > 0).then_some((*subscriber, slots)));
        }
        Ok(wanted)
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
            " <= $3 AND bucket = ANY($4::bigint[]) AND source_id >= $5 AND source_id < $6
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
    places: &[DuePlace],
    wanted: &[(&Subscriber, u32)],
    now: Timestamp,
) -> std::result::Result<Vec<DueRow>, Fault> {
    let names: Vec<String> = wanted.iter().map(|(subscriber, _)| subscriber.id.as_str().to_owned()).collect();
    let slots: Vec<i64> = wanted.iter().map(|(_, slots)| i64::from(*slots)).collect();
    let find = async |place: &DuePlace| {
        let values = params![names.clone(), slots.clone(), now, all_buckets(), place.from, place.end];
        let find = |sql| tx.query_as(sql, place.planning, values);
        futures::try_join!(find(READY), find(RUN_OUT))
    };
    let found = try_join_all(places.iter().map(find)).await?;
    let ready = found.iter().flat_map(|(ready, _)| ready).map(|row| (row, false));
    let found = ready.chain(found.iter().flat_map(|(_, run_out)| run_out).map(|row| (row, true)));
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
                /*days*/ AND source_id BETWEEN $4 AND $5/*end*/
             RETURNING deliveries.bucket, source_id, {})
         SELECT {}, events.occurred_at_ms, events.body
         FROM leased JOIN events ON events.bucket = leased.bucket AND events.source_id = leased.source_id
             AND events.sequence = leased.sequence
        /*days*/ WHERE events.source_id BETWEEN $4 AND $5/*end*/",
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
    let leased = tx.query_of(due.iter().map(|row| &row.key.source), &LEASE, &values).await?;
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
        endpoint_version: 0,
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
        Ok(leased.into_iter().next().map(|(claim, _)| Claim { endpoint_version: subscriber.version, ..claim }))
    }
}
