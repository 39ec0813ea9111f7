//! Standard Webhooks signatures, version `v1`: HMAC-SHA256 under a shared secret.
//!
//! Owns the form of a secret and of the signed text. A secret does not appear in debug output, and no error
//! repeats it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";
const ALLOWED_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The shared secret that signs an endpoint's messages.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret(Vec<u8>);

/// Reason why a text is not a secret. States the allowed form and repeats nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    #[error("a webhook secret must begin with `whsec_`")]
    Prefix,
    #[error("a webhook secret is `whsec_` followed by standard base64 with padding (not the URL-safe alphabet)")]
    Encoding,
    #[error("a webhook secret has 24 to 64 bytes before encoding, not {0}")]
    Length(usize),
}

impl FromStr for SharedSecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidSecret::Encoding)?;
        if !ALLOWED_BYTES.contains(&bytes.len()) {
            return Err(InvalidSecret::Length(bytes.len()));
        }
        Ok(Self(bytes))
    }
}

impl SharedSecret {
    /// Generates a random secret.
    pub fn generate() -> Self {
        Self(rand::random::<[u8; 32]>().to_vec())
    }

    /// Returns the secret in the form that receivers use. The caller must not disclose it to others.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Returns the signature of one message: `v1,` and the base64 of the HMAC over `id.timestamp.body`.
pub fn sign(secret: &SharedSecret, id: &str, unix_seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{unix_seconds}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn secret_of(byte: u8, count: usize) -> String {
        format!("whsec_{}", STANDARD.encode(vec![byte; count]))
    }

    /// The published test vector (webhooks H5).
    #[test]
    fn the_known_vector_gives_the_known_signature() {
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = sign(&KNOWN.parse().unwrap(), "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body);
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    /// webhooks H7.
    #[test]
    fn only_the_published_form_is_a_secret() {
        for count in [24, 32, 64] {
            assert!(secret_of(9, count).parse::<SharedSecret>().is_ok(), "{count} bytes");
        }
        for count in [0, 23, 65] {
            assert_eq!(secret_of(9, count).parse::<SharedSecret>(), Err(InvalidSecret::Length(count)));
        }
        assert_eq!("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse::<SharedSecret>(), Err(InvalidSecret::Prefix));
        let url_safe = secret_of(0xfb, 24).replace('+', "-").replace('/', "_");
        let unpadded = secret_of(9, 25).trim_end_matches('=').to_owned();
        let spaced = format!("{KNOWN} ");
        for wrong in [url_safe, unpadded, spaced] {
            assert_eq!(wrong.parse::<SharedSecret>(), Err(InvalidSecret::Encoding), "{wrong}");
        }
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret: SharedSecret = KNOWN.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
        let error = "whsec_not-base64".parse::<SharedSecret>().unwrap_err().to_string();
        assert!(!error.contains("not-base64"), "{error}");
    }
}
