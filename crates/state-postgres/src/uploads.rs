//! Uploads: written through the writers, read by the readers.

use std::sync::LazyLock;

use async_trait::async_trait;

use crate::PostgresStore;
use crate::bucket::bucket_of;
use crate::fault::Fault;
use crate::params::params;
use crate::query::tenants;
use crate::rows::{self, UPLOAD_COLUMNS, UPLOAD_TABLES};
use crate::transaction::TRIES;
use crate::writer::UploadChange;
use domain::id::{InstanceId, UploadId};
use domain::principal::TenantScope;
use domain::query::{UploadPage, UploadQuery};
use domain::upload::Upload;
use state::{Change, CommitIdentity, Error, Result, SweepSelection, Uploads, resolve_lost_answer};

#[async_trait]
impl Uploads for PostgresStore {
    async fn insert(&self, new: Change) -> Result<Upload> {
        self.persist(new, UploadChange::insert).await
    }

    async fn commit(&self, change: Change) -> Result<Upload> {
        self.persist(change, UploadChange::commit).await
    }

    async fn find(&self, scope: TenantScope, id: UploadId) -> Result<Option<Upload>> {
        const OPERATION: &str = "find an upload";
        let (least, most) = tenants(scope);
        let values = params![bucket_of(id.as_bytes()), id, least, most];
        let found = self.readers.query(OPERATION, &FIND, values).await?;
        found.first().map(rows::upload).transpose().map_err(|fault| fault.into_error(OPERATION))
    }

    async fn list(&self, scope: TenantScope, query: &UploadQuery) -> Result<UploadPage> {
        self.read_list(scope, query).await
    }

    async fn due(&self, selection: SweepSelection, node: InstanceId, skip: u32, limit: u32) -> Result<Vec<Upload>> {
        const OPERATION: &str = "find uploads that are due";
        let (mut found, mut passed, mut wanted) = (Vec::new(), skip, limit);
        // Unreadable rows are replaced by further ones, so that only the last page is short.
        loop {
            let sql = crate::due::query(selection, node, passed, wanted);
            let rows = self.readers.query(OPERATION, sql.sql(), sql.values()).await?;
            let read: std::result::Result<Vec<_>, Fault> = rows.iter().map(rows::one_of_uploads).collect();
            let read = read.map_err(|fault| fault.into_error(OPERATION))?;
            let seen = u32::try_from(read.len()).unwrap_or(wanted);
            found.extend(read.into_iter().filter_map(|(_, upload)| upload));
            let is_last = seen < wanted;
            wanted = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(limit));
            if is_last || wanted == 0 {
                return Ok(found);
            }
            passed = passed.saturating_add(seen);
        }
    }
}

impl PostgresStore {
    /// Writes a change. If the response is lost, the record shows whether the change was committed; if it was
    /// not, the change is written again.
    async fn persist(&self, change: Change, prepare: fn(&Change) -> UploadChange) -> Result<Upload> {
        let identity = CommitIdentity::of(change.upload());
        let mut is_repeated = false;
        for _ in 0..TRIES {
            let operation = match self.writers.write(prepare(&change)).await {
                Ok(true) => return Ok(change.into_parts().0.committed()),
                Ok(false) if !is_repeated => return Err(Error::Conflict(change.upload().id())),
                // An attempt whose response was lost may have been completed after the record was checked.
                Ok(false) => "commit an upload",
                Err(Error::Unanswered { operation }) => operation,
                Err(other) => return Err(other),
            };
            match resolve_lost_answer(self, identity, Err(Error::Unanswered { operation })).await {
                Ok(_) => return Ok(change.into_parts().0.committed()),
                Err(Error::Unanswered { .. }) => is_repeated = true,
                Err(conflict @ Error::Conflict(_)) => return Err(conflict),
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

pub(crate) static FIND: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {} FROM {UPLOAD_TABLES} WHERE bucket = $1 AND id = $2 AND tenant BETWEEN $3 AND $4",
        *UPLOAD_COLUMNS
    )
});
