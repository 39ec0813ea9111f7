//! The record of hook calls.

use std::ops::Bound;

use crate::RetentionHorizon;
use crate::memory::Tables;
use domain::hook::HookCall;
use domain::id::HookCallId;
use domain::principal::TenantScope;
use domain::query::HookCallQuery;

impl Tables {
    pub(super) fn newest_hook_calls(&self, scope: TenantScope, query: &HookCallQuery) -> Vec<HookCall> {
        let end = query.before.map_or(Bound::Unbounded, Bound::Excluded);
        let newest_first = self.hook_calls.range((Bound::Unbounded, end)).rev().map(|(_, call)| call);
        let wanted = newest_first
            .filter(|call| query.upload.is_none_or(|upload| call.upload == upload) && scope.covers(call.tenant));
        wanted.take(usize::try_from(query.limit).unwrap_or(usize::MAX)).cloned().collect()
    }

    /// Removes at most `limit` calls that are too old or exceed the number kept.
    pub(super) fn prune_hook_calls(&mut self, horizon: RetentionHorizon, limit: u32) -> u64 {
        let oldest_kept = usize::try_from(horizon.most_hook_calls.saturating_sub(1)).unwrap_or(usize::MAX);
        let from_then_on = HookCallId::new(horizon.finished, [0; 10]);
        let end = self.hook_calls.keys().rev().nth(oldest_kept).map_or(from_then_on, |id| from_then_on.max(*id));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let old: Vec<HookCallId> = self.hook_calls.range(..end).map(|(id, _)| *id).take(limit).collect();
        for id in &old {
            self.hook_calls.remove(id);
        }
        old.len() as u64
    }
}
