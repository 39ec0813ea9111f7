//! One connection from its acceptance to its end.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use actix_http::Request;
use actix_server::GracefulShutdownSignal;
use actix_service::boxed::RcService;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, boxed, fn_service, map_config};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceRequest, ServiceResponse};
use actix_web::{App, web};
use tokio::net::TcpStream;

use crate::addresses::Reached;
use crate::listen::framing::Terms;
use crate::listen::http1::{Http1, Spoken, http1};
use crate::listen::http2::Waits;
use crate::listen::outflow::Readers;
use crate::listen::places::Places;
use crate::listen::tls::Agreed;
use crate::listen::wire::Wire;
use crate::listen::{Role, Settings, full, http2};
use crate::refusals::Reason;
use crate::shares::{Part, UsedUp};
use crate::{Edge, around};

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
    edge: web::Data<Edge>,
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
        edge: web::Data<Edge>,
        places: Places,
        stopping: GracefulShutdownSignal,
    ) -> Result<Self, ()> {
        let answers = answers(edge.clone(), settings.role).await?;
        let http1 = http1(Rc::clone(&answers), stopping.clone()).await?;
        Ok(Self(Rc::new(Inner { settings, edge, places, told: Places::new(TOLD_AT_ONCE), stopping, answers, http1 })))
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
        prepare(&stream, inner.settings.timeouts.reader);
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
        let edge = &self.0.edge;
        let counted = peer.filter(|peer| !edge.addresses.proxies.trusts(*peer));
        edge.connections.take(counted)
    }

    /// Under TLS the connection is only closed: a handshake is the costly part.
    async fn turn_away(&self, stream: TcpStream, peer: Option<SocketAddr>, why: Reason) {
        let inner = &self.0;
        inner.edge.refusals.note(why, peer.map(|peer| peer.ip()), "a connection");
        if inner.settings.tls.is_none() {
            Box::pin(full::turn_away(stream, full::too_many(), &inner.edge.table)).await;
        }
    }

    async fn serve_http1(&self, wire: Wire, ends: Ends) {
        let Inner { settings, edge, .. } = &*self.0;
        let Ends { peer, reached } = ends;
        let terms = Terms {
            header_timeout: settings.timeouts.header,
            keep_alive: settings.timeouts.keep_alive,
            peer: peer.map(|peer| peer.ip()),
            refusals: edge.refusals.clone(),
        };
        let spoken = Spoken::new(wire, terms, self.readers(), settings.read_ahead.clone()).at(reached);
        if let Err(error) = self.0.http1.call((spoken, peer)).await {
            tracing::debug!(error = %error, "a connection ended badly");
        }
    }

    fn readers(&self) -> Readers {
        let settings = &self.0.settings;
        Readers { download: settings.timeouts.reader, answer: settings.timeouts.answer }
    }

    async fn serve_http2(&self, wire: Wire, ends: Ends) {
        let Inner { settings, stopping, answers, .. } = &*self.0;
        let waits =
            Waits { head: settings.timeouts.header, idle: settings.timeouts.keep_alive, readers: self.readers() };
        let served = http2::serve(wire, ends, answers, &settings.http2, waits, stopping.notified());
        if let Err(error) = served.await {
            tracing::debug!(error = %error, "a connection ended badly");
        }
    }
}

/// The application, once for each thread.
///
/// What it knows of itself is left at its default: links are paths or begin with `public_url`, so nobody asks
/// an app for its scheme or host.
async fn answers(edge: web::Data<Edge>, role: Role) -> Result<Answers, ()> {
    let service = fn_service(move |request: ServiceRequest| {
        let edge = edge.clone();
        async move { Ok(around::serve(&edge, role, request).await) }
    });
    let app = map_config(App::new().default_service(service).into_factory(), |()| AppConfig::default());
    Ok(boxed::rc_service(app.new_service(()).await?))
}

/// Small answers go out at once, and a connection ends whose peer takes nothing for that long, be it gone or
/// just not reading.
fn prepare(stream: &TcpStream, reader_timeout: Duration) {
    let timeout_ms = u32::try_from(reader_timeout.as_millis()).unwrap_or(u32::MAX);
    let limited = rustix::net::sockopt::set_tcp_user_timeout(stream, timeout_ms).map_err(Into::into);
    if let Err(error) = stream.set_nodelay(true).and(limited) {
        tracing::debug!(error = %error, "could not set up a connection");
    }
}
