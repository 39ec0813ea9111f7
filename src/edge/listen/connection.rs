//! One connection from its acceptance to its end.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use actix_http::Request;
use actix_server::GracefulShutdownSignal;
use actix_service::boxed::RcService;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, boxed, map_config};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::{App, web};
use tokio::net::TcpStream;

use crate::edge::Shared;
use crate::edge::addresses::Reached;
use crate::edge::listen::framing::Terms;
use crate::edge::listen::http1::{Http1, Spoken, http1};
use crate::edge::listen::http2::Waits;
use crate::edge::listen::outflow::Readers;
use crate::edge::listen::places::Places;
use crate::edge::listen::tls::Agreed;
use crate::edge::listen::wire::Wire;
use crate::edge::listen::{Role, Settings, full, http2};
use crate::edge::refusals::Reason;
use crate::edge::shares::{Part, UsedUp};
use crate::front;

/// How long a closing connection may take to take in what was sent.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many connections beyond the share of their address each thread has time for.
const TOLD_AT_ONCE: usize = 16;

/// What answers requests.
pub(super) type Answers = RcService<Request, ServiceResponse<BoxBody>, actix_web::Error>;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) peer: Option<SocketAddr>,
    /// The local one.
    pub(super) reached: Option<Reached>,
}

impl Ends {
    fn of(stream: &TcpStream) -> Self {
        Self { peer: stream.peer_addr().ok(), reached: stream.local_addr().ok().map(Reached) }
    }
}

/// What the connections of one worker thread share.
#[derive(Clone)]
pub(super) struct Connections(Rc<Inner>);

struct Inner {
    settings: Settings,
    shared: web::Data<Shared>,
    places: Places,
    /// For those that are told that their address has its share. Others are just closed.
    told: Places,
    stopping: GracefulShutdownSignal,
    answers: Answers,
    http1: Http1<Wire>,
}

impl Connections {
    pub(super) async fn new(
        settings: Settings,
        shared: web::Data<Shared>,
        places: Places,
        stopping: GracefulShutdownSignal,
    ) -> Result<Self, ()> {
        let answers = answers(shared.clone(), settings.role).await?;
        let http1 = http1(Rc::clone(&answers), stopping.clone()).await?;
        Ok(Self(Rc::new(Inner { settings, shared, places, told: Places::new(TOLD_AT_ONCE), stopping, answers, http1 })))
    }

    /// Serves a connection until it ends, or turns it away.
    ///
    /// What not every connection needs is boxed: there may be ten thousand that wait.
    pub(super) async fn serve(&self, stream: TcpStream) {
        let inner = &self.0;
        let ends = Ends::of(&stream);
        let peer = ends.peer;
        let Some(place) = inner.places.take() else {
            return self.turn_away(stream, peer, Reason::Full).await;
        };
        let Ok(_part) = self.take_share(peer.map(|peer| peer.ip())) else {
            drop(place);
            let Some(_place) = inner.told.take() else { return };
            return self.turn_away(stream, peer, Reason::Connections).await;
        };
        let _place = place;
        prepare(&stream, inner.settings.reader_timeout);
        let Some(tls) = &inner.settings.tls else {
            return self.serve_http1(Wire::Plain(stream), ends).await;
        };
        let agreed = tokio::select! {
            agreed = Box::pin(tls.accept(stream)) => agreed,
            () = inner.stopping.notified() => return,
        };
        match agreed {
            Ok(Agreed::Http1(stream)) => self.serve_http1(Wire::Tls(stream), ends).await,
            Ok(Agreed::Http2(stream, _place)) => Box::pin(self.serve_http2(Wire::Tls(stream), ends)).await,
            Err(error) => tracing::debug!(error = %error, "a client and the server did not agree on encryption"),
        }
    }

    /// A trusted proxy brings the connections of many, who are counted by their requests.
    fn take_share(&self, peer: Option<IpAddr>) -> Result<Part, UsedUp> {
        let shared = &self.0.shared;
        let counted = peer.filter(|peer| !shared.proxies.trusts(*peer));
        shared.shares.connections.take(counted)
    }

    /// Under TLS the connection is only closed: a handshake is the costly part.
    async fn turn_away(&self, stream: TcpStream, peer: Option<SocketAddr>, why: Reason) {
        let inner = &self.0;
        inner.shared.refusals.note(why, peer.map(|peer| peer.ip()), "a connection");
        if inner.settings.tls.is_none() {
            Box::pin(full::turn_away(stream, full::too_many())).await;
        }
    }

    async fn serve_http1(&self, wire: Wire, ends: Ends) {
        let Inner { settings, shared, .. } = &*self.0;
        let Ends { peer, reached } = ends;
        let terms = Terms {
            header_timeout: settings.header_timeout,
            keep_alive: settings.keep_alive,
            peer: peer.map(|peer| peer.ip()),
            refusals: shared.refusals.clone(),
        };
        let spoken = Spoken::new(wire, terms, self.readers(), settings.read_ahead.clone()).at(reached);
        if let Err(error) = self.0.http1.call((spoken, peer)).await {
            tracing::debug!(error = %error, "a connection ended badly");
        }
    }

    fn readers(&self) -> Readers {
        let settings = &self.0.settings;
        Readers { download: settings.reader_timeout, answer: settings.answer_timeout }
    }

    async fn serve_http2(&self, wire: Wire, ends: Ends) {
        let Inner { settings, stopping, answers, .. } = &*self.0;
        let waits = Waits { head: settings.header_timeout, idle: settings.keep_alive, readers: self.readers() };
        let served = http2::serve(wire, ends, answers, &settings.http2, waits, stopping.notified());
        if let Err(error) = served.await {
            tracing::debug!(error = %error, "a connection ended badly");
        }
    }
}

/// The application, once for each thread.
///
/// What it knows of itself is left at its default: links are paths or begin with `public_url`, so nobody asks an app
/// for its scheme or host.
async fn answers(shared: web::Data<Shared>, role: Role) -> Result<Answers, ()> {
    let routes = match role {
        Role::All => front::routes,
        Role::Reading => front::reading_routes,
    };
    let app = App::new().app_data(shared).configure(routes);
    let app = map_config(app.into_factory(), |()| AppConfig::default());
    Ok(boxed::rc_service(app.new_service(()).await?))
}

/// Small answers go out at once, and a connection ends whose peer takes nothing for so long, be it gone or just not
/// reading.
fn prepare(stream: &TcpStream, reader_timeout: Duration) {
    let timeout_ms = u32::try_from(reader_timeout.as_millis()).unwrap_or(u32::MAX);
    let limited = rustix::net::sockopt::set_tcp_user_timeout(stream, timeout_ms).map_err(Into::into);
    if let Err(error) = stream.set_nodelay(true).and(limited) {
        tracing::debug!(error = %error, "could not set up a connection");
    }
}
