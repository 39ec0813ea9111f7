//! Faults of statements, and the errors reported to callers of a port.
//!
//! Inside the adapter, a [`Fault`] describes the failure. At the edge of the adapter it becomes an [`Error`],
//! which states what the caller can rely on: after a fault before `COMMIT` was sent, nothing was written;
//! after a fault while its response was awaited, the result is unknown.

use tokio_postgres::error::SqlState;

use state::Error;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The server, or the connection to it, reported an error.
    #[error(transparent)]
    Database(#[from] tokio_postgres::Error),
    #[error("column {0} holds something unknown")]
    Unreadable(String),
    /// The server did not respond within the time limit of this program.
    #[error("the database did not answer within {0} s")]
    Late(u64),
    /// The server cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// A newer program has written the database.
    #[error("the database has migration {found}, this program supports up to {known}")]
    TooNew { found: i64, known: i64 },
    #[error("the database server is a read-only replica; configure the address of the primary")]
    Replica,
    /// The server of a replica's address accepts writes.
    #[error("the database server is a primary, not a replica")]
    Primary,
    /// The server is a former primary.
    #[error(
        "the database server is on timeline {timeline}, but one on timeline {highest} has replaced it; stop the former \
         one"
    )]
    Former { timeline: u32, highest: u32 },
    /// Successive transactions found themselves on servers of different histories.
    #[error("the database server was replaced several times during the operation")]
    Replaced,
    /// The caller has waited as long as a caller may.
    #[error("the database did not complete the operation within {0} s")]
    Overdue(u64),
    #[error("the database is closed")]
    Closed,
    /// This server runs alone, and does not hold the lock of the database.
    #[error(
        "this server has lost its lock on the database; if it does not get it back, another server has used the \
         database: stop one of the two, and restart the other"
    )]
    Unlocked,
    /// The response to `COMMIT` was lost, or contained a warning.
    #[error("the database did not confirm the commit")]
    Unconfirmed,
}

/// The action that a fault permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The server has rolled the transaction back; it may succeed when it is repeated.
    Repeat,
    /// The connection is unusable; a new one may work.
    Reconnect,
    None,
}

impl Fault {
    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::Late(_) | Self::Unconfirmed => Remedy::Reconnect,
            Self::Replaced => Remedy::Repeat,
            Self::Unreadable(_) | Self::Unusable(_) | Self::Replica | Self::Primary | Self::Former { .. } => {
                Remedy::None
            }
            Self::TooNew { .. } | Self::Overdue(_) | Self::Closed | Self::Unlocked => Remedy::None,
            Self::Database(error) => match error.code() {
                None if error.is_closed() || is_broken(error) => Remedy::Reconnect,
                None => Remedy::None,
                Some(code) if is_of_contention(code) => Remedy::Repeat,
                Some(code) if is_of_connection(code) => Remedy::Reconnect,
                Some(_) => Remedy::None,
            },
        }
    }

    /// Reports whether the server's disk is full.
    fn is_full(&self) -> bool {
        matches!(self, Self::Database(error) if error.code() == Some(&SqlState::DISK_FULL))
    }

    /// Reports whether a table that a statement names does not exist.
    pub(crate) fn is_of_missing_table(&self) -> bool {
        matches!(self, Self::Database(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE))
    }

    /// Reports whether the server is not there yet: it may be starting, or waiting for its promotion.
    pub(crate) fn is_of_start(&self) -> bool {
        match self {
            Self::Replica | Self::Former { .. } | Self::Late(_) => true,
            Self::Database(error) => match error.code() {
                None => error.is_closed() || is_broken(error) && !is_of_tls(error) || has_no_primary(error),
                Some(code) => *code == SqlState::CANNOT_CONNECT_NOW,
            },
            Self::Unreadable(_) | Self::Unusable(_) | Self::TooNew { .. } | Self::Overdue(_) => false,
            Self::Closed | Self::Unlocked | Self::Unconfirmed | Self::Primary | Self::Replaced => false,
        }
    }

    /// Reports whether the same operation may succeed later without a change to the server.
    fn is_temporary(&self) -> bool {
        if self.remedy() != Remedy::None
            || matches!(self, Self::Unlocked | Self::Overdue(_) | Self::Replica | Self::Former { .. })
        {
            return true;
        }
        // Classes 53 (resources) and 57 (cancelled, such as by a time limit).
        matches!(self, Self::Database(error)
            if error.code().is_some_and(|code| code.code().starts_with("53") || code.code().starts_with("57")))
    }

    /// Converts the fault to the error for the caller.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        match self {
            Self::Unconfirmed => Error::Unanswered { operation },
            Self::TooNew { found, known } => Error::TooNew { found, known },
            full if full.is_full() => Error::NoSpace { operation },
            later if later.is_temporary() => Error::Unreachable { operation, source: Box::new(Described(later)) },
            other => Error::Failed { operation, source: Box::new(Described(other)) },
        }
    }

    /// Creates the error for one of several callers whose work shared a transaction.
    pub(crate) fn to_errors(&self, operation: &'static str) -> Error {
        match self {
            Self::Unconfirmed => Error::Unanswered { operation },
            full if full.is_full() => Error::NoSpace { operation },
            later if later.is_temporary() => Error::Unreachable { operation, source: described(later).into() },
            other => Error::Failed { operation, source: described(other).into() },
        }
    }
}

/// A fault with the server's message: the library's error shows only that there was one.
#[derive(Debug)]
struct Described(Fault);

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&described(&self.0))
    }
}

impl std::error::Error for Described {}

pub(crate) fn described(fault: &Fault) -> String {
    let Fault::Database(error) = fault else { return fault.to_string() };
    match error.as_db_error() {
        Some(told) => format!("the database answered: {} (SQLSTATE {})", told.message(), told.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) if source.to_string() == NO_WRITES => {
                "the database server is a read-only replica, or is set to read-only; configure the address of the \
                 primary"
                    .to_owned()
            }
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// The error of the library if no host accepts writes.
const NO_WRITES: &str = "database does not allow writes";

fn has_no_primary(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.to_string() == NO_WRITES)
}

/// Reports whether the connection failed below the protocol.
fn is_broken(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

/// Reports whether TLS could not be agreed upon, for example because of a certificate that is not trusted:
/// time does not mend that.
fn is_of_tls(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData)
}

/// Matches serialization failures, deadlocks, lock timeouts, and a table that is missing: the statement named
/// the partition of a day that was dropped, and names none when it is repeated.
fn is_of_contention(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE
        || *code == SqlState::T_R_DEADLOCK_DETECTED
        || *code == SqlState::LOCK_NOT_AVAILABLE
        || *code == SqlState::UNDEFINED_TABLE
}

/// Matches an unusable connection, a server that stops or starts, and one that has become read-only: classes
/// 08 and 57P, and 25006.
fn is_of_connection(code: &SqlState) -> bool {
    code.code().starts_with("08")
        || *code == SqlState::ADMIN_SHUTDOWN
        || *code == SqlState::CRASH_SHUTDOWN
        || *code == SqlState::CANNOT_CONNECT_NOW
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
}
