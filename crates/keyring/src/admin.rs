//! Keys of the admin API. The server stores only their hashes.
//!
//! A key consists of 32 random bytes, so guessing is infeasible and one round of SHA-256 is as good as many.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const PREFIX: &str = "lsk_";
const HASH_PREFIX: &str = "sha256:";

/// An admin key, shown once to its owner.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey(String);

/// The stored hash of an admin key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminKeyHash([u8; 32]);

/// Reason why a text is not the hash of a key. It never contains the given text, which may be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHash {
    #[error("the admin key itself; write its hash, which `longshore admin-key` prints with the key")]
    IsKey,
    #[error("not the hash of an admin key; `longshore admin-key` prints one, as sha256: and 64 hexadecimal digits")]
    Form,
}

impl AdminKey {
    /// Creates a key from random bytes.
    pub fn generate(bytes: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Returns the key. The caller must not disclose it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl AdminKeyHash {
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Reports whether `given` is the key, in a time that does not depend on the number of correct bytes.
    pub fn is_of(&self, given: &[u8]) -> bool {
        Self::of(given).0.ct_eq(&self.0).into()
    }
}

impl FromStr for AdminKeyHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        if text.starts_with(PREFIX) {
            return Err(InvalidHash::IsKey);
        }
        let digits = text.strip_prefix(HASH_PREFIX).ok_or(InvalidHash::Form)?;
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return Err(InvalidHash::Form);
        }
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            for digit in pair {
                let value = char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
                *byte = (*byte << 4) | value.ok_or(InvalidHash::Form)?;
            }
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for AdminKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HASH_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash() {
        let key = AdminKey::generate([7; 32]);
        assert_eq!(key.expose().len(), "lsk_".len() + 43);
        let hash = AdminKeyHash::of(key.expose().as_bytes());
        assert!(hash.is_of(key.expose().as_bytes()));
        assert!(!hash.is_of(AdminKey::generate([8; 32]).expose().as_bytes()));
        assert!(!hash.is_of(b"") && !hash.is_of(hash.to_string().as_bytes()), "a hash opens nothing");
    }

    /// The expected value is the output of `printf %s lsk_test | sha256sum`.
    #[test]
    fn a_hash_prints_and_parses() {
        let text = "sha256:1fb37ce8b525aa2fda4b9a40cb7596e8ee87ab72d2113527c783e4cee1380ae4";
        assert_eq!(AdminKeyHash::of(b"lsk_test").to_string(), text);
        let parsed: AdminKeyHash = text.parse().unwrap();
        assert!(parsed.is_of(b"lsk_test"));
        assert_eq!(text.to_uppercase().replace("SHA", "sha").parse(), Ok(parsed));
    }

    #[test]
    fn what_is_not_a_hash_is_refused_and_not_repeated() {
        let hash = AdminKeyHash::of(b"lsk_test").to_string();
        for wrong in ["", "sha256:", &hash[7..], &hash[..70], &format!("{hash}0"), &hash.replace(':', "-")] {
            assert_eq!(wrong.parse::<AdminKeyHash>(), Err(InvalidHash::Form), "{wrong}");
        }
        let unhexed = format!("sha256:{}é", "0".repeat(62));
        assert_eq!(unhexed.parse::<AdminKeyHash>(), Err(InvalidHash::Form));
        assert_eq!("lsk_secret".parse::<AdminKeyHash>(), Err(InvalidHash::IsKey));
        assert!(!InvalidHash::IsKey.to_string().contains("secret"));
    }

    #[test]
    fn a_key_does_not_print_itself() {
        assert_eq!(format!("{:?}", AdminKey::generate([7; 32])), "AdminKey(hidden)");
    }
}
