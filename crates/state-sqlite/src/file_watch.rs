//! Detects the removal or replacement of the database files while they are open.
//!
//! SQLite continues with the files it has open: data written there would be missing at the next start, and so
//! would every commit acknowledged meanwhile. The names are therefore checked after each group commit, before
//! any caller gets a reply, and once a second while there are only reads. While the files are gone, all
//! operations fail; if the very same files return, they contain everything that was written.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lock::lock;
use domain::time::milliseconds;
use state::{Error, Result};

/// The maximum age of a check while nothing is written.
const CHECK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct FileWatch {
    database: WatchedFile,
    log: WatchedFile,
    gone: AtomicBool,
    since: Instant,
    /// The time of the last check, in milliseconds after `since`.
    checked_at_ms: AtomicU64,
}

/// A file, and its identity when it was first seen.
#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    first: Mutex<Option<Identity>>,
}

/// The file system and the inode number of a file.
type Identity = (u64, u64);

impl FileWatch {
    /// Watches the open database at `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let log = PathBuf::from(format!("{}-wal", path.display()));
        let file_watch = Self {
            database: WatchedFile::new(path.to_owned()),
            log: WatchedFile::new(log),
            gone: AtomicBool::new(false),
            since: Instant::now(),
            checked_at_ms: AtomicU64::new(0),
        };
        file_watch.database.is_the_same()?;
        file_watch.log.is_the_same()?;
        Ok(file_watch)
    }

    /// Fails if the files are gone; checks them again if the last check is too old.
    pub(super) fn check_cached(&self, operation: &'static str) -> Result<()> {
        let now_ms = milliseconds(self.since.elapsed());
        let due_ms = milliseconds(CHECK_EVERY);
        if now_ms.saturating_sub(self.checked_at_ms.load(Ordering::Relaxed)) >= due_ms {
            self.checked_at_ms.store(now_ms, Ordering::Relaxed);
            return self.check(operation);
        }
        if self.gone.load(Ordering::Relaxed) { Err(Error::Gone { operation }) } else { Ok(()) }
    }

    /// Fails if the files are gone. Blocks, but only for data that the kernel has cached.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        let lost = [&self.database, &self.log].into_iter().find(|file| matches!(file.is_the_same(), Ok(false)));
        let was_gone = self.gone.swap(lost.is_some(), Ordering::Relaxed);
        match lost {
            Some(lost) => {
                if !was_gone {
                    tracing::error!(
                        path = %lost.path.display(),
                        "a database file was removed or replaced while the server was running; requests that need the \
                         database now get 503. Restore the files from a backup or from /proc/{}/fd, and restart the \
                         server",
                        std::process::id(),
                    );
                }
                Err(Error::Gone { operation })
            }
            None => {
                if was_gone {
                    tracing::info!("the database files are back");
                }
                Ok(())
            }
        }
    }
}

impl WatchedFile {
    fn new(path: PathBuf) -> Self {
        Self { path, first: Mutex::default() }
    }

    /// Reports whether the file first seen under this name is still there. A file that was never seen is not
    /// missing.
    fn is_the_same(&self) -> io::Result<bool> {
        let found = match std::fs::metadata(&self.path) {
            Ok(found) if found.nlink() > 0 => Some((found.dev(), found.ino())),
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut first = lock(&self.first);
        if first.is_none() {
            *first = found;
        }
        Ok(*first == found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_removed_or_replaced_is_noticed_until_it_is_back() -> io::Result<()> {
        for name in ["state.db", "state.db-wal"] {
            for replaced in [false, true] {
                let place = tempfile::tempdir()?;
                let path = place.path().join("state.db");
                std::fs::write(&path, "")?;
                let file_watch = FileWatch::of(&path)?;
                assert!(file_watch.check("test").is_ok(), "a log that was never there is not missed");
                std::fs::write(place.path().join("state.db-wal"), "")?;
                assert!(file_watch.check("test").is_ok());
                let (lost, aside) = (place.path().join(name), place.path().join("aside"));
                std::fs::rename(&lost, &aside)?;
                if replaced {
                    std::fs::write(&lost, "")?;
                }
                assert!(matches!(file_watch.check("test"), Err(Error::Gone { .. })), "{name}, replaced: {replaced}");
                std::fs::rename(&aside, &lost)?;
                assert!(file_watch.check_cached("test").is_err(), "not looked up again so soon");
                assert!(file_watch.check("test").is_ok() && file_watch.check_cached("test").is_ok());
            }
        }
        Ok(())
    }
}
