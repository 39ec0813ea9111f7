//! Encryption of connections, and the certificate.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::units::{hours, minutes, secs};
use edge::listen::certificates::CertificateFiles;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// `None` for unencrypted connections. The contents of the files are checked when they are read: at the
    /// start, and again while the server runs.
    pub files: Option<CertificateFiles>,
    pub handshake_timeout: Duration,
    pub reload_every: Duration,
}

impl TlsConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        let certificate = read_certificate_file(from);
        let private_key = from.text("tls.private_key_file", |path| Ok(optional(path)));
        from.require(
            certificate.is_some() == private_key.is_some(),
            &["tls.certificate_file", "tls.private_key_file"],
            |others| format!("set both files or neither; the other is {}", others.join(", ")),
        );
        Self {
            files: certificate
                .zip(private_key)
                .map(|(certificate, private_key)| CertificateFiles { certificate, private_key }),
            handshake_timeout: from.duration("tls.handshake_timeout", secs(1)..=minutes(5)),
            reload_every: from.duration("tls.reload_every", secs(1)..=hours(24)),
        }
    }
}

pub(super) fn read_certificate_file(from: &mut Reader) -> Option<PathBuf> {
    from.text("tls.certificate_file", |path| Ok(optional(path)))
}

fn optional(path: &str) -> Option<PathBuf> {
    (!path.is_empty()).then(|| path.into())
}
