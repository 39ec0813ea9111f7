//! Who may ask for what.
//!
//! | Place | Opened by |
//! |---|---|
//! | health, preflights | nothing is needed |
//! | reports on an upload | the token for that upload, the shared token, an admin key |
//! | the administration of webhooks | an admin key. Where there is none: who is on this machine, with the shared token if there is one |
//! | everything else | the shared token, an admin key. Where there is no token: nothing is needed |
//!
//! The path is judged as the router reads it, decoded: what is spelled in another way leads to the same handler, and so
//! to the same answer here.

use std::net::IpAddr;

use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::http::header::HeaderMap;
use actix_web::http::header::HeaderValue;
use subtle::ConstantTimeEq;

use crate::domain::id::UploadId;
use crate::http::error::Problem;
use crate::keyring::AdminKeyHash;
use crate::keyring::StageTokens;

/// What opens the server, and to whom.
#[derive(Debug)]
pub struct Access {
    /// What opens everything but the administration. `None`: everyone may.
    pub token: Option<Token>,
    /// What opens everything.
    pub admin_keys: Vec<AdminKeyHash>,
    pub stage_tokens: StageTokens,
    pub reach: Reach,
}

/// From where the server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nobody but this machine can connect to it.
    ThisMachine,
    Network,
}

/// A token that clients and backends share. It does not print itself.
pub struct Token(String);

impl Token {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    fn is(&self, given: &[u8]) -> bool {
        given.ct_eq(self.0.as_bytes()).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Parts of the server with rules of their own.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Where health is asked for.
    Health,
    /// Where backends report on an upload; `None` if there can be no such upload.
    Stages(Option<UploadId>),
    /// Where it is said which webhooks go where, and shown which did.
    Administration,
    Elsewhere,
}

/// All of this is administration, whatever will be there, but for [`SCHEMAS`].
const ADMINISTRATION: &str = "/api/v1/webhooks";

const SCHEMAS: &str = "/api/v1/webhooks/schemas";

/// What proxies add to a request.
const BY_PROXIES: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"];

impl Place {
    fn of(path: &str) -> Self {
        if matches!(path, "/healthz" | "/readyz") {
            return Self::Health;
        }
        if path.starts_with(ADMINISTRATION) {
            let schemas = path.strip_prefix(SCHEMAS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            return if schemas { Self::Elsewhere } else { Self::Administration };
        }
        let upload = path.strip_prefix("/api/v1/uploads/").and_then(|rest| rest.strip_suffix("/stages"));
        match upload {
            Some(id) => Self::Stages(id.parse().ok()),
            None => Self::Elsewhere,
        }
    }
}

impl Access {
    /// The refusal of a request that lacks what opens the place it is for. Preflights never carry it.
    pub(super) fn refuse(&self, request: &ServiceRequest) -> Option<Problem> {
        if request.method() == Method::OPTIONS {
            return None;
        }
        let given = bearer(request.headers());
        match Place::of(request.match_info().as_str()) {
            Place::Health => None,
            Place::Stages(upload) => self.refuse_report(given, upload),
            Place::Administration => self.refuse_administration(given, request.headers()),
            Place::Elsewhere => (!self.lets_in(given)).then(|| unauthorized("send Authorization: Bearer <token>")),
        }
    }

    fn refuse_report(&self, given: &[u8], upload: Option<UploadId>) -> Option<Problem> {
        let may = self.knows(given) || upload.is_some_and(|upload| self.stage_tokens.is_for(given, upload));
        let detail = "send Authorization: Bearer with the webhook-stage-token of a webhook about this upload";
        (!may).then(|| unauthorized(detail))
    }

    fn refuse_administration(&self, given: &[u8], headers: &HeaderMap) -> Option<Problem> {
        if self.is_admin(given) {
            return None;
        }
        if !self.admin_keys.is_empty() {
            return Some(if self.is_shared(given) {
                let detail = "this takes a key of auth.admin_keys; the shared token does not open it";
                Problem::new(StatusCode::FORBIDDEN, "admin-key-needed", detail)
            } else {
                unauthorized("send Authorization: Bearer <admin key>")
            });
        }
        if !self.lets_in(given) {
            return Some(unauthorized("send Authorization: Bearer <token>"));
        }
        let is_near = self.reach == Reach::ThisMachine && comes_straight_from_here(headers);
        (!is_near).then(|| {
            let detail = "without an admin key this is open only to programs on the same machine that ask a loopback \
                address themselves; make a key with `longshore admin-key` and set auth.admin_keys";
            Problem::new(StatusCode::FORBIDDEN, "no-admin-key", detail)
        })
    }

    fn lets_in(&self, given: &[u8]) -> bool {
        self.token.is_none() || self.knows(given)
    }

    /// Whether this opens everything but, perhaps, the administration.
    fn knows(&self, given: &[u8]) -> bool {
        // Both are asked, so that the time tells nothing of which it was.
        self.is_shared(given) | self.is_admin(given)
    }

    fn is_shared(&self, given: &[u8]) -> bool {
        self.token.as_ref().is_some_and(|token| token.is(given))
    }

    fn is_admin(&self, given: &[u8]) -> bool {
        self.admin_keys.iter().fold(false, |found, key| found | key.is_of(given))
    }
}

/// Whether a request that came from this machine was also meant to be made by a program on it. A proxy passes on what
/// comes from elsewhere, and so does a browser: pages may have it ask a loopback address, under a name of their own too.
fn comes_straight_from_here(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(host) = text(header::HOST) else { return false };
    let own_page = match headers.get(header::ORIGIN) {
        None => true,
        Some(_) => text(header::ORIGIN).and_then(|origin| Some(origin.split_once("://")?.1)) == Some(host),
    };
    is_loopback(host) && own_page && !BY_PROXIES.iter().any(|name| headers.contains_key(*name))
}

/// Whether a `Host` names this machine to itself.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let ip = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || ip.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn bearer(headers: &HeaderMap) -> &[u8] {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default()
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with(header::WWW_AUTHENTICATE, "Bearer")
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::keyring::AdminKey;
    use crate::keyring::ServerKeys;

    const TOKEN: &str = "correct-horse-battery-staple";

    fn access(token: Option<&str>, keys: usize, reach: Reach) -> Access {
        let hash = |byte| AdminKeyHash::of(key(byte).as_bytes());
        Access {
            token: token.map(Token::new),
            admin_keys: (0..u8::try_from(keys).unwrap()).map(hash).collect(),
            stage_tokens: StageTokens::new(&ServerKeys::generate([1; 32], [1; 4])),
            reach,
        }
    }

    fn key(byte: u8) -> String {
        AdminKey::generate([byte; 32]).expose().to_owned()
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let request = pairs.iter().fold(TestRequest::get(), |request, pair| request.insert_header(*pair));
        request.to_http_request().headers().clone()
    }

    fn places() -> [(&'static str, Place); 13] {
        let id = "01a2003c-6e4b-7707-8707-070707070707".parse().unwrap();
        [
            ("/healthz", Place::Health),
            ("/readyz", Place::Health),
            ("/healthz/", Place::Elsewhere),
            ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/stages", Place::Stages(Some(id))),
            ("/api/v1/uploads/x/y/stages", Place::Stages(None)),
            ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707", Place::Elsewhere),
            ("/api/v1/webhooks", Place::Administration),
            ("/api/v1/webhooks/anything", Place::Administration),
            ("/api/v1/webhooks/schemas", Place::Elsewhere),
            ("/api/v1/webhooks/schemas/upload.created", Place::Elsewhere),
            ("/api/v1/webhooks/schemas2", Place::Administration),
            ("/api/v1/webhooks//schemas", Place::Administration),
            ("/", Place::Elsewhere),
        ]
    }

    #[test]
    fn every_path_has_its_place() {
        for (path, place) in places() {
            assert_eq!(Place::of(path), place, "{path}");
        }
    }

    #[test]
    fn the_administration_is_opened_by_any_of_its_keys() {
        let nothing = headers(&[("host", "127.0.0.1:8080")]);
        for reach in [Reach::ThisMachine, Reach::Network] {
            let access = access(Some(TOKEN), 3, reach);
            for byte in 0..3 {
                assert!(access.refuse_administration(key(byte).as_bytes(), &nothing).is_none());
                assert!(access.lets_in(key(byte).as_bytes()), "and so is everything else");
            }
            for wrong in [key(3), TOKEN.to_owned(), String::new(), AdminKeyHash::of(key(0).as_bytes()).to_string()] {
                assert!(access.refuse_administration(wrong.as_bytes(), &nothing).is_some(), "{wrong}");
            }
        }
    }

    #[test]
    fn without_keys_it_is_open_to_this_machine() {
        let here = [("host", "127.0.0.1:8080")];
        let open = |access: &Access, given: &str, headers: &HeaderMap| {
            access.refuse_administration(given.as_bytes(), headers).is_none()
        };
        let local = access(None, 0, Reach::ThisMachine);
        assert!(open(&local, "", &headers(&here)));
        assert!(!open(&access(None, 0, Reach::Network), "", &headers(&here)));
        let with_token = access(Some(TOKEN), 0, Reach::ThisMachine);
        assert!(open(&with_token, TOKEN, &headers(&here)) && !open(&with_token, "", &headers(&here)));
        assert!(!open(&access(Some(TOKEN), 0, Reach::Network), TOKEN, &headers(&here)));

        for name in BY_PROXIES {
            assert!(!open(&local, "", &headers(&[here[0], (name, "")])), "{name}");
        }
        for (host, is_near) in [
            ("localhost", true),
            ("LOCALHOST:80", true),
            ("127.0.0.2:8080", true),
            ("[::1]", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]:8080", true),
            ("", false),
            ("page.example:8080", false),
            ("localhost.page.example", false),
            ("127.0.0.1.page.example:8080", false),
            ("10.0.0.1:8080", false),
            ("[::2]:8080", false),
        ] {
            assert_eq!(open(&local, "", &headers(&[("host", host)])), is_near, "{host}");
        }
        assert!(!open(&local, "", &headers(&[])), "who does not say whom they ask");
        for (origin, is_near) in [
            ("http://127.0.0.1:8080", true),
            ("http://127.0.0.1:3000", false),
            ("http://localhost:8080", false),
            ("https://page.example", false),
            ("null", false),
        ] {
            assert_eq!(open(&local, "", &headers(&[here[0], ("origin", origin)])), is_near, "{origin}");
        }
    }

    #[test]
    fn nothing_secret_prints_itself() {
        let shown = format!("{:?}", access(Some(TOKEN), 1, Reach::Network));
        assert!(!shown.contains(TOKEN) && !shown.contains("lsk_"), "{shown}");
    }
}
