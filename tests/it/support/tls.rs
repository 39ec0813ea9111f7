//! Certificates, and clients that trust them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use edge::listen::certificates::CertificateFiles;
use longshore::config::Config;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A self-signed certificate for 127.0.0.1.
pub struct Certificate {
    pub pem: String,
    pub key_pem: String,
    pub der: CertificateDer<'static>,
}

impl Certificate {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        Self { pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    }

    /// Writes both files into a folder.
    pub fn write(&self, folder: &Path) -> CertificateFiles {
        let files =
            CertificateFiles { certificate: folder.join("certificate.pem"), private_key: folder.join("key.pem") };
        fs::write(&files.certificate, &self.pem).unwrap();
        fs::write(&files.private_key, &self.key_pem).unwrap();
        files
    }

    /// Configures a server to use it.
    pub fn configure(&self, config: &mut Config) {
        let folder = config.server.data_dir.parent().unwrap();
        config.tls.files = Some(self.write(folder));
    }

    /// Returns a client that trusts only this certificate, and offers these protocols.
    pub fn connector(&self, alpn: &[&str]) -> TlsConnector {
        self.connector_of(rustls::ALL_VERSIONS, alpn)
    }

    pub fn connector_of(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

/// Returns an address with this certificate that leads to a server without TLS.
pub async fn wrapped(certificate: &Certificate, server: SocketAddr) -> SocketAddr {
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((encrypted, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut encrypted = acceptor.accept(encrypted).await.expect("the client trusts it");
                let mut plain = TcpStream::connect(server).await.expect("the server listens");
                // Either side may end the connection in any way.
                let _ = tokio::io::copy_bidirectional(&mut encrypted, &mut plain).await;
            });
        }
    });
    address
}

/// Connects. Returns an error if the two sides do not agree.
pub async fn connect(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    connector.connect(address.ip().into(), stream).await
}

/// Returns a plain address that leads to a server's TLS, for clients without TLS.
pub async fn unwrapped(connector: TlsConnector, server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                let mut encrypted = connect(&connector, server).await.expect("the server is trusted");
                // Either side may end the connection in any way.
                let _ = tokio::io::copy_bidirectional(&mut plain, &mut encrypted).await;
            });
        }
    });
    address
}
