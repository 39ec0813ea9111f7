//! The certificate of one run, and a client that trusts only this certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    plain: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
}

impl Certificate {
    /// Writes a self-signed certificate for `localhost` and its key into the folder.
    pub(crate) fn make(folder: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        fs::write(&certificate, made.cert.pem()).context("could not write the certificate")?;
        fs::write(&key, made.signing_key.serialize_pem()).context("could not write the key")?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        Ok(Self { certificate, key, plain: trusting(&roots, &[b"http/1.1"])?, h2: trusting(&roots, &[b"h2"])? })
    }

    /// Returns a client for HTTP/1.1 over TLS 1.3.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.plain)
    }

    /// Returns a client for HTTP/2 over TLS 1.3.
    pub(crate) fn h2_client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.h2)
    }
}

fn trusting(roots: &RootCertStore, protocols: &[&[u8]]) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}
