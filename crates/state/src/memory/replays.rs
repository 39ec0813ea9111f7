//! Replays: of one delivery, or of a time range by a job that keeps its position.

use crate::memory::Tables;
use crate::memory::backlog::{BacklogJobKind, is_cancelling};
use crate::memory::deliveries::NewDelivery;
use crate::memory::log::LogEntry;
use domain::delivery::{AttemptTrigger, Backlog, ReplayOutcome, ReplaySelection};
use domain::event::EventKind;
use domain::id::{DeliveryId, ReplayId};
use domain::lane::{self, ReplayAction};
use domain::log::EventPosition;
use domain::principal::TenantScope;
use domain::replay::{ReplayJob, ReplayState};
use domain::time::Timestamp;

/// The number of latest jobs shown, besides the running ones.
const SHOWN: usize = 100;

impl Tables {
    pub(super) fn replay(&mut self, scope: TenantScope, id: DeliveryId, force: bool, now: Timestamp) -> ReplayOutcome {
        let found = self.deliveries.get(&id).filter(|delivery| scope.covers(delivery.tenant));
        let Some(delivery) = found else { return ReplayOutcome::NoDelivery };
        let kept = self.endpoints.get(&delivery.endpoint).filter(|kept| kept.endpoint.tenant == delivery.tenant);
        let Some(kept) = kept else { return ReplayOutcome::NoEndpoint };
        let cancelling = is_cancelling(&self.jobs, &delivery.endpoint);
        let is_being_cancelled = cancelling.is_some_and(|number| delivery.generation < number);
        if let Err(answer) = self.availability(kept).check_replay(delivery.state, force, is_being_cancelled) {
            return answer;
        }
        self.rejoin(id, now);
        ReplayOutcome::Queued
    }

    pub(super) fn begin_replay(&mut self, job: ReplayJob) -> ReplayJob {
        let cursor = self.position_before(job.from.minus(ReplayJob::DISORDER)).max(job.cursor);
        let mut job = ReplayJob { cursor, ..job };
        if job.what == ReplaySelection::Pending {
            let own = TenantScope::One(job.tenant);
            let Backlog { waiting, ready, paused, .. } = self.backlog(own, Some(&job.endpoint));
            job.queued = waiting + ready + paused;
            (job.state, job.finished_at) = (ReplayState::Done, Some(job.created_at));
            if self.has_endpoint(own, &job.endpoint) {
                self.begin_job(&job.endpoint, BacklogJobKind::Hasten, job.created_at);
            }
        }
        self.replays.insert(job.id, job.clone());
        job
    }

    /// Returns the last log position that is at or after every event older than `then`. The binary search
    /// relies on times that follow the order of the log, up to a bounded disorder.
    fn position_before(&self, then: Timestamp) -> EventPosition {
        let (mut first, mut end) = (1, self.newest_event().0 + 1);
        while first < end {
            let middle = first + (end - first) / 2;
            match self.log.range(EventPosition(middle)..).next() {
                Some((position, event)) if event.at < then => first = position.0 + 1,
                Some(_) | None => end = middle,
            }
        }
        EventPosition(first - 1)
    }

    pub(super) fn replay_jobs(&self, scope: TenantScope) -> Vec<ReplayJob> {
        let in_scope = self.replays.values().rev().filter(|job| scope.covers(job.tenant));
        let newest_first = in_scope.enumerate();
        let shown = newest_first.filter(|(place, job)| *place < SHOWN || job.state == ReplayState::Running);
        shown.map(|(_, job)| job.clone()).collect()
    }

    pub(super) fn cancel_replay(&mut self, scope: TenantScope, id: ReplayId, now: Timestamp) -> bool {
        let found = self.replays.get_mut(&id).filter(|job| scope.covers(job.tenant));
        let running = found.filter(|job| job.state == ReplayState::Running);
        running.map(|job| (job.state, job.finished_at) = (ReplayState::Cancelled, Some(now))).is_some()
    }

    pub(super) fn advance_replay(&mut self, id: ReplayId, limit: u32, now: Timestamp) -> Option<ReplayJob> {
        let mut job = self.replays.get(&id)?.clone();
        // A replay may include deliveries that are being cancelled, so it waits until that is done.
        if job.state != ReplayState::Running || is_cancelling(&self.jobs, &job.endpoint).is_some() {
            return Some(job);
        }
        let kept = self.endpoints.get(&job.endpoint);
        let is_there = kept.is_some_and(|kept| kept.is_present && kept.endpoint.tenant == job.tenant);
        let behind =
            self.log.range(job.cursor..).filter(|(position, event)| **position > job.cursor && event.upload.is_some());
        let piece: Vec<(EventPosition, LogEntry)> = behind
            .take(ReplayJob::MOST_LOOKED_AT as usize)
            .map(|(position, event)| (*position, event.clone()))
            .collect();
        let end = job.before.plus(ReplayJob::DISORDER);
        let mut was_last =
            piece.len() < ReplayJob::MOST_LOOKED_AT as usize || piece.iter().all(|(_, event)| event.at >= end);
        let mut looked_up = 0;
        for (position, event) in &piece {
            let in_range = event.tenant == job.tenant && event.at >= job.from && event.at < job.before;
            // Old progress events are obsolete.
            if is_there && in_range && event.kind != EventKind::Progress {
                if looked_up == limit {
                    was_last = false;
                    break;
                }
                looked_up += 1;
                job.queued += u64::from(self.queue(&job, *position, event, now));
            }
            job.cursor = *position;
        }
        if was_last || !is_there {
            job.state = if is_there { ReplayState::Done } else { ReplayState::Cancelled };
            job.finished_at = Some(now);
        }
        self.replays.insert(id, job.clone());
        Some(job)
    }

    /// Queues an event if the replay selects it. Returns true if it was queued.
    fn queue(&mut self, job: &ReplayJob, position: EventPosition, event: &LogEntry, now: Timestamp) -> bool {
        let of_upload = event.upload.and_then(|upload| self.of_upload.get(&upload)).into_iter().flatten();
        let mut deliveries = of_upload.filter_map(|id| self.deliveries.get(id));
        let found = deliveries.find(|delivery| delivery.endpoint == job.endpoint && delivery.position == position);
        let found = found.map(|delivery| (delivery.id, delivery.state));
        match lane::replay(found.map(|(_, state)| state), job.what) {
            ReplayAction::Rejoin => found.map(|(id, _)| self.rejoin(id, now)).is_some(),
            ReplayAction::Join if self.wants(job, event) => {
                let new = NewDelivery { position, endpoint: &job.endpoint, trigger: AttemptTrigger::Manual, now };
                self.join(new).is_some()
            }
            ReplayAction::Join | ReplayAction::Nothing => false,
        }
    }

    fn wants(&self, job: &ReplayJob, event: &LogEntry) -> bool {
        let Some(kept) = self.endpoints.get(&job.endpoint) else { return false };
        let terms = &kept.endpoint.terms;
        let record = event.upload.and_then(|upload| self.uploads.get(&upload));
        let is_of_interest = record.is_some_and(|record| terms.wants_upload(&record.metadata));
        terms.filter.wants(event.kind) && (terms.metadata.is_empty() || is_of_interest)
    }
}
