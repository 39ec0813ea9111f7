//! The position of the primary that the reads of this node must include.
//!
//! A node that has answered a write, or a read from the primary, must not show an older state afterwards. It
//! only notes that it has done so. The position is read from the primary when it is needed: for the response
//! to a write, or before a read from a replica. One statement serves everyone who waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::fault::Fault;
use crate::rows::Columns;
use crate::sessions::Sessions;
use crate::transaction::one;
use domain::position::CommitPosition;
use state::Result;

const OPERATION: &str = "read the position of the primary";

/// The timeline of the primary as hexadecimal digits, the place in its log at which the next record begins,
/// and the sizes of the log's pages and files. What was committed before the statement lies before that place
/// (scale-out P16).
const READ: &str = "SELECT left(pg_walfile_name(next), 8), (next - '0/0'::pg_lsn)::bigint,
         current_setting('wal_block_size')::bigint, pg_size_bytes(current_setting('wal_segment_size'))
     FROM pg_current_wal_insert_lsn() AS next";

/// The sizes of the headers of the log's pages, and of the first page of each file.
const PAGE_HEADER: u64 = 24;
const FILE_HEADER: u64 = 40;

/// The time that the response to a write waits for its position.
const LIMIT: Duration = Duration::from_secs(1);

/// The position that includes everything this node has answered.
#[derive(Debug, Default)]
pub(crate) struct AnsweredPosition {
    /// The number of answers noted.
    noted: AtomicU64,
    known: tokio::sync::Mutex<Known>,
}

/// A position, and the number of the answers that it includes.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    includes: u64,
    position: Option<CommitPosition>,
}

impl AnsweredPosition {
    /// Notes that an answer shows what is committed on the primary by now.
    pub(crate) fn note(&self) {
        self.noted.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns a position that includes every answer noted before the call. `None` if there was none. Waits a
    /// bounded time for the primary.
    pub(crate) async fn get(&self, primary: &Sessions) -> Result<Option<CommitPosition>> {
        // The limit includes the wait for others, whose statements may fail one after the other.
        let late = |_| Fault::Overdue(LIMIT.as_secs()).into_error(OPERATION);
        tokio::time::timeout(LIMIT, self.find(primary)).await.map_err(late)?
    }

    async fn find(&self, primary: &Sessions) -> Result<Option<CommitPosition>> {
        let wanted = self.noted.load(Ordering::Acquire);
        let mut known = self.known.lock().await;
        if known.includes < wanted {
            let includes = self.noted.load(Ordering::Acquire);
            let position = read(primary).await?;
            *known = Known { includes, position: Some(known.position.map_or(position, |old| old.later(position))) };
        }
        Ok(known.position)
    }

    /// Raises the position to one that an answer from a replica may have shown.
    pub(crate) async fn raise(&self, shown: CommitPosition) {
        let mut known = self.known.lock().await;
        known.position = Some(known.position.map_or(shown, |old| old.later(shown)));
    }
}

/// Reads the position of the primary, within a bounded time.
pub(crate) async fn read(primary: &Sessions) -> Result<CommitPosition> {
    let late = |_| Fault::Overdue(LIMIT.as_secs()).into_error(OPERATION);
    let rows = tokio::time::timeout(LIMIT, primary.query(OPERATION, READ, &[])).await.map_err(late)??;
    let read = || {
        let mut columns = Columns::of(one(&rows)?);
        let (timeline, next): (String, u64) = (columns.next()?, columns.next()?);
        let offset = end_before(next, columns.next()?, columns.next()?);
        let timeline = u32::from_str_radix(&timeline, 16);
        let timeline = timeline.map_err(|_| Fault::Unreadable("pg_walfile_name".to_owned()))?;
        Ok(CommitPosition { timeline, offset })
    };
    read().map_err(|fault: Fault| fault.into_error(OPERATION))
}

/// Returns the end of the last record before the place of the next one. They differ if a page is full: a
/// replica has replayed everything when it has reached the end.
fn end_before(next: u64, page: u64, file: u64) -> u64 {
    let after = |start: u64, size: u64| next.checked_rem(size).is_some_and(|within| within == start);
    if after(FILE_HEADER, file) {
        next - FILE_HEADER
    } else if after(PAGE_HEADER, page) {
        next - PAGE_HEADER
    } else {
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_an_empty_page_is_not_waited_for() {
        const PAGE: u64 = 8 << 10;
        const FILE: u64 = 16 << 20;
        for (next, end) in [
            (FILE + 3 * PAGE + 24, FILE + 3 * PAGE),
            (FILE + 40, FILE),
            (FILE + 3 * PAGE + 40, FILE + 3 * PAGE + 40),
            (FILE + 3 * PAGE + 32, FILE + 3 * PAGE + 32),
            (FILE + 3 * PAGE, FILE + 3 * PAGE),
        ] {
            assert_eq!(end_before(next, PAGE, FILE), end);
        }
        assert_eq!(end_before(24, 0, 0), 24);
    }
}
