//! Jobs that send many deliveries again.

use domain::delivery::ReplaySelection;
use domain::endpoint::EndpointId;
use domain::id::ReplayId;
use domain::log::EventPosition;
use domain::principal::TenantId;
use domain::replay::{ReplayJob, ReplayState};
use domain::time::Timestamp;

use crate::table::table;

table! {
    /// A job with its position in the log.
    pub struct ReplayRow in "replay_jobs", key (id), of (job: &ReplayJob) {
        id: ReplayId = job.id;
        tenant: TenantId = job.tenant;
        endpoint: EndpointId = job.endpoint;
        what: ReplaySelection = job.what;
        from_ms: Timestamp = job.from;
        before_ms: Timestamp = job.before;
        state: ReplayState = job.state;
        cursor: EventPosition = job.cursor;
        queued: u64 = job.queued;
        created_at_ms: Timestamp = job.created_at;
        finished_at_ms: Option<Timestamp> = job.finished_at;
    }
}

impl From<ReplayRow> for ReplayJob {
    fn from(row: ReplayRow) -> Self {
        Self {
            id: row.id,
            tenant: row.tenant,
            endpoint: row.endpoint,
            what: row.what,
            from: row.from_ms,
            before: row.before_ms,
            state: row.state,
            cursor: row.cursor,
            queued: row.queued,
            created_at: row.created_at_ms,
            finished_at: row.finished_at_ms,
        }
    }
}
