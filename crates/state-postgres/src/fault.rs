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
            Self::Unreadable(_) | Self::Unusable(_) | Self::Closed | Self::Unlocked => Remedy::None,
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

    /// Reports whether the same operation may succeed later without a change to the server.
    fn is_temporary(&self) -> bool {
        if self.remedy() != Remedy::None || matches!(self, Self::Unlocked) {
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

fn described(fault: &Fault) -> String {
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

/// Reports whether the connection failed below the protocol.
fn is_broken(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

/// Matches serialization failures, deadlocks and lock timeouts.
fn is_of_contention(code: &SqlState) -> bool {
    *code == SqlState::T_R_SERIALIZATION_FAILURE
        || *code == SqlState::T_R_DEADLOCK_DETECTED
        || *code == SqlState::LOCK_NOT_AVAILABLE
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
