//! The listener for the calls of other nodes.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::answers::answer;
use super::pinned_keys::OTHER_KEY;
use super::{LinkSettings, PeerIdentity};
use engine::Engine;

/// Maximum size of the head of a request, and the number of bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Time between two attempts to accept a connection after one has failed, for example because no file
/// descriptor is left.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A bound address for the calls of other nodes.
#[derive(Debug)]
pub struct PeerListener {
    socket: StdTcpListener,
    address: SocketAddr,
    identity: PeerIdentity,
    settings: LinkSettings,
}

/// The parts that all connections share.
struct Accepted {
    tls: TlsAcceptor,
    engine: Engine,
    settings: LinkSettings,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
}

impl PeerListener {
    /// Binds an address. Connections wait until [`Self::serve`] accepts them.
    pub fn bind(address: SocketAddr, identity: &PeerIdentity, settings: LinkSettings) -> io::Result<Self> {
        let socket = StdTcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, identity: identity.clone(), settings })
    }

    /// Returns the bound address, with the port that the system has chosen if none was named.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers calls until `stop`, and then those that have begun.
    pub async fn serve(self, engine: Engine, stop: CancellationToken) {
        let socket = match TcpListener::from_std(self.socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "could not listen for other nodes");
                return;
            }
        };
        let accepted = Arc::new(Accepted {
            tls: TlsAcceptor::from(Arc::clone(&self.identity.accepting)),
            engine,
            handshakes: Arc::new(Semaphore::new(self.settings.max_handshakes)),
            connections: Arc::new(Semaphore::new(self.settings.max_connections)),
            settings: self.settings,
            stop,
        });
        let mut serving = JoinSet::new();
        while let Some(stream) = accepted.next(&socket, &mut serving).await {
            let Ok(handshake) = Arc::clone(&accepted.handshakes).acquire_owned().await else { break };
            let accepted = Arc::clone(&accepted);
            serving.spawn(async move {
                let established = accepted.establish(stream).await;
                drop(handshake);
                if let Some(stream) = established {
                    accepted.serve(stream).await;
                }
            });
        }
        drop(socket);
        let finishing = async { while serving.join_next().await.is_some() {} };
        if tokio::time::timeout(accepted.settings.stop_timeout, finishing).await.is_err() {
            tracing::warn!("calls of other nodes were still in progress when this node stopped");
        }
    }
}

impl Accepted {
    /// Waits for a connection. `None` once the listener is to stop.
    async fn next(&self, socket: &TcpListener, serving: &mut JoinSet<()>) -> Option<TcpStream> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                Some(_) = serving.join_next() => continue,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => return Some(stream),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn Error, "could not accept a connection from another node");
                    tokio::select! {
                        () = self.stop.cancelled() => return None,
                        () = tokio::time::sleep(ACCEPT_AGAIN_AFTER) => {}
                    }
                }
            }
        }
    }

    /// Checks that the peer is a node of this cluster.
    async fn establish(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let peer = stream.peer_addr().ok()?;
        // Calls are small and wait for each other.
        stream.set_nodelay(true).ok()?;
        let shaken = tokio::select! {
            () = self.stop.cancelled() => return None,
            shaken = tokio::time::timeout(self.settings.handshake_timeout, self.tls.accept(stream)) => shaken,
        };
        match shaken {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) if is_other_key(&error) => {
                tracing::warn!(%peer, "rejected a node with another server key or cluster name");
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn Error, "a connection is not from another node");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "a connection has not finished its handshake in time");
                None
            }
        }
    }

    async fn serve(&self, stream: TlsStream<TcpStream>) {
        let Ok(_place) = self.connections.try_acquire() else {
            tracing::warn!("too many connections from other nodes; closed one");
            return;
        };
        let engine = &self.engine;
        let body_timeout = self.settings.handshake_timeout;
        let service = service_fn(move |request| {
            let engine = engine.clone();
            async move { Ok::<_, Infallible>(answer(engine, request, body_timeout).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.settings.idle_timeout)
            .max_buf_size(READ_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = &error as &dyn Error, "a connection from another node ended early");
        }
    }
}

fn is_other_key(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    cause == Some(&OTHER_KEY)
}
