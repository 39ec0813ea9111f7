//! Parses the file name in a `Content-Disposition` (RFC 6266), from arbitrary bytes of a client.

use crate::names;

/// Returns the name: `filename*` takes precedence over `filename`. An invalid field has no name.
///
/// The name is returned as the client sent it, including paths and control characters.
pub(super) fn file_name(value: &[u8]) -> Option<String> {
    let mut rest = Cursor(value);
    rest.token()?;
    let (mut plain, mut extended) = (None, None);
    while rest.skip(b';')? {
        if rest.0.is_empty() {
            break;
        }
        let name = rest.token()?.to_ascii_lowercase();
        if !rest.skip(b'=')? {
            return None;
        }
        let value = rest.value()?;
        let known = match name.as_slice() {
            b"filename" => &mut plain,
            b"filename*" => &mut extended,
            _ => continue,
        };
        // RFC 6266, 4.1: a repeated parameter makes the field invalid.
        if known.replace(value).is_some() {
            return None;
        }
    }
    let plain = || plain.map(|value| names::with_words_decoded(&names::text(value)));
    extended.and_then(|value| names::extended(&value)).or_else(plain)
}

/// The rest of a field.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Skips one character and the whitespace around it. Returns `Some(false)` at the end, and `None` at any
    /// other character.
    fn skip(&mut self, expected: u8) -> Option<bool> {
        match self.0.trim_ascii_start().split_first() {
            None => Some(false),
            Some((first, rest)) if *first == expected => {
                self.0 = rest.trim_ascii_start();
                Some(true)
            }
            Some(_) => None,
        }
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let end = self.0.iter().position(|byte| !is_token(byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// Parses a token or a quoted string.
    fn value(&mut self) -> Option<Vec<u8>> {
        let Some(mut quoted) = self.0.strip_prefix(b"\"") else { return self.token().map(<[u8]>::to_vec) };
        let mut value = Vec::new();
        loop {
            let (byte, rest) = quoted.split_first()?;
            quoted = rest;
            match byte {
                b'"' => {
                    self.0 = quoted;
                    return Some(value);
                }
                b'\\' => {
                    let (escaped, rest) = quoted.split_first()?;
                    value.push(*escaped);
                    quoted = rest;
                }
                byte => value.push(*byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_is_found_or_there_is_none() {
        let cases: [(&[u8], Option<&str>); 29] = [
            (b"inline; filename=video.mp4", Some("video.mp4")),
            (b"attachment; filename=\"my video.mp4\"", Some("my video.mp4")),
            (b"INLINE ; FileName = \"a;b.mp4\" ; size=5", Some("a;b.mp4")),
            (b"inline; filename=\"say \\\"hi\\\".mp4\"", Some("say \"hi\".mp4")),
            (b"inline; filename=plain.mp4; filename*=UTF-8''Gr%C3%BC%C3%9Fe.mp4", Some("Gr\u{fc}\u{df}e.mp4")),
            (b"inline; filename*=utf-8'de'Gr%C3%BC%C3%9Fe.mp4; filename=plain.mp4", Some("Gr\u{fc}\u{df}e.mp4")),
            (b"inline; filename*=iso-8859-1''%A3.mp4", Some("\u{a3}.mp4")),
            (b"inline; filename*=koi8-r''x.mp4; filename=plain.mp4", Some("plain.mp4")),
            (b"inline; filename*=UTF-8''%FF; filename=plain.mp4", Some("plain.mp4")),
            (b"inline; filename*=UTF-8''%FF", None),
            (b"inline; filename*=UTF-8''; filename=plain.mp4", Some("plain.mp4")),
            (b"inline; filename*=UTF-8''%zz.mp4; filename=plain.mp4", Some("plain.mp4")),
            (b"inline; filename*=UTF-8''100%; filename=plain.mp4", Some("plain.mp4")),
            (b"inline; filename=video.mp4; ", Some("video.mp4")),
            (b"inline; filename=\"Gr\xc3\xbc\xc3\x9fe.mp4\"", Some("Gr\u{fc}\u{df}e.mp4")),
            (b"inline; filename=\"\xa3.mp4\"", Some("\u{a3}.mp4")),
            (b"inline; filename=\"=?utf-8?B?w6QubXA0?=\"", Some("\u{e4}.mp4")),
            (b"form-data; name=\"file\"; filename=\"\"", Some("")),
            (b"inline", None),
            (b"inline;", None),
            (b"", None),
            (b"; filename=x", None),
            (b"filename=x", None),
            (b"inline; filename", None),
            (b"inline; filename=", None),
            (b"inline; filename=\"x", None),
            (b"inline; filename=\"x\\", None),
            (b"inline; filename=a b", None),
            (b"inline; filename=a; filename=b", None),
        ];
        for (value, expected) in cases {
            let shown = String::from_utf8_lossy(value);
            assert_eq!(file_name(value).as_deref(), expected, "ietf 36, 37: {shown}");
        }
    }

    proptest! {
        #[test]
        fn any_name_survives_its_quotes(name in "\\PC{0,40}") {
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            let field = format!("inline; filename=\"{quoted}\"");
            prop_assert_eq!(file_name(field.as_bytes()), Some(name));
        }

        #[test]
        fn no_bytes_confuse_it(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let name = file_name(&[b"inline; filename=".as_slice(), &value].concat());
            prop_assert!(name.is_none_or(|name| name.len() <= 2 * value.len()));
        }
    }
}
