//! The data folder: the paths of blobs in it, and folders that survive a power loss.
//!
//! ```text
//! <root>/incoming/<key>.part     open blobs
//! <root>/files/<key>             finished blobs
//! ```
//!
//! Everything here blocks.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use rustix::fs::OFlags;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::durable_folders::{DurableFolders, identity, parent, sync_folder};
use super::{BlobDurability, FolderAccess, Guard};
use crate::{BlobKey, Capacity};
use pool::BLOCK_BYTES;

/// The reason why a data folder cannot be used, for the operator who has to fix it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("could not create the data folder {path}: create it manually, or choose another folder (data_dir)")]
    NotMade { path: PathBuf, source: io::Error },
    #[error("{path} is not a folder: rename the file, or choose another data folder (data_dir)")]
    NotAFolder { path: PathBuf },
    #[error(
        "the data folder {path} is not writable: check its owner and permissions, and whether its disk is full or \
         mounted read-only"
    )]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("{incoming} and {files} are on different file systems, so finished blobs cannot be moved between them")]
    Divided { incoming: PathBuf, files: PathBuf },
}

#[derive(Debug)]
pub(super) struct BlobFolder {
    root: PathBuf,
    /// The device and inode of the root at the start, whatever has its path later.
    root_identity: (u64, u64),
    incoming: PathBuf,
    files: PathBuf,
    /// Kept for its owner while any work or writer is left.
    _guard: Option<Guard>,
    folders: DurableFolders,
    durability: BlobDurability,
    direct: bool,
    /// Permits for descriptors for direct writes.
    direct_files: Arc<Semaphore>,
}

/// A file that is open for direct writes.
#[derive(Debug)]
pub(super) struct DirectFile {
    pub(super) file: File,
    _permit: OwnedSemaphorePermit,
}

impl BlobFolder {
    /// Creates the folder if necessary and checks that it takes bytes, and direct writes unless
    /// `direct_files` is 0.
    pub(super) fn open(
        root: PathBuf,
        (access, durability): (FolderAccess, BlobDurability),
        direct_files: usize,
        guard: Option<Guard>,
    ) -> Result<Self, OpenError> {
        let root = std::path::absolute(&root).map_err(|source| OpenError::NotMade { path: root, source })?;
        let (incoming, files) = (root.join("incoming"), root.join("files"));
        if let Some(path) = [&root, &incoming, &files].into_iter().find(|path| path.exists() && !path.is_dir()) {
            return Err(OpenError::NotAFolder { path: path.clone() });
        }
        make_folder(&root).map_err(|source| OpenError::NotMade { path: root.clone(), source })?;
        let unreadable = |source| OpenError::NotWritable { path: root.clone(), source };
        let root_identity = fs::metadata(&root).map(|found| identity(&found)).map_err(unreadable)?;
        let folders = DurableFolders::below(root.clone(), access, durability);
        let permits = Arc::new(Semaphore::new(direct_files.min(Semaphore::MAX_PERMITS)));
        let mut folder = Self {
            root,
            root_identity,
            incoming,
            files,
            _guard: guard,
            folders,
            durability,
            direct: false,
            direct_files: permits,
        };
        folder.lay_out().map_err(|source| OpenError::NotWritable { path: folder.root.clone(), source })?;
        if folder.is_divided().unwrap_or(false) {
            return Err(OpenError::Divided { incoming: folder.incoming, files: folder.files });
        }
        if direct_files > 0 {
            folder.direct = folder.try_direct_write();
        }
        Ok(folder)
    }

    /// Reports whether files here support direct writes.
    pub(super) fn takes_direct_writes(&self) -> bool {
        self.direct
    }

    /// Opens the file of an open blob again, for direct writes. Returns `None` if the file system does not
    /// support them, or if the limit of such files is reached.
    pub(super) fn open_direct(&self, key: &BlobKey) -> io::Result<Option<DirectFile>> {
        if !self.direct {
            return Ok(None);
        }
        let Ok(permit) = Arc::clone(&self.direct_files).try_acquire_owned() else { return Ok(None) };
        Ok(Some(DirectFile { file: open_direct(&self.incoming(key), &mut File::options())?, _permit: permit }))
    }

    fn try_direct_write(&self) -> bool {
        // In the folder where blobs are written, which may be on another disk than the root.
        let path = self.incoming.join("longshore.probe");
        let tried = write_probe_directly(&path);
        let tried = remove_if_there(&path).and(tried);
        match &tried {
            Ok(()) => tracing::info!("large writes use direct I/O and bypass the page cache"),
            Err(error) => {
                tracing::info!(%error, "the data folder does not support direct I/O; all writes use the page cache")
            }
        }
        tried.is_ok()
    }

    /// Returns the file of a blob while it is open. Keys contain no dot, so no key can name another's file.
    pub(super) fn incoming(&self, key: &BlobKey) -> PathBuf {
        self.incoming.join(format!("{key}.part"))
    }

    /// Returns the file of a finished blob.
    pub(super) fn finished(&self, key: &BlobKey) -> PathBuf {
        self.files.join(key.as_str())
    }

    /// Returns the folders that contain all blobs.
    pub(super) fn roots(&self) -> [&Path; 2] {
        [&self.incoming, &self.files]
    }

    /// Returns the key of the blob that a file belongs to, if it is one.
    pub(super) fn key_of(&self, path: &Path) -> Option<BlobKey> {
        let name = match path.strip_prefix(&self.incoming) {
            Ok(below) => below.to_str()?.strip_suffix(".part")?,
            Err(_) => path.strip_prefix(&self.files).ok()?.to_str()?,
        };
        BlobKey::new(name).ok()
    }

    /// Returns the folders of this data folder.
    pub(super) fn folders(&self) -> &DurableFolders {
        &self.folders
    }

    /// Makes the name of an open blob durable.
    pub(super) fn sync_incoming(&self, key: &BlobKey) -> io::Result<()> {
        self.folders.sync(parent(&self.incoming(key))?)
    }

    pub(super) fn durability(&self) -> BlobDurability {
        self.durability
    }

    /// Makes the bytes and the length of a file durable.
    pub(super) fn sync_data(&self, file: &File) -> io::Result<()> {
        match self.durability {
            BlobDurability::Strict => file.sync_data(),
            BlobDurability::Relaxed => Ok(()),
        }
    }

    /// Removes the folders that contained an open blob, as far up as they are empty. This only cleans up: a
    /// failure does not matter.
    pub(super) fn remove_empty(&self, key: &BlobKey) {
        let file = self.incoming(key);
        self.folders.remove_empty(file.ancestors().skip(1).take_while(|folder| *folder != self.incoming));
    }

    /// Writes a few bytes and removes them again.
    pub(super) fn probe(&self) -> io::Result<()> {
        if identity(&fs::metadata(&self.root)?) != self.root_identity {
            // The folder was moved away, or is hidden by a disk mounted over it: bytes written here would not
            // be with the rest.
            return Err(io::Error::other("the folder was replaced after the start"));
        }
        let path = self.root.join("longshore.probe");
        write_probe(&path)?;
        remove_if_there(&path).map(drop)
    }

    /// Returns the free space for unprivileged programs, if the file system knows its size.
    pub(super) fn available_bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.capacity()?.map(|capacity| capacity.free_bytes))
    }

    /// Returns the size of the file system and its free space for unprivileged programs. Some file systems in
    /// memory or on the network do not know them, and report zero blocks.
    pub(super) fn capacity(&self) -> io::Result<Option<Capacity>> {
        let found = rustix::fs::statvfs(&self.incoming)?;
        Ok((found.f_blocks > 0).then(|| Capacity {
            size_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        }))
    }

    fn lay_out(&self) -> io::Result<()> {
        self.folders.make(&self.incoming)?;
        self.folders.make(&self.files)?;
        let path = self.root.join("longshore.probe");
        write_probe(&path)?.sync_all()?;
        remove_if_there(&path).map(drop)
    }

    fn is_divided(&self) -> io::Result<bool> {
        Ok(fs::metadata(&self.incoming)?.dev() != fs::metadata(&self.files)?.dev())
    }
}

/// Removes a file. Reports whether it existed.
pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates a folder that does not exist, and those above it, so that they survive a power loss. The path is
/// absolute.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder)?;
    make_folder(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    sync_folder(above)
}

/// Opens a file for direct writes, past the page cache.
fn open_direct(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    options.write(true).custom_flags(flags).open(path)
}

fn write_probe_directly(path: &Path) -> io::Result<()> {
    let memory = vec![0; 2 * BLOCK_BYTES];
    let aligned = memory.as_ptr().align_offset(BLOCK_BYTES);
    // Created and opened in one call: another process may remove the file of its own probe at any moment.
    let mut probe = open_direct(path, File::options().create(true).truncate(true))?;
    probe.write_all(&memory[aligned..][..BLOCK_BYTES])
}

fn write_probe(path: &Path) -> io::Result<File> {
    // Two simultaneous probes may share the file: each still finds out whether it can be written.
    let mut probe = File::create(path)?;
    probe.write_all(&[0; 4096])?;
    Ok(probe)
}
