//! The certificate in use, which is reloaded when its files change.
//!
//! Promises that a usable certificate is always available: new files replace it only if they match each
//! other.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::mpsc;

/// The paths of the certificate and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

/// The reason why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// An error in the certificate file.
    #[error(transparent)]
    Certificate(CertificateFileError),
    /// An error in the private key file.
    #[error(transparent)]
    PrivateKey(CertificateFileError),
}

/// The reason why one of the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    #[error("could not read the file: {0}")]
    Unreadable(#[from] io::Error),
    #[error("the file contains no PEM certificate")]
    NoCertificate,
    #[error("the file contains no PEM private key")]
    NoPrivateKey,
    #[error("the file is not valid PEM: {0}")]
    NotPem(pem::Error),
    #[error("the certificate is invalid: {0}")]
    BadCertificate(rustls::Error),
    #[error("the key is invalid: {0}")]
    BadKey(rustls::Error),
    #[error("the private key does not match the certificate")]
    DoesNotFit,
}

/// The certificate in use.
#[derive(Debug)]
pub struct Certificates {
    files: CertificateFiles,
    current: RwLock<Arc<CertifiedKey>>,
}

/// The content of the files, byte for byte.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    certificate: Vec<u8>,
    private_key: Vec<u8>,
}

impl Certificates {
    pub fn load(files: CertificateFiles) -> Result<Self, CertificateError> {
        let current = Content::read(&files)?.parse()?;
        Ok(Self { files, current: RwLock::new(Arc::new(current)) })
    }

    /// Reloads the files when they change: checks them at each interval of `every`, and at each message.
    /// Returns when the sender of the messages is dropped.
    pub async fn reload_on_change(self: Arc<Self>, every: Duration, mut reload: mpsc::Receiver<()>) {
        let mut known = None;
        loop {
            // The first pass always loads the files; later ones do so only if the content has changed.
            let found = self.reload(known).await;
            known = Some(found);
            if let Ok(None) = tokio::time::timeout(every, reload.recv()).await {
                return;
            }
        }
    }

    /// Reads the files, and loads their content if it differs from `known`.
    async fn reload(self: &Arc<Self>, known: Option<Result<Content, String>>) -> Result<Content, String> {
        let this = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || Content::read(&this.files)).await;
        let found = read.expect("reading files does not panic").map_err(|error| error.to_string());
        if known.as_ref() == Some(&found) {
            return found;
        }
        let taken =
            found.as_ref().map_err(Clone::clone).and_then(|content| content.parse().map_err(|error| error.to_string()));
        match taken {
            Ok(new) => self.take(new),
            Err(reason) => tracing::warn!(
                certificate = %self.files.certificate.display(),
                private_key = %self.files.private_key.display(),
                error = reason,
                "the new certificate is invalid; the old one stays in use"
            ),
        }
        found
    }

    fn take(&self, new: CertifiedKey) {
        let mut current = self.current.write().expect("no thread panics while it holds the lock");
        if current.cert != new.cert {
            tracing::info!(certificate = %self.files.certificate.display(), "loaded a new certificate");
        }
        *current = Arc::new(new);
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().expect("no thread panics while it holds the lock")))
    }
}

impl Content {
    fn read(files: &CertificateFiles) -> Result<Self, CertificateError> {
        let read = |path: &Path| std::fs::read(path).map_err(CertificateFileError::Unreadable);
        Ok(Self {
            certificate: read(&files.certificate).map_err(CertificateError::Certificate)?,
            private_key: read(&files.private_key).map_err(CertificateError::PrivateKey)?,
        })
    }

    fn parse(&self) -> Result<CertifiedKey, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| CertificateError::Certificate(CertificateFileError::NotPem(error)))?;
        if chain.is_empty() {
            return Err(CertificateError::Certificate(CertificateFileError::NoCertificate));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.private_key).map_err(|error| match error {
            pem::Error::NoItemsFound => CertificateFileError::NoPrivateKey,
            error => CertificateFileError::NotPem(error),
        });
        let key = key.map_err(CertificateError::PrivateKey)?;
        let key = ring::sign::any_supported_type(&key)
            .map_err(|error| CertificateError::PrivateKey(CertificateFileError::BadKey(error)))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // A key that cannot show its public half cannot be compared. The first handshake will show
            // whether it matches.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(CertificateError::PrivateKey(CertificateFileError::DoesNotFit))
            }
            Err(error) => Err(CertificateError::Certificate(CertificateFileError::BadCertificate(error))),
        }
    }
}
