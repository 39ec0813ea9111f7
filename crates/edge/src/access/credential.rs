//! What a request shows for itself, and what that is worth in the place it is for.
//!
//! Everything is compared in constant time. What is not known is nothing, whatever it looks like.

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

/// What a request can show for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing that this server knows.
    Nothing,
    /// The token for reporting on the upload it is about.
    Stage(UploadId),
    /// A token for following the upload it is about.
    Read(UploadId),
    /// One whose time is over.
    ExpiredRead,
    /// The token that clients share.
    Shared,
    Admin,
}

impl Access {
    /// The text that a request shows as its credential: in the header, or a read token in the query where it
    /// may be there.
    pub(super) fn given<'a>(
        &self,
        head: &'a RequestHead,
        follows: bool,
        action: RequestAction,
    ) -> Result<Cow<'a, [u8]>, Denial<'a>> {
        let in_header = bearer(&head.headers);
        let Some(token) = head.uri.query().and_then(token_in_query) else { return Ok(Cow::Borrowed(in_header)) };
        // Browsers ask with the same URL whether a page may read it, if the page sends `If-None-Match` or
        // `Last-Event-ID`.
        let reads = matches!(action, RequestAction::Get | RequestAction::Head | RequestAction::Options);
        if self.query_tokens && follows && reads && in_header.is_empty() && is_read_token(token.as_bytes()) {
            return Ok(Cow::Owned(token.into_bytes()));
        }
        // Elsewhere clients may have tokens of their own in there, for others.
        let is_ours = follows || looks_like_ours(token.as_bytes());
        let is_credential = is_ours | self.is_shared(token.as_bytes()) | self.is_admin(token.as_bytes());
        if is_credential { Err(Denial::TokenInUrl) } else { Ok(Cow::Borrowed(in_header)) }
    }

    /// What a text is wherever it is shown.
    pub(super) fn known(&self, given: &[u8]) -> Credential {
        // Both are compared, so that the time tells nothing of which it was.
        match (self.is_shared(given), self.is_admin(given)) {
            (_, true) => Credential::Admin,
            (true, false) => Credential::Shared,
            (false, false) => Credential::Nothing,
        }
    }

    /// What a text is here: some tokens are for one upload.
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

/// The first `token` of a query.
fn token_in_query(query: &str) -> Option<String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    pairs.map(|(name, value)| (decoded(name), value)).find(|(name, _)| name == "token").map(|(_, value)| decoded(value))
}

/// Whether a text has the form of a credential that a server of this kind makes.
fn looks_like_ours(text: &[u8]) -> bool {
    is_read_token(text) || text.starts_with(b"stg_") || text.starts_with(b"lsk_")
}

/// RFC 9110, 11.1: the scheme is the same in any case.
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
