//! The sweeper: work that is due after a time or after a crash. It completes interrupted and unsealed
//! uploads, expires and stalls uploads, removes bytes, and removes files at the end of their retention.
//!
//! All its work is on uploads whose local lease is free; a live writer does this work for its own upload.
//! Uploads that another live node holds are left to that node, also at the start of this one. Of the nodes,
//! one at a time handles the uploads that none of them holds; that is a duty for each selection. Two nodes
//! that do it at once do no harm: a takeover fences out the slower one.

use std::error::Error;
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::command::{EngineError, Unavailable};
use crate::hooks::Initiator;
use crate::lifetime::LifetimeSettings;
use crate::upload_digests::UploadDigests;
use crate::{Engine, Inner};
use domain::duty::Duty;
use domain::principal::TenantScope;
use domain::upload::Upload;
use state::{SweepSelection, SweepShare};

/// Number of uploads per query.
const BATCH: u32 = 200;

/// The time after which the hook call for an upload without a verdict is repeated. It is short because the
/// client of the upload is waiting.
const RETRY_HOOK_AFTER: Duration = Duration::from_secs(1);

/// Number of outdated files that are removed before other work gets its turn.
const OUTDATED_AT_ONCE: usize = 2_000;

/// Number of uploads handled at once. Some wait for the application, and must not delay all others.
const AT_ONCE: usize = 8;

impl Engine {
    /// Completes or undoes the work that the last run of the program left unfinished. Called before anything
    /// is served.
    pub async fn recover(&self) {
        if let Err(error) = self.0.count_unfinished().await {
            tracing::error!(
                error = &error as &dyn Error,
                "could not count unfinished uploads and the disk space they have booked"
            );
        }
        if let Err(error) = self.0.count_missing().await {
            tracing::error!(error = &error as &dyn Error, "could not count the uploads whose bytes are missing");
        }
        let initiator = Initiator::Recovery;
        self.0.renew_terms_of_the_future().await;
        let mut found = 0;
        for selection in [SweepSelection::Unsealed, SweepSelection::Unsettled, SweepSelection::Removable] {
            found += self.0.sweep(selection, &initiator).await;
        }
        if found > 0 {
            tracing::info!(uploads = found, "completed work that the last run left unfinished");
        }
    }

    /// Sweeps at the configured interval until the engine shuts down.
    pub fn start_sweeping(&self) {
        self.start_recounting();
        let inner = std::sync::Arc::clone(&self.0);
        self.spawn(async move {
            let every = inner.settings.lifetimes.sweep_every;
            let mut pace = tokio::time::interval_at(Instant::now() + every, every);
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut steps = inner.clock.steps();
            let LifetimeSettings { completed_expiry, first_removal_after, .. } = inner.settings.lifetimes;
            let first_removal = Instant::now() + first_removal_after.min(completed_expiry.unwrap_or_default());
            loop {
                tokio::select! {
                    biased;
                    () = inner.stop.cancelled() => return,
                    _ = pace.tick() => {}
                    () = inner.undecided.notified() => {
                        tokio::time::sleep(RETRY_HOOK_AFTER.min(every)).await;
                        inner.sweep(SweepSelection::Unsettled, &Initiator::Sweeper).await;
                        continue;
                    }
                }
                if let Err(error) = inner.measure_disk() {
                    tracing::warn!(error = &error as &dyn Error, "could not measure the free disk space");
                }
                inner.settle_doubts(BATCH as usize).await;
                if steps != inner.clock.steps() {
                    steps = inner.clock.steps();
                    inner.renew_terms_of_the_future().await;
                }
                for selection in [
                    // Before expired uploads: an upload that has all its bytes does not expire.
                    SweepSelection::Unsealed,
                    SweepSelection::Unsettled,
                    SweepSelection::Expired { now: inner.now() },
                    SweepSelection::Silent { since: inner.clock.ago(inner.settings.lifetimes.stall_after) },
                    SweepSelection::Removable,
                ] {
                    inner.sweep(selection, &Initiator::Sweeper).await;
                }
                if let Some(kept) = completed_expiry.filter(|_| first_removal <= Instant::now()) {
                    let completed_before = inner.clock.ago(kept);
                    inner.sweep(SweepSelection::Outdated { completed_before }, &Initiator::Sweeper).await;
                }
            }
        });
    }
}

impl Inner {
    /// Restarts the lifetime of every upload that a node with a fast clock has written, so that none expires
    /// or stalls later than an upload created now.
    async fn renew_terms_of_the_future(&self) {
        let now = self.now();
        let overlong = SweepSelection::Overlong { now, latest: self.expires_at(now, now) };
        let renewed = self.sweep(overlong, &Initiator::Sweeper).await
            + self.sweep(SweepSelection::ChangedAfter { now }, &Initiator::Sweeper).await;
        if renewed > 0 {
            tracing::info!(uploads = renewed, "the clock was ahead; expiry times of unfinished uploads start now");
        }
    }

    /// Handles all uploads of one selection; returns how many were handled.
    async fn sweep(&self, selection: SweepSelection, initiator: &Initiator) -> usize {
        let (mut moved, mut unmoved) = (0, 0);
        while !self.hands_over() {
            // Uploads that could not be handled are skipped, so that they neither come back at once nor hide
            // those after them.
            let share = self.share(selection).await;
            let due = match self.uploads.due(selection, share, unmoved, BATCH).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn Error,
                        "could not find uploads that are due for cleanup; will retry"
                    );
                    return moved;
                }
            };
            let was_last = due.len() < BATCH as usize;
            let dealing = futures::stream::iter(due).map(|upload| self.try_to_handle(selection, upload, initiator));
            let mut dealing = dealing.buffer_unordered(AT_ONCE);
            while let Some(has_moved) = dealing.next().await {
                if has_moved { moved += 1 } else { unmoved += 1 }
            }
            let is_enough = matches!(selection, SweepSelection::Outdated { .. }) && moved >= OUTDATED_AT_ONCE;
            if was_last || is_enough || self.stop.is_cancelled() {
                return moved;
            }
        }
        moved
    }

    /// Returns the uploads that are this node's to handle: those it holds, and with the duty for the
    /// selection also those that no live node holds.
    async fn share(&self, selection: SweepSelection) -> SweepShare {
        match self.has_duty(duty_of(selection)).await {
            true => SweepShare::OwnAndFree(self.node),
            false => SweepShare::Own(self.node),
        }
    }

    pub(super) async fn has_duty(&self, duty: Duty) -> bool {
        state::has_duty(&*self.duties, duty, self.node).await
    }

    async fn try_to_handle(&self, selection: SweepSelection, upload: Upload, initiator: &Initiator) -> bool {
        if self.stop.is_cancelled() || self.hands_over() {
            return false;
        }
        let id = upload.id();
        match self.handle(selection, upload, initiator).await {
            Ok(has_moved) => has_moved,
            // The missing verdict was logged where the hook was called.
            Err(EngineError::Unavailable(Unavailable::Undecided)) => false,
            Err(error @ EngineError::Unavailable(Unavailable::Held | Unavailable::Superseded)) => {
                tracing::debug!(upload = %id, error = %error, "another node takes care of an upload");
                false
            }
            Err(error) => {
                tracing::warn!(upload = %id, error = &error as &dyn Error, "could not clean up an upload; will retry");
                false
            }
        }
    }

    /// Returns whether the upload has changed.
    async fn handle(
        &self,
        selection: SweepSelection,
        found: Upload,
        initiator: &Initiator,
    ) -> Result<bool, EngineError> {
        let Some(_held) = self.leases.try_take(found.id()) else { return Ok(false) };
        // The upload may have changed before the lease was taken.
        let upload = self.find(TenantScope::All, found.id()).await?;
        if upload.record().version != found.record().version {
            return Ok(false);
        }
        let mut upload = self.own(upload).await?;
        let now = self.now();
        match selection {
            SweepSelection::Unsettled if upload.stage().takes_bytes() => return Ok(self.undo_final(upload).await),
            SweepSelection::Unsettled => {
                self.drive_to_completion(upload, initiator).await?;
            }
            SweepSelection::Unsealed => return self.finish_unsealed(upload, initiator).await,
            SweepSelection::Expired { .. } if !upload.is_expired(now) => {
                // The clock has jumped ahead; with the extension the upload has time left, which is stored
                // now.
                let Some(expires_at) = upload.record().expires_at else { return Ok(false) };
                upload.renew(expires_at, now);
                self.commit(upload).await?;
            }
            SweepSelection::Expired { .. } => {
                upload.expire(now);
                let upload = self.commit(upload).await?;
                tracing::info!(upload = %upload.id(), offset_bytes = upload.offset().get(), "upload expired");
                self.remove_bytes(upload).await;
            }
            SweepSelection::Silent { .. } => {
                upload.stall(now);
                self.commit(upload).await?;
            }
            // Uses the time of the query, so that the next query does not find the upload again.
            SweepSelection::Overlong { now, .. } | SweepSelection::ChangedAfter { now } => {
                let latest = self.expires_at(upload.record().created_at, now);
                upload.renew(upload.record().expires_at.map_or(latest, |at| at.min(latest)), now);
                self.commit(upload).await?;
            }
            SweepSelection::Removable => return Ok(self.remove_bytes(upload).await),
            SweepSelection::Outdated { .. } => self.remove_outdated(upload).await?,
        }
        Ok(true)
    }

    /// Completes an upload that has all its bytes and that no commit has sealed. Reports whether it was one.
    async fn finish_unsealed(&self, mut upload: Upload, initiator: &Initiator) -> Result<bool, EngineError> {
        if !upload.awaits_seal() || upload.is_past_set_expiry(self.now()) {
            return Ok(false);
        }
        tracing::warn!(upload = %upload.id(), "all bytes of an upload are received, but it was not sealed; sealing it");
        // Digests that the saved state does not contain are computed from the bytes.
        let digests = UploadDigests::committed(&upload);
        self.seal(&mut upload, digests, self.now()).await?;
        let upload = self.commit(upload).await?;
        self.drive_to_completion(upload, initiator).await?;
        Ok(true)
    }
}

/// Returns the duty of handling the uploads of a selection that no node holds.
const fn duty_of(selection: SweepSelection) -> Duty {
    match selection {
        SweepSelection::Unsettled => Duty::SweepUnsettled,
        SweepSelection::Unsealed => Duty::SweepUnsealed,
        SweepSelection::Expired { .. } => Duty::SweepExpired,
        SweepSelection::Silent { .. } => Duty::SweepSilent,
        SweepSelection::Overlong { .. } => Duty::SweepOverlong,
        SweepSelection::ChangedAfter { .. } => Duty::SweepChangedAfter,
        SweepSelection::Removable => Duty::SweepRemovable,
        SweepSelection::Outdated { .. } => Duty::SweepOutdated,
    }
}
