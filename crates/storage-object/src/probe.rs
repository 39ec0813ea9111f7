//! Tries the abilities of a store (scale-out O15). Nothing that this store promises depends on the
//! findings, except for the checksums that are sent with parts.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, FailureKind};
use crate::parts::{Multipart, Part};
use crate::patience::Patience;
use crate::store::{Inner, ObjectBlobStore};
use storage::{Error, Result};

/// The content of the objects that are written and removed.
static CONTENT: [Bytes; 1] = [Bytes::from_static(b"longshore")];
const CONTENT_BYTES: u64 = 9;

/// The abilities of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFeatures {
    /// It rejects bytes whose CRC-32C is wrong.
    pub compares_checksums: bool,
    /// It copies ranges of objects into parts: blobs are joined without a transfer.
    pub copies_parts: bool,
    /// It accepts parts below 5 MiB that are not the last.
    pub takes_small_parts: bool,
    /// It refuses to replace an object when a request says so. Nothing here relies on it.
    pub keeps_conditions: bool,
    /// A rule of the bucket about unfinished multipart uploads.
    pub unfinished: UnfinishedRule,
}

/// The time for which the store keeps unfinished multipart uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnfinishedRule {
    /// The store does not tell, or the key may not ask.
    Unknown,
    /// Permanently.
    None,
    /// It aborts them that many days after their beginning.
    AbortsAfterDays(u32),
}

impl ObjectBlobStore {
    /// Checks that the bucket can be written, and whether the store compares checksums. Repeats its requests
    /// while the store cannot be reached.
    ///
    /// # Errors
    ///
    /// The store refuses the requests, or could not be reached in time.
    pub async fn begin(&self) -> Result<bool> {
        self.0.begin_use().await.map_err(failed)
    }

    /// Tries everything that the store may do.
    ///
    /// # Errors
    ///
    /// The store refuses something that uploads need, or could not be reached in time.
    pub async fn probe(&self) -> Result<StoreFeatures> {
        let compares_checksums = self.0.begin_use().await.map_err(failed)?;
        let first = self.0.names.check(rand::random());
        let second = self.0.names.check(rand::random());
        let probed = self.0.probe(&first, &second, compares_checksums).await;
        let patience = self.0.unending();
        let removed = patience.retry(|| self.0.s3.delete(vec![first.clone(), second.clone()])).await;
        let features = probed.map_err(failed)?;
        removed.map_err(failed)?;
        Ok(features)
    }
}

fn failed(failure: Failure) -> Error {
    Error::about("use", "the object store", failure.into_io())
}

impl Inner {
    async fn begin_use(&self) -> std::result::Result<bool, Failure> {
        let object = self.names.check(rand::random());
        let patience = self.unending();
        patience.retry(|| self.s3.put(&object, &CONTENT)).await?;
        let compares_checksums = patience.retry(|| self.s3.try_checksum(&object)).await?;
        patience.retry(|| self.s3.delete(vec![object.clone()])).await?;
        Ok(compares_checksums)
    }

    async fn probe(
        &self,
        first: &Path,
        second: &Path,
        compares_checksums: bool,
    ) -> std::result::Result<StoreFeatures, Failure> {
        let patience = self.unending();
        // A multipart upload, and a read of a range: without them there is no upload.
        let upload = patience.retry(|| self.s3.create(first, compares_checksums)).await?;
        let part = patience.retry(|| self.s3.put_part(first, &upload, 1, &CONTENT)).await?;
        patience.retry(|| self.completed(first, &upload.id, std::slice::from_ref(&part))).await?;
        let range = async || self.s3.stream(first, 4..9).await?.try_collect::<Vec<Bytes>>().await;
        if patience.retry(range).await?.concat() != CONTENT[0][4..] {
            return Err(Failure::new(FailureKind::Refused, "the object store does not read ranges of objects"));
        }
        let copied = async {
            let Multipart { id, .. } = self.s3.create(second, false).await?;
            match self.s3.copy_part(second, &id, 1, (first, 0..CONTENT_BYTES)).await {
                Ok(part) => self.completed(second, &id, &[part]).await,
                Err(failure) => self.s3.abort(second, &id).await.and(Err(failure)),
            }
        };
        let copies_parts = is_accepted(copied.await)?;
        let small = async {
            let upload = self.s3.create(second, false).await?;
            let mut parts = Vec::new();
            for number in 1..=2 {
                parts.push(self.s3.put_part(second, &upload, number, &CONTENT).await?);
            }
            let completed = self.s3.complete(second, &upload.id, &parts, self.settings.complete_timeout).await;
            self.s3.abort(second, &upload.id).await?;
            completed
        };
        let takes_small_parts = is_accepted(small.await)?;
        Ok(StoreFeatures {
            compares_checksums,
            copies_parts,
            takes_small_parts,
            keeps_conditions: patience.retry(|| self.s3.try_condition(first)).await?,
            unfinished: patience.retry(|| self.s3.unfinished_rule()).await?,
        })
    }

    async fn completed(&self, object: &Path, id: &str, parts: &[Part]) -> std::result::Result<(), Failure> {
        let answer = self.s3.complete(object, id, parts, self.settings.complete_timeout).await;
        match self.s3.size(object).await? {
            Some(size) if size == CONTENT_BYTES => Ok(()),
            _ => answer
                .and(Err(Failure::new(FailureKind::Refused, "the object store does not complete multipart uploads"))),
        }
    }

    /// Checks that the store can be written, once.
    pub(crate) async fn check(&self) -> std::result::Result<(), Failure> {
        let object = self.names.check(rand::random());
        let patience = Patience { give_up_after: std::time::Duration::ZERO, ended: CancellationToken::new() };
        patience.retry(|| self.s3.put(&object, &CONTENT)).await?;
        self.s3.delete(vec![object]).await
    }
}

/// Tells a refusal from trouble.
fn is_accepted(outcome: std::result::Result<(), Failure>) -> std::result::Result<bool, Failure> {
    match outcome {
        Ok(()) => Ok(true),
        Err(failure) if failure.kind == FailureKind::Transient => Err(failure),
        Err(_) => Ok(false),
    }
}
