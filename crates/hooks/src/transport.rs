//! One exchange with the application: sends the request and reads the response, within a deadline and up to a
//! maximum size.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Response, Url};
use tokio::time::{Instant, timeout_at};

use domain::delivery::AttemptOutcome;
use domain::endpoint::Origin;
use domain::media_type;
use outbound::address::{EgressRules, literal};
use outbound::client::{ReusableConnections, builder};
use outbound::failure::{classify, root_cause};
use outbound::resolver::{EXCHANGE, ExchangeTrace, GuardedResolver, Lookup};
use outbound::tls::install_tls_provider;

/// Maximum number of bytes that are read from a response body.
pub(super) const LIMIT_BYTES: usize = 16 << 10;

/// A hook request with its signature.
#[derive(Debug, Clone)]
pub(super) struct SignedRequest {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The response of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HookResponse {
    pub(super) status: u16,
    pub(super) media_type: String,
    pub(super) body: Vec<u8>,
    /// Set if the body exceeds [`LIMIT_BYTES`].
    pub(super) too_large: bool,
}

/// Reason why there is no complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TransportError {
    Timeout,
    Unreachable(String),
}

/// Explanation for operators when a hook's address is blocked.
const BLOCKED: &str = "its address is an address of this server or that of a cloud metadata service";

#[derive(Debug)]
pub(super) struct HookTransport {
    client: Client,
    rules: Arc<EgressRules>,
    /// Connections by scheme, host and port.
    reusable: ReusableConnections<String>,
}

impl HookTransport {
    /// Creates a transport. `https` is set if the root certificates of the platform are needed.
    pub(super) fn new(
        max_in_flight: usize,
        https: bool,
        rules: Arc<EgressRules>,
        lookup: Lookup,
    ) -> reqwest::Result<Self> {
        install_tls_provider();
        // For endpoints of the configuration the rules do not depend on `is_secure`.
        let resolver = GuardedResolver { rules: Arc::clone(&rules), origin: Origin::Config, is_secure: false, lookup };
        let mut builder = builder(max_in_flight).dns_resolver(Arc::new(resolver));
        if !https {
            builder = builder.tls_certs_only([]);
        }
        Ok(Self { client: builder.build()?, rules, reusable: ReusableConnections::default() })
    }

    pub(super) async fn send(
        &self,
        url: &Url,
        message: SignedRequest,
        deadline: Instant,
    ) -> Result<HookResponse, TransportError> {
        let port = url.port_or_known_default().unwrap_or_default();
        // Literal addresses bypass the resolver, so they are checked here.
        if let Some(address) = literal(url)
            && self.rules.check_address(SocketAddr::new(address, port), false, Origin::Config).is_err()
        {
            return Err(TransportError::Unreachable(BLOCKED.to_owned()));
        }
        let origin = url.origin().ascii_serialization();
        let exchange = async {
            // Repeating the request is safe: it names the same decision.
            let sent = self.reusable.send(&origin, None, || self.request(url, message.clone())).await;
            let answered = read(sent.map_err(transport_error)?).await?;
            if !answered.too_large {
                self.reusable.note(origin, Instant::now());
            }
            Ok(answered)
        };
        let exchange = EXCHANGE.scope(Arc::new(ExchangeTrace::new(port)), exchange);
        timeout_at(deadline, exchange).await.unwrap_or(Err(TransportError::Timeout))
    }

    async fn request(&self, url: &Url, message: SignedRequest) -> reqwest::Result<Response> {
        let request = self.client.post(url.clone()).headers(message.headers).body(message.body);
        request.send().await.map_err(reqwest::Error::without_url)
    }
}

/// Reads a response, up to [`LIMIT_BYTES`] of its body.
async fn read(mut response: Response) -> Result<HookResponse, TransportError> {
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type::essence(media_type);
    let mut answered =
        HookResponse { status: response.status().as_u16(), media_type, body: Vec::new(), too_large: false };
    while let Some(chunk) = response.chunk().await.map_err(|error| transport_error(error.without_url()))? {
        let room = LIMIT_BYTES - answered.body.len();
        answered.body.extend_from_slice(&chunk[..room.min(chunk.len())]);
        if chunk.len() > room {
            answered.too_large = true;
            break;
        }
    }
    Ok(answered)
}

fn transport_error(error: reqwest::Error) -> TransportError {
    match classify(&error) {
        AttemptOutcome::Blocked => TransportError::Unreachable(BLOCKED.to_owned()),
        _ => TransportError::Unreachable(root_cause(&error)),
    }
}
