//! Puts the way to the application where the engine asks for one.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;

use crate::config;
use crate::domain::hook::Asked;
use crate::domain::hook::Hook;
use crate::domain::hook::Question;
use crate::engine::hooks::Hooks;
use crate::webhook;

#[derive(Debug)]
struct Application(webhook::Hooks);

#[async_trait]
impl Hooks for Application {
    fn wants(&self, hook: Hook) -> bool {
        self.0.wants(hook)
    }

    async fn ask(&self, question: Question) -> Asked {
        self.0.ask(question).await
    }
}

/// The application as the engine asks it, and what is counted of that; `None` when it wants to be asked nothing.
pub(super) fn application(
    config: &config::Hooks,
    rules: &Arc<webhook::EgressRules>,
) -> anyhow::Result<Option<(Arc<dyn Hooks>, webhook::HookMetrics)>> {
    let Some(secret) = config.secret.as_ref().filter(|_| !config.urls.is_empty()) else { return Ok(None) };
    let settings = webhook::HookSettings {
        urls: config.urls.clone(),
        secret: secret.expose().parse().context("hooks.secret cannot be used")?,
        timeout: config.timeout,
        max_in_flight: usize::try_from(config.max_in_flight).unwrap_or(usize::MAX),
        breaker_failures: config.breaker_failures,
        breaker_pause: config.breaker_pause,
        fail_open: config.fail_open.clone(),
        reject_statuses: config.reject_statuses.clone(),
    };
    let hooks = webhook::Hooks::new(settings, Arc::clone(rules)).context("could not prepare to call hooks")?;
    let metrics = hooks.metrics().clone();
    Ok(Some((Arc::new(Application(hooks)), metrics)))
}
