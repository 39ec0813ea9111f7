//! The record of hook calls, written once and read by operators.

use std::sync::LazyLock;

use async_trait::async_trait;
use state_rows::{HookCallRow, sql};
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::bucket::{all_buckets, bucket_of};
use crate::fault::Fault;
use crate::params::Param;
use crate::query::{AFTER_ALL, Query};
use crate::read_source::ReadSource;
use crate::rows;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::hook::HookCall;
use domain::principal::TenantScope;
use domain::query::HookCallQuery;
use state::{HookCalls, Result};

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (1..=HookCallRow::COUNT).map(|place| format!("${place}")).collect();
    format!(
        "INSERT INTO hook_calls ({}, bucket) VALUES ({}, ${}) ON CONFLICT DO NOTHING",
        sql::columns::<HookCallRow>(),
        places.join(", "),
        HookCallRow::COUNT + 1
    )
});

static SELECT: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {} FROM hook_calls WHERE id < ", sql::columns::<HookCallRow>()));

#[async_trait]
impl HookCalls for PostgresStore {
    async fn record_hook_call(&self, call: HookCall) -> Result<()> {
        self.write(RecordHookCall(call)).await
    }

    async fn hook_calls(&self, scope: TenantScope, query: &HookCallQuery) -> Result<Vec<HookCall>> {
        list(self.primary(), scope, query).await
    }
}

/// Lists hook calls on a server.
pub(crate) async fn list(from: ReadSource<'_>, scope: TenantScope, query: &HookCallQuery) -> Result<Vec<HookCall>> {
    const OPERATION: &str = "list hook calls";
    let mut sql = Query::new(&SELECT);
    sql.bind(query.before.map_or(AFTER_ALL, |before| *before.as_bytes())).push(" AND ").within("tenant", scope);
    match query.upload {
        Some(upload) => {
            sql.push(" AND upload_id = ").bind(upload).push(" AND bucket = ").bind(bucket_of(upload.as_bytes()))
        }
        None => sql.push(" AND bucket = ANY(").bind(all_buckets()).push("::bigint[])"),
    };
    sql.push(" ORDER BY id DESC LIMIT ").bind(query.limit);
    let found = from.query(OPERATION, sql.sql(), sql.values()).await?;
    let call = |row: &Row| rows::read::<HookCallRow>(row).map(HookCall::from);
    found.iter().map(call).collect::<std::result::Result<_, Fault>>().map_err(|fault| fault.into_error(OPERATION))
}

struct RecordHookCall(HookCall);

impl Work for RecordHookCall {
    const OPERATION: &'static str = "record a hook call";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<(), Fault> {
        let mut values = rows::values::<HookCallRow>(&HookCallRow::cells(&self.0));
        values.push(Param::bucket(self.0.upload.as_bytes()));
        tx.execute(&INSERT, &values).await.map(drop)
    }
}
