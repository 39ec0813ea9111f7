//! Where deliveries go, and within which limits they are sent.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::domain::endpoint::EndpointId;
use crate::domain::event::EventFilter;
use crate::webhook::retry;
use crate::webhook::sign::Secret;

/// One receiver. That it exists proves its address is one we can send to and its messages can be signed.
#[derive(Clone)]
pub struct Endpoint {
    id: EndpointId,
    /// Without user-info and fragment.
    url: Url,
    /// From the user-info of the configured URL; so that no log and no error carries it.
    authorization: Option<HeaderValue>,
    /// Newest first; never empty.
    secrets: Vec<Secret>,
    filter: EventFilter,
}

/// Why an endpoint cannot be. Does not repeat the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    #[error("the URL of endpoint {0} is not a URL")]
    NotAUrl(EndpointId),
    #[error("the URL of endpoint {0} must begin with http:// or https:// and name a host")]
    Scheme(EndpointId),
    #[error("endpoint {0} has no secret to sign with")]
    NoSecret(EndpointId),
}

impl Endpoint {
    pub fn new(id: EndpointId, url: &str, secrets: Vec<Secret>, filter: EventFilter) -> Result<Self, InvalidEndpoint> {
        let Ok(mut url) = Url::parse(url) else { return Err(InvalidEndpoint::NotAUrl(id)) };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(InvalidEndpoint::Scheme(id));
        }
        if secrets.is_empty() {
            return Err(InvalidEndpoint::NoSecret(id));
        }
        let authorization = take_credentials(&mut url);
        url.set_fragment(None);
        Ok(Self { id, url, authorization, secrets, filter })
    }

    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    pub(super) fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    pub(super) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }
}

/// Without credentials, and without the query, where some receivers want a token.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        f.debug_struct("Endpoint")
            .field("id", &self.id)
            .field("url", &url.as_str())
            .field("secrets", &self.secrets.len())
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

/// Takes the user-info out of the URL and gives it as the value of an `Authorization` header.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    url.set_username("").and_then(|()| url.set_password(None)).expect("a URL with a host may have user-info");

    let mut value =
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).expect("base64 is a header value");
    value.set_sensitive(true);
    Some(value)
}

/// How long a settlement may take after the last moment an exchange can end. Within it the lease must still hold,
/// or another claim of the delivery could send it a second time.
pub const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// The limits of sending, for all endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// For one whole exchange: name lookup, connecting, TLS, headers and body.
    pub timeout: Duration,
    /// For the part before the request is sent.
    pub connect_timeout: Duration,
    /// The wait after each failure; when it is used up, so are the attempts.
    pub schedule: Vec<Duration>,
    pub jitter_percent: u8,
    /// How long a claim keeps others off a delivery.
    pub lease: Duration,
    pub max_in_flight: usize,
    pub max_in_flight_per_endpoint: usize,
    /// How much of an answer's body is read, in bytes.
    pub response_limit: usize,
    /// How much of it is kept, in bytes.
    pub response_kept: usize,
    /// No attempt is planned for later than this after the event.
    pub delivery_expiry: Duration,
    /// How long exchanges may go on after the signal to stop.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            schedule: retry::DEFAULT_SCHEDULE.to_vec(),
            jitter_percent: 20,
            lease: Duration::from_secs(60),
            max_in_flight: 512,
            max_in_flight_per_endpoint: 16,
            response_limit: 64 << 10,
            response_kept: 4 << 10,
            delivery_expiry: Duration::from_hours(96),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// Settings that would break a promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    #[error(
        "the lease of a delivery ({lease:?}) must be longer than the timeout of an exchange ({timeout:?}) \
         by at least {LEASE_MARGIN:?}, or a delivery could be sent twice at the same time"
    )]
    ShortLease { lease: Duration, timeout: Duration },
    #[error("the retry jitter is at most {max} per cent, not {0}", max = retry::MAX_JITTER_PERCENT)]
    Jitter(u8),
    #[error("at least one delivery must be allowed in flight")]
    NothingInFlight,
}

impl Settings {
    pub fn check(&self) -> Result<(), InvalidSettings> {
        if self.lease < self.timeout.saturating_add(LEASE_MARGIN) {
            return Err(InvalidSettings::ShortLease { lease: self.lease, timeout: self.timeout });
        }
        if self.jitter_percent > retry::MAX_JITTER_PERCENT {
            return Err(InvalidSettings::Jitter(self.jitter_percent));
        }
        if self.max_in_flight == 0 || self.max_in_flight_per_endpoint == 0 {
            return Err(InvalidSettings::NothingInFlight);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, InvalidEndpoint> {
        let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse().unwrap();
        Endpoint::new(EndpointId::new("app").unwrap(), url, vec![secret], EventFilter::all_but_progress())
    }

    /// webhooks S12.
    #[test]
    fn credentials_become_a_header_and_are_not_shown() {
        let endpoint = endpoint("https://us%40er:p%3Ass@example.com/hook?token=t0p#part").unwrap();
        assert_eq!(endpoint.url().as_str(), "https://example.com/hook?token=t0p");
        let header = endpoint.authorization().unwrap();
        assert_eq!(header.to_str().unwrap(), format!("Basic {}", STANDARD.encode("us@er:p:ss")));
        let shown = format!("{endpoint:?} {header:?}");
        for secret in ["p%3Ass", "p:ss", "us@er", "t0p", "C2FV"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("https://example.com/hook"), "{shown}");
    }

    #[test]
    fn a_user_without_a_password_is_a_credential_too() {
        let endpoint = endpoint("http://key@127.0.0.1:9/").unwrap();
        assert_eq!(endpoint.authorization().unwrap().to_str().unwrap(), format!("Basic {}", STANDARD.encode("key:")));
    }

    #[test]
    fn only_http_addresses_are_endpoints() {
        let id = || EndpointId::new("app").unwrap();
        for good in ["http://localhost:8080", "https://[::1]/x", "HTTP://example.com"] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in ["", "example.com/hook", "/hook", "http://"] {
            assert_eq!(endpoint(bad).unwrap_err(), InvalidEndpoint::NotAUrl(id()), "{bad}");
        }
        for bad in ["ftp://example.com", "file:///etc/passwd", "mailto:a@example.com"] {
            assert_eq!(endpoint(bad).unwrap_err(), InvalidEndpoint::Scheme(id()), "{bad}");
        }
        let unsigned = Endpoint::new(id(), "http://localhost", vec![], EventFilter::all_but_progress());
        assert_eq!(unsigned.unwrap_err(), InvalidEndpoint::NoSecret(id()));
    }

    #[test]
    fn a_lease_that_could_end_during_an_exchange_is_refused() {
        assert_eq!(Settings::default().check(), Ok(()));
        let timeout = Duration::from_secs(15);
        let short = Settings { lease: timeout + LEASE_MARGIN - Duration::from_millis(1), ..Settings::default() };
        assert_eq!(short.check(), Err(InvalidSettings::ShortLease { lease: short.lease, timeout }));
        let wild = Settings { jitter_percent: 51, ..Settings::default() };
        assert_eq!(wild.check(), Err(InvalidSettings::Jitter(51)));
        let idle = Settings { max_in_flight_per_endpoint: 0, ..Settings::default() };
        assert_eq!(idle.check(), Err(InvalidSettings::NothingInFlight));
    }
}
