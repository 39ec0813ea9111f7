//! The data folder. It contains the database, the server's key and the files of uploads. One process at a
//! time may use it, or several that all share it.
//!
//! The lock, which is exclusive or shared like the folder, is a file handle that is released when the
//! process ends, however it ends. Background tasks that write in the folder hold the handle too, so that
//! the folder stays locked until they are done.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use storage::local::{FolderAccess, Guard};

/// A data folder that this process has locked.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    lock: Arc<File>,
}

/// Reason why a data folder cannot be used, as advice for the operator.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("could not create the data folder {path}: create it manually, or choose another folder (data_dir)")]
    NotMade { path: PathBuf, source: io::Error },
    #[error("{path} is not a folder: rename the file, or choose another data folder (data_dir)")]
    NotAFolder { path: PathBuf },
    #[error(
        "the data folder {path} is not writable: check its owner and permissions, and whether its disk is full or \
         mounted read-only"
    )]
    NotWritable { path: PathBuf, source: io::Error },
    #[error(
        "the data folder {path} is in use by another running server: stop that server, or set another data_dir for \
         this one"
    )]
    InUse { path: PathBuf },
    #[error(
        "the data folder {path} is shared by running servers: set storage.shared = true for this one too, or another \
         data_dir"
    )]
    Shared { path: PathBuf },
    #[error(
        "the data folder {path} is in use by a server that does not share it: set storage.shared = true for every \
         server in this folder, or another data_dir for this one"
    )]
    NotShared { path: PathBuf },
    #[error("could not lock the data folder {path}: its file system may not support locks")]
    NotLocked { path: PathBuf, source: io::Error },
}

impl DataFolder {
    /// Creates the folder durably if it does not exist, and locks it. Blocks; intended for the start.
    pub fn take(path: &Path, access: FolderAccess) -> Result<Self, TakeError> {
        let path = std::path::absolute(path).map_err(|source| TakeError::NotMade { path: path.to_owned(), source })?;
        if path.exists() && !path.is_dir() {
            return Err(TakeError::NotAFolder { path });
        }
        storage::local::make_folder(&path).map_err(|source| TakeError::NotMade { path: path.clone(), source })?;
        let lock = File::options().write(true).create(true).truncate(false).open(path.join("longshore.lock"));
        let lock = lock.map_err(|source| TakeError::NotWritable { path: path.clone(), source })?;
        let wanted = match access {
            FolderAccess::Exclusive => FlockOperation::NonBlockingLockExclusive,
            FolderAccess::Shared => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(&lock, wanted) {
            Ok(()) => Ok(Self { path, lock: Arc::new(lock) }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(refusal(path, &lock, access)),
            Err(error) => Err(TakeError::NotLocked { path, source: error.into() }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a guard that keeps the folder locked until it is dropped.
    pub fn lock(&self) -> Guard {
        Arc::<File>::clone(&self.lock)
    }
}

/// Returns the reason why the folder cannot be locked.
fn refusal(path: PathBuf, lock: &File, access: FolderAccess) -> TakeError {
    if access == FolderAccess::Shared {
        return TakeError::NotShared { path };
    }
    match rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => TakeError::Shared { path },
        Err(_) => TakeError::InUse { path },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_refused_to_a_second_until_the_first_and_all_that_write_in_it_are_gone() {
        let root = tempfile::tempdir().unwrap();
        let first = DataFolder::take(root.path(), FolderAccess::Exclusive).unwrap();
        let refused = DataFolder::take(root.path(), FolderAccess::Exclusive).unwrap_err();
        assert!(matches!(refused, TakeError::InUse { .. }), "{refused:?}");
        assert!(refused.to_string().contains("in use by another running server"), "{refused}");
        let guard = first.lock();
        drop(first);
        assert!(matches!(DataFolder::take(root.path(), FolderAccess::Exclusive), Err(TakeError::InUse { .. })));
        drop(guard);
        DataFolder::take(root.path(), FolderAccess::Exclusive).unwrap();
    }

    #[test]
    fn a_folder_is_shared_only_by_servers_that_all_share_it() {
        let root = tempfile::tempdir().unwrap();
        let take = |access| DataFolder::take(root.path(), access);
        let sharing = [take(FolderAccess::Shared).unwrap(), take(FolderAccess::Shared).unwrap()];
        let refused = take(FolderAccess::Exclusive).unwrap_err();
        assert!(matches!(refused, TakeError::Shared { .. }), "{refused:?}");
        assert!(refused.to_string().contains("set storage.shared = true for this one too"), "{refused}");
        drop(sharing);
        let _alone = take(FolderAccess::Exclusive).unwrap();
        let refused = take(FolderAccess::Shared).unwrap_err();
        assert!(matches!(refused, TakeError::NotShared { .. }), "{refused:?}");
        assert!(refused.to_string().contains("set storage.shared = true for every server"), "{refused}");
        assert!(matches!(take(FolderAccess::Exclusive), Err(TakeError::InUse { .. })));
    }

    #[test]
    fn what_is_no_folder_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(
            matches!(DataFolder::take(&file, FolderAccess::Exclusive), Err(TakeError::NotAFolder { path }) if path == file)
        );
        assert!(matches!(
            DataFolder::take(&file.join("data"), FolderAccess::Exclusive),
            Err(TakeError::NotMade { .. })
        ));
        // Even root cannot create files in these.
        assert!(matches!(
            DataFolder::take(Path::new("/proc/longshore-data"), FolderAccess::Exclusive),
            Err(TakeError::NotMade { .. })
        ));
        assert!(matches!(
            DataFolder::take(Path::new("/proc"), FolderAccess::Exclusive),
            Err(TakeError::NotWritable { .. })
        ));
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
        drop(DataFolder::take(&root.path().join("a/b/data"), FolderAccess::Exclusive).unwrap());
    }
}
