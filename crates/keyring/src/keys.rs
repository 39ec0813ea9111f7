//! Server keys: one for new secrets and tokens, and older ones so that existing secrets and tokens stay
//! valid.
//!
//! A server key is used only to derive other keys, each for one purpose. The keys of one purpose reveal
//! nothing about those of another.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const KEY_BYTES: usize = 32;

/// Maximum number of keys in one file.
const MAX_KEYS: usize = 16;

const MAX_ID_LENGTH: usize = 32;

const HEADING: &str = "\
# The keys of this server. They encrypt the secrets of webhooks and sign tokens: back this file up.
# One key on each line, as ID:BASE64 (32 bytes). The first is used for new secrets and tokens, all of them for
# existing ones.
";

/// The keys of this server, newest first. Never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerKeys(Vec<Key>);

/// The keys for one purpose, in the order of the server keys they are derived from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivedKeys(Vec<DerivedKey>);

/// A key for one purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct DerivedKey(Key);

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: String,
    bytes: [u8; KEY_BYTES],
}

/// Reason why a text contains no valid keys. It names the line and repeats nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    #[error("it contains no key; write one as ID:BASE64 on a separate line")]
    None,
    #[error("it contains more than {MAX_KEYS} keys")]
    TooMany,
    #[error("line {0} is not ID:BASE64")]
    Form(usize),
    #[error("line {0} has an invalid id; write 1 to {MAX_ID_LENGTH} lower-case letters, digits, `-` and `_`")]
    Id(usize),
    #[error("line {0} does not contain {KEY_BYTES} bytes in standard base64")]
    Bytes(usize),
    #[error("line {0} repeats the id of a key above it; ids must be unique")]
    Twice(usize),
}

impl ServerKeys {
    /// Creates one key from random bytes.
    pub fn generate(bytes: [u8; KEY_BYTES], id: [u8; 4]) -> Self {
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(vec![Key { id, bytes }])
    }

    /// Parses the text of a key file.
    pub fn parse(text: &str) -> Result<Self, InvalidKeys> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::parse(line, number)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(InvalidKeys::Twice(number));
            }
            keys.push(key);
        }
        match keys.len() {
            0 => Err(InvalidKeys::None),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(InvalidKeys::TooMany),
        }
    }

    /// Returns the text of a key file with these keys. The caller must not disclose it.
    pub fn to_text(&self) -> String {
        let line = |key: &Key| format!("{}:{}\n", key.id, STANDARD.encode(key.bytes));
        self.0.iter().map(line).fold(HEADING.to_owned(), |text, line| text + &line)
    }

    /// Returns a fingerprint of each key, newest first, by which servers find out whether they have a key in
    /// common. It reveals nothing about the key.
    pub fn fingerprints(&self) -> Vec<String> {
        let hex = |key: &DerivedKey| key.bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        self.derive("longshore fingerprint").iter().map(hex).collect()
    }

    /// Derives the keys for a purpose. The text that names the purpose must be unique to it.
    pub fn derive(&self, purpose: &str) -> DerivedKeys {
        let derive = |key: &Key| DerivedKey(Key { id: key.id.clone(), bytes: mac(&key.bytes, purpose.as_bytes()) });
        DerivedKeys(self.0.iter().map(derive).collect())
    }
}

impl Key {
    fn parse(line: &str, number: usize) -> Result<Self, InvalidKeys> {
        let (id, encoded) = line.split_once(':').ok_or(InvalidKeys::Form(number))?;
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if id.is_empty() || id.len() > MAX_ID_LENGTH || !id.bytes().all(fits) {
            return Err(InvalidKeys::Id(number));
        }
        let bytes = STANDARD.decode(encoded.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Self { id: id.to_owned(), bytes: bytes.ok_or(InvalidKeys::Bytes(number))? })
    }
}

impl DerivedKeys {
    /// Returns the key for new secrets and tokens.
    pub fn newest(&self) -> &DerivedKey {
        self.0.first().expect("there is always a key")
    }

    /// Returns the key with the id that an existing secret names.
    pub fn by_id(&self, id: &str) -> Option<&DerivedKey> {
        self.0.iter().find(|key| key.id() == id)
    }

    /// Iterates over the keys, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &DerivedKey> {
        self.0.iter()
    }
}

impl DerivedKey {
    /// Returns the id of the server key that this key is derived from.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Returns the key. The caller must not disclose it.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0.bytes
    }

    /// Returns the HMAC-SHA256 of a text under this key.
    pub(super) fn mac(&self, text: &[u8]) -> [u8; 32] {
        mac(&self.0.bytes, text)
    }
}

impl fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerKeys").field(&self.0.iter().map(|key| &key.id).collect::<Vec<_>>()).finish()
    }
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DerivedKey").field(&self.0.id).finish()
    }
}

fn mac(key: &[u8; KEY_BYTES], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, byte: u8) -> String {
        format!("{id}:{}\n", STANDARD.encode([byte; KEY_BYTES]))
    }

    #[test]
    fn what_is_generated_can_be_read_again() {
        let keys = ServerKeys::generate([7; 32], [0, 1, 0xab, 0xff]);
        assert_eq!(ServerKeys::parse(&keys.to_text()), Ok(keys.clone()));
        assert_eq!(keys.derive("x").newest().id(), "0001abff");
    }

    /// The expected value is the output of `printf %s x | openssl dgst -sha256 -mac HMAC -macopt
    /// hexkey:0707…`.
    #[test]
    fn keys_are_derived_by_hmac() {
        let derived = ServerKeys::generate([7; 32], [0; 4]).derive("x");
        let hex: String = derived.newest().bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "5b29e7ebdee0465c31c16b2fca787e1588ec74bd4c3e9f479103b2392c677d06");
    }

    #[test]
    fn the_first_key_is_the_newest_and_all_can_be_found() {
        let text = format!("# before\n\n{}  # between\n {}\r\n", line("b", 2), line("a_1-x", 1).trim_end());
        let derived = ServerKeys::parse(&text).unwrap().derive("purpose");
        assert_eq!(derived.iter().map(DerivedKey::id).collect::<Vec<_>>(), ["b", "a_1-x"]);
        assert_eq!(derived.newest(), derived.by_id("b").unwrap());
        assert_ne!(derived.by_id("b").unwrap().bytes(), derived.by_id("a_1-x").unwrap().bytes());
        assert_eq!(derived.by_id("c"), None);
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_is_none_of_their_bytes() {
        let text = format!("{}{}", line("a", 2), line("b", 1));
        let [newest, oldest] = ServerKeys::parse(&text).unwrap().fingerprints().try_into().unwrap();
        assert_eq!(
            ServerKeys::parse(&line("c", 1)).unwrap().fingerprints(),
            [oldest.as_str()],
            "the id is no part of it"
        );
        assert_ne!(newest, oldest);
        assert!(oldest.len() == 32 && !oldest.contains("0101"), "{oldest}");
    }

    #[test]
    fn each_purpose_has_its_own_keys() {
        let keys = ServerKeys::generate([7; 32], [0; 4]);
        assert_ne!(keys.derive("one").newest().bytes(), keys.derive("two").newest().bytes());
        assert_ne!(keys.derive("one").newest().bytes(), &[7; 32]);
    }

    #[test]
    fn a_file_that_is_wrong_says_where() {
        let many: String = (0..=MAX_KEYS).map(|number| line(&format!("k{number}"), 1)).collect();
        for (text, expected) in [
            (String::new(), InvalidKeys::None),
            ("# nothing\n\n".to_owned(), InvalidKeys::None),
            (many, InvalidKeys::TooMany),
            (format!("{}secret", line("a", 1)), InvalidKeys::Form(2)),
            (line("", 1), InvalidKeys::Id(1)),
            (line("A", 1), InvalidKeys::Id(1)),
            (line(&"a".repeat(33), 1), InvalidKeys::Id(1)),
            ("a:c2VjcmV0".to_owned(), InvalidKeys::Bytes(1)),
            (line("a", 1).replace('=', ""), InvalidKeys::Bytes(1)),
            (format!("{}#\n{}", line("a", 1), line("a", 2)), InvalidKeys::Twice(3)),
        ] {
            let error = ServerKeys::parse(&text).unwrap_err();
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn keys_do_not_print_themselves() {
        let keys = ServerKeys::generate([7; 32], [0; 4]);
        let derived = keys.derive("x");
        assert_eq!(format!("{keys:?}"), r#"ServerKeys(["00000000"])"#);
        assert_eq!(format!("{derived:?}"), r#"DerivedKeys([DerivedKey("00000000")])"#);
    }
}
