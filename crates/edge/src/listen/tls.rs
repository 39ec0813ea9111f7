//! Encryption, and agreeing on what is spoken within it.
//!
//! HTTP/2 lets a peer send ahead, so how many connections speak it is bounded. When no place is left for one
//! more, it is offered HTTP/1.1 alone. That has to be known before the handshake, so the client's greeting is
//! read first.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::listen::ahead::Ahead;
use crate::listen::certificates::Certificates;
use crate::listen::places::{Place, Places};

const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// How connections are encrypted. Clones share everything.
#[derive(Clone)]
pub struct Tls {
    with_http2: Arc<ServerConfig>,
    without_http2: Arc<ServerConfig>,
    places: Places,
    handshake_timeout: Duration,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("places", &self.places).finish_non_exhaustive()
    }
}

/// What a client and the server agreed to speak.
#[derive(Debug)]
pub(super) enum Agreed {
    Http1(Box<TlsStream<Ahead>>),
    /// For as long as the place is held.
    Http2(Box<TlsStream<Ahead>>, Place),
}

impl Tls {
    /// At most `http2_connections` speak HTTP/2 at once.
    pub fn new(
        certificates: Arc<Certificates>,
        handshake_timeout: Duration,
        http2_connections: usize,
    ) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        // A client that comes back, as one that resumes does, is spared the costly half of the handshake.
        config.ticketer = ring::Ticketer::new()?;
        config.alpn_protocols = vec![HTTP_1.to_vec()];
        let without_http2 = Arc::new(config.clone());
        config.alpn_protocols.insert(0, HTTP_2.to_vec());
        let with_http2 = Arc::new(config);
        Ok(Self { with_http2, without_http2, places: Places::new(http2_connections), handshake_timeout })
    }

    /// Encrypts a connection, in bounded time.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<Agreed> {
        tokio::time::timeout(self.handshake_timeout, self.shake_hands(stream)).await?
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<Agreed> {
        let greeted = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), Ahead::new(stream)).await?;
        let wants_http2 = greeted.client_hello().alpn().is_some_and(|mut offered| offered.any(|name| name == HTTP_2));
        let place = if wants_http2 { self.places.take() } else { None };
        let config = if place.is_some() { &self.with_http2 } else { &self.without_http2 };
        let stream = Box::new(greeted.into_stream(Arc::clone(config)).await?);
        let agreed = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
        Ok(match place.filter(|_| agreed) {
            Some(place) => Agreed::Http2(stream, place),
            None => Agreed::Http1(stream),
        })
    }
}
