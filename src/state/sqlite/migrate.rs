//! Brings a database up to date, forward only.
//!
//! `user_version` is the number of the last migration a database has had. It changes in the transaction of the
//! migration, so a crash leaves the one state or the other.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::TransactionBehavior;

use crate::state::Error;
use crate::state::Result;
use crate::state::sqlite::connection;
use crate::state::sqlite::failed;

/// In order; the number of a migration is its place, from 1.
const MIGRATIONS: [&str; 8] = [
    include_str!("../migrations/sqlite/0001_uploads_and_outbox.sql"),
    include_str!("../migrations/sqlite/0002_facts_terms_reports.sql"),
    include_str!("../migrations/sqlite/0003_endpoints_and_replay.sql"),
    include_str!("../migrations/sqlite/0004_hook_calls.sql"),
    include_str!("../migrations/sqlite/0005_news_without_upload.sql"),
    include_str!("../migrations/sqlite/0006_next_attempt.sql"),
    include_str!("../migrations/sqlite/0007_deliveries_by_age.sql"),
    include_str!("../migrations/sqlite/0008_unsealed.sql"),
];

const OPERATION: &str = "migrate the database";

/// Looks at the database through a connection that cannot write, before anything else touches it.
pub(super) fn refuse_newer(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let found = connection::open_reader(path).and_then(|connection| version(&connection));
    let found = found.map_err(failed("read the version of the database"))?;
    let known = known();
    if found > known { Err(Error::TooNew { found, known }) } else { Ok(()) }
}

pub(super) fn run(connection: &mut Connection) -> Result<()> {
    let had = version(connection).map_err(failed(OPERATION))?;
    for (number, sql) in (1..).zip(MIGRATIONS) {
        if number > had {
            apply(connection, number, sql).map_err(failed(OPERATION))?;
        }
    }
    Ok(())
}

fn apply(connection: &mut Connection, number: i64, sql: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "user_version", number)?;
    transaction.commit()
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}
