//! The oldest days with unfinished work: uploads that the sweeper may have to work on, and deliveries that
//! are not finished.
//!
//! Frequent statements look for such rows only. Each names the bound as a value, so the server plans it for
//! the younger partitions. The bound is always at or before the oldest unfinished row:
//!
//! - A transaction that adds unfinished work before the bound lowers it, in the same transaction. It has read
//!   the bound while it held the lock on the endpoints.
//! - The bound is raised by a transaction that holds this lock exclusively, after it has looked at the days
//!   that it passes. No other transaction can have read the bound and not be committed then.

use tokio_postgres::Row;

use crate::PostgresStore;
use crate::bucket::{DAY, SourceId, all_buckets, day_of, first_id_of};
use crate::fault::Fault;
use crate::params::params;
use crate::read_source::ReadSource;
use crate::rows::Columns;
use crate::session::{Planning, Session};
use crate::transaction::{ENDPOINTS_LOCK, one};
use crate::windows::KnownDays;
use domain::id::UploadId;
use domain::stage::Stage;
use domain::time::Timestamp;
use domain::upload::{Record, StoredBytes};
use state::Result;

/// The first identifiers that unfinished work may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnfinishedFrom {
    pub(crate) uploads: SourceId,
    pub(crate) deliveries: SourceId,
    /// The end of the past days: see [`past_days`](crate::past_days).
    pub(crate) past: SourceId,
}

impl UnfinishedFrom {
    pub(crate) fn read(columns: &mut Columns<'_>) -> std::result::Result<Self, Fault> {
        Ok(Self { uploads: columns.next()?, deliveries: columns.next()?, past: columns.next()? })
    }
}

pub(crate) const READ: &str = "SELECT uploads, deliveries, past FROM unfinished_from";

pub(crate) const LOWER: &str =
    "UPDATE unfinished_from SET uploads = least(uploads, $1), deliveries = least(deliveries, $2)";

/// Reads the bounds.
pub(crate) async fn read(session: &Session) -> std::result::Result<UnfinishedFrom, Fault> {
    UnfinishedFrom::read(&mut Columns::of(one(&session.query_as(READ, Planning::Once(None), &[]).await?)?))
}

/// Reports whether the sweeper may have to work on an upload: it is not at its end, or its bytes remain to be
/// removed.
pub(crate) fn has_work(record: &Record) -> bool {
    let keeps_bytes = record.bytes == StoredBytes::Kept;
    match record.stage {
        Stage::Created | Stage::Receiving | Stage::Stalled | Stage::Received | Stage::Verified | Stage::Stored => true,
        Stage::Completed => keeps_bytes && record.removed.is_some(),
        Stage::Ended(_) => keeps_bytes,
    }
}

/// The conditions of the sweeper's partial indexes that together match every upload with work.
macro_rules! work_condition {
    (expiring) => {
        "(stage IN ('created', 'receiving', 'stalled') OR (stage = 'received' AND role = 'partial'))"
    };
    (unsettled) => {
        "(stage IN ('verified', 'stored') OR (stage = 'received' AND role <> 'partial')
             OR (stage = 'created' AND role = 'final'))"
    };
    (removable) => {
        "bytes_kept AND (stage IN ('failed', 'expired', 'terminated') OR removed_at_ms IS NOT NULL)"
    };
}
pub(crate) use work_condition;

macro_rules! oldest_with_work {
    ($kind:tt) => {
        concat!(
            "(SELECT id FROM uploads WHERE id >= $1 AND id < $2 AND bucket = ANY($3::bigint[]) AND ",
            work_condition!($kind),
            " ORDER BY id LIMIT 1)"
        )
    };
}

/// The oldest upload with work in a range.
const OLDEST_UPLOAD: &str = concat!(
    "SELECT least(",
    oldest_with_work!(expiring),
    ", ",
    oldest_with_work!(unsettled),
    ", ",
    oldest_with_work!(removable),
    ")"
);

/// The source of the oldest unfinished delivery in a range.
const OLDEST_DELIVERY: &str = "SELECT (SELECT source_id FROM deliveries
     WHERE source_id >= $1 AND source_id < $2 AND bucket = ANY($3::bigint[]) AND finished_at_ms IS NULL
     ORDER BY source_id LIMIT 1)";

/// A bound, and how it is raised.
struct Bound {
    oldest: &'static str,
    raise: &'static str,
    of: fn(UnfinishedFrom) -> SourceId,
}

const BOUNDS: [Bound; 2] = [
    Bound {
        oldest: OLDEST_UPLOAD,
        raise: "UPDATE unfinished_from SET uploads = $2 WHERE uploads = $1",
        of: |found| found.uploads,
    },
    Bound {
        oldest: OLDEST_DELIVERY,
        raise: "UPDATE unfinished_from SET deliveries = $2 WHERE deliveries = $1",
        of: |found| found.deliveries,
    },
];

/// Raises the bounds past the days without unfinished work, at most to the day before `now`.
pub(crate) async fn raise(session: &Session, days: &KnownDays, now: Timestamp) -> std::result::Result<(), Fault> {
    let most = first_id_of(day_of(now.minus(DAY)));
    for bound in &BOUNDS {
        let mut from = (bound.of)(read(session).await?);
        while from < most {
            let end = days.from(from).end.min(most);
            let next = match oldest(session, bound, from, end).await? {
                Some(oldest) => first_id_of(day_of(UploadId::from_bytes(oldest).made_at())),
                None => end,
            };
            if next <= from || !raise_to(session, bound, from, next).await? {
                break;
            }
            from = next;
        }
    }
    Ok(())
}

async fn oldest(
    session: &Session,
    bound: &Bound,
    from: SourceId,
    end: SourceId,
) -> std::result::Result<Option<SourceId>, Fault> {
    let rows = session.query(bound.oldest, params![from, end, all_buckets()]).await?;
    Columns::of(one(&rows)?).next()
}

/// Raises a bound unless it has changed or work was added since. Returns true if it was raised.
async fn raise_to(
    session: &Session,
    bound: &Bound,
    from: SourceId,
    next: SourceId,
) -> std::result::Result<bool, Fault> {
    session.begin().await?;
    let raising = async {
        // In a statement before the others, so that they see everything that was committed under the lock.
        session.query("SELECT pg_advisory_xact_lock($1)", params![ENDPOINTS_LOCK]).await?;
        if oldest(session, bound, from, next).await?.is_some() {
            return Ok::<_, Fault>(false);
        }
        Ok(session.execute(bound.raise, params![from, next]).await? > 0)
    };
    // If somebody holds the lock for long, the next run tries again.
    session.end_upkeep(raising.await).await
}

impl PostgresStore {
    /// Reads the bounds for a statement that follows.
    pub(crate) async fn unfinished_from(&self, operation: &'static str) -> Result<UnfinishedFrom> {
        read_from(self.primary(), operation).await
    }
}

/// Reads the bounds for a statement that follows on the same server.
pub(crate) async fn read_from(from: ReadSource<'_>, operation: &'static str) -> Result<UnfinishedFrom> {
    let found = from.query_as(operation, READ, Planning::Once(None), &[]).await?;
    let read = |row: &Row| UnfinishedFrom::read(&mut Columns::of(row));
    one(&found).and_then(read).map_err(|fault| fault.into_error(operation))
}
