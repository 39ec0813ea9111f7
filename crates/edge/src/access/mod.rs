//! Who may ask for what: makes a principal of each request, or refuses it.
//!
//! A row of the route table says what it needs ([`Needs`]):
//!
//! | Needs | Opened by |
//! |---|---|
//! | nothing | nothing is needed |
//! | a client's right | the shared token, an admin key. Where there is no token: nothing is needed |
//! | one of `auth.public_…`, where that closes it | an admin key |
//! | a right on one upload | what opens everything else; a token for that upload, if it is for that right |
//! | an operator's right | an admin key; without any, programs on this machine with the shared token, if set |
//!
//! Where there is no token, whoever asks without a key is a stranger, and browsers ask for strangers: any
//! page can make them send requests to this machine. So a stranger is served only under a host that no page
//! can give itself, and does nothing on behalf of a page elsewhere. Preflights are answered without a
//! credential, as browsers send none with them.
//!
//! A read token may be in the query, where `auth.query_tokens` says so. No other credential may be in a URL:
//! it ends up in logs and histories, so a request that has one there is refused, whatever it is for.
//!
//! The row is found by the path as it is decoded: what is spelled in another way leads to the same row. The
//! method is the one that will be followed.

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

/// What opens the server, and to whom.
#[derive(Debug)]
pub struct Access {
    /// What opens everything but the administration. `None`: everyone may.
    pub token: Option<Token>,
    /// What opens everything.
    pub admin_keys: Vec<AdminKeyHash>,
    pub stage_tokens: StageTokens,
    pub read_tokens: ReadTokens,
    pub read_token_lifetime: Duration,
    /// Whether a read token may be in the query.
    pub query_tokens: bool,
    pub exposure: Exposure,
    /// What strangers may call this server, besides loopback hosts.
    pub hosts: Vec<Host<'static>>,
    /// Whose pages may read answers, and change something without a credential.
    pub origins: Origins,
    pub client_rights: ClientRights,
    pub logged_denials: LoggedDenials,
}

/// From where the server can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
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

/// What is said to whoever was let in without the right that is needed. It is never seen while judgement and
/// rights agree; should they not one day, the smaller of the two holds.
const LACKING: &str = "the credential of this request does not grant the required right";

/// All that a request is judged by.
#[derive(Debug, Clone, Copy)]
struct AccessCheck<'a> {
    needs: Needs,
    action: RequestAction,
    credential: Credential,
    /// What it calls this server.
    host: RequestHost<'a>,
    page: RequestingPage<'a>,
    /// Whether a proxy has passed it on.
    proxied: bool,
}

/// What a request calls this server, in the address it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestHost<'a> {
    /// Nothing in HTTP/1.1, or several things at once.
    Unclear,
    /// Nothing: HTTP/1.0 has no `Host`.
    Nothing,
    By(&'a str),
}

impl<'a> RequestHost<'a> {
    /// RFC 9112, 3.2: one `Host`. It must not differ from a host in the target itself.
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
    /// Finds out who sends a request; refuses it if it lacks what it needs at this time.
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

    /// Who has sent a request that was admitted.
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

    /// Whether a request may see why the server is as it is: it has a credential, or none is needed and it
    /// comes from a program on this machine.
    pub fn shows_reasons(&self, request: &HttpRequest) -> bool {
        let check = self.check_of(request.head(), Needs::Nothing);
        let is_near = self.exposure == Exposure::ThisMachine && check.comes_straight_from_here();
        check.credential != Credential::Nothing || (self.token.is_none() && is_near)
    }

    /// Whether a request shows what would open the administration. What only operators are to know is shown
    /// to it.
    pub fn opens_administration(&self, request: &HttpRequest) -> bool {
        self.judge(&self.check_of(request.head(), Needs::Operator(Right::ReadWebhooks))).is_ok()
    }

    /// What is asked for by looking at something, with what the request shows for itself.
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
            // The page is to read that of its own request.
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
            // What a token for reading opens, nobody but an operator deletes anything of.
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

    /// Lets in who needs no credential here, unless a page elsewhere may be behind the request.
    ///
    /// A page can have a name of its own mean this machine, and then ask as if it were a page of this server;
    /// only the host tells. Else its browser says whose page it is: with `Origin` on every request that a
    /// page could read or that changes something, and with `Sec-Fetch-Site` on all. Who says neither is no
    /// browser.
    fn judge_stranger<'a>(&self, check: &AccessCheck<'a>) -> Result<(), Denial<'a>> {
        let host = match check.host {
            RequestHost::By(host) => host,
            // No browser speaks HTTP/1.0, so no page is behind it.
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
            // A preflight changes nothing; what a page may do then is in the answer.
            (RequestAction::Options, _) => true,
            _ if is_trusted => true,
            // What a person opens from a page elsewhere, that page cannot read.
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
    /// Whether a request that came from this machine was also meant to be made by a program on it. A proxy
    /// passes on what comes from elsewhere, and so does a browser: pages may have it ask a loopback address,
    /// under a name of their own too.
    fn comes_straight_from_here(&self) -> bool {
        let RequestHost::By(host) = self.host else { return false };
        let own_page = match self.page.site {
            FetchSite::Same | FetchSite::Cross => false,
            FetchSite::Unsaid | FetchSite::Own => self.page.origin.is_none() || self.page.is_of(host),
        };
        !self.proxied && own_page && Host::of_authority(host).is_some_and(|host| host.is_loopback())
    }
}
