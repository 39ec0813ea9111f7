//! The record of hook calls, written once and read by operators.

use std::sync::LazyLock;

use rusqlite::Row;
use state_rows::{HookCallRow, sql};

use crate::query::{AFTER_ALL, SqlQuery};
use crate::rows::{PLACEHOLDERS, bound};
use crate::writer::{Work, WriteTransaction};
use crate::{SqliteStore, rows};
use domain::hook::{Hook, HookCall};
use domain::principal::TenantScope;
use domain::query::HookCallQuery;
use state::Result;

static COLUMNS: LazyLock<String> = LazyLock::new(sql::columns::<HookCallRow>);

static INSERT: LazyLock<String> = LazyLock::new(|| sql::insert_new::<HookCallRow>(PLACEHOLDERS));

impl SqliteStore {
    pub(super) async fn write_hook_call(&self, call: HookCall) -> Result<()> {
        self.writer.write(RecordHookCall(call)).await
    }

    pub(super) async fn read_hook_calls(&self, scope: TenantScope, query: &HookCallQuery) -> Result<Vec<HookCall>> {
        let mut sql = SqlQuery::new("SELECT ");
        sql.push(&COLUMNS).push(" FROM hook_calls WHERE id < ");
        sql.bind(query.before.map_or(AFTER_ALL.to_vec(), |before| before.as_bytes().to_vec()));
        sql.push(" AND ").within("tenant", scope);
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

    /// A call before a termination precedes a commit that frees space, so its record may use the reserve too.
    fn frees_space(&self) -> bool {
        self.0.hook == Hook::PreTerminate
    }

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        tx.execute(&INSERT, bound(&HookCallRow::cells(&self.0))).map(drop)
    }
}

fn hook_call(row: &Row<'_>) -> rusqlite::Result<HookCall> {
    rows::read::<HookCallRow>(row).map(HookCall::from)
}
