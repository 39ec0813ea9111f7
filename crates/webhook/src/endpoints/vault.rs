//! The secrets of endpoints and their encryption in the database. A copy of the database does not enable
//! anybody to sign (webhooks S11).
//!
//! A sealed text names the key that it was sealed under. The newest key seals, and every key opens. After a
//! start nothing is sealed under an old key any more, so old keys can be removed. The endpoint's name is
//! authenticated with the text: a text moved to another endpoint does not open.

use std::fmt;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use domain::endpoint::EndpointId;
use domain::time::Timestamp;
use keyring::{DerivedKey, DerivedKeys, ServerKeys};
use outbound::keys::{KeyEntry, SigningKey, SigningKeys};

const PURPOSE: &str = "longshore webhook secrets v1";

/// The first byte of a sealed text: the version of its format.
const FORM: u8 = 1;

/// The secrets of an endpoint.
#[derive(Clone, Default)]
pub(crate) struct EndpointSecrets {
    pub(crate) keys: SigningKeys,
    /// Custom headers, sent with every message.
    pub(crate) headers: HeaderMap,
}

/// Prints the names of headers, and neither keys nor values.
impl fmt::Debug for EndpointSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.keys().map(HeaderName::as_str).collect();
        f.debug_struct("EndpointSecrets").field("headers", &names).finish_non_exhaustive()
    }
}

/// Reason why sealed secrets cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableSecrets {
    #[error("they were encrypted with the server key {0:?}, which is missing")]
    NoKey(String),
    #[error("they are damaged, or belong to another endpoint")]
    Damaged,
}

/// Seals and opens the secrets of endpoints.
#[derive(Debug, Clone)]
pub struct Vault(DerivedKeys);

impl Vault {
    pub fn new(keys: &ServerKeys) -> Self {
        Self(keys.derive(PURPOSE))
    }

    pub(crate) fn seal(&self, endpoint: &EndpointId, secrets: &EndpointSecrets, now: Timestamp) -> Vec<u8> {
        let key = self.0.newest();
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut text = serde_json::to_vec(&SealedSecrets::of(secrets, now)).expect("texts and numbers are JSON");
        cipher(key)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound_to(endpoint), &mut text)
            .expect("a text of a few KiB is not too long");
        let length = u8::try_from(key.id().len()).expect("the name of a server key is short");
        [&[FORM, length][..], key.id().as_bytes(), &nonce, &text].concat()
    }

    pub(crate) fn open(&self, endpoint: &EndpointId, sealed: &[u8]) -> Result<EndpointSecrets, UnreadableSecrets> {
        let (id, rest) = key_of(sealed).ok_or(UnreadableSecrets::Damaged)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(UnreadableSecrets::Damaged)?;
        let key = self.0.by_id(id).ok_or_else(|| UnreadableSecrets::NoKey(id.to_owned()))?;
        let mut text = text.to_vec();
        let opened = cipher(key).open_in_place(Nonce::assume_unique_for_key(*nonce), bound_to(endpoint), &mut text);
        let opened = opened.map_err(|_| UnreadableSecrets::Damaged)?;
        let stored: SealedSecrets = serde_json::from_slice(opened).map_err(|_| UnreadableSecrets::Damaged)?;
        stored.secrets().ok_or(UnreadableSecrets::Damaged)
    }

    /// Reports whether a text was sealed under the newest key.
    pub(crate) fn is_current(&self, sealed: &[u8]) -> bool {
        key_of(sealed).is_some_and(|(id, _)| id == self.0.newest().id())
    }
}

fn cipher(key: &DerivedKey) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key.bytes());
    LessSafeKey::new(key.expect("a derived key has the length the algorithm wants"))
}

fn bound_to(endpoint: &EndpointId) -> Aad<Vec<u8>> {
    Aad::from(format!("secrets of endpoint {endpoint}").into_bytes())
}

/// Splits a sealed text into the id of its key and the rest.
fn key_of(sealed: &[u8]) -> Option<(&str, &[u8])> {
    let rest = sealed.strip_prefix(&[FORM])?;
    let (length, rest) = rest.split_first()?;
    let (id, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((str::from_utf8(id).ok()?, rest))
}

/// The stored form of [`EndpointSecrets`].
#[derive(Serialize, Deserialize)]
struct SealedSecrets {
    keys: Vec<StoredKey>,
    headers: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    key: String,
    created_at_ms: i64,
    expires_at_ms: Option<i64>,
}

impl SealedSecrets {
    fn of(secrets: &EndpointSecrets, now: Timestamp) -> Self {
        let key = |held: &KeyEntry| StoredKey {
            key: held.key.expose(),
            created_at_ms: held.created_at.unix_ms(),
            expires_at_ms: held.expires_at.map(Timestamp::unix_ms),
        };
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Self {
            keys: secrets.keys.live(now).map(key).collect(),
            headers: secrets.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        }
    }

    fn secrets(self) -> Option<EndpointSecrets> {
        let held = |stored: StoredKey| {
            Some(KeyEntry {
                key: SigningKey::parse(&stored.key).ok()?,
                created_at: Timestamp::from_unix_ms(stored.created_at_ms),
                expires_at: stored.expires_at_ms.map(Timestamp::from_unix_ms),
            })
        };
        let keys = self.keys.into_iter().map(held).collect::<Option<Vec<_>>>()?;
        let header = |(name, value): (String, String)| {
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        };
        let headers = self.headers.into_iter().map(header).collect::<Option<HeaderMap>>()?;
        Some(EndpointSecrets { keys: SigningKeys::from_entries(keys), headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use domain::endpoint::Signing;
    use outbound::keys::KeyKind;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_290_000);

    fn id(name: &str) -> EndpointId {
        EndpointId::new(name).unwrap()
    }

    fn vault(keys: &[(&str, u8)]) -> Vault {
        let lines = keys.iter().map(|(id, byte)| format!("{id}:{}\n", STANDARD.encode([*byte; 32])));
        Vault::new(&ServerKeys::parse(&lines.collect::<String>()).unwrap())
    }

    fn secrets() -> EndpointSecrets {
        let keys = SigningKeys::default().completed(Signing::Both, NOW);
        let headers = [(HeaderName::from_static("x-token"), HeaderValue::from_static("t0p"))];
        EndpointSecrets { keys, headers: headers.into_iter().collect() }
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let (vault, secrets) = (vault(&[("k1", 1)]), secrets());
        let sealed = vault.seal(&id("app"), &secrets, NOW);
        let opened = vault.open(&id("app"), &sealed).unwrap();
        assert_eq!((opened.keys, opened.headers), (secrets.keys.clone(), secrets.headers.clone()));
        assert_ne!(vault.seal(&id("app"), &secrets, NOW), sealed, "no nonce is used twice");
        let secret = secrets.keys.current(KeyKind::Hmac, NOW).unwrap().expose();
        assert!(!sealed.windows(8).any(|part| secret.as_bytes().windows(8).any(|known| known == part)));
        assert!(!format!("{vault:?} {secrets:?}").contains("t0p"));
    }

    #[test]
    fn an_expired_key_is_not_written() {
        let vault = vault(&[("k1", 1)]);
        let keys = secrets().keys.rotated(SigningKey::generate(KeyKind::Hmac), Duration::from_secs(60), NOW).unwrap();
        let held = EndpointSecrets { keys, ..secrets() };
        for (after, count) in [(59, 3), (60, 2)] {
            let sealed = vault.seal(&id("app"), &held, NOW.plus(Duration::from_secs(after)));
            assert_eq!(vault.open(&id("app"), &sealed).unwrap().keys.live(NOW).count(), count);
        }
    }

    /// webhooks S11: the server key can be replaced.
    #[test]
    fn the_newest_key_seals_and_every_key_opens() {
        let (old, both, new) = (vault(&[("k1", 1)]), vault(&[("k2", 2), ("k1", 1)]), vault(&[("k2", 2)]));
        let sealed = old.seal(&id("app"), &secrets(), NOW);
        assert!(old.is_current(&sealed) && !both.is_current(&sealed));
        let opened = both.open(&id("app"), &sealed).unwrap();
        assert_eq!(new.open(&id("app"), &sealed).unwrap_err(), UnreadableSecrets::NoKey("k1".to_owned()));
        let again = both.seal(&id("app"), &opened, NOW);
        assert!(both.is_current(&again) && new.open(&id("app"), &again).is_ok());
    }

    #[test]
    fn what_was_tampered_with_does_not_open() {
        let vault = vault(&[("k1", 1)]);
        let sealed = vault.seal(&id("app"), &secrets(), NOW);
        assert_eq!(vault.open(&id("other"), &sealed).unwrap_err(), UnreadableSecrets::Damaged);
        for at in [0, 1, 5, 20, sealed.len() - 1] {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert!(vault.open(&id("app"), &broken).is_err(), "byte {at}");
        }
        for short in [0, 1, 2, 4, 10, 16, 30] {
            assert!(vault.open(&id("app"), &sealed[..short]).is_err(), "{short} bytes");
        }
    }
}
