//! The reasons for which access is denied, with the problem returned for each and the warnings logged.

use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::http::{StatusCode, header};

use crate::access::credential::Credential;
use crate::problem::Problem;

/// The reason why a request is denied. The response names what would grant access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial<'a> {
    /// The request needs a credential; the text names it.
    Unauthorized(&'static str),
    /// The read token of the request has expired.
    Expired,
    /// The URL contains a credential that is not allowed there.
    TokenInUrl,
    /// The credential of the request does not grant the right that is needed.
    AdminKeyNeeded(&'static str),
    /// No admin key is configured, and the request does not come directly from a program on this machine.
    NoAdminKey,
    /// The configuration denies this to clients, and the request has no admin key.
    Closed {
        what: &'static str,
        key: &'static str,
        credential: Credential,
    },
    /// The host of the request is missing, repeated, or differs from the target.
    UnclearHost,
    ForeignHost(&'a str),
    /// The request was made by a page of an origin that is not allowed.
    CrossSite,
}

/// The denials that are logged once each as a warning, because the operator may want to allow these requests.
#[derive(Debug, Default)]
pub struct LoggedDenials {
    host: AtomicBool,
    page: AtomicBool,
}

impl LoggedDenials {
    pub(super) fn foreign_host(&self, host: &str) {
        if !self.host.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                host = ?shortened(host),
                "rejected a request (421) for a host that is not allowed without a token; if the host is yours, add it \
                 to auth.hosts, or set auth.token; further rejections are not logged"
            );
        }
    }

    pub(super) fn cross_site(&self, origin: &str) {
        if !self.page.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                origin = ?shortened(origin),
                "rejected a request (403) from a page of another origin; if the page is yours, add its origin to \
                 cors.allow_origins, or set auth.token; further rejections are not logged"
            );
        }
    }
}

/// Shortens a value that a client sent, for the log.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

impl Denial<'_> {
    pub(super) fn problem(self) -> Problem {
        let admin_key_needed = |detail| Problem::new(StatusCode::FORBIDDEN, "admin-key-needed", detail);
        match self {
            Self::Unauthorized(detail) => unauthorized(detail.to_owned()),
            Self::Expired => {
                let detail = "this read token has expired; get a new one from your backend";
                Problem::new(StatusCode::UNAUTHORIZED, "token-expired", detail)
                    .with(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")
            }
            Self::TokenInUrl => Problem::bad_request(
                "token-in-url",
                "a token must not be in the URL, because logs and browser histories keep URLs; send it as \
                 Authorization: Bearer. Only a read token may be in the URL (?token=), without that header, to GET the \
                 status or the events of its upload, and only with auth.query_tokens = true",
            ),
            Self::AdminKeyNeeded(detail) => admin_key_needed(detail.to_owned()),
            Self::NoAdminKey => {
                let detail = "without an admin key, this is allowed only for programs on the same machine that connect \
                              directly to a loopback address; make a key with `longshore admin-key` and set \
                              auth.admin_keys";
                Problem::new(StatusCode::FORBIDDEN, "no-admin-key", detail)
            }
            Self::Closed { what, key, credential } => {
                let detail = format!(
                    "{what} is not allowed for clients ({key} is false); it requires an admin key (auth.admin_keys)"
                );
                match credential {
                    Credential::Nothing => unauthorized(detail),
                    Credential::Stage(_)
                    | Credential::Read(_)
                    | Credential::ExpiredRead
                    | Credential::Shared
                    | Credential::Admin => admin_key_needed(detail),
                }
            }
            Self::UnclearHost => Problem::bad_request(
                "bad-host",
                "the request must have exactly one Host field, which must match its target",
            ),
            Self::ForeignHost(_) => {
                let detail = "this server does not accept the host of this request; without a token it accepts \
                              localhost, loopback addresses, and the hosts in auth.hosts and public_url";
                Problem::new(StatusCode::MISDIRECTED_REQUEST, "unknown-host", detail)
            }
            Self::CrossSite => {
                let detail = "the request comes from a page of an origin that is not allowed; add the origin to \
                              cors.allow_origins, or set auth.token";
                Problem::new(StatusCode::FORBIDDEN, "cross-site", detail)
            }
        }
    }
}

fn unauthorized(detail: String) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with(header::WWW_AUTHENTICATE, "Bearer")
}
