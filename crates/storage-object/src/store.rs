//! The store: the port of the storage, over the modules beside it.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::in_flight::InFlight;
use crate::names::Names;
use crate::open_part::OpenParts;
use crate::parts::{MAX_PART_BYTES, MIN_PART_BYTES, part_bytes_for};
use crate::s3::S3;
use crate::settings::{ObjectStoreSettings, S3Settings};
use crate::token::{MOST_TOKEN_BYTES, Stored, Token};
use crate::turns::Turns;
use crate::writer::ObjectWriter;
use storage::adapter::Epochs;
use storage::{
    Abilities, BlobKey, BlobPart, BlobStore, BlobWriter, ByteStream, Capacity, Epoch, Error, KeyStream, OpenBlob,
    Result, Resume,
};

/// Parts whose tails are read back at once.
const MOST_READING_BACK: usize = 8;

/// Blobs in a bucket. Clones share everything.
#[derive(Debug, Clone)]
pub struct ObjectBlobStore(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) s3: S3,
    pub(crate) names: Names,
    pub(crate) settings: ObjectStoreSettings,
    pub(crate) turns: Turns,
    pub(crate) in_flight: InFlight,
    pub(crate) reading_back: Semaphore,
    pub(crate) open_parts: OpenParts,
    epochs: Epochs,
}

impl ObjectBlobStore {
    /// Opens a bucket of S3 or of a store that speaks its protocol. Makes no request.
    ///
    /// # Errors
    ///
    /// Settings that are out of range, or an address that is none.
    pub fn s3(s3: &S3Settings, settings: ObjectStoreSettings) -> Result<Self> {
        let refuse =
            |text: String| Error::about("open", "the object store", io::Error::new(io::ErrorKind::InvalidInput, text));
        if !(MIN_PART_BYTES..=MAX_PART_BYTES).contains(&settings.part_bytes) {
            return Err(refuse(format!("parts have {} bytes, not 5 MiB to 5 GiB", settings.part_bytes)));
        }
        if settings.upload_parts_in_flight == 0 || settings.parts_in_flight == 0 {
            return Err(refuse("at least one part is sent at once".to_owned()));
        }
        let names = Names::new(&settings.prefix).map_err(|error| refuse(format!("the prefix is no path: {error}")))?;
        let s3 = S3::new(s3).map_err(|failure| refuse(failure.to_string()))?;
        let in_flight = InFlight::new(settings.parts_in_flight);
        let open_parts = OpenParts::new(settings.open_parts_bytes);
        Ok(Self(Arc::new(Inner {
            s3,
            names,
            settings,
            turns: Turns::default(),
            in_flight,
            reading_back: Semaphore::new(MOST_READING_BACK),
            open_parts,
            epochs: Epochs::default(),
        })))
    }
}

impl Inner {
    /// Begins work that changes a blob: waits for other work, fences out older epochs, and ends the writer.
    async fn begin(&self, key: &BlobKey, epoch: Epoch) -> io::Result<tokio::sync::OwnedMutexGuard<()>> {
        let lock = self.turns.lock(key).await;
        self.epochs.admit(key, epoch)?;
        self.turns.end(key).await;
        Ok(lock)
    }

    async fn open(
        self: &Arc<Self>,
        key: &BlobKey,
        epoch: Epoch,
        from: Option<&Resume>,
        size_bytes: Option<u64>,
    ) -> io::Result<ObjectWriter> {
        let token = Token::decode(from)?;
        let _lock = self.begin(key, epoch).await?;
        let list = token.list;
        let (sealed, mut stored) = tokio::try_join!(self.size_of_object(key), self.verified(key, token))?;
        if sealed.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is already sealed"));
        }
        self.epochs.begin(key);
        if stored.part_bytes == 0 {
            let largest_bytes = size_bytes.unwrap_or(self.settings.largest_blob_bytes);
            stored.part_bytes = part_bytes_for(self.settings.part_bytes, largest_bytes);
        }
        let turn = self.turns.begin(key);
        Ok(ObjectWriter::new(Arc::clone(self), key.clone(), turn, (stored, list), size_bytes))
    }

    /// Returns what a token says, if all of it is stored. The parts themselves are not compared: only the
    /// completion of the upload reads them.
    async fn verified(&self, key: &BlobKey, token: Token) -> io::Result<Stored> {
        let stored = self.load(key, token).await?;
        let (object, patience) = (self.names.object(key), self.unending());
        if let Some(upload) = &stored.upload {
            let parts = patience.retry(|| self.s3.parts(&object, &upload.id, true)).await;
            if parts.map_err(Failure::into_io)?.is_none() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "its multipart upload does not exist"));
            }
            self.abort_others(key, &upload.id, &patience).await.map_err(Failure::into_io)?;
        }
        for tail in &stored.tails {
            let object = self.names.extra(key, tail.name);
            match patience.retry(|| self.s3.size(&object)).await.map_err(Failure::into_io)? {
                Some(size) if size == tail.length_bytes => {}
                Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => return Err(io::Error::new(io::ErrorKind::NotFound, "a tail does not exist")),
            }
        }
        Ok(stored)
    }

    /// Joins blobs, and removes what was made after an error, or if nobody waits any more.
    async fn concatenate(
        self: Arc<Self>,
        parts: Vec<BlobPart>,
        into: BlobKey,
        epoch: Epoch,
        abandoned: CancellationToken,
    ) -> io::Result<Resume> {
        if parts.iter().any(|part| part.key == into) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a blob cannot be a part of itself"));
        }
        let _lock = self.begin(&into, epoch).await?;
        if self.size_of_object(&into).await?.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is already sealed"));
        }
        self.epochs.begin(&into);
        let joined = self.join(&parts, &into, &self.patience(&abandoned)).await;
        if joined.is_err() || abandoned.is_cancelled() {
            let removed = self.remove(&into, None, &self.unending()).await;
            if let Err(failure) = removed {
                tracing::warn!(blob = %into, %failure, "could not remove what was joined in vain");
            }
        }
        joined
    }

    async fn finish(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> io::Result<()> {
        let _lock = self.begin(key, epoch).await?;
        self.seal(key, from, size_bytes).await?;
        let patience = self.unending();
        self.remove_extras(key, &patience).await.map_err(Failure::into_io)?;
        self.epochs.end(key);
        Ok(())
    }

    async fn discard(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>) -> io::Result<()> {
        let _lock = self.begin(key, epoch).await?;
        let upload = Token::decode(from).ok().and_then(|token| token.stored.upload);
        let patience = self.unending();
        self.remove(key, upload.map(|upload| upload.id).as_deref(), &patience).await.map_err(Failure::into_io)?;
        self.epochs.end(key);
        Ok(())
    }
}

#[async_trait]
impl BlobStore for ObjectBlobStore {
    fn abilities(&self) -> Abilities {
        let part_bytes = self.0.settings.part_bytes;
        Abilities {
            any_order: false,
            overwrites: false,
            reads_open: false,
            takes_over: false,
            part_bytes,
            checkpoint_bytes: part_bytes,
            joins_without_copying: true,
            knows_free_space: false,
            max_resume_bytes: MOST_TOKEN_BYTES,
        }
    }

    async fn open(
        &self,
        key: &BlobKey,
        epoch: Epoch,
        from: Option<&Resume>,
        size_bytes: Option<u64>,
    ) -> Result<Box<dyn BlobWriter>> {
        let opened = self.0.open(key, epoch, from, size_bytes).await;
        Ok(Box::new(opened.map_err(|source| Error::new("open", key, source))?))
    }

    async fn concatenate(&self, parts: &[BlobPart], into: &BlobKey, epoch: Epoch) -> Result<Resume> {
        let abandoned = CancellationToken::new();
        let guard = abandoned.clone().drop_guard();
        let work = Arc::clone(&self.0).concatenate(parts.to_vec(), into.clone(), epoch, abandoned);
        let joined = tokio::spawn(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        guard.disarm();
        joined.map_err(|source| Error::new("concatenate", into, source))
    }

    async fn seal(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        let sealed = async {
            let _lock = self.0.begin(key, epoch).await?;
            self.0.seal(key, from, size_bytes).await
        };
        sealed.await.map_err(|source| Error::new("seal", key, source))
    }

    async fn finish(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        self.0.finish(key, epoch, from, size_bytes).await.map_err(|source| Error::new("finish", key, source))
    }

    async fn discard(&self, key: &BlobKey, epoch: Epoch, from: Option<&Resume>) -> Result<()> {
        self.0.discard(key, epoch, from).await.map_err(|source| Error::new("discard", key, source))
    }

    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream> {
        self.0.read(key, range).await.map_err(|source| Error::new("read", key, source))
    }

    async fn available(&self, _to: Option<OpenBlob<'_>>) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn keys(&self) -> Result<KeyStream> {
        let failed = |failure: Failure| Error::about("list", "the object store", failure.into_io());
        let inner = Arc::clone(&self.0);
        let uploads = inner.s3.uploads(inner.names.prefix().as_ref()).await.map_err(failed)?;
        let unfinished: std::collections::BTreeSet<BlobKey> =
            uploads.iter().filter_map(|upload| inner.names.key(&upload.object)).collect();
        let open: Vec<Result<BlobKey>> = unfinished.iter().cloned().map(Ok).collect();
        let mut previous = None;
        let objects = inner.s3.list(inner.names.prefix()).filter_map(move |object| {
            let key = object.map(|object| inner.names.key(&object.location)).map_err(failed);
            // The objects of one blob follow each other in the list.
            let new = match key {
                Ok(Some(key)) if unfinished.contains(&key) || previous.as_ref() == Some(&key) => None,
                Ok(Some(key)) => {
                    previous = Some(key.clone());
                    Some(Ok(key))
                }
                Ok(None) => None,
                Err(error) => Some(Err(error)),
            };
            std::future::ready(new)
        });
        Ok(futures::stream::iter(open).chain(objects).boxed())
    }

    async fn size(&self, key: &BlobKey) -> Result<Option<u64>> {
        let size = async {
            match self.0.size_of_object(key).await? {
                Some(size) => Ok(Some(size)),
                None => self.0.size_of_open(key).await,
            }
        };
        size.await.map_err(|source| Error::new("measure", key, source))
    }

    fn capacity(&self) -> Result<Option<Capacity>> {
        Ok(None)
    }

    fn path(&self, _key: &BlobKey) -> Option<PathBuf> {
        None
    }

    async fn check(&self) -> Result<()> {
        self.0.check().await.map_err(|failure| Error::about("check", "the object store", failure.into_io()))
    }
}
