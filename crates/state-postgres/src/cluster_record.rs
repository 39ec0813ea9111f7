//! The record of the cluster that uses the database.

use async_trait::async_trait;
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::fault::Fault;
use crate::params::params;
use crate::rows::Columns;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::node::NodeName;
use state::{ClusterIdentity, ClusterRecord, Result};

#[async_trait]
impl ClusterRecord for PostgresStore {
    async fn record_cluster(&self, own: &ClusterIdentity) -> Result<ClusterIdentity> {
        if !self.shared.only_reads {
            return self.write(RecordCluster(own.clone())).await;
        }
        let found = self.readers.query(RecordCluster::OPERATION, "SELECT name, keys FROM cluster", &[]).await?;
        let Some(row) = found.first() else { return Ok(own.clone()) };
        let recorded = recorded(row).map_err(|fault| fault.into_error(RecordCluster::OPERATION))?;
        Ok(if recorded.admits(own) { own.clone() } else { recorded })
    }
}

fn recorded(row: &Row) -> std::result::Result<ClusterIdentity, Fault> {
    let mut columns = Columns::of(row);
    let name = columns.named(NodeName::new)?;
    let keys: String = columns.next()?;
    Ok(ClusterIdentity { name, keys: keys.split(' ').map(str::to_owned).collect() })
}

struct RecordCluster(ClusterIdentity);

impl Work for RecordCluster {
    const OPERATION: &'static str = "record the cluster";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ClusterIdentity;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<ClusterIdentity, Fault> {
        let Self(own) = self;
        tx.execute(
            "INSERT INTO cluster (name, keys) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            params![own.name.as_str().to_owned(), own.keys.join(" ")],
        )
        .await?;
        // Locked, so that of two nodes that start at once the later one is compared with the earlier one.
        let found = tx.query_opt("SELECT name, keys FROM cluster FOR UPDATE", &[]).await?;
        let Some(row) = found else { return Ok(own.clone()) };
        let recorded = recorded(&row)?;
        if recorded == *own || !recorded.admits(own) {
            return Ok(recorded);
        }
        tx.execute("UPDATE cluster SET keys = $1", params![own.keys.join(" ")]).await?;
        Ok(own.clone())
    }
}
