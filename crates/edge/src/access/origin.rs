//! What a browser says about the page behind a request: its origin, how far that is, and what it wants the
//! answer for.

use actix_web::http::header;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use domain::host::Host;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Origins whose pages may use the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    Any,
    /// Pages of servers on this machine, and those of the server's public address.
    ThisMachine {
        public: Option<String>,
    },
    /// Exactly these. `https://*.example.com` stands for all with one label there.
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

/// Whether an origin is the rule with one label in place of its `*`.
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

/// Host and port of an http or https origin.
fn authority(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// `Sec-Fetch-Site`: how the page that asks is related to this server, as its browser knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FetchSite {
    /// No browser of today says nothing.
    Unsaid,
    /// A page of this server itself, or nobody but the person at the browser.
    Own,
    /// Another origin of the same site.
    Same,
    Cross,
}

/// What a browser has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestingPage<'a> {
    /// As it was sent; what cannot be an origin is empty.
    pub(super) origin: Option<&'a str>,
    pub(super) site: FetchSite,
    /// Whether the answer replaces what a window shows, where no page can read it.
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

    /// Whether nothing says that there is a page at all.
    pub(super) fn is_nobodys(&self) -> bool {
        self.origin.is_none() && self.site == FetchSite::Unsaid
    }

    /// Whether the page belongs to the server by the host it has asked for.
    pub(super) fn is_of(&self, host: &str) -> bool {
        self.origin.and_then(authority).is_some_and(|origin| origin.eq_ignore_ascii_case(host))
    }
}

/// The value of a field that may stand once; empty where it cannot be read, so that it fits nothing.
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
