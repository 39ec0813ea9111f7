//! Operations on whole files: opening, finishing, removing. Everything here blocks.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use super::durable_folders::parent;
use super::folder::{BlobFolder, remove_if_there};
use super::{BlobDurability, blocking};
use crate::{BlobKey, durable_end};

/// The file of an open blob, opened for writing.
#[derive(Debug)]
pub(super) struct OpenedFile {
    pub(super) file: File,
    /// True if its name is known to be durable: a token proves it.
    pub(super) named: bool,
}

/// The parameters for opening the file of a blob.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenPlan {
    /// The blob is durable up to here; bytes behind it are dropped.
    pub(super) end: u64,
    pub(super) has_token: bool,
    /// The length the file gets at once, if any.
    pub(super) laid_out_bytes: Option<u64>,
}

/// Opens the file of an open blob. Creates it only if no bytes can be missing.
///
/// A file that is laid out has its final length from the start, and blocks only where bytes are or will be
/// next. It is not truncated at the durable end: all bytes behind it are written again before they are
/// acknowledged.
pub(super) fn open_for_writing(data: &BlobFolder, key: &BlobKey, plan: OpenPlan) -> io::Result<OpenedFile> {
    let OpenPlan { end, has_token, .. } = plan;
    if data.finished(key).try_exists()? {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is already finished"));
    }
    let path = data.incoming(key);
    let mut options = File::options();
    options.read(true).write(true);
    let opened = match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && end == 0 => {
            let make = || options.clone().create(true).truncate(true).open(&path);
            OpenedFile { file: data.folders().within(parent(&path)?, make)?, named: false }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let gone = format!("its file {} with {end} durable bytes is missing", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, gone));
        }
        Err(error) => return Err(error),
        Ok(file) => OpenedFile { file, named: has_token },
    };
    if !opened.named {
        data.folders().make(parent(&path)?)?;
    }
    let length = opened.file.metadata()?.len();
    if length < end {
        let short = format!("its file {} has {length} bytes, but {end} were durable", path.display());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
    }
    let laid_out = plan.laid_out_bytes.unwrap_or(0);
    let kept = if length <= laid_out { length } else { end };
    if kept < length {
        opened.file.set_len(kept)?;
    }
    if kept < laid_out {
        opened.file.set_len(laid_out)?;
    }
    Ok(opened)
}

/// Allocates blocks for a part of a file, without changing its length, as long as the disk keeps
/// `keep_free_bytes` free. This only prepares for writes: blocks that cannot be allocated now are allocated
/// by them.
pub(super) fn allocate(data: &BlobFolder, file: &File, part: Range<u64>, keep_free_bytes: u64) -> io::Result<()> {
    let spare = data.available_bytes()?.map_or(u64::MAX, |free| free.saturating_sub(keep_free_bytes) / 2);
    let length = (part.end - part.start).min(spare);
    if length == 0 {
        return Ok(());
    }
    let fallocate = || rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, part.start, length);
    match rustix::io::retry_on_intr(fallocate) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the number of bytes that an open blob occupies on the disk.
pub(super) fn occupied_bytes(data: &BlobFolder, key: &BlobKey) -> io::Result<u64> {
    match fs::metadata(data.incoming(key)) {
        Ok(found) => Ok(found.blocks().saturating_mul(512)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Returns the length of the file of a blob, finished or open.
pub(super) fn size(data: &BlobFolder, key: &BlobKey) -> io::Result<Option<u64>> {
    match in_either_place(data, key, |path| fs::metadata(path)) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the file of a blob, finished or open, which has bytes up to `end`.
pub(super) fn open_for_reading(data: &BlobFolder, key: &BlobKey, end: u64) -> io::Result<File> {
    let file = in_either_place(data, key, |path| File::open(path))?;
    let length = file.metadata()?.len();
    if length < end {
        let short = format!("it has {length} bytes, but bytes up to {end} were requested");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
    }
    Ok(file)
}

fn in_either_place<T>(data: &BlobFolder, key: &BlobKey, find: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    // The third attempt finds a blob that was finished between the first two.
    for path in [data.finished(key), data.incoming(key), data.finished(key)] {
        match find(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle) => {}
            found => return found,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Checks that a blob that is durable up to `end` is complete. Its file can be read where it is. It may be
/// longer: it may have been laid out, or its writer in another process may still be writing.
pub(super) fn check_whole(data: &BlobFolder, key: &BlobKey, end: u64, size_bytes: u64) -> io::Result<()> {
    if is_finished(data, key, size_bytes)? {
        return Ok(());
    }
    durable_end::check_size(end, size_bytes)?;
    match size(data, key)? {
        None if size_bytes > 0 => Err(io::ErrorKind::NotFound.into()),
        Some(length) if length < size_bytes => Err(short_of(&data.incoming(key), length, size_bytes)),
        None | Some(_) => Ok(()),
    }
}

/// Moves a blob that is durable up to `end` to its final place.
pub(super) fn finish(data: &BlobFolder, key: &BlobKey, end: u64, size_bytes: u64) -> io::Result<()> {
    if is_finished(data, key, size_bytes)? {
        return Ok(());
    }
    durable_end::check_size(end, size_bytes)?;
    move_to_final_place(data, key, size_bytes)
}

/// Removes the files of a blob, durably: its owner forgets it now, and a file that a power loss brought back
/// would stay forever.
pub(super) fn remove(data: &BlobFolder, key: &BlobKey) -> io::Result<()> {
    for path in [data.incoming(key), data.finished(key)] {
        if remove_if_there(&path)? {
            match data.folders().sync(parent(&path)?) {
                // Another removal has found the folder empty and removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced?,
            }
        }
    }
    data.remove_empty(key);
    Ok(())
}

/// Reports whether the blob is at its final place. If so, makes its name there durable: an earlier call may
/// have been interrupted before.
fn is_finished(data: &BlobFolder, key: &BlobKey, size_bytes: u64) -> io::Result<bool> {
    let path = data.finished(key);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(found) if found.len() != size_bytes => {
            Err(io::Error::other(format!("it is finished with {} bytes, not with {size_bytes}", found.len())))
        }
        Ok(_) => {
            data.folders().make(parent(&path)?)?;
            data.folders().sync(parent(&path)?)?;
            Ok(true)
        }
    }
}

fn move_to_final_place(data: &BlobFolder, key: &BlobKey, size_bytes: u64) -> io::Result<()> {
    let (from, to) = (data.incoming(key), data.finished(key));
    let mut options = File::options();
    options.write(true);
    let file = match options.open(&from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && size_bytes == 0 => {
            data.folders().within(parent(&from)?, || options.clone().create(true).truncate(false).open(&from))?
        }
        opened => opened?,
    };
    let length = file.metadata()?.len();
    if length < size_bytes {
        return Err(short_of(&from, length, size_bytes));
    }
    if length > size_bytes {
        file.set_len(size_bytes)?;
        // The bytes have been durable since their checkpoint; this sync is for the file's size. It may
        // therefore be retried after a failure, which would be wrong for bytes.
        data.sync_data(&file)?;
    }
    data.folders().within(parent(&to)?, || fs::rename(&from, &to))?;
    if data.takes_direct_writes() {
        leave_page_cache(file, data.durability());
    }
    // The new name and the old one are one change to the file system: this sync makes both durable.
    data.folders().sync(parent(&to)?)
}

fn short_of(file: &Path, length: u64, size_bytes: u64) -> io::Error {
    let short = format!("its file {} has only {length} of {size_bytes} bytes", file.display());
    io::Error::new(io::ErrorKind::UnexpectedEof, short)
}

/// Drops the file's pages from the page cache, to leave it to readers of other files. This is only advice to
/// the kernel.
fn leave_page_cache(file: File, durability: BlobDurability) {
    let advise = move || rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(io::Error::from);
    match durability {
        // All bytes are on the disk, so this takes no time.
        BlobDurability::Strict => drop(advise()),
        // This starts writing to the disk, which no caller should wait for.
        BlobDurability::Relaxed => drop(blocking::start(advise)),
    }
}
