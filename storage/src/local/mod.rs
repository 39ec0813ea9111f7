//! Blobs as files in a folder on a local disk.
//!
//! Owns the data folder: one process at a time may use it (see [`OpenError`] for what else can be wrong with it).
//! Promises what the ports say, also across a power loss: a checkpoint syncs the file and, the first time, the
//! folder that holds its name; finishing syncs both folders around the move. Bytes are gathered into large positioned
//! writes and pass through the page cache.
//!
//! Reading order: `folder` (where things lie), `files` (what is done to whole files), `turns` (by whom), `writer`,
//! `target` (why a checkpoint is true), `reader`, `copying`.

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
mod turns;
mod writer;

pub use folder::OpenError;

use folder::DataFolder;
use turns::Turn;
use turns::Turns;
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
    turns: Arc<Turns>,
    settings: Settings,
}

impl LocalStore {
    /// Takes possession of the data folder `root`, making it if it is not there. Blocks; meant for the start.
    pub fn open(root: PathBuf, settings: Settings) -> std::result::Result<Self, OpenError> {
        let settings = Settings { writes_in_flight: settings.writes_in_flight.max(1), ..settings };
        Ok(Self { turns: Arc::new(Turns::new(DataFolder::open(root)?)), settings })
    }

    /// Changes the files of a blob, when it is this call's turn.
    async fn change<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: &BlobKey,
        work: impl FnOnce(&mut Turn) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut turn = self.turns.take(key).await;
        blocking::run(move || work(&mut turn)).await.map_err(|source| Error::new(operation, key, source))
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
        let has_token = from.is_some();
        let open = move |turn: &mut Turn| {
            let opened = files::open_for_writing(turn.data(), turn.key(), end, has_token)?;
            Ok(turn.write_to(opened))
        };
        let target = self.change("open", key, open).await?;
        Ok(Box::new(LocalWriter::new(key.clone(), target, self.settings.clone(), end)))
    }

    async fn concatenate(&self, parts: &[Part], into: &BlobKey) -> Result<Resume> {
        let parts = parts.to_vec();
        let concatenate = move |turn: &mut Turn| copying::concatenate(turn.data(), &parts, turn.key());
        self.change("concatenate", into, concatenate).await.map(durable_end::encode)
    }

    async fn finish(&self, key: &BlobKey, from: Option<&Resume>, size_bytes: u64) -> Result<()> {
        let end = durable_end::decode(from).map_err(|source| Error::new("finish", key, source))?;
        let finish = move |turn: &mut Turn| files::finish(turn.data(), turn.key(), end, size_bytes);
        self.change("finish", key, finish).await
    }

    async fn discard(&self, key: &BlobKey, _from: Option<&Resume>) -> Result<()> {
        self.change("discard", key, |turn| files::remove(turn.data(), turn.key())).await
    }

    async fn read(&self, key: &BlobKey, range: Range<u64>) -> Result<ByteStream> {
        let (data, owned_key) = (Arc::clone(self.turns.data()), key.clone());
        let file = blocking::run(move || files::open_for_reading(&data, &owned_key)).await;
        let file = file.map_err(|source| Error::new("read", key, source))?;
        Ok(reader::stream(key.clone(), file, range))
    }

    async fn available(&self) -> Result<Option<u64>> {
        // One call that reads counters of the kernel's: not worth another thread.
        let room = self.turns.data().available_bytes();
        room.map(Some).map_err(|source| Error::about("measure", "the data folder", source))
    }

    async fn check(&self) -> Result<()> {
        let data = Arc::clone(self.turns.data());
        let tried = blocking::run(move || data.probe()).await;
        tried.map_err(|source| Error::about("write to", "the data folder", source))
    }
}
