//! Attempts: recorded as they end, together with what becomes of their deliveries.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};

use crate::claims::class_of;
use crate::rows::{Columns, integer, json};
use crate::writer::{Desk, Work};
use crate::{endpoints, lanes, notices};
use domain::delivery::{Attempt, AttemptOutcome, DeliveryClass, DeliveryState};
use domain::endpoint::EndpointId;
use domain::id::{EventId, UploadId};
use domain::notice::Notice;
use domain::time::Timestamp;
use state::{Settled, Settlement, Verdict};

/// What the note of an attempt says, or begins with, when its lease had gone to another.
const LATE: &str = "late";

pub(super) struct Settle {
    pub(super) settled: Settled,
    pub(super) now: Timestamp,
}

impl Work for Settle {
    const OPERATION: &'static str = "record delivery attempts";
    type Output = ();

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<()> {
        for settlement in &self.settled.settlements {
            settle(desk, settlement, self.now)?;
        }
        for (endpoint, health) in &self.settled.health {
            endpoints::note_health(desk, endpoint, *health)?;
        }
        Ok(())
    }
}

fn settle(desk: &mut Desk, settlement: &Settlement, now: Timestamp) -> rusqlite::Result<()> {
    let Some(held) = held_delivery(desk, settlement)? else {
        return record(desk, settlement, Some(late_note(&settlement.attempt)), None);
    };
    let (state, next_at) = held.next(settlement.verdict);
    // Nobody knows when a stopped endpoint is resumed.
    let planned = settlement.attempt.next_attempt_at;
    let planned = planned.filter(|_| state == DeliveryState::Ready && !held.endpoint_is_stopped);
    record(desk, settlement, settlement.attempt.note.clone(), planned)?;
    let finished_at = matches!(
        state,
        DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded | DeliveryState::Cancelled
    );
    let counts = settlement.attempt.outcome != AttemptOutcome::Aborted;
    desk.execute(
        "UPDATE deliveries SET state = ?2, attempts = attempts + ?3, next_at_ms = coalesce(?4, next_at_ms),
             finished_at_ms = ?5, lease = NULL, lease_until_ms = NULL, generation = coalesce(?6, generation)
         WHERE id = ?1",
        params![
            settlement.delivery.as_bytes(),
            state.name(),
            counts,
            next_at.map(Timestamp::unix_ms),
            finished_at.then_some(now.unix_ms()),
            held.generation,
        ],
    )?;
    desk.made_ready |= state == DeliveryState::Ready;
    desk.superseded += u64::from(state == DeliveryState::Superseded);
    if state == DeliveryState::Dead && held.class == DeliveryClass::Normal {
        notices::log(desk, &held.exhausted(settlement), now)?;
    }
    match held.upload {
        Some(upload) => lanes::go_on(desk, held.endpoint.as_str(), upload, now),
        None => Ok(()),
    }
}

/// A delivery whose lease the settlement still holds.
struct Held {
    endpoint: EndpointId,
    endpoint_is_stopped: bool,
    /// Of its endpoint now; `None` when that is not there.
    generation: Option<i64>,
    event: EventId,
    upload: Option<UploadId>,
    class: DeliveryClass,
    /// Whether the upload has told something later.
    overtaken: bool,
}

impl Held {
    /// Where the delivery goes, and when it is due there. Progress that failed is never a dead letter (webhooks.md C5),
    /// and is not sent again once there is later news (webhooks.md C4).
    fn next(&self, verdict: Verdict) -> (DeliveryState, Option<Timestamp>) {
        match (verdict, self.class) {
            (Verdict::Succeeded, _) => (DeliveryState::Succeeded, None),
            (Verdict::Cancelled, _) => (DeliveryState::Cancelled, None),
            (Verdict::Dead, DeliveryClass::Progress) => (DeliveryState::Superseded, None),
            (Verdict::RetryAt(_), DeliveryClass::Progress) if self.overtaken => (DeliveryState::Superseded, None),
            (Verdict::Dead, _) => (DeliveryState::Dead, None),
            (Verdict::RetryAt(at), _) => (DeliveryState::Ready, Some(at)),
        }
    }

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

fn held_delivery(desk: &mut Desk, settlement: &Settlement) -> rusqlite::Result<Option<Held>> {
    let subscribers = desk.subscribers()?;
    let mut statement = desk.connection.prepare_cached(
        "SELECT endpoint, event_id, upload_id, kind,
             EXISTS (SELECT 1 FROM events
                 WHERE events.upload_id = deliveries.upload_id AND events.sequence > deliveries.sequence)
         FROM deliveries WHERE id = ?1 AND lease = ?2",
    )?;
    let held = |row: &Row<'_>| {
        let mut columns = Columns::of(row);
        let endpoint = columns.endpoint()?;
        let subscriber = subscribers.iter().find(|one| one.id == endpoint);
        Ok(Held {
            // One that is not there now has nothing to stop: what is left waits for it as it is.
            endpoint_is_stopped: subscriber.is_some_and(|one| !one.is_enabled),
            generation: subscriber.map(|one| one.generation),
            endpoint,
            event: EventId::from_bytes(columns.next()?),
            upload: columns.next::<Option<_>>()?.map(UploadId::from_bytes),
            class: class_of(columns.kind()?),
            overtaken: columns.next()?,
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

/// Recording the same attempt again changes nothing.
fn record(
    desk: &mut Desk,
    settlement: &Settlement,
    note: Option<String>,
    next_attempt_at: Option<Timestamp>,
) -> rusqlite::Result<()> {
    let attempt = &settlement.attempt;
    let took_us = |took: Duration| integer(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    let headers = &attempt.response_headers;
    let recorded = desk.execute(
        "INSERT INTO attempts (delivery_id, number, started_at_ms, took_us, status, error, response_body, note, trigger,
             dns_us, connect_us, first_byte_us, remote, response_headers, next_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT DO NOTHING",
        params![
            settlement.delivery.as_bytes(),
            attempt.number,
            attempt.started_at.unix_ms(),
            took_us(attempt.took),
            attempt.outcome.status(),
            attempt.outcome.error_class(),
            attempt.response_body,
            note,
            attempt.trigger.name(),
            attempt.timings.dns.map(took_us),
            attempt.timings.connect.map(took_us),
            attempt.timings.first_byte.map(took_us),
            attempt.remote.map(|address| address.to_string()),
            (!headers.is_empty()).then(|| json(headers)),
            next_attempt_at.map(Timestamp::unix_ms),
        ],
    );
    recorded.map(drop)
}
