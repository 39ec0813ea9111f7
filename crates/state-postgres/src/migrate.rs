//! Migrations of the database, forward only, beside programs of the version before.
//!
//! The table `schema` records the latest migration and the oldest program that may still use the database.
//! One node migrates at a time. A migration and its number are committed together, or a migration can be
//! repeated; a crash therefore never leaves an unknown schema.
//!
//! A migration that needs the lock of a busy table waits for it only briefly and tries again, so that the
//! statements queued behind it are not held up. One that contracts the schema is applied only while no
//! program that needs the old form has the database open: every open store holds a lock that names the schema
//! it knows.

use std::time::{Duration, Instant};

use crate::fault::{Fault, Remedy};
use crate::index_build;
use crate::params::params;
use crate::schema::{Change, Migration, Schema};
use crate::session::Session;
use crate::transaction::one;
use state::{MigrationEffect, PendingMigration, SchemaStatus};

/// The advisory lock of the node that migrates.
const MIGRATION_LOCK: i64 = 0x4c6f_6e66_0000_0000;

/// The advisory locks of open stores: the lower half is the number of the latest migration that they know.
const KNOWN_LOCK: i64 = 0x4c6f_6e6d_0000_0000;

/// The interval between attempts to get a lock that another session holds.
const TRY_AGAIN: Duration = Duration::from_millis(250);

/// The time within which a migration must get the lock of a table.
const LOCKS_WITHIN: Duration = Duration::from_mins(10);

/// The time within which another node must have migrated.
const OTHERS_MIGRATE_WITHIN: Duration = Duration::from_hours(6);

/// The migrations that may be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// Those beside which programs of the version before keep working.
    Expansions,
    All,
}

/// Migrates the database. Returns the schema it had before.
pub(crate) async fn run(session: &Session, schema: Schema, allowed: Allowed) -> Result<SchemaStatus, Fault> {
    lock(session).await?;
    let before = status(session, schema).await?;
    if before.found > 0 && !before.pending.is_empty() {
        tracing::info!(
            from_version = before.found,
            to_version = before.known,
            "migrating the database; this may take minutes"
        );
    }
    for (number, migration) in schema.migrations().filter(|(number, _)| *number > before.found) {
        // No program uses an empty database.
        if migration.effect() == MigrationEffect::Contract && before.found > 0 {
            if allowed == Allowed::Expansions {
                postpone(schema, number)?;
                break;
            }
            refuse_beside_older(session, migration.min_program.unwrap_or(number)).await?;
        }
        apply(session, number, migration).await?;
    }
    session.query("SELECT pg_advisory_unlock($1)", params![MIGRATION_LOCK]).await?;
    Ok(before)
}

/// Compares the schema of the database with that of this program. Fails if this program must not use the
/// database.
pub(crate) async fn status(session: &Session, schema: Schema) -> Result<SchemaStatus, Fault> {
    let (found, min_program) = version(session).await?;
    let known = schema.known();
    if min_program > known {
        return Err(Fault::TooNew { found, known });
    }
    let pending = schema.migrations().filter(|(number, _)| *number > found);
    let pending = pending
        .map(|(number, migration)| PendingMigration { number, name: migration.name, effect: migration.effect() })
        .collect();
    Ok(SchemaStatus { found, known, pending })
}

/// Fails if this program needs a newer schema, and changes nothing.
pub(crate) async fn require(session: &Session, schema: Schema) -> Result<(), Fault> {
    let status = status(session, schema).await?;
    let needed = status.pending.iter().rfind(|migration| migration.effect == MigrationEffect::Expand);
    match needed {
        Some(needed) => Err(Fault::Unusable(format!(
            "the database has migration {}, and this version needs {}; a read node changes nothing: start a node of \
             another role first, or run `longshore migrate`",
            status.found, needed.number
        ))),
        None => Ok(()),
    }
}

/// Holds, as long as the session lasts, the lock that shows which schema this program knows.
pub(crate) async fn show_known(session: &Session, schema: Schema) -> Result<(), Fault> {
    session.query("SELECT pg_advisory_lock_shared($1)", params![KNOWN_LOCK | schema.known()]).await.map(drop)
}

/// Waits until no other node migrates. It polls, because a session that waits for a lock has a snapshot, for
/// whose end the building of an index waits in turn.
async fn lock(session: &Session) -> Result<(), Fault> {
    let began = Instant::now();
    let mut was_reported = false;
    loop {
        let rows = session.query("SELECT pg_try_advisory_lock($1)", params![MIGRATION_LOCK]).await?;
        if one(&rows)?.try_get(0)? {
            return Ok(());
        }
        if began.elapsed() >= OTHERS_MIGRATE_WITHIN {
            return Err(Fault::Unusable("another process has been migrating the database for hours".to_owned()));
        }
        if !was_reported {
            tracing::info!("another process is migrating the database; waiting for it");
            was_reported = true;
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// Returns the number of the latest migration, 0 for an empty database, and the oldest program that may use
/// the database.
async fn version(session: &Session) -> Result<(i64, i64), Fault> {
    const FOUND: &str = "SELECT to_regclass('schema') IS NOT NULL, to_regclass('uploads') IS NOT NULL,
         to_regclass('upload_progress') IS NOT NULL";
    let rows = session.query(FOUND, &[]).await?;
    let row = one(&rows)?;
    let (has_schema, has_uploads, has_progress): (bool, bool, bool) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if !has_schema && !has_uploads {
        return Ok((0, 0));
    }
    if !(has_schema && has_progress) {
        return Err(Fault::Unusable(
            "the database contains tables of another program; configure an empty database, or one of this program"
                .to_owned(),
        ));
    }
    let rows = session.query("SELECT version::bigint, min_program::bigint FROM schema", &[]).await?;
    let row = one(&rows)?;
    Ok((row.try_get::<_, i64>(0)?.max(1), row.try_get(1)?))
}

/// Leaves a contraction for `longshore migrate`, unless this program needs a later migration.
fn postpone(schema: Schema, contraction: i64) -> Result<(), Fault> {
    let needs_later = schema
        .migrations()
        .any(|(number, migration)| number > contraction && migration.effect() == MigrationEffect::Expand);
    if needs_later {
        return Err(Fault::Unusable(format!(
            "migration {contraction} of the database excludes older programs; stop those, and run `longshore migrate`"
        )));
    }
    tracing::info!(
        migration = contraction,
        "a migration that excludes older programs is pending; run `longshore migrate` when none of them is in use"
    );
    Ok(())
}

/// Fails while a program that knows less than `min_program` has the database open. One that opens it later
/// finds the new schema: it takes its lock before it reads the version.
async fn refuse_beside_older(session: &Session, min_program: i64) -> Result<(), Fault> {
    const OLDEST: &str = "SELECT min(objid::bigint) FROM pg_locks
         WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid::bigint = $1
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = session.query(OLDEST, params![KNOWN_LOCK >> 32]).await?;
    let oldest: Option<i64> = one(&rows)?.try_get(0)?;
    match oldest {
        Some(oldest) if oldest < min_program => Err(Fault::Unusable(format!(
            "a server that knows the schema only up to migration {oldest} has the database open; stop the servers of \
             that version first"
        ))),
        Some(_) | None => Ok(()),
    }
}

async fn apply(session: &Session, number: i64, migration: &Migration) -> Result<(), Fault> {
    match &migration.change {
        Change::Statements(sql) => with_locks(|| statements(session, number, migration, sql)).await,
        Change::Index { name, table, keys } => {
            index_build::build(session, name, table, keys).await?;
            with_locks(|| statements(session, number, migration, "")).await
        }
    }
}

/// Runs statements and records the migration, in one transaction.
async fn statements(session: &Session, number: i64, migration: &Migration, sql: &str) -> Result<(), Fault> {
    const RECORD: &str = "UPDATE schema SET version = $1::bigint, min_program = greatest(min_program, $2::bigint)";
    session.begin().await?;
    let migrated = async {
        session.batch(sql).await?;
        let values = params![number, migration.min_program.unwrap_or(1)];
        if session.execute(RECORD, values).await? == 0 {
            session
                .execute("INSERT INTO schema (version, min_program) VALUES ($1::bigint, $2::bigint)", values)
                .await?;
        }
        session.commit().await
    };
    let migrated = migrated.await;
    if migrated.is_err() {
        session.roll_back().await;
    }
    migrated
}

/// Repeats a step that did not get the lock of a table within the session's `lock_timeout`.
pub(crate) async fn with_locks<T, F: Future<Output = Result<T, Fault>>>(step: impl Fn() -> F) -> Result<T, Fault> {
    let began = Instant::now();
    loop {
        match step().await {
            Err(fault) if fault.remedy() == Remedy::Repeat && began.elapsed() < LOCKS_WITHIN => {
                tracing::debug!(
                    error = &fault as &dyn std::error::Error,
                    "a table is in use; the migration is repeated"
                );
                tokio::time::sleep(TRY_AGAIN).await;
            }
            settled => return settled,
        }
    }
}
