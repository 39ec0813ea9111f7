//! How the database is used.

use crate::config::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub group_commit_max: usize,
    pub read_connections: u32,
}

impl Database {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            group_commit_max: from.count("database.group_commit_max", 1..=10_000),
            read_connections: from.count("database.read_connections", 1..=64),
        }
    }
}
