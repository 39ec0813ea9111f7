//! Migrates a database to the current schema, forward only.
//!
//! `user_version` is the number of the last migration applied to a database. It changes in the transaction of
//! the migration, so a crash leaves either the old or the new state.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::{connection, failed};
use state::{Error, MigrationEffect, PendingMigration, Result, SchemaStatus};

struct Migration {
    name: &'static str,
    sql: &'static str,
}

/// Reads migrations from the files of their names.
macro_rules! migrations {
    ($($name:literal,)+) => {
        [$(Migration { name: $name, sql: include_str!(concat!("../migrations/", $name, ".sql")) }),+]
    };
}

/// The migrations in order; the number of a migration is its position, from 1.
const MIGRATIONS: [Migration; 23] = migrations![
    "0001_uploads_and_outbox",
    "0002_facts_terms_reports",
    "0003_endpoints_and_replay",
    "0004_hook_calls",
    "0005_news_without_upload",
    "0006_next_attempt",
    "0007_deliveries_by_age",
    "0008_unsealed",
    "0009_pause_by_endpoint",
    "0010_ended_uploads",
    "0011_removed_files",
    "0012_uploads_by_type",
    "0013_tenants",
    "0014_nodes",
    "0015_filling",
    "0016_claims_by_node",
    "0017_generations",
    "0018_commit_ids",
    "0019_endpoint_tenants",
    "0020_node_records",
    "0021_clean_handover",
    "0022_duties",
    "0023_moves",
];

const OPERATION: &str = "migrate the database";

/// Rejects a database of a newer version. Checks it through a read-only connection, before any other access.
pub(super) fn refuse_newer(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let found = connection::open_reader(path).and_then(|connection| version(&connection));
    let found = found.map_err(failed("read the version of the database"))?;
    let known = known();
    if found > known { Err(Error::TooNew { found, known }) } else { Ok(()) }
}

/// Compares the schema of a database with that of this program, and changes nothing. An absent file is an
/// empty database.
pub(super) fn status(path: &Path) -> Result<SchemaStatus> {
    refuse_newer(path)?;
    let found = if path.exists() {
        connection::open_reader(path)
            .and_then(|connection| version(&connection))
            .map_err(failed("read the version of the database"))?
    } else {
        0
    };
    let pending = (1..).zip(MIGRATIONS).filter(|(number, _)| *number > found);
    // Only one program at a time uses the file, and an older one rejects it afterwards.
    let pending = pending.map(|(number, migration)| PendingMigration {
        number,
        name: migration.name,
        effect: MigrationEffect::Contract,
    });
    Ok(SchemaStatus { found, known: known(), pending: pending.collect() })
}

pub(super) fn run(connection: &mut Connection) -> Result<()> {
    let had = version(connection).map_err(failed(OPERATION))?;
    if is_older(had) {
        // SQLite checks all rows of a table when the table gets a column.
        tracing::info!(
            from_version = had,
            to_version = known(),
            "migrating the database; with many uploads this may take minutes"
        );
    }
    for (number, migration) in (1..).zip(MIGRATIONS) {
        if number > had {
            apply(connection, number, migration.sql).map_err(failed(OPERATION))?;
        }
    }
    Ok(())
}

/// Reports whether a database of this version has content that migrations must change. A new one has none.
fn is_older(version: i64) -> bool {
    version > 0 && version < known()
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

#[cfg(test)]
mod tests {
    use super::*;
    use domain::principal::TenantId;

    /// Returns a database with the first `count` migrations applied.
    fn after(count: usize) -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        for (number, migration) in (1..).zip(&MIGRATIONS[..count]) {
            apply(&mut connection, number, migration.sql).unwrap();
        }
        connection
    }

    /// A migration is logged, because it may take a long time during which the server does nothing else.
    #[test]
    fn only_the_migration_of_an_old_database_is_announced() {
        let mut new = after(0);
        assert!(!is_older(version(&new).unwrap()), "nothing in it could take long");
        run(&mut new).unwrap();
        assert!(!is_older(version(&new).unwrap()));
        assert!(is_older(version(&after(14)).unwrap()));
    }

    /// Migration 19: existing endpoints and replays belong to the default tenant.
    #[test]
    fn what_was_there_before_is_of_the_default_tenant() {
        let mut connection = after(18);
        let sql =
            "INSERT INTO endpoints (id, origin, present, terms, sealed, state, version, created_at_ms, updated_at_ms)
            VALUES ('a', 'api', 1, '{}', x'', 'enabled', 1, 0, 0);
            INSERT INTO replay_jobs (id, endpoint, what, from_ms, before_ms, state, cursor, queued, created_at_ms)
            VALUES (x'07', 'a', 'dead', 0, 1, 'running', 0, 0, 0)";
        connection.execute_batch(sql).unwrap();
        run(&mut connection).unwrap();
        for table in ["endpoints", "replay_jobs"] {
            let tenant: u32 =
                connection.query_row(&format!("SELECT tenant FROM {table}"), [], |row| row.get(0)).unwrap();
            assert_eq!(TenantId::from_number(tenant), TenantId::DEFAULT, "{table}");
        }
    }

    /// Migration 15: existing uploads get the write rules of their dialects.
    #[test]
    fn uploads_of_before_are_filled_as_their_dialects_were() {
        let mut connection = after(14);
        for dialect in ["tus", "ietf", "google", "ranged"] {
            let sql = "INSERT INTO upload_origins (id, dialect, metadata) VALUES (CAST(?1 AS BLOB), ?1, '[]')";
            connection.execute(sql, [dialect]).unwrap();
        }
        run(&mut connection).unwrap();
        let sql = "SELECT group_concat(dialect || ' ' || write_order || ' ' || completion, ', ')
            FROM (SELECT * FROM upload_origins ORDER BY dialect)";
        let found: String = connection.query_row(sql, [], |row| row.get(0)).unwrap();
        let expected =
            "google in-order when-said, ietf in-order when-said, ranged any when-full, tus in-order when-full";
        assert_eq!(found, expected);
    }

    /// Migration 11: its indexes find uploads that had already completed or ended.
    #[test]
    fn uploads_of_before_are_found_by_when_they_completed() {
        let mut connection = after(10);
        for (id, stage, bytes_kept, timeline) in [
            (1, "completed", true, r#"[["created",1],["received",2],["completed",5]]"#),
            (2, "completed", true, r#"[["created",1],["completed",3]]"#),
            (3, "terminated", false, r#"[["created",1],["completed",3],["terminated",4]]"#),
            (4, "receiving", true, r#"[["created",1],["receiving",2]]"#),
        ] {
            let sql = "INSERT INTO uploads (id, version, stage, role, received, wanted_digests, promised_digests,
                    running_digests, digests, bytes_kept, timeline, created_at_ms, updated_at_ms, next_sequence,
                    last_progress_offset, last_progress_at_ms)
                VALUES (?1, 1, ?2, 'single', '[]', '[]', '[]', x'', '[]', ?3, ?4, 1, 9, 1, 0, 1)";
            connection.execute(sql, (vec![id], stage, bytes_kept, timeline)).unwrap();
        }
        run(&mut connection).unwrap();
        let found = |sql: &str| {
            let mut statement = connection.prepare(sql).unwrap();
            let ids = statement.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
            ids.collect::<rusqlite::Result<Vec<_>>>().unwrap().concat()
        };
        let completed = "SELECT id FROM uploads INDEXED BY uploads_completed
            WHERE stage = 'completed' AND removed_at_ms IS NULL AND json_extract(timeline, '$[#-1][1]') <= 5
            ORDER BY json_extract(timeline, '$[#-1][1]')";
        assert_eq!(found(completed), [2, 1]);
        assert_eq!(found("SELECT id FROM uploads INDEXED BY uploads_ended WHERE bytes_kept = 0"), [3]);
    }

    /// Migration 9: deliveries that were paused with their endpoint return to their lanes, by the ordering of
    /// the endpoint.
    #[test]
    fn paused_deliveries_return_to_their_lanes() {
        let mut connection = after(8);
        for (endpoint, terms) in [("lane", r#"{"ordering":"per_upload"}"#), ("strict", r#"{"ordering":"strict"}"#)]
            .into_iter()
            .chain([("none", r#"{"ordering":"none"}"#), ("gone", "{}")])
        {
            let sql = "INSERT INTO endpoints (id, origin, present, terms, sealed, state, state_since_ms, version,
                    created_at_ms, updated_at_ms) VALUES (?1, 'api', 1, ?2, x'', 'paused', 0, 1, 0, 0)";
            connection.execute(sql, [endpoint, terms]).unwrap();
            for (sequence, state, attempts) in
                [(1, "succeeded", 1), (2, "paused", 3), (3, "paused", 0), (4, "paused", 0)]
            {
                let sql =
                    "INSERT INTO deliveries (id, event_position, event_id, kind, endpoint, upload_id, sequence, state,
                        trigger, attempts, attempts_before, begun_at_ms, next_at_ms, created_at_ms, finished_at_ms)
                    VALUES (randomblob(16), 1, x'', 'upload.created', ?1, x'07', ?2, ?3, 'auto', ?4, 0, 0, 0, 0,
                        iif(?3 = 'paused', NULL, 0))";
                connection.execute(sql, (endpoint, sequence, state, attempts)).unwrap();
            }
        }
        run(&mut connection).unwrap();
        let states = |endpoint: &str| {
            let sql =
                "SELECT group_concat(state) FROM (SELECT state FROM deliveries WHERE endpoint = ?1 ORDER BY sequence)";
            connection.query_row(sql, [endpoint], |row| row.get::<_, String>(0)).unwrap()
        };
        assert_eq!(states("lane"), "succeeded,ready,ready,waiting");
        assert_eq!(states("gone"), "succeeded,ready,ready,waiting");
        assert_eq!(states("strict"), "succeeded,ready,waiting,waiting");
        assert_eq!(states("none"), "succeeded,ready,ready,ready");
        assert_eq!(version(&connection).unwrap(), known());
    }
}
