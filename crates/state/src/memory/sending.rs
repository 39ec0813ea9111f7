//! Claims and settlements, and deliveries after the clock was set.

use std::time::Duration;

use crate::memory::Tables;
use crate::{Claim, Settlement, SettlementBatch, StoredEvent};
use domain::delivery::{Attempt, AttemptOutcome, DeliveryClass, DeliveryState};
use domain::endpoint::{EndpointId, Payload};
use domain::id::{DeliveryId, InstanceId};
use domain::lane::{self, ClaimLimits, ClaimOrder, ClaimedDelivery};
use domain::notice::Notice;
use domain::principal::TenantScope;
use domain::time::Timestamp;

/// The beginning of the note of an attempt whose lease had passed to another claim.
const LATE: &str = "late";

impl Tables {
    pub(super) fn claim_due(
        &mut self,
        node: InstanceId,
        limits: &[(EndpointId, ClaimLimits)],
        now: Timestamp,
        lease: Duration,
    ) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (endpoint, limits) in limits {
            let Some(kept) = self.endpoints.get(endpoint) else { continue };
            let availability = self.availability(kept);
            if !availability.takes_claims() {
                continue;
            }
            let Some(queue) = self.queues.get(endpoint) else { continue };
            let elsewhere = queue.leased.iter().filter(|(until, _)| *until > now);
            let elsewhere = elsewhere.filter_map(|(_, id)| self.deliveries.get(id));
            let elsewhere = elsewhere.filter(|delivery| delivery.claimed_by != Some(node)).count();
            let elsewhere = u32::try_from(elsewhere).unwrap_or(u32::MAX);
            let slots = limits.claimable(elsewhere, kept.endpoint.health.open_until, now) as usize;
            let ready = queue.ready.iter().take(slots).map(|(_, id)| id);
            let run_out = queue.leased.iter().take(slots).map(|(_, id)| id);
            let found = ready.chain(run_out).filter_map(|id| self.deliveries.get(id));
            let due = found.filter(|it| lane::is_due(it.state, it.next_at, it.lease_until, now));
            let mut due: Vec<(ClaimOrder, DeliveryId)> =
                due.map(|delivery| (delivery.claim_order(), delivery.id)).collect();
            due.sort_unstable();
            for (_, id) in due.into_iter().take(slots) {
                claims.extend(self.lease(node, id, now.plus(lease)));
            }
        }
        claims
    }

    pub(super) fn test_endpoint(
        &mut self,
        scope: TenantScope,
        node: InstanceId,
        id: &EndpointId,
        now: Timestamp,
        lease: Duration,
    ) -> Option<Claim> {
        if !self.has_endpoint(scope, id) {
            return None;
        }
        let delivery = self.add_ping(id, now)?;
        self.lease(node, delivery, now.plus(lease))
    }

    fn lease(&mut self, node: InstanceId, id: DeliveryId, until: Timestamp) -> Option<Claim> {
        let lease = self.draw();
        let is_taken_over = self.deliveries.get(&id)?.state == DeliveryState::Leased;
        self.change(id, |delivery| {
            delivery.state = DeliveryState::Leased;
            (delivery.lease, delivery.lease_until, delivery.claimed_by) = (Some(lease), Some(until), Some(node));
        });
        let delivery = self.deliveries.get(&id)?;
        let kept = self.endpoints.get(&delivery.endpoint)?;
        let event = self.log.get(&delivery.position)?;
        let body = match (kept.endpoint.terms.payload, delivery.upload) {
            (Payload::Thin, Some(upload)) => {
                let (kind, at, sequence) = (event.kind, event.at, event.sequence);
                (self.bodies.thin)(&StoredEvent { kind, at, upload, sequence, body: &event.body }).into()
            }
            (Payload::Full | Payload::Thin, _) => event.body.clone(),
        };
        Some(Claim {
            delivery: id,
            lease,
            endpoint: delivery.endpoint.clone(),
            endpoint_version: kept.endpoint.version,
            event: delivery.event,
            kind: delivery.kind,
            class: DeliveryClass::of(delivery.kind),
            trigger: delivery.trigger,
            upload: delivery.upload,
            occurred_at: event.at,
            begun_at: self.availability(kept).begun_at(delivery.begun_at),
            attempts: delivery.attempts,
            attempts_before: delivery.attempts_before,
            is_taken_over,
            body,
        })
    }

    pub(super) fn settle(&mut self, settled: SettlementBatch, now: Timestamp) {
        for settlement in settled.settlements {
            self.settle_one(settlement, now);
        }
        for (endpoint, change) in settled.health {
            self.note_health(&endpoint, &change);
        }
    }

    fn settle_one(&mut self, settlement: Settlement, now: Timestamp) {
        let Settlement { delivery: id, lease, mut attempt, disposition } = settlement;
        let Some(delivery) = self.deliveries.get(&id) else { return };
        if delivery.lease != Some(lease) {
            attempt.note = Some(attempt.note.map_or(LATE.to_owned(), |note| format!("{LATE}; {note}")));
            attempt.next_attempt_at = None;
            return self.record(id, attempt);
        }
        let newest = delivery.upload.and_then(|upload| self.uploads.get(&upload)).map(|record| record.next_sequence);
        let held = ClaimedDelivery {
            class: DeliveryClass::of(delivery.kind),
            attempts: delivery.attempts,
            is_overtaken: newest.is_some_and(|next| next > delivery.sequence + 1),
        };
        let after = lane::settle(held, disposition, attempt.outcome != AttemptOutcome::Aborted);
        let present = self.endpoints.get(&delivery.endpoint).filter(|kept| kept.is_present);
        // The time at which a stopped endpoint is resumed is unknown.
        let is_stopped = present.is_some_and(|kept| !kept.endpoint.state.is_enabled());
        let is_planned = after.state == DeliveryState::Ready && !is_stopped;
        attempt.next_attempt_at = attempt.next_attempt_at.filter(|_| is_planned);
        let generation = present.map_or(delivery.generation, |kept| kept.generation);
        let exhausted = after.is_exhausted.then(|| Notice::Exhausted {
            delivery: id,
            endpoint: delivery.endpoint.clone(),
            event: delivery.event,
            upload: delivery.upload,
            attempts: attempt.number,
        });
        let (tenant, endpoint, upload) = (delivery.tenant, delivery.endpoint.clone(), delivery.upload);
        self.record(id, attempt);
        self.change(id, |delivery| {
            (delivery.state, delivery.attempts, delivery.generation) = (after.state, after.attempts, generation);
            delivery.next_at = after.next_at.unwrap_or(delivery.next_at);
            (delivery.lease, delivery.lease_until) = (None, None);
        });
        if after.state.is_finished() {
            self.end(id, after.state, now);
        }
        self.made_ready |= after.state == DeliveryState::Ready;
        if let Some(notice) = exhausted {
            self.announce(tenant, &notice, now);
        }
        self.release_next(&endpoint, upload, now);
    }

    /// Records an attempt. Recording the same attempt again changes nothing.
    fn record(&mut self, id: DeliveryId, attempt: Attempt) {
        let Some(delivery) = self.deliveries.get_mut(&id) else { return };
        let same = |known: &Attempt| (known.number, known.started_at) == (attempt.number, attempt.started_at);
        if !delivery.attempt_records.iter().any(same) {
            delivery.attempt_records.push(attempt);
        }
    }

    pub(super) fn renew_leases(&mut self, node: InstanceId, until: Timestamp) {
        let leased = self.queues.values().flat_map(|queue| &queue.leased);
        let leased = leased.filter_map(|(_, id)| self.deliveries.get(id));
        let own = leased.filter(|delivery| delivery.claimed_by == Some(node));
        let leased: Vec<DeliveryId> = own.map(|delivery| delivery.id).collect();
        for id in leased {
            self.change(id, |delivery| delivery.lease_until = Some(until));
        }
    }

    pub(super) fn restart_waits(&mut self, now: Timestamp) -> u64 {
        let ready =
            self.queues.values().flat_map(|queue| &queue.ready).filter(|(claim_order, _)| claim_order.next_at > now);
        let waiting = ready.filter_map(|(_, id)| self.deliveries.get(id));
        let ahead = waiting.filter(|delivery| {
            let latest = delivery.attempt_records.iter().map(|attempt| attempt.started_at).max();
            lane::was_planned_by_fast_clock(delivery.attempts, delivery.begun_at, latest, now)
        });
        let ahead: Vec<DeliveryId> = ahead.map(|delivery| delivery.id).collect();
        for id in &ahead {
            self.change(*id, |delivery| (delivery.next_at, delivery.begun_at) = (now, delivery.begun_at.min(now)));
        }
        self.made_ready |= !ahead.is_empty();
        ahead.len() as u64
    }

    pub(super) fn next_due(&self, endpoints: &[EndpointId]) -> Option<Timestamp> {
        let kept = endpoints.iter().filter_map(|id| self.endpoints.get(id));
        let open = kept.filter(|kept| self.availability(kept).takes_claims());
        let queues = open.filter_map(|kept| self.queues.get(&kept.endpoint.id));
        let due = queues.flat_map(|queue| {
            let ready = queue.ready.first().map(|(claim_order, _)| claim_order.next_at);
            ready.into_iter().chain(queue.leased.first().map(|(until, _)| *until))
        });
        due.min()
    }
}
