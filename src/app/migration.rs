//! The schema of the configured database: its comparison with that of this program, and its migration.

use std::fmt::Write;

use anyhow::Context;

use crate::app::data_folder::DataFolder;
use crate::app::database;
use crate::config::Config;
use state::{MigrationEffect, SchemaStatus};
use storage::local::FolderAccess;

/// The schema of the configured database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaReport {
    database: String,
    /// The schema that was found.
    status: SchemaStatus,
    was_migrated: bool,
}

/// Compares the schemas and changes nothing. A server may be running.
pub async fn compare(config: &Config) -> anyhow::Result<SchemaReport> {
    let (database, status) = match &config.postgres {
        None => {
            let path = database::sqlite_path(&config.server.data_dir);
            (path.display().to_string(), state_sqlite::schema_status(&path).await)
        }
        Some(settings) => (settings.address.to_string(), state_postgres::schema_status(settings).await),
    };
    let status = status.with_context(|| format!("could not compare the schema of {database}"))?;
    Ok(SchemaReport { database, status, was_migrated: false })
}

/// Applies the pending migrations. A SQLite database must not be in use; PostgreSQL may be.
pub async fn migrate(config: &Config) -> anyhow::Result<SchemaReport> {
    let (database, status) = match &config.postgres {
        None => {
            let _folder = DataFolder::take(&config.server.data_dir, FolderAccess::Exclusive)?;
            let path = database::sqlite_path(&config.server.data_dir);
            (path.display().to_string(), state_sqlite::migrate(&path, &config.database).await)
        }
        Some(settings) => (settings.address.to_string(), state_postgres::migrate(settings).await),
    };
    let status = status.with_context(|| format!("could not migrate {database}"))?;
    Ok(SchemaReport { database, status, was_migrated: true })
}

impl SchemaReport {
    /// Reports whether the database now has the schema of this program, or a newer one that it can use.
    pub fn is_current(&self) -> bool {
        self.was_migrated || self.status.pending.is_empty()
    }

    /// Describes the schema and its migrations, one line each.
    pub fn text(&self) -> String {
        let SchemaStatus { found, known, pending } = &self.status;
        let mut text = match found {
            0 => format!("{} is empty; the schema of this program is {known}\n", self.database),
            found => format!("{} has schema {found}; the schema of this program is {known}\n", self.database),
        };
        let done = if self.was_migrated { "applied" } else { "pending" };
        for migration in pending {
            let note = match migration.effect {
                MigrationEffect::Contract if *found > 0 => ", excludes older versions",
                MigrationEffect::Contract | MigrationEffect::Expand => "",
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{done}: {} {}{note}", migration.number, migration.name);
        }
        if pending.is_empty() {
            text.push_str("nothing to migrate\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::PendingMigration;

    fn report(found: i64, pending: Vec<PendingMigration>, was_migrated: bool) -> SchemaReport {
        SchemaReport {
            database: "data/longshore.db".to_owned(),
            status: SchemaStatus { found, known: 9, pending },
            was_migrated,
        }
    }

    #[test]
    fn a_report_names_each_migration_and_what_it_excludes() {
        let current = report(9, vec![], false);
        assert!(current.is_current());
        let expected = "data/longshore.db has schema 9; the schema of this program is 9\nnothing to migrate\n";
        assert_eq!(current.text(), expected);

        let pending = vec![
            PendingMigration { number: 8, name: "0008_labels", effect: MigrationEffect::Expand },
            PendingMigration { number: 9, name: "0009_no_notes", effect: MigrationEffect::Contract },
        ];
        let behind = report(7, pending.clone(), false);
        assert!(!behind.is_current());
        let expected = "data/longshore.db has schema 7; the schema of this program is 9\n\
            pending: 8 0008_labels\npending: 9 0009_no_notes, excludes older versions\n";
        assert_eq!(behind.text(), expected);
        assert!(report(7, pending.clone(), true).is_current());
        let new = report(0, pending, true).text();
        assert!(new.starts_with("data/longshore.db is empty;") && new.ends_with("applied: 9 0009_no_notes\n"), "{new}");
    }
}
