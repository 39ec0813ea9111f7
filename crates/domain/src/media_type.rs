//! Media types as clients write them (RFC 9110, 8.3.1).
//!
//! Recorders in browsers put a list of codecs into an unquoted parameter, and other clients leave a stray
//! semicolon behind. The reader accepts both, and always returns a media type that conforms to the RFC.

/// The longest media type that is kept, in bytes.
const MAX_BYTES: usize = 255;

/// Types that carry no information about the content.
const GENERIC: [&str; 5] =
    ["application/octet-stream", "binary/octet-stream", "application/binary", "application/unknown", "unknown/unknown"];

/// Returns type and subtype of a `Content-Type`, in lower case and without parameters, even if the value is
/// not well-formed.
pub fn essence(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim_matches(BLANKS).to_ascii_lowercase()
}

/// Reports whether a media type carries no information about the content, or is a range of types: file
/// pickers pass on the `video/*` that they were opened with.
pub fn is_generic(value: &str) -> bool {
    let essence = essence(value);
    GENERIC.contains(&essence.as_str()) || essence.ends_with("/*")
}

/// Returns a media type that is valid in a header field, with every parameter that could be parsed; `None`
/// unless type and subtype are two tokens.
pub(super) fn well_formed(text: &str) -> Option<String> {
    let (essence, mut rest) = text.split_at(text.find(';').unwrap_or(text.len()));
    let essence = essence.trim_matches(BLANKS);
    let (kind, subtype) = essence.split_once('/')?;
    if !is_token(kind) || !is_token(subtype) || essence.len() > MAX_BYTES {
        return None;
    }
    let mut whole = essence.to_owned();
    while let Some(after) = rest.strip_prefix(';') {
        let parameter = after.trim_start_matches(BLANKS);
        let separator = if parameter.len() < after.len() { "; " } else { ";" };
        let read;
        (read, rest) = next_parameter(parameter);
        if let Some((name, value)) = read
            && whole.len() + separator.len() + name.len() + 1 + value.len() <= MAX_BYTES
        {
            whole.extend([separator, name, "=", &value]);
        }
    }
    Some(whole)
}

const BLANKS: [char; 2] = [' ', '\t'];

/// Parses one parameter, if it is valid, and returns the rest of the text, starting at the next semicolon.
fn next_parameter(text: &str) -> (Option<(&str, String)>, &str) {
    let Some((name, after)) = text.split_once('=').filter(|(name, _)| !name.contains(';')) else {
        return (None, &text[text.find(';').unwrap_or(text.len())..]);
    };
    let after = after.trim_start_matches(BLANKS);
    let end = match after.strip_prefix('"') {
        Some(quoted) => closing_quote(quoted).map_or(after.len(), |at| at + 2),
        None => after.find(';').unwrap_or(after.len()),
    };
    let (value, rest) = after.split_at(end);
    let rest = &rest[rest.find(';').unwrap_or(rest.len())..];
    let name = name.trim_matches(BLANKS);
    let value = if is_token(name) { printed(value.trim_matches(BLANKS)) } else { None };
    (value.map(|value| (name, value)), rest)
}

/// Finds the closing quote of a quoted string in the text after its opening quote.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// Returns a valid parameter value. A value that is neither a token nor quoted, as in `codecs=vp8,opus`, is
/// quoted.
fn printed(value: &str) -> Option<String> {
    let plain = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    if is_token(value) {
        return Some(value.to_owned());
    }
    if let Some(inner) = value.strip_prefix('"') {
        let is_whole = closing_quote(inner).is_some_and(|at| at + 1 == inner.len());
        return (is_whole && plain(inner)).then(|| value.to_owned());
    }
    let may_be_quoted = !value.is_empty() && plain(value) && !value.contains(['"', '\\']);
    may_be_quoted.then(|| format!("\"{value}\""))
}

/// Reports whether the text is a token (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn types_that_are_well_formed_stay_as_they_are() {
        for text in [
            "video/mp4",
            "Video/MP4",
            "text/plain; charset=utf-8",
            "text/plain;charset=utf-8",
            "application/vnd.api+json",
            "video/webm;codecs=vp9",
            "video/webm; codecs=\"vp8, opus\"",
            "video/mp4;codecs=\"avc1.42E01E, mp4a.40.2\"; profiles=\"a;b\"",
            "text/plain; note=\"say \\\"hi\\\"\"",
            "text/plain; empty=\"\"",
        ] {
            assert_eq!(well_formed(text).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_clients_mean_is_written_by_the_letter() {
        for (text, expected) in [
            ("video/webm;codecs=vp8,opus", "video/webm;codecs=\"vp8,opus\""),
            ("video/x-matroska;codecs=avc1,opus", "video/x-matroska;codecs=\"avc1,opus\""),
            ("video/mp4; codecs=avc1.42E01E, mp4a.40.2", "video/mp4; codecs=\"avc1.42E01E, mp4a.40.2\""),
            ("video/mp4;", "video/mp4"),
            ("video/mp4; ", "video/mp4"),
            ("video/mp4;;codecs=x", "video/mp4;codecs=x"),
            (" video/mp4 ; codecs = x ", "video/mp4; codecs=x"),
            ("video/mp4; =", "video/mp4"),
            ("video/mp4; =x; codecs=y", "video/mp4; codecs=y"),
            ("video/mp4; codecs", "video/mp4"),
            ("video/mp4; codecs; a=b", "video/mp4; a=b"),
            ("video/mp4; codecs=; a=b", "video/mp4; a=b"),
            ("video/mp4; codecs=\"open; a=b", "video/mp4"),
            ("video/mp4; codecs=\"x\"junk; a=b", "video/mp4; codecs=\"x\"; a=b"),
            ("video/mp4; codecs=a\"b; c=d", "video/mp4; c=d"),
            ("video/mp4; n\u{e4}me=x; a=\u{e4}; b=\"\u{e4}\"", "video/mp4"),
            ("video/mp4; a=b\r\nX: y", "video/mp4"),
        ] {
            assert_eq!(well_formed(text).as_deref(), Some(expected), "{text:?}");
        }
        let long = format!("a/b; c=d; e={}; f=g", "x".repeat(MAX_BYTES));
        assert_eq!(well_formed(&long).as_deref(), Some("a/b; c=d; f=g"));
    }

    #[test]
    fn what_has_no_type_and_subtype_is_none() {
        let long = format!("a/{}", "b".repeat(MAX_BYTES));
        for text in
            ["", "video", "video/", "/mp4", "a/b/c d", "a b/c", "vid\u{e9}o/mp4", "video/mp4\r\nX: y", ";a/b", &long]
        {
            assert_eq!(well_formed(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_essence_decides_what_is_generic() {
        assert_eq!(essence(" Video/MP4 ; codecs=x"), "video/mp4");
        for (text, expected) in [
            ("application/octet-stream", true),
            ("Binary/Octet-Stream; charset=binary", true),
            ("*/*", true),
            ("video/*", true),
            ("Image/*; q=1", true),
            ("video/mp4", false),
            ("", false),
        ] {
            assert_eq!(is_generic(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_handed_on_is_read_as_the_same(text in "[a-z/;=\", \\\\\u{e4}\r\n]{0,40}") {
            if let Some(whole) = well_formed(&text) {
                prop_assert!(whole.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{:?}", whole);
                prop_assert_eq!(well_formed(&whole), Some(whole));
            }
        }
    }
}
