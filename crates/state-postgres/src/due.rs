//! The queries of the sweeper. Each uses a partial index of `uploads`. The rounded times of the index also
//! match a few other rows, which a condition on the exact times excludes.
//!
//! Uploads with work are searched day by day, from the oldest day that has any. Completed uploads may lie on
//! every day, and are searched window by window.

use crate::bucket::{DAY, SourceId, all_buckets, first_id_of};
use crate::due_places::DuePlace;
use crate::leases::NOT_ELSEWHERE;
use crate::query::Query;
use crate::records::{CHANGED_WITHIN_MS, EXPIRES_WITHIN_MS};
use crate::rows::{UPLOAD_COLUMNS, UPLOAD_TABLES};
use crate::unfinished::work_condition;
use state::{SweepSelection, SweepShare};

use std::sync::LazyLock;

static SELECT: LazyLock<String> = LazyLock::new(|| format!("SELECT {} FROM {UPLOAD_TABLES} WHERE ", *UPLOAD_COLUMNS));

/// The condition that an upload has an expiry.
const EXPIRES: &str = work_condition!(expiring);

/// Returns the identifier that follows those of all uploads in a selection of completed uploads; `None` for a
/// selection of uploads with work.
pub(crate) fn end_of_completed(selection: SweepSelection) -> Option<SourceId> {
    match selection {
        // An identifier chosen by the application may be a day ahead of its creation.
        SweepSelection::Outdated { completed_before } => Some(first_id_of(completed_before.plus(DAY * 2))),
        SweepSelection::Unsettled
        | SweepSelection::Unsealed
        | SweepSelection::Expired { .. }
        | SweepSelection::Silent { .. }
        | SweepSelection::Overlong { .. }
        | SweepSelection::ChangedAfter { .. }
        | SweepSelection::Removable => None,
    }
}

/// Builds the query for a selection within a place. Each query repeats the condition of its partial index.
pub(crate) fn query(selection: SweepSelection, share: SweepShare, place: DuePlace, skip: u32, limit: u32) -> Query {
    let mut sql = Query::new(&SELECT);
    // Each table is named, because the planner excludes partitions of a table only by conditions on it.
    sql.push("/*days*/");
    for table in ["uploads.id", "upload_progress.id"] {
        sql.push(table).push(" >= ").bind(place.from).push(" AND ");
        sql.push(table).push(" < ").bind(place.end).push(" AND ");
    }
    sql.push("/*end*/bucket = ANY(").bind(all_buckets()).push("::bigint[]) AND ");
    let oldest_first = match selection {
        SweepSelection::Unsettled => {
            sql.push(work_condition!(unsettled));
            "id"
        }
        SweepSelection::Unsealed => {
            sql.push("is_full AND completion = 'when-full'");
            "id"
        }
        SweepSelection::Expired { now } => {
            sql.push(EXPIRES).push(" AND expires_about_ms <= ").bind(now);
            sql.push(" AND expires_at_ms <= ").bind(now);
            "expires_about_ms, expires_at_ms, id"
        }
        SweepSelection::Silent { since } => {
            sql.push("stage = 'receiving' AND changed_about_ms <= ").bind(since);
            sql.push(" AND updated_at_ms < ").bind(since);
            "changed_about_ms, updated_at_ms, id"
        }
        SweepSelection::Overlong { now, latest } => {
            let about_ms = latest.unix_ms().saturating_sub(EXPIRES_WITHIN_MS);
            sql.push(EXPIRES).push(" AND expires_about_ms > ").bind(about_ms);
            sql.push(" AND expires_at_ms > ").bind(latest).push(" AND updated_at_ms > ").bind(now);
            "expires_about_ms, expires_at_ms, id"
        }
        SweepSelection::ChangedAfter { now } => {
            let about_ms = now.unix_ms().saturating_sub(CHANGED_WITHIN_MS);
            sql.push("stage = 'receiving' AND changed_about_ms > ").bind(about_ms);
            sql.push(" AND updated_at_ms > ").bind(now);
            "changed_about_ms, updated_at_ms, id"
        }
        SweepSelection::Removable => {
            sql.push(work_condition!(removable));
            "id"
        }
        SweepSelection::Outdated { completed_before } => {
            sql.push("stage = 'completed' AND removed_at_ms IS NULL AND completed_at_ms < ").bind(completed_before);
            "completed_at_ms, id"
        }
    };
    match share {
        SweepShare::Own(node) => sql.push(" AND upload_progress.holder = ").bind(node),
        SweepShare::OwnAndFree(node) => sql.push(NOT_ELSEWHERE).bind(node).push(")"),
    };
    sql.push(" ORDER BY ").push(oldest_first);
    sql.push(" LIMIT ").bind(limit).push(" OFFSET ").bind(skip);
    sql
}
