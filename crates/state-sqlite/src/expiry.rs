//! Expiry of deliveries that have waited too long without an error: for a rate limit, a breaker, or earlier
//! deliveries.
//!
//! A reader finds old deliveries, and the writer ends them in batches. Pending deliveries of a stopped
//! endpoint do not expire this way; they are dropped when they exceed the limits of a backlog
//! ([`DropExcess`]). Pending deliveries of an endpoint that no configuration names are cancelled when old
//! rows are removed.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::endpoints::{self, Subscriber};
use crate::rows::{Columns, integer};
use crate::writer::{Work, WriteTransaction};
use crate::{SqliteStore, lanes, notices};
use domain::delivery::{DeliveryClass, DeliveryState};
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, UploadId};
use domain::lane::{self, EndpointAvailability};
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;
use state::{BacklogLimits, Result};

/// The statement names its partial index: if condition and index ever differ, it fails instead of scanning
/// the table.
const FIND: &str = "SELECT id FROM deliveries INDEXED BY deliveries_by_age
     WHERE state IN ('ready', 'waiting') AND endpoint = ?1 AND begun_at_ms < ?2 ORDER BY begun_at_ms LIMIT ?3";

/// Reads a delivery that may be too old.
const OLD: &str =
    "SELECT tenant, endpoint, event_id, kind, upload_id, attempts, state, begun_at_ms FROM deliveries WHERE id = ?1";

impl SqliteStore {
    pub(super) async fn expire_piece(&self, begun_before: Timestamp, limit: u32, now: Timestamp) -> Result<u64> {
        let find = move |connection: &mut Connection| find_old(connection, begun_before, limit);
        let old = self.readers.read("find deliveries that waited too long", find).await?;
        if old.is_empty() {
            return Ok(0);
        }
        self.writer.write(Expire { old, begun_before, now }).await
    }
}

fn find_old(connection: &Connection, begun_before: Timestamp, limit: u32) -> rusqlite::Result<Vec<DeliveryId>> {
    let mut statement = connection.prepare_cached(FIND)?;
    let id = |row: &Row<'_>| row.get(0).map(DeliveryId::from_bytes);
    let mut old = Vec::new();
    for subscriber in endpoints::subscribers(connection)?.iter() {
        if !subscriber.availability().expires_deliveries(begun_before) {
            continue;
        }
        let left = limit.saturating_sub(u32::try_from(old.len()).unwrap_or(limit));
        let values = params![subscriber.id.as_str(), begun_before.unix_ms(), left];
        for found in statement.query_map(values, id)? {
            old.push(found?);
        }
    }
    Ok(old)
}

struct Expire {
    old: Vec<DeliveryId>,
    begun_before: Timestamp,
    now: Timestamp,
}

impl Work for Expire {
    const OPERATION: &'static str = "expire deliveries";
    type Output = u64;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<u64> {
        let (mut count, mut changed) = (0, BTreeSet::new());
        for id in &self.old {
            // Skips a delivery that was sent, replayed or stopped since it was found.
            let Some(old) = self.find(tx, *id)? else { continue };
            count += 1;
            changed.extend(old.upload.map(|upload| (old.endpoint.clone(), upload)));
            let ended = lane::expire(DeliveryClass::of(old.kind), old.attempts);
            lanes::end(tx, *id, ended.state, self.now)?;
            if ended.is_exhausted {
                notices::log(tx, old.tenant, &old.exhausted(*id), self.now)?;
            }
        }
        // The lanes are released last, so that this batch makes no delivery ready that it ends.
        for (endpoint, upload) in changed {
            lanes::release_next(tx, endpoint.as_str(), upload, self.now)?;
        }
        Ok(count)
    }
}

impl Expire {
    fn find(&self, tx: &mut WriteTransaction, id: DeliveryId) -> rusqlite::Result<Option<ExpiredDelivery>> {
        let read = |row: &Row<'_>| {
            let mut columns = Columns::of(row);
            let old = ExpiredDelivery {
                tenant: columns.next()?,
                endpoint: columns.next()?,
                event: columns.next()?,
                kind: columns.next()?,
                upload: columns.next()?,
                attempts: columns.next()?,
            };
            Ok((old, columns.next::<DeliveryState>()?, columns.next::<Timestamp>()?))
        };
        let found = tx.connection.prepare_cached(OLD)?.query_one([id.as_bytes()], read).optional()?;
        let Some((old, state, begun_at)) = found else { return Ok(None) };
        let subscribers = tx.subscribers()?;
        let expires_deliveries =
            |one: &Subscriber| one.id == old.endpoint && one.availability().expires_deliveries(self.begun_before);
        let is_old =
            lane::is_pending(state) && begun_at < self.begun_before && subscribers.iter().any(expires_deliveries);
        Ok(is_old.then_some(old))
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
    fn exhausted(&self, delivery: DeliveryId) -> Notice {
        let Self { endpoint, event, upload, attempts, .. } = self;
        Notice::Exhausted { delivery, endpoint: endpoint.clone(), event: *event, upload: *upload, attempts: *attempts }
    }
}

/// All endpoints, present or not, with the decisions about them.
const TO_LIMIT: &str = "SELECT id, present, state = 'enabled', ifnull(resumed_at_ms, 0) FROM endpoints";

/// Pending deliveries beyond the newest ones that the limit permits.
const TOO_MANY: &str = "SELECT id FROM deliveries INDEXED BY deliveries_by_age
     WHERE state IN ('ready', 'waiting') AND endpoint = ?1 ORDER BY begun_at_ms DESC, id DESC LIMIT ?3 OFFSET ?2";

/// Cancels a delivery unless it was sent since it was found. A delivery that is only too old is kept if its
/// endpoint has been resumed.
const DROP: &str = "UPDATE deliveries SET state = 'cancelled', finished_at_ms = ?2
     WHERE id = ?1 AND state IN ('ready', 'waiting')
         AND (?3 OR EXISTS (SELECT 1 FROM endpoints
             WHERE endpoints.id = deliveries.endpoint AND (endpoints.state <> 'enabled' OR present = 0)))
     RETURNING upload_id";

impl SqliteStore {
    pub(super) async fn drop_excess_piece(
        &self,
        limits: BacklogLimits,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<(EndpointId, u64)>> {
        let find = move |connection: &mut Connection| find_excess(connection, limits, limit);
        let excess = self.readers.read("find deliveries beyond the backlog limits", find).await?;
        if excess.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.write(DropExcess { excess, now }).await
    }
}

fn find_excess(connection: &Connection, limits: BacklogLimits, limit: u32) -> rusqlite::Result<Vec<BacklogExcess>> {
    let mut all = connection.prepare_cached(TO_LIMIT)?;
    let endpoint = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        let id = columns.next()?;
        let (is_present, is_enabled) = (columns.next()?, columns.next()?);
        let availability =
            EndpointAvailability { is_present, is_enabled, is_cancelling: false, resumed_at: columns.next()? };
        Ok((id, availability.is_stopped_since(limits.begun_before)))
    };
    let endpoints = all.query_map([], endpoint)?;
    let endpoints: Vec<(EndpointId, bool)> = endpoints.collect::<rusqlite::Result<_>>()?;
    let id = |row: &Row<'_>| row.get(0).map(DeliveryId::from_bytes);
    let mut excess = Vec::new();
    for (endpoint, is_at_rest) in endpoints {
        let too_many: Vec<DeliveryId> = connection
            .prepare_cached(TOO_MANY)?
            .query_map(params![endpoint.as_str(), integer(limits.most), limit], id)?
            .collect::<rusqlite::Result<_>>()?;
        let too_old: Vec<DeliveryId> = match (too_many.is_empty(), is_at_rest) {
            (true, true) => connection
                .prepare_cached(FIND)?
                .query_map(params![endpoint.as_str(), limits.begun_before.unix_ms(), limit], id)?
                .collect::<rusqlite::Result<_>>()?,
            (true, false) | (false, _) => Vec::new(),
        };
        let is_too_much = !too_many.is_empty();
        let deliveries = if is_too_much { too_many } else { too_old };
        if !deliveries.is_empty() {
            // One endpoint at a time bounds the transaction.
            excess.push(BacklogExcess { endpoint, deliveries, is_too_much });
            break;
        }
    }
    Ok(excess)
}

/// Pending deliveries of an endpoint beyond its limits.
struct BacklogExcess {
    endpoint: EndpointId,
    deliveries: Vec<DeliveryId>,
    /// True if there are too many deliveries, and not only too old ones.
    is_too_much: bool,
}

struct DropExcess {
    excess: Vec<BacklogExcess>,
    now: Timestamp,
}

impl Work for DropExcess {
    const OPERATION: &'static str = "cancel deliveries beyond the backlog limits";
    type Output = Vec<(EndpointId, u64)>;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<Self::Output> {
        let mut dropped = Vec::new();
        for BacklogExcess { endpoint, deliveries, is_too_much } in &self.excess {
            let (mut count, mut uploads) = (0, BTreeSet::new());
            for id in deliveries {
                let mut statement = tx.connection.prepare_cached(DROP)?;
                let values = params![id.as_bytes(), self.now.unix_ms(), is_too_much];
                let ended = statement.query_one(values, |row| row.get::<_, Option<_>>(0)).optional()?;
                count += u64::from(ended.is_some());
                uploads.extend(ended.flatten().map(UploadId::from_bytes));
            }
            for upload in uploads {
                lanes::release_next(tx, endpoint.as_str(), upload, self.now)?;
            }
            if count > 0 {
                dropped.push((endpoint.clone(), count));
            }
        }
        Ok(dropped)
    }
}
