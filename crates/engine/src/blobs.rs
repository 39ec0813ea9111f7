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
use domain::principal::TenantId;
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
        Generation::Joined => format!("{first}~joined"),
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
    let joined = (!upload.generations().is_single()).then_some(Generation::Joined);
    upload.generations().all().chain(joined).any(|generation| key_of(upload, generation) == *key)
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

    /// Continues an upload in a blob of its epoch, if its storage does not let a later epoch resume a blob.
    /// The previous blob is sealed at its committed size; bytes that its writer still sends are discarded.
    pub(super) async fn begin_generation(&self, upload: Upload) -> Result<Upload, EngineError> {
        let mut next = upload.clone();
        if self.abilities.takes_over || !next.begin_generation(upload.record().lease.epoch, self.now()) {
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
        tracing::info!(upload = %upload.id(), start_bytes = upload.reach().get(), "an upload continues in a new generation of its blob");
        // Committed before the first byte: the record must know every blob there is.
        self.commit(next).await
    }

    /// Joins the blobs of a verified upload, if there are several.
    pub(super) async fn join_generations(&self, mut upload: Upload) -> Result<Upload, GenerationsNotJoined> {
        if upload.generations().is_single() {
            return Ok(upload);
        }
        let parts = parts_of(&upload, upload.offset().get());
        let into = key_of(&upload, Generation::Joined);
        let joined = match self.seal_blob(&upload).await {
            Ok(()) => self.blobs.concatenate(&parts, &into, epoch_of(&upload)).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(resume) => {
                upload.join_generations(resume.into_bytes(), self.now());
                self.commit(upload).await.map_err(GenerationsNotJoined::Record)
            }
            Err(error) => Err(GenerationsNotJoined::Blobs(Box::new(upload), error)),
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

    async fn discard_joined(&self, upload: &Upload) -> storage::Result<()> {
        for sealed in upload.generations().sealed() {
            self.blobs.discard(&key_of(upload, sealed.generation), epoch_of(upload), None).await?;
        }
        Ok(())
    }

    /// Removes every blob of an upload.
    pub(super) async fn discard_blobs(&self, upload: &Upload) -> storage::Result<()> {
        self.discard_joined(upload).await?;
        if !upload.generations().is_single() {
            // A node whose commit was lost may have joined them.
            self.blobs.discard(&key_of(upload, Generation::Joined), epoch_of(upload), None).await?;
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
        let joined = named(TenantId::DEFAULT, id(), Generation::Joined);
        assert_eq!(joined.as_str(), format!("2026/11/21/{}~joined", id()));
    }

    /// access T9: each tenant has its own folder, named by its number.
    #[test]
    fn another_tenant_has_a_folder_of_its_own() {
        for number in [1, 7, 2026, u32::MAX] {
            for generation in [Generation::FIRST, Generation::Begun(Epoch::new(3)), Generation::Joined] {
                let key = named(TenantId::from_number(number), id(), generation);
                let of_default = named(TenantId::DEFAULT, id(), generation);
                assert_eq!(key.as_str(), format!("t{number}/{of_default}"));
                assert_eq!(id_of(&key), Some(id()), "the inventory finds its record");
            }
        }
    }
}
