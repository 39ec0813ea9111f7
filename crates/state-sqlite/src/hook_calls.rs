//! What the application was asked, written once and read by people.

use std::time::Duration;

use rusqlite::{Row, params};

use crate::SqliteStore;
use crate::query::{AFTER_ALL, Query};
use crate::rows::{Columns, integer};
use crate::writer::{Desk, Work};
use domain::hook::{CallOutcome, Hook, HookCall};
use domain::id::{HookCallId, UploadId};
use state::{HookCallQuery, Result};

impl SqliteStore {
    pub(super) async fn write_hook_call(&self, call: HookCall) -> Result<()> {
        self.writer.write(RecordHookCall(call)).await
    }

    pub(super) async fn read_hook_calls(&self, query: &HookCallQuery) -> Result<Vec<HookCall>> {
        let mut sql = Query::new(
            "SELECT id, hook, upload_id, decision, started_at_ms, took_us, outcome, status, message, response_body
             FROM hook_calls WHERE id < ",
        );
        sql.bind(query.before.map_or(AFTER_ALL.to_vec(), |before| before.as_bytes().to_vec()));
        if let Some(upload) = query.upload {
            sql.push(" AND upload_id = ").bind(upload.as_bytes().to_vec());
        }
        sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit);
        self.readers.read("list hook calls", move |connection| sql.fetch(connection, hook_call)).await
    }
}

struct RecordHookCall(HookCall);

impl Work for RecordHookCall {
    const OPERATION: &'static str = "record a hook call";
    type Output = ();

    /// A deletion that the application is asked about comes to nothing if the question is not recorded.
    fn frees_space(&self) -> bool {
        self.0.hook == Hook::PreTerminate
    }

    fn run(&self, desk: &mut Desk) -> rusqlite::Result<()> {
        let call = &self.0;
        let took_us = u64::try_from(call.took.as_micros()).unwrap_or(u64::MAX);
        let recorded = desk.execute(
            "INSERT INTO hook_calls (id, hook, upload_id, decision, started_at_ms, took_us, outcome, status, message,
                 response_body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
            params![
                call.id.as_bytes(),
                call.hook.name(),
                call.upload.as_bytes(),
                call.decision,
                call.started_at.unix_ms(),
                integer(took_us),
                call.outcome.name(),
                call.status,
                call.message,
                call.response_body,
            ],
        );
        recorded.map(drop)
    }
}

fn hook_call(row: &Row<'_>) -> rusqlite::Result<HookCall> {
    let mut columns = Columns::of(row);
    Ok(HookCall {
        id: HookCallId::from_bytes(columns.next()?),
        hook: columns.named(Hook::by_name)?,
        upload: UploadId::from_bytes(columns.next()?),
        decision: columns.next()?,
        started_at: columns.instant()?,
        took: Duration::from_micros(columns.count()?),
        outcome: columns.named(CallOutcome::by_name)?,
        status: columns.next()?,
        message: columns.next()?,
        response_body: columns.next()?,
    })
}
