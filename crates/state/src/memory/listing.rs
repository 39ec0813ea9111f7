//! Queries of deliveries.

use std::cmp::Reverse;

use crate::memory::Tables;
use crate::memory::deliveries::StoredDelivery;
use domain::delivery::{Backlog, DeliveryRecord, DeliveryState};
use domain::endpoint::EndpointId;
use domain::id::DeliveryId;
use domain::lane;
use domain::principal::TenantScope;
use domain::query::{DeliveryPage, DeliveryQuery};

/// The maximum number of attempts shown for one delivery; the latest are shown.
const MAX_ATTEMPTS_SHOWN: usize = 100;

impl Tables {
    pub(super) fn list_deliveries(&self, scope: TenantScope, query: &DeliveryQuery) -> DeliveryPage {
        let newest_first = self.deliveries.values().rev().filter(|delivery| scope.covers(delivery.tenant));
        let wanted = newest_first.filter(|delivery| self.is_wanted(delivery, query));
        let found: Vec<DeliveryRecord> = wanted.take(query.limit as usize).map(|it| self.record_of(it)).collect();
        let next = found.last().filter(|_| found.len() == query.limit as usize).map(|delivery| delivery.id);
        DeliveryPage { found, next }
    }

    pub(super) fn find_delivery(&self, scope: TenantScope, id: DeliveryId) -> Option<DeliveryRecord> {
        let found = self.deliveries.get(&id).filter(|delivery| scope.covers(delivery.tenant));
        found.map(|delivery| self.record_of(delivery))
    }

    /// Returns the state as shown: a pending delivery of a stopped endpoint is paused.
    fn shown_state(&self, delivery: &StoredDelivery) -> DeliveryState {
        let is_stopped = |kept: &crate::memory::StoredEndpoint| !kept.endpoint.state.is_enabled();
        let is_stopped = self.endpoints.get(&delivery.endpoint).is_some_and(is_stopped);
        if is_stopped && lane::is_pending(delivery.state) { DeliveryState::Paused } else { delivery.state }
    }

    fn is_wanted(&self, delivery: &StoredDelivery, query: &DeliveryQuery) -> bool {
        let made_at = delivery.id.made_at();
        let latest = delivery.attempt_records.iter().max_by_key(|attempt| (attempt.number, attempt.started_at));
        let outcome = latest.map(|attempt| attempt.outcome);
        let has_status = |statuses: &std::ops::RangeInclusive<u16>| {
            outcome.and_then(|outcome| outcome.status()).is_some_and(|status| statuses.contains(&status))
        };
        query.endpoint.as_ref().is_none_or(|endpoint| delivery.endpoint == *endpoint)
            && query.upload.is_none_or(|upload| delivery.upload == Some(upload))
            && query.event.is_none_or(|event| delivery.event == event)
            && query.kind.is_none_or(|kind| delivery.kind == kind)
            && query.state.is_none_or(|state| self.shown_state(delivery) == state)
            && query.created_from.is_none_or(|from| made_at >= from)
            && query.created_before.is_none_or(|before| made_at < before)
            && query.before.is_none_or(|before| delivery.id < before)
            && query.last_status.as_ref().is_none_or(has_status)
            && query.last_error.is_none_or(|error| outcome.is_some_and(|it| it.error_class() == error.error_class()))
    }

    fn record_of(&self, delivery: &StoredDelivery) -> DeliveryRecord {
        let state = self.shown_state(delivery);
        let mut attempts = delivery.attempt_records.clone();
        attempts.sort_by_key(|attempt| Reverse((attempt.number, attempt.started_at)));
        attempts.truncate(MAX_ATTEMPTS_SHOWN);
        attempts.sort_by_key(|attempt| (attempt.started_at, attempt.number));
        DeliveryRecord {
            id: delivery.id,
            event: delivery.event,
            event_name: delivery.kind.name().to_owned(),
            upload: delivery.upload,
            sequence: delivery.sequence,
            endpoint: delivery.endpoint.clone(),
            state,
            created_at: delivery.id.made_at(),
            next_attempt_at: (state == DeliveryState::Ready).then_some(delivery.next_at),
            finished_at: delivery.finished_at,
            attempts,
        }
    }

    pub(super) fn backlog(&self, scope: TenantScope, endpoint: Option<&EndpointId>) -> Backlog {
        let mut backlog = Backlog::default();
        let in_scope = self.endpoints.values().filter(|kept| scope.covers(kept.endpoint.tenant));
        for kept in in_scope.filter(|kept| endpoint.is_none_or(|id| kept.endpoint.id == *id)) {
            let is_enabled = kept.endpoint.state.is_enabled();
            for delivery in self.unfinished_of(&kept.endpoint.id) {
                match self.shown_state(delivery) {
                    DeliveryState::Waiting => backlog.waiting += 1,
                    DeliveryState::Ready => {
                        backlog.ready += 1;
                        if kept.is_present || endpoint.is_some() {
                            let due = Some(delivery.next_at).filter(|_| is_enabled);
                            backlog.oldest_due = backlog.oldest_due.into_iter().chain(due).min();
                        }
                    }
                    DeliveryState::Leased => backlog.leased += 1,
                    DeliveryState::Paused => backlog.paused += 1,
                    DeliveryState::Succeeded
                    | DeliveryState::Dead
                    | DeliveryState::Superseded
                    | DeliveryState::Cancelled => {}
                }
            }
        }
        for count in [&mut backlog.waiting, &mut backlog.ready, &mut backlog.leased, &mut backlog.paused] {
            backlog.has_more |= *count > u64::from(Backlog::MOST);
            *count = (*count).min(u64::from(Backlog::MOST));
        }
        backlog
    }
}
