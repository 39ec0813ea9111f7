//! Counts of unfinished uploads, in a cluster.
//!
//! A node counts all unfinished uploads and the disk space that they have booked when it starts, and
//! follows its own commits from then on. It does not see those of other nodes, so it counts again from time
//! to time. Between two counts, its view of uploads on other nodes is out of date: it may admit an upload
//! that does not fit beside a new one elsewhere, or reject one for the space of an upload that has ended.
//! The bytes that arrive are checked against the free space in any case.

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::command::EngineError;
use crate::metrics::UNFINISHED;
use crate::{Engine, Inner};
use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::query::UploadQuery;

/// Time between two counts. One reads all unfinished uploads.
const COUNT_EVERY: Duration = Duration::from_mins(10);

/// Number of uploads per page.
const PAGE: u32 = 1_000;

impl Engine {
    /// Counts again and again until the engine shuts down, if other nodes are at work.
    pub(super) fn start_recounting(&self) {
        if self.0.peers.is_none() {
            return;
        }
        let inner = Arc::clone(&self.0);
        self.spawn(async move {
            let mut pace = tokio::time::interval_at(Instant::now() + COUNT_EVERY, COUNT_EVERY);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while inner.stop.run_until_cancelled(pace.tick()).await.is_some() {
                if let Err(error) = inner.count_unfinished().await {
                    let error = &error as &dyn Error;
                    tracing::warn!(error, "could not count unfinished uploads and the disk space they have booked");
                }
            }
        });
    }
}

impl Inner {
    /// Counts unfinished uploads by stage, and the bytes they have yet to receive. Forgets those of an
    /// earlier count that have ended on other nodes.
    pub(super) async fn count_unfinished(&self) -> Result<(), EngineError> {
        let began = self.now();
        let stages = UNFINISHED.to_vec();
        let mut query = UploadQuery { stages, limit: PAGE, ..UploadQuery::default() };
        let mut found = HashSet::new();
        loop {
            let page = self.uploads.list(TenantScope::All, &query).await?;
            for upload in &page.found {
                self.metrics.booked(self.bookings.note(upload));
                self.metrics.note(upload);
                found.insert(upload.id());
            }
            query.before = page.next;
            if query.before.is_none() {
                break;
            }
        }
        // One that was created meanwhile may be on no page.
        let is_known = |id: UploadId| found.contains(&id) || id.made_at() >= began;
        self.metrics.booked(self.bookings.keep(is_known));
        self.metrics.keep_unfinished(is_known);
        Ok(())
    }
}
