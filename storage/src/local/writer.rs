//! Writes one blob: positioned writes, a few of them in flight at once.
//!
//! Where the file system supports direct writes, whole blocks of a large chunk go to the disk directly from
//! the memory they arrived in. The rest at either end, and small chunks, go through the page cache; the
//! kernel keeps both views of a file the same as long as they do not overlap in time, and writes that overlap
//! wait for each other here.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;

use super::blob_file::{BlobFile, NO_BYTES};
use super::blocking;
use super::preallocation::Preallocation;
use crate::{BlobKey, BlobWriter, Checkpoint, Error, Result, durable_end};
use pool::BLOCK_BYTES;

/// Maximum page size of any machine.
const MAX_PAGE_BYTES: u64 = 64 << 10;

/// Limits of a writer.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriterLimits {
    pub(super) writes_in_flight: usize,
    pub(super) keep_free_bytes: u64,
}

#[derive(Debug)]
pub(super) struct LocalWriter {
    key: BlobKey,
    blob_file: Arc<BlobFile>,
    limits: WriterLimits,
    /// The end of the highest byte written.
    end: u64,
    /// `None` if nothing is allocated ahead.
    preallocation: Option<Preallocation>,
}

impl LocalWriter {
    /// Creates a writer. `end` is the current end of the blob.
    pub(super) fn new(
        key: BlobKey,
        blob_file: Arc<BlobFile>,
        limits: WriterLimits,
        end: u64,
        preallocation: Option<Preallocation>,
    ) -> Self {
        Self { key, blob_file, limits, end, preallocation }
    }

    /// Starts to allocate blocks for the writes that follow this one. No write waits for it.
    fn allocate_ahead(&mut self, write: &Range<u64>) {
        let Some(due) = self.preallocation.as_mut().and_then(|preallocation| preallocation.note(write)) else { return };
        let (allocation, keep_free_bytes) = (self.blob_file.begin(NO_BYTES), self.limits.keep_free_bytes);
        blocking::start(move || {
            if let Err(error) = allocation.allocate(due, keep_free_bytes) {
                tracing::debug!(%error, "could not allocate disk space ahead of an upload");
            }
            allocation.end(Ok(()));
            Ok(())
        });
    }
}

#[async_trait]
impl BlobWriter for LocalWriter {
    async fn write(&mut self, offset: u64, chunk: Bytes) -> Result<()> {
        let beyond = || Error::new("write", &self.key, io::ErrorKind::InvalidInput.into());
        let end = offset.checked_add(chunk.len() as u64).ok_or_else(beyond)?;
        if chunk.is_empty() {
            return self.blob_file.intact();
        }
        // The kernel writes whole pages to the disk and reads whole blocks for them, so neighbors within a
        // page wait too.
        let pages = pages_around(offset..end, page_bytes());
        self.blob_file.wait_for_slot(&pages, self.limits.writes_in_flight).await?;
        // Nothing waits from here on: a call that is dropped has taken nothing.
        self.end = self.end.max(end);
        self.allocate_ahead(&(offset..end));
        let write = self.blob_file.begin(pages);
        let least_bytes = self.blob_file.direct_min_bytes();
        // Nothing waits for the task: the write itself reports its end to `blob_file`.
        blocking::start(move || {
            let outcome = match whole_blocks(&chunk, offset, least_bytes) {
                Some(whole) => write_around(write.file(), write.direct(), &chunk, offset, whole),
                None => write.file().write_all_at(&chunk, offset),
            };
            write.end(outcome);
            Ok(())
        });
        Ok(())
    }

    async fn checkpoint(&mut self, end: u64) -> Result<Checkpoint> {
        self.blob_file.intact()?;
        durable_end::check_reach(end, self.end).map_err(|source| Error::new("sync", &self.key, source))?;
        let sync = Arc::clone(&self.blob_file).sync(self.blob_file.next());
        let resume = durable_end::encode(end);
        Ok(async move { sync.await.map(|()| resume) }.boxed())
    }

    async fn close(mut self: Box<Self>) {
        self.blob_file.all_completed().await;
    }
}

/// Returns the page size of the page cache: 64 KiB on some machines.
fn page_bytes() -> u64 {
    (rustix::param::page_size() as u64).clamp(BLOCK_BYTES as u64, MAX_PAGE_BYTES)
}

/// Returns the whole pages that a write touches. A buffered write and a direct one must not share a page at
/// the same time, or each may restore bytes that it has read of the other.
fn pages_around(range: Range<u64>, page_bytes: u64) -> Range<u64> {
    range.start - range.start % page_bytes..range.end.next_multiple_of(page_bytes)
}

/// Writes the `whole` blocks of a chunk directly, if possible, and the bytes around them through the page
/// cache.
fn write_around(file: &File, direct: Option<&File>, chunk: &[u8], offset: u64, whole: Range<usize>) -> io::Result<()> {
    let Some(direct) = direct else { return file.write_all_at(chunk, offset) };
    let (start, end) = (offset + whole.start as u64, offset + whole.end as u64);
    match direct.write_all_at(&chunk[whole.clone()], start) {
        // The file system may require another alignment.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return file.write_all_at(chunk, offset),
        done => done?,
    }
    file.write_all_at(&chunk[..whole.start], offset)?;
    file.write_all_at(&chunk[whole.end..], end)
}

/// Returns the part of a chunk that can be written directly: at least `least_bytes`, in whole blocks of the
/// file that are aligned in memory too.
fn whole_blocks(chunk: &[u8], offset: u64, least_bytes: usize) -> Option<Range<usize>> {
    let block = BLOCK_BYTES as u64;
    let end = offset + chunk.len() as u64;
    let (first, last) = (offset.next_multiple_of(block), end - end % block);
    let size = last.checked_sub(first).filter(|size| *size >= least_bytes as u64)?;
    let start = usize::try_from(first - offset).ok()?;
    let whole = start..start + usize::try_from(size).ok()?;
    chunk[whole.clone()].as_ptr().addr().is_multiple_of(BLOCK_BYTES).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool::{DIRECT_MIN_BYTES, MAX_BUFFER_BYTES, Pool};

    #[tokio::test]
    async fn whole_blocks_are_found_where_memory_and_file_agree() {
        let pool = Pool::new(256 << 20);
        for (at, size, expected) in [
            (0, 1 << 20, Some(0..1 << 20)),
            (4096, 65_536, Some(0..65_536)),
            (4096, 65_535, None),
            (1, 100_000, Some(4095..4095 + 94_208)),
            (4095, 65_537, Some(1..65_537)),
            (4095, 65_536, None),
        ] {
            let mut buffer = pool.take(at, MAX_BUFFER_BYTES).await;
            buffer.fill(&vec![1; size]);
            let chunk = buffer.freeze();
            assert_eq!(whole_blocks(&chunk, at, DIRECT_MIN_BYTES), expected, "{size} bytes at {at}");
            assert_eq!(whole_blocks(&chunk, at, size + 1), None, "too small");
            assert_eq!(whole_blocks(&chunk, at + 1, DIRECT_MIN_BYTES), None, "memory for another place");
        }
    }

    #[test]
    fn writes_that_share_a_page_are_kept_apart_whatever_its_size() {
        assert_eq!(pages_around(5_000..6_000, 4_096), 4_096..8_192);
        assert_eq!(pages_around(5_000..6_000, 65_536), 0..65_536);
        assert_eq!(pages_around(65_536..131_072, 65_536), 65_536..131_072);
        let page = page_bytes();
        assert!(page.is_power_of_two() && (4_096..=65_536).contains(&page), "{page}");
        // The tail of one piece and the blocks of the next are in one page here, and in two there.
        let (tail, next) = (0..70_000, 73_728..200_000);
        let meet = |page| pages_around(tail.clone(), page).end > pages_around(next.clone(), page).start;
        assert!(meet(65_536) && !meet(4_096));
    }

    #[test]
    fn what_is_written_directly_and_around_it_is_the_same_file() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let memory: Vec<u8> = (0_u8..=250).cycle().take(300_000 + BLOCK_BYTES).collect();
        let aligned = memory.as_ptr().align_offset(BLOCK_BYTES);
        for (offset, size) in [(0_u64, 65_536_usize), (100, 250_000), (4096, 200_001), (4095, 65_537)] {
            let lead = usize::try_from(offset).unwrap_or(0) % BLOCK_BYTES;
            let chunk = &memory[aligned + lead..][..size.min(memory.len() - aligned - lead)];
            let whole = whole_blocks(chunk, offset, DIRECT_MIN_BYTES).ok_or(io::ErrorKind::InvalidData)?;
            // Any handle works to check how the pieces fit together.
            write_around(&file, Some(&file), chunk, offset, whole)?;
            let mut found = vec![0; chunk.len()];
            file.read_exact_at(&mut found, offset)?;
            assert!(found == chunk, "{size} bytes at {offset}");
        }
        Ok(())
    }
}
