//! Connects the hook client to the engine's port.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;

use crate::config;
use domain::hook::{Hook, HookRequest, HookResult};
use engine::hooks::HookPort;

#[derive(Debug)]
struct HookAdapter(hooks::HttpHookClient);

#[async_trait]
impl HookPort for HookAdapter {
    fn wants(&self, hook: Hook) -> bool {
        self.0.wants(hook)
    }

    async fn call(&self, request: HookRequest) -> HookResult {
        self.0.call(request).await
    }
}

/// Returns the hooks port for the engine, and its metrics; `None` if no hook is configured.
pub(super) fn application(
    config: &config::HooksConfig,
    rules: &Arc<outbound::address::EgressRules>,
) -> anyhow::Result<Option<(Arc<dyn HookPort>, hooks::HookMetrics)>> {
    let Some(settings) = &config.calls else { return Ok(None) };
    let hooks = hooks::HttpHookClient::new(settings.clone(), Arc::clone(rules)).context("could not set up hooks")?;
    let metrics = hooks.metrics().clone();
    Ok(Some((Arc::new(HookAdapter(hooks)), metrics)))
}
