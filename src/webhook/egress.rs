//! The outgoing client: one exchange with a receiver, and what came of it.
//!
//! It promises to come back within the timeout, whatever the receiver does, and to read no more of an answer than
//! allowed. It never follows a redirect, never uses a proxy of the environment, keeps no cookies and changes no byte
//! of the body it was given. It knows nothing of retries.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Client;
use reqwest::Response;
use reqwest::header::AUTHORIZATION;
use reqwest::header::CONTENT_TYPE;
use reqwest::header::HeaderMap;
use reqwest::header::HeaderName;
use reqwest::header::HeaderValue;
use reqwest::header::LOCATION;
use reqwest::header::RETRY_AFTER;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::domain::delivery::AttemptOutcome;
use crate::domain::event::EventKind;
use crate::domain::id::EventId;
use crate::domain::time::Timestamp;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::Settings;
use crate::webhook::retry::RetryAfter;
use crate::webhook::sign;

/// Shorter than the five seconds after which common servers close an idle connection.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// A second try on another connection begins within this time or not at all.
const RESEND_WITHIN: Duration = Duration::from_secs(1);

/// Of notes, in characters.
const NOTE_LIMIT: usize = 200;

/// A message ready to be sent: signed for this attempt, the body as it was stored.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    headers: HeaderMap,
    body: Bytes,
}

impl Prepared {
    pub(super) fn new(
        endpoint: &Endpoint,
        event: EventId,
        kind: EventKind,
        attempt: u32,
        now: Timestamp,
        body: Bytes,
    ) -> Self {
        let id = format!("evt_{event}");
        // Standard Webhooks: whole seconds, and those of this attempt; receivers reject what is older than 5 minutes.
        let unix_seconds = now.unix_ms().div_euclid(1000);
        let mut signature = text(&sign::sign_with_all(endpoint.secrets(), &id, unix_seconds, &body));
        signature.set_sensitive(true);

        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(HeaderName::from_static("webhook-id"), text(&id));
        headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(unix_seconds));
        headers.insert(HeaderName::from_static("webhook-signature"), signature);
        headers.insert(HeaderName::from_static("webhook-attempt"), HeaderValue::from(attempt));
        headers.insert(HeaderName::from_static("webhook-event-type"), HeaderValue::from_static(kind.name()));
        if let Some(authorization) = endpoint.authorization() {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Self { headers, body }
    }
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("identifiers and base64 are visible ASCII")
}

/// What came of one exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) outcome: AttemptOutcome,
    pub(super) retry_after: Option<RetryAfter>,
    pub(super) wish: Option<Wish>,
    pub(super) note: Option<String>,
    /// The first bytes of the body.
    pub(super) body: Vec<u8>,
    pub(super) took: Duration,
}

/// What a receiver asks for in its `webhook-delivery` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// No more attempts at this message.
    AbortMessage,
    /// No more messages.
    Disable,
}

impl Answer {
    pub(super) fn without_response(outcome: AttemptOutcome, note: Option<String>, took: Duration) -> Self {
        Self { outcome, retry_after: None, wish: None, note, body: Vec::new(), took }
    }
}

#[derive(Debug)]
pub(super) struct Egress {
    client: Client,
    timeout: Duration,
    response_limit: usize,
    response_kept: usize,
    /// When each receiver last left a connection fit for reuse, by scheme, host and port.
    warm: Mutex<HashMap<String, Instant>>,
}

impl Egress {
    /// `https`: whether any endpoint needs the certificates of the platform. Without one they are not looked for, and
    /// a machine that has none can still send.
    pub(super) fn new(settings: &Settings, https: bool) -> reqwest::Result<Self> {
        install_tls_provider();
        let mut builder = Client::builder()
            .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .http1_only()
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(settings.max_in_flight_per_endpoint);
        if !https {
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            client: builder.build()?,
            timeout: settings.timeout,
            response_limit: settings.response_limit,
            response_kept: settings.response_kept,
            warm: Mutex::default(),
        })
    }

    /// Sends the message and waits for the answer, at most as long as the timeout in all.
    pub(super) async fn send(&self, endpoint: &Endpoint, message: Prepared) -> Answer {
        let began = Instant::now();
        let deadline = began + self.timeout;
        let origin = endpoint.url().origin().ascii_serialization();
        let reusable = self.has_idle_connection(&origin, began);

        let mut exchange = timeout_at(deadline, self.request(endpoint, message.clone())).await;
        if let Ok(Err(error)) = &exchange
            && reusable
            && !error.is_connect()
            && classify(error) == AttemptOutcome::Reset
            && began.elapsed() < RESEND_WITHIN
        {
            // hyper sends again by itself only when nothing of the request was written. Here the receiver closed an
            // idle connection while our request was on its way.
            exchange = timeout_at(deadline, self.request(endpoint, message)).await;
        }
        match exchange {
            Ok(Ok(response)) => self.read(response, deadline, began, origin).await,
            Ok(Err(error)) => Answer::without_response(classify(&error), Some(root_cause(&error)), began.elapsed()),
            Err(_) => {
                let note = format!("no answer within {:?}", self.timeout);
                Answer::without_response(AttemptOutcome::Timeout, Some(note), began.elapsed())
            }
        }
    }

    async fn request(&self, endpoint: &Endpoint, message: Prepared) -> reqwest::Result<Response> {
        let request = self.client.post(endpoint.url().clone()).headers(message.headers).body(message.body);
        request.send().await.map_err(reqwest::Error::without_url)
    }

    /// Reads what is to be read of the answer. Its status counts, even if the body never ends.
    async fn read(&self, mut response: Response, deadline: Instant, began: Instant, origin: String) -> Answer {
        let status = response.status();
        let header = |name| response.headers().get(name).map(|value: &HeaderValue| printable(value.as_bytes()));
        let retry_after = header(RETRY_AFTER).and_then(|value| RetryAfter::parse(&value));
        let wish = header(HeaderName::from_static("webhook-delivery")).and_then(|value| match value.trim() {
            "abort-message" => Some(Wish::AbortMessage),
            "disable" => Some(Wish::Disable),
            _ => None,
        });
        let redirect = header(LOCATION).filter(|_| status.is_redirection());

        let mut body = Vec::new();
        let end = timeout_at(deadline, self.read_body(&mut response, &mut body)).await;
        let cut = match end {
            Ok(Ok(BodyEnd::Whole)) => {
                self.note_idle_connection(origin);
                None
            }
            Ok(Ok(BodyEnd::Limit)) => None,
            Ok(Err(_)) => Some("the body of the answer broke off".to_owned()),
            Err(_) => Some("the body of the answer did not end in time".to_owned()),
        };
        Answer {
            outcome: AttemptOutcome::Status(status.as_u16()),
            retry_after,
            wish,
            note: redirect.map(|location| shortened(&format!("redirects to {location}"))).or(cut),
            body,
            took: began.elapsed(),
        }
    }

    async fn read_body(&self, response: &mut Response, kept: &mut Vec<u8>) -> reqwest::Result<BodyEnd> {
        let mut left = self.response_limit;
        while left > 0 {
            let Some(chunk) = response.chunk().await? else { return Ok(BodyEnd::Whole) };
            let room = self.response_kept.min(self.response_limit).saturating_sub(kept.len());
            kept.extend_from_slice(&chunk[..room.min(chunk.len())]);
            left = left.saturating_sub(chunk.len());
        }
        Ok(BodyEnd::Limit)
    }

    fn has_idle_connection(&self, origin: &str, now: Instant) -> bool {
        let warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.get(origin).is_some_and(|since| now.duration_since(*since) <= POOL_IDLE)
    }

    fn note_idle_connection(&self, origin: String) {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).insert(origin, Instant::now());
    }
}

enum BodyEnd {
    Whole,
    Limit,
}

/// reqwest is built without a TLS provider and takes the one of the process. Whoever is first to install one wins,
/// and any will do.
pub fn install_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error says that another thread was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// The class of an error, by the types in its chain of causes.
fn classify(error: &reqwest::Error) -> AttemptOutcome {
    if error.is_timeout() {
        return AttemptOutcome::Timeout;
    }
    if error.is_dns() {
        return AttemptOutcome::Dns;
    }
    causes(error).find_map(class_of_cause).unwrap_or(AttemptOutcome::Transport)
}

fn class_of_cause(cause: &(dyn StdError + 'static)) -> Option<AttemptOutcome> {
    if cause.is::<rustls::Error>() {
        return Some(AttemptOutcome::Tls);
    }
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        return match io.kind() {
            io::ErrorKind::ConnectionRefused => Some(AttemptOutcome::Refused),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(AttemptOutcome::Reset),
            _ => None,
        };
    }
    // hyper's own error for a connection that was closed instead of an answer. Its type is not ours to name, hence
    // the text; a test pins it.
    (cause.source().is_none() && cause.to_string() == "connection closed before message completed")
        .then_some(AttemptOutcome::Reset)
}

/// The error and everything beneath it, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let outermost: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(outermost), |&error| {
        // What an I/O error wraps is not its source, only that one's source is.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source())
    })
}

fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map(|cause| shortened(&cause.to_string())).unwrap_or_default()
}

fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::is_control, " ")
}

fn shortened(text: &str) -> String {
    text.chars().take(NOTE_LIMIT).collect()
}
