//! Rows on their way from one database to another: the tables, and batches of their rows.
//!
//! Rows are copied column by column, and keep every value. Uploads are read and written as a whole, because
//! each database distributes their columns differently.

use domain::log::EventPosition;
use domain::upload::Upload;

use crate::cell::Cell;
use crate::table::Row as _;
use crate::{AttemptRow, DeliveryRow, EndpointRow, EventRow, HookCallRow, ReplayRow};

/// The tables that are moved. Tables about running processes are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MovedTable {
    Endpoints,
    Uploads,
    Events,
    Deliveries,
    /// Rows in the order of their deliveries. Each has the source of its delivery in an additional last
    /// column, the upload or the event.
    Attempts,
    ReplayJobs,
    BacklogJobs,
    HookCalls,
}

/// The end of a batch, from which the next one continues: the key of its last row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchEnd(pub Vec<u8>);

/// Some rows of one table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowBatch {
    /// The rows of every table except uploads, with the cells of [`MovedTable::columns`].
    pub rows: Vec<Vec<Cell>>,
    pub uploads: Vec<Upload>,
    /// `None` if the table has no further rows.
    pub end: Option<BatchEnd>,
}

impl RowBatch {
    pub fn len(&self) -> usize {
        self.rows.len() + self.uploads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl MovedTable {
    /// All tables, in the order in which they are moved.
    pub const ALL: [Self; 8] = [
        Self::Endpoints,
        Self::Uploads,
        Self::Events,
        Self::Deliveries,
        Self::Attempts,
        Self::ReplayJobs,
        Self::BacklogJobs,
        Self::HookCalls,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Uploads => "uploads",
            Self::Events => "events",
            Self::Deliveries => "deliveries",
            Self::Attempts => "attempts",
            Self::ReplayJobs => "replay_jobs",
            Self::BacklogJobs => "backlog_jobs",
            Self::HookCalls => "hook_calls",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Returns the table that is moved after this one.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table > self)
    }

    /// Returns the columns that both databases have, in the order of a row's cells; none for uploads.
    pub fn columns(self) -> Vec<&'static str> {
        match self {
            Self::Endpoints => [EndpointRow::COLUMNS, &["generation", "resumed_at_ms"]].concat(),
            Self::Uploads => Vec::new(),
            Self::Events => [&["position"], EventRow::COLUMNS].concat(),
            Self::Deliveries => DeliveryRow::COLUMNS.to_vec(),
            Self::Attempts => AttemptRow::COLUMNS.to_vec(),
            Self::ReplayJobs => ReplayRow::COLUMNS.to_vec(),
            Self::BacklogJobs => vec!["number", "endpoint", "kind", "begun_at_ms", "cursor"],
            Self::HookCalls => HookCallRow::COLUMNS.to_vec(),
        }
    }
}

/// The identity of a move, and the address of its other end as text for people. Both databases record it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRecord {
    pub id: [u8; 16],
    pub other_end: String,
    pub is_finished: bool,
}

/// The highest numbers that a database has used. Those of the other one continue above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastNumbers {
    pub event: EventPosition,
    pub backlog_job: i64,
    /// The epoch of the latest configuration of endpoints.
    pub config_epoch: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_each_other_until_the_last() {
        let mut seen = vec![MovedTable::ALL[0]];
        while let Some(next) = seen.last().and_then(|table| table.next()) {
            seen.push(next);
        }
        assert_eq!(seen, MovedTable::ALL);
        for table in seen {
            assert_eq!(MovedTable::by_name(table.name()), Some(table));
        }
        assert_eq!(MovedTable::by_name("nodes"), None);
    }
}
