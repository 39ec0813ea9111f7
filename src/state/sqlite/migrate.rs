//! Brings a database up to date, forward only.
//!
//! `user_version` is the number of the last migration a database has had. It changes in the transaction of the
//! migration, so a crash leaves the one state or the other.

use std::path::Path;

use sqlx::AssertSqlSafe;
use sqlx::ConnectOptions;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteConnection;

use crate::state::Error;
use crate::state::Result;
use crate::state::sqlite::failed;

/// In order; the number of a migration is its place, from 1.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/sqlite/0001_uploads_and_outbox.sql")];

const OPERATION: &str = "migrate the database";

/// Looks at the database through a connection that cannot write, before anything else touches it.
pub(super) async fn refuse_newer(path: &Path, options: &SqliteConnectOptions) -> Result<()> {
    if !tokio::fs::try_exists(path).await.is_ok_and(|exists| exists) {
        return Ok(());
    }
    let look = async {
        let mut connection = options.clone().read_only(true).connect().await?;
        let found = version(&mut connection).await?;
        connection.close().await?;
        Ok(found)
    };
    let found: i64 = look.await.map_err(failed("read the version of the database"))?;
    let known = known();
    if found > known { Err(Error::TooNew { found, known }) } else { Ok(()) }
}

pub(super) async fn run(connection: &mut SqliteConnection) -> Result<()> {
    let had = version(connection).await.map_err(failed(OPERATION))?;
    for (number, sql) in (1..).zip(MIGRATIONS) {
        if number > had {
            apply(connection, number, sql).await.map_err(failed(OPERATION))?;
        }
    }
    Ok(())
}

async fn apply(connection: &mut SqliteConnection, number: i64, sql: &'static str) -> sqlx::Result<()> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(sql).execute(&mut *transaction).await?;
    // A pragma takes no parameters; the number is our own.
    let note = AssertSqlSafe(format!("PRAGMA user_version = {number}"));
    sqlx::raw_sql(note).execute(&mut *transaction).await?;
    transaction.commit().await
}

async fn version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("PRAGMA user_version").fetch_one(connection).await
}

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}
