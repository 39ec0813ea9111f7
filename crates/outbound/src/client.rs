//! Common settings of all outbound HTTP clients, and the repetition of requests on dead reused connections.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, Response};
use tokio::time::Instant;

use crate::failure::classify;
use crate::lock::lock;
use domain::delivery::AttemptOutcome;

/// Idle time after which a connection is closed: less than the five seconds of common servers.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Returns a builder for clients that follow no redirects, use no proxies of the environment, and do not
/// retry on their own.
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

/// The time at which each receiver last left a connection open for reuse. The receiver may close such a
/// connection while a request is on its way.
#[derive(Debug)]
pub struct ReusableConnections<K>(Mutex<HashMap<K, Instant>>);

impl<K> Default for ReusableConnections<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> ReusableConnections<K> {
    /// Sends a request to a receiver, and repeats it once if the receiver closed a reused connection while
    /// the request was on its way. hyper itself repeats a request only if nothing of it was written.
    /// Repeating is safe: there was no response, and receivers recognize a message by its id. With `within`,
    /// the second attempt is made only if it begins less than that time after the first.
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
