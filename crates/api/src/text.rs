//! Values that are usually text but may be arbitrary bytes.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A string if the bytes are UTF-8, otherwise `{"base64": "…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text<'a> {
    Plain(Cow<'a, str>),
    Encoded { base64: String },
}

impl Default for Text<'_> {
    fn default() -> Self {
        Self::Plain(Cow::Borrowed(""))
    }
}

impl<'a> From<&'a [u8]> for Text<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.into()),
            Err(_) => Self::Encoded { base64: STANDARD.encode(bytes) },
        }
    }
}

impl Text<'_> {
    /// Returns the bytes of the value; `None` if `base64` is not valid base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Plain(text) => Some(text.as_bytes().to_vec()),
            Self::Encoded { base64 } => STANDARD.decode(base64).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_plain_and_everything_else_is_base64() {
        for (bytes, json) in [(&b"gr\xc3\xbcn"[..], r#""grün""#), (&[0xff, 0][..], r#"{"base64":"/wA="}"#)] {
            assert_eq!(serde_json::to_string(&Text::from(bytes)).unwrap(), json);
            let read: Text<'_> = serde_json::from_str(json).unwrap();
            assert_eq!(read.bytes().as_deref(), Some(bytes));
        }
        assert_eq!(serde_json::from_str::<Text<'_>>(r#"{"base64":"?"}"#).unwrap().bytes(), None);
    }
}
