//! The migrations that a program knows.
//!
//! A migration either expands the schema, so that programs of the version before keep working beside it, or
//! contracts it one release later, when no program that needs the old form is running.

use state::MigrationEffect;

/// The migrations of a program, in order. The number of a migration is its position, starting with 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Migrations of a version that does not exist, which tests add to those of this one.
    future: &'static [Migration],
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Migration {
    pub(crate) name: &'static str,
    /// The number of the latest migration that a program must know to use the database afterwards; `None` if
    /// the schema is only expanded.
    pub(crate) min_program: Option<i64>,
    pub(crate) change: Change,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Statements that run in one transaction.
    Statements(&'static str),
    /// An index, built while rows are written.
    #[cfg_attr(
        not(any(feature = "next-schema", feature = "postgres-tests")),
        expect(dead_code, reason = "only the future migrations of tests have one so far")
    )]
    Index { name: &'static str, table: &'static str, keys: &'static str },
}

impl Migration {
    pub(crate) const fn effect(&self) -> MigrationEffect {
        match self.min_program {
            None => MigrationEffect::Expand,
            Some(_) => MigrationEffect::Contract,
        }
    }
}

/// Creates a migration that expands the schema, from the file of its name.
macro_rules! expand {
    ($name:literal) => {
        Migration {
            name: $name,
            min_program: None,
            change: Change::Statements(include_str!(concat!("../migrations/", $name, ".sql"))),
        }
    };
}

const RELEASED: &[Migration] = &[expand!("0001_state")];

impl Schema {
    /// The schema of this version.
    pub const CURRENT: Self = Self { future: &[] };

    pub(crate) fn migrations(&self) -> impl Iterator<Item = (i64, &'static Migration)> + use<> {
        (1..).zip(RELEASED.iter().chain(self.future))
    }

    /// Returns the number of the latest migration.
    pub(crate) fn known(&self) -> i64 {
        i64::try_from(RELEASED.len() + self.future.len()).unwrap_or(i64::MAX)
    }
}

impl Default for Schema {
    fn default() -> Self {
        // Its contraction is not applied by a node that starts.
        #[cfg(feature = "next-schema")]
        return Self::AFTER_NEXT;
        #[cfg(not(feature = "next-schema"))]
        Self::CURRENT
    }
}

#[cfg(any(feature = "next-schema", feature = "postgres-tests"))]
mod future {
    use super::{Change, Migration, RELEASED, Schema};

    const FIRST: i64 = RELEASED.len() as i64 + 1;

    const COLUMN: Migration = Migration {
        name: "next_column",
        min_program: None,
        change: Change::Statements("ALTER TABLE uploads ADD COLUMN next_note text COLLATE \"C\""),
    };

    const INDEX: Migration = Migration {
        name: "next_index",
        min_program: None,
        change: Change::Index { name: "uploads_by_next_note", table: "uploads", keys: "(next_note, id)" },
    };

    const WITHOUT_COLUMN: Migration = Migration {
        name: "after_next_column",
        min_program: Some(FIRST + 1),
        change: Change::Statements("ALTER TABLE uploads DROP COLUMN next_note"),
    };

    impl Schema {
        /// A future schema that this version can run beside: it has more columns and indexes.
        pub const NEXT: Self = Self { future: &[COLUMN, INDEX] };

        /// A schema one release later, which this version cannot use.
        pub const AFTER_NEXT: Self = Self { future: &[COLUMN, INDEX, WITHOUT_COLUMN] };
    }
}
