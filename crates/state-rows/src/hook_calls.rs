//! The record of hook calls.

use domain::hook::{CallOutcome, Hook, HookCall};
use domain::id::{HookCallId, UploadId};
use domain::principal::TenantId;
use domain::time::Timestamp;

use crate::fields::Micros;
use crate::table::table;

table! {
    /// One hook call.
    pub struct HookCallRow in "hook_calls", key (id), of (call: &HookCall) {
        id: HookCallId = call.id;
        hook: Hook = call.hook;
        upload_id: UploadId = call.upload;
        tenant: TenantId = call.tenant;
        decision: String = call.decision;
        started_at_ms: Timestamp = call.started_at;
        took_us: Micros = Micros(call.took);
        outcome: CallOutcome = call.outcome;
        status: Option<u16> = call.status;
        message: Option<String> = call.message;
        response_body: Vec<u8> = call.response_body;
    }
}

impl From<HookCallRow> for HookCall {
    fn from(row: HookCallRow) -> Self {
        Self {
            id: row.id,
            hook: row.hook,
            tenant: row.tenant,
            upload: row.upload_id,
            decision: row.decision,
            started_at: row.started_at_ms,
            took: row.took_us.0,
            outcome: row.outcome,
            status: row.status,
            message: row.message,
            response_body: row.response_body,
        }
    }
}
