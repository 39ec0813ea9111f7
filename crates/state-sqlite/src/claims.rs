//! Claims: deliveries leased to their senders.
//!
//! The due rows of each endpoint are queried separately, so the backlog of an endpoint that is down never
//! blocks another.

use std::sync::LazyLock;
use std::time::Duration;

use rusqlite::{Row, params};
use state_rows::{DeliveryRow, Row as _, sql};

use crate::endpoints::Subscriber;
use crate::notices;
use crate::rows::{Columns, integer};
use crate::writer::{Work, WriteTransaction};
use domain::delivery::DeliveryClass;
use domain::endpoint::{EndpointId, Payload};
use domain::id::InstanceId;
use domain::lane::ClaimLimits;
use domain::principal::TenantScope;
use domain::time::Timestamp;
use state::{Claim, EventBodies, StoredEvent};

pub(super) struct ClaimDue {
    pub(super) node: InstanceId,
    pub(super) limits: Vec<(EndpointId, ClaimLimits)>,
    pub(super) now: Timestamp,
    pub(super) lease: Duration,
}

impl Work for ClaimDue {
    const OPERATION: &'static str = "claim due deliveries";
    type Output = Vec<StoredClaim>;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Vec<StoredClaim>> {
        let subscribers = tx.subscribers()?;
        let mut claims = Vec::new();
        for (endpoint, limits) in &self.limits {
            // Absent and stopped endpoints get no claims, and neither do endpoints whose backlog is being
            // cancelled.
            if let Some(subscriber) =
                subscribers.iter().find(|one| one.id == *endpoint && one.availability().takes_claims())
            {
                let elsewhere = self.leased_elsewhere(tx, endpoint)?;
                let slots = limits.claimable(elsewhere, open_until(tx, endpoint)?, self.now);
                if slots > 0 {
                    claims.extend(claim(tx, self.node, subscriber, slots, (self.now, self.now.plus(self.lease)))?);
                }
            }
        }
        Ok(claims)
    }
}

impl ClaimDue {
    /// Counts the deliveries to an endpoint that other nodes are sending.
    fn leased_elsewhere(&self, tx: &WriteTransaction, endpoint: &EndpointId) -> rusqlite::Result<u32> {
        let mut statement = tx.connection.prepare_cached(
            "SELECT count(*) FROM deliveries
             WHERE endpoint = ?1 AND state = 'leased' AND lease_until_ms > ?2 AND claimed_by IS NOT ?3",
        )?;
        statement.query_one(params![endpoint.as_str(), self.now.unix_ms(), self.node.as_bytes()], |row| row.get(0))
    }
}

/// Reads the end of the pause of a breaker, which is not part of the cached endpoints.
fn open_until(tx: &WriteTransaction, endpoint: &EndpointId) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = tx.connection.prepare_cached("SELECT open_until_ms FROM endpoints WHERE id = ?1")?;
    statement.query_one([endpoint.as_str()], |row| Columns::of(row).next())
}

/// The columns of a claimed delivery and its event, as [`due_claim`] reads them.
static COLUMNS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}, (SELECT occurred_at_ms FROM events WHERE position = event_position),
         (SELECT body FROM events WHERE position = event_position)",
        sql::columns::<DeliveryRow>()
    )
});

static CLAIM: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE deliveries SET state = 'leased', lease = randomblob(16), lease_until_ms = ?4, claimed_by = ?5
         WHERE id IN (SELECT id FROM (
             SELECT * FROM (SELECT id, next_at_ms, sequence FROM deliveries
                 WHERE endpoint = ?1 AND state = 'ready' AND next_at_ms <= ?2 ORDER BY next_at_ms, sequence LIMIT ?3)
             UNION ALL
             SELECT * FROM (SELECT id, next_at_ms, sequence FROM deliveries
                 WHERE endpoint = ?1 AND state = 'leased' AND lease_until_ms <= ?2 ORDER BY lease_until_ms LIMIT ?3)
             ORDER BY next_at_ms, sequence LIMIT ?3))
         RETURNING {}",
        *COLUMNS
    )
});

static LEASE_ONE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE deliveries SET state = 'leased', lease = randomblob(16), lease_until_ms = ?2, claimed_by = ?3
         WHERE id = ?1 RETURNING {}",
        *COLUMNS
    )
});

fn claim(
    tx: &WriteTransaction,
    node: InstanceId,
    subscriber: &Subscriber,
    slots: u32,
    (now, until): (Timestamp, Timestamp),
) -> rusqlite::Result<Vec<StoredClaim>> {
    let run_out = run_out_leases(tx, subscriber, slots, now)?;
    let mut statement = tx.connection.prepare_cached(&CLAIM)?;
    let values = params![subscriber.id.as_str(), now.unix_ms(), slots, until.unix_ms(), node.as_bytes()];
    let claimed = statement.query_map(values, due_claim)?;
    let mut claims: Vec<(Claim, i64, i64)> = claimed.collect::<rusqlite::Result<_>>()?;
    claims.sort_by_key(|(_, next_at_ms, sequence)| (*next_at_ms, *sequence));
    for (claim, _, _) in &mut claims {
        claim.is_taken_over = run_out.contains(claim.delivery.as_bytes());
        claim.begun_at = subscriber.availability().begun_at(claim.begun_at);
        claim.endpoint_version = subscriber.version;
    }
    let payload = subscriber.terms.payload;
    Ok(claims.into_iter().map(|(claim, _, sequence)| StoredClaim { claim, sequence, payload }).collect())
}

/// Returns deliveries whose sender has let its lease expire; there is rarely one.
fn run_out_leases(
    tx: &WriteTransaction,
    subscriber: &Subscriber,
    slots: u32,
    now: Timestamp,
) -> rusqlite::Result<Vec<[u8; 16]>> {
    let mut statement = tx.connection.prepare_cached(
        "SELECT id FROM deliveries
         WHERE endpoint = ?1 AND state = 'leased' AND lease_until_ms <= ?2 ORDER BY lease_until_ms LIMIT ?3",
    )?;
    statement.query_map(params![subscriber.id.as_str(), now.unix_ms(), slots], |row| row.get(0))?.collect()
}

/// A claim with the body as stored, and the payload that the endpoint is set to.
#[derive(Debug)]
pub(super) struct StoredClaim {
    claim: Claim,
    sequence: i64,
    payload: Payload,
}

impl StoredClaim {
    /// Returns the claim with the body for this endpoint. The caller runs this, not the writer.
    pub(super) fn into_claim(self, bodies: EventBodies) -> Claim {
        let Self { claim, sequence, payload } = self;
        match (payload, claim.upload) {
            (Payload::Thin, Some(upload)) => {
                let sequence = u64::try_from(sequence).unwrap_or_default();
                let (kind, at) = (claim.kind, claim.occurred_at);
                let body = (bodies.thin)(&StoredEvent { kind, at, upload, sequence, body: &claim.body });
                Claim { body: body.into(), ..claim }
            }
            (Payload::Full | Payload::Thin, _) => claim,
        }
    }
}

/// Reads a claim and the values it is ordered by.
fn due_claim(row: &Row<'_>) -> rusqlite::Result<(Claim, i64, i64)> {
    let mut columns = Columns::of(row);
    let delivery = DeliveryRow::read(&mut columns)?;
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
    Ok((claim, delivery.next_at_ms.unix_ms(), integer(delivery.sequence)))
}

/// Writes a test event for an endpoint and leases its delivery. Returns `None` if there is no such endpoint.
pub(super) struct TestEndpoint {
    pub(super) scope: TenantScope,
    pub(super) node: InstanceId,
    pub(super) endpoint: EndpointId,
    pub(super) now: Timestamp,
    pub(super) lease: Duration,
}

impl Work for TestEndpoint {
    const OPERATION: &'static str = "record a test event";
    type Output = Option<Claim>;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Option<Claim>> {
        let subscribers = tx.subscribers()?;
        let is_meant = |one: &&Subscriber| one.id == self.endpoint && self.scope.covers(one.tenant);
        let Some(subscriber) = subscribers.iter().find(is_meant) else { return Ok(None) };
        let delivery = notices::log_ping(tx, subscriber, self.now)?;
        let mut statement = tx.connection.prepare_cached(&LEASE_ONE)?;
        let values = params![delivery.as_bytes(), self.now.plus(self.lease).unix_ms(), self.node.as_bytes()];
        let (claim, _, _) = statement.query_one(values, due_claim)?;
        Ok(Some(Claim { endpoint_version: subscriber.version, ..claim }))
    }
}
