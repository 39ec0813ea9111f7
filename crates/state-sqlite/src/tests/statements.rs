//! Records the statements that a store sends to SQLite.

use std::collections::BTreeSet;
use std::sync::Mutex;

use rusqlite::Connection;
use rusqlite::trace::{TraceEvent, TraceEventCodes};

use crate::{SqliteStore, writer};

static STATEMENTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Held by the active listener: SQLite reports to a function, which cannot distinguish listeners.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Records the statements of one store until it is dropped.
pub(super) struct StatementTrace {
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl StatementTrace {
    /// Starts to record a store with one connection of each kind.
    pub(super) async fn of(store: &SqliteStore) -> Self {
        let turn = TURN.lock().await;
        STATEMENTS.lock().unwrap().clear();
        store.writer.write(StartTrace).await.unwrap();
        store.readers.read("listen", |connection| trace(connection)).await.unwrap();
        store.readers.look_up("listen", |connection| trace(connection)).await.unwrap();
        Self { _turn: turn }
    }

    /// Returns the statements recorded since the previous call: reads and writes of tables, each text once.
    pub(super) fn take(&self) -> BTreeSet<String> {
        let verbs = ["SELECT", "INSERT", "UPDATE", "DELETE"];
        let all = std::mem::take(&mut *STATEMENTS.lock().unwrap());
        all.into_iter().filter(|sql| verbs.iter().any(|verb| sql.starts_with(verb))).collect()
    }
}

fn trace(connection: &Connection) -> rusqlite::Result<()> {
    connection.trace_v2(
        TraceEventCodes::SQLITE_TRACE_STMT,
        Some(|event| {
            if let TraceEvent::Stmt(statement, _) = event {
                STATEMENTS.lock().unwrap().insert(statement.sql().into_owned());
            }
        }),
    );
    Ok(())
}

struct StartTrace;

impl writer::Work for StartTrace {
    const OPERATION: &'static str = "listen";
    type Output = ();

    fn run(&self, tx: &mut writer::WriteTransaction) -> rusqlite::Result<()> {
        trace(&tx.connection)
    }
}
