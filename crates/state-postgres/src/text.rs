//! Text with NUL characters, which PostgreSQL cannot store.
//!
//! Clients and receivers choose part of the text in a row, and JSON strings may contain the character too.
//! U+0001 escapes it: U+0001 `0` stands for NUL, and U+0001 U+0001 for U+0001. All other text is stored
//! unchanged.

use std::borrow::Cow;

const ESCAPE: char = '\u{1}';

/// Escapes a text so that PostgreSQL can store it.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            '\0' => escaped.extend([ESCAPE, '0']),
            ESCAPE => escaped.extend([ESCAPE, ESCAPE]),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// Decodes a text that [`escape`] has written.
pub(crate) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains(ESCAPE) {
        return Cow::Borrowed(text);
    }
    let (mut plain, mut letters) = (String::with_capacity(text.len()), text.chars());
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            ESCAPE => match letters.next() {
                Some('0') => '\0',
                other => other.unwrap_or(ESCAPE),
            },
            other => other,
        });
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_survives() {
        for text in ["", "plain", "a\0b", "\0\0", "\u{1}", "\u{1}0", "\u{1}\0", "0\u{1}\u{1}0\0"] {
            let escaped = escape(text);
            assert!(!escaped.contains('\0'));
            assert_eq!(unescape(&escaped), text);
        }
        assert!(matches!(escape("plain"), Cow::Borrowed(_)));
    }
}
