//! Days whose uploads are finished, and what a read needs to know about them.
//!
//! An event has the position of its transaction, and a delivery the time of its creation, but both lie in the
//! partition of their upload. An event about an old upload, such as its removal, is therefore new and lies on
//! an old day. Reads would have to look at every day.
//!
//! Each day that is past has a row in `past_days` with the positions of its oldest and newest event and the
//! newest delivery. Reads look at the days that are not past, and at the past ones with something new enough.
//!
//! - A transaction that adds an event or a delivery on a past day updates its row, in the same transaction.
//!   It has read where past days end while it held the lock on the endpoints.
//! - Days become past in a transaction that holds this lock exclusively. No other transaction can have read
//!   the end and not be committed then.
//! - A day does not become past before its uploads have no work left, so rows of past days rarely change.

use std::sync::LazyLock;

use tokio_postgres::Row;

use crate::bucket::{DAY, SourceId, all_buckets, day_of, first_id_of};
use crate::fault::Fault;
use crate::log::position;
use crate::params::{Param, params};
use crate::query::AFTER_ALL;
use crate::read_source::ReadSource;
use crate::rows::Columns;
use crate::session::Session;
use crate::transaction::{ENDPOINTS_LOCK, Transaction, one};
use crate::unfinished;
use crate::windows::{KnownDays, MOST_DAYS, Window};
use domain::id::{DeliveryId, UploadId};
use domain::time::Timestamp;
use state::Result;

/// Some days that a read looks at together, at most [`MOST_DAYS`] with partitions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadWindow {
    pub(crate) days: Window,
    /// No event has a lower position.
    pub(crate) oldest_position: i64,
    /// No delivery has a higher identifier.
    pub(crate) newest_delivery: [u8; 16],
}

impl ReadWindow {
    /// All days.
    pub(crate) const ALL: Self =
        Self { days: Window { from: NOTHING, end: AFTER_ALL }, oldest_position: i64::MIN, newest_delivery: AFTER_ALL };
}

/// The end of the past days, and each of them that has an event after `$1` and a delivery from `$2` on.
const WITH_NEWS: &str = "SELECT past, from_id, end_id, oldest_position, newest_delivery
     FROM unfinished_from LEFT JOIN past_days ON newest_position > $1 AND newest_delivery >= $2 AND from_id < past
     ORDER BY from_id";

const NOTHING: [u8; 16] = [0; 16];

/// Returns the days that may have events after a position, those with the oldest events first.
pub(crate) async fn with_events(
    from: ReadSource<'_>,
    operation: &'static str,
    days: &KnownDays,
    after: i64,
) -> Result<Vec<ReadWindow>> {
    let rows = from.query(operation, WITH_NEWS, params![after, NOTHING]).await?;
    by_oldest(&rows, days).map_err(|fault| fault.into_error(operation))
}

/// Returns the days that may have deliveries from an identifier on, those with the newest deliveries first.
pub(crate) async fn with_deliveries(
    from: ReadSource<'_>,
    operation: &'static str,
    days: &KnownDays,
    least: [u8; 16],
) -> Result<Vec<ReadWindow>> {
    let rows = from.query(operation, WITH_NEWS, params![i64::MIN, least]).await?;
    by_newest(&rows, days).map_err(|fault| fault.into_error(operation))
}

fn by_oldest(rows: &[Row], days: &KnownDays) -> std::result::Result<Vec<ReadWindow>, Fault> {
    let mut windows = windows(rows, days)?;
    windows.sort_by_key(|window| window.oldest_position);
    Ok(windows)
}

fn by_newest(rows: &[Row], days: &KnownDays) -> std::result::Result<Vec<ReadWindow>, Fault> {
    let mut windows = windows(rows, days)?;
    windows.sort_by_key(|window| std::cmp::Reverse(window.newest_delivery));
    Ok(windows)
}

/// Reads the response to [`WITH_NEWS`].
fn windows(rows: &[Row], days: &KnownDays) -> std::result::Result<Vec<ReadWindow>, Fault> {
    let (mut past, mut found) = (NOTHING, Vec::new());
    for row in rows {
        let mut columns = Columns::of(row);
        past = columns.next()?;
        let from: Option<SourceId> = columns.next()?;
        if let Some(from) = from {
            let days = Window { from, end: columns.next()? };
            found.push(ReadWindow { days, oldest_position: columns.next()?, newest_delivery: columns.next()? });
        }
    }
    let mut joined = join(found, days);
    let mut from = past;
    while from < AFTER_ALL {
        let window = days.from(from);
        joined.push(ReadWindow { days: window, oldest_position: i64::MIN, newest_delivery: AFTER_ALL });
        from = window.end;
    }
    Ok(joined)
}

/// Joins neighboring days to windows of limited size.
fn join(found: Vec<ReadWindow>, days: &KnownDays) -> Vec<ReadWindow> {
    let mut joined = Vec::<ReadWindow>::new();
    for next in found {
        if let Some(last) = joined.last_mut()
            && last.days.end == next.days.from
            && days.within(Window { from: last.days.from, end: next.days.end }).len() <= MOST_DAYS
        {
            last.days.end = next.days.end;
            last.oldest_position = last.oldest_position.min(next.oldest_position);
            last.newest_delivery = last.newest_delivery.max(next.newest_delivery);
        } else {
            joined.push(next);
        }
    }
    joined
}

static TOUCH: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE past_days SET newest_position = greatest(newest_position, {}),
             newest_delivery = greatest(newest_delivery, $3)
         WHERE EXISTS (SELECT 1 FROM unnest($4::uuid[]) AS touched (source)
             WHERE touched.source >= from_id AND touched.source < end_id)",
        position("$1", "$2"),
    )
});

/// The days to which a transaction adds events or deliveries.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    sources: std::collections::BTreeSet<SourceId>,
    newest_delivery: [u8; 16],
}

impl Touched {
    /// Notes an event or a delivery of a source.
    pub(crate) fn note(&mut self, source: &SourceId, delivery: Option<DeliveryId>) {
        self.sources.insert(first_id_of(day_of(UploadId::from_bytes(*source).made_at())));
        if let Some(delivery) = delivery {
            self.newest_delivery = self.newest_delivery.max(*delivery.as_bytes());
        }
    }
}

impl Transaction<'_> {
    /// Returns the days that may have events after a position, those with the oldest events first.
    pub(crate) async fn days_with_events(&self, after: i64) -> std::result::Result<Vec<ReadWindow>, Fault> {
        by_oldest(&self.query(WITH_NEWS, params![after, NOTHING]).await?, &self.shared.days)
    }

    /// Returns the days that may have deliveries from an identifier on, those with the newest deliveries
    /// first.
    pub(crate) async fn days_with_deliveries(&self, least: DeliveryId) -> std::result::Result<Vec<ReadWindow>, Fault> {
        by_newest(&self.query(WITH_NEWS, params![i64::MIN, *least.as_bytes()]).await?, &self.shared.days)
    }

    /// Records what this transaction has added on past days.
    pub(crate) async fn record_past_days(&mut self) -> std::result::Result<(), Fault> {
        let Some(oldest) = self.touched.sources.first().copied() else { return Ok(()) };
        // Holds the lock that keeps further days from becoming past.
        self.subscribers().await?;
        let past = self.unfinished_from().await?.past;
        if oldest >= past {
            return Ok(());
        }
        let sources: Vec<SourceId> = self.touched.sources.range(..past).copied().collect();
        let values = params![self.shared.position_base(), self.last_event(), self.touched.newest_delivery, sources];
        self.execute(&TOUCH, values).await.map(drop)
    }
}

/// Adds the row of a past day.
const PASS: &str = "INSERT INTO past_days (from_id, end_id, oldest_position, newest_position, newest_delivery)
     SELECT $1, $2,
         coalesce((SELECT position FROM events WHERE source_id >= $1 AND source_id < $2 AND bucket = ANY($3::bigint[])
             ORDER BY position LIMIT 1), 0),
         coalesce((SELECT position FROM events WHERE source_id >= $1 AND source_id < $2 AND bucket = ANY($3::bigint[])
             ORDER BY position DESC LIMIT 1), 0),
         coalesce((SELECT id FROM deliveries WHERE source_id >= $1 AND source_id < $2 AND bucket = ANY($3::bigint[])
             ORDER BY id DESC LIMIT 1), '00000000-0000-0000-0000-000000000000')";

/// Makes days past whose uploads have no work left, at most those before the day before `now`, if they are at
/// least `least` days with partitions.
pub(crate) async fn pass(
    session: &Session,
    days: &KnownDays,
    now: Timestamp,
    least: usize,
) -> std::result::Result<(), Fault> {
    loop {
        let bounds = unfinished::read(session).await?;
        let first_unfinished = UploadId::from_bytes(bounds.uploads).made_at();
        let end = first_id_of(day_of(now.minus(DAY).min(first_unfinished)));
        let ready = Window { from: bounds.past, end };
        if ready.from >= ready.end || days.within(ready).len() < least.max(1) {
            return Ok(());
        }
        let window = Window { end: days.from(bounds.past).end.min(end), ..ready };
        if !pass_window(session, days, window).await? {
            return Ok(());
        }
    }
}

async fn pass_window(session: &Session, days: &KnownDays, window: Window) -> std::result::Result<bool, Fault> {
    session.begin().await?;
    let passing = async {
        // In a statement before the others, so that they see everything that was committed under the lock.
        session.query("SELECT pg_advisory_xact_lock($1)", params![ENDPOINTS_LOCK]).await?;
        if unfinished::read(session).await?.past != window.from {
            return Ok::<_, Fault>(false);
        }
        let mut starts = days.within(window);
        // Identifiers before the first day, or between two days, belong to the day before them.
        starts.retain(|start| *start > window.from);
        starts.insert(0, window.from);
        let ends = starts.iter().skip(1).copied().chain([window.end]);
        for (from, end) in starts.iter().copied().zip(ends) {
            session.execute(PASS, params![from, end, all_buckets()]).await?;
        }
        session.execute("UPDATE unfinished_from SET past = $1", params![window.end]).await?;
        Ok(true)
    };
    // If somebody holds the lock for long, the next run tries again.
    session.end_upkeep(passing.await).await
}

/// Reads where past days end.
pub(crate) async fn end(from: ReadSource<'_>, operation: &'static str) -> Result<SourceId> {
    let rows = from.query(operation, "SELECT past FROM unfinished_from", &[]).await?;
    one(&rows).and_then(|row| Columns::of(row).next()).map_err(|fault| fault.into_error(operation))
}

/// The value of a window for a statement.
pub(crate) fn bounds(window: &ReadWindow) -> [Param; 2] {
    [Param::from(window.days.from), Param::from(window.days.end)]
}
