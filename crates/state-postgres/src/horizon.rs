//! The horizon of the log: readers read up to the oldest transaction that is still open.
//!
//! Committed events beyond the horizon wait for the group commits of other connections, which takes
//! milliseconds. A reader waits that long, so that it sees every event that was committed before its call.
//!
//! The oldest transaction of a snapshot may belong to another database on the same server. It writes no
//! events here, and it may stay open for a long time. When the wait takes longer than usual, the reader
//! checks the locks to find the open transactions of this database: a transaction that has locked or written
//! a row here holds a lock on a table from before it was assigned its number until it ends.

use std::time::{Duration, Instant};

use tokio_postgres::Row;

use crate::PostgresStore;
use crate::bucket::{SourceId, all_buckets};
use crate::fault::Fault;
use crate::log::PLACE_BITS;
use crate::params::params;
use crate::rows::Columns;
use crate::session::Session;
use crate::transaction::{Shared, one};
use crate::{past_days, unfinished};
use state::Result;

/// The maximum time that a reader waits for older transactions, and the interval between its checks.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The time after which a reader checks the locks, which costs the server more.
const ASK_AFTER: Duration = Duration::from_millis(20);

/// The newest position before the horizon of the snapshot, and the newest position of all.
/// Past days, those before `$3`, have rows with their newest positions.
const NEWEST: &str = "SELECT greatest((SELECT position FROM events
             WHERE position < ((pg_snapshot_xmin(pg_current_snapshot())::text::bigint + $1) << 20)
                 AND bucket = ANY($2::bigint[]) AND source_id >= $3
             ORDER BY position DESC LIMIT 1),
             (SELECT max(newest_position) FROM past_days
             WHERE newest_position < ((pg_snapshot_xmin(pg_current_snapshot())::text::bigint + $1) << 20)), 0),
         greatest((SELECT position FROM events WHERE bucket = ANY($2::bigint[]) AND source_id >= $3
             ORDER BY position DESC LIMIT 1), (SELECT max(newest_position) FROM past_days), 0)";

const NEWEST_BEFORE: &str = "SELECT greatest((SELECT position FROM events
             WHERE position < $1 AND bucket = ANY($2::bigint[]) AND source_id >= $3 ORDER BY position DESC LIMIT 1),
         (SELECT max(newest_position) FROM past_days WHERE newest_position < $1), 0)";

/// The number that the next transaction gets, and those of the open transactions that may have written to
/// this database; null for a transaction that has a lock but no number yet.
const WRITING: &str = "WITH locks AS MATERIALIZED (SELECT * FROM pg_locks)
     SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, open.virtualtransaction IS NOT NULL,
         (SELECT transactionid::text::bigint FROM locks AS own
             WHERE own.virtualtransaction = open.virtualtransaction AND own.locktype = 'transactionid'
                 AND own.mode = 'ExclusiveLock' AND own.granted LIMIT 1)
     FROM (SELECT 1) AS always LEFT JOIN (
         SELECT DISTINCT virtualtransaction FROM locks
         WHERE locktype = 'relation' AND mode <> 'AccessShareLock'
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS open ON true";

impl PostgresStore {
    /// Returns the position of the newest event that may be read. Waits briefly until events committed before
    /// the call may be read; after that time it returns the position reached so far, and true as a sign that
    /// further events follow.
    pub(crate) async fn newest_visible(&self, operation: &'static str) -> Result<(i64, bool)> {
        let began = Instant::now();
        let mut wanted = None;
        let past = past_days::end(self.primary(), operation).await?;
        loop {
            let rows = self
                .readers
                .query(operation, NEWEST, params![self.shared.position_base(), all_buckets(), past])
                .await?;
            let (mut visible, newest) = positions(&rows).map_err(|fault| fault.into_error(operation))?;
            let wanted = *wanted.get_or_insert(newest);
            if visible < wanted && began.elapsed() >= ASK_AFTER {
                visible = visible.max(self.newest_before_own_writers(operation, past).await?);
            }
            if visible >= wanted {
                return Ok((visible, false));
            }
            if began.elapsed() >= PATIENCE {
                return Ok((visible, true));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns the newest position before all transactions of this database that were open at the time of the
    /// call and may write. The events are read by a later statement than the locks: a transaction with a
    /// lower number that wrote here has either ended before that statement or held its lock.
    async fn newest_before_own_writers(&self, operation: &'static str, past: SourceId) -> Result<i64> {
        let failed = |fault: Fault| fault.into_error(operation);
        let rows = self.readers.query(operation, WRITING, &[]).await?;
        let Some(end) = own_writers_end(&rows, self.shared.position_base()).map_err(failed)? else { return Ok(0) };
        let rows = self.readers.query(operation, NEWEST_BEFORE, params![end, all_buckets(), past]).await?;
        one(&rows).and_then(|row| Columns::of(row).next()).map_err(failed)
    }
}

/// Measures for how long readers have not seen the newest events. They see them at once, unless an older
/// transaction is open.
pub(crate) async fn measure(session: &Session, shared: &Shared) -> std::result::Result<(), Fault> {
    let (base, past) = (shared.position_base(), unfinished::read(session).await?.past);
    let (mut visible, newest) = positions(&session.query(NEWEST, params![base, all_buckets(), past]).await?)?;
    if visible < newest
        && let Some(end) = own_writers_end(&session.query(WRITING, &[]).await?, base)?
    {
        let rows = session.query(NEWEST_BEFORE, params![end, all_buckets(), past]).await?;
        visible = visible.max(Columns::of(one(&rows)?).next()?);
    }
    shared.measures.horizon(visible, newest);
    Ok(())
}

/// Reads the response to [`NEWEST`].
fn positions(rows: &[Row]) -> std::result::Result<(i64, i64), Fault> {
    let mut columns = Columns::of(one(rows)?);
    Ok((columns.next()?, columns.next()?))
}

/// Returns the first position that open transactions of this database may still write, from the response to
/// [`WRITING`]; `None` while a transaction is being assigned its number.
fn own_writers_end(rows: &[Row], base: i64) -> std::result::Result<Option<i64>, Fault> {
    Ok(oldest_writer(rows)?.map(|oldest| oldest.saturating_add(base) << PLACE_BITS))
}

/// Returns the lowest number of an open transaction of this database, or the next number if there is none.
/// Returns `None` while a transaction is being assigned its number.
fn oldest_writer(rows: &[Row]) -> std::result::Result<Option<i64>, Fault> {
    let mut oldest = None;
    for row in rows {
        let mut columns = Columns::of(row);
        let (next, is_open): (i64, bool) = (columns.next()?, columns.next()?);
        let number: Option<i64> = columns.next()?;
        let number = match number {
            Some(short) => whole_number(short, next),
            None if is_open => return Ok(None),
            None => next,
        };
        oldest = Some(oldest.map_or(number, |oldest: i64| oldest.min(number)).min(next));
    }
    Ok(oldest)
}

/// Returns the full number of a transaction, given its last 32 bits and a number that it does not exceed.
fn whole_number(short: i64, next: i64) -> i64 {
    let epoch = next & !0xffff_ffff;
    let number = epoch | short;
    if number > next { number - (1 << 32) } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_transaction_is_found_by_its_end() {
        assert_eq!(whole_number(7, 9), 7);
        assert_eq!(whole_number(7, (3 << 32) + 9), (3 << 32) + 7);
        assert_eq!(whole_number(0xffff_fff0, (3 << 32) + 9), (2 << 32) + 0xffff_fff0);
    }
}
