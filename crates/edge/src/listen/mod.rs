//! How connections come in: listening, who gets a place, and what speaks with whom.
//!
//! Owns every socket from its acceptance to its end. Promises that no peer holds one for nothing: each wait
//! for a peer has a limit, and so has the number of connections. Connections are accepted by actix-server and
//! handed to this module's own service instead of actix-web's `HttpServer`, which offers no place for any of
//! that. It knows nothing of what is asked and answered on a connection.

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

/// How many connections wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;

/// How many connections beyond the limit may be open just to be told so. More wait in the kernel.
pub const MAX_SHED_AT_ONCE: usize = 128;

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    All,
    /// Everything that changes nothing.
    Reading,
}

/// How long a peer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the head of a request, from its first byte.
    pub header: Duration,
    /// How long a connection may wait for its next request.
    pub keep_alive: Duration,
    /// How long a peer may take nothing of a download.
    pub reader: Duration,
    /// How long a peer may take nothing of any other answer.
    pub answer: Duration,
}

/// How one listener behaves.
#[derive(Clone)]
pub struct ListenerSettings {
    /// Port 0 asks for a free one.
    pub address: SocketAddr,
    pub role: ListenerRole,
    /// Threads that serve connections.
    pub workers: usize,
    pub max_connections: usize,
    pub timeouts: Timeouts,
    pub shutdown_timeout: Duration,
    /// `None`: connections are plain, and speak HTTP/1.1.
    pub tls: Option<Tls>,
    pub http2: http2::Http2Settings,
    /// Memory for reading ahead, of all listeners together.
    pub read_ahead: ReadAhead,
    /// Run by each worker thread before it serves anything.
    pub on_thread_start: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for ListenerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerSettings").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Takes the address. The server given serves once it is polled.
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

/// What a worker thread begins with, and then does with every connection it is given.
async fn serve_on_this_thread(
    (settings, edge, slots, stopping): Worker,
) -> Result<impl Service<TcpStream, Response = (), Error = ()>, ()> {
    (settings.on_thread_start)();
    let connections = Connections::new(settings, edge, slots, stopping).await?;
    Ok(fn_service(move |stream: TcpStream| {
        let connections = connections.clone();
        async move {
            // Boxed, or the service would make room for it twice.
            Box::pin(connections.serve(stream)).await;
            Ok(())
        }
    }))
}
