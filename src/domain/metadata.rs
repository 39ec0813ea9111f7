//! What a client says about its upload: a bounded list of named values.

/// Names with values, in the order given. Values are bytes and need not be text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata(Vec<(String, Vec<u8>)>);

/// The most pairs an upload may carry.
pub const MAX_PAIRS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMetadata {
    #[error("a name stands in it twice")]
    RepeatedName,
    #[error("it has more than {MAX_PAIRS} pairs")]
    TooManyPairs,
}

impl Metadata {
    pub fn new(pairs: Vec<(String, Vec<u8>)>) -> Result<Self, BadMetadata> {
        if pairs.len() > MAX_PAIRS {
            return Err(BadMetadata::TooManyPairs);
        }
        let repeated = pairs.iter().enumerate().any(|(i, (name, _))| pairs[..i].iter().any(|(other, _)| other == name));
        if repeated { Err(BadMetadata::RepeatedName) } else { Ok(Self(pairs)) }
    }

    pub fn pairs(&self) -> &[(String, Vec<u8>)] {
        &self.0
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// The file's name as its client gave it (`filename`, else `name`), fit to be shown: text, no control
    /// characters, no path before it, at most 255 bytes. Never used to name a stored file.
    pub fn file_name(&self) -> Option<String> {
        let text = self.text("filename").or_else(|| self.text("name"))?;
        let last = text.rsplit(['/', '\\']).next().unwrap_or_default();
        let shown: String = last.chars().filter(|c| !c.is_control() && !is_invisible(*c)).collect();
        let shown = shortened(shown.trim());
        (!matches!(shown.as_str(), "" | "." | "..")).then_some(shown)
    }

    /// The media type as its client gave it (`filetype`, else `type` or `contentType`), if it can stand in a
    /// header: `type/subtype` of token characters, with plain parameters.
    pub fn content_type(&self) -> Option<String> {
        let text = ["filetype", "type", "contentType"].into_iter().find_map(|name| self.text(name))?;
        is_media_type(text).then(|| text.to_owned())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok()).filter(|text| !text.is_empty())
    }
}

/// Characters that change how the text around them is shown, used to dress `exe.mp4` up as something else.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// The most bytes that file systems take for a name.
const MAX_NAME_BYTES: usize = 255;

/// The longest ending, with its dot, that is kept when a name is shortened.
const MAX_ENDING_BYTES: usize = 16;

/// A name that is not too long, and says of what kind the file is if it did before.
fn shortened(name: &str) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name.to_owned();
    }
    let ending = name.rfind('.').map_or("", |dot| &name[dot..]);
    let ending = if ending.len() <= MAX_ENDING_BYTES { ending } else { "" };
    let stem = &name[..name.floor_char_boundary(MAX_NAME_BYTES - ending.len())];
    format!("{stem}{ending}")
}

fn is_media_type(text: &str) -> bool {
    let token = |part: &str| !part.is_empty() && part.bytes().all(is_token_byte);
    let mut parts = text.split(';');
    let essence = parts.next().unwrap_or_default().trim_end_matches(' ');
    let named = essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype));
    let parameters = parts.all(|part| {
        part.trim_matches(' ')
            .split_once('=')
            .is_some_and(|(name, value)| token(name) && token(value.trim_matches('"')))
    });
    text.len() <= 255 && named && parameters
}

/// RFC 9110, 5.6.2: the characters of a token.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(name: &str, value: &str) -> Metadata {
        Metadata::new(vec![(name.to_owned(), value.as_bytes().to_vec())]).unwrap()
    }

    #[test]
    fn a_file_name_is_fit_to_be_shown() {
        for (given, shown) in [
            ("video.mp4", Some("video.mp4")),
            ("../../etc/passwd", Some("passwd")),
            ("C:\\films\\one.mp4", Some("one.mp4")),
            ("a\r\nSet-Cookie: x.mp4", Some("aSet-Cookie: x.mp4")),
            ("x\u{202E}4pm.exe", Some("x4pm.exe")),
            ("„Grüße\".mp4", Some("„Grüße\".mp4")),
            ("..", None),
            ("dir/", None),
            ("\0", None),
            ("", None),
        ] {
            assert_eq!(metadata("filename", given).file_name().as_deref(), shown, "{given:?}");
        }
        for (given, shown) in [
            (format!("{}.mp4", "a".repeat(300)), format!("{}.mp4", "a".repeat(251))),
            (format!("{}.mp4", "\u{e4}".repeat(300)), format!("{}.mp4", "\u{e4}".repeat(125))),
            ("\u{1f600}".repeat(300), "\u{1f600}".repeat(63)),
            (format!("a.{}", "b".repeat(300)), format!("a.{}", "b".repeat(253))),
        ] {
            assert!(shown.len() <= 255);
            assert_eq!(metadata("filename", &given).file_name(), Some(shown), "{given:?}");
        }
        assert_eq!(metadata("filename", "a\u{61c}\u{2028}\u{2066}b\u{85}").file_name().as_deref(), Some("ab"));
        assert_eq!(metadata("name", "uppy.mp4").file_name().as_deref(), Some("uppy.mp4"));
    }

    #[test]
    fn a_content_type_must_be_able_to_stand_in_a_header() {
        for good in ["video/mp4", "text/plain; charset=utf-8", "application/x.y+json"] {
            assert_eq!(metadata("filetype", good).content_type().as_deref(), Some(good));
        }
        for bad in ["video", "video/", "/mp4", "video/mp4\r\nX: y", "video/mp4; =", "vidéo/mp4", "a/b/c d"] {
            assert_eq!(metadata("filetype", bad).content_type(), None, "{bad:?}");
        }
    }

    #[test]
    fn names_are_unique_and_bounded() {
        let pair = |name: &str| (name.to_owned(), Vec::new());
        assert_eq!(Metadata::new(vec![pair("a"), pair("a")]), Err(BadMetadata::RepeatedName));
        let many = (0..=MAX_PAIRS).map(|i| pair(&i.to_string())).collect();
        assert_eq!(Metadata::new(many), Err(BadMetadata::TooManyPairs));
    }
}
