//! The limits of statements and transactions, and the properties of the server that a session leads to.
//!
//! A session with a dedicated server connection sets its limits once. Behind a transaction pooler, successive
//! transactions of one session run on different server connections, which the pooler also lends to others,
//! and after a failover on different servers. There, nothing is set that outlasts a transaction: each one
//! begins with its limits, and reads which server it runs on, in the same message as `BEGIN`.

use std::time::Duration;

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use crate::fault::Fault;
use crate::session::Purpose;
use state::Durability;

/// The oldest supported version, in the format of `server_version_num`.
const OLDEST: i64 = 150_000;

/// The time after which the server ends a session whose node does not continue its transaction. A node that
/// freezes or loses its network inside a transaction keeps its locks until then, and the others wait for them
/// when they take its uploads over (scale-out F2).
const IDLE_IN_TRANSACTION_LIMIT: Duration = Duration::from_secs(1);

/// The way from a session to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// The session has one server connection as long as it lasts.
    Direct,
    /// A pooler may give each transaction another server connection.
    TransactionPooler,
}

/// The properties of the server: those that a session requires, and its identity.
const PROPERTIES: &str =
    "current_setting('server_version_num'), pg_is_in_recovery(), current_setting('server_encoding'),
     (SELECT system_identifier FROM pg_control_system()),
     CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END";

/// The settings of a session, or of one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) purpose: Purpose,
    pub(crate) durability: Durability,
    /// The server's limit for one statement.
    pub(crate) statement: Duration,
}

impl Limits {
    /// Returns the statements that set up a session.
    pub(crate) fn set_up(self, route: Route) -> String {
        match route {
            Route::Direct => format!("SELECT {PROPERTIES}, {}", self.settings(false)),
            Route::TransactionPooler => format!("SELECT {PROPERTIES}"),
        }
    }

    /// Returns the statements that begin a transaction behind a transaction pooler. `is_reading` makes it
    /// read only.
    pub(crate) fn begin_pooled(self, is_reading: bool) -> String {
        let access = if is_reading { " READ ONLY" } else { "" };
        format!("BEGIN ISOLATION LEVEL READ COMMITTED{access}; SELECT {PROPERTIES}, {}", self.settings(true))
    }

    /// Returns the expressions that apply the limits, to the current transaction only if `is_local`.
    fn settings(self, is_local: bool) -> String {
        let committing = match self.durability {
            // The operator's setting for replicas applies, but never less than a sync to the local disk.
            Durability::Strict => {
                "CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on'
                 ELSE current_setting('synchronous_commit') END"
            }
            Durability::Relaxed => "'off'",
        };
        let (limit_ms, idle_ms) = (self.statement.as_millis(), IDLE_IN_TRANSACTION_LIMIT.as_millis());
        let mut settings = vec![
            format!("set_config('statement_timeout', '{limit_ms}', {is_local})"),
            format!("set_config('lock_timeout', '2000', {is_local})"),
            format!("set_config('idle_in_transaction_session_timeout', '{idle_ms}', {is_local})"),
            format!("set_config('client_min_messages', 'warning', {is_local})"),
            format!("set_config('synchronous_commit', {committing}, {is_local})"),
            format!(
                "CASE WHEN current_setting('server_version_num')::int >= 170000 AND {limit_ms} <= 20000
                     THEN set_config('transaction_timeout', '20000', {is_local}) END"
            ),
        ];
        if !is_local {
            let reading = if matches!(self.purpose, Purpose::Read | Purpose::ReadReplica) { "on" } else { "off" };
            settings.extend([
                "set_config('tcp_keepalives_idle', '5', false)".to_owned(),
                "set_config('tcp_keepalives_interval', '1', false)".to_owned(),
                "set_config('tcp_keepalives_count', '3', false)".to_owned(),
                "set_config('default_transaction_isolation', 'read committed', false)".to_owned(),
                format!("set_config('default_transaction_read_only', '{reading}', false)"),
            ]);
        }
        settings.join(", ")
    }
}

/// A server: its identifier, which replicas share, and its timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerIdentity {
    pub(crate) system: i64,
    pub(crate) timeline: u32,
}

/// Checks the properties of the server in the response to [`Limits::set_up`] or [`Limits::begin_pooled`], and
/// returns its identity.
pub(crate) fn server_of(response: &[SimpleQueryMessage], purpose: Purpose) -> Result<ServerIdentity, Fault> {
    let row = response.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or_else(|| unreadable("server_version_num"))?;
    let version: i64 = number(row, 0, "server_version_num")?;
    if version < OLDEST {
        return Err(Fault::Unusable(format!(
            "the database server is PostgreSQL {}; version 15 or later is required",
            version / 10_000
        )));
    }
    let is_replica = row.try_get(1)? != Some("f");
    match (is_replica, purpose) {
        (false, Purpose::ReadReplica) => return Err(Fault::Primary),
        (true, Purpose::Read | Purpose::Write | Purpose::Migrate | Purpose::Listen) => return Err(Fault::Replica),
        (true, Purpose::ReadReplica) | (false, _) => {}
    }
    let encoding = row.try_get(2)?.unwrap_or_default();
    if encoding != "UTF8" {
        return Err(Fault::Unusable(format!(
            "the database has the encoding {encoding}; it must be created with ENCODING 'UTF8'"
        )));
    }
    let system = number(row, 3, "system_identifier")?;
    if is_replica {
        // Its timeline is found by what it has replayed: see `replica`.
        return Ok(ServerIdentity { system, timeline: 0 });
    }
    let timeline = row.try_get(4)?.and_then(|timeline| u32::from_str_radix(timeline, 16).ok());
    let timeline = timeline.ok_or_else(|| unreadable("pg_walfile_name"))?;
    Ok(ServerIdentity { system, timeline })
}

fn number(row: &SimpleQueryRow, place: usize, name: &str) -> Result<i64, Fault> {
    row.try_get(place)?.and_then(|text| text.parse().ok()).ok_or_else(|| unreadable(name))
}

fn unreadable(name: &str) -> Fault {
    Fault::Unreadable(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behind a pooler, a setting that outlasts its transaction would reach other users of the connection.
    #[test]
    fn nothing_outlasts_a_transaction_behind_a_pooler() {
        for purpose in [Purpose::Read, Purpose::Write] {
            for durability in [Durability::Strict, Durability::Relaxed] {
                let limits = Limits { purpose, durability, statement: Duration::from_secs(5) };
                assert!(!limits.set_up(Route::TransactionPooler).contains("set_config"));
                for is_reading in [false, true] {
                    let begin = limits.begin_pooled(is_reading);
                    assert!(begin.contains("statement_timeout', '5000', true") && !begin.contains("false"), "{begin}");
                }
                let direct = limits.set_up(Route::Direct);
                assert!(direct.contains("statement_timeout', '5000', false") && !direct.contains("true"), "{direct}");
            }
        }
    }
}
