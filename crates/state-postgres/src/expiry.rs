//! Expiry of deliveries that have waited too long without an error: for a rate limit, a breaker, or earlier
//! deliveries.
//!
//! A reader finds old deliveries, and transactions end them in batches. They check each delivery again after
//! they have locked its lane, because it may have been sent, replayed or stopped since. Pending deliveries of
//! a stopped endpoint do not expire this way; they are dropped when they exceed the limits of a backlog
//! ([`DropExcess`]). Pending deliveries of an endpoint that no configuration names are cancelled when old
//! rows are removed.

use tokio_postgres::Row;

use crate::PostgresStore;
use crate::bucket::all_buckets;
use crate::fault::Fault;
use crate::lanes::{ChangedLanes, DeliveryKey, keys};
use crate::params::{Param, params};
use crate::rows::Columns;
use crate::subscribers::{self, SUBSCRIBERS, Subscriber};
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::delivery::DeliveryClass;
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, UploadId};
use domain::lane::{self, EndpointAvailability};
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;
use state::{BacklogLimits, Result};

/// Finds old deliveries of an endpoint. It repeats the condition of its partial index.
const FIND: &str = "SELECT source_id, id, upload_id FROM deliveries
     WHERE state IN ('ready', 'waiting') AND endpoint = $1 AND begun_at_ms < $2 AND bucket = ANY($4::bigint[])
         AND source_id >= $5 ORDER BY begun_at_ms LIMIT $3";

/// A delivery that may have waited too long, and its lane.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    key: DeliveryKey,
    upload: Option<UploadId>,
}

fn candidate(row: &Row) -> std::result::Result<Candidate, Fault> {
    let mut columns = Columns::of(row);
    Ok(Candidate { key: DeliveryKey { source: columns.next()?, id: columns.next()? }, upload: columns.next()? })
}

fn keys_of(candidates: &[Candidate]) -> Vec<Param> {
    keys(&candidates.iter().map(|one| one.key).collect::<Vec<_>>())
}

impl PostgresStore {
    pub(crate) async fn expire_piece(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64> {
        const OPERATION: &str = "find deliveries that waited too long";
        let found = self.readers.query(OPERATION, &SUBSCRIBERS, &[]).await?;
        let subscribers = subscribers::of_rows(&found).map_err(|fault| fault.into_error(OPERATION))?;
        let from = self.unfinished_from(OPERATION).await?.deliveries;
        let mut old = Vec::new();
        for subscriber in subscribers.iter().filter(|one| one.availability().expires_deliveries(begun_before)) {
            let left = limit.saturating_sub(u32::try_from(old.len()).unwrap_or(limit));
            if left > 0 {
                let values = params![&subscriber.id, begun_before, left, all_buckets(), from];
                old.extend(self.find_candidates(OPERATION, FIND, values).await?);
            }
        }
        if old.is_empty() {
            return Ok(0);
        }
        self.write(Expire { old, begun_before, now }).await
    }

    async fn find_candidates(
        &self,
        operation: &'static str,
        sql: &'static str,
        values: &[Param],
    ) -> Result<Vec<Candidate>> {
        let found = self.readers.query(operation, sql, values).await?;
        let candidates: std::result::Result<_, Fault> = found.iter().map(candidate).collect();
        candidates.map_err(|fault| fault.into_error(operation))
    }
}

struct Expire {
    old: Vec<Candidate>,
    begun_before: Timestamp,
    now: Timestamp,
}

/// Selects and locks deliveries that are still too old; the keys come first.
const OLD: &str = "SELECT deliveries.source_id, deliveries.id, tenant, endpoint, event_id, kind, upload_id, attempts
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS old (bucket, source_id, id)
     JOIN deliveries ON deliveries.bucket = old.bucket AND deliveries.source_id = old.source_id
         AND deliveries.id = old.id
     WHERE deliveries.source_id BETWEEN $4 AND $5 AND state IN ('ready', 'waiting') AND begun_at_ms < $6
     FOR UPDATE OF deliveries";

impl Work for Expire {
    const OPERATION: &'static str = "expire deliveries";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = u64;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<u64, Fault> {
        let subscribers = tx.subscribers().await?;
        tx.lock_lanes(self.old.iter().filter_map(|old| old.upload)).await?;
        let mut values = keys_of(&self.old);
        values.push(Param::from(self.begun_before));
        let (mut ended, mut exhausted, mut lanes) = (Vec::new(), Vec::new(), ChangedLanes::new());
        for row in tx.query(OLD, &values).await? {
            let (key, old) = ExpiredDelivery::read(&row)?;
            let expires =
                |one: &Subscriber| one.id == old.endpoint && one.availability().expires_deliveries(self.begun_before);
            if !subscribers.iter().any(expires) {
                continue;
            }
            let settled = lane::expire(DeliveryClass::of(old.kind), old.attempts);
            ended.push((key, settled.state));
            lanes.extend(old.upload.map(|upload| ((upload, old.endpoint.as_str().to_owned()), self.now)));
            if settled.is_exhausted {
                exhausted.push((old.tenant, old.exhausted(key.id)));
            }
        }
        let count = tx.end(&ended, self.now).await?;
        for (tenant, notice) in &exhausted {
            tx.log_notice(*tenant, notice, self.now).await?;
        }
        // The lanes are released last, so that this batch makes no delivery ready that it ends.
        tx.release_next(&lanes).await?;
        Ok(count)
    }
}

/// A delivery that has waited too long.
struct ExpiredDelivery {
    tenant: TenantId,
    endpoint: EndpointId,
    event: EventId,
    kind: EventKind,
    upload: Option<UploadId>,
    attempts: u32,
}

impl ExpiredDelivery {
    fn read(row: &Row) -> std::result::Result<(DeliveryKey, Self), Fault> {
        let mut columns = Columns::of(row);
        let key = DeliveryKey { source: columns.next()?, id: columns.next()? };
        let old = Self {
            tenant: columns.next()?,
            endpoint: columns.next()?,
            event: columns.next()?,
            kind: columns.next()?,
            upload: columns.next()?,
            attempts: columns.next()?,
        };
        Ok((key, old))
    }

    fn exhausted(&self, delivery: DeliveryId) -> Notice {
        let Self { endpoint, event, upload, attempts, .. } = self;
        Notice::Exhausted { delivery, endpoint: endpoint.clone(), event: *event, upload: *upload, attempts: *attempts }
    }
}

/// All endpoints, present or not, with the decisions about them.
const TO_LIMIT: &str = "SELECT id, present, state = 'enabled', coalesce(resumed_at_ms, 0) FROM endpoints ORDER BY id";

/// Pending deliveries beyond the newest ones that the limit permits.
const TOO_MANY: &str = "SELECT source_id, id, upload_id FROM deliveries
     WHERE state IN ('ready', 'waiting') AND endpoint = $1 AND bucket = ANY($4::bigint[]) AND source_id >= $5
     ORDER BY begun_at_ms DESC, id DESC LIMIT $3 OFFSET $2";

/// Cancels deliveries unless they were sent since they were found. A delivery that is only too old is kept if
/// its endpoint has been resumed. The keys come first.
const DROP: &str = "UPDATE deliveries SET state = 'cancelled', finished_at_ms = $6
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS excess (bucket, source_id, id)
     WHERE deliveries.bucket = excess.bucket AND deliveries.source_id = excess.source_id
         AND deliveries.id = excess.id AND deliveries.source_id BETWEEN $4 AND $5
         AND deliveries.state IN ('ready', 'waiting')
         AND ($7 OR EXISTS (SELECT 1 FROM endpoints
             WHERE endpoints.id = deliveries.endpoint AND (endpoints.state <> 'enabled' OR NOT present)))
     RETURNING upload_id";

impl PostgresStore {
    pub(crate) async fn drop_excess_piece(
        &self,
        limits: BacklogLimits,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<(EndpointId, u64)>> {
        match self.find_excess(limits, limit).await? {
            Some(excess) => self.write(DropExcess { excess, now }).await,
            None => Ok(Vec::new()),
        }
    }

    /// Finds deliveries beyond the limits of one endpoint: one endpoint at a time bounds the transaction.
    async fn find_excess(&self, limits: BacklogLimits, limit: u32) -> Result<Option<BacklogExcess>> {
        const OPERATION: &str = "find deliveries beyond the backlog limits";
        let all = self.readers.query(OPERATION, TO_LIMIT, &[]).await?;
        let from = self.unfinished_from(OPERATION).await?.deliveries;
        for row in &all {
            let read = || {
                let mut columns = Columns::of(row);
                let id = columns.next::<EndpointId>()?;
                let (is_present, is_enabled) = (columns.next()?, columns.next()?);
                let availability =
                    EndpointAvailability { is_present, is_enabled, is_cancelling: false, resumed_at: columns.next()? };
                Ok((id, availability.is_stopped_since(limits.begun_before)))
            };
            let (endpoint, is_at_rest) = read().map_err(|fault: Fault| fault.into_error(OPERATION))?;
            let values = params![&endpoint, limits.most, limit, all_buckets(), from];
            let too_many = self.find_candidates(OPERATION, TOO_MANY, values).await?;
            let is_too_much = !too_many.is_empty();
            let deliveries = if !is_too_much && is_at_rest {
                let values = params![&endpoint, limits.begun_before, limit, all_buckets(), from];
                self.find_candidates(OPERATION, FIND, values).await?
            } else {
                too_many
            };
            if !deliveries.is_empty() {
                return Ok(Some(BacklogExcess { endpoint, deliveries, is_too_much }));
            }
        }
        Ok(None)
    }
}

/// Pending deliveries of an endpoint beyond its limits.
struct BacklogExcess {
    endpoint: EndpointId,
    deliveries: Vec<Candidate>,
    /// True if there are too many deliveries, and not only too old ones.
    is_too_much: bool,
}

struct DropExcess {
    excess: BacklogExcess,
    now: Timestamp,
}

impl Work for DropExcess {
    const OPERATION: &'static str = "cancel deliveries beyond the backlog limits";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = Vec<(EndpointId, u64)>;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<Self::Output, Fault> {
        let BacklogExcess { endpoint, deliveries, is_too_much } = &self.excess;
        // The endpoint can neither be stopped nor resumed until the transaction ends.
        tx.subscribers().await?;
        tx.lock_lanes(deliveries.iter().filter_map(|one| one.upload)).await?;
        let mut values = keys_of(deliveries);
        values.extend([Param::from(self.now), Param::from(*is_too_much)]);
        let dropped = tx.query(DROP, &values).await?;
        let mut lanes = ChangedLanes::new();
        for row in &dropped {
            let upload: Option<UploadId> = Columns::of(row).next()?;
            lanes.extend(upload.map(|upload| ((upload, endpoint.as_str().to_owned()), self.now)));
        }
        tx.release_next(&lanes).await?;
        let count = u64::try_from(dropped.len()).unwrap_or(u64::MAX);
        Ok(if count > 0 { vec![(endpoint.clone(), count)] } else { Vec::new() })
    }
}
