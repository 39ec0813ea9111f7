//! Stage tokens: they let a backend report stages of one upload, and grant nothing else.
//!
//! The server stores nothing about them: a token is an HMAC over the upload's id. It is valid for as long as
//! the upload accepts reports and the key exists.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::{DerivedKey, DerivedKeys, ServerKeys};
use domain::id::UploadId;

const PURPOSE: &str = "longshore stage tokens v1";
const PREFIX: &str = "stg_";

/// Makes and verifies stage tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageTokens(DerivedKeys);

impl StageTokens {
    pub fn new(keys: &ServerKeys) -> Self {
        Self(keys.derive(PURPOSE))
    }

    /// Returns the token for this upload.
    pub fn token(&self, upload: UploadId) -> String {
        token(self.0.newest(), upload)
    }

    /// Reports whether `given` is the token for this upload, under any of the keys.
    pub fn is_for(&self, given: &[u8], upload: UploadId) -> bool {
        self.0.iter().any(|key| bool::from(token(key, upload).as_bytes().ct_eq(given)))
    }
}

fn token(key: &DerivedKey, upload: UploadId) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(key.mac(format!("stages:v1:{upload}").as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::time::Timestamp;

    fn upload(byte: u8) -> UploadId {
        UploadId::new(Timestamp::from_unix_ms(1), [byte; 10])
    }

    fn keys(bytes: [u8; 32], id: u8) -> ServerKeys {
        ServerKeys::generate(bytes, [id; 4])
    }

    #[test]
    fn a_token_is_for_one_upload_of_one_server() {
        let tokens = StageTokens::new(&keys([1; 32], 1));
        let token = tokens.token(upload(1));
        assert_eq!(token.len(), "stg_".len() + 43);
        assert!(
            token.starts_with("stg_")
                && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
        assert!(tokens.is_for(token.as_bytes(), upload(1)));
        assert!(!tokens.is_for(token.as_bytes(), upload(2)));
        assert!(!StageTokens::new(&keys([2; 32], 1)).is_for(token.as_bytes(), upload(1)));
        for wrong in ["", "stg_", &token[1..], &token[..token.len() - 1], &format!("{token}x"), &token.to_uppercase()] {
            assert!(!tokens.is_for(wrong.as_bytes(), upload(1)), "{wrong}");
        }
    }

    #[test]
    fn tokens_outlive_a_change_of_keys_until_the_old_one_goes() {
        let (old, new) = (keys([1; 32], 1), keys([2; 32], 2));
        let token = StageTokens::new(&old).token(upload(1));
        let both = ServerKeys::parse(&(new.to_text() + &old.to_text())).unwrap();
        let both = StageTokens::new(&both);
        assert!(both.is_for(token.as_bytes(), upload(1)));
        assert_ne!(both.token(upload(1)), token, "new ones are made under the new key");
        assert!(!StageTokens::new(&new).is_for(token.as_bytes(), upload(1)));
    }
}
