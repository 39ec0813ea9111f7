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
mod needs;
mod origin;
mod refusal;
mod request;

pub use needs::{ClientsMay, Needs, Wanted};
pub use origin::Origins;
pub use refusal::Logged;
pub(crate) use request::came_through_a_proxy;

use credential::{Credential, bearer};
use origin::{Page, Site};
use refusal::Refusal;
use request::Act;

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
    pub reach: Reach,
    /// What strangers may call this server, besides loopback hosts.
    pub hosts: Vec<Host<'static>>,
    /// Whose pages may read answers, and change something without a credential.
    pub origins: Origins,
    pub clients_may: ClientsMay,
    pub logged: Logged,
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

/// What is said to whoever was let in without the right that is needed. It is never seen while judgement and
/// rights agree; should they not one day, the smaller of the two holds.
const LACKING: &str = "this takes a right that the credential of the request does not give";

/// All that a request is judged by.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    needs: Needs,
    act: Act,
    credential: Credential,
    /// What it calls this server.
    host: Called<'a>,
    page: Page<'a>,
    /// Whether a proxy has passed it on.
    proxied: bool,
}

/// What a request calls this server, in the address it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Called<'a> {
    /// Nothing in HTTP/1.1, or several things at once.
    Unclear,
    /// Nothing: HTTP/1.0 has no `Host`.
    Nothing,
    By(&'a str),
}

impl<'a> Called<'a> {
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
    pub fn admit(&self, head: &RequestHead, wanted: &Wanted<'_>, now: Timestamp) -> Result<Principal, Problem> {
        let needs = wanted.needs;
        if needs == Needs::Nothing {
            return Ok(Principal::new(TenantId::DEFAULT, Subject::Anonymous, Rights::NONE));
        }
        let act = Act::of(wanted.method);
        let given = self.given(head, wanted.follows, act).map_err(Refusal::problem)?;
        let asked = Asked {
            needs,
            act,
            credential: self.credential(&given, wanted, now),
            host: Called::of(head),
            page: Page::of(&head.headers),
            proxied: matches!(needs, Needs::Operator(_) | Needs::Upload(_)) && came_through_a_proxy(&head.headers),
        };
        let Err(refusal) = self.judge(&asked) else {
            let principal = self.principal(&asked);
            let has_it = act == Act::Options || needs.right().is_none_or(|right| principal.may(right));
            return if has_it { Ok(principal) } else { Err(Refusal::AdminKeyNeeded(LACKING).problem()) };
        };
        match (refusal, asked.page.origin) {
            (Refusal::ForeignHost(host), _) => self.logged.foreign_host(host),
            (Refusal::CrossSite, Some(origin)) => self.logged.cross_site(origin),
            _ => {}
        }
        Err(refusal.problem())
    }

    /// Who has sent a request that was admitted.
    fn principal(&self, asked: &Asked<'_>) -> Principal {
        let is_open = self.token.is_none() && asked.act != Act::Options;
        let (subject, rights) = match asked.credential {
            Credential::Admin => (Subject::Operator, Rights::all()),
            Credential::Shared | Credential::Nothing if matches!(asked.needs, Needs::Operator(_)) => {
                (Subject::Operator, Rights::all())
            }
            Credential::Shared => (Subject::SharedToken, self.clients_may.rights()),
            Credential::Stage(upload) => (Subject::Stage(upload), Rights::of(&[Right::Report])),
            Credential::Read(upload) => (Subject::Reader(upload), Rights::of(&[Right::Read, Right::Events])),
            Credential::Nothing if is_open => (Subject::Anonymous, self.clients_may.rights()),
            Credential::Nothing | Credential::ExpiredRead => (Subject::Anonymous, Rights::NONE),
        };
        Principal::new(TenantId::DEFAULT, subject, rights)
    }

    /// Whether a request may see why the server is as it is: it has a credential, or none is needed and it
    /// comes from a program on this machine.
    pub fn shows_reasons(&self, request: &HttpRequest) -> bool {
        let asked = self.asked_of(request.head(), Needs::Nothing);
        let is_near = self.reach == Reach::ThisMachine && asked.comes_straight_from_here();
        asked.credential != Credential::Nothing || (self.token.is_none() && is_near)
    }

    /// Whether a request shows what would open the administration. What only operators are to know is shown
    /// to it.
    pub fn opens_administration(&self, request: &HttpRequest) -> bool {
        self.judge(&self.asked_of(request.head(), Needs::Operator(Right::ReadWebhooks))).is_ok()
    }

    /// What is asked for by looking at something, with what the request shows for itself.
    fn asked_of<'a>(&self, head: &'a RequestHead, needs: Needs) -> Asked<'a> {
        Asked {
            needs,
            act: Act::Get,
            credential: self.known(bearer(&head.headers)),
            host: Called::of(head),
            page: Page::of(&head.headers),
            proxied: came_through_a_proxy(&head.headers),
        }
    }

    fn judge<'a>(&self, asked: &Asked<'a>) -> Result<(), Refusal<'a>> {
        let &Asked { needs, act, credential, .. } = asked;
        match credential {
            Credential::Admin | Credential::Stage(_) => return Ok(()),
            Credential::Read(_) if matches!(act, Act::Get | Act::Look | Act::Options) => return Ok(()),
            Credential::Read(_) => return Err(Refusal::Unauthorized("a read token opens GET and HEAD only")),
            // The page is to read that of its own request.
            Credential::ExpiredRead if act == Act::Options => return Ok(()),
            Credential::ExpiredRead => return Err(Refusal::Expired),
            Credential::Shared => {}
            Credential::Nothing if self.token.is_none() => self.judge_stranger(asked)?,
            Credential::Nothing => {}
        }
        if act == Act::Options {
            return Ok(());
        }
        match needs {
            Needs::Nothing => Ok(()),
            Needs::Upload(Right::Report) if credential == Credential::Nothing => Err(Refusal::Unauthorized(
                "send Authorization: Bearer with the webhook-stage-token of a webhook about this upload",
            )),
            Needs::Operator(_) => self.judge_administration(asked),
            // What a token for reading opens, nobody but an operator deletes anything of.
            Needs::Upload(_) if needs.follows() && act == Act::Delete => self.judge_administration(asked),
            Needs::Upload(_) => self.require_token(credential),
            Needs::Client(right) => {
                self.require_token(credential)?;
                match self.clients_may.not(right) {
                    Some((what, key)) => Err(Refusal::Closed { what, key, credential }),
                    None => Ok(()),
                }
            }
        }
    }

    fn require_token<'a>(&self, credential: Credential) -> Result<(), Refusal<'a>> {
        if self.token.is_some() && credential == Credential::Nothing {
            return Err(Refusal::Unauthorized("send Authorization: Bearer <token>"));
        }
        Ok(())
    }

    /// Lets in who needs no credential here, unless a page elsewhere may be behind the request.
    ///
    /// A page can have a name of its own mean this machine, and then ask as if it were a page of this server;
    /// only the host tells. Else its browser says whose page it is: with `Origin` on every request that a
    /// page could read or that changes something, and with `Sec-Fetch-Site` on all. Who says neither is no
    /// browser.
    fn judge_stranger<'a>(&self, asked: &Asked<'a>) -> Result<(), Refusal<'a>> {
        let host = match asked.host {
            Called::By(host) => host,
            // No browser speaks HTTP/1.0, so no page is behind it.
            Called::Nothing if asked.page.is_nobodys() && !asked.proxied => return Ok(()),
            Called::Nothing | Called::Unclear => return Err(Refusal::UnclearHost),
        };
        let is_ours = |named: Host<'_>| named.is_loopback() || self.hosts.contains(&named);
        if !Host::of_authority(host).is_some_and(is_ours) {
            return Err(Refusal::ForeignHost(host));
        }
        let page = &asked.page;
        let is_trusted = page.origin.is_some_and(|origin| self.origins.allow(origin)) || page.is_of(host);
        let may = match (asked.act, page.site) {
            // A preflight changes nothing; what a page may do then is in the answer.
            (Act::Options, _) => true,
            _ if is_trusted => true,
            // What a person opens from a page elsewhere, that page cannot read.
            (Act::Get, Site::Cross) => page.navigates,
            (Act::Look, Site::Cross) => false,
            (Act::Look | Act::Get | Act::Write | Act::Delete, Site::Own) => true,
            (Act::Look | Act::Get, Site::Unsaid | Site::Same) | (Act::Write | Act::Delete, Site::Unsaid) => {
                page.origin.is_none()
            }
            (Act::Write | Act::Delete, Site::Same | Site::Cross) => false,
        };
        if may { Ok(()) } else { Err(Refusal::CrossSite) }
    }

    fn judge_administration<'a>(&self, asked: &Asked<'a>) -> Result<(), Refusal<'a>> {
        let credential = asked.credential;
        if !self.admin_keys.is_empty() {
            return Err(if credential == Credential::Shared {
                Refusal::AdminKeyNeeded("this takes a key of auth.admin_keys; the shared token does not open it")
            } else {
                Refusal::Unauthorized("send Authorization: Bearer <admin key>")
            });
        }
        self.require_token(credential)?;
        let is_near = self.reach == Reach::ThisMachine && asked.comes_straight_from_here();
        if is_near { Ok(()) } else { Err(Refusal::NoAdminKey) }
    }
}

impl Asked<'_> {
    /// Whether a request that came from this machine was also meant to be made by a program on it. A proxy
    /// passes on what comes from elsewhere, and so does a browser: pages may have it ask a loopback address,
    /// under a name of their own too.
    fn comes_straight_from_here(&self) -> bool {
        let Called::By(host) = self.host else { return false };
        let own_page = match self.page.site {
            Site::Same | Site::Cross => false,
            Site::Unsaid | Site::Own => self.page.origin.is_none() || self.page.is_of(host),
        };
        !self.proxied && own_page && Host::of_authority(host).is_some_and(|host| host.is_loopback())
    }
}
