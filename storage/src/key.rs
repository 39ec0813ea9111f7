//! The names of blobs. They become paths, so few characters are allowed.

use std::fmt;

/// The name of a blob: segments of lower-case letters, digits, `-` and `~`, joined by `/`.
///
/// `..`, empty segments and anything a client could inject cannot be written as a key.
///
/// A key is all that a store knows of the owner of the bytes. Where tenants are separated, the caller writes
/// the tenant into the key: every call names a whole key, so none can reach beyond it, and a store that knows
/// nothing of tenants cannot confuse two. Only [`BlobStore::keys`](crate::BlobStore::keys) names none; it
/// serves the maintenance of the whole medium.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a blob key")]
pub struct NotAKey;

impl BlobKey {
    pub fn new(name: impl Into<String>) -> Result<Self, NotAKey> {
        let name = name.into();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'~');
        let fits = name.len() <= 200 && name.split('/').all(|part| !part.is_empty() && part.bytes().all(plain));
        if fits { Ok(Self(name)) } else { Err(NotAKey) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_its_folder() {
        assert!(BlobKey::new("2026/11/21/0193-abc").is_ok());
        assert!(BlobKey::new("2026/11/21/0193-abc~2").is_ok());
        for wrong in ["", "/", "a//b", "/a", "a/", "..", "a/../b", "a.b", "A", "a b", "a\0", "ä", "%2e", "a\\b"] {
            assert_eq!(BlobKey::new(wrong), Err(NotAKey), "{wrong:?}");
        }
    }
}
