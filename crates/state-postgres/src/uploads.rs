//! Uploads: written through the writers, read by the readers.

use std::sync::LazyLock;

use async_trait::async_trait;

use crate::PostgresStore;
use crate::bucket::{all_buckets, bucket_of};
use crate::due;
use crate::due_places::{DuePlace, DuePlaces, Search, swept_places};
use crate::fault::Fault;
use crate::measures::AmbiguousCommit;
use crate::params::params;
use crate::query::{AFTER_ALL, tenants};
use crate::read_source::ReadSource;
use crate::rows::{self, Columns, UPLOAD_COLUMNS, UPLOAD_TABLES};
use crate::session::{Planning, WRITE_LIMIT};
use crate::transaction::{TRIES, one};
use crate::windows::KnownDays;
use crate::writer::UploadChange;
use domain::id::UploadId;
use domain::principal::TenantScope;
use domain::query::{UploadPage, UploadQuery};
use domain::upload::Upload;
use state::{Change, CommitIdentity, Error, Result, SweepSelection, SweepShare, Uploads, resolve_lost_answer};

#[async_trait]
impl Uploads for PostgresStore {
    async fn insert(&self, new: Change) -> Result<Upload> {
        self.persist(new, UploadChange::insert).await
    }

    async fn commit(&self, change: Change) -> Result<Upload> {
        self.persist(change, UploadChange::commit).await
    }

    async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Option<Upload>> {
        find(self.primary(), &self.shared.days, scope, id).await
    }

    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage> {
        self.read_list(self.primary(), scope, query).await
    }

    async fn due(&self, selection: SweepSelection, share: SweepShare, skip: u32, limit: u32) -> Result<Vec<Upload>> {
        let DuePlaces { days, later } = match due::end_of_completed(selection) {
            Some(end) => DuePlaces::of_windows(self.shared.days.oldest_first(end)),
            None => {
                let from = self.unfinished_from(DUE).await?.uploads;
                swept_places(&self.shared.days, from, self.time.now())
            }
        };
        let (mut found, mut skip) = (Vec::new(), skip);
        let missing = |found: &[Upload]| limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
        for place in days {
            if missing(&found) > 0 {
                found.extend(self.due_within(place, selection, share, &mut skip, missing(&found)).await?);
            }
        }
        if let Some(place) = later
            && missing(&found) > 0
            && self.shared.later_days.are_due(Search::of_sweep(selection))
        {
            found.extend(self.due_within(place, selection, share, &mut skip, missing(&found)).await?);
        }
        Ok(found)
    }

    async fn count_missing(&self) -> Result<u64> {
        const OPERATION: &str = "count uploads whose bytes are missing";
        let mut count = 0;
        for window in self.shared.days.oldest_first(AFTER_ALL) {
            let values = params![window.from, window.end, all_buckets()];
            let rows = self.readers.query(OPERATION, COUNT_MISSING, values).await?;
            let counted = one(&rows).and_then(|row| Columns::of(row).next::<u64>());
            count += counted.map_err(|fault| fault.into_error(OPERATION))?;
        }
        Ok(count)
    }
}

const DUE: &str = "find uploads that are due";

const COUNT_MISSING: &str = "SELECT count(*) FROM uploads
     WHERE missing_since_ms IS NOT NULL AND id >= $1 AND id < $2 AND bucket = ANY($3::bigint[])";

impl PostgresStore {
    /// Finds uploads in a place that are due, and lowers `skip` by the number of uploads skipped.
    async fn due_within(
        &self,
        place: DuePlace,
        selection: SweepSelection,
        share: SweepShare,
        skip: &mut u32,
        limit: u32,
    ) -> Result<Vec<Upload>> {
        let (mut found, mut passed) = (Vec::new(), 0);
        // Unreadable rows are replaced by further ones, so that only the last page is short.
        loop {
            let wanted = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit)).saturating_add(*skip);
            let sql = due::query(selection, share, place, passed, wanted);
            let rows = self.readers.query_as(DUE, sql.sql(), place.planning, sql.values()).await?;
            let read: std::result::Result<Vec<_>, Fault> = rows.iter().map(rows::one_of_uploads).collect();
            let read = read.map_err(|fault| fault.into_error(DUE))?;
            let seen = u32::try_from(read.len()).unwrap_or(wanted);
            let skipped = seen.min(*skip);
            *skip -= skipped;
            found.extend(read.into_iter().skip(skipped as usize).filter_map(|(_, upload)| upload));
            if seen < wanted || found.len() >= limit as usize {
                return Ok(found);
            }
            passed = passed.saturating_add(seen);
        }
    }

    /// Writes a change. A caller waits a bounded time, whatever the server does; after that the result is
    /// unknown.
    async fn persist(&self, change: Change, prepare: fn(&Change) -> UploadChange) -> Result<Upload> {
        let settled = tokio::time::timeout(WRITE_LIMIT + self.shared.patience, self.settle(change, prepare)).await;
        let settled = settled.unwrap_or(Err(Error::Unanswered { operation: "commit an upload" }));
        if matches!(settled, Err(Error::Unanswered { .. })) {
            self.shared.measures.ambiguous(AmbiguousCommit::Unknown);
        }
        settled
    }

    /// Returns the conflict of a change, and counts it if another node has taken over the upload.
    async fn conflict(&self, change: &Change) -> Error {
        let (id, epoch) = (change.upload().id(), change.upload().record().lease.epoch);
        if let Ok(Some(found)) = find(self.primary(), &self.shared.days, TenantScope::All, id).await
            && found.record().lease.epoch != epoch
        {
            self.shared.measures.epoch_rejected();
        }
        Error::Conflict(id)
    }

    /// Writes a change. If the response is lost, the record shows whether the change was committed; if it was
    /// not, the change is written again.
    async fn settle(&self, change: Change, prepare: fn(&Change) -> UploadChange) -> Result<Upload> {
        let identity = CommitIdentity::of(change.upload());
        let measures = &self.shared.measures;
        let mut is_repeated = false;
        for _ in 0..TRIES {
            let operation = match self.writers.write(prepare(&change)).await {
                Ok(true) => return Ok(change.into_parts().0.committed()),
                Ok(false) if !is_repeated => return Err(self.conflict(&change).await),
                // An attempt whose response was lost may have been completed after the record was checked.
                Ok(false) => "commit an upload",
                Err(Error::Unanswered { operation }) => operation,
                Err(other) => return Err(other),
            };
            match resolve_lost_answer(self, identity, Err(Error::Unanswered { operation })).await {
                Ok(_) => {
                    measures.ambiguous(AmbiguousCommit::Committed);
                    return Ok(change.into_parts().0.committed());
                }
                Err(Error::Unanswered { .. }) => {
                    measures.ambiguous(AmbiguousCommit::Repeated);
                    is_repeated = true;
                }
                Err(Error::Conflict(_)) => {
                    measures.ambiguous(AmbiguousCommit::Conflict);
                    return Err(self.conflict(&change).await);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "could not determine whether a commit with a lost response was made");
                    return Err(Error::Unanswered { operation });
                }
            }
        }
        Err(Error::Unanswered { operation: "commit an upload" })
    }
}

/// Finds an upload on a server.
pub(crate) async fn find(
    from: ReadSource<'_>,
    days: &KnownDays,
    scope: TenantScope,
    id: UploadId,
) -> Result<Option<Upload>> {
    const OPERATION: &str = "find an upload";
    let (least, most) = tenants(scope);
    let values = params![bucket_of(id.as_bytes()), id, least, most];
    let planning = Planning::on(days.day_of([id.as_bytes()].into_iter()));
    let found = from.query_as(OPERATION, &FIND, planning, values).await?;
    found.first().map(rows::upload).transpose().map_err(|fault| fault.into_error(OPERATION))
}

pub(crate) static FIND: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {} FROM {UPLOAD_TABLES} WHERE bucket = $1 AND id = $2 AND tenant BETWEEN $3 AND $4",
        *UPLOAD_COLUMNS
    )
});
