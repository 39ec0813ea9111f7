//! The schema of a database, and the migrations between it and that of this program.

/// The effect of a migration on programs of the version before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationEffect {
    /// It only adds to the schema: programs of the version before keep working beside it.
    Expand,
    /// It changes or removes something that older programs use. They can no longer use the database.
    Contract,
}

/// A migration that has not been applied to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingMigration {
    pub number: i64,
    pub name: &'static str,
    pub effect: MigrationEffect,
}

/// The difference between the schema of a database and that of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaStatus {
    /// The number of the latest migration in the database; 0 for an empty one.
    pub found: i64,
    /// The number of the latest migration that this program knows.
    pub known: i64,
    /// The migrations that this program would apply, in order.
    pub pending: Vec<PendingMigration>,
}
