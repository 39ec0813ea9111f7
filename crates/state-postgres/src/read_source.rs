//! The server that a read goes to.

use tokio_postgres::Row;

use crate::PostgresStore;
use crate::params::Param;
use crate::session::{Planning, Session};
use crate::sessions::Sessions;
use state::Result;

/// A server, by the sessions that read from it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ReadSource<'s> {
    Primary(&'s Sessions),
    /// A session with a replica, for all statements of one read.
    Replica(&'s Session),
}

impl ReadSource<'_> {
    /// Runs one statement that reads.
    pub(crate) async fn query(self, operation: &'static str, sql: &str, values: &[Param]) -> Result<Vec<Row>> {
        self.query_as(operation, sql, Planning::EachTime, values).await
    }

    /// Runs one statement that reads, planned in this way.
    pub(crate) async fn query_as(
        self,
        operation: &'static str,
        sql: &str,
        planning: Planning,
        values: &[Param],
    ) -> Result<Vec<Row>> {
        match self {
            Self::Primary(sessions) => sessions.query_as(operation, sql, planning, values).await,
            Self::Replica(session) => {
                session.query_as(sql, planning, values).await.map_err(|fault| fault.into_error(operation))
            }
        }
    }
}

impl PostgresStore {
    pub(crate) fn primary(&self) -> ReadSource<'_> {
        ReadSource::Primary(&self.readers)
    }
}
