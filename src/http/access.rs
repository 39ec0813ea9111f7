//! Who may ask for what.
//!
//! The path is judged as the router reads it, decoded: what is spelled in another way leads to the same handler, and so
//! to the same answer here.

use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::http::header::HeaderMap;
use actix_web::http::header::HeaderValue;
use subtle::ConstantTimeEq;

use crate::domain::id::UploadId;
use crate::http::error::Problem;
use crate::keyring::StageTokens;

/// What opens the server, and to whom.
#[derive(Debug)]
pub struct Access {
    /// What opens everything but the administration. `None`: everyone may.
    pub token: Option<Token>,
    pub stage_tokens: StageTokens,
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
    Elsewhere,
}

impl Place {
    fn of(path: &str) -> Self {
        if matches!(path, "/healthz" | "/readyz") {
            return Self::Health;
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
            Place::Elsewhere => (!self.lets_in(given)).then(|| unauthorized("send Authorization: Bearer <token>")),
        }
    }

    fn refuse_report(&self, given: &[u8], upload: Option<UploadId>) -> Option<Problem> {
        let may = self.knows(given) || upload.is_some_and(|upload| self.stage_tokens.is_for(given, upload));
        let detail = "send Authorization: Bearer with the webhook-stage-token of a webhook about this upload";
        (!may).then(|| unauthorized(detail))
    }

    fn lets_in(&self, given: &[u8]) -> bool {
        self.token.is_none() || self.knows(given)
    }

    /// Whether this opens everything that is not open to all.
    fn knows(&self, given: &[u8]) -> bool {
        self.token.as_ref().is_some_and(|token| token.is(given))
    }
}

fn bearer(headers: &HeaderMap) -> &[u8] {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default()
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with(header::WWW_AUTHENTICATE, "Bearer")
}
