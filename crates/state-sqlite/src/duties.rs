//! Duties of nodes, by SQLite's clock.

use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use crate::SqliteStore;
use crate::leases::{is_alive, milliseconds};
use crate::writer::{Work, WriteTransaction};
use domain::duty::Duty;
use domain::id::InstanceId;
use state::{Duties, Result};

/// Selects whether the node has the duty for more than half of the time, if it or another live node has it.
const HELD: &str = concat!(
    "SELECT instance = ?2 FROM duties WHERE name = ?1 AND CASE WHEN instance = ?2
         THEN until_ms > unixepoch('subsec') * 1000 + ?3 / 2
         ELSE until_ms > unixepoch('subsec') * 1000
             AND EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = duties.instance AND ",
    is_alive!(),
    ") END"
);

/// Writes the duty unless another live node has it.
const CLAIM: &str = concat!(
    "INSERT INTO duties (name, instance, until_ms) VALUES (?1, ?2, unixepoch('subsec') * 1000 + ?3)
     ON CONFLICT (name) DO UPDATE SET instance = excluded.instance, until_ms = excluded.until_ms
     WHERE duties.instance = excluded.instance OR duties.until_ms <= unixepoch('subsec') * 1000
         OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.instance = duties.instance AND ",
    is_alive!(),
    ")"
);

#[async_trait]
impl Duties for SqliteStore {
    async fn claim_duty(&self, duty: Duty, node: InstanceId, lasts: Duration) -> Result<bool> {
        let lasts_ms = milliseconds(lasts);
        let held = self.readers.read("find the node of a duty", move |connection| {
            let mut statement = connection.prepare_cached(HELD)?;
            statement.query_one(params![duty.name(), node.as_bytes(), lasts_ms], |row| row.get(0)).optional()
        });
        match held.await? {
            Some(is_own) => Ok(is_own),
            None => self.writer.write(ClaimDuty { duty, node, lasts_ms }).await,
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
    type Output = bool;

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<bool> {
        Ok(tx.execute(CLAIM, params![self.duty.name(), self.node.as_bytes(), self.lasts_ms])? > 0)
    }
}
