//! Building an index while rows are written.
//!
//! PostgreSQL cannot do so for a partitioned table as a whole. The index of the parent is therefore created
//! without its partitions, and completed with an index for each of them. Every step can be repeated.

use crate::fault::Fault;
use crate::migrate::with_locks;
use crate::params::params;
use crate::session::Session;
use crate::transaction::one;

/// The partitions of a table that have no index which belongs to the index of the parent.
const MISSING: &str = "SELECT child.relname::text FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
     WHERE inhparent = to_regclass($1) AND NOT EXISTS (
         SELECT 1 FROM pg_index JOIN pg_inherits AS of_parent ON of_parent.inhrelid = pg_index.indexrelid
         WHERE pg_index.indrelid = child.oid AND of_parent.inhparent = to_regclass($2))
     ORDER BY child.relname";

/// Builds an index on a table or on all partitions of a table. `keys` follows the name of the table.
pub(crate) async fn build(session: &Session, name: &str, table: &str, keys: &str) -> Result<(), Fault> {
    const IS_PARTITIONED: &str = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass($1)";
    let found = session.query(IS_PARTITIONED, params![table.to_owned()]).await?;
    if !one(&found)?.try_get::<_, bool>(0)? {
        return build_one(session, name, table, keys).await;
    }
    let parent = format!("CREATE INDEX IF NOT EXISTS {name} ON ONLY {table} {keys}");
    with_locks(|| session.batch(&parent)).await?;
    loop {
        // A partition that is created meanwhile gets its index with it.
        let missing = session.query(MISSING, params![table.to_owned(), name.to_owned()]).await?;
        let Some(partition) = missing.first() else { return Ok(()) };
        let partition: String = partition.try_get(0)?;
        let own = format!("{name}_{}", partition.strip_prefix(table).unwrap_or(&partition).trim_start_matches('_'));
        let built = async {
            build_one(session, &own, &partition, keys).await?;
            let attach = format!("ALTER INDEX {name} ATTACH PARTITION {own}");
            with_locks(|| session.batch(&attach)).await
        };
        match built.await {
            // The day was empty, and a node has dropped it.
            Err(fault) if fault.is_of_missing_table() => {}
            built => built?,
        }
    }
}

/// Builds the index of one table. An index that an interrupted attempt left incomplete is replaced.
async fn build_one(session: &Session, name: &str, table: &str, keys: &str) -> Result<(), Fault> {
    const IS_VALID: &str = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)";
    let found = session.query(IS_VALID, params![name.to_owned()]).await?;
    match found.first().map(|row| row.try_get(0)).transpose()? {
        Some(true) => return Ok(()),
        Some(false) => without_lock_timeout(session, &format!("DROP INDEX CONCURRENTLY {name}")).await?,
        None => {}
    }
    without_lock_timeout(session, &format!("CREATE INDEX CONCURRENTLY {name} ON {table} {keys}")).await
}

/// Runs a statement that waits for running transactions, and whose waiting holds up no other statement.
async fn without_lock_timeout(session: &Session, sql: &str) -> Result<(), Fault> {
    session.batch("SET lock_timeout = 0").await?;
    let done = session.batch(sql).await;
    session.batch("SET lock_timeout = 2000").await?;
    done
}
