//! What a request shows for itself, and what that is worth in the place it is for.
//!
//! Everything is compared in constant time. What is not known is nothing, whatever it looks like.

use std::borrow::Cow;

use actix_web::dev::RequestHead;
use actix_web::http::header;
use actix_web::http::header::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::edge::access::ClientsMay;
use crate::edge::access::request::{Act, Place};
use crate::edge::access::{Access, Refusal};
use domain::principal::{Principal, Right, Rights, Subject, TenantId};
use domain::time::Timestamp;
use keyring::{Readable, is_read_token};

/// What a request can show for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// Nothing that this server knows.
    Nothing,
    /// The token for reporting on the upload it is about.
    Stage,
    /// A token for following the upload it is about.
    Read,
    /// One whose time is over.
    ExpiredRead,
    /// The token that clients share.
    Shared,
    Admin,
}

impl Access {
    /// The text that a request shows as its credential: in the header, or a read token in the query where it may be there.
    pub(super) fn given<'a>(
        &self,
        head: &'a RequestHead,
        place: Place,
        act: Act,
    ) -> Result<Cow<'a, [u8]>, Refusal<'a>> {
        let in_header = bearer(&head.headers);
        let Some(token) = head.uri.query().and_then(token_in_query) else { return Ok(Cow::Borrowed(in_header)) };
        let follows = matches!(place, Place::Status(_));
        // Browsers ask with the same URL whether a page may read it, if the page sends `If-None-Match` or `Last-Event-ID`.
        let reads = matches!(act, Act::Get | Act::Look | Act::Options);
        if self.query_tokens && follows && reads && in_header.is_empty() && is_read_token(token.as_bytes()) {
            return Ok(Cow::Owned(token.into_bytes()));
        }
        // Elsewhere clients may have tokens of their own in there, for others.
        let is_ours = follows || looks_like_ours(token.as_bytes());
        let is_credential = is_ours | self.is_shared(token.as_bytes()) | self.is_admin(token.as_bytes());
        if is_credential { Err(Refusal::TokenInUrl) } else { Ok(Cow::Borrowed(in_header)) }
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

    /// What a text is in this place: some tokens are for one upload.
    pub(super) fn credential(&self, given: &[u8], place: Place, now: Timestamp) -> Credential {
        match (self.known(given), place) {
            (Credential::Nothing, Place::Stages(Some(upload))) if self.stage_tokens.is_for(given, upload) => {
                Credential::Stage
            }
            (Credential::Nothing, Place::Status(Some(upload))) => match self.read_tokens.judge(given, upload, now) {
                Readable::Yes => Credential::Read,
                Readable::Expired => Credential::ExpiredRead,
                Readable::No => Credential::Nothing,
            },
            (known, _) => known,
        }
    }

    /// Returns who shows such a credential here, and what that is allowed wherever it goes.
    pub(super) fn principal(&self, credential: Credential, place: Place) -> Principal {
        let (subject, rights) = match (credential, place) {
            (Credential::Admin, _) => (Subject::Operator, Rights::all()),
            (Credential::Stage, Place::Stages(Some(upload))) => (Subject::Stage(upload), Rights::of(&[Right::Report])),
            (Credential::Read, Place::Status(Some(upload))) => {
                (Subject::Reader(upload), Rights::of(&[Right::Read, Right::Events]))
            }
            (Credential::Shared, _) => (Subject::SharedToken, self.rights_of_clients()),
            (Credential::Nothing | Credential::ExpiredRead | Credential::Stage | Credential::Read, _) => {
                let rights = if self.token.is_none() { self.rights_of_clients() } else { Rights::NONE };
                (Subject::Anonymous, rights)
            }
        };
        Principal::new(TenantId::DEFAULT, subject, rights)
    }

    fn rights_of_clients(&self) -> Rights {
        let ClientsMay { list, download, terminate } = self.clients_may;
        let closed = [(list, Right::List), (download, Right::Download), (terminate, Right::Terminate)];
        let administration = [Right::MintTokens, Right::ReadWebhooks, Right::ManageWebhooks, Right::ReadMetrics];
        let has_admin_keys = !self.admin_keys.is_empty();
        let closed = closed.into_iter().filter(|(is_open, _)| !is_open).map(|(_, right)| right);
        let closed: Vec<Right> = closed.chain(administration.into_iter().filter(|_| has_admin_keys)).collect();
        Rights::all().without(&closed)
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
