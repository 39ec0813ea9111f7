//! Changes of a whole backlog, made in batches as in a database.
//!
//! A decision about an endpoint is effective at once, because claims check it. Its deliveries are updated in
//! batches, each in a separate transaction. A job distinguishes old deliveries from new ones by their
//! generation and not by time, because clocks can be set.

use std::collections::{BTreeMap, BTreeSet};

use crate::memory::Tables;
use crate::memory::deliveries::StoredDelivery;
use domain::delivery::DeliveryState;
use domain::endpoint::{EndpointId, Ordering};
use domain::id::{DeliveryId, UploadId};
use domain::time::Timestamp;

/// The number of deliveries that a job updates in the transaction that begins it.
const FIRST_PIECE: u32 = 500;

/// The number of a job, never reused. It is also the generation that the job starts.
pub(super) type JobNumber = i64;

/// The effect of a job on a backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BacklogJobKind {
    /// Cancels the deliveries queued before the job began.
    Cancel,
    /// Makes retries due that were planned for later.
    Hasten,
    /// Releases deliveries that no longer wait for others.
    Release,
}

#[derive(Debug, Clone)]
pub(super) struct BacklogJob {
    pub(super) endpoint: EndpointId,
    pub(super) kind: BacklogJobKind,
    begun_at: Timestamp,
    /// The last upload processed, for a job that works by lanes.
    cursor: Option<UploadId>,
}

/// Returns the generation below which the deliveries of an endpoint are being cancelled, if they are.
pub(super) fn is_cancelling(jobs: &BTreeMap<JobNumber, BacklogJob>, endpoint: &EndpointId) -> Option<JobNumber> {
    let cancelling = jobs.iter().filter(|(_, job)| job.kind == BacklogJobKind::Cancel && job.endpoint == *endpoint);
    cancelling.map(|(number, _)| *number).max()
}

impl Tables {
    /// Begins a job and does its first batch. The job replaces an unfinished one of the same kind.
    pub(super) fn begin_job(&mut self, endpoint: &EndpointId, kind: BacklogJobKind, now: Timestamp) {
        self.jobs.retain(|_, job| job.endpoint != *endpoint || job.kind != kind);
        self.last_job += 1;
        if let Some(kept) = self.endpoints.get_mut(endpoint) {
            kept.generation = self.last_job;
        }
        if kind == BacklogJobKind::Cancel {
            // A settlement that still arrives is late.
            for id in self.some_of(endpoint, u32::MAX, |delivery| delivery.state == DeliveryState::Leased) {
                self.end(id, DeliveryState::Cancelled, now);
            }
        }
        let job = BacklogJob { endpoint: endpoint.clone(), kind, begun_at: now, cursor: None };
        self.jobs.insert(self.last_job, job);
        self.advance_job(self.last_job, FIRST_PIECE, now);
    }

    /// Does a batch of the oldest job. Returns true if there was one.
    pub(super) fn advance_backlog(&mut self, limit: u32, now: Timestamp) -> bool {
        let oldest = self.jobs.keys().next().copied();
        oldest.map(|number| self.advance_job(number, limit.max(1), now)).is_some()
    }

    fn advance_job(&mut self, number: JobNumber, limit: u32, now: Timestamp) {
        let Some(job) = self.jobs.get(&number).cloned() else { return };
        let done = match job.kind {
            BacklogJobKind::Cancel => self.cancel(number, &job, limit, now),
            BacklogJobKind::Hasten => self.hasten(number, &job, limit),
            BacklogJobKind::Release => self.release(number, &job, limit, now),
        };
        if done < limit as usize {
            self.jobs.remove(&number);
            self.made_ready = true;
        }
    }

    /// Cancels waiting deliveries first; otherwise each would become ready before it is cancelled.
    fn cancel(&mut self, number: JobNumber, job: &BacklogJob, limit: u32, now: Timestamp) -> usize {
        let is_old = |state| move |it: &StoredDelivery| it.state == state && it.generation < number;
        let mut ending = self.some_of(&job.endpoint, limit, is_old(DeliveryState::Waiting));
        let left = limit.saturating_sub(u32::try_from(ending.len()).unwrap_or(limit));
        ending.extend(self.some_of(&job.endpoint, left, is_old(DeliveryState::Ready)));
        let mut uploads = BTreeSet::new();
        for id in &ending {
            uploads.extend(self.deliveries.get(id).map(|delivery| delivery.upload));
            self.end(*id, DeliveryState::Cancelled, now);
        }
        // Deliveries queued since may have waited for one of these.
        for upload in uploads {
            self.release_next(&job.endpoint, upload, now);
        }
        ending.len()
    }

    fn hasten(&mut self, number: JobNumber, job: &BacklogJob, limit: u32) -> usize {
        let cancelled = is_cancelling(&self.jobs, &job.endpoint).unwrap_or_default();
        let is_planned = |it: &StoredDelivery| {
            let is_old = (cancelled..number).contains(&it.generation);
            it.state == DeliveryState::Ready && it.next_at > job.begun_at && is_old
        };
        let hastened = self.some_of(&job.endpoint, limit, is_planned);
        for id in &hastened {
            self.change(*id, |delivery| (delivery.next_at, delivery.generation) = (job.begun_at, number));
        }
        self.made_ready |= !hastened.is_empty();
        hastened.len()
    }

    /// Releases deliveries by the endpoint's current ordering, which may have changed again since the job
    /// began.
    fn release(&mut self, number: JobNumber, job: &BacklogJob, limit: u32, now: Timestamp) -> usize {
        let is_waiting = |delivery: &StoredDelivery| delivery.state == DeliveryState::Waiting;
        match self.ordering_of(&job.endpoint) {
            Ordering::None => {
                let released = self.some_of(&job.endpoint, limit, is_waiting);
                for id in &released {
                    self.change(*id, |delivery| delivery.state = DeliveryState::Ready);
                }
                self.made_ready |= !released.is_empty();
                released.len()
            }
            Ordering::PerUpload | Ordering::Strict => {
                let waiting = self.unfinished_of(&job.endpoint).filter(|delivery| is_waiting(delivery));
                let lanes: BTreeSet<UploadId> = waiting.filter_map(|delivery| delivery.upload).collect();
                let behind = lanes.into_iter().filter(|upload| Some(*upload) > job.cursor);
                let lanes: Vec<UploadId> = behind.take(limit as usize).collect();
                for upload in &lanes {
                    self.release_next(&job.endpoint, Some(*upload), now);
                }
                if let Some(job) = self.jobs.get_mut(&number) {
                    job.cursor = lanes.last().copied().or(job.cursor);
                }
                lanes.len()
            }
        }
    }

    /// Returns up to `limit` unfinished deliveries of an endpoint that match.
    fn some_of(
        &self,
        endpoint: &EndpointId,
        limit: u32,
        is_meant: impl Fn(&StoredDelivery) -> bool,
    ) -> Vec<DeliveryId> {
        let meant = self.unfinished_of(endpoint).filter(|delivery| is_meant(delivery));
        meant.map(|delivery| delivery.id).take(limit as usize).collect()
    }
}
