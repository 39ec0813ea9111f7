//! Folders below the data folder whose names survive a power loss. Everything here blocks.
//!
//! A name is durable once the folder that contains it was synced. This process remembers for which folders
//! that was done. Other processes that use the data folder may remove an empty folder and create it again;
//! then a folder is the known one only if it is the same inode. It is kept open, so that the file system does
//! not reuse the number.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::{fs, io};

use super::{BlobDurability, FolderAccess};
use crate::lock::lock;

/// Above this number of known folders, they are forgotten; a few more syncs make them known again.
const MAX_KNOWN: usize = 4096;

/// The same where each of them is kept open.
const MAX_KNOWN_OPEN: usize = 64;

/// The number of times that an operation in a folder is tried while other processes remove the folder. They
/// remove it only when it is empty, once for each blob that ends in it.
const ATTEMPTS: usize = 100;

#[derive(Debug)]
pub(super) struct DurableFolders {
    root: PathBuf,
    access: FolderAccess,
    durability: BlobDurability,
    /// Locked while this process changes the tree of folders.
    known: Mutex<KnownFolders>,
}

/// The folders whose names are durable. `Some` for one that is kept open.
type KnownFolders = HashMap<PathBuf, Option<File>>;

impl DurableFolders {
    /// Returns the folders below `root`, whose own name is durable.
    pub(super) fn below(root: PathBuf, access: FolderAccess, durability: BlobDurability) -> Self {
        Self { root, access, durability, known: Mutex::default() }
    }

    /// Does `work`, which creates a file in `folder`, after making `folder`.
    ///
    /// Until it contains a file, the folder may be removed as empty at any moment. Then it is created once
    /// more, and this process cannot remove it until `work` is done.
    pub(super) fn within<T>(&self, folder: &Path, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        self.make(folder)?;
        let mut done = work();
        let mut attempts = match self.access {
            FolderAccess::Exclusive => 1,
            FolderAccess::Shared => ATTEMPTS,
        };
        while attempts > 0 && is_gone(&done) {
            attempts -= 1;
            let mut known = self.known();
            known.retain(|path, _| !folder.starts_with(path));
            done = self.make_chain(folder, &mut known).and_then(|()| work());
        }
        done
    }

    /// Creates a folder, and makes its name and those above it durable, even if they exist: another caller,
    /// or a process that died meanwhile, may have created a folder that a power loss would still remove.
    pub(super) fn make(&self, folder: &Path) -> io::Result<()> {
        self.make_chain(folder, &mut self.known())
    }

    /// Makes the names in a folder durable: new, moved and removed ones. In a shared data folder, makes the
    /// names of the folder and of those above it durable too: it may be another one than was made before.
    pub(super) fn sync(&self, folder: &Path) -> io::Result<()> {
        if self.durability == BlobDurability::Relaxed {
            return Ok(());
        }
        if self.access == FolderAccess::Shared {
            let mut known = self.known();
            for step in self.chain(folder) {
                self.learn(step, &mut known)?;
            }
        }
        sync_folder(folder)
    }

    /// Removes folders, from the innermost to the outermost, as long as they are empty.
    pub(super) fn remove_empty<'a>(&self, folders: impl Iterator<Item = &'a Path>) {
        let mut known = self.known();
        for folder in folders {
            if fs::remove_dir(folder).is_err() {
                return;
            }
            known.remove(folder);
        }
    }

    fn make_chain(&self, folder: &Path, known: &mut KnownFolders) -> io::Result<()> {
        if self.access == FolderAccess::Exclusive && known.contains_key(folder) {
            return Ok(());
        }
        for step in self.chain(folder) {
            match fs::create_dir(step) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => self.learn(step, known)?,
            }
        }
        Ok(())
    }

    /// Makes the name of a folder durable, unless it is known to be.
    fn learn(&self, folder: &Path, known: &mut KnownFolders) -> io::Result<()> {
        let (kept_open, most) = match self.access {
            FolderAccess::Exclusive if known.contains_key(folder) => return Ok(()),
            FolderAccess::Exclusive => (None, MAX_KNOWN),
            FolderAccess::Shared => (Some(File::open(folder)?), MAX_KNOWN_OPEN),
        };
        if let (Some(found), Some(Some(before))) = (&kept_open, known.get(folder))
            && identity(&found.metadata()?) == identity(&before.metadata()?)
        {
            return Ok(());
        }
        if self.durability == BlobDurability::Strict {
            sync_folder(parent(folder)?)?;
        }
        if known.len() >= most {
            known.clear();
        }
        known.insert(folder.to_owned(), kept_open);
        Ok(())
    }

    /// Returns a folder and those above it that are below the root, from the outermost to the innermost.
    fn chain<'a>(&self, folder: &'a Path) -> Vec<&'a Path> {
        let is_below = |path: &&Path| path.starts_with(&self.root) && **path != self.root;
        let mut chain: Vec<&Path> = folder.ancestors().take_while(is_below).collect();
        chain.reverse();
        chain
    }

    fn known(&self) -> MutexGuard<'_, KnownFolders> {
        lock(&self.known)
    }
}

fn is_gone<T>(outcome: &io::Result<T>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Returns the folder that contains `path`.
pub(super) fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path without a folder"))
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Returns the device and the inode number of a file or folder.
pub(super) fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(root: &Path, access: FolderAccess) -> DurableFolders {
        DurableFolders::below(root.to_owned(), access, BlobDurability::Strict)
    }

    #[test]
    fn a_folder_that_another_process_made_again_is_another_one() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        let folders = folders(root.path(), FolderAccess::Shared);
        let day = root.path().join("incoming/2026");
        folders.make(&day)?;
        let known =
            |path: &Path| folders.known().get(path).and_then(|kept| Some(identity(&kept.as_ref()?.metadata().ok()?)));
        let first = known(&day);
        fs::remove_dir(&day)?;
        fs::create_dir(&day)?;
        folders.sync(&day)?;
        assert_eq!(known(&day), Some(identity(&fs::metadata(&day)?)));
        assert_ne!(known(&day), first, "the one that was removed is open, so its number is not used again");
        Ok(())
    }

    #[test]
    fn work_is_done_however_often_others_remove_its_folder() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        let [ours, theirs] = [(); 2].map(|()| folders(root.path(), FolderAccess::Shared));
        let day = root.path().join("incoming/2026");
        let removals = std::sync::atomic::AtomicUsize::new(0);
        let file = day.join("blob");
        ours.within(&day, || {
            // Another process has found the folder empty.
            if removals.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 5 {
                theirs.remove_empty([day.as_path()].into_iter());
            }
            fs::write(&file, "bytes")
        })?;
        ours.sync(&day)?;
        assert_eq!(fs::read(&file)?, b"bytes");
        theirs.remove_empty([day.as_path()].into_iter());
        assert!(file.exists(), "it is not empty");
        Ok(())
    }

    #[test]
    fn folders_that_are_kept_open_are_few() -> io::Result<()> {
        let root = tempfile::tempdir()?;
        let folders = folders(root.path(), FolderAccess::Shared);
        for day in 0..3 * MAX_KNOWN_OPEN {
            folders.make(&root.path().join(day.to_string()))?;
            assert!(folders.known().len() <= MAX_KNOWN_OPEN);
        }
        Ok(())
    }
}
