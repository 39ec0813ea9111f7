//! How the database is used.

use crate::config::reader::Reader;
use crate::config::units::{MIB, TIB};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub group_commit_max: usize,
    pub read_connections: u32,
    pub cache_memory_bytes: u64,
    pub max_wal_bytes: u64,
    pub reserve_bytes: u64,
}

impl Database {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self {
            group_commit_max: from.count("database.group_commit_max", 1..=10_000),
            read_connections: from.count("database.read_connections", 1..=64),
            cache_memory_bytes: from.size("database.cache_memory", MIB..=TIB),
            max_wal_bytes: from.size("database.max_wal_size", 4 * MIB..=TIB),
            reserve_bytes: from.size("database.reserve", 0..=TIB),
        }
    }
}
