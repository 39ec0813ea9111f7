//! Connections: listening, limits on their number, TLS and the HTTP versions.
//!
//! Owns every socket from its acceptance to its end. Promises that no peer holds a connection indefinitely:
//! each wait for a peer has a limit, and so does the number of connections. actix-server accepts connections
//! and passes them to the service of this module, instead of actix-web's `HttpServer`, which supports none of
//! this. It knows nothing of the content of requests and responses.

mod buffered;
pub mod certificates;
mod connection;
mod connection_slots;
pub(crate) mod deadline;
pub(crate) mod exchange;
mod framing;
mod heads;
mod http1;
pub mod http2;
pub(crate) mod inflow;
pub(crate) mod interim;
mod outflow;
mod shedding;
pub mod tls;
pub mod window;
mod wire;
mod write_queue;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{Service, fn_factory, fn_service};
use actix_web::web;
use tokio::net::{TcpSocket, TcpStream};

use crate::Edge;

use connection::Connections;
use connection_slots::ConnectionSlots;
pub use inflow::ReadAhead;
use tls::Tls;

/// The number of connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;

/// The number of connections over the limit that may be open at a time to receive a rejection. Further ones
/// wait in the kernel.
pub const MAX_SHED_AT_ONCE: usize = 128;

/// The requests that a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    All,
    /// Only requests that change nothing.
    Reading,
    /// Only requests that change nothing, at a node of a cluster that has no other listener. All others are
    /// to be repeated, because the load balancer then sends them to another node.
    ReadNode,
}

/// The times to wait for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the head of a request, from its first byte.
    pub header: Duration,
    /// For the next request of an idle connection.
    pub keep_alive: Duration,
    /// For a peer that reads nothing of a download.
    pub reader: Duration,
    /// For a peer that reads nothing of any other response.
    pub answer: Duration,
}

/// The settings of one listener.
#[derive(Clone)]
pub struct ListenerSettings {
    /// Port 0 selects a free port.
    pub address: SocketAddr,
    pub role: ListenerRole,
    /// The number of threads that serve connections.
    pub workers: usize,
    pub max_connections: usize,
    pub timeouts: Timeouts,
    pub shutdown_timeout: Duration,
    /// `None`: connections are not encrypted, and use HTTP/1.1.
    pub tls: Option<Tls>,
    pub http2: http2::Http2Settings,
    /// Memory for reading ahead, shared by all listeners.
    pub read_ahead: ReadAhead,
    /// Called by each worker thread before it serves connections.
    pub on_thread_start: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for ListenerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerSettings").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Binds the address. The returned server serves connections once it is polled.
pub fn listen(settings: ListenerSettings, edge: web::Data<Edge>) -> io::Result<(Server, SocketAddr)> {
    let socket = if settings.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(settings.address)?;
    let listener = socket.listen(BACKLOG)?.into_std()?;
    let address = listener.local_addr()?;

    let workers = settings.workers.max(1);
    let at_once = settings.max_connections.saturating_add(MAX_SHED_AT_ONCE).div_ceil(workers);
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(at_once)
        .shutdown_timeout(settings.shutdown_timeout.as_secs())
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    edge.metrics.add_routes(edge.table.labels());
    let slots = ConnectionSlots::counted(settings.max_connections, edge.metrics.connections(settings.role));
    let service = move || {
        let worker = (settings.clone(), edge.clone(), slots.clone(), stopping.clone());
        fn_factory(move || serve_on_this_thread(worker.clone()))
    };
    let server = builder.listen("longshore", listener, service)?.run();
    Ok((server, address))
}

type Worker = (ListenerSettings, web::Data<Edge>, ConnectionSlots, GracefulShutdownSignal);

/// Starts a worker thread, and returns the service that it calls with each connection.
async fn serve_on_this_thread(
    (settings, edge, slots, stopping): Worker,
) -> Result<impl Service<TcpStream, Response = (), Error = ()>, ()> {
    (settings.on_thread_start)();
    let connections = Connections::new(settings, edge, slots, stopping).await?;
    Ok(fn_service(move |stream: TcpStream| {
        let connections = connections.clone();
        async move {
            // Boxed, because the service would otherwise reserve its memory twice.
            Box::pin(connections.serve(stream)).await;
            Ok(())
        }
    }))
}
