//! Read tokens: they let a page follow one upload for a limited time, and grant nothing else.
//!
//! The server stores nothing about them: a token contains its expiry, and an HMAC over the expiry and the
//! upload's id. It is valid until then, provided that its key still exists.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::{DerivedKey, DerivedKeys, ServerKeys};
use domain::id::UploadId;
use domain::time::Timestamp;

const PURPOSE: &str = "longshore read tokens v1";
const PREFIX: &str = "rdt_";

/// More digits than the seconds of any [`Timestamp`] have.
const MAX_DIGITS: usize = 16;

/// Makes and verifies read tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadTokens(DerivedKeys);

/// Validity of a text as a read token for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenValidity {
    Yes,
    /// A genuine token that has expired.
    Expired,
    No,
}

impl ReadTokens {
    pub fn new(keys: &ServerKeys) -> Self {
        Self(keys.derive(PURPOSE))
    }

    /// Makes a token for this upload. It expires at the end of the second that contains `expires_at`.
    pub fn token(&self, upload: UploadId, expires_at: Timestamp) -> String {
        token(self.0.newest(), upload, expires_at.unix_ms() / 1_000)
    }

    /// Checks whether a text is a token for this upload, under any of the keys.
    pub fn judge(&self, given: &[u8], upload: UploadId, now: Timestamp) -> TokenValidity {
        let Some(ends) = ends(given) else { return TokenValidity::No };
        let is_genuine = |key| bool::from(token(key, upload, ends).as_bytes().ct_eq(given));
        match self.0.iter().any(is_genuine) {
            false => TokenValidity::No,
            true if now.unix_ms() / 1_000 > ends => TokenValidity::Expired,
            true => TokenValidity::Yes,
        }
    }
}

/// Reports whether a text has the form of a read token, genuine or not.
pub fn is_read_token(given: &[u8]) -> bool {
    ends(given).is_some()
}

/// Returns the last second, in Unix time, for which the token claims to be valid.
fn ends(given: &[u8]) -> Option<i64> {
    let (digits, _) = std::str::from_utf8(given).ok()?.strip_prefix(PREFIX)?.split_once('_')?;
    let is_number =
        !digits.is_empty() && digits.len() <= MAX_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

fn token(key: &DerivedKey, upload: UploadId, ends: i64) -> String {
    format!("{PREFIX}{ends}_{}", URL_SAFE_NO_PAD.encode(key.mac(format!("read:v1:{upload}:{ends}").as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_300_290_123);

    fn upload(byte: u8) -> UploadId {
        UploadId::new(Timestamp::from_unix_ms(1), [byte; 10])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_ms(NOW.unix_ms() + seconds * 1_000)
    }

    #[test]
    fn a_token_is_for_one_upload_of_one_server_and_ends() {
        let tokens = ReadTokens::new(&ServerKeys::generate([1; 32], [1; 4]));
        let token = tokens.token(upload(1), at(60));
        assert!(token.starts_with("rdt_1795300350_") && is_read_token(token.as_bytes()), "{token}");
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "it fits into a URL");
        let judge = |now| tokens.judge(token.as_bytes(), upload(1), now);
        assert_eq!(
            [judge(NOW), judge(at(60)), judge(at(61))],
            [TokenValidity::Yes, TokenValidity::Yes, TokenValidity::Expired]
        );
        assert_eq!(tokens.judge(token.as_bytes(), upload(2), NOW), TokenValidity::No);
        let other = ReadTokens::new(&ServerKeys::generate([2; 32], [1; 4]));
        assert_eq!(other.judge(token.as_bytes(), upload(1), NOW), TokenValidity::No);
        let later = token.replace("1795300350", "1795300351");
        let padded = token.replace("rdt_", "rdt_0");
        for wrong in [
            "",
            "rdt_",
            "rdt__",
            "rdt_x_y",
            "rdt_-1_y",
            &token[..token.len() - 1],
            &format!("{token}x"),
            &later,
            &padded,
        ] {
            assert_eq!(tokens.judge(wrong.as_bytes(), upload(1), NOW), TokenValidity::No, "{wrong}");
        }
    }

    #[test]
    fn tokens_outlive_a_change_of_keys_until_the_old_one_goes() {
        let (old, new) = (ServerKeys::generate([1; 32], [1; 4]), ServerKeys::generate([2; 32], [2; 4]));
        let token = ReadTokens::new(&old).token(upload(1), at(60));
        let both = ReadTokens::new(&ServerKeys::parse(&(new.to_text() + &old.to_text())).unwrap());
        assert_eq!(both.judge(token.as_bytes(), upload(1), NOW), TokenValidity::Yes);
        assert_eq!(ReadTokens::new(&new).judge(token.as_bytes(), upload(1), NOW), TokenValidity::No);
    }
}
