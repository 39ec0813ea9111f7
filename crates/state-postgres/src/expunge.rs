//! Removal of free text about an upload on request: from its client, in its metadata; from receivers and the
//! application, whose responses may repeat the metadata; from backends, in their reports.
//!
//! Events lose the text at once. The record loses it once the upload has completed or ended: until then its
//! client reads its metadata back, and further events carry it. Kinds and times of events, sizes, digests and
//! media facts are kept.

use bytes::Bytes;

use crate::PostgresStore;
use crate::bucket::bucket_of;
use crate::fault::Fault;
use crate::params::{Param, params};
use crate::query::tenants;
use crate::records::{MetadataPairs, PreparedRecord};
use crate::rows::{self, Columns};
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use crate::uploads::FIND;
use domain::id::UploadId;
use domain::principal::TenantScope;
use state::{Result, StoredEvent};

/// The number of events rewritten in one transaction; their bodies may have 20 kB each.
const EVENTS: u32 = 100;

impl PostgresStore {
    pub(crate) async fn expunge_in_pieces(&self, scope: TenantScope, upload: UploadId) -> Result<u64> {
        let (mut total, mut after) = (0, i64::MIN);
        loop {
            let (count, last) = self.write(Expunge { scope, upload, after }).await?;
            let Some(last) = last else { return Ok(total) };
            (total, after) = (total + count, last);
        }
    }
}

/// Expunges the next events of an upload, those with a sequence above `after`. The last call also expunges
/// hook calls and the record.
struct Expunge {
    scope: TenantScope,
    upload: UploadId,
    after: i64,
}

impl Work for Expunge {
    const OPERATION: &'static str = "remove an upload's metadata from its events";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    /// The number of events, and the sequence of the last. `None` when none is left.
    type Output = (u64, Option<i64>);

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<Self::Output, Fault> {
        // No commit adds events until the transaction ends.
        tx.lock_lanes([self.upload]).await?;
        let (count, last) = self.expunge_events(tx).await?;
        if last.is_none() {
            self.expunge_hook_calls(tx).await?;
            self.expunge_record(tx).await?;
        }
        Ok((count, last))
    }
}

const READ_EVENTS: &str = "SELECT sequence, kind, occurred_at_ms, body FROM events
     WHERE bucket = $1 AND source_id = $2 AND upload_id IS NOT NULL AND sequence > $3 AND tenant BETWEEN $5 AND $6
     ORDER BY sequence LIMIT $4";

const WRITE_EVENTS: &str = "UPDATE events SET body = expunged.body
     FROM unnest($3::bigint[], $4::text[]) AS expunged (sequence, body)
     WHERE bucket = $1 AND source_id = $2 AND events.sequence = expunged.sequence";

const WRITE_ATTEMPTS: &str = "UPDATE attempts SET response_body = '', response_headers = NULL, note = NULL
     WHERE bucket = $1 AND source_id = $2 AND delivery_id IN (
         SELECT id FROM deliveries WHERE bucket = $1 AND source_id = $2 AND sequence = ANY($3::bigint[]))";

impl Expunge {
    fn bucket(&self) -> i64 {
        bucket_of(self.upload.as_bytes())
    }

    async fn expunge_events(&self, tx: &Transaction<'_>) -> std::result::Result<(u64, Option<i64>), Fault> {
        let (least, most) = tenants(self.scope);
        let values = params![self.bucket(), self.upload, self.after, EVENTS, least, most];
        let (mut sequences, mut bodies) = (Vec::new(), Vec::new());
        for row in tx.query(READ_EVENTS, values).await? {
            let mut columns = Columns::of(&row);
            let sequence: u64 = columns.next()?;
            let (kind, at, full) = (columns.next()?, columns.next()?, columns.next::<Bytes>()?);
            let event = StoredEvent { kind, at, upload: self.upload, sequence, body: &full };
            bodies.push((tx.shared.bodies.expunged)(&event));
            sequences.push(i64::try_from(sequence).unwrap_or(i64::MAX));
        }
        let Some(last) = sequences.last().copied() else { return Ok((0, None)) };
        let count = u64::try_from(sequences.len()).unwrap_or(u64::MAX);
        let sequences = Param::from(sequences);
        let values = [Param::from(self.bucket()), Param::from(self.upload), sequences, Param::from(bodies)];
        tx.execute(WRITE_EVENTS, &values).await?;
        tx.execute(WRITE_ATTEMPTS, &values[..3]).await?;
        Ok((count, Some(last)))
    }

    async fn expunge_hook_calls(&self, tx: &Transaction<'_>) -> std::result::Result<(), Fault> {
        let (least, most) = tenants(self.scope);
        tx.execute(
            "UPDATE hook_calls SET message = NULL, response_body = ''
             WHERE bucket = $1 AND upload_id = $2 AND tenant BETWEEN $3 AND $4",
            params![self.bucket(), self.upload, least, most],
        )
        .await
        .map(drop)
    }

    async fn expunge_record(&self, tx: &Transaction<'_>) -> std::result::Result<(), Fault> {
        let (least, most) = tenants(self.scope);
        // The row is locked before it is read, so that it cannot change in between.
        let lock = "SELECT 1::bigint FROM upload_progress WHERE bucket = $1 AND id = $2 FOR UPDATE";
        tx.query(lock, params![self.bucket(), self.upload]).await?;
        let found = tx.query_opt(&FIND, params![self.bucket(), self.upload, least, most]).await?;
        let found = found.as_ref().map(rows::upload).transpose()?;
        let Some(mut upload) = found.filter(|upload| upload.is_settled()) else { return Ok(()) };
        tx.forget_metadata(&[(self.upload, upload.record().metadata.pairs())]).await?;
        tx.execute(
            "UPDATE uploads SET metadata = '[]', metadata_as_sent = NULL WHERE bucket = $1 AND id = $2",
            params![self.bucket(), self.upload],
        )
        .await?;
        upload.expunge();
        // The version moves, so that no commit based on an earlier read of the record publishes an event with
        // the removed text.
        tx.commit_records(&[&PreparedRecord::of(&upload)]).await.map(drop)
    }
}

impl Transaction<'_> {
    /// Removes the metadata pairs that some uploads can be found by.
    pub(crate) async fn forget_metadata(
        &self,
        uploads: &[(UploadId, MetadataPairs<'_>)],
    ) -> std::result::Result<(), Fault> {
        let pairs = || uploads.iter().flat_map(|(upload, pairs)| pairs.iter().map(move |pair| (upload, pair)));
        let (Some(least), Some(most)) =
            (pairs().map(|(upload, _)| upload).min(), pairs().map(|(upload, _)| upload).max())
        else {
            return Ok(());
        };
        let values = params![
            pairs().map(|(upload, _)| bucket_of(upload.as_bytes())).collect::<Vec<i64>>(),
            pairs().map(|(_, (key, _))| key.clone()).collect::<Vec<String>>(),
            Param::ByteStrings(pairs().map(|(_, (_, value))| Some(value.clone())).collect()),
            pairs().map(|(upload, _)| *upload).collect::<Vec<UploadId>>(),
            least,
            most,
        ];
        self.execute(
            "DELETE FROM upload_metadata
             USING unnest($1::bigint[], $2::text[], $3::bytea[], $4::uuid[]) AS pair (bucket, key, value, upload_id)
             WHERE upload_metadata.bucket = pair.bucket AND upload_metadata.key = pair.key
                 AND upload_metadata.value = pair.value AND upload_metadata.upload_id = pair.upload_id
                 AND upload_metadata.upload_id BETWEEN $5 AND $6",
            values,
        )
        .await
        .map(drop)
    }
}
