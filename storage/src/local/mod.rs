//! Blobs as files in a folder on a local disk.
//!
//! Owns the data folder: one process at a time may use it (see [`OpenError`] for what else can be wrong with it).
//! Promises what the ports say, also across a power loss: a checkpoint syncs the file and, the first time, the
//! folder that holds its name; finishing syncs both folders around the move. Bytes are gathered into large positioned
//! writes and pass through the page cache.
//!
//! Reading order: [`folder`] (where things lie), [`files`] (what is done to whole files), [`writer`], [`target`] (why a
//! checkpoint is true), [`reader`], [`copying`].

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::BlobKey;
use crate::BlobStore;
use crate::BlobWriter;
use crate::ByteStream;
use crate::Error;
use crate::Part;
use crate::Result;
use crate::Resume;
use crate::durable_end;

mod blocking;
mod copying;
mod files;
mod folder;
mod reader;
mod target;
mod writer;

pub use folder::OpenError;

use folder::DataFolder;
use target::Target;
use target::Targets;
use writer::LocalWriter;

/// How one writer uses memory and the disk.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Chunks are gathered to writes of about this size.
    pub write_size_bytes: usize,
    /// So many writes of one blob are under way at once, before `write` waits.
    pub writes_in_flight: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { write_size_bytes: 1 << 20, writes_in_flight: 2 }
    }
}

/// Blobs in a data folder, which belongs to this store for as long as it lives.
#[derive(Debug)]
pub struct LocalStore {
    folder: Arc<DataFolder>,
    targets: Arc<Targets>,
    settings: Settings,
}

impl LocalStore {
    /// Takes possession of the data folder `root`, making it if it is not there. Blocks; meant for the start.
    pub fn open(root: PathBuf, settings: Settings) -> std::result::Result<Self, OpenError> {
        let folder = Arc::new(DataFolder::open(root)?);
        let settings = Settings { writes_in_flight: settings.writes_in_flight.max(1), ..settings };
        Ok(Self { folder, targets: Arc::default(), settings })
    }

    /// Does file work on the data folder, away from the calling thread.
    async fn work<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &BlobKey,
        work: impl FnOnce(&DataFolder, &BlobKey) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (folder, owned_key) = (Arc::clone(&self.folder), key.clone());
        let done = blocking::run(move || work(&folder, &owned_key)).await;
        done.map_err(|source| Error::new(operation, key, source))
    }

    /// The blob's file, cut to `end`, with nobody else writing to it.
    async fn target(&self, key: &BlobKey, end: u64, has_token: bool) -> Result<Arc<Target>> {
        self.targets.retire(key).await;
        let open = move |folder: &DataFolder, key: &BlobKey| files::open_for_writing(folder, key, end, has_token);
        let opened = self.work("open", key, open).await?;
        let path = self.folder.incoming(key);
        let folder = folder::parent(&path).map_err(|source| Error::new("open", key, source))?;
        Ok(self.targets.add(key, opened.file, folder.to_owned(), opened.named))
    }

    /// Fills an empty target with all parts, durably. Says where it ends.
    async fn copy(&self, parts: &[Part], into: &BlobKey, target: &Arc<Target>) -> Result<u64> {
        // A write like any other: should this call be dropped, whoever opens the blob next waits for its end.
        let copy = target.begin(0..u64::MAX);
        let parts = parts.to_vec();
        let work = move |folder: &DataFolder, _: &BlobKey| {
            let copied = copying::append_all(folder, &parts, copy.file());
            copy.end(Ok(()));
            copied
        };
        let end = self.work("concatenate", into, work).await?;
        Arc::clone(target).sync(target.next()).await?;
        Ok(end)
    }
}

#[async_trait]
impl BlobStore for LocalStore {
    async fn open(
        &self,
        key: &BlobKey,
        from: Option<&Resume>,
        _size_bytes: Option<u64>,
    ) -> Result<Box<dyn BlobWriter>> {
        let end = durable_end::decode(from).map_err(|source| Error::new("open", key, source))?;
        let target = self.target(key, end, from.is_some()).await?;
        Ok(Box::new(LocalWriter::new(key.clone(), target, self.settings.clone(), end)))
    }

    async fn concatenate(&self, parts: &[Part], into: &BlobKey) -> Result<Resume> {
        if parts.iter().any(|part| part.key == *into) {
            let itself = io::Error::new(io::ErrorKind::InvalidInput, "it cannot be a part of itself");
            return Err(Error::new("concatenate", into, itself));
        }
        let target = self.target(into, 0, false).await?;
        let copied = self.copy(parts, into, &target).await;
        if copied.is_err()
            && let Err(error) = self.work("discard", into, files::remove_open).await
        {
            tracing::debug!(key = %into, %error, "what was made of the parts was left behind");
        }
        copied.map(durable_end::encode)
    }

    async fn finish(&self, key: &BlobKey, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        let end = durable_end::decode(from).map_err(|source| Error::new("finish", key, source))?;
        self.targets.retire(key).await;
        self.work("finish", key, move |folder, key| files::finish(folder, key, end, size_bytes)).await
    }

    async fn discard(&self, key: &BlobKey, _from: Option<&Resume>) -> Result<()> {
        self.targets.retire(key).await;
        self.work("discard", key, files::remove).await
    }

    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream> {
        let file = self.work("read", key, files::open_for_reading).await?;
        Ok(reader::stream(key.clone(), file, range))
    }

    async fn check(&self) -> Result<Option<u64>> {
        let folder = Arc::clone(&self.folder);
        let room = blocking::run(move || folder.probe()).await;
        room.map(Some).map_err(|source| Error::about("write to", "the data folder", source))
    }
}
