//! Credentials: which one a request presents, and whether it is valid for the resource that is requested.
//!
//! All secrets are compared in constant time. An unknown text counts as no credential, whatever its form.

use std::borrow::Cow;

use actix_web::dev::RequestHead;
use actix_web::http::header;
use actix_web::http::header::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::access::denial::Denial;
use crate::access::request::RequestAction;
use crate::access::{Access, Needs, RequestedAccess};
use domain::id::UploadId;
use domain::principal::Right;
use domain::time::Timestamp;
use keyring::{TokenValidity, is_read_token};

/// The credential that a request presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// No credential that this server knows.
    Nothing,
    /// A stage token: permits reports on its upload.
    Stage(UploadId),
    /// A read token: permits following its upload.
    Read(UploadId),
    /// A read token that has expired.
    ExpiredRead,
    /// The token that all clients share.
    Shared,
    Admin,
}

impl Access {
    /// Returns the text that a request presents as its credential: from `Authorization`, or a read token from
    /// the query where that is allowed.
    pub(super) fn given<'a>(
        &self,
        head: &'a RequestHead,
        follows: bool,
        action: RequestAction,
    ) -> Result<Cow<'a, [u8]>, Denial<'a>> {
        let in_header = bearer(&head.headers);
        let Some(token) = head.uri.query().and_then(token_in_query) else { return Ok(Cow::Borrowed(in_header)) };
        // A page that sends `If-None-Match` or `Last-Event-ID` makes the browser send a preflight to the same
        // URL.
        let reads = matches!(action, RequestAction::Get | RequestAction::Head | RequestAction::Options);
        if self.query_tokens && follows && reads && in_header.is_empty() && is_read_token(token.as_bytes()) {
            return Ok(Cow::Owned(token.into_bytes()));
        }
        // At other addresses, a client may send a `token` parameter that belongs to another system.
        let is_ours = follows || looks_like_ours(token.as_bytes());
        let is_credential = is_ours | self.is_shared(token.as_bytes()) | self.is_admin(token.as_bytes());
        if is_credential { Err(Denial::TokenInUrl) } else { Ok(Cow::Borrowed(in_header)) }
    }

    /// Returns the credential that a text is at every address.
    pub(super) fn known(&self, given: &[u8]) -> Credential {
        // Both are compared, so that the timing does not reveal which one matched.
        match (self.is_shared(given), self.is_admin(given)) {
            (_, true) => Credential::Admin,
            (true, false) => Credential::Shared,
            (false, false) => Credential::Nothing,
        }
    }

    /// Returns the credential that a text is for this request: stage and read tokens are valid for one
    /// upload.
    pub(super) fn credential(&self, given: &[u8], access: &RequestedAccess<'_>, now: Timestamp) -> Credential {
        match (self.known(given), access.needs, access.upload) {
            (Credential::Nothing, Needs::Upload(Right::Report), Some(upload)) => {
                if self.stage_tokens.is_for(given, upload) { Credential::Stage(upload) } else { Credential::Nothing }
            }
            (Credential::Nothing, _, Some(upload)) if access.follows => {
                match self.read_tokens.judge(given, upload, now) {
                    TokenValidity::Yes => Credential::Read(upload),
                    TokenValidity::Expired => Credential::ExpiredRead,
                    TokenValidity::No => Credential::Nothing,
                }
            }
            (known, _, _) => known,
        }
    }

    fn is_shared(&self, given: &[u8]) -> bool {
        self.token.as_ref().is_some_and(|token| token.is(given))
    }

    fn is_admin(&self, given: &[u8]) -> bool {
        self.admin_keys.iter().fold(false, |found, key| found | key.is_of(given))
    }
}

/// Returns the value of the first `token` parameter of a query, decoded.
fn token_in_query(query: &str) -> Option<String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    pairs.map(|(name, value)| (decoded(name), value)).find(|(name, _)| name == "token").map(|(_, value)| decoded(value))
}

/// Returns whether a text has the form of a credential that Longshore issues.
fn looks_like_ours(text: &[u8]) -> bool {
    is_read_token(text) || text.starts_with(b"stg_") || text.starts_with(b"lsk_")
}

/// Returns the bearer credential of `Authorization`, or nothing. The scheme is case-insensitive (RFC 9110,
/// 11.1).
pub(super) fn bearer(headers: &HeaderMap) -> &[u8] {
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    match given.split_at_checked(b"Bearer ".len()) {
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case(b"Bearer ") => credential,
        Some(_) | None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_token_of_a_query_is_found_however_it_is_spelled() {
        for (query, expected) in [
            ("token=a", Some("a")),
            ("wait=1s&token=a%5Fb&token=c", Some("a_b")),
            ("%74oken=a+b", Some("a b")),
            ("token", Some("")),
            ("tokens=a&x=token", None),
            ("", None),
        ] {
            assert_eq!(token_in_query(query).as_deref(), expected, "{query}");
        }
    }
}
