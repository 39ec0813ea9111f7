//! The queries of the sweeper. Each uses a partial index of `uploads`. The rounded times of the index also
//! match a few other rows, which a condition on the exact times excludes.

use crate::leases::NOT_ELSEWHERE;
use crate::query::Query;
use crate::records::{CHANGED_WITHIN_MS, EXPIRES_WITHIN_MS};
use crate::rows::{UPLOAD_COLUMNS, UPLOAD_TABLES};
use domain::id::InstanceId;
use state::SweepSelection;

use std::sync::LazyLock;

static SELECT: LazyLock<String> = LazyLock::new(|| format!("SELECT {} FROM {UPLOAD_TABLES} WHERE ", *UPLOAD_COLUMNS));

/// The condition that an upload has an expiry.
const EXPIRES: &str = "(stage IN ('created', 'receiving', 'stalled') OR (stage = 'received' AND role = 'partial'))";

/// Builds the query for a selection. Each query repeats the condition of its partial index.
pub(crate) fn query(selection: SweepSelection, node: InstanceId, skip: u32, limit: u32) -> Query {
    let mut sql = Query::new(&SELECT);
    let oldest_first = match selection {
        SweepSelection::Unsettled => {
            sql.push(
                "(stage IN ('verified', 'stored') OR (stage = 'received' AND role <> 'partial')
                     OR (stage = 'created' AND role = 'final'))",
            );
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
            sql.push("bytes_kept AND (stage IN ('failed', 'expired', 'terminated') OR removed_at_ms IS NOT NULL)");
            "id"
        }
        SweepSelection::Outdated { completed_before } => {
            sql.push("stage = 'completed' AND removed_at_ms IS NULL AND completed_at_ms < ").bind(completed_before);
            "completed_at_ms, id"
        }
        SweepSelection::Missing => {
            sql.push("missing_since_ms IS NOT NULL");
            "id"
        }
    };
    sql.push(NOT_ELSEWHERE).bind(node).push(") ORDER BY ").push(oldest_first);
    sql.push(" LIMIT ").bind(limit).push(" OFFSET ").bind(skip);
    sql
}
