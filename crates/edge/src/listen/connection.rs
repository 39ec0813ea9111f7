//! One connection, from its acceptance to its end.

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

use crate::address_limits::{AddressSlot, LimitReached};
use crate::addresses::LocalAddress;
use crate::listen::connection_slots::ConnectionSlots;
use crate::listen::framing::FramingSettings;
use crate::listen::http1::{Http1, Http1Stream, http1};
use crate::listen::http2::Http2Timeouts;
use crate::listen::outflow::ReaderTimeouts;
use crate::listen::tls::Negotiated;
use crate::listen::wire::Wire;
use crate::listen::{ListenerRole, ListenerSettings, http2, shedding};
use crate::refusals::Reason;
use crate::{Edge, middleware};

/// The time that a closing connection has to receive what was sent.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of connections over the limit of their address that each thread answers at a time.
const MAX_SHED_PER_THREAD: usize = 16;

/// The service that answers requests.
pub(super) type AppService = RcService<Request, ServiceResponse<BoxBody>, actix_web::Error>;

/// The addresses of both ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionAddresses {
    pub(super) peer: Option<SocketAddr>,
    /// The local address.
    pub(super) local_address: Option<LocalAddress>,
}

impl ConnectionAddresses {
    fn of(stream: &TcpStream) -> Self {
        Self { peer: stream.peer_addr().ok(), local_address: stream.local_addr().ok().map(LocalAddress) }
    }
}

/// The state that the connections of one worker thread share.
#[derive(Clone)]
pub(super) struct Connections(Rc<Inner>);

struct Inner {
    settings: ListenerSettings,
    edge: web::Data<Edge>,
    slots: ConnectionSlots,
    /// Slots for connections that receive a response saying that the limit of their address is reached.
    /// Without a slot, a connection is closed without a response.
    shed_slots: ConnectionSlots,
    stopping: GracefulShutdownSignal,
    answers: AppService,
    http1: Http1<Wire>,
}

impl Connections {
    pub(super) async fn new(
        settings: ListenerSettings,
        edge: web::Data<Edge>,
        slots: ConnectionSlots,
        stopping: GracefulShutdownSignal,
    ) -> Result<Self, ()> {
        let answers = answers(edge.clone(), settings.role).await?;
        let http1 = http1(Rc::clone(&answers), stopping.clone()).await?;
        Ok(Self(Rc::new(Inner {
            settings,
            edge,
            slots,
            shed_slots: ConnectionSlots::new(MAX_SHED_PER_THREAD),
            stopping,
            answers,
            http1,
        })))
    }

    /// Serves a connection until it ends, or sheds it.
    ///
    /// Futures that not every connection needs are boxed, to keep this one small: ten thousand connections
    /// may be waiting.
    pub(super) async fn serve(&self, stream: TcpStream) {
        let inner = &self.0;
        let addresses = ConnectionAddresses::of(&stream);
        let peer = addresses.peer;
        let Some(slot) = inner.slots.take() else {
            return self.shed(stream, peer, Reason::Full).await;
        };
        let Ok(_part) = self.take_slot(peer.map(|peer| peer.ip())) else {
            drop(slot);
            let Some(_slot) = inner.shed_slots.take() else { return };
            return self.shed(stream, peer, Reason::Connections).await;
        };
        let _slot = slot;
        prepare(&stream, inner.settings.timeouts.reader);
        let Some(tls) = &inner.settings.tls else {
            return self.serve_http1(Wire::Plain(stream), addresses).await;
        };
        let agreed = tokio::select! {
            agreed = Box::pin(tls.accept(stream)) => agreed,
            () = inner.stopping.notified() => return,
        };
        match agreed {
            Ok(Negotiated::Http1(stream)) => self.serve_http1(Wire::Tls(stream), addresses).await,
            Ok(Negotiated::Http2(stream, _slot)) => Box::pin(self.serve_http2(Wire::Tls(stream), addresses)).await,
            Err(error) => tracing::debug!(error = %error, "a TLS handshake failed"),
        }
    }

    /// A trusted proxy carries the connections of many clients; limits apply to their requests instead.
    fn take_slot(&self, peer: Option<IpAddr>) -> Result<AddressSlot, LimitReached> {
        let edge = &self.0.edge;
        let counted = peer.filter(|peer| !edge.addresses.proxies.trusts(*peer));
        edge.connections.take(counted)
    }

    /// Under TLS the connection is closed without a response, because the handshake is the expensive part.
    async fn shed(&self, stream: TcpStream, peer: Option<SocketAddr>, why: Reason) {
        let inner = &self.0;
        inner.edge.refusals.note(why, peer.map(|peer| peer.ip()), "a connection");
        if inner.settings.tls.is_none() {
            Box::pin(shedding::shed(stream, shedding::too_many_connections(), &inner.edge.table)).await;
        }
    }

    async fn serve_http1(&self, wire: Wire, addresses: ConnectionAddresses) {
        let Inner { settings, edge, .. } = &*self.0;
        let ConnectionAddresses { peer, local_address } = addresses;
        let framing = FramingSettings {
            header_timeout: settings.timeouts.header,
            keep_alive: settings.timeouts.keep_alive,
            peer: peer.map(|peer| peer.ip()),
            refusals: edge.refusals.clone(),
        };
        let spoken = Http1Stream::new(wire, framing, self.readers(), settings.read_ahead.clone()).at(local_address);
        if let Err(error) = self.0.http1.call((spoken, peer)).await {
            tracing::debug!(error = %error, "a connection ended with an error");
        }
    }

    fn readers(&self) -> ReaderTimeouts {
        let settings = &self.0.settings;
        ReaderTimeouts { download: settings.timeouts.reader, answer: settings.timeouts.answer }
    }

    async fn serve_http2(&self, wire: Wire, addresses: ConnectionAddresses) {
        let Inner { settings, stopping, answers, .. } = &*self.0;
        let waits = Http2Timeouts {
            head: settings.timeouts.header,
            idle: settings.timeouts.keep_alive,
            readers: self.readers(),
        };
        let served = http2::serve(wire, addresses, answers, &settings.http2, waits, stopping.notified());
        if let Err(error) = served.await {
            tracing::debug!(error = %error, "a connection ended with an error");
        }
    }
}

/// Creates the application, once for each thread.
///
/// The `AppConfig` keeps its defaults. Links are paths or begin with `public_url`, so nothing reads the
/// scheme or host of the application.
async fn answers(edge: web::Data<Edge>, role: ListenerRole) -> Result<AppService, ()> {
    let service = fn_service(move |request: ServiceRequest| {
        let edge = edge.clone();
        async move { Ok(middleware::serve(&edge, role, request).await) }
    });
    let app = map_config(App::new().default_service(service).into_factory(), |()| AppConfig::default());
    Ok(boxed::rc_service(app.new_service(()).await?))
}

/// Sends small responses without delay, and ends a connection whose peer accepts nothing for this time,
/// whether the peer is gone or does not read.
fn prepare(stream: &TcpStream, reader_timeout: Duration) {
    let timeout_ms = u32::try_from(reader_timeout.as_millis()).unwrap_or(u32::MAX);
    let limited = rustix::net::sockopt::set_tcp_user_timeout(stream, timeout_ms).map_err(Into::into);
    if let Err(error) = stream.set_nodelay(true).and(limited) {
        tracing::debug!(error = %error, "could not set up a connection");
    }
}
