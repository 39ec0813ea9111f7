//! The page behind a request, as its browser describes it: its origin, its relation to this server, and the
//! purpose of the request.

use actix_web::http::header;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use domain::host::Host;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The origins whose pages may use the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// Pages of servers on this machine, and of the server's public address.
    ThisMachine {
        public: Option<String>,
    },
    /// Exactly these. The `*` in `https://*.example.com` matches exactly one label.
    Listed(Vec<String>),
}

impl Origins {
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::ThisMachine { public } => is_loopback(origin) || public.as_deref() == Some(origin),
            Self::Listed(rules) => rules.iter().any(|rule| rule == origin || fits(origin, rule)),
        }
    }
}

/// Returns whether an origin matches a rule with one label in place of its `*`.
fn fits(origin: &str, rule: &str) -> bool {
    let Some((scheme, rest)) = rule.split_once("*.") else { return false };
    let label = origin.strip_prefix(scheme).and_then(|origin| origin.strip_suffix(rest)?.strip_suffix('.'));
    let is_label =
        |label: &str| label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    label.is_some_and(|label| !label.is_empty() && is_label(label))
}

fn is_loopback(origin: &str) -> bool {
    authority(origin).and_then(Host::of_authority).is_some_and(|host| host.is_loopback())
}

/// Returns the host and port of an HTTP or HTTPS origin.
fn authority(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// `Sec-Fetch-Site`: the relation of the requesting page to this server, as the browser determined it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchSite {
    /// Not sent. All current browsers send it.
    Unsaid,
    /// A page of this server, or the user directly.
    Own,
    /// Another origin of the same site.
    Same,
    Cross,
}

/// The description of a page by its browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestingPage<'a> {
    /// `Origin` as it was sent; empty if it is repeated or unreadable.
    pub(super) origin: Option<&'a str>,
    pub(super) site: FetchSite,
    /// True if the response replaces the document in a window, where no page can read it.
    pub(super) navigates: bool,
}

impl<'a> RequestingPage<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        let site = match only(headers, &SEC_FETCH_SITE) {
            None => FetchSite::Unsaid,
            Some("same-origin" | "none") => FetchSite::Own,
            Some("same-site") => FetchSite::Same,
            Some(_) => FetchSite::Cross,
        };
        let navigates =
            only(headers, &SEC_FETCH_MODE) == Some("navigate") && only(headers, &SEC_FETCH_DEST) == Some("document");
        Self { origin: only(headers, &header::ORIGIN), site, navigates }
    }

    /// Returns whether nothing indicates that a page caused the request.
    pub(super) fn is_nobodys(&self) -> bool {
        self.origin.is_none() && self.site == FetchSite::Unsaid
    }

    /// Returns whether the origin of the page is the host that the request addresses.
    pub(super) fn is_of(&self, host: &str) -> bool {
        self.origin.and_then(authority).is_some_and(|origin| origin.eq_ignore_ascii_case(host))
    }
}

/// Returns the value of a field that is allowed once. A repeated or unreadable value becomes empty, so that
/// it matches nothing.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name);
    let first: &HeaderValue = values.next()?;
    Some(if values.next().is_some() { "" } else { first.to_str().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_of_this_machine_are_loopback_ones_and_the_public_one() {
        let origins = Origins::ThisMachine { public: Some("https://uploads.example.com".to_owned()) };
        for (origin, expected) in [
            ("http://localhost", true),
            ("http://localhost:3000", true),
            ("https://app.localhost:3000", true),
            ("http://127.0.0.1:5173", true),
            ("http://[::1]:5173", true),
            ("https://uploads.example.com", true),
            ("http://uploads.example.com", false),
            ("https://uploads.example.com:8443", false),
            ("https://evil.example", false),
            ("http://localhost.evil.example", false),
            ("http://localhost:80@evil.example", false),
            ("http://localhost:3000/", false),
            ("chrome-extension://localhost", false),
            ("ftp://localhost", false),
            ("localhost", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.allow(origin), expected, "{origin:?}");
        }
    }

    #[test]
    fn a_list_is_exact_and_its_star_is_one_label() {
        let list = ["https://example.com", "https://*.example.com", "http://*.dev.example:8080"];
        let origins = Origins::Listed(list.map(str::to_owned).to_vec());
        for (origin, expected) in [
            ("https://example.com", true),
            ("https://app.example.com", true),
            ("http://a-1.dev.example:8080", true),
            ("https://a.b.example.com", false),
            ("https://.example.com", false),
            ("https://*.example.com", true),
            ("https://example.com.evil.io", false),
            ("https://evilexample.com", false),
            ("https://evil.io#.example.com", false),
            ("https://evil.io/.example.com", false),
            ("http://example.com", false),
            ("http://app.example.com", false),
            ("https://app.example.com:8443", false),
            ("http://a.dev.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.allow(origin), expected, "{origin:?}");
        }
        assert!(Origins::Listed(vec!["null".to_owned()]).allow("null"), "written out");
        assert!(!Origins::Listed(vec![]).allow(""));
    }
}
