//! Attempts: recorded when they end, together with the new states of their deliveries.

use std::sync::LazyLock;

use rusqlite::{OptionalExtension, Row, params};
use state_rows::{AttemptRow, sql};

use crate::rows::{Columns, PLACEHOLDERS, bound};
use crate::writer::{Work, WriteTransaction};
use crate::{endpoints, lanes, notices};
use domain::delivery::{Attempt, AttemptOutcome, DeliveryClass, DeliveryState};
use domain::endpoint::EndpointId;
use domain::id::{EventId, UploadId};
use domain::lane;
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;
use state::{Settlement, SettlementBatch};

/// The note, or its beginning, of an attempt whose lease had passed to another claim.
const LATE: &str = "late";

pub(super) struct Settle {
    pub(super) settled: SettlementBatch,
    pub(super) now: Timestamp,
}

impl Work for Settle {
    const OPERATION: &'static str = "record delivery attempts";
    type Output = ();

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        for settlement in &self.settled.settlements {
            settle(tx, settlement, self.now)?;
        }
        for (endpoint, change) in &self.settled.health {
            endpoints::note_health(tx, endpoint, change)?;
        }
        Ok(())
    }
}

fn settle(tx: &mut WriteTransaction, settlement: &Settlement, now: Timestamp) -> rusqlite::Result<()> {
    let Some(held) = held_delivery(tx, settlement)? else {
        return record(tx, settlement, Some(&late_note(&settlement.attempt)), None);
    };
    let counts = settlement.attempt.outcome != AttemptOutcome::Aborted;
    let settled = lane::settle(held.delivery, settlement.disposition, counts);
    // The time at which a stopped endpoint is resumed is unknown.
    let planned = settlement.attempt.next_attempt_at;
    let planned = planned.filter(|_| settled.state == DeliveryState::Ready && !held.endpoint_is_stopped);
    record(tx, settlement, settlement.attempt.note.as_deref(), planned)?;
    tx.execute(
        "UPDATE deliveries SET state = ?2, attempts = ?3, next_at_ms = coalesce(?4, next_at_ms),
             finished_at_ms = ?5, lease = NULL, lease_until_ms = NULL, claimed_by = NULL,
             generation = coalesce(?6, generation)
         WHERE id = ?1",
        params![
            settlement.delivery.as_bytes(),
            settled.state.name(),
            settled.attempts,
            settled.next_at.map(Timestamp::unix_ms),
            settled.state.is_finished().then_some(now.unix_ms()),
            held.generation,
        ],
    )?;
    tx.made_ready |= settled.state == DeliveryState::Ready;
    tx.superseded += u64::from(settled.state == DeliveryState::Superseded);
    if settled.is_exhausted {
        notices::log(tx, held.tenant, &held.exhausted(settlement), now)?;
    }
    match held.upload {
        Some(upload) => lanes::release_next(tx, held.endpoint.as_str(), upload, now),
        None => Ok(()),
    }
}

/// A delivery whose lease the settlement still holds.
struct ClaimedRow {
    tenant: TenantId,
    endpoint: EndpointId,
    endpoint_is_stopped: bool,
    /// The current generation of the endpoint; `None` if the endpoint is not present.
    generation: Option<i64>,
    event: EventId,
    upload: Option<UploadId>,
    delivery: lane::ClaimedDelivery,
}

impl ClaimedRow {
    fn exhausted(&self, settlement: &Settlement) -> Notice {
        Notice::Exhausted {
            delivery: settlement.delivery,
            endpoint: self.endpoint.clone(),
            event: self.event,
            upload: self.upload,
            attempts: settlement.attempt.number,
        }
    }
}

fn held_delivery(tx: &mut WriteTransaction, settlement: &Settlement) -> rusqlite::Result<Option<ClaimedRow>> {
    let subscribers = tx.subscribers()?;
    let mut statement = tx.connection.prepare_cached(
        "SELECT tenant, endpoint, event_id, upload_id, kind, attempts,
             EXISTS (SELECT 1 FROM events
                 WHERE events.upload_id = deliveries.upload_id AND events.sequence > deliveries.sequence)
         FROM deliveries WHERE id = ?1 AND lease = ?2",
    )?;
    let held = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        let tenant = columns.next()?;
        let endpoint = columns.next()?;
        let subscriber = subscribers.iter().find(|one| one.id == endpoint);
        Ok(ClaimedRow {
            tenant,
            // An absent endpoint is not stopped: its remaining deliveries are kept unchanged until it is
            // present again.
            endpoint_is_stopped: subscriber.is_some_and(|one| !one.is_enabled),
            generation: subscriber.map(|one| one.generation),
            endpoint,
            event: columns.next()?,
            upload: columns.next()?,
            delivery: lane::ClaimedDelivery {
                class: DeliveryClass::of(columns.next()?),
                attempts: columns.next()?,
                is_overtaken: columns.next()?,
            },
        })
    };
    statement.query_one(params![settlement.delivery.as_bytes(), settlement.lease], held).optional()
}

fn late_note(attempt: &Attempt) -> String {
    match &attempt.note {
        Some(note) => format!("{LATE}; {note}"),
        None => LATE.to_owned(),
    }
}

static RECORD: LazyLock<String> = LazyLock::new(|| sql::insert_new::<AttemptRow>(PLACEHOLDERS));

/// Records an attempt. Recording the same attempt again changes nothing.
fn record(
    tx: &mut WriteTransaction,
    settlement: &Settlement,
    note: Option<&str>,
    next_attempt_at: Option<Timestamp>,
) -> rusqlite::Result<()> {
    let cells = AttemptRow::cells(settlement.delivery, &settlement.attempt, note, next_attempt_at);
    tx.execute(&RECORD, bound(&cells)).map(drop)
}
