//! Retention: expires, drops and removes old data, in batches.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::memory::Tables;
use crate::memory::deliveries::StoredDelivery;
use crate::memory::log::LogEntry;
use crate::{BacklogLimits, RetentionHorizon};
use domain::delivery::{DeliveryClass, DeliveryState};
use domain::endpoint::EndpointId;
use domain::event::EventKind;
use domain::id::{DeliveryId, ReplayId, UploadId};
use domain::lane;
use domain::log::EventPosition;
use domain::notice::Notice;
use domain::replay::ReplayState;
use domain::time::Timestamp;
use domain::upload::{Record, StoredBytes};

/// The number of latest replays that are kept.
const REPLAYS: usize = 1_000;

impl Tables {
    /// Expires deliveries that began before `begun_before` and have waited since.
    pub(super) fn expire(&mut self, begun_before: Timestamp, limit: u32, now: Timestamp) -> u64 {
        let expiring = self.present().filter(|kept| self.availability(kept).expires_deliveries(begun_before));
        let waiting = expiring.flat_map(|kept| self.pending(&kept.endpoint.id));
        let old = waiting.filter(|delivery| delivery.begun_at < begun_before);
        let old: Vec<StoredDelivery> = old.take(limit as usize).cloned().collect();
        for delivery in &old {
            let ended = lane::expire(DeliveryClass::of(delivery.kind), delivery.attempts);
            self.end(delivery.id, ended.state, now);
            if ended.is_exhausted {
                let StoredDelivery { id, tenant, endpoint, event, upload, attempts, .. } = delivery.clone();
                self.announce(tenant, &Notice::Exhausted { delivery: id, endpoint, event, upload, attempts }, now);
            }
        }
        // The lanes are released last, so that this batch makes no delivery ready that it ends.
        self.release_next_behind(&old, now);
        old.len() as u64
    }

    fn pending(&self, endpoint: &EndpointId) -> impl Iterator<Item = &StoredDelivery> {
        self.unfinished_of(endpoint).filter(|delivery| lane::is_pending(delivery.state))
    }

    fn release_next_behind(&mut self, ended: &[StoredDelivery], now: Timestamp) {
        let lanes: BTreeSet<_> = ended.iter().map(|delivery| (delivery.endpoint.clone(), delivery.upload)).collect();
        for (endpoint, upload) in lanes {
            self.release_next(&endpoint, upload, now);
        }
    }

    /// Drops pending deliveries beyond the backlog limits, of one endpoint, oldest first.
    pub(super) fn drop_excess(
        &mut self,
        limits: BacklogLimits,
        limit: u32,
        now: Timestamp,
    ) -> Option<(EndpointId, u64)> {
        let ids: Vec<EndpointId> = self.endpoints.keys().cloned().collect();
        let (endpoint, excess) = ids.into_iter().find_map(|id| {
            let excess = self.excess(&id, limits, limit as usize);
            (!excess.is_empty()).then_some((id, excess))
        })?;
        for delivery in &excess {
            self.end(delivery.id, DeliveryState::Cancelled, now);
        }
        self.release_next_behind(&excess, now);
        Some((endpoint, excess.len() as u64))
    }

    fn excess(&self, endpoint: &EndpointId, limits: BacklogLimits, limit: usize) -> Vec<StoredDelivery> {
        let mut newest_first: Vec<&StoredDelivery> = self.pending(endpoint).collect();
        newest_first.sort_by_key(|delivery| Reverse((delivery.begun_at, delivery.id)));
        let most = usize::try_from(limits.most).unwrap_or(usize::MAX);
        let too_many: Vec<StoredDelivery> =
            newest_first.iter().skip(most).take(limit).map(|it| (*it).clone()).collect();
        let rests = self
            .endpoints
            .get(endpoint)
            .is_some_and(|kept| self.availability(kept).is_stopped_since(limits.begun_before));
        if !too_many.is_empty() || !rests {
            return too_many;
        }
        let oldest_first = newest_first.into_iter().rev();
        oldest_first.filter(|delivery| delivery.begun_at < limits.begun_before).take(limit).cloned().collect()
    }

    /// Removes about `limit` old rows of each kind.
    pub(super) fn prune(&mut self, horizon: RetentionHorizon, limit: u32) -> u64 {
        let most = limit.max(1) as usize;
        let mut gone = self.prune_deliveries(horizon, most);
        gone += self.cancel_abandoned(horizon, most);
        gone += self.prune_events(horizon, most);
        gone += self.prune_replays(horizon, most);
        gone += self.prune_uploads(horizon, most);
        u64::try_from(gone).unwrap_or(u64::MAX) + self.prune_hook_calls(horizon, limit)
    }

    /// Removes deliveries that finished long enough ago. The deliveries of an event are removed together, and
    /// the event with them.
    fn prune_deliveries(&mut self, horizon: RetentionHorizon, most: usize) -> usize {
        let old = self.deliveries.values().filter(|old| old.id.made_at() < horizon.finished && !stays(old, horizon));
        let going =
            old.filter(|old| old.kind == EventKind::Progress || !self.siblings(old).any(|it| stays(it, horizon)));
        let going: Vec<StoredDelivery> = going.take(most).cloned().collect();
        let mut gone = 0;
        for delivery in going {
            let with_it: Vec<DeliveryId> = match delivery.kind {
                EventKind::Progress => vec![delivery.id],
                _ => self.siblings(&delivery).map(|sibling| sibling.id).chain([delivery.id]).collect(),
            };
            let before = self.deliveries.len();
            with_it.into_iter().for_each(|id| self.remove_delivery(id));
            gone += before - self.deliveries.len();
            gone += usize::from(self.remove_event(delivery.position, horizon));
        }
        gone
    }

    /// Returns the deliveries of the same event of an upload.
    fn siblings(&self, delivery: &StoredDelivery) -> impl Iterator<Item = &StoredDelivery> {
        let of_upload = delivery.upload.and_then(|upload| self.of_upload.get(&upload)).into_iter().flatten();
        let position = delivery.position;
        of_upload.filter_map(|id| self.deliveries.get(id)).filter(move |other| other.position == position)
    }

    fn has_deliveries(&self, position: EventPosition, event: &LogEntry) -> bool {
        let is_of_it = |delivery: &StoredDelivery| delivery.position == position;
        match event.upload {
            Some(upload) => {
                let of_upload = self.of_upload.get(&upload).into_iter().flatten();
                of_upload.filter_map(|id| self.deliveries.get(id)).any(is_of_it)
            }
            None => self.deliveries.values().any(is_of_it),
        }
    }

    /// Removes an old event that has no deliveries. Returns true if it was removed.
    fn remove_event(&mut self, position: EventPosition, horizon: RetentionHorizon) -> bool {
        let event = self.log.get(&position).filter(|event| event.at < horizon.finished);
        let is_old = event.is_some_and(|event| !self.has_deliveries(position, event));
        is_old && self.log.remove(&position).is_some()
    }

    fn prune_events(&mut self, horizon: RetentionHorizon, most: usize) -> usize {
        let old = self.log.iter().filter(|(_, event)| event.at < horizon.finished);
        let old = old.filter(|(position, event)| !self.has_deliveries(**position, event));
        let old: Vec<EventPosition> = old.map(|(position, _)| *position).take(most).collect();
        old.iter().for_each(|position| drop(self.log.remove(position)));
        old.len()
    }

    /// Cancels pending deliveries to endpoints that the configuration no longer names.
    fn cancel_abandoned(&mut self, horizon: RetentionHorizon, most: usize) -> usize {
        let forgotten = self.endpoints.values().filter(|kept| !kept.is_present);
        let waiting = forgotten.flat_map(|kept| self.pending(&kept.endpoint.id));
        let abandoned = waiting.filter(|delivery| delivery.begun_at < horizon.abandoned);
        let abandoned: Vec<StoredDelivery> = abandoned.take(most).cloned().collect();
        abandoned.iter().for_each(|delivery| self.end(delivery.id, DeliveryState::Cancelled, horizon.now));
        // The endpoint may be configured again, and younger deliveries may have waited for these.
        self.release_next_behind(&abandoned, horizon.now);
        abandoned.len()
    }

    fn prune_replays(&mut self, horizon: RetentionHorizon, most: usize) -> usize {
        let from_then_on = ReplayId::new(horizon.finished, [0; 10]);
        let end = self.replays.keys().rev().nth(REPLAYS - 1).map_or(from_then_on, |id| from_then_on.max(*id));
        let old = self.replays.range(..end).filter(|(_, job)| job.state != ReplayState::Running);
        let old: Vec<ReplayId> = old.map(|(id, _)| *id).take(most).collect();
        old.iter().for_each(|id| drop(self.replays.remove(id)));
        old.len()
    }

    /// Removes records without bytes, with their events and deliveries, once none of their deliveries must be
    /// kept.
    fn prune_uploads(&mut self, horizon: RetentionHorizon, most: usize) -> usize {
        let is_old =
            |record: &&Record| record.bytes == StoredBytes::Removed && record.updated_at < horizon.ended_uploads;
        let is_kept = |record: &&Record| {
            let of_upload = self.of_upload.get(&record.id).into_iter().flatten();
            let mut deliveries = of_upload.filter_map(|id| self.deliveries.get(id));
            deliveries.any(|delivery| match delivery.finished_at {
                None => true,
                Some(at) => delivery.state == DeliveryState::Dead && at >= horizon.dead,
            })
        };
        let old = self.uploads.values().filter(is_old).filter(|record| !is_kept(record));
        let old: Vec<UploadId> = old.map(|record| record.id).take(most).collect();
        let mut gone = 0;
        for upload in old {
            let deliveries = self.of_upload.remove(&upload).unwrap_or_default();
            deliveries.iter().for_each(|id| self.remove_delivery(*id));
            let events = self.log.len();
            self.log.retain(|_, event| event.upload != Some(upload));
            self.uploads.remove(&upload);
            gone += deliveries.len() + events - self.log.len() + 1;
        }
        gone
    }
}

/// Reports whether a delivery is not old enough to be removed.
fn stays(delivery: &StoredDelivery, horizon: RetentionHorizon) -> bool {
    delivery
        .finished_at
        .is_none_or(|at| at >= horizon.finished || (delivery.state == DeliveryState::Dead && at >= horizon.dead))
}
