//! The data folder: where a blob's file lies in it, and folders that survive a power loss.
//!
//! ```text
//! <root>/incoming/<key>.part     open blobs
//! <root>/files/<key>             finished ones
//! ```
//!
//! Everything here blocks.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::{fs, io};

use rustix::fs::OFlags;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{BlobDurability, Guard};
use crate::lock::lock;
use crate::{BlobKey, Capacity};
use pool::BLOCK_BYTES;

/// Why a data folder cannot be used, for the person who has to do something about it.
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
    /// Which folder the root was at start, whatever has its name later.
    root_identity: (u64, u64),
    incoming: PathBuf,
    files: PathBuf,
    /// Kept for its owner while any work or writer is left.
    _guard: Option<Guard>,
    /// Folders whose names this process has made durable. Held locked while the tree of folders changes.
    durable: Mutex<HashSet<PathBuf>>,
    durability: BlobDurability,
    direct: bool,
    /// Descriptors for direct writes that may still be opened.
    direct_files: Arc<Semaphore>,
}

/// A file that is open for writes past the page cache.
#[derive(Debug)]
pub(super) struct DirectFile {
    pub(super) file: File,
    _permit: OwnedSemaphorePermit,
}

/// Above this many, what is known of folders is forgotten; then it costs a few syncs to know it again.
const MAX_DURABLE: usize = 4096;

impl BlobFolder {
    /// Makes the folder if need be and sees whether it takes bytes, and direct
    /// writes unless no file may be opened for them.
    pub(super) fn open(
        root: PathBuf,
        durability: BlobDurability,
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
        let root_identity = identity(&root).map_err(unreadable)?;
        let durable = Mutex::default();
        let permits = Arc::new(Semaphore::new(direct_files.min(Semaphore::MAX_PERMITS)));
        let mut folder = Self {
            root,
            root_identity,
            incoming,
            files,
            _guard: guard,
            durable,
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

    /// Whether files here take writes past the page cache.
    pub(super) fn takes_direct_writes(&self) -> bool {
        self.direct
    }

    /// Opens the file of an open blob once more, for writes past the page cache. `None` where the file system
    /// takes none, or as many files are open for that as may be.
    pub(super) fn open_direct(&self, key: &BlobKey) -> io::Result<Option<DirectFile>> {
        if !self.direct {
            return Ok(None);
        }
        let Ok(permit) = Arc::clone(&self.direct_files).try_acquire_owned() else { return Ok(None) };
        Ok(Some(DirectFile { file: open_direct(&self.incoming(key))?, _permit: permit }))
    }

    fn try_direct_write(&self) -> bool {
        // Where blobs are written, which may be another disk than the root's.
        let path = self.incoming.join("longshore.probe");
        let tried = File::create(&path).and_then(|_| write_probe_directly(&path));
        let tried = remove_if_there(&path).and(tried);
        match &tried {
            Ok(()) => tracing::info!("large writes use direct I/O and bypass the page cache"),
            Err(error) => {
                tracing::info!(%error, "the data folder does not support direct I/O; all writes use the page cache")
            }
        }
        tried.is_ok()
    }

    /// The file of a blob while it is open. Keys hold no dot, so no key can name another's file.
    pub(super) fn incoming(&self, key: &BlobKey) -> PathBuf {
        self.incoming.join(format!("{key}.part"))
    }

    /// The file of a finished blob.
    pub(super) fn finished(&self, key: &BlobKey) -> PathBuf {
        self.files.join(key.as_str())
    }

    /// The folders below which all blobs lie.
    pub(super) fn roots(&self) -> [&Path; 2] {
        [&self.incoming, &self.files]
    }

    /// The key of the blob whose file this is, if it is one.
    pub(super) fn key_of(&self, path: &Path) -> Option<BlobKey> {
        let name = match path.strip_prefix(&self.incoming) {
            Ok(below) => below.to_str()?.strip_suffix(".part")?,
            Err(_) => path.strip_prefix(&self.files).ok()?.to_str()?,
        };
        BlobKey::new(name).ok()
    }

    /// Does `work`, which makes a file in `folder`, with `folder` durably there.
    ///
    /// Until there is a file in it, the folder may be removed as empty at any moment. Then it is made once
    /// more, and nobody may remove it until `work` is done.
    pub(super) fn within<T>(&self, folder: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        self.make_durable(folder)?;
        match work() {
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {
                let mut durable = self.durable();
                durable.retain(|known| !folder.starts_with(known));
                self.make_chain(folder, &mut durable)?;
                work()
            }
            done => done,
        }
    }

    /// Makes a folder below the root, and its name and those above it durable, whoever
    /// made them: another caller, or a process that died in between, may have made a
    /// folder that a power loss would still take away.
    pub(super) fn make_durable(&self, folder: &Path) -> io::Result<()> {
        self.make_chain(folder, &mut self.durable())
    }

    fn make_chain(&self, folder: &Path, durable: &mut HashSet<PathBuf>) -> io::Result<()> {
        if durable.contains(folder) {
            return Ok(());
        }
        let below_root = |path: &&Path| path.starts_with(&self.root) && **path != self.root;
        let mut chain: Vec<&Path> = folder.ancestors().take_while(below_root).collect();
        chain.reverse();
        for step in chain {
            if durable.contains(step) {
                continue;
            }
            match fs::create_dir(step) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => self.sync_folder(parent(step)?)?,
            }
            if durable.len() >= MAX_DURABLE {
                durable.clear();
            }
            durable.insert(step.to_owned());
        }
        Ok(())
    }

    /// Makes the name of an open blob durable.
    pub(super) fn sync_incoming(&self, key: &BlobKey) -> io::Result<()> {
        self.sync_folder(parent(&self.incoming(key))?)
    }

    /// Makes the names in a folder durable, be they new, moved or gone.
    pub(super) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        match self.durability {
            BlobDurability::Strict => sync_folder(folder),
            BlobDurability::Relaxed => Ok(()),
        }
    }

    pub(super) fn durability(&self) -> BlobDurability {
        self.durability
    }

    /// Makes the bytes of a file durable, and its length.
    pub(super) fn sync_data(&self, file: &File) -> io::Result<()> {
        match self.durability {
            BlobDurability::Strict => file.sync_data(),
            BlobDurability::Relaxed => Ok(()),
        }
    }

    /// Removes the folders that held an open blob, as far up as they
    /// are empty. Tidiness only: failing is fine.
    pub(super) fn remove_empty(&self, key: &BlobKey) {
        let file = self.incoming(key);
        let mut durable = self.durable();
        for folder in file.ancestors().skip(1).take_while(|folder| *folder != self.incoming) {
            if fs::remove_dir(folder).is_err() {
                return;
            }
            durable.remove(folder);
        }
    }

    /// Writes a few bytes and removes them again.
    pub(super) fn probe(&self) -> io::Result<()> {
        if identity(&self.root)? != self.root_identity {
            // Moved away, or hidden by a disk mounted over it: what is
            // written here would not be with the rest.
            return Err(io::Error::other("the folder was replaced after the start"));
        }
        let path = self.root.join("longshore.probe");
        write_probe(&path)?;
        remove_if_there(&path).map(drop)
    }

    /// What the file system has left for programs like this one, if it knows its size.
    pub(super) fn available_bytes(&self) -> io::Result<Option<u64>> {
        Ok(self.capacity()?.map(|capacity| capacity.free_bytes))
    }

    /// How large the file system is, and what it has left for programs like this one. Some in memory or on
    /// the network do not know: they call themselves empty of everything.
    pub(super) fn capacity(&self) -> io::Result<Option<Capacity>> {
        let found = rustix::fs::statvfs(&self.incoming)?;
        Ok((found.f_blocks > 0).then(|| Capacity {
            size_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        }))
    }

    fn lay_out(&self) -> io::Result<()> {
        self.make_durable(&self.incoming)?;
        self.make_durable(&self.files)?;
        let path = self.root.join("longshore.probe");
        write_probe(&path)?.sync_all()?;
        remove_if_there(&path).map(drop)
    }

    fn is_divided(&self) -> io::Result<bool> {
        Ok(fs::metadata(&self.incoming)?.dev() != fs::metadata(&self.files)?.dev())
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        lock(&self.durable)
    }
}

/// The folder that holds `path`.
pub(super) fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a folder"))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Says whether it was there.
pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The file system and the number of a folder.
fn identity(folder: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(folder)?;
    Ok((found.dev(), found.ino()))
}

/// Makes a folder that is not there, and those above it, so that a power loss does
/// not take them away. The path is absolute.
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

/// Opens a file for writes past the page cache.
fn open_direct(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    File::options().write(true).custom_flags(flags).open(path)
}

fn write_probe_directly(path: &Path) -> io::Result<()> {
    let memory = vec![0; 2 * BLOCK_BYTES];
    let aligned = memory.as_ptr().align_offset(BLOCK_BYTES);
    open_direct(path)?.write_all(&memory[aligned..][..BLOCK_BYTES])
}

fn write_probe(path: &Path) -> io::Result<File> {
    // Two probes at once may share the file: each still finds out whether it can be written.
    let mut probe = File::create(path)?;
    probe.write_all(&[0; 4096])?;
    Ok(probe)
}
