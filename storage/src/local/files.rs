//! What is done to whole files: opening, finishing, removing. Everything here blocks.

use std::fs;
use std::fs::File;
use std::io;

use super::folder::DataFolder;
use super::folder::parent;
use super::folder::remove_if_there;
use super::folder::sync_folder;
use crate::BlobKey;

/// The file of an open blob, opened for writing.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// Whether its name is known to be durable: a token is the proof.
    pub(super) named: bool,
}

/// Opens the file of an open blob that is durable up to `end`, and drops what lies behind. A new one is made only
/// where nothing can be missing.
pub(super) fn open_for_writing(data: &DataFolder, key: &BlobKey, end: u64, has_token: bool) -> io::Result<Opened> {
    if data.finished(key).try_exists()? {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is finished already"));
    }
    let path = data.incoming(key);
    let mut options = File::options();
    options.read(true).write(true);
    let opened = match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && end == 0 => {
            let make = || options.clone().create(true).truncate(true).open(&path);
            Opened { file: data.within(parent(&path)?, make)?, named: false }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let gone = format!("its file {} is gone, and {end} durable bytes with it", path.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, gone));
        }
        Err(error) => return Err(error),
        Ok(file) => Opened { file, named: has_token },
    };
    if !opened.named {
        data.make_durable(parent(&path)?)?;
    }
    let length = opened.file.metadata()?.len();
    if length < end {
        let short = format!("its file {} has {length} bytes, but {end} were durable", path.display());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
    }
    if length > end {
        opened.file.set_len(end)?;
    }
    Ok(opened)
}

/// Opens the file of a blob, finished or open.
pub(super) fn open_for_reading(data: &DataFolder, key: &BlobKey) -> io::Result<File> {
    // The third look finds a blob that was finished between the first two.
    for path in [data.finished(key), data.incoming(key), data.finished(key)] {
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Moves a blob that is durable up to `end` to its final place.
pub(super) fn finish(data: &DataFolder, key: &BlobKey, end: u64, size_bytes: u64) -> io::Result<()> {
    if is_finished(data, key, size_bytes)? {
        return Ok(());
    }
    if end < size_bytes {
        let short = format!("only {end} of its {size_bytes} bytes are durable");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, short));
    }
    move_to_final_place(data, key, size_bytes)
}

/// Removes the files of a blob, durably: its owner forgets it now, and a file that a power loss brought back would stay
/// for ever.
pub(super) fn remove(data: &DataFolder, key: &BlobKey) -> io::Result<()> {
    for path in [data.incoming(key), data.finished(key)] {
        if remove_if_there(&path)? {
            match sync_folder(parent(&path)?) {
                // Another removal has found the folder empty and taken it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                synced => synced?,
            }
        }
    }
    data.remove_empty(key);
    Ok(())
}

/// Whether the blob is at its final place. If so, its name there is durable: an earlier call may have died before.
fn is_finished(data: &DataFolder, key: &BlobKey, size_bytes: u64) -> io::Result<bool> {
    let path = data.finished(key);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(found) if found.len() != size_bytes => {
            Err(io::Error::other(format!("it is finished with {} bytes, not with {size_bytes}", found.len())))
        }
        Ok(_) => {
            data.make_durable(parent(&path)?)?;
            sync_folder(parent(&path)?)?;
            Ok(true)
        }
    }
}

fn move_to_final_place(data: &DataFolder, key: &BlobKey, size_bytes: u64) -> io::Result<()> {
    let (from, to) = (data.incoming(key), data.finished(key));
    let mut options = File::options();
    options.write(true);
    let file = match options.open(&from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && size_bytes == 0 => {
            data.within(parent(&from)?, || options.clone().create(true).truncate(false).open(&from))?
        }
        opened => opened?,
    };
    let length = file.metadata()?.len();
    if length < size_bytes {
        let short = format!("its file {} has only {length} of {size_bytes} bytes", from.display());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
    }
    if length > size_bytes {
        file.set_len(size_bytes)?;
    }
    // The bytes are durable since their checkpoint; this is for the file's size. So it may be tried again after it
    // has failed, which would be wrong for bytes.
    file.sync_data()?;
    data.within(parent(&to)?, || fs::rename(&from, &to))?;
    sync_folder(parent(&to)?)?;
    match sync_folder(parent(&from)?) {
        // Another call has removed it as empty, and the old name with it.
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}
