//! The record of hook calls.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::hook::HookCall;
use domain::principal::TenantScope;
use domain::query::HookCallQuery;

/// Calls of blocking hooks.
#[async_trait]
pub trait HookCalls: fmt::Debug + Send + Sync + 'static {
    /// Records a hook call. Recording the same call again changes nothing.
    async fn record_hook_call(&self, call: HookCall) -> Result<()>;

    /// Returns matching calls, newest first.
    async fn hook_calls(&self, scope: TenantScope, query: &HookCallQuery) -> Result<Vec<HookCall>>;
}
