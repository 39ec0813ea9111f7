//! Settings of the database.

use crate::config::reader::Reader;
use crate::config::units::{MIB, TIB};
use state_sqlite::{LOOKUP_CONNECTIONS, SqliteSettings};
use storage::local::BlobDurability;

/// Reads the settings. Commits get the same durability as bytes.
pub(super) fn read(from: &mut Reader, durability: BlobDurability) -> SqliteSettings {
    SqliteSettings {
        group_commit_max: from.count("database.group_commit_max", 1..=10_000),
        read_connections: from.count("database.read_connections", 1..=64),
        cache_bytes: from.size("database.cache_memory", MIB..=TIB),
        lookup_connections: LOOKUP_CONNECTIONS,
        max_log_bytes: from.size("database.max_wal_size", 4 * MIB..=TIB),
        reserve_bytes: from.size("database.reserve", 0..=TIB),
        durability: match durability {
            BlobDurability::Strict => state::Durability::Strict,
            BlobDurability::Relaxed => state::Durability::Relaxed,
        },
    }
}
