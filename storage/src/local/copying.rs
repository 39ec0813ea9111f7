//! Appends files to one another, inside the kernel where possible. Everything here blocks.
//!
//! On file systems that share blocks (XFS, Btrfs) the kernel shares those of parts that begin and end on
//! block borders, and copies nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::copiers::CancelFlag;
use super::files;
use super::files::OpenPlan;
use super::folder::BlobFolder;
use crate::{BlobKey, BlobPart};

/// Maximum size of one call, so that the next call starts on a block border and a cancelled copy ends soon.
const SPAN_BYTES: u64 = 32 << 20;
const BUFFER_BYTES: usize = 1 << 20;

/// Creates an open blob out of all parts, durably, or leaves none behind. Returns its end.
pub(super) fn concatenate(
    data: &BlobFolder,
    parts: &[BlobPart],
    into: &BlobKey,
    cancelled: &CancelFlag,
) -> io::Result<u64> {
    if parts.iter().any(|part| part.key == *into) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a blob cannot be a part of itself"));
    }
    let plan = OpenPlan { end: 0, has_token: false, laid_out_bytes: None };
    let opened = files::open_for_writing(data, into, plan)?;
    let end = append_all(data, parts, &opened.file, cancelled).and_then(|end| {
        data.sync_data(&opened.file)?;
        data.sync_incoming(into)?;
        cancelled.check()?;
        Ok(end)
    });
    if end.is_err()
        && let Err(error) = files::remove(data, into)
    {
        tracing::debug!(blob = %into, %error, "could not remove the blob of a failed concatenation");
    }
    end
}

fn append_all(data: &BlobFolder, parts: &[BlobPart], into: &File, cancelled: &CancelFlag) -> io::Result<u64> {
    let mut end = 0;
    for part in parts {
        append_part(data, part, into, end, cancelled)
            .map_err(|error| io::Error::new(error.kind(), format!("part {}: {error}", part.key)))?;
        end += part.size_bytes;
    }
    Ok(end)
}

fn append_part(data: &BlobFolder, part: &BlobPart, into: &File, at: u64, cancelled: &CancelFlag) -> io::Result<()> {
    if part.size_bytes == 0 {
        return Ok(());
    }
    let from = files::open_for_reading(data, &part.key, part.size_bytes)?;
    append(&from, part.size_bytes, into, at, cancelled)
}

/// Copies the first `size_bytes` bytes of `from` to the offset `at` of `into`.
fn append(from: &File, size_bytes: u64, into: &File, at: u64, cancelled: &CancelFlag) -> io::Result<()> {
    let (mut read, mut written) = (0, at);
    while read < size_bytes {
        cancelled.check()?;
        let span = usize::try_from((size_bytes - read).min(SPAN_BYTES)).map_err(io::Error::other)?;
        match rustix::fs::copy_file_range(from, Some(&mut read), into, Some(&mut written), span) {
            // Some file systems return 0 although there are bytes: reading finds them.
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return append_through_memory(from, read, size_bytes, into, written, cancelled);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn append_through_memory(
    from: &File,
    mut read: u64,
    end: u64,
    into: &File,
    mut written: u64,
    cancelled: &CancelFlag,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while read < end {
        cancelled.check()?;
        let span = usize::try_from(end - read).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        from.read_exact_at(&mut buffer[..span], read)?;
        into.write_all_at(&buffer[..span], written)?;
        read += span as u64;
        written += span as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_through_memory_gives_the_same_bytes() -> io::Result<()> {
        let size = 2 * BUFFER_BYTES + 5;
        let bytes: Vec<u8> = (0_u8..=250).cycle().take(size).collect();
        let (from, into) = (tempfile::tempfile()?, tempfile::tempfile()?);
        from.write_all_at(&bytes, 0)?;
        into.write_all_at(b"before", 0)?;
        append_through_memory(&from, 3, size as u64, &into, 6, &CancelFlag::default())?;
        let mut found = vec![0; size + 3];
        into.read_exact_at(&mut found, 0)?;
        assert!(found.starts_with(b"before") && found[6..] == bytes[3..]);
        assert_eq!(into.metadata()?.len(), size as u64 + 3);
        let error = append_through_memory(&from, 0, size as u64 + 1, &into, 0, &CancelFlag::default())
            .expect_err("there is no such byte");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        Ok(())
    }
}
