//! Migrations of the database, forward only.
//!
//! The table `schema` records the latest migration and the oldest program that may still use the database.
//! One node migrates at a time, in one transaction, so a crash leaves either the old or the new schema.

use crate::fault::Fault;
use crate::params::params;
use crate::session::Session;
use crate::transaction::one;
use state::{Error, Result};

/// All migrations in order. The number of a migration is its position, starting with 1.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_state.sql")];

/// The advisory lock of the node that migrates.
const MIGRATION_LOCK: i64 = 0x4c6f_6e66_0000_0000;

const OPERATION: &str = "migrate the database";

const FOUND: &str = "SELECT to_regclass('schema') IS NOT NULL, to_regclass('uploads') IS NOT NULL,
     to_regclass('upload_progress') IS NOT NULL";

pub(crate) async fn run(session: &Session) -> Result<()> {
    let migrated = async {
        session.begin().await?;
        session.query("SELECT set_config('lock_timeout', '60000', true)", &[]).await?;
        session.query("SELECT pg_advisory_xact_lock($1)", params![MIGRATION_LOCK]).await?;
        let had = version(session).await?;
        if let Err(newer) = had {
            session.roll_back().await;
            return Ok(Err(newer));
        }
        let had = had.unwrap_or(0);
        if had > 0 && had < known() {
            tracing::info!(from_version = had, to_version = known(), "migrating the database; this may take minutes");
        }
        for (number, sql) in (1..).zip(MIGRATIONS) {
            if number > had {
                session.batch(sql).await?;
            }
        }
        if had == 0 {
            session
                .execute("INSERT INTO schema (version, min_program) VALUES ($1::bigint, $1)", params![known()])
                .await?;
        } else if had < known() {
            session.execute("UPDATE schema SET version = $1::bigint", params![known()]).await?;
        }
        session.commit().await?;
        Ok(Ok(()))
    };
    match migrated.await {
        Ok(outcome) => outcome,
        Err(fault) => Err(Fault::into_error(fault, OPERATION)),
    }
}

/// Returns the number of the latest migration; 0 for an empty database. Fails if this program must not use
/// the database.
async fn version(session: &Session) -> std::result::Result<std::result::Result<i64, Error>, Fault> {
    let rows = session.query(FOUND, &[]).await?;
    let row = one(&rows)?;
    let (has_schema, has_uploads, has_progress): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if !has_schema && !has_uploads {
        return Ok(Ok(0));
    }
    if !(has_schema && has_progress) {
        return Err(Fault::Unusable(
            "the database contains tables of another program; configure an empty database, or one of this program"
                .to_owned(),
        ));
    }
    let rows = session.query("SELECT version::bigint, min_program::bigint FROM schema", &[]).await?;
    let row = one(&rows)?;
    let (found, min_program): (i64, i64) = (row.get(0), row.get(1));
    Ok(if min_program > known() { Err(Error::TooNew { found, known: known() }) } else { Ok(found.max(1)) })
}

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}
