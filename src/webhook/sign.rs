//! Standard Webhooks signatures, version `v1`: HMAC-SHA256 under a secret both sides know.
//!
//! Owns the form of a secret and what is signed. A secret never prints itself, and no error repeats it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use sha2::Sha256;

const PREFIX: &str = "whsec_";
const ALLOWED_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The key of one endpoint's signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why a text is not a secret. Says what is allowed and nothing of what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    #[error("a webhook secret begins with `whsec_`")]
    Prefix,
    #[error("a webhook secret is `whsec_` and then standard base64 with its padding (not the URL-safe alphabet)")]
    Encoding,
    #[error("a webhook secret is 24 to 64 bytes long before it is encoded, not {0}")]
    Length(usize),
}

impl FromStr for Secret {
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

impl Secret {
    /// One that nobody can guess.
    pub(super) fn generate() -> Self {
        Self(rand::random::<[u8; 32]>().to_vec())
    }

    /// As receivers are given it. Whoever calls this sees to it that it is not shown to others.
    pub(super) fn expose(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// The signature of one message: `v1,` and the base64 of the HMAC over `id.timestamp.body`.
pub fn sign(secret: &Secret, id: &str, unix_seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{unix_seconds}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// The value of `webhook-signature`: one signature for each secret, newest first, so that a receiver which still
/// has the older secret accepts the message too.
pub fn sign_with_all(secrets: &[Secret], id: &str, unix_seconds: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = secrets.iter().map(|secret| sign(secret, id, unix_seconds, body)).collect();
    // Standard Webhooks: the list is separated by spaces; receivers reject one joined by commas.
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    use reqwest::header::HeaderMap;
    use standardwebhooks::Webhook;

    const KNOWN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn secret_of(byte: u8, count: usize) -> String {
        format!("whsec_{}", STANDARD.encode(vec![byte; count]))
    }

    fn headers(id: &str, unix_seconds: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", unix_seconds.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    fn now() -> i64 {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap();
        i64::try_from(since.as_secs()).unwrap()
    }

    /// The published vector (webhooks H5).
    #[test]
    fn the_known_vector_gives_the_known_signature() {
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = sign(&KNOWN.parse().unwrap(), "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body);
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    /// webhooks H4, H10, H11: each holder of one live secret accepts the list, and nobody else does.
    #[test]
    fn an_independent_receiver_accepts_a_list_of_signatures() {
        let texts = [secret_of(1, 32), secret_of(2, 24), secret_of(3, 64)];
        let secrets: Vec<Secret> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let (id, at, body) = ("evt_0", now(), r#"{"type":"upload.completed","name":"Füße"}"#.as_bytes());
        let list = sign_with_all(&secrets, id, at, body);
        assert!(list.split(' ').all(|token| token.starts_with("v1,")), "{list}");
        assert_eq!(list.split(' ').next(), Some(sign(&secrets[0], id, at, body).as_str()));

        for text in &texts {
            Webhook::new(text).unwrap().verify(body, &headers(id, at, &list)).unwrap();
        }
        let stranger = Webhook::new(&secret_of(4, 32)).unwrap();
        assert!(stranger.verify(body, &headers(id, at, &list)).is_err());
        let holder = Webhook::new(&texts[0]).unwrap();
        assert!(holder.verify(b"{}", &headers(id, at, &list)).is_err(), "another body");
        assert!(holder.verify(body, &headers("evt_1", at, &list)).is_err(), "another id");
        assert!(holder.verify(body, &headers(id, at - 1, &list)).is_err(), "another time");
    }

    /// webhooks H7.
    #[test]
    fn only_the_published_form_is_a_secret() {
        for count in [24, 32, 64] {
            assert!(secret_of(9, count).parse::<Secret>().is_ok(), "{count} bytes");
        }
        for count in [0, 23, 65] {
            assert_eq!(secret_of(9, count).parse::<Secret>(), Err(InvalidSecret::Length(count)));
        }
        assert_eq!("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse::<Secret>(), Err(InvalidSecret::Prefix));
        let url_safe = secret_of(0xfb, 24).replace('+', "-").replace('/', "_");
        let unpadded = secret_of(9, 25).trim_end_matches('=').to_owned();
        let spaced = format!("{KNOWN} ");
        for wrong in [url_safe, unpadded, spaced] {
            assert_eq!(wrong.parse::<Secret>(), Err(InvalidSecret::Encoding), "{wrong}");
        }
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret: Secret = KNOWN.parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
        let error = "whsec_not-base64".parse::<Secret>().unwrap_err().to_string();
        assert!(!error.contains("not-base64"), "{error}");
    }
}
