//! TLS, and the negotiation of the HTTP version.
//!
//! HTTP/2 lets a peer send ahead, so the number of connections that use it is limited. When no slot is free,
//! a client is offered only HTTP/1.1. This must be known before the handshake, so the ClientHello is read
//! first.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::listen::buffered::BufferedStream;
use crate::listen::certificates::Certificates;
use crate::listen::connection_slots::{ConnectionSlot, ConnectionSlots};

const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// The TLS configuration. Clones share everything.
#[derive(Clone)]
pub struct Tls {
    with_http2: Arc<ServerConfig>,
    without_http2: Arc<ServerConfig>,
    slots: ConnectionSlots,
    handshake_timeout: Duration,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// The negotiated HTTP version, with the encrypted stream.
#[derive(Debug)]
pub(super) enum Negotiated {
    Http1(Box<TlsStream<BufferedStream>>),
    /// Holds its slot for as long as the connection lives.
    Http2(Box<TlsStream<BufferedStream>>, ConnectionSlot),
}

impl Tls {
    /// Creates the configuration. At most `http2_connections` connections use HTTP/2 at a time.
    pub fn new(
        certificates: Arc<Certificates>,
        handshake_timeout: Duration,
        http2_connections: usize,
    ) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        // A returning client, such as one that resumes an upload, skips the expensive half of the handshake.
        config.ticketer = ring::Ticketer::new()?;
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        let without_http2 = Arc::new(config.clone());
        config.alpn_protocols.insert(0, HTTP_2.to_vec());
        let with_http2 = Arc::new(config);
        Ok(Self { with_http2, without_http2, slots: ConnectionSlots::new(http2_connections), handshake_timeout })
    }

    /// Encrypts a connection, within the handshake timeout.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Negotiated> {
        tokio::time::timeout(self.handshake_timeout, self.handshake(stream)).await?
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<Negotiated> {
        let greeted = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), BufferedStream::new(stream)).await?;
        let wants_http2 = greeted.client_hello().alpn().is_some_and(|mut offered| offered.any(|name| name == HTTP_2));
        let slot = if wants_http2 { self.slots.take() } else { None };
        let config = if slot.is_some() { &self.with_http2 } else { &self.without_http2 };
        let stream = Box::new(greeted.into_stream(Arc::clone(config)).await?);
        let negotiated = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
        Ok(match slot.filter(|_| negotiated) {
            Some(slot) => Negotiated::Http2(stream, slot),
            None => Negotiated::Http1(stream),
        })
    }
}
