//! An endpoint as the sender uses it: the stored settings together with the secrets.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Url};

use crate::endpoints::vault::EndpointSecrets;
use crate::settings::WebhookSettings;
use domain::delivery::LEASE_MARGIN;
use domain::endpoint::{
    Endpoint as Stored, EndpointId, EndpointTerms, MAX_RETRY_WAITS, Origin, RATES, RETRY_WAITS, TIMEOUTS,
    is_header_value, is_reserved_header,
};
use domain::principal::TenantId;
use domain::time::Timestamp;
use outbound::address::{EgressRules, RejectedUrl};
use outbound::keys::{InvalidKey, SigningKeys};

/// Maximum number of custom headers of an endpoint.
const MAX_HEADERS: usize = 20;

/// Maximum length of a header's value, in bytes.
const MAX_HEADER_VALUE: usize = 1024;

const MAX_URL: usize = 2048;
const MAX_DESCRIPTION: usize = 500;
const MAX_METADATA: usize = 16;
const MAX_METADATA_TEXT: usize = 1024;

/// Maximum size of the CA certificates, in bytes: half of the maximum size of an API request.
const MAX_CA_BYTES: usize = 32 << 10;

/// An endpoint that can be sent to: its URL is valid, and its keys can sign its messages.
#[derive(Clone)]
pub struct SendableEndpoint {
    pub(crate) stored: Stored,
    url: Url,
    pub(crate) secrets: EndpointSecrets,
}

/// Reason why an endpoint is invalid. Repeats neither the URL nor the value of a header, which may contain a
/// password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    #[error("its URL is invalid: {0}")]
    Url(#[from] RejectedUrl),
    #[error("its URL is longer than {MAX_URL} bytes")]
    LongUrl,
    #[error("its keys are invalid: {0}")]
    Key(#[from] InvalidKey),
    #[error("{0:?} is not a header name")]
    HeaderName(String),
    #[error("the header {0} is set by the server and cannot be changed")]
    ReservedHeader(String),
    #[error(
        "the value of the header {0} has characters that are not allowed, or more than {MAX_HEADER_VALUE} characters"
    )]
    HeaderValue(String),
    #[error("the header {0} is set twice, or the URL contains credentials too")]
    HeaderTwice(String),
    #[error("it has more than {MAX_HEADERS} headers")]
    ManyHeaders,
    #[error("its description is longer than {MAX_DESCRIPTION} characters")]
    Description,
    #[error(
        "its metadata filter has more than {MAX_METADATA} pairs, or a key or value of more than {MAX_METADATA_TEXT} \
         bytes"
    )]
    Metadata,
    #[error("its filter matches no event")]
    NoEvents,
    #[error("its timeout must be from 1 to 30 seconds")]
    Timeout,
    #[error("its timeout can be at most {0:?}: webhooks.lease must exceed it by {LEASE_MARGIN:?}")]
    OutlastsLease(Duration),
    #[error("its retry schedule must have from 1 to {MAX_RETRY_WAITS} waits, each from 1 second to 7 days")]
    Schedule,
    #[error("max_in_flight must be from 1 to {0}")]
    InFlight(usize),
    #[error("max_per_second must be from 1 to {max}", max = RATES.end())]
    Rate,
    #[error("its CA certificates (ca_certificates, ca_file) must be PEM certificates of at most {MAX_CA_BYTES} bytes")]
    CaCertificates,
    #[error("it has CA certificates, but its URL does not begin with https")]
    CaWithoutTls,
}

impl SendableEndpoint {
    /// Creates an endpoint of the configuration. User and password in its URL become a header (webhooks S12).
    pub fn configured(
        id: EndpointId,
        terms: EndpointTerms,
        keys: SigningKeys,
        headers: &[(String, String)],
        rules: &EgressRules,
        now: Timestamp,
    ) -> Result<Self, InvalidEndpoint> {
        let mut url = rules.check_url(&terms.url, Origin::Config)?;
        let mut headers = read_headers(headers)?;
        if let Some(authorization) = take_credentials(&mut url)
            && headers.insert(AUTHORIZATION, authorization).is_some()
        {
            return Err(InvalidEndpoint::HeaderTwice(AUTHORIZATION.to_string()));
        }
        url.set_fragment(None);
        check_ca(&terms, &url)?;
        keys.check(terms.signing, now)?;
        let terms = EndpointTerms { url: url.as_str().to_owned(), ..terms };
        // Endpoints of the configuration belong to the default tenant.
        let stored = Stored::new(TenantId::DEFAULT, id, Origin::Config, terms, now);
        Ok(Self { stored, url, secrets: EndpointSecrets { keys, headers } })
    }

    /// Combines a stored endpoint with its secrets. The address rules are not applied here but at every call.
    pub(crate) fn new(stored: Stored, secrets: EndpointSecrets) -> Result<Self, RejectedUrl> {
        let url = Url::parse(&stored.terms.url).map_err(|_| RejectedUrl::NotAUrl)?;
        Ok(Self { stored, url, secrets })
    }

    /// Returns the endpoint with changed settings or another state, and the same secrets.
    pub(crate) fn with(&self, stored: Stored) -> Result<Self, RejectedUrl> {
        Self::new(stored, self.secrets.clone())
    }

    pub fn id(&self) -> &EndpointId {
        &self.stored.id
    }

    /// Returns the part of the endpoint that the state store holds.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    pub(crate) fn terms(&self) -> &EndpointTerms {
        &self.stored.terms
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.secrets.headers
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Returns the value of `webhook-signature` for a message sent now.
    pub(crate) fn sign(&self, message: &str, now: Timestamp, body: &[u8]) -> String {
        self.secrets.keys.sign(self.terms().signing, message, now, body)
    }
}

/// Omits credentials, and the query, in which some receivers expect a token.
impl fmt::Debug for SendableEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        f.debug_struct("SendableEndpoint")
            .field("id", &self.stored.id)
            .field("url", &url.as_str())
            .field("filter", &self.stored.terms.filter)
            .finish_non_exhaustive()
    }
}

/// Checks an operator's settings and returns them in stored form, with the URL normalized by the parser.
pub(crate) fn checked_terms(
    terms: EndpointTerms,
    origin: Origin,
    rules: &EgressRules,
    settings: &WebhookSettings,
) -> Result<EndpointTerms, InvalidEndpoint> {
    if terms.url.len() > MAX_URL {
        return Err(InvalidEndpoint::LongUrl);
    }
    let mut url = rules.check_url(&terms.url, origin)?;
    url.set_fragment(None);
    if terms.description.chars().count() > MAX_DESCRIPTION {
        return Err(InvalidEndpoint::Description);
    }
    let is_short = |(name, value): &(String, String)| name.len().max(value.len()) <= MAX_METADATA_TEXT;
    if terms.metadata.len() > MAX_METADATA || !terms.metadata.iter().all(is_short) {
        return Err(InvalidEndpoint::Metadata);
    }
    if terms.filter.patterns().is_empty() {
        return Err(InvalidEndpoint::NoEvents);
    }
    if let Some(timeout) = terms.timeout {
        if !TIMEOUTS.contains(&timeout) {
            return Err(InvalidEndpoint::Timeout);
        }
        if timeout > settings.longest_timeout() {
            return Err(InvalidEndpoint::OutlastsLease(settings.longest_timeout()));
        }
    }
    let fits = |waits: &Vec<Duration>| {
        (1..=MAX_RETRY_WAITS).contains(&waits.len()) && waits.iter().all(|wait| RETRY_WAITS.contains(wait))
    };
    if !terms.retry_schedule.as_ref().is_none_or(fits) {
        return Err(InvalidEndpoint::Schedule);
    }
    if !settings.allows_in_flight(terms.max_in_flight) {
        return Err(InvalidEndpoint::InFlight(settings.max_in_flight));
    }
    if terms.max_per_second.is_some_and(|rate| !RATES.contains(&rate)) {
        return Err(InvalidEndpoint::Rate);
    }
    check_ca(&terms, &url)?;
    Ok(EndpointTerms { url: url.into(), ..terms })
}

fn check_ca(terms: &EndpointTerms, url: &Url) -> Result<(), InvalidEndpoint> {
    let Some(pem) = &terms.ca_certificates else { return Ok(()) };
    let found = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
    if pem.len() > MAX_CA_BYTES || found.is_empty() {
        return Err(InvalidEndpoint::CaCertificates);
    }
    if url.scheme() != "https" {
        return Err(InvalidEndpoint::CaWithoutTls);
    }
    Ok(())
}

/// Parses the custom headers that are sent with every message (webhooks H12).
pub(crate) fn read_headers(pairs: &[(String, String)]) -> Result<HeaderMap, InvalidEndpoint> {
    if pairs.len() > MAX_HEADERS {
        return Err(InvalidEndpoint::ManyHeaders);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let bad_name = |_| InvalidEndpoint::HeaderName(name.clone());
        let known = HeaderName::from_bytes(name.as_bytes()).map_err(bad_name)?;
        if is_reserved_header(known.as_str()) {
            return Err(InvalidEndpoint::ReservedHeader(known.to_string()));
        }
        let plain = value.len() <= MAX_HEADER_VALUE && is_header_value(value);
        let bad_value = || InvalidEndpoint::HeaderValue(known.to_string());
        let mut value = HeaderValue::from_str(value).ok().filter(|_| plain).ok_or_else(bad_value)?;
        value.set_sensitive(true);
        if headers.insert(known.clone(), value).is_some() {
            return Err(InvalidEndpoint::HeaderTwice(known.to_string()));
        }
    }
    Ok(headers)
}

/// Removes the user-info from the URL and returns it as the value of an `Authorization` header.
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

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing::{SECRET, wall_clock};
    use domain::endpoint::Signing;
    use domain::event::EventFilter;
    use outbound::keys::SigningKey;

    fn made(url: &str, headers: &[(&str, &str)]) -> Result<SendableEndpoint, InvalidEndpoint> {
        let keys = SigningKeys::permanent([SigningKey::parse(SECRET).unwrap()], wall_clock());
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let id = EndpointId::new("app").unwrap();
        SendableEndpoint::configured(id, EndpointTerms::of(url), keys, &headers, &EgressRules::default(), wall_clock())
    }

    /// webhooks S12.
    #[test]
    fn credentials_become_a_header_and_are_not_shown() {
        let endpoint = made("https://us%40er:p%3Ass@example.com/hook?token=t0p#part", &[]).unwrap();
        assert_eq!(endpoint.url().as_str(), "https://example.com/hook?token=t0p");
        assert_eq!(endpoint.stored().terms.url, endpoint.url().as_str());
        let header = &endpoint.headers()[AUTHORIZATION];
        assert_eq!(header.to_str().unwrap(), format!("Basic {}", STANDARD.encode("us@er:p:ss")));
        let shown = format!("{endpoint:?} {header:?}");
        for secret in ["p%3Ass", "p:ss", "us@er", "t0p", "C2FV"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("https://example.com/hook"), "{shown}");
    }

    #[test]
    fn a_user_without_a_password_is_a_credential_too() {
        let endpoint = made("http://key@127.0.0.1:9/", &[]).unwrap();
        let expected = format!("Basic {}", STANDARD.encode("key:"));
        assert_eq!(endpoint.headers()[AUTHORIZATION].to_str().unwrap(), expected);
        let both = made("http://key@127.0.0.1:9/", &[("Authorization", "Bearer x")]);
        assert_eq!(both.unwrap_err(), InvalidEndpoint::HeaderTwice("authorization".to_owned()));
    }

    #[test]
    fn only_what_can_be_signed_is_an_endpoint() {
        let id = EndpointId::new("app").unwrap();
        for signing in Signing::ALL {
            let terms = EndpointTerms { signing, ..EndpointTerms::of("http://localhost") };
            let unsigned = SendableEndpoint::configured(
                id.clone(),
                terms,
                SigningKeys::default(),
                &[],
                &EgressRules::default(),
                wall_clock(),
            );
            assert!(matches!(unsigned.unwrap_err(), InvalidEndpoint::Key(InvalidKey::Missing(_))));
        }
        assert_eq!(made("ftp://example.com", &[]).unwrap_err(), InvalidEndpoint::Url(RejectedUrl::Scheme));
    }

    /// webhooks H12.
    #[test]
    fn headers_of_the_server_are_its_own() {
        for name in [
            "Host",
            "content-type",
            "Content-Length",
            "Connection",
            "Transfer-Encoding",
            "webhook-id",
            "Webhook-X",
            "longshore-x",
            "User-Agent",
            "Expect",
            "TE",
            "Upgrade",
            "Proxy-Authorization",
        ] {
            let refused = made("http://localhost", &[(name, "x")]).unwrap_err();
            assert_eq!(refused, InvalidEndpoint::ReservedHeader(name.to_ascii_lowercase()));
        }
        for (name, value) in [("x y", "v"), ("", "v"), ("é", "v")] {
            let refused = made("http://localhost", &[(name, value)]).unwrap_err();
            assert_eq!(refused, InvalidEndpoint::HeaderName(name.to_owned()));
        }
        for value in ["a\r\nb: c", "é", "a\0"] {
            let refused = made("http://localhost", &[("x-token", value)]).unwrap_err();
            assert_eq!(refused, InvalidEndpoint::HeaderValue("x-token".to_owned()));
        }
        let endpoint = made("http://localhost", &[("X-Token", "t0p secret")]).unwrap();
        assert_eq!(endpoint.headers()["x-token"], "t0p secret");
        assert!(!format!("{:?}", endpoint.headers()).contains("t0p"));
    }

    #[test]
    fn terms_have_bounds() {
        let good = EndpointTerms::of("https://example.com/hook#part");
        let check = |terms: EndpointTerms| {
            checked_terms(terms, Origin::Api, &EgressRules::new(vec![], true), &WebhookSettings::default())
        };
        assert_eq!(check(good.clone()).unwrap().url, "https://example.com/hook");
        let secs = Duration::from_secs;
        for (terms, why) in [
            (EndpointTerms { url: "http://example.com".to_owned(), ..good.clone() }, RejectedUrl::NotHttps.into()),
            (
                EndpointTerms { url: format!("https://e/{}", "x".repeat(2048)), ..good.clone() },
                InvalidEndpoint::LongUrl,
            ),
            (EndpointTerms { timeout: Some(secs(31)), ..good.clone() }, InvalidEndpoint::Timeout),
            (EndpointTerms { retry_schedule: Some(vec![]), ..good.clone() }, InvalidEndpoint::Schedule),
            (EndpointTerms { retry_schedule: Some(vec![secs(0)]), ..good.clone() }, InvalidEndpoint::Schedule),
            (EndpointTerms { retry_schedule: Some(vec![secs(1); 101]), ..good.clone() }, InvalidEndpoint::Schedule),
            (EndpointTerms { max_in_flight: Some(0), ..good.clone() }, InvalidEndpoint::InFlight(512)),
            (EndpointTerms { max_in_flight: Some(513), ..good.clone() }, InvalidEndpoint::InFlight(512)),
            (EndpointTerms { max_per_second: Some(0), ..good.clone() }, InvalidEndpoint::Rate),
            (EndpointTerms { description: "x".repeat(501), ..good.clone() }, InvalidEndpoint::Description),
            (EndpointTerms { filter: EventFilter::new(vec![]).unwrap(), ..good.clone() }, InvalidEndpoint::NoEvents),
            (
                EndpointTerms { metadata: vec![("k".to_owned(), "v".to_owned()); 17], ..good.clone() },
                InvalidEndpoint::Metadata,
            ),
        ] {
            assert_eq!(check(terms).unwrap_err(), why);
        }
        let short = WebhookSettings { lease: secs(20), ..WebhookSettings::default() };
        let within = |timeout| {
            let terms = EndpointTerms { timeout: Some(timeout), ..good.clone() };
            checked_terms(terms, Origin::Api, &EgressRules::default(), &short).map(drop)
        };
        assert_eq!(within(secs(15)), Ok(()));
        let refused = within(Duration::from_millis(15_001)).unwrap_err();
        assert_eq!(refused, InvalidEndpoint::OutlastsLease(secs(15)));
        assert!(refused.to_string().contains("can be at most 15s"), "{refused}");
    }
}
