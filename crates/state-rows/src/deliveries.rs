//! Deliveries and their attempts.

use domain::delivery::{Attempt, AttemptOutcome, AttemptTrigger, DeliveryRecord, DeliveryState, Timings};
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, InstanceId, UploadId};
use domain::log::EventPosition;
use domain::principal::TenantId;
use domain::time::Timestamp;

use crate::fields::Micros;
use crate::table::table;

table! {
    /// A delivery: one event to be sent to one endpoint.
    pub struct DeliveryRow in "deliveries", key (id), of (row: &DeliveryRow) {
        id: DeliveryId = row.id;
        tenant: TenantId = row.tenant;
        event_position: EventPosition = row.event_position;
        event_id: EventId = row.event_id;
        kind: EventKind = row.kind;
        endpoint: EndpointId = row.endpoint;
        /// `None` for an event that is not about an upload, which belongs to no lane.
        upload_id: Option<UploadId> = row.upload_id;
        sequence: u64 = row.sequence;
        state: DeliveryState = row.state;
        trigger: AttemptTrigger = row.trigger;
        /// The number of counted attempts so far.
        attempts: u32 = row.attempts;
        /// The number of those attempts before the latest replay.
        attempts_before: u32 = row.attempts_before;
        begun_at_ms: Timestamp = row.begun_at_ms;
        /// The time at which it is due or was due; it determines the order of claims.
        next_at_ms: Timestamp = row.next_at_ms;
        /// Proves the claim of the current sender.
        lease: Option<[u8; 16]> = row.lease;
        lease_until_ms: Option<Timestamp> = row.lease_until_ms;
        /// The node that has claimed the delivery.
        claimed_by: Option<InstanceId> = row.claimed_by;
        created_at_ms: Timestamp = row.created_at_ms;
        finished_at_ms: Option<Timestamp> = row.finished_at_ms;
        /// The number of the latest backlog job of its endpoint when it was queued.
        generation: i64 = row.generation;
    }
}

impl DeliveryRow {
    /// Returns the delivery as the API shows it, without its attempts.
    pub fn record(self, is_stopped: bool) -> DeliveryRecord {
        let state = match self.state {
            DeliveryState::Ready | DeliveryState::Waiting if is_stopped => DeliveryState::Paused,
            state => state,
        };
        DeliveryRecord {
            id: self.id,
            event: self.event_id,
            event_name: self.kind.name().to_owned(),
            upload: self.upload_id,
            sequence: self.sequence,
            endpoint: self.endpoint,
            state,
            created_at: self.created_at_ms,
            next_attempt_at: (state == DeliveryState::Ready).then_some(self.next_at_ms),
            finished_at: self.finished_at_ms,
            attempts: Vec::new(),
        }
    }
}

table! {
    /// One recorded attempt, with the note and the planned next attempt.
    pub struct AttemptRow in "attempts", key (delivery_id, number, started_at_ms), of (delivery: DeliveryId, attempt: &Attempt,
        note: Option<&str>, next_attempt_at: Option<Timestamp>) {
        delivery_id: DeliveryId = delivery;
        number: u32 = attempt.number;
        started_at_ms: Timestamp = attempt.started_at;
        took_us: Micros = Micros(attempt.took);
        /// The status of the response; without a response there is an error.
        status: Option<u16> = attempt.outcome.status();
        error: Option<String> = attempt.outcome.error_class();
        response_body: Vec<u8> = attempt.response_body;
        note: Option<String> = note;
        trigger: AttemptTrigger = attempt.trigger;
        dns_us: Option<Micros> = attempt.timings.dns.map(Micros);
        connect_us: Option<Micros> = attempt.timings.connect.map(Micros);
        first_byte_us: Option<Micros> = attempt.timings.first_byte.map(Micros);
        remote: Option<String> = attempt.remote.map(|address| address.to_string());
        response_headers: Vec<(String, String)> = attempt.response_headers[..];
        next_at_ms: Option<Timestamp> = next_attempt_at;
    }
}

impl From<AttemptRow> for Attempt {
    fn from(row: AttemptRow) -> Self {
        let span = |span: Option<Micros>| span.map(|Micros(span)| span);
        Self {
            number: row.number,
            trigger: row.trigger,
            started_at: row.started_at_ms,
            took: row.took_us.0,
            timings: Timings {
                dns: span(row.dns_us),
                connect: span(row.connect_us),
                first_byte: span(row.first_byte_us),
            },
            remote: row.remote.and_then(|address| address.parse().ok()),
            outcome: AttemptOutcome::from_parts(row.status, row.error.as_deref()),
            response_headers: row.response_headers,
            response_body: row.response_body,
            note: row.note,
            next_attempt_at: row.next_at_ms,
        }
    }
}
