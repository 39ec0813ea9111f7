//! The blobs of an upload: one, or one for each of its generations.
//!
//! Only this module and the checkpoints of the writer convert an offset in the upload to an offset in a blob.

use std::ops::Range;

use futures::StreamExt;
use storage::{BlobKey, BlobPart, ByteStream, Resume};

use crate::Inner;
use crate::command::EngineError;
use domain::generation::{Generation, GenerationSpan};
use domain::id::UploadId;
use domain::principal::{TenantId, TenantScope};
use domain::upload::Upload;

/// Returns the key of a blob: the tenant, the day of the upload, its id and the generation. Data can thus be
/// split by tenant, by date and by key.
fn key_of(upload: &Upload, generation: Generation) -> BlobKey {
    named(upload.tenant(), upload.id(), generation)
}

fn named(tenant: TenantId, id: UploadId, generation: Generation) -> BlobKey {
    let of_day = format!("{}/{id}", id.made_at().day_path());
    // The default tenant keeps the layout of a server without tenants. A year begins with a digit, so the
    // folder of a tenant never has the name of a year.
    let first = match tenant {
        TenantId::DEFAULT => of_day,
        other => format!("t{}/{of_day}", other.number()),
    };
    let name = match generation {
        Generation::FIRST => first,
        Generation::Begun(epoch) => format!("{first}~{}", epoch.get()),
        Generation::Joined(epoch) => format!("{first}~joined-{}", epoch.get()),
    };
    BlobKey::new(name).expect("numbers, a day and an id are a key")
}

/// Returns the epoch for calls of the storage.
pub(super) fn epoch_of(upload: &Upload) -> storage::Epoch {
    storage::Epoch::new(upload.record().lease.epoch.get())
}

/// Returns the key of the blob that takes the bytes of an upload, or has all of them.
pub(super) fn current_key(upload: &Upload) -> BlobKey {
    key_of(upload, upload.generations().current())
}

/// Returns the data that the storage needs to resume that blob.
pub(super) fn current_resume(upload: &Upload) -> Option<Resume> {
    upload.record().resume.clone().map(Resume::from_bytes)
}

/// Reports whether a blob contains, or may contain, bytes of an upload.
pub(super) fn owns(upload: &Upload, key: &BlobKey) -> bool {
    upload.generations().all().any(|generation| key_of(upload, generation) == *key)
}

/// Returns the id of the upload that a blob belongs to, from its name.
pub(super) fn id_of(key: &BlobKey) -> Option<UploadId> {
    let name = key.as_str().rsplit('/').next()?;
    name.split('~').next()?.parse().ok()
}

/// Returns the blobs that contain the first `size_bytes` of an upload, in order.
pub(super) fn parts_of(upload: &Upload, size_bytes: u64) -> Vec<BlobPart> {
    let part = |GenerationSpan { generation, start, end, .. }| BlobPart {
        key: key_of(upload, generation),
        size_bytes: end - start,
    };
    upload.generations().spans(0, size_bytes).into_iter().map(part).collect()
}

impl Inner {
    /// Reads a range of an upload.
    pub(super) async fn read_bytes(&self, upload: &Upload, range: Range<u64>) -> storage::Result<ByteStream> {
        if upload.generations().is_single() {
            return self.blobs.read(&current_key(upload), range).await;
        }
        let mut streams = Vec::new();
        for span in upload.generations().spans(range.start, range.end) {
            let key = key_of(upload, span.generation);
            streams.push(self.blobs.read(&key, span.in_generation()).await?);
        }
        Ok(futures::stream::iter(streams).flatten().boxed())
    }

    /// Reports whether at least `size_bytes` of an upload are stored.
    pub(super) async fn are_stored(&self, upload: &Upload, size_bytes: u64) -> storage::Result<bool> {
        if upload.generations().is_single() {
            let stored = self.blobs.size(&current_key(upload)).await?;
            return Ok(stored.is_some_and(|stored| stored >= size_bytes));
        }
        for BlobPart { key, size_bytes } in parts_of(upload, size_bytes) {
            if self.blobs.size(&key).await?.is_none_or(|stored| stored < size_bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Seals the current blob, which can be read from then on.
    pub(super) async fn seal_blob(&self, upload: &Upload) -> storage::Result<()> {
        let size_bytes = upload.reach().get() - upload.generations().start();
        let resume = current_resume(upload);
        self.blobs.seal(&current_key(upload), epoch_of(upload), resume.as_ref(), size_bytes).await
    }

    /// Continues an upload in a new blob if an earlier holder may still be writing to the current one, and
    /// its storage cannot prevent that. The previous blob is sealed at its committed size; bytes that its
    /// writer still sends are discarded.
    pub(super) async fn begin_generation(&self, upload: Upload) -> Result<Upload, EngineError> {
        if self.abilities.takes_over || upload.has_sole_writer() {
            return Ok(upload);
        }
        let has_bytes = upload.reach().get() > upload.generations().start();
        let ended = match has_bytes {
            true => self.seal_blob(&upload).await,
            false => self.blobs.discard(&current_key(&upload), epoch_of(&upload), None).await,
        };
        if let Err(error) = ended {
            return Err(self.explain(&upload, error).await);
        }
        self.metrics.generations_sealed.inc();
        tracing::info!(upload = %upload.id(), start_bytes = upload.reach().get(), "an upload continues in a new generation of its blob");
        if upload.reach() > upload.offset() {
            // Later bytes fill gaps between those that have arrived, so all of them have to be in one blob.
            return self.copy_generations(upload).await;
        }
        self.discard_joined(&upload).await.map_err(EngineError::storage)?;
        let mut next = upload;
        next.begin_generation(self.now());
        // Committed before the first byte: the record must know every blob there is.
        self.commit(next).await
    }

    async fn copy_generations(&self, upload: Upload) -> Result<Upload, EngineError> {
        let mut copied = match self.copy_into_one(upload).await {
            Ok(copied) => copied,
            Err(GenerationsNotJoined::Blobs(upload, error)) => return Err(self.explain(&upload, error).await),
            Err(GenerationsNotJoined::Record(error)) => return Err(error),
        };
        self.discard_joined(&copied).await.map_err(EngineError::storage)?;
        copied.drop_joined();
        self.commit(copied).await
    }

    /// Joins the blobs of a verified upload, if there are several. A blob that an earlier holder may still
    /// have open is copied, too: it could grow at its final place.
    pub(super) async fn join_generations(&self, upload: Upload) -> Result<Upload, GenerationsNotJoined> {
        let is_closed = self.abilities.takes_over || upload.has_sole_writer() || upload.is_joined();
        if upload.generations().is_single() && is_closed {
            return Ok(upload);
        }
        match self.seal_blob(&upload).await {
            Ok(()) => self.copy_into_one(upload).await,
            Err(error) => Err(GenerationsNotJoined::Blobs(Box::new(upload), error)),
        }
    }

    /// Copies all committed bytes of an upload into a new blob.
    async fn copy_into_one(&self, upload: Upload) -> Result<Upload, GenerationsNotJoined> {
        let upload = self.begin_joining(upload).await?;
        let parts = parts_of(&upload, upload.reach().get());
        let into = key_of(&upload, Generation::Joined(upload.record().lease.generation));
        match self.blobs.concatenate(&parts, &into, epoch_of(&upload)).await {
            Ok(resume) => {
                let mut joined = upload.clone();
                joined.join_generations(resume.into_bytes(), self.now());
                let committed = self.commit(joined).await;
                if committed.is_err() {
                    self.drop_strays(&upload).await;
                }
                committed.map_err(GenerationsNotJoined::Record)
            }
            Err(error) => Err(GenerationsNotJoined::Blobs(Box::new(upload), error)),
        }
    }

    /// Commits the name of the blob that others are joined into, before it exists. The one of a node that has
    /// died while it joined them is removed.
    async fn begin_joining(&self, upload: Upload) -> Result<Upload, GenerationsNotJoined> {
        let (known, next) = (upload.generations().joining(), upload.record().lease.generation);
        if known == Some(next) {
            return Ok(upload);
        }
        let removed = match known {
            Some(epoch) => {
                let unfinished = key_of(&upload, Generation::Joined(epoch));
                self.blobs.discard(&unfinished, epoch_of(&upload), None).await
            }
            None => self.discard_joined(&upload).await,
        };
        if let Err(error) = removed {
            return Err(GenerationsNotJoined::Blobs(Box::new(upload), error));
        }
        let mut upload = upload;
        upload.begin_joining(self.now());
        self.commit(upload).await.map_err(GenerationsNotJoined::Record)
    }

    /// Removes blobs that this node has written for an upload and that no longer belong to it, because
    /// another node has taken the upload over. `left` is the upload as this node last knew it.
    pub(super) async fn drop_strays(&self, left: &Upload) {
        if self.abilities.takes_over {
            return;
        }
        let found = match self.uploads.find(TenantScope::All, left.id()).await {
            Ok(found) => found,
            Err(error) => return tracing::debug!(upload = %left.id(), %error, "could not look for blobs to remove"),
        };
        for generation in left.generations().all() {
            let key = key_of(left, generation);
            // A generation that a record has dropped never becomes a part of the upload again.
            if !found.as_ref().is_some_and(|found| owns(found, &key))
                && let Err(error) = self.blobs.discard(&key, epoch_of(left), None).await
            {
                tracing::debug!(blob = %key, %error, "could not remove a blob of an upload that was taken over");
            }
        }
    }

    /// Moves the only blob of a whole upload to its final place, and removes the blobs that it was joined
    /// from.
    pub(super) async fn finish_blob(&self, upload: &Upload) -> storage::Result<()> {
        let resume = current_resume(upload);
        let size_bytes = upload.offset().get();
        self.blobs.finish(&current_key(upload), epoch_of(upload), resume.as_ref(), size_bytes).await?;
        self.discard_joined(upload).await
    }

    /// Removes the blobs that the current one was joined from.
    async fn discard_joined(&self, upload: &Upload) -> storage::Result<()> {
        let joined = upload.generations().is_single().then(|| upload.generations().sealed());
        for sealed in joined.unwrap_or_default() {
            self.blobs.discard(&key_of(upload, sealed.generation), epoch_of(upload), None).await?;
        }
        Ok(())
    }

    /// Removes every blob of an upload.
    pub(super) async fn discard_blobs(&self, upload: &Upload) -> storage::Result<()> {
        let current = upload.generations().current();
        for generation in upload.generations().all().filter(|generation| *generation != current) {
            self.blobs.discard(&key_of(upload, generation), epoch_of(upload), None).await?;
        }
        self.blobs.discard(&current_key(upload), epoch_of(upload), current_resume(upload).as_ref()).await
    }
}

/// The reason why the blobs of an upload were not joined.
pub(super) enum GenerationsNotJoined {
    Blobs(Box<Upload>, storage::Error),
    Record(EngineError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::node::Epoch;
    use domain::time::Timestamp;

    fn id() -> UploadId {
        UploadId::new(Timestamp::from_unix_ms(1_795_300_290_123), [7; 10])
    }

    /// access T17, T18: files stored by a server without tenants stay where they are.
    #[test]
    fn the_default_tenant_keeps_the_layout_of_before() {
        let key = named(TenantId::DEFAULT, id(), Generation::FIRST);
        assert_eq!(key.as_str(), format!("2026/11/21/{}", id()));
        let joined = named(TenantId::DEFAULT, id(), Generation::Joined(Epoch::new(3)));
        assert_eq!(joined.as_str(), format!("2026/11/21/{}~joined-3", id()));
    }

    /// access T9: each tenant has its own folder, named by its number.
    #[test]
    fn another_tenant_has_a_folder_of_its_own() {
        for number in [1, 7, 2026, u32::MAX] {
            for generation in [Generation::FIRST, Generation::Begun(Epoch::new(3)), Generation::Joined(Epoch::new(3))] {
                let key = named(TenantId::from_number(number), id(), generation);
                let of_default = named(TenantId::DEFAULT, id(), generation);
                assert_eq!(key.as_str(), format!("t{number}/{of_default}"));
                assert_eq!(id_of(&key), Some(id()), "the inventory finds its record");
            }
        }
    }
}
