//! The TLS provider of all outbound clients.

/// Installs the TLS provider. reqwest is built without one and uses that of the process. The first
/// installation wins, and any provider will do.
pub fn install_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
