//! Statements about the rows of one day, which name the partitions of that day.
//!
//! The planner examines every partition of a partitioned table that the values of a statement do not exclude,
//! and cannot keep a plan for other values without locking all partitions. Planning took longer than
//! execution, several times as long for claims. Nearly every batch concerns uploads of one day. Its
//! statements therefore name the partitions, and their plans are made once in each session.

use crate::bucket::{DAY, SourceId, day_of, first_id_of};
use crate::days::TABLES;
use domain::id::UploadId;
use domain::time::Timestamp;

/// A UTC day whose partitions exist in all tables, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(Timestamp);

impl Day {
    /// Returns the day of an identifier.
    pub(crate) fn of(id: &SourceId) -> Self {
        Self(day_of(UploadId::from_bytes(*id).made_at()))
    }

    pub(crate) fn first_id(self) -> SourceId {
        first_id_of(self.0)
    }

    /// Returns the following day.
    pub(crate) fn next(self) -> Self {
        Self(self.0.plus(DAY))
    }
}

/// Returns the end of the names of a day's partitions, such as `20261130`.
pub(crate) fn label(day: Timestamp) -> String {
    day.day_path().replace('/', "")
}

/// The words before the name of a table.
const BEFORE_TABLES: [&str; 5] = ["FROM", "JOIN", "UPDATE", "INTO", "OF"];

/// Marks the bounds of days in a statement, which select partitions.
const BOUNDS: [&str; 2] = ["/*days*/", "/*end*/"];

/// Returns the statement without the bounds of days. In the table of one day they would select all rows, and
/// the planner might walk these instead of looking up single ones.
fn without_bounds(sql: &str) -> String {
    let mut parts = sql.split(BOUNDS[0]);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once(BOUNDS[1]).map_or(part, |(_, after)| after));
    }
    text
}

/// Returns the statement with the partitions of a day in place of the partitioned tables. Some columns have
/// the names of tables; a name is that of a table behind certain keywords, or before a dot.
pub(crate) fn on_day(sql: &str, Day(day): Day) -> String {
    let sql = without_bounds(sql);
    let suffix = format!("_{}", label(day));
    let (mut text, mut rest, mut last_word) = (String::with_capacity(sql.len() + 100), sql.as_str(), "");
    while let Some(first) = rest.chars().next() {
        let is_word = |mark: char| mark.is_ascii_alphanumeric() || mark == '_';
        let end =
            if is_word(first) { rest.find(|mark| !is_word(mark)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (piece, after) = rest.split_at(end);
        text.push_str(piece);
        if is_word(first) {
            let is_table = TABLES.iter().any(|(table, _)| *table == piece);
            if is_table && (after.starts_with('.') || BEFORE_TABLES.contains(&last_word)) {
                text.push_str(&suffix);
            }
            last_word = piece;
        } else if !first.is_whitespace() {
            last_word = "";
        }
        rest = after;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_replaced_and_columns_of_their_names_are_not() {
        let day = Day(Timestamp::from_unix_ms(1_795_300_290_123));
        let named = |sql: &str| on_day(sql, day);
        assert_eq!(
            named(
                "SELECT deliveries.id, attempts FROM deliveries\n WHERE deliveries.attempts = $1 FOR UPDATE OF deliveries"
            ),
            "SELECT deliveries_20261121.id, attempts FROM deliveries_20261121\n WHERE deliveries_20261121.attempts = $1 \
             FOR UPDATE OF deliveries_20261121"
        );
        assert_eq!(
            named("INSERT INTO attempts (a) SELECT * FROM unnest($1) AS attempts_of ON CONFLICT DO NOTHING"),
            "INSERT INTO attempts_20261121 (a) SELECT * FROM unnest($1) AS attempts_of ON CONFLICT DO NOTHING"
        );
        assert_eq!(
            named("UPDATE uploads AS old SET attempts = new.attempts FROM new JOIN upload_progress USING (id)"),
            "UPDATE uploads_20261121 AS old SET attempts = new.attempts FROM new JOIN upload_progress_20261121 USING (id)"
        );
        assert_eq!(
            named("SELECT 1 FROM events WHERE id = $1/*days*/ AND events.id < $2/*end*/ AND x/*days*/ AND y/*end*/"),
            "SELECT 1 FROM events_20261121 WHERE id = $1 AND x"
        );
        assert_eq!(
            named("SELECT uploads, deliveries FROM unfinished_from"),
            "SELECT uploads, deliveries FROM unfinished_from"
        );
    }
}
