//! Decodes file names in header fields, from arbitrary bytes of a client. Pure.

use base64::Engine as _;
use percent_encoding::percent_decode_str;

use edge::fields::LENIENT_BASE64;

/// Decodes the value of a parameter such as `filename*` (RFC 8187, 3.2.1):
/// `charset'language'percent-encoded`. Returns `None` if it is empty or invalid.
pub(crate) fn extended(value: &[u8]) -> Option<String> {
    let (charset, encoded) = parts_of_extended(value)?;
    // Percent-decoding keeps invalid escapes as they are. Here an invalid escape is an error of the client,
    // and callers fall back to its plain name, which is intact.
    let mut behind_percents = encoded.split('%').skip(1);
    let is_escape = |text: &str| text.len() >= 2 && text.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    if !behind_percents.all(is_escape) {
        return None;
    }
    in_charset(charset, percent_decode_str(encoded).collect()).filter(|name| !name.is_empty())
}

/// Returns the name in such a value undecoded, for values that are invalid.
pub(crate) fn extended_as_sent(value: &[u8]) -> Option<String> {
    let (_, encoded) = parts_of_extended(value)?;
    Some(encoded.to_owned()).filter(|name| !name.is_empty())
}

fn parts_of_extended(value: &[u8]) -> Option<(&str, &str)> {
    let mut parts = std::str::from_utf8(value).ok()?.splitn(3, '\'');
    let (charset, _language, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    Some((charset, encoded))
}

/// Decodes bytes without a stated charset: browsers send UTF-8, and older software sent ISO-8859-1.
pub(crate) fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).unwrap_or_else(|error| latin1(error.as_bytes()))
}

/// Decodes the encoded words (RFC 2047, 2) in a text, and keeps the rest unchanged. RFC 7578, 4.2, forbids
/// them in forms, but the client of .NET and others send them.
pub(crate) fn with_words_decoded(text: &str) -> String {
    let (mut decoded, mut rest, mut follows_word) = (String::new(), text, false);
    while let Some(at) = rest.find("=?") {
        let (before, word) = rest.split_at(at);
        let Some((plain, after)) = first_word(word) else {
            decoded.push_str(&rest[..at + 2]);
            (rest, follows_word) = (&rest[at + 2..], false);
            continue;
        };
        // RFC 2047, 6.2: whitespace between two words only separates them.
        if !follows_word || !before.trim_matches([' ', '\t']).is_empty() {
            decoded.push_str(before);
        }
        decoded.push_str(&plain);
        (rest, follows_word) = (after, true);
    }
    decoded + rest
}

/// Decodes the encoded word at the beginning of a text, and returns it with the rest.
fn first_word(text: &str) -> Option<(String, &str)> {
    let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
    let (encoding, rest) = rest.split_once('?')?;
    let (encoded, after) = rest.split_once("?=")?;
    let bytes = match encoding {
        "B" | "b" => LENIENT_BASE64.decode(encoded).ok()?,
        "Q" | "q" => quoted_printable(encoded)?,
        _ => return None,
    };
    // RFC 2231, 5: a language may follow the charset.
    let charset = charset.split('*').next().unwrap_or_default();
    Some((in_charset(charset, bytes)?, after))
}

/// Decodes the `Q` encoding (RFC 2047, 4.2).
fn quoted_printable(encoded: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'_' => b' ',
            b'=' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'!'..=b'~' => byte,
            _ => return None,
        });
    }
    Some(bytes)
}

fn in_charset(charset: &str, bytes: Vec<u8>) -> Option<String> {
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" | "us-ascii" => String::from_utf8(bytes).ok(),
        "iso-8859-1" => Some(latin1(&bytes)),
        _ => None,
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_of_mail_headers_are_read() {
        for (text, expected) in [
            ("=?utf-8?B?w6QubXA0?=", "\u{e4}.mp4"),
            ("=?UTF-8?b?w6QubXA0?=", "\u{e4}.mp4"),
            ("=?utf-8?B?YQ?=", "a"),
            ("=?utf-8?Q?=C3=A4_b.mp4?=", "\u{e4} b.mp4"),
            ("=?iso-8859-1?Q?=E4.mp4?=", "\u{e4}.mp4"),
            ("=?utf-8*de?Q?=C3=A4?=", "\u{e4}"),
            ("=?utf-8?B?w6Q=?= =?utf-8?Q?.mp4?=", "\u{e4}.mp4"),
            ("one =?utf-8?Q?two?= three", "one two three"),
            ("video.mp4", "video.mp4"),
            ("=?", "=?"),
            ("=?utf-8?X?abc?=", "=?utf-8?X?abc?="),
            ("=?koi8-r?Q?a?= b", "=?koi8-r?Q?a?= b"),
            ("=?utf-8?Q?=FF?=", "=?utf-8?Q?=FF?="),
            ("=?utf-8?Q?=4?=", "=?utf-8?Q?=4?="),
            ("=?utf-8?B?*?=", "=?utf-8?B?*?="),
            ("=?=?utf-8?Q?a?=", "=?a"),
        ] {
            assert_eq!(with_words_decoded(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_confuses_it(text in "[=?BQutf8_ \u{e4}-]{0,40}") {
            let decoded = with_words_decoded(&text);
            prop_assert!(decoded.len() <= 2 * text.len());
        }
    }
}
