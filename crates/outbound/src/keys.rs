//! The signing keys of one endpoint and their expiry.
//!
//! The newest key of a kind is the current one. After a rotation the earlier keys continue to sign for a
//! while, so that the receiver has time to install the new key: it accepts a message with any signature that
//! it can verify.

use std::time::Duration;

use subtle::ConstantTimeEq as _;

use crate::ed25519::{InvalidPrivateKey, PrivateKey};
use crate::sign::{InvalidSecret, SharedSecret, sign};
use domain::endpoint::Signing;
use domain::time::Timestamp;

/// Maximum number of an endpoint's old keys that still sign (webhooks H10).
pub const MAX_OLD_KEYS: usize = 10;

/// Maximum time for which an old key continues to sign.
const MAX_OVERLAP: Duration = Duration::from_hours(7 * 24);

/// Time for which an old key continues to sign by default.
pub const DEFAULT_OVERLAP: Duration = Duration::from_hours(24);

/// A key that signs messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKey {
    Hmac(SharedSecret),
    Ed25519(PrivateKey),
}

domain::named! {
    /// The kind of signatures that a key makes.
    pub enum KeyKind {
        Hmac = "hmac",
        Ed25519 = "ed25519",
    }
}

/// Reason why keys are not valid for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
    #[error(transparent)]
    PrivateKey(#[from] InvalidPrivateKey),
    #[error("a key must begin with `whsec_` (hmac) or `whsk_` (ed25519)")]
    Kind,
    #[error("it is already a key of this endpoint")]
    Known,
    #[error("there is no {} key to sign with", .0.name())]
    Missing(KeyKind),
    #[error("an old key may continue to sign for at most 7 days")]
    Overlap,
    #[error("{MAX_OLD_KEYS} old keys still sign; wait until one of them ends, or rotate without an overlap")]
    TooMany,
}

impl SigningKey {
    pub fn generate(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Hmac => Self::Hmac(SharedSecret::generate()),
            KeyKind::Ed25519 => Self::Ed25519(PrivateKey::generate()),
        }
    }

    /// Parses a key of either kind.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        match text.split_once('_') {
            Some(("whsec", _)) => Ok(Self::Hmac(text.parse()?)),
            Some(("whsk", _)) => Ok(Self::Ed25519(text.parse()?)),
            _ => Err(InvalidKey::Kind),
        }
    }

    pub const fn kind(&self) -> KeyKind {
        match self {
            Self::Hmac(_) => KeyKind::Hmac,
            Self::Ed25519(_) => KeyKind::Ed25519,
        }
    }

    /// Returns the key. The caller must not disclose it to others.
    pub fn expose(&self) -> String {
        match self {
            Self::Hmac(secret) => secret.expose(),
            Self::Ed25519(key) => key.expose(),
        }
    }

    /// Returns what the receiver needs to verify signatures: the shared secret, or the public key.
    pub fn for_receiver(&self) -> String {
        match self {
            Self::Hmac(secret) => secret.expose(),
            Self::Ed25519(key) => key.public(),
        }
    }

    /// Reports whether both are the same key, in constant time.
    fn is(&self, other: &Self) -> bool {
        self.expose().as_bytes().ct_eq(other.expose().as_bytes()).into()
    }

    fn sign(&self, id: &str, unix_seconds: i64, body: &[u8]) -> String {
        match self {
            Self::Hmac(secret) => sign(secret, id, unix_seconds, body),
            Self::Ed25519(key) => key.sign(id, unix_seconds, body),
        }
    }
}

/// A key with its creation and expiry times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    pub key: SigningKey,
    pub created_at: Timestamp,
    /// `None` for a current key, or one from the configuration.
    pub expires_at: Option<Timestamp>,
}

impl KeyEntry {
    fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// The signing keys of an endpoint, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SigningKeys(Vec<KeyEntry>);

impl SigningKeys {
    /// Creates keys that do not expire. The current key of each kind comes first.
    pub fn permanent(keys: impl IntoIterator<Item = SigningKey>, now: Timestamp) -> Self {
        Self(keys.into_iter().map(|key| KeyEntry { key, created_at: now, expires_at: None }).collect())
    }

    pub fn from_entries(held: Vec<KeyEntry>) -> Self {
        Self(held)
    }

    /// Iterates over the keys that have not expired. Expired keys are not stored again.
    pub fn live(&self, now: Timestamp) -> impl Iterator<Item = &KeyEntry> {
        self.0.iter().filter(move |held| held.is_live(now))
    }

    /// Returns the newest key of a kind.
    pub fn current(&self, kind: KeyKind, now: Timestamp) -> Option<&SigningKey> {
        self.live(now).map(|held| &held.key).find(|key| key.kind() == kind)
    }

    /// Reports whether one of the keys that have not expired is this one.
    pub fn holds(&self, key: &SigningKey, now: Timestamp) -> bool {
        self.live(now).fold(false, |found, held| found | held.key.is(key))
    }

    /// Returns the wanted kinds of signatures for which there is no key.
    pub fn missing(&self, signing: Signing, now: Timestamp) -> Vec<KeyKind> {
        kinds_of(signing).iter().copied().filter(|kind| self.current(*kind, now).is_none()).collect()
    }

    /// Checks that there is a key for every wanted kind of signature.
    pub fn check(&self, signing: Signing, now: Timestamp) -> Result<(), InvalidKey> {
        self.missing(signing, now).first().map_or(Ok(()), |kind| Err(InvalidKey::Missing(*kind)))
    }

    /// Generates the keys that are missing for these signatures.
    pub fn completed(mut self, signing: Signing, now: Timestamp) -> Self {
        for kind in self.missing(signing, now) {
            self.0.insert(0, KeyEntry { key: SigningKey::generate(kind), created_at: now, expires_at: None });
        }
        self
    }

    /// Adds a new key at the front. Keys of its kind that had no expiry continue to sign for the overlap.
    pub fn rotated(&self, new: SigningKey, overlap: Duration, now: Timestamp) -> Result<Self, InvalidKey> {
        if overlap > MAX_OVERLAP {
            return Err(InvalidKey::Overlap);
        }
        let kind = new.kind();
        let mut keys = vec![KeyEntry { key: new, created_at: now, expires_at: None }];
        for held in self.live(now) {
            if held.key == keys[0].key {
                return Err(InvalidKey::Known);
            }
            let is_replaced = held.key.kind() == kind && held.expires_at.is_none();
            let end = if is_replaced { Some(now.plus(overlap)) } else { held.expires_at };
            keys.push(KeyEntry { expires_at: end, ..held.clone() });
        }
        keys.retain(|held| held.is_live(now));
        if keys.iter().filter(|held| held.expires_at.is_some()).count() > MAX_OLD_KEYS {
            return Err(InvalidKey::TooMany);
        }
        Ok(Self(keys))
    }

    /// Returns the value of `webhook-signature`: one signature by each live key of the wanted kinds, newest
    /// first.
    pub fn sign(&self, signing: Signing, id: &str, now: Timestamp, body: &[u8]) -> String {
        // Standard Webhooks: the timestamp is in whole seconds, and the signatures are separated by spaces.
        let unix_seconds = now.unix_ms().div_euclid(1000);
        let wanted = kinds_of(signing);
        let keys = self.live(now).map(|held| &held.key).filter(|key| wanted.contains(&key.kind()));
        keys.map(|key| key.sign(id, unix_seconds, body)).collect::<Vec<_>>().join(" ")
    }
}

pub const fn kinds_of(signing: Signing) -> &'static [KeyKind] {
    match signing {
        Signing::Hmac => &[KeyKind::Hmac],
        Signing::Ed25519 => &[KeyKind::Ed25519],
        Signing::Both => &[KeyKind::Hmac, KeyKind::Ed25519],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use reqwest::header::HeaderMap;
    use standardwebhooks::Webhook;

    use crate::testing::wall_clock;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(hours: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_795_300_290_000).plus(HOUR * u32::try_from(hours).unwrap())
    }

    fn versions(keys: &SigningKeys, signing: Signing, now: Timestamp) -> Vec<String> {
        let list = keys.sign(signing, "evt_1", now, b"{}");
        list.split(' ').map(|one| one.split(',').next().unwrap().to_owned()).collect()
    }

    fn signs(keys: &SigningKeys, key: &SigningKey, now: Timestamp) -> bool {
        let one = key.sign("evt_1", now.unix_ms() / 1000, b"{}");
        keys.sign(Signing::Both, "evt_1", now, b"{}").split(' ').any(|found| found == one)
    }

    /// webhooks H6, H11.
    #[test]
    fn an_endpoint_gets_the_signatures_it_wants() {
        let keys = SigningKeys::default().completed(Signing::Both, at(0));
        assert_eq!(versions(&keys, Signing::Hmac, at(1)), ["v1"]);
        assert_eq!(versions(&keys, Signing::Ed25519, at(1)), ["v1a"]);
        let mut both = versions(&keys, Signing::Both, at(1));
        both.sort();
        assert_eq!(both, ["v1", "v1a"]);
        assert_eq!(keys.clone().completed(Signing::Both, at(1)), keys, "nothing was missing");
        let hmac = SigningKeys::default().completed(Signing::Hmac, at(0));
        assert_eq!(hmac.check(Signing::Both, at(0)), Err(InvalidKey::Missing(KeyKind::Ed25519)));
        assert_eq!(hmac.check(Signing::Hmac, at(0)), Ok(()));
    }

    /// webhooks H4, H10, H11: each holder of one live secret accepts the list, and no other receiver does.
    #[test]
    fn an_independent_receiver_accepts_the_list_of_signatures() {
        let secrets = [32, 24, 64].map(|count| format!("whsec_{}", STANDARD.encode(vec![7; count])));
        let [newest, older, expired] = secrets.each_ref().map(|text| SigningKey::parse(text).unwrap());
        let now = wall_clock();
        let keys = SigningKeys::permanent([expired], now).rotated(older, Duration::ZERO, now).unwrap();
        let keys = keys.rotated(newest.clone(), HOUR, now).unwrap();
        let (body, at) = (r#"{"type":"upload.completed","name":"Füße"}"#.as_bytes(), now.unix_ms() / 1000);
        let list = keys.sign(Signing::Hmac, "evt_0", now, body);
        assert!(list.split(' ').count() == 2 && list.split(' ').all(|token| token.starts_with("v1,")), "{list}");
        assert_eq!(list.split(' ').next(), Some(newest.sign("evt_0", at, body).as_str()), "newest first");

        let verify = |secret: &str, id: &str, at: i64, body: &[u8]| {
            let signed = [
                ("webhook-id", id.to_owned()),
                ("webhook-timestamp", at.to_string()),
                ("webhook-signature", list.clone()),
            ];
            let mut headers = HeaderMap::new();
            for (name, value) in signed {
                headers.insert(name, value.parse().unwrap());
            }
            Webhook::new(secret).unwrap().verify(body, &headers).is_ok()
        };
        assert!(verify(&secrets[0], "evt_0", at, body) && verify(&secrets[1], "evt_0", at, body));
        assert!(!verify(&secrets[2], "evt_0", at, body), "it was replaced at once");
        assert!(!verify(&secrets[0], "evt_0", at, b"{}"), "another body");
        assert!(!verify(&secrets[0], "evt_1", at, body), "another id");
        assert!(!verify(&secrets[0], "evt_0", at - 1, body), "another time");
    }

    /// webhooks H10: newest first; the old key signs for exactly the overlap.
    #[test]
    fn a_rotated_key_goes_on_for_its_overlap() {
        let (first, second, third) = (hmac(), hmac(), hmac());
        let keys = SigningKeys::permanent([first.clone()], at(0));
        let keys = keys.rotated(second.clone(), HOUR * 24, at(1)).unwrap();
        let list = keys.sign(Signing::Hmac, "evt_1", at(2), b"{}");
        assert_eq!(list.split(' ').next().unwrap(), second.sign("evt_1", at(2).unix_ms() / 1000, b"{}"));
        assert!(signs(&keys, &first, at(24)) && !signs(&keys, &first, at(25)) && signs(&keys, &second, at(999)));
        assert_eq!(keys.live(at(24)).count(), 2);
        assert_eq!(keys.live(at(25)).count(), 1, "an expired key is not written again");

        let at_once = keys.rotated(third.clone(), Duration::ZERO, at(2)).unwrap();
        assert!(!signs(&at_once, &second, at(2)) && signs(&at_once, &third, at(2)));
        assert!(signs(&at_once, &first, at(2)), "its own end stays");
    }

    #[test]
    fn a_rotation_leaves_the_other_kind_alone() {
        let keys = SigningKeys::default().completed(Signing::Both, at(0));
        let secret = keys.current(KeyKind::Hmac, at(0)).unwrap().clone();
        let keys = keys.rotated(SigningKey::generate(KeyKind::Ed25519), HOUR, at(1)).unwrap();
        assert!(signs(&keys, &secret, at(99)));
        assert_eq!(versions(&keys, Signing::Ed25519, at(1)).len(), 2);
        assert_eq!(versions(&keys, Signing::Ed25519, at(3)).len(), 1);
    }

    #[test]
    fn a_rotation_has_bounds() {
        let first = hmac();
        let mut keys = SigningKeys::permanent([first.clone()], at(0));
        assert_eq!(keys.rotated(first, HOUR, at(0)), Err(InvalidKey::Known));
        assert_eq!(keys.rotated(hmac(), MAX_OVERLAP + HOUR, at(0)), Err(InvalidKey::Overlap));
        for _ in 0..MAX_OLD_KEYS {
            keys = keys.rotated(hmac(), MAX_OVERLAP, at(0)).unwrap();
        }
        assert_eq!(keys.rotated(hmac(), MAX_OVERLAP, at(0)), Err(InvalidKey::TooMany));
        assert!(keys.rotated(hmac(), Duration::ZERO, at(0)).is_ok(), "one that ends at once is no old key");
        assert!(keys.rotated(hmac(), MAX_OVERLAP, at(7 * 24)).is_ok(), "those have ended by then");
    }

    fn hmac() -> SigningKey {
        SigningKey::generate(KeyKind::Hmac)
    }

    #[test]
    fn a_key_says_its_kind_by_its_prefix() {
        for kind in KeyKind::ALL {
            let key = SigningKey::generate(kind);
            assert_eq!(SigningKey::parse(&key.expose()), Ok(key.clone()));
            assert_eq!((key.kind(), KeyKind::by_name(kind.name())), (kind, Some(kind)));
        }
        assert_eq!(SigningKey::parse("secret"), Err(InvalidKey::Kind));
        assert!(matches!(SigningKey::parse("whsec_x"), Err(InvalidKey::Secret(_))));
        assert!(matches!(SigningKey::parse("whsk_x"), Err(InvalidKey::PrivateKey(_))));
        let shown = format!("{:?}", SigningKeys::default().completed(Signing::Both, at(0)));
        assert!(shown.contains("redacted") && !shown.contains("wh"), "{shown}");
    }
}
