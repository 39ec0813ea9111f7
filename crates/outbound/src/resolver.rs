//! Name resolution for outbound requests. Only addresses that the rules allow are returned to the connector.
//! Nothing else resolves names, so the checked address is the one that is called.
//!
//! It also measures the time that an exchange spends before its request is sent.

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::address::EgressRules;
use crate::lock::lock;
use domain::endpoint::Origin;

/// A function that resolves a name to its addresses. Tests supply their own.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Returns a lookup that uses the resolver of this machine.
pub fn system_lookup() -> Lookup {
    Arc::new(|name| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    })
}

/// Error: none of the addresses may be called. It does not name them (webhooks S10).
#[derive(Debug, thiserror::Error)]
#[error(
    "no address of this host is allowed; webhooks.allow_networks and webhooks.https_only control which addresses are"
)]
pub struct BlockedAddress;

tokio::task_local! {
    /// The exchange that runs in this task.
    pub static EXCHANGE: Arc<ExchangeTrace>;
}

/// Port and connection timings of an exchange before its request is sent.
#[derive(Debug)]
pub struct ExchangeTrace {
    /// Port of the URL. The resolver gets only the name.
    port: u16,
    seen: Mutex<ConnectTimings>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectTimings {
    pub dns: Option<Duration>,
    pub connect: Option<Duration>,
}

impl ExchangeTrace {
    pub fn new(port: u16) -> Self {
        Self { port, seen: Mutex::default() }
    }

    pub fn seen(&self) -> ConnectTimings {
        *lock(&self.seen)
    }

    fn note(&self, change: impl FnOnce(&mut ConnectTimings)) {
        change(&mut lock(&self.seen));
    }
}

/// Resolves names for one kind of endpoint and filters the addresses.
pub struct GuardedResolver {
    pub rules: Arc<EgressRules>,
    pub origin: Origin,
    pub is_secure: bool,
    pub lookup: Lookup,
}

impl fmt::Debug for GuardedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedResolver").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        // Without an exchange there is no port to check, and no caller that waits.
        let Ok(trace) = EXCHANGE.try_with(Arc::clone) else { return Box::pin(async { Err(BlockedAddress.into()) }) };
        let (rules, origin, is_secure) = (Arc::clone(&self.rules), self.origin, self.is_secure);
        let looking = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let began = Instant::now();
            let found = looking.await?;
            trace.note(|seen| seen.dns = Some(began.elapsed()));
            let places = found.into_iter().map(|address| SocketAddr::new(address, trace.port));
            let allowed: Vec<SocketAddr> =
                places.filter(|place| rules.check_address(*place, is_secure, origin).is_ok()).collect();
            if allowed.is_empty() {
                return Err(BlockedAddress.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Layer that measures the time to connect, including TLS.
#[derive(Debug, Clone, Copy)]
pub struct TimeConnecting;

impl<S> Layer<S> for TimeConnecting {
    type Service = Connecting<S>;

    fn layer(&self, inner: S) -> Connecting<S> {
        Connecting { inner }
    }
}

#[derive(Debug, Clone)]
pub struct Connecting<S> {
    inner: S,
}

impl<S, R> Service<R> for Connecting<S>
where
    S: Service<R>,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (began, trace) = (Instant::now(), EXCHANGE.try_with(Arc::clone).ok());
        let connecting = self.inner.call(request);
        Box::pin(async move {
            let connection = connecting.await?;
            if let Some(trace) = trace {
                trace.note(|seen| seen.connect = Some(began.elapsed().saturating_sub(seen.dns.unwrap_or_default())));
            }
            Ok(connection)
        })
    }
}
