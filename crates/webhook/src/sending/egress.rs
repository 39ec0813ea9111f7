//! The outbound client: one exchange with a receiver, and its result.
//!
//! Promises to return within the timeout, whatever the receiver does, to read no more of a response than
//! allowed, and to send nothing to an address that the rules block. It follows no redirects, uses no proxies
//! of the environment, keeps no cookies and changes no byte of the body. It knows nothing of the retry
//! schedule.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SERVER,
};
use reqwest::{Certificate, Client, ClientBuilder, Response};
use tokio::time::{Instant, timeout_at};

use crate::endpoints::endpoint::SendableEndpoint;
use crate::lock::lock;
use crate::sending::retry::RetryAfter;
use crate::settings::WebhookSettings;
use domain::delivery::{AttemptOutcome, Timings};
use domain::endpoint::Origin;
use domain::event::EventKind;
use domain::id::EventId;
use domain::time::Timestamp;
use outbound::address::{EgressRules, literal};
use outbound::client::{ReusableConnections, builder};
use outbound::failure::{classify, root_cause, shortened};
use outbound::resolver::{BlockedAddress, EXCHANGE, ExchangeTrace, GuardedResolver, Lookup, TimeConnecting};
use outbound::tls::install_tls_provider;

/// Limit for repeating a request on another connection: the repetition begins within this time or not at all
/// (webhooks R10).
const RESEND_WITHIN: Duration = Duration::from_secs(1);

const DELIVERY_DIRECTIVE: HeaderName = HeaderName::from_static("webhook-delivery");

/// Response headers that are stored: they help with diagnosis and contain no secrets.
const KEPT_HEADERS: [HeaderName; 8] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    RETRY_AFTER,
    LOCATION,
    SERVER,
    DATE,
    HeaderName::from_static("x-request-id"),
    DELIVERY_DIRECTIVE,
];

/// A message ready to be sent: signed for this attempt, with the body as stored.
#[derive(Debug, Clone)]
pub(crate) struct SignedMessage {
    headers: HeaderMap,
    body: Bytes,
}

impl SignedMessage {
    pub(crate) fn new(
        endpoint: &SendableEndpoint,
        event: EventId,
        kind: EventKind,
        attempt: u32,
        now: Timestamp,
        body: Bytes,
    ) -> Self {
        let id = format!("evt_{event}");
        // Standard Webhooks: whole seconds, at the time of this attempt. Receivers reject timestamps older
        // than 5 minutes.
        let unix_seconds = now.unix_ms().div_euclid(1000);
        let mut signature = text(&endpoint.sign(&id, now, &body));
        signature.set_sensitive(true);

        // Custom headers come first, so they cannot override those of the server.
        let mut headers = endpoint.headers().clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(HeaderName::from_static("webhook-id"), text(&id));
        headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(unix_seconds));
        headers.insert(HeaderName::from_static("webhook-signature"), signature);
        headers.insert(HeaderName::from_static("webhook-attempt"), HeaderValue::from(attempt));
        headers.insert(HeaderName::from_static("webhook-event-type"), HeaderValue::from_static(kind.name()));
        Self { headers, body }
    }

    /// Adds a token with which the receiver can report stages of the message's upload. It is a header of this
    /// attempt and not part of the body, because others can read bodies too.
    pub(crate) fn with_stage_token(mut self, token: &str) -> Self {
        let mut token = text(token);
        token.set_sensitive(true);
        self.headers.insert(HeaderName::from_static("webhook-stage-token"), token);
        self
    }
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("identifiers and base64 are visible ASCII")
}

/// The result of one exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptResponse {
    pub(crate) outcome: AttemptOutcome,
    pub(crate) retry_after: Option<RetryAfter>,
    pub(crate) directive: Option<ReceiverDirective>,
    pub(crate) note: Option<String>,
    /// The headers among [`KEPT_HEADERS`], with their values.
    pub(crate) headers: Vec<(String, String)>,
    /// The first bytes of the body, up to `response_kept_bytes`.
    pub(crate) body: Vec<u8>,
    pub(crate) took: Duration,
    pub(crate) timings: Timings,
    pub(crate) remote: Option<IpAddr>,
}

/// A request that a receiver makes in its `webhook-delivery` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiverDirective {
    /// Make no more attempts at this message.
    AbortMessage,
    /// Send no more messages.
    Disable,
}

impl AttemptResponse {
    pub(crate) fn without_response(outcome: AttemptOutcome, note: Option<String>, took: Duration) -> Self {
        Self {
            outcome,
            retry_after: None,
            directive: None,
            note,
            headers: Vec::new(),
            body: Vec::new(),
            took,
            timings: Timings::default(),
            remote: None,
        }
    }
}

pub(crate) struct Egress {
    rules: Arc<EgressRules>,
    settings: WebhookSettings,
    lookup: Lookup,
    /// One client for each origin of endpoints, so that endpoints with different address rules share no
    /// connection.
    plain: [Client; 2],
    secure: [OnceLock<Result<Client, String>>; 2],
    /// Clients that trust only the certificates in a PEM bundle.
    trusting: [Mutex<HashMap<String, Client>>; 2],
    /// Reusable connections, by origin, scheme, host and port.
    reusable: ReusableConnections<(Origin, String)>,
}

impl Egress {
    pub(crate) fn new(settings: WebhookSettings, rules: Arc<EgressRules>, lookup: Lookup) -> reqwest::Result<Self> {
        install_tls_provider();
        let plain = |origin| client(&settings, resolver(&rules, origin, false, &lookup)).tls_certs_only([]).build();
        let plain = [plain(Origin::Config)?, plain(Origin::Api)?];
        let (secure, trusting, reusable) = Default::default();
        Ok(Self { rules, settings, lookup, plain, secure, trusting, reusable })
    }

    /// Returns the client for TLS, and creates it on first use. It needs the root certificates of the
    /// platform; they are not loaded until an endpoint uses TLS, so a machine without any can still send.
    pub(crate) fn prepare_tls(&self, origin: Origin) -> Result<&Client, &String> {
        let ready = self.secure[index(origin)].get_or_init(|| {
            let built = client(&self.settings, resolver(&self.rules, origin, true, &self.lookup)).build();
            built.map_err(|error| root_cause(&error))
        });
        ready.as_ref()
    }

    fn client_for(&self, endpoint: &SendableEndpoint) -> Result<Client, String> {
        let origin = endpoint.stored().origin;
        match &endpoint.terms().ca_certificates {
            Some(pem) if endpoint.is_https() => self.client_trusting(origin, pem),
            None if endpoint.is_https() => self.prepare_tls(origin).cloned().map_err(String::clone),
            Some(_) | None => Ok(self.plain[index(origin)].clone()),
        }
    }

    /// Returns a client that trusts only these certificates.
    fn client_trusting(&self, origin: Origin, pem: &str) -> Result<Client, String> {
        let mut trusting = lock(&self.trusting[index(origin)]);
        if let Some(client) = trusting.get(pem) {
            return Ok(client.clone());
        }
        let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| root_cause(&error))?;
        let builder = client(&self.settings, resolver(&self.rules, origin, true, &self.lookup));
        let client = builder.tls_certs_only(certificates).build().map_err(|error| root_cause(&error))?;
        trusting.insert(pem.to_owned(), client.clone());
        Ok(client)
    }

    /// Sends the message and waits for the response, in total no longer than the timeout of the endpoint.
    pub(crate) async fn send(&self, endpoint: &SendableEndpoint, message: SignedMessage) -> AttemptResponse {
        let port = endpoint.url().port_or_known_default().unwrap_or_default();
        // Literal addresses bypass the resolver, so they are checked here.
        if let Some(address) = literal(endpoint.url()) {
            let place = SocketAddr::new(address, port);
            if self.rules.check_address(place, endpoint.is_https(), endpoint.stored().origin).is_err() {
                return blocked(Duration::ZERO);
            }
        }
        let client = match self.client_for(endpoint) {
            Ok(client) => client,
            Err(why) => {
                let note = shortened(&format!("could not set up TLS: {why}"));
                return AttemptResponse::without_response(AttemptOutcome::Tls, Some(note), Duration::ZERO);
            }
        };
        let trace = Arc::new(ExchangeTrace::new(port));
        let mut answer = EXCHANGE.scope(Arc::clone(&trace), self.exchange(&client, endpoint, message)).await;
        let seen = trace.seen();
        answer.timings.connect = seen.connect;
        // A lookup for a connection that was not needed in the end delayed nothing.
        let was_needed = seen.connect.is_some() || answer.timings.first_byte.is_none();
        answer.timings.dns = seen.dns.filter(|_| was_needed);
        answer
    }

    async fn exchange(&self, client: &Client, endpoint: &SendableEndpoint, message: SignedMessage) -> AttemptResponse {
        let began = Instant::now();
        // The lease may have been shortened since the endpoint was created.
        let timeout = endpoint.terms().timeout.unwrap_or(self.settings.timeout).min(self.settings.longest_timeout());
        let deadline = began + timeout;
        let receiver = (endpoint.stored().origin, endpoint.url().origin().ascii_serialization());
        let sent = self.reusable.send(&receiver, Some(RESEND_WITHIN), || request(client, endpoint, message.clone()));
        match timeout_at(deadline, sent).await {
            Ok(Ok(response)) => self.read(response, deadline, began, receiver).await,
            Ok(Err(error)) => match classify(&error) {
                AttemptOutcome::Blocked => blocked(began.elapsed()),
                outcome => AttemptResponse::without_response(outcome, Some(root_cause(&error)), began.elapsed()),
            },
            Err(_) => {
                let note = format!("no response within {timeout:?}");
                AttemptResponse::without_response(AttemptOutcome::Timeout, Some(note), began.elapsed())
            }
        }
    }

    /// Reads the response within its limits. Its status counts even if the body never ends.
    async fn read(
        &self,
        mut response: Response,
        deadline: Instant,
        began: Instant,
        receiver: (Origin, String),
    ) -> AttemptResponse {
        let first_byte = began.elapsed();
        let status = response.status();
        let remote = response.remote_addr().map(|remote| remote.ip().to_canonical());
        let header =
            |name: &HeaderName| response.headers().get(name).map(|value: &HeaderValue| printable(value.as_bytes()));
        let retry_after = header(&RETRY_AFTER).and_then(|value| RetryAfter::parse(&value));
        let directive = header(&DELIVERY_DIRECTIVE).and_then(|value| match value.trim() {
            "abort-message" => Some(ReceiverDirective::AbortMessage),
            "disable" => Some(ReceiverDirective::Disable),
            _ => None,
        });
        let redirect = header(&LOCATION).filter(|_| status.is_redirection());
        let headers =
            KEPT_HEADERS.iter().filter_map(|name| Some((name.to_string(), shortened(&header(name)?)))).collect();

        let mut body = Vec::new();
        let end = timeout_at(deadline, self.read_body(&mut response, &mut body)).await;
        let cut = match end {
            Ok(Ok(BodyOutcome::Whole)) => {
                self.reusable.note(receiver, Instant::now());
                None
            }
            Ok(Ok(BodyOutcome::Limit)) => None,
            Ok(Err(_)) => Some("the body of the response is incomplete".to_owned()),
            Err(_) => Some("the body of the response did not end in time".to_owned()),
        };
        AttemptResponse {
            outcome: AttemptOutcome::Status(status.as_u16()),
            retry_after,
            directive,
            note: redirect.map(|location| shortened(&format!("redirects to {location}"))).or(cut),
            headers,
            body,
            took: began.elapsed(),
            timings: Timings { first_byte: Some(first_byte), ..Timings::default() },
            remote,
        }
    }

    async fn read_body(&self, response: &mut Response, kept: &mut Vec<u8>) -> reqwest::Result<BodyOutcome> {
        let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let (limit, kept_at_most) = (size(self.settings.response_limit_bytes), size(self.settings.response_kept_bytes));
        let mut left = limit;
        while left > 0 {
            let Some(chunk) = response.chunk().await? else { return Ok(BodyOutcome::Whole) };
            let room = kept_at_most.min(limit).saturating_sub(kept.len());
            kept.extend_from_slice(&chunk[..room.min(chunk.len())]);
            left = left.saturating_sub(chunk.len());
        }
        Ok(BodyOutcome::Limit)
    }
}

const fn index(origin: Origin) -> usize {
    match origin {
        Origin::Config => 0,
        Origin::Api => 1,
    }
}

fn resolver(rules: &Arc<EgressRules>, origin: Origin, is_secure: bool, lookup: &Lookup) -> GuardedResolver {
    GuardedResolver { rules: Arc::clone(rules), origin, is_secure, lookup: Arc::clone(lookup) }
}

fn client(settings: &WebhookSettings, resolver: GuardedResolver) -> ClientBuilder {
    let idle = usize::try_from(settings.max_in_flight_per_endpoint).unwrap_or(usize::MAX);
    builder(idle)
        .dns_resolver(Arc::new(resolver))
        .connector_layer(TimeConnecting)
        .connect_timeout(settings.connect_timeout)
}

async fn request(client: &Client, endpoint: &SendableEndpoint, message: SignedMessage) -> reqwest::Result<Response> {
    let request = client.post(endpoint.url().clone()).headers(message.headers).body(message.body);
    request.send().await.map_err(reqwest::Error::without_url)
}

/// Returns the same result for every blocked address (webhooks S10).
fn blocked(took: Duration) -> AttemptResponse {
    AttemptResponse::without_response(AttemptOutcome::Blocked, Some(BlockedAddress.to_string()), took)
}

enum BodyOutcome {
    Whole,
    Limit,
}

fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::is_control, " ")
}
