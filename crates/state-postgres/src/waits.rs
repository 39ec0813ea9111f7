//! Deliveries after the clock was set.
//!
//! A time in the future was written by a clock that was ahead, so the period that began then is treated as
//! begun now. A reader finds candidates one page at a time, and each page is changed in a separate
//! transaction, so a long backlog blocks no other writes.

use crate::PostgresStore;
use crate::bucket::{SourceId, all_buckets};
use crate::fault::Fault;
use crate::lanes::{DeliveryKey, keys};
use crate::params::{Param, params};
use crate::rows::Columns;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::id::{DeliveryId, InstanceId};
use domain::lane;
use domain::time::Timestamp;
use state::Result;

/// The number of deliveries examined, and at most changed, at a time.
const PAGE: u32 = 500;

/// Ready deliveries that are due later, in the order of their index, with the values that show the start of
/// their wait.
const LATER: &str = "SELECT source_id, id, next_at_ms, sequence, attempts, begun_at_ms,
         (SELECT max(started_at_ms) FROM attempts WHERE attempts.bucket = deliveries.bucket
             AND attempts.source_id = deliveries.source_id AND delivery_id = deliveries.id
             AND attempts.source_id >= $7)
     FROM deliveries
     WHERE endpoint = $1 AND state = 'ready' AND bucket = ANY($6::bigint[]) AND source_id >= $7
         AND (next_at_ms, sequence, id) > ($2, $3, $4)
     ORDER BY next_at_ms, sequence, id LIMIT $5";

/// A position in the order of an endpoint's ready deliveries.
#[derive(Debug, Clone, Copy)]
struct ReadyPosition {
    next_at: Timestamp,
    sequence: i64,
    id: [u8; 16],
}

/// A page of ready deliveries that are due later.
#[derive(Debug)]
struct Page {
    ahead: Vec<DeliveryKey>,
    /// The start of the next page; `None` after the last one.
    end: Option<ReadyPosition>,
}

impl PostgresStore {
    pub(crate) async fn restart_all_waits(&self, now: Timestamp) -> Result<u64> {
        let mut count = 0;
        let endpoints = self.readers.query(RestartWaits::OPERATION, "SELECT id FROM endpoints ORDER BY id", &[]);
        for row in endpoints.await? {
            let endpoint: String = row.get(0);
            let mut from = Some(ReadyPosition { next_at: now, sequence: i64::MAX, id: [u8::MAX; 16] });
            while let Some(place) = from {
                let Page { ahead, end } = self.later_page(&endpoint, place, now).await?;
                if !ahead.is_empty() {
                    count += self.write(RestartWaits { ahead, now }).await?;
                }
                from = end;
            }
        }
        Ok(count)
    }

    async fn later_page(&self, endpoint: &str, from: ReadyPosition, now: Timestamp) -> Result<Page> {
        let first = self.unfinished_from(RestartWaits::OPERATION).await?.deliveries;
        let values = params![endpoint.to_owned(), from.next_at, from.sequence, from.id, PAGE, all_buckets(), first];
        let rows = self.readers.query(RestartWaits::OPERATION, LATER, values).await?;
        let read = || {
            let mut page = Page { ahead: Vec::new(), end: None };
            for row in &rows {
                let mut columns = Columns::of(row);
                let (source, id): (SourceId, DeliveryId) = (columns.next()?, columns.next()?);
                let (next_at, sequence) = (columns.next()?, columns.next()?);
                page.end = Some(ReadyPosition { next_at, sequence, id: *id.as_bytes() });
                let (attempts, begun_at, latest) = (columns.next()?, columns.next()?, columns.next()?);
                if lane::was_planned_by_fast_clock(attempts, begun_at, latest, now) {
                    page.ahead.push(DeliveryKey { source, id });
                }
            }
            let is_full = rows.len() >= PAGE as usize;
            page.end = page.end.filter(|_| is_full);
            Ok(page)
        };
        read().map_err(|fault: Fault| fault.into_error(RestartWaits::OPERATION))
    }
}

pub(crate) struct RenewLeases {
    pub(crate) node: InstanceId,
    pub(crate) until: Timestamp,
}

impl Work for RenewLeases {
    const OPERATION: &'static str = "renew leases";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<(), Fault> {
        // The number of rows is limited by the deliveries in flight.
        let sql = "UPDATE deliveries SET lease_until_ms = $1
             WHERE state = 'leased' AND claimed_by = $2 AND bucket = ANY($3::bigint[]) AND source_id >= $4";
        let from = tx.unfinished_from().await?.deliveries;
        tx.execute(sql, params![self.until, self.node, all_buckets(), from]).await.map(drop)
    }
}

struct RestartWaits {
    ahead: Vec<DeliveryKey>,
    now: Timestamp,
}

impl Work for RestartWaits {
    const OPERATION: &'static str = "make deliveries due after the clock was set back";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = u64;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<u64, Fault> {
        let mut values = keys(&self.ahead);
        values.push(Param::from(self.now));
        let count = tx
            .execute(
                "UPDATE deliveries SET next_at_ms = $6, begun_at_ms = least(begun_at_ms, $6)
                 FROM unnest($1::bigint[], $2::uuid[], $3::uuid[]) AS ahead (bucket, source_id, id)
                 WHERE deliveries.bucket = ahead.bucket AND deliveries.source_id = ahead.source_id
                     AND deliveries.id = ahead.id AND deliveries.source_id BETWEEN $4 AND $5
                     AND state = 'ready' AND next_at_ms > $6",
                &values,
            )
            .await?;
        tx.made_ready |= count > 0;
        Ok(count)
    }
}
