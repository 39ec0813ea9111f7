//! Partitions: one for each day and table.
//!
//! Partitions are created ahead, so that a commit never waits for one. A row whose day has no partition goes
//! to the partition `…_other`, which should stay empty: it receives identifiers with a time far from the
//! present, and all rows if the clock of the server is wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::Row;

use crate::bucket::{DAY, SourceId, day_of, first_id_of};
use crate::day_tables::label;
use crate::fault::{Fault, Remedy};
use crate::params::params;
use crate::rows::Columns;
use crate::session::Session;
use crate::transaction::one;
use domain::time::Timestamp;

/// The number of days for which partitions are created ahead.
const AHEAD: u32 = 7;

/// The age below which an empty day is kept.
const KEPT_EMPTY: Duration = Duration::from_hours(72);

/// The advisory lock of the node that creates or drops partitions.
const DAYS_LOCK: i64 = 0x4c6f_6e65_0000_0000;

/// The partitioned tables, with the storage parameters of their partitions.
pub(crate) const TABLES: [(&str, &str); 6] = [
    ("uploads", "fillfactor = 90"),
    // Two fifths of each page are reserved for new versions of its rows.
    ("upload_progress", "fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000"),
    ("upload_metadata", "fillfactor = 100"),
    ("events", "fillfactor = 100"),
    ("deliveries", "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_limit = 2000"),
    ("attempts", "fillfactor = 100"),
];

/// Creates the missing partitions from the day before `now` on.
pub(crate) async fn make_ahead(session: &Session, now: Timestamp) -> Result<(), Fault> {
    make(session, now.minus(DAY), AHEAD + 2).await
}

/// Creates the missing partitions of a number of days, each in a separate transaction.
pub(crate) async fn make(session: &Session, from: Timestamp, days: u32) -> Result<(), Fault> {
    for (table, storage) in TABLES {
        let is_there = session.query("SELECT to_regclass($1) IS NOT NULL", params![format!("{table}_other")]).await?;
        if !one(&is_there)?.get::<_, bool>(0) {
            locked(
                session,
                &format!("CREATE TABLE IF NOT EXISTS {table}_other PARTITION OF {table} DEFAULT WITH ({storage})"),
            )
            .await?;
        }
    }
    for day in 0..days {
        let day = day_of(from.plus(Duration::from_hours(24) * day));
        for (table, storage) in TABLES {
            let name = format!("{table}_{}", label(day));
            let is_there = session.query("SELECT to_regclass($1) IS NOT NULL", params![name.clone()]).await?;
            if one(&is_there)?.get::<_, bool>(0) {
                continue;
            }
            let (first, end) = (uuid_text(first_id_of(day)), uuid_text(first_id_of(day.plus(DAY))));
            let sql = format!(
                "CREATE TABLE IF NOT EXISTS {name} PARTITION OF {table} FOR VALUES FROM ('{first}') TO ('{end}')
                     WITH ({storage})"
            );
            locked(session, &sql).await?;
        }
    }
    Ok(())
}

/// The days of the table of uploads, oldest first, with the time at which each begins.
const DAYS: &str = "SELECT right(relname::text, 8),
         (extract(epoch FROM to_date(right(relname::text, 8), 'YYYYMMDD')) * 1000)::bigint
     FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
     WHERE inhparent = 'uploads'::regclass AND relname::text ~ '^uploads_[0-9]{8}$' ORDER BY relname::text";

/// Returns the first identifiers of the days that have partitions, oldest first.
pub(crate) async fn first_ids(session: &Session) -> Result<Vec<SourceId>, Fault> {
    let first_id = |row: &Row| Ok(first_id_of(Timestamp::from_unix_ms(row.try_get(1)?)));
    session.query(DAYS, &[]).await?.iter().map(first_id).collect()
}

/// Returns the end of the days from `now` on whose partitions exist in all tables.
pub(crate) async fn end(session: &Session, now: Timestamp) -> Result<Timestamp, Fault> {
    const YOUNG: &str = "SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE relname::text ~ '_[0-9]{8}$' AND right(relname::text, 8) >= $1";
    let found = session.query(YOUNG, params![label(now)]).await?;
    let found: BTreeSet<String> = found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let mut day = day_of(now);
    while TABLES.iter().all(|(table, _)| found.contains(&format!("{table}_{}", label(day)))) {
        day = day.plus(DAY);
    }
    Ok(day)
}

/// The maximum number of rows counted in the partition of a table for other days.
pub const MOST_OTHER_ROWS: u32 = 1_000;

/// Counts the rows of days without partitions, at most [`MOST_OTHER_ROWS`] of each table.
pub(crate) async fn count_other(session: &Session) -> Result<u64, Fault> {
    let count = |(table, _): (&str, &str)| {
        format!("(SELECT count(*) FROM (SELECT 1 FROM {table}_other LIMIT {MOST_OTHER_ROWS}) AS found)")
    };
    let rows = session.query(&format!("SELECT {}", TABLES.map(count).join(" + ")), &[]).await?;
    Columns::of(one(&rows)?).next()
}

/// Drops the partitions of empty days, and returns the number of days. A day is dropped from all tables
/// together, so that a later row of that day does not find only some of its partitions.
pub(crate) async fn drop_empty(session: &Session, now: Timestamp) -> Result<u32, Fault> {
    let youngest = label(now.minus(KEPT_EMPTY));
    let mut dropped = 0;
    for row in session.query(DAYS, &[]).await? {
        let day: String = row.try_get(0)?;
        if day < youngest && is_empty(session, &day).await? {
            dropped += u32::from(drop_day(session, &day).await?);
        }
    }
    Ok(dropped)
}

async fn is_empty(session: &Session, day: &str) -> Result<bool, Fault> {
    let has_rows: Vec<String> =
        TABLES.iter().map(|(table, _)| format!("EXISTS (SELECT 1 FROM {table}_{day})")).collect();
    let rows = session.query(&format!("SELECT NOT ({})", has_rows.join(" OR ")), &[]).await?;
    Ok(one(&rows)?.try_get(0)?)
}

/// Drops a day unless it has received rows since it was checked.
async fn drop_day(session: &Session, day: &str) -> Result<bool, Fault> {
    session.begin().await?;
    let dropping = async {
        session.query("SELECT pg_advisory_xact_lock($1)", params![DAYS_LOCK]).await?;
        // All tables are locked and then checked again. Commits wait for this only briefly.
        let parents = TABLES.map(|(table, _)| table).join(", ");
        session.batch(&format!("LOCK TABLE {parents} IN ACCESS EXCLUSIVE MODE")).await?;
        if !is_empty(session, day).await? {
            return Ok::<_, Fault>(false);
        }
        for (table, _) in TABLES {
            session.batch(&format!("DROP TABLE {table}_{day}")).await?;
        }
        Ok(true)
    };
    // A table in use is left for the next run.
    session.end_upkeep(dropping.await).await
}

/// The number of attempts to lock a table in use.
const TRIES: u32 = 10;

async fn locked(session: &Session, sql: &str) -> Result<(), Fault> {
    for _ in 1..TRIES {
        match try_locked(session, sql).await {
            Err(fault) if fault.remedy() == Remedy::Repeat => {}
            settled => return settled,
        }
    }
    try_locked(session, sql).await
}

async fn try_locked(session: &Session, sql: &str) -> Result<(), Fault> {
    session.begin().await?;
    let made = async {
        session.query("SELECT pg_advisory_xact_lock($1)", params![DAYS_LOCK]).await?;
        session.batch(sql).await?;
        session.commit().await
    };
    let made = made.await;
    if made.is_err() {
        session.roll_back().await;
    }
    made
}

fn uuid_text(id: [u8; 16]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_a_name_and_bounds() {
        let day = day_of(Timestamp::from_unix_ms(1_795_300_290_123));
        assert_eq!(label(day).len(), 8);
        assert_eq!(uuid_text([0xab; 16]), "abababab-abab-abab-abab-abababababab");
        assert!(uuid_text(first_id_of(day)) < uuid_text(first_id_of(day.plus(DAY))));
    }
}
