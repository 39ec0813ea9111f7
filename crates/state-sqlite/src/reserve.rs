//! Disk space reserved for commits that free disk space.
//!
//! Even a commit that permits the deletion of a file first needs space in the log. On a full disk neither
//! clients nor expiry could delete anything. A file next to the database therefore reserves some space. When
//! a commit that frees space finds the disk full, the file is removed and the commit repeated. Until the
//! space is reserved again, no other commit is made, because it would use up the space that the next deletion
//! needs.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

/// The time before the next try to reserve the space again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The same time if the space was never reserved. Commits then continue as without a reserve.
const TRY_AGAIN_WHEN_MISSING: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct DiskReserve {
    path: PathBuf,
    size_bytes: u64,
    state: ReserveState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReserveState {
    Held,
    /// Released for a commit; with the time of the last try to reserve it again.
    Spent(Option<Instant>),
    /// No space was available at the last try, at this time.
    Missing(Instant),
}

impl DiskReserve {
    /// Reserves the space if it is available. A size of 0 disables the reserve.
    pub(super) fn of(database: &Path, size_bytes: u64) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-reserve");
        let mut reserve = Self { path: path.into(), size_bytes, state: ReserveState::Held };
        if size_bytes == 0 {
            // The file of an earlier start is no longer needed.
            reserve.remove();
        } else if let Err(error) = reserve.allocate() {
            tracing::warn!(%error, "could not reserve disk space for deleting uploads when the disk is full");
            reserve.state = ReserveState::Missing(Instant::now());
        }
        reserve
    }

    /// Reports whether only commits that free space may be made now. Tries to reserve the space again first.
    pub(super) fn is_spent(&mut self) -> bool {
        match self.state {
            ReserveState::Held => false,
            ReserveState::Spent(tried) if tried.is_some_and(|tried| tried.elapsed() < TRY_AGAIN) => true,
            ReserveState::Missing(tried) if tried.elapsed() < TRY_AGAIN_WHEN_MISSING => false,
            ReserveState::Spent(_) | ReserveState::Missing(_) => match (self.allocate(), self.state) {
                (Ok(()), state) => {
                    if matches!(state, ReserveState::Spent(_)) {
                        tracing::info!("disk space is available again; all changes are committed again");
                    }
                    self.state = ReserveState::Held;
                    false
                }
                (Err(_), ReserveState::Spent(_)) => {
                    self.state = ReserveState::Spent(Some(Instant::now()));
                    true
                }
                (Err(_), ReserveState::Held | ReserveState::Missing(_)) => {
                    self.state = ReserveState::Missing(Instant::now());
                    false
                }
            },
        }
    }

    /// Releases the space for a commit that frees more. Returns true if there was any.
    pub(super) fn release(&mut self) -> bool {
        if self.state != ReserveState::Held || self.size_bytes == 0 {
            return false;
        }
        tracing::warn!("the disk is full; until space is available, only changes that free space are committed");
        self.remove();
        self.state = ReserveState::Spent(Some(Instant::now()));
        true
    }

    fn allocate(&self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
        let allocated = self.extend(&file);
        if allocated.is_err() {
            self.remove();
        }
        allocated
    }

    fn extend(&self, file: &File) -> io::Result<()> {
        if file.metadata()?.len() > self.size_bytes {
            file.set_len(self.size_bytes)?;
        }
        Ok(fallocate(file, FallocateFlags::empty(), 0, self.size_bytes)?)
    }

    fn remove(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "could not remove the file that reserves disk space");
            }
            Ok(()) | Err(_) => {}
        }
    }
}
