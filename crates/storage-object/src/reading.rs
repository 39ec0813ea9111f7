//! Reading objects, and what is known of blobs that are not objects yet.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use crate::failure::{Failure, FailureKind};
use crate::store::Inner;
use storage::adapter::Unsealed;
use storage::{BlobKey, ByteStream, Error};

/// How often a read that was cut off is continued (scale-out O20).
const MOST_REOPENED: u32 = 3;

/// A read that is continued from its last byte when it is cut off.
struct Reading {
    inner: Arc<Inner>,
    object: Path,
    left: Range<u64>,
    stream: BoxStream<'static, Result<Bytes, Failure>>,
    reopened: u32,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if self.left.is_empty() {
                return Ok(None);
            }
            let failure = match self.stream.next().await {
                Some(Ok(chunk)) if chunk.is_empty() => continue,
                Some(Ok(chunk)) => {
                    self.left.start += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Some(Err(failure)) => failure,
                None => Failure::new(FailureKind::Transient, "the object store ended the answer early"),
            };
            if failure.kind != FailureKind::Transient || self.reopened == MOST_REOPENED {
                return Err(failure);
            }
            self.reopened += 1;
            tracing::debug!(%failure, object = %self.object, "a read will be continued");
            self.stream = self.inner.begin_reading(&self.object, self.left.clone()).await?;
        }
    }
}

impl Inner {
    async fn begin_reading(
        &self,
        object: &Path,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Failure>>, Failure> {
        let patience = self.unending();
        patience.retry(|| self.s3.stream(object, range.clone())).await
    }

    pub(crate) async fn read(self: &Arc<Self>, key: &BlobKey, range: Range<u64>) -> io::Result<ByteStream> {
        let object = self.names.object(key);
        if range.is_empty() {
            return match self.size_of_object(key).await? {
                Some(size) if range.end <= size => Ok(futures::stream::empty().boxed()),
                Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                None => Err(self.explain_absence(key).await),
            };
        }
        let stream = match self.begin_reading(&object, range.clone()).await {
            Ok(stream) => stream,
            Err(failure) if failure.kind == FailureKind::NotFound => return Err(self.explain_absence(key).await),
            Err(failure) => return Err(failure.into_io()),
        };
        let reading = Reading { inner: Arc::clone(self), object, left: range, stream, reopened: 0 };
        let key = key.clone();
        let chunks = futures::stream::try_unfold(reading, |mut reading| async {
            Ok(reading.next().await?.map(|chunk| (chunk, reading)))
        });
        Ok(chunks.map_err(move |failure: Failure| Error::new("read", &key, failure.into_io())).boxed())
    }

    /// Returns the size of a blob that is sealed or finished.
    pub(crate) async fn size_of_object(&self, key: &BlobKey) -> io::Result<Option<u64>> {
        let object = self.names.object(key);
        let patience = self.unending();
        patience.retry(|| self.s3.size(&object)).await.map_err(Failure::into_io)
    }

    /// Returns how many bytes of an open blob are stored: at least the durable ones. `None` if nothing is.
    pub(crate) async fn size_of_open(&self, key: &BlobKey) -> io::Result<Option<u64>> {
        let (object, folder) = (self.names.object(key), self.names.folder(key));
        let patience = self.unending();
        let sizes = async || {
            let extras = self.s3.sizes_in(&folder).await?;
            let uploads = self.s3.uploads_of(&object).await?;
            if extras.is_empty() && uploads.is_empty() {
                return Ok(None);
            }
            let mut size_bytes: u64 = extras.iter().sum();
            for upload_id in uploads {
                let parts = self.s3.parts(&object, &upload_id, false).await?.unwrap_or_default();
                size_bytes += parts.iter().map(|part| part.size).sum::<u64>();
            }
            Ok(Some(size_bytes))
        };
        patience.retry(sizes).await.map_err(Failure::into_io)
    }

    /// Returns the error for a blob that is not an object: it is open, or does not exist.
    pub(crate) async fn explain_absence(&self, key: &BlobKey) -> io::Error {
        if self.turns.has_writer(key) {
            return io::Error::other(Unsealed);
        }
        match self.size_of_open(key).await {
            Ok(Some(_)) => io::Error::other(Unsealed),
            Ok(None) => io::ErrorKind::NotFound.into(),
            Err(error) => error,
        }
    }
}
