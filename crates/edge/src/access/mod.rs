//! Access control: turns each request into a [`Principal`], or denies it.
//!
//! Each row of the route table states what it needs ([`Needs`]):
//!
//! | Needs | Granted by |
//! |---|---|
//! | nothing | no credential is needed |
//! | a client's right | the shared token, an admin key. If no token is configured: no credential is needed |
//! | a client's right that an `auth.public_…` key closes | an admin key |
//! | a right on one upload | the same as a client's right; a token for that upload, if it grants the right |
//! | an operator's right | an admin key; if none is configured: programs on this machine, with the shared token if set |
//!
//! If no token is configured, a caller without an admin key is a stranger. Any page can make a browser send
//! requests to this machine, and these come from strangers, too. A stranger is therefore served only under a
//! host name that no page can obtain for itself, and cannot act on behalf of a page of another origin.
//! Preflights are answered without a credential, because browsers send none with them.
//!
//! A read token may be in the query if `auth.query_tokens` allows it. No other credential may be in a URL,
//! because logs and browser histories keep URLs. A request with such a credential in its URL is rejected at
//! every address.
//!
//! The row is looked up by the decoded path, so that differently encoded spellings of a path lead to the same
//! row. The method that counts is the effective one.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::dev::RequestHead;
use actix_web::http::{Version, header};
use subtle::ConstantTimeEq;

use crate::problem::Problem;
use domain::host::Host;
use domain::principal::{Principal, Right, Rights, Subject, TenantId};
use domain::time::Timestamp;
use keyring::{AdminKeyHash, ReadTokens, StageTokens};

mod credential;
mod denial;
mod needs;
mod origin;
mod request;

pub use denial::LoggedDenials;
pub use needs::{ClientRights, Needs, RequestedAccess};
pub use origin::Origins;
pub(crate) use request::came_through_a_proxy;

use credential::{Credential, bearer};
use denial::Denial;
use origin::{FetchSite, RequestingPage};
use request::RequestAction;

/// The credentials that grant access to the server, and the rules for requests without one.
#[derive(Debug)]
pub struct Access {
    /// Grants everything but administration. `None`: no token is needed.
    pub token: Option<Token>,
    /// Each grants everything.
    pub admin_keys: Vec<AdminKeyHash>,
    pub stage_tokens: StageTokens,
    pub read_tokens: ReadTokens,
    pub read_token_lifetime: Duration,
    /// True if a read token is allowed in the query.
    pub query_tokens: bool,
    pub exposure: Exposure,
    /// The hosts under which strangers may address this server, besides loopback hosts.
    pub hosts: Vec<Host<'static>>,
    /// The origins whose pages may read responses, and change something without a credential.
    pub origins: Origins,
    pub client_rights: ClientRights,
    pub logged_denials: LoggedDenials,
}

/// The networks from which the server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Only programs on this machine can connect.
    ThisMachine,
    Network,
}

/// A token that clients and backends share. `Debug` does not print it.
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

/// The detail for a request that was admitted but whose principal lacks the needed right. It is never shown
/// while `judge` and `principal` agree. If they ever differ, the stricter of the two decides.
const LACKING: &str = "the credential of this request does not grant the required right";

/// The facts about a request that the decision depends on.
#[derive(Debug, Clone, Copy)]
struct AccessCheck<'a> {
    needs: Needs,
    action: RequestAction,
    credential: Credential,
    /// The host under which the request addresses this server.
    host: RequestHost<'a>,
    page: RequestingPage<'a>,
    /// True if the request came through a proxy.
    proxied: bool,
}

/// The host under which a request addresses this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestHost<'a> {
    /// No `Host` in HTTP/1.1, or contradictory hosts.
    Unclear,
    /// No host: HTTP/1.0 does not require `Host`.
    Nothing,
    By(&'a str),
}

impl<'a> RequestHost<'a> {
    /// Reads the host of a request. Exactly one `Host` is allowed (RFC 9112, 3.2), and it must not differ
    /// from the host in the target.
    fn of(head: &'a RequestHead) -> Self {
        let mut named = head.headers.get_all(header::HOST);
        let host = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().unwrap_or("\u{fffd}"),
            (None, _) if head.version == Version::HTTP_10 && head.uri.authority().is_none() => return Self::Nothing,
            (Some(_), Some(_)) | (None, _) => return Self::Unclear,
        };
        match head.uri.authority() {
            Some(target) if target.as_str() != host => Self::Unclear,
            Some(_) | None if host.is_empty() => Self::Unclear,
            Some(_) | None => Self::By(host),
        }
    }
}

impl Access {
    /// Returns the principal of a request. Denies the request if it lacks what it needs at time `now`.
    pub fn admit(
        &self,
        head: &RequestHead,
        access: &RequestedAccess<'_>,
        now: Timestamp,
    ) -> Result<Principal, Problem> {
        let needs = access.needs;
        if needs == Needs::Nothing {
            return Ok(Principal::new(TenantId::DEFAULT, Subject::Anonymous, Rights::NONE));
        }
        let action = RequestAction::of(access.method);
        let given = self.given(head, access.follows, action).map_err(Denial::problem)?;
        let check = AccessCheck {
            needs,
            action,
            credential: self.credential(&given, access, now),
            host: RequestHost::of(head),
            page: RequestingPage::of(&head.headers),
            proxied: matches!(needs, Needs::Operator(_) | Needs::Upload(_)) && came_through_a_proxy(&head.headers),
        };
        let Err(refusal) = self.judge(&check) else {
            let principal = self.principal(&check);
            let has_it = action == RequestAction::Options || needs.right().is_none_or(|right| principal.may(right));
            return if has_it { Ok(principal) } else { Err(Denial::AdminKeyNeeded(LACKING).problem()) };
        };
        match (refusal, check.page.origin) {
            (Denial::ForeignHost(host), _) => self.logged_denials.foreign_host(host),
            (Denial::CrossSite, Some(origin)) => self.logged_denials.cross_site(origin),
            _ => {}
        }
        Err(refusal.problem())
    }

    /// Returns the principal of an admitted request.
    fn principal(&self, check: &AccessCheck<'_>) -> Principal {
        let is_open = self.token.is_none() && check.action != RequestAction::Options;
        let (subject, rights) = match check.credential {
            Credential::Admin => (Subject::Operator, Rights::all()),
            Credential::Shared | Credential::Nothing if matches!(check.needs, Needs::Operator(_)) => {
                (Subject::Operator, Rights::all())
            }
            Credential::Shared => (Subject::SharedToken, self.client_rights.rights()),
            Credential::Stage(upload) => (Subject::Stage(upload), Rights::of(&[Right::Report])),
            Credential::Read(upload) => (Subject::Reader(upload), Rights::of(&[Right::Read, Right::Events])),
            Credential::Nothing if is_open => (Subject::Anonymous, self.client_rights.rights()),
            Credential::Nothing | Credential::ExpiredRead => (Subject::Anonymous, Rights::NONE),
        };
        Principal::new(TenantId::DEFAULT, subject, rights)
    }

    /// Returns whether the response may explain the server's state: the request presents a credential, or
    /// none is configured and the request comes from a program on this machine.
    pub fn shows_reasons(&self, request: &HttpRequest) -> bool {
        let check = self.check_of(request.head(), Needs::Nothing);
        let is_near = self.exposure == Exposure::ThisMachine && check.comes_straight_from_here();
        check.credential != Credential::Nothing || (self.token.is_none() && is_near)
    }

    /// Returns whether a request presents what administration requires. Such a request may see what is
    /// reserved for operators.
    pub fn opens_administration(&self, request: &HttpRequest) -> bool {
        self.judge(&self.check_of(request.head(), Needs::Operator(Right::ReadWebhooks))).is_ok()
    }

    /// Returns the check of a read, with the credential in `Authorization`.
    fn check_of<'a>(&self, head: &'a RequestHead, needs: Needs) -> AccessCheck<'a> {
        AccessCheck {
            needs,
            action: RequestAction::Get,
            credential: self.known(bearer(&head.headers)),
            host: RequestHost::of(head),
            page: RequestingPage::of(&head.headers),
            proxied: came_through_a_proxy(&head.headers),
        }
    }

    fn judge<'a>(&self, check: &AccessCheck<'a>) -> Result<(), Denial<'a>> {
        let &AccessCheck { needs, action, credential, .. } = check;
        match credential {
            Credential::Admin | Credential::Stage(_) => return Ok(()),
            Credential::Read(_)
                if matches!(action, RequestAction::Get | RequestAction::Head | RequestAction::Options) =>
            {
                return Ok(());
            }
            Credential::Read(_) => return Err(Denial::Unauthorized("a read token allows only GET and HEAD")),
            // The page needs to read the response to its actual request.
            Credential::ExpiredRead if action == RequestAction::Options => return Ok(()),
            Credential::ExpiredRead => return Err(Denial::Expired),
            Credential::Shared => {}
            Credential::Nothing if self.token.is_none() => self.judge_stranger(check)?,
            Credential::Nothing => {}
        }
        if action == RequestAction::Options {
            return Ok(());
        }
        match needs {
            Needs::Nothing => Ok(()),
            Needs::Upload(Right::Report) if credential == Credential::Nothing => Err(Denial::Unauthorized(
                "send Authorization: Bearer with the webhook-stage-token of a webhook about this upload",
            )),
            Needs::Operator(_) => self.judge_administration(check),
            // Only an operator may delete at an address that a read token grants.
            Needs::Upload(_) if needs.follows() && action == RequestAction::Delete => self.judge_administration(check),
            Needs::Upload(_) => self.require_token(credential),
            Needs::Client(right) => {
                self.require_token(credential)?;
                match self.client_rights.not(right) {
                    Some((what, key)) => Err(Denial::Closed { what, key, credential }),
                    None => Ok(()),
                }
            }
        }
    }

    fn require_token<'a>(&self, credential: Credential) -> Result<(), Denial<'a>> {
        if self.token.is_some() && credential == Credential::Nothing {
            return Err(Denial::Unauthorized("send Authorization: Bearer <token>"));
        }
        Ok(())
    }

    /// Admits a request without a credential, unless a page of another origin may have caused it.
    ///
    /// The owner of a page can point a DNS name to this machine, and requests of the page then look like
    /// those of a page of this server; only the host reveals this. In all other cases the browser states the
    /// origin of the page: with `Origin` on each request that the page can read or that changes something,
    /// and with `Sec-Fetch-Site` on every request. A client that sends neither is not a browser.
    fn judge_stranger<'a>(&self, check: &AccessCheck<'a>) -> Result<(), Denial<'a>> {
        let host = match check.host {
            RequestHost::By(host) => host,
            // Browsers do not use HTTP/1.0, so no page caused this request.
            RequestHost::Nothing if check.page.is_nobodys() && !check.proxied => return Ok(()),
            RequestHost::Nothing | RequestHost::Unclear => return Err(Denial::UnclearHost),
        };
        let is_ours = |named: Host<'_>| named.is_loopback() || self.hosts.contains(&named);
        if !Host::of_authority(host).is_some_and(is_ours) {
            return Err(Denial::ForeignHost(host));
        }
        let page = &check.page;
        let is_trusted = page.origin.is_some_and(|origin| self.origins.allow(origin)) || page.is_of(host);
        let may = match (check.action, page.site) {
            // A preflight changes nothing; its response states what the page may do.
            (RequestAction::Options, _) => true,
            _ if is_trusted => true,
            // A page cannot read what a user opens by following a link from it.
            (RequestAction::Get, FetchSite::Cross) => page.navigates,
            (RequestAction::Head, FetchSite::Cross) => false,
            (
                RequestAction::Head | RequestAction::Get | RequestAction::Write | RequestAction::Delete,
                FetchSite::Own,
            ) => true,
            (RequestAction::Head | RequestAction::Get, FetchSite::Unsaid | FetchSite::Same)
            | (RequestAction::Write | RequestAction::Delete, FetchSite::Unsaid) => page.origin.is_none(),
            (RequestAction::Write | RequestAction::Delete, FetchSite::Same | FetchSite::Cross) => false,
        };
        if may { Ok(()) } else { Err(Denial::CrossSite) }
    }

    fn judge_administration<'a>(&self, check: &AccessCheck<'a>) -> Result<(), Denial<'a>> {
        let credential = check.credential;
        if !self.admin_keys.is_empty() {
            return Err(if credential == Credential::Shared {
                Denial::AdminKeyNeeded(
                    "this requires an admin key (auth.admin_keys); the shared token does not grant access to it",
                )
            } else {
                Denial::Unauthorized("send Authorization: Bearer <admin key>")
            });
        }
        self.require_token(credential)?;
        let is_near = self.exposure == Exposure::ThisMachine && check.comes_straight_from_here();
        if is_near { Ok(()) } else { Err(Denial::NoAdminKey) }
    }
}

impl AccessCheck<'_> {
    /// Returns whether a program on this machine sent the request on its own behalf. Both proxies and
    /// browsers send requests from this machine on behalf of others: a page can make a browser request a
    /// loopback address, also under a DNS name that the page controls.
    fn comes_straight_from_here(&self) -> bool {
        let RequestHost::By(host) = self.host else { return false };
        let own_page = match self.page.site {
            FetchSite::Same | FetchSite::Cross => false,
            FetchSite::Unsaid | FetchSite::Own => self.page.origin.is_none() || self.page.is_of(host),
        };
        !self.proxied && own_page && Host::of_authority(host).is_some_and(|host| host.is_loopback())
    }
}
