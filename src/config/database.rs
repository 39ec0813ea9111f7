//! The choice of the database, and its settings.

use std::time::Duration;

use crate::config::auth::read_secret;
use crate::config::reader::{Parsed, Reader};
use crate::config::units::{MIB, TIB};
use state_postgres::{DatabaseUrl, PostgresSettings, ReplicaSettings};
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
        durability: lasts(durability),
    }
}

/// Reads the settings of a PostgreSQL database; `None` where the database is SQLite.
pub(super) fn read_postgres(
    from: &mut Reader,
    durability: BlobDurability,
    sqlite: &SqliteSettings,
    is_in_cluster: bool,
) -> Option<PostgresSettings> {
    let password = from.text("database.password_file", |path| match path {
        "" => Ok(None),
        path => read_secret(path).and_then(|password| match password.as_str() {
            "" => Err("the file is empty; it must contain the password".to_owned()),
            _ => Ok(Some(password)),
        }),
    });
    let url = from.text("database.url", |url| optional_url(url, password.as_deref()));
    let from_file = from.text("database.url_file", |path| match path {
        "" => Ok(None),
        path => read_secret(path).and_then(|url| optional_url(&url, password.as_deref())),
    });
    from.require(url.is_none() || from_file.is_none(), &["database.url", "database.url_file"], |others| {
        format!("set together with {}; leave one of them empty", others.join(", "))
    });
    let replicas = ReplicaSettings {
        addresses: from.list("database.replica_urls", |urls| {
            let address = |url: &str| match url {
                "" => Err("contains an empty URL".to_owned()),
                url => address(url, password.as_deref()),
            };
            urls.into_iter().map(address).collect()
        }),
        connections: from.count("database.replica_connections", 1..=64),
        wait: from.duration("database.replica_wait", Duration::ZERO..=Duration::from_secs(5)),
        max_lag: from.duration("database.replica_max_lag", Duration::from_millis(500)..=Duration::from_hours(1)),
    };
    let start_timeout = from.duration("database.start_timeout", Duration::ZERO..=Duration::from_hours(1));
    let address = url.or(from_file);
    let direct_address = from.text("database.direct_url", |url| optional_url(url, password.as_deref()));
    let keys = ["database.direct_url", "database.url", "database.url_file"];
    from.require(direct_address.is_none() || address.is_some(), &keys, |_| {
        "has no effect without database.url; set that to the URL of the pooler, or leave database.direct_url empty"
            .to_owned()
    });
    let is_used = password.is_none() || address.is_some();
    from.require(is_used, &["database.password_file", "database.url", "database.url_file"], |_| {
        "has no effect without database.url; set that, or leave database.password_file empty".to_owned()
    });
    let has_primary = replicas.addresses.is_empty() || address.is_some();
    from.require(has_primary, &["database.replica_urls", "database.url", "database.url_file"], |_| {
        "has no effect without database.url; set that to the primary, or leave database.replica_urls empty".to_owned()
    });
    address.map(|address| PostgresSettings {
        group_commit_max: sqlite.group_commit_max,
        read_connections: sqlite.read_connections.max(LEAST_READ_CONNECTIONS),
        durability: lasts(durability),
        start_timeout,
        alone: !is_in_cluster,
        replicas,
        direct_address,
        ..PostgresSettings::new(address)
    })
}

/// A read holds its connection while the network answers, so PostgreSQL gets more of them than SQLite has by
/// default.
const LEAST_READ_CONNECTIONS: u32 = 8;

fn optional_url(url: &str, password: Option<&str>) -> Parsed<Option<DatabaseUrl>> {
    if url.is_empty() { Ok(None) } else { address(url, password).map(Some) }
}

fn address(url: &str, password: Option<&str>) -> Parsed<DatabaseUrl> {
    let address =
        DatabaseUrl::parse(url, None).map_err(|why| format!("not the URL of a PostgreSQL database: {why}"))?;
    if password.is_some() && address.has_password() {
        return Err("contains a password, and database.password_file is set; remove one of them".to_owned());
    }
    let given = DatabaseUrl::parse(url, password);
    given.map_err(|why| format!("not the URL of a PostgreSQL database: {why}"))
}

fn lasts(durability: BlobDurability) -> state::Durability {
    match durability {
        BlobDurability::Strict => state::Durability::Strict,
        BlobDurability::Relaxed => state::Durability::Relaxed,
    }
}
