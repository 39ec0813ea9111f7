//! Duties of nodes, by the clock of the database.

use std::time::Duration;

use async_trait::async_trait;
use tokio_postgres::Row;

use crate::PostgresStore;
use crate::fault::Fault;
use crate::leases::{is_alive, milliseconds};
use crate::params::params;
use crate::rows::Columns;
use crate::session::Planning;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::duty::Duty;
use domain::id::InstanceId;
use state::{Duties, Result};

/// Selects whether the node has the duty for more than half of the time, if it or another live node has it.
const HELD: &str = concat!(
    "SELECT instance = $2 FROM duties WHERE name = $1 AND CASE WHEN instance = $2
         THEN until > clock_timestamp() + $3::bigint / 2 * interval '1 ms'
         ELSE until > clock_timestamp()
             AND EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = duties.instance AND ",
    is_alive!(),
    ") END"
);

/// Writes the duty unless another live node has it.
const CLAIM: &str = concat!(
    "INSERT INTO duties (name, instance, until) VALUES ($1, $2, clock_timestamp() + $3::bigint * interval '1 ms')
     ON CONFLICT (name) DO UPDATE SET instance = excluded.instance, until = excluded.until
     WHERE duties.instance = excluded.instance OR duties.until <= clock_timestamp()
         OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = duties.instance AND ",
    is_alive!(),
    ")"
);

#[async_trait]
impl Duties for PostgresStore {
    async fn claim_duty(&self, duty: Duty, node: InstanceId, lasts: Duration) -> Result<bool> {
        const OPERATION: &str = "find the node of a duty";
        let lasts_ms = milliseconds(lasts);
        let held =
            self.readers.query_as(OPERATION, HELD, Planning::Once(None), params![duty.name(), node, lasts_ms]).await?;
        let is_own = |row: &Row| Columns::of(row).next::<bool>().map_err(|fault: Fault| fault.into_error(OPERATION));
        match held.first() {
            Some(row) => is_own(row),
            None => self.write(ClaimDuty { duty, node, lasts_ms }).await,
        }
    }
}

struct ClaimDuty {
    duty: Duty,
    node: InstanceId,
    lasts_ms: i64,
}

impl Work for ClaimDuty {
    const OPERATION: &'static str = "claim a duty";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = bool;

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<bool, Fault> {
        let values = params![self.duty.name(), self.node, self.lasts_ms];
        Ok(tx.execute(CLAIM, values).await? > 0)
    }
}
