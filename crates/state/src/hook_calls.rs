//! What the application was asked, and what it said.

use std::fmt;

use async_trait::async_trait;

use crate::Result;
use domain::hook::HookCall;
use domain::principal::TenantScope;
use domain::query::HookCallQuery;

/// Calls of blocking hooks.
#[async_trait]
pub trait HookCalls: fmt::Debug + Send + Sync + 'static {
    /// Writes down what came of asking the application. Writing the same call again changes nothing.
    async fn record_hook_call(&self, call: HookCall) -> Result<()>;

    /// Calls that match, newest first.
    async fn hook_calls(&self, scope: TenantScope, query: &HookCallQuery) -> Result<Vec<HookCall>>;
}
