//! Writes one blob: gathers chunks into large positioned writes, a few of them under way at once.

use std::fs::File;
use std::io;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;

use super::Settings;
use super::blocking;
use super::target::Target;
use crate::BlobKey;
use crate::BlobWriter;
use crate::Checkpoint;
use crate::Error;
use crate::Result;
use crate::durable_end;

/// As many pieces as one call of the kernel takes.
const MAX_PIECES: usize = 1024;

#[derive(Debug)]
pub(super) struct LocalWriter {
    key: BlobKey,
    target: Arc<Target>,
    settings: Settings,
    gathered: Run,
    /// The highest place that holds a byte, once what is gathered is written.
    end: u64,
}

/// Chunks that lie one behind the other. They are written from where they are: nothing is copied.
#[derive(Debug, Default)]
struct Run {
    start: u64,
    size_bytes: usize,
    chunks: Vec<Bytes>,
}

impl LocalWriter {
    /// `end` is where the blob ends now.
    pub(super) fn new(key: BlobKey, target: Arc<Target>, settings: Settings, end: u64) -> Self {
        Self { key, target, settings, gathered: Run::default(), end }
    }

    fn is_full(&self) -> bool {
        self.gathered.size_bytes >= self.settings.write_size_bytes || self.gathered.chunks.len() >= MAX_PIECES
    }

    /// Begins to write what is gathered, as soon as there is room for one more write. Dropped before, it has done nothing.
    async fn submit(&mut self) -> Result<()> {
        if self.gathered.chunks.is_empty() {
            return self.target.intact();
        }
        let range = self.gathered.range();
        self.target.room(&range, self.settings.writes_in_flight).await?;
        let run = std::mem::take(&mut self.gathered);
        let write = self.target.begin(range);
        // Nobody waits for the task: the write itself tells the target how it ended.
        blocking::start(move || {
            let outcome = write_at(write.file(), &run.chunks, run.start);
            write.end(outcome);
            Ok(())
        });
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for LocalWriter {
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<()> {
        self.target.intact()?;
        if chunk.is_empty() {
            return Ok(());
        }
        let beyond = || Error::new("write", &self.key, io::ErrorKind::InvalidInput.into());
        let end = offset.checked_add(chunk.len() as u64).ok_or_else(beyond)?;
        if self.is_full() || !self.gathered.is_followed_by(offset) {
            self.submit().await?;
        }
        // From here on nothing waits: a call that is dropped has taken nothing.
        self.gathered.push(offset, chunk);
        self.end = self.end.max(end);
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.submit().await?;
        let sync = Arc::clone(&self.target).sync(self.target.next());
        let resume = durable_end::encode(self.end);
        Ok(async move { sync.await.map(|()| resume) }.boxed())
    }

    async fn close(mut self: Box<Self>) {
        if let Err(error) = self.submit().await {
            tracing::debug!(key = %self.key, %error, "bytes that no checkpoint covered were not written");
        }
        self.target.landed().await;
    }
}

impl Run {
    fn range(&self) -> Range<u64> {
        self.start..self.start + self.size_bytes as u64
    }

    fn is_followed_by(&self, offset: u64) -> bool {
        self.chunks.is_empty() || self.range().end == offset
    }

    fn push(&mut self, offset: u64, chunk: Bytes) {
        if self.chunks.is_empty() {
            self.start = offset;
        }
        self.size_bytes += chunk.len();
        self.chunks.push(chunk);
    }
}

fn write_at(file: &File, chunks: &[Bytes], mut offset: u64) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        match rustix::io::pwritev(file, left, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut left, written);
                offset += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
