//! The TLS provider of every client that calls out.

/// reqwest is built without a TLS provider and takes the one of the process. Whoever is
/// first to install one wins, and any will do.
pub fn install_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error says that another thread was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
