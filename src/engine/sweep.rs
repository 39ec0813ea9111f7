//! What time and crashes leave to do: carry on what was interrupted, expire, mark silence, remove bytes.
//!
//! Every duty works on uploads whose lease is free; what is live looks after itself.

use std::error::Error;

use crate::domain::upload::Upload;
use crate::engine::Engine;
use crate::engine::Inner;
use crate::engine::command::EngineError;
use crate::state::Due;

/// How many uploads one question brings at a time.
const BATCH: u32 = 200;

impl Engine {
    /// Finishes or undoes what the last run of the program left half-done. Called before anything is served.
    pub async fn recover(&self) {
        let found = self.0.sweep(Due::Unsettled).await + self.0.sweep(Due::Removable).await;
        if found > 0 {
            tracing::info!(uploads = found, "finished what the last run left half-done");
        }
    }

    /// Sweeps at the configured pace until the engine shuts down.
    pub fn start_sweeping(&self) {
        let inner = std::sync::Arc::clone(&self.0);
        self.spawn(async move {
            let every = inner.settings.sweep_every;
            let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = inner.stop.cancelled() => return,
                    _ = pace.tick() => {}
                }
                let now = inner.now();
                for question in [
                    Due::Unsettled,
                    Due::Expired { now },
                    Due::Silent { since: now.minus(inner.settings.stall_after) },
                    Due::Removable,
                ] {
                    inner.sweep(question).await;
                }
            }
        });
    }
}

impl Inner {
    /// Deals with everything one question brings; says how many uploads that were.
    async fn sweep(&self, question: Due) -> usize {
        let mut dealt_with = 0;
        loop {
            let due = match self.uploads.due(question, BATCH).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn Error,
                        "could not look for uploads to tidy up; will try again"
                    );
                    return dealt_with;
                }
            };
            let asked = due.len();
            let mut moved = 0;
            for upload in due {
                if self.stop.is_cancelled() {
                    return dealt_with;
                }
                let id = upload.id();
                match self.deal_with(question, upload).await {
                    Ok(true) => moved += 1,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(upload = %id, error = &error as &dyn Error, "could not tidy up an upload; will try again");
                    }
                }
            }
            dealt_with += moved;
            // A full page that did not move would come back for ever.
            if asked < BATCH as usize || moved == 0 {
                return dealt_with;
            }
        }
    }

    /// Whether the upload has moved on.
    async fn deal_with(&self, question: Due, found: Upload) -> Result<bool, EngineError> {
        let Some(_held) = self.leases.try_take(found.id()) else { return Ok(false) };
        // What was found may have changed before the lease was taken.
        let mut upload = self.find(found.id()).await?;
        if upload.record().version != found.record().version {
            return Ok(false);
        }
        let now = self.now();
        match question {
            Due::Unsettled if upload.stage().takes_bytes() => self.undo_final(upload).await,
            Due::Unsettled => {
                self.settle(upload).await?;
            }
            Due::Expired { .. } => {
                upload.expire(now);
                let upload = self.commit(upload).await?;
                tracing::info!(upload = %upload.id(), offset = upload.offset().get(), "upload expired");
                self.remove_bytes(upload).await;
            }
            Due::Silent { .. } => {
                upload.stall(now);
                self.commit(upload).await?;
            }
            Due::Removable => self.remove_bytes(upload).await,
        }
        Ok(true)
    }
}
