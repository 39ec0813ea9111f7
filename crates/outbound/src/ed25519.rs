//! Standard Webhooks signatures, version `v1a`: ed25519, so that a receiver holds no key that could forge
//! messages.
//!
//! Owns the form of both keys. A private key does not appear in debug output, and no error repeats it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

const PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const VERSION: &str = "v1a,";
const SEED: usize = 32;

/// The private key that signs an endpoint's messages.
#[derive(Clone)]
pub struct PrivateKey {
    seed: [u8; SEED],
    pair: Arc<Ed25519KeyPair>,
}

/// Reason why a text is not a private key. States the allowed form and repeats nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrivateKey {
    #[error("a private key must begin with `whsk_`")]
    Prefix,
    #[error("a private key is `whsk_` followed by standard base64 with padding (not the URL-safe alphabet)")]
    Encoding,
    #[error("a private key has 32 bytes (a seed) or 64 bytes (a seed followed by its public key), not {0}")]
    Length(usize),
    #[error("the public key after the seed does not match the seed")]
    Mismatch,
}

impl PrivateKey {
    /// Generates a random key.
    pub fn generate() -> Self {
        Self::from_seed(rand::random())
    }

    fn from_seed(seed: [u8; SEED]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("every seed of 32 bytes makes a key");
        Self { seed, pair: Arc::new(pair) }
    }

    /// Returns the public key that receivers verify with: `whpk_` and the base64 of 32 bytes.
    pub fn public(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.pair.public_key()))
    }

    /// Returns `whsk_` and the base64 of the seed and the public key. The caller must not disclose it.
    pub fn expose(&self) -> String {
        let both = [&self.seed[..], self.pair.public_key().as_ref()].concat();
        format!("{PREFIX}{}", STANDARD.encode(both))
    }

    /// Returns the signature of one message: `v1a,` and the base64 of the signature of `id.timestamp.body`.
    pub fn sign(&self, id: &str, unix_seconds: i64, body: &[u8]) -> String {
        format!("{VERSION}{}", STANDARD.encode(self.pair.sign(&signed(id, unix_seconds, body))))
    }
}

impl FromStr for PrivateKey {
    type Err = InvalidPrivateKey;

    /// Parses a key (webhooks H8): the seed alone, or followed by its public key.
    fn from_str(text: &str) -> Result<Self, InvalidPrivateKey> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidPrivateKey::Prefix)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidPrivateKey::Encoding)?;
        let (seed, public) = bytes.split_first_chunk::<SEED>().ok_or(InvalidPrivateKey::Length(bytes.len()))?;
        if !(public.is_empty() || public.len() == SEED) {
            return Err(InvalidPrivateKey::Length(bytes.len()));
        }
        let key = Self::from_seed(*seed);
        if public.is_empty() || public == key.pair.public_key().as_ref() {
            Ok(key)
        } else {
            Err(InvalidPrivateKey::Mismatch)
        }
    }
}

/// The public key with which a receiver verifies an endpoint's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; SEED]);

/// Error for a text that is not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public key is `whpk_` followed by 32 bytes in standard base64 with padding")]
pub struct InvalidPublicKey;

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        let encoded = text.strip_prefix(PUBLIC_PREFIX).ok_or(InvalidPublicKey)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidPublicKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidPublicKey)
    }
}

impl PublicKey {
    /// Reports whether this is the signature of a message, as made by [`PrivateKey::sign`].
    pub fn verifies(&self, signature: &str, id: &str, unix_seconds: i64, body: &[u8]) -> bool {
        let signature = signature.strip_prefix(VERSION).and_then(|encoded| STANDARD.decode(encoded).ok());
        let message = signed(id, unix_seconds, body);
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        signature.is_some_and(|signature| key.verify(&message, &signature).is_ok())
    }
}

/// Returns the signed text: `id.timestamp.body`.
fn signed(id: &str, unix_seconds: i64, body: &[u8]) -> Vec<u8> {
    [format!("{id}.{unix_seconds}.").as_bytes(), body].concat()
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.seed == other.seed
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A published key pair and its signature (webhooks H6, H8).
    const KNOWN: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const KNOWN_SEED: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    const KNOWN_PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

    #[test]
    fn the_known_vector_gives_the_known_signature() {
        for text in [KNOWN, KNOWN_SEED] {
            let key: PrivateKey = text.parse().unwrap();
            let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
            assert_eq!(
                signature,
                "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
            );
            assert_eq!(key.public(), KNOWN_PUBLIC);
            assert_eq!(key.expose(), KNOWN);
        }
    }

    #[test]
    fn who_has_the_public_key_can_verify() {
        let key = PrivateKey::generate();
        assert_ne!(key, PrivateKey::generate());
        let signature = STANDARD.decode(key.sign("evt_1", 7, b"{}").strip_prefix("v1a,").unwrap()).unwrap();
        let public = STANDARD.decode(key.public().strip_prefix("whpk_").unwrap()).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, public);
        assert!(public.verify(b"evt_1.7.{}", &signature).is_ok());
        assert!(public.verify(b"evt_1.8.{}", &signature).is_err());
    }

    #[test]
    fn a_public_key_verifies_what_its_private_key_signed() {
        let key: PrivateKey = KNOWN.parse().unwrap();
        let public: PublicKey = KNOWN_PUBLIC.parse().unwrap();
        let signature = key.sign("evt_1", 7, b"{}");
        assert!(public.verifies(&signature, "evt_1", 7, b"{}"));
        for (signature, id, at, body) in [
            (signature.as_str(), "evt_2", 7, &b"{}"[..]),
            (&signature, "evt_1", 8, b"{}"),
            (&signature, "evt_1", 7, b"{ }"),
            (&signature[..signature.len() - 4], "evt_1", 7, b"{}"),
            (&signature.replace("v1a,", "v1,"), "evt_1", 7, b"{}"),
            (&PrivateKey::generate().sign("evt_1", 7, b"{}"), "evt_1", 7, b"{}"),
            ("", "evt_1", 7, b"{}"),
        ] {
            assert!(!public.verifies(signature, id, at, body), "{signature} {id} {at}");
        }
        for wrong in ["whpk_", "whpk_AAAA", "1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", KNOWN, KNOWN_SEED] {
            assert_eq!(wrong.parse::<PublicKey>(), Err(InvalidPublicKey), "{wrong}");
        }
    }

    #[test]
    fn only_the_published_form_is_a_key() {
        let of = |bytes: &[u8]| format!("whsk_{}", STANDARD.encode(bytes)).parse::<PrivateKey>();
        for count in [0, 31, 33, 63, 65] {
            assert_eq!(of(&vec![7; count]), Err(InvalidPrivateKey::Length(count)));
        }
        assert_eq!(of(&[7; 64]), Err(InvalidPrivateKey::Mismatch));
        assert_eq!("whsec_AAAA".parse::<PrivateKey>(), Err(InvalidPrivateKey::Prefix));
        assert_eq!("whsk_-_".parse::<PrivateKey>(), Err(InvalidPrivateKey::Encoding));
        let key: PrivateKey = KNOWN.parse().unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(redacted)");
    }
}
