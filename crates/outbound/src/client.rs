//! What every client of ours that calls out has in common.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, Response};
use tokio::time::Instant;

use crate::failure::classify;
use crate::lock::lock;
use domain::delivery::AttemptOutcome;

/// Shorter than the five seconds after which common servers close an idle connection.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// A client that goes nowhere but where it is told: no redirects, no proxies of the
/// environment, nothing sent again by itself.
pub fn builder(max_idle_per_host: usize) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .http1_only()
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(max_idle_per_host)
}

/// When each receiver last left a connection fit for reuse: such a connection may be closed by the
/// receiver while a request is on its way.
#[derive(Debug)]
pub struct ReusableConnections<K>(Mutex<HashMap<K, Instant>>);

impl<K> Default for ReusableConnections<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> ReusableConnections<K> {
    /// Sends a request to a receiver; once more if the receiver closed a connection that it had left open,
    /// while the request was on its way. hyper sends again by itself only when nothing of the request was
    /// written. Nothing was answered, and receivers know a message again by its id. With `within`, the second
    /// try begins so soon after the first or not at all.
    pub async fn send<F>(
        &self,
        receiver: &K,
        within: Option<Duration>,
        mut request: impl FnMut() -> F,
    ) -> reqwest::Result<Response>
    where
        F: Future<Output = reqwest::Result<Response>>,
    {
        let began = Instant::now();
        let reusable = self.is(receiver, began);
        let sent = request().await;
        match &sent {
            Err(error)
                if reusable
                    && !error.is_connect()
                    && classify(error) == AttemptOutcome::Reset
                    && within.is_none_or(|within| began.elapsed() < within) =>
            {
                request().await
            }
            _ => sent,
        }
    }

    fn is(&self, receiver: &K, now: Instant) -> bool {
        let warm = lock(&self.0);
        warm.get(receiver).is_some_and(|since| now.duration_since(*since) <= POOL_IDLE)
    }

    pub fn note(&self, receiver: K, now: Instant) {
        let mut warm = lock(&self.0);
        warm.retain(|_, since| now.duration_since(*since) <= POOL_IDLE);
        warm.insert(receiver, now);
    }
}
