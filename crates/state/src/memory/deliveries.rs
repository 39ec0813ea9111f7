//! Deliveries and their lanes. [`domain::lane`] defines the rules of a lane.

use std::collections::BTreeSet;

use crate::memory::Tables;
use domain::delivery::{Attempt, AttemptTrigger, DeliveryClass, DeliveryState};
use domain::endpoint::{EndpointId, Ordering};
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, InstanceId, UploadId};
use domain::lane::{self, ClaimOrder, LaneLoad};
use domain::log::EventPosition;
use domain::principal::TenantId;
use domain::time::Timestamp;

/// A stored delivery: one event to be sent to one endpoint.
#[derive(Debug, Clone)]
pub(super) struct StoredDelivery {
    pub(super) id: DeliveryId,
    pub(super) tenant: TenantId,
    pub(super) position: EventPosition,
    pub(super) event: EventId,
    pub(super) kind: EventKind,
    pub(super) endpoint: EndpointId,
    /// `None` for an event that is not about an upload, which belongs to no lane.
    pub(super) upload: Option<UploadId>,
    pub(super) sequence: u64,
    pub(super) state: DeliveryState,
    pub(super) trigger: AttemptTrigger,
    pub(super) attempts: u32,
    pub(super) attempts_before: u32,
    pub(super) begun_at: Timestamp,
    pub(super) next_at: Timestamp,
    pub(super) lease: Option<[u8; 16]>,
    pub(super) lease_until: Option<Timestamp>,
    /// The node that has claimed the delivery.
    pub(super) claimed_by: Option<InstanceId>,
    pub(super) finished_at: Option<Timestamp>,
    /// The number of the latest backlog job of its endpoint when it was queued.
    pub(super) generation: i64,
    pub(super) attempt_records: Vec<Attempt>,
}

/// The unfinished deliveries of an endpoint.
#[derive(Debug, Default)]
pub(super) struct EndpointQueue {
    pub(super) all: BTreeSet<DeliveryId>,
    /// Ready deliveries in the order of claims.
    pub(super) ready: BTreeSet<(ClaimOrder, DeliveryId)>,
    /// Leased deliveries by the end of their claims.
    pub(super) leased: BTreeSet<(Timestamp, DeliveryId)>,
}

impl EndpointQueue {
    fn add(&mut self, delivery: &StoredDelivery) {
        if !delivery.state.is_finished() {
            self.all.insert(delivery.id);
        }
        if delivery.state == DeliveryState::Ready {
            self.ready.insert((delivery.claim_order(), delivery.id));
        }
        if let Some(until) = delivery.lease_until {
            self.leased.insert((until, delivery.id));
        }
    }

    fn remove(&mut self, delivery: &StoredDelivery) {
        self.all.remove(&delivery.id);
        self.ready.remove(&(delivery.claim_order(), delivery.id));
        if let Some(until) = delivery.lease_until {
            self.leased.remove(&(until, delivery.id));
        }
    }
}

impl StoredDelivery {
    pub(super) fn claim_order(&self) -> ClaimOrder {
        ClaimOrder { next_at: self.next_at, sequence: self.sequence }
    }
}

/// The values of a new delivery, besides those of its event.
#[derive(Debug)]
pub(super) struct NewDelivery<'a> {
    pub(super) position: EventPosition,
    pub(super) endpoint: &'a EndpointId,
    pub(super) trigger: AttemptTrigger,
    pub(super) now: Timestamp,
}

impl Tables {
    /// Adds a delivery of an event to the end of its lane.
    pub(super) fn join(&mut self, new: NewDelivery<'_>) -> Option<DeliveryId> {
        let id = DeliveryId::new(new.now, self.draw_id_part());
        let kept = self.endpoints.get(new.endpoint)?;
        let event = self.log.get(&new.position)?;
        let unfinished = event.upload.map_or(LaneLoad::Empty, |upload| self.load(new.endpoint, upload, |_| true));
        let state = lane::join(kept.endpoint.terms.ordering, unfinished);
        self.made_ready |= state == DeliveryState::Ready && kept.endpoint.state.is_enabled();
        let delivery = StoredDelivery {
            id,
            tenant: event.tenant,
            position: new.position,
            event: event.id,
            kind: event.kind,
            endpoint: new.endpoint.clone(),
            upload: event.upload,
            sequence: event.sequence,
            state,
            trigger: new.trigger,
            attempts: 0,
            attempts_before: 0,
            begun_at: new.now,
            next_at: new.now,
            lease: None,
            lease_until: None,
            claimed_by: None,
            finished_at: None,
            generation: kept.generation,
            attempt_records: Vec::new(),
        };
        if let Some(upload) = delivery.upload {
            self.of_upload.entry(upload).or_default().insert(id);
        }
        self.queues.entry(delivery.endpoint.clone()).or_default().add(&delivery);
        self.deliveries.insert(id, delivery);
        Some(id)
    }

    /// Returns the unfinished deliveries of an endpoint, in the order of their creation.
    pub(super) fn unfinished_of(&self, endpoint: &EndpointId) -> impl Iterator<Item = &StoredDelivery> {
        let all = self.queues.get(endpoint).into_iter().flat_map(|queue| &queue.all);
        all.filter_map(|id| self.deliveries.get(id))
    }

    /// Changes a delivery, and its position in the queue with it.
    pub(super) fn change(&mut self, id: DeliveryId, change: impl FnOnce(&mut StoredDelivery)) {
        let Some(delivery) = self.deliveries.get_mut(&id) else { return };
        let queue = self.queues.entry(delivery.endpoint.clone()).or_default();
        queue.remove(delivery);
        change(delivery);
        queue.add(delivery);
    }

    /// Returns the unfinished deliveries of a lane.
    fn lane(&self, endpoint: &EndpointId, upload: UploadId) -> impl Iterator<Item = &StoredDelivery> {
        let of_upload = self.of_upload.get(&upload).into_iter().flatten().filter_map(|id| self.deliveries.get(id));
        of_upload.filter(move |delivery| delivery.endpoint == *endpoint && !delivery.state.is_finished())
    }

    fn load(&self, endpoint: &EndpointId, upload: UploadId, is_meant: impl Fn(DeliveryState) -> bool) -> LaneLoad {
        let meant = self.lane(endpoint, upload).filter(|delivery| is_meant(delivery.state));
        meant.map(|delivery| LaneLoad::of(delivery.attempts)).max().unwrap_or_default()
    }

    /// Returns the ordering of an endpoint. An absent endpoint uses the default, which does not matter.
    pub(super) fn ordering_of(&self, endpoint: &EndpointId) -> Ordering {
        let kept = self.endpoints.get(endpoint).filter(|kept| kept.is_present);
        kept.map_or(Ordering::PerUpload, |kept| kept.endpoint.terms.ordering)
    }

    /// Makes the first waiting delivery of a lane ready, unless an earlier one still blocks it.
    pub(super) fn release_next(&mut self, endpoint: &EndpointId, upload: Option<UploadId>, now: Timestamp) {
        let Some(upload) = upload else { return };
        let is_under_way = |state| matches!(state, DeliveryState::Ready | DeliveryState::Leased);
        let under_way = self.load(endpoint, upload, is_under_way);
        let waiting = self.lane(endpoint, upload).filter(|delivery| delivery.state == DeliveryState::Waiting);
        let first = waiting.min_by_key(|delivery| delivery.sequence).map(|delivery| delivery.id);
        if lane::may_release_next(self.ordering_of(endpoint), under_way)
            && let Some(id) = first
        {
            self.change(id, |delivery| {
                delivery.state = DeliveryState::Ready;
                delivery.next_at = lane::due_when_released(delivery.next_at, now);
            });
            self.made_ready = true;
        }
    }

    /// Makes an existing delivery due now, or as soon as its lane releases it.
    pub(super) fn rejoin(&mut self, id: DeliveryId, now: Timestamp) {
        let Some(delivery) = self.deliveries.get(&id) else { return };
        let Some(kept) = self.endpoints.get(&delivery.endpoint) else { return };
        let (endpoint, upload) = (delivery.endpoint.clone(), delivery.upload);
        let (ordering, generation) = (kept.endpoint.terms.ordering, kept.generation);
        self.made_ready |= kept.endpoint.state.is_enabled();
        self.change(id, |delivery| {
            delivery.state = lane::rejoin(ordering, upload.is_some(), delivery.attempts);
            delivery.trigger = AttemptTrigger::Manual;
            delivery.attempts_before = delivery.attempts;
            (delivery.begun_at, delivery.next_at, delivery.finished_at) = (now, now, None);
            delivery.generation = generation;
        });
        self.release_next(&endpoint, upload, now);
    }

    /// Drops the pending progress deliveries of an upload at all endpoints. Those being sent are kept.
    pub(super) fn supersede_progress(&mut self, upload: UploadId, now: Timestamp) {
        let of_upload = self.of_upload.get(&upload).into_iter().flatten().filter_map(|id| self.deliveries.get(id));
        let overtaken = of_upload.filter(|it| lane::is_superseded(DeliveryClass::of(it.kind), it.state));
        let overtaken: Vec<(DeliveryId, EndpointId)> = overtaken.map(|it| (it.id, it.endpoint.clone())).collect();
        for (id, _) in &overtaken {
            self.end(*id, DeliveryState::Superseded, now);
        }
        for endpoint in overtaken.into_iter().map(|(_, endpoint)| endpoint).collect::<BTreeSet<_>>() {
            self.release_next(&endpoint, Some(upload), now);
        }
    }

    /// Ends a delivery. The caller then releases the next one of its lane.
    pub(super) fn end(&mut self, id: DeliveryId, state: DeliveryState, now: Timestamp) {
        self.change(id, |delivery| {
            (delivery.state, delivery.finished_at) = (state, Some(now));
            (delivery.lease, delivery.lease_until) = (None, None);
        });
        self.superseded += u64::from(state == DeliveryState::Superseded);
    }

    /// Removes a delivery with its attempts.
    pub(super) fn remove_delivery(&mut self, id: DeliveryId) {
        let Some(delivery) = self.deliveries.remove(&id) else { return };
        if let Some(queue) = self.queues.get_mut(&delivery.endpoint) {
            queue.remove(&delivery);
        }
        if let Some(of_upload) = delivery.upload.and_then(|upload| self.of_upload.get_mut(&upload)) {
            of_upload.remove(&id);
        }
    }
}
