//! The certificate of a node: derived from the server key and the name of the cluster, so that nodes know
//! each other without a certificate authority.

use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::pinned_keys::PinnedKeys;
use keyring::ServerKeys;

/// The subject of the certificates. No side reads it.
const SUBJECT: &str = "longshore-node";

/// The bytes before the 32 of a private key in PKCS#8 (RFC 8410, section 7).
const ED25519_HEADER: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// The configurations of TLS for both directions. All nodes of a cluster have the same key pair, derived from
/// the newest server key, and accept those derived from older ones.
#[derive(Clone)]
pub struct PeerIdentity {
    pub(super) accepting: Arc<ServerConfig>,
    pub(super) calling: ClientConfig,
}

/// The certificate of a node could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("could not make a certificate from the server key")]
    Certificate(#[from] rcgen::Error),
    #[error("could not set up TLS between nodes")]
    Tls(#[from] rustls::Error),
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity").finish_non_exhaustive()
    }
}

impl PeerIdentity {
    /// Derives the identity that the nodes of a cluster share.
    pub fn derive(keys: &ServerKeys, cluster_name: &str) -> Result<Self, IdentityError> {
        let derived = keys.derive(&format!("longshore.peer-link.v1:{cluster_name}"));
        let private_keys: Vec<_> = derived.iter().map(|key| ed25519(key.bytes())).collect();
        let pairs: Vec<KeyPair> = private_keys.iter().map(KeyPair::try_from).collect::<Result<_, _>>()?;
        let provider = Arc::new(ring::default_provider());
        let accepted = pairs.iter().map(KeyPair::subject_public_key_info).collect();
        let pinned = Arc::new(PinnedKeys::new(accepted, provider.signature_verification_algorithms));
        let newest = OwnCertificate {
            certificate: CertificateParams::new([SUBJECT.to_owned()])?.self_signed(&pairs[0])?.into(),
            private_key: ed25519(derived.newest().bytes()).into(),
        };
        Ok(Self {
            accepting: Arc::new(newest.accepting(Arc::clone(&provider), Arc::clone(&pinned))?),
            calling: newest.calling(provider, pinned)?,
        })
    }
}

struct OwnCertificate {
    certificate: CertificateDer<'static>,
    private_key: PrivateKeyDer<'static>,
}

impl OwnCertificate {
    fn accepting(&self, provider: Arc<CryptoProvider>, peers: Arc<PinnedKeys>) -> Result<ServerConfig, rustls::Error> {
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(peers)
            .with_single_cert(vec![self.certificate.clone()], self.private_key.clone_key())
    }

    fn calling(&self, provider: Arc<CryptoProvider>, peers: Arc<PinnedKeys>) -> Result<ClientConfig, rustls::Error> {
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(peers)
            .with_client_auth_cert(vec![self.certificate.clone()], self.private_key.clone_key())
    }
}

fn ed25519(seed: &[u8; 32]) -> PrivatePkcs8KeyDer<'static> {
    [&ED25519_HEADER[..], seed].concat().into()
}
