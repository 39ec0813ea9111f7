//! Metadata that a client sends with its upload: a bounded list of named values.

use crate::media_type;

/// Names with values, in the order given. Values are bytes and need not be text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata(Vec<(String, Vec<u8>)>);

/// The maximum number of pairs for one upload.
pub const MAX_PAIRS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMetadata {
    #[error("it has a key twice")]
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

    /// Returns the file name that the client gave (`filename`, else `name`, else `objectName`) in a form safe
    /// to display: text without control characters, without a leading path, at most 255 bytes. It never names
    /// a stored file.
    pub fn file_name(&self) -> Option<String> {
        let text = self.texts(&["filename", "name", "objectname"]).next()?;
        let last = text.rsplit(['/', '\\']).next().unwrap_or_default();
        let shown: String = last.chars().filter(|c| !c.is_control() && !is_invisible(*c)).collect();
        let shown = shortened(shown.trim());
        (!matches!(shown.as_str(), "" | "." | "..")).then_some(shown)
    }

    /// Returns the media type that the client gave (`filetype`, else `type`, `contentType` or `mimeType`),
    /// valid as a header field value. A value that is not a media type is ignored.
    pub fn content_type(&self) -> Option<String> {
        let mut texts = self.texts(&["filetype", "type", "contenttype", "mimetype"]);
        texts.find_map(media_type::well_formed)
    }

    /// Returns the text values of these names, in the order of `names`. Different spellings count as one
    /// name: `contentType`, `content_type` and `Content-Type`.
    fn texts(&self, names: &'static [&str]) -> impl Iterator<Item = &str> {
        names.iter().flat_map(move |name| {
            let pairs = self.0.iter().filter(move |(known, _)| is_spelling_of(known, name));
            pairs.filter_map(|(_, value)| std::str::from_utf8(value).ok()).filter(|text| !text.is_empty())
        })
    }
}

/// Reports whether `given` is a spelling of `name`: letter case and the separators `_` and `-` are ignored.
fn is_spelling_of(given: &str, name: &str) -> bool {
    let letters = given.bytes().filter(|byte| !b"_-".contains(byte)).map(|byte| byte.to_ascii_lowercase());
    letters.eq(name.bytes())
}

/// Reports whether a character is invisible or changes the display of the text around it. Such characters can
/// disguise `exe.mp4` as another name.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// The longest file name that file systems accept, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// The longest extension, including its dot, that is kept when a name is shortened.
const MAX_ENDING_BYTES: usize = 16;

/// Shortens a name to the limit and keeps its extension.
fn shortened(name: &str) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name.to_owned();
    }
    let ending = name.rfind('.').map_or("", |dot| &name[dot..]);
    let ending = if ending.len() <= MAX_ENDING_BYTES { ending } else { "" };
    let stem = &name[..name.floor_char_boundary(MAX_NAME_BYTES - ending.len())];
    format!("{stem}{ending}")
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
        for good in ["video/mp4", "text/plain; charset=utf-8", "video/webm; codecs=\"vp8, opus\""] {
            assert_eq!(metadata("filetype", good).content_type().as_deref(), Some(good));
        }
        for bad in ["video", "video/mp4\r\nX: y", "a/b/c d"] {
            assert_eq!(metadata("filetype", bad).content_type(), None, "{bad:?}");
        }
    }

    #[test]
    fn name_and_type_are_found_however_their_keys_are_spelled() {
        for key in
            ["filetype", "fileType", "type", "contentType", "content_type", "Content-Type", "mime_type", "mimetype"]
        {
            assert_eq!(metadata(key, "video/mp4").content_type().as_deref(), Some("video/mp4"), "{key}");
        }
        for key in ["filename", "fileName", "file_name", "Name", "objectName", "object_name"] {
            assert_eq!(metadata(key, "a/b.mp4").file_name().as_deref(), Some("b.mp4"), "{key}");
        }
        let several = [("type", "avatar"), ("objectName", "c.mp4"), ("mimeType", "image/png"), ("name", "b.mp4")];
        let pairs = several.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())).to_vec();
        let several = Metadata::new(pairs).unwrap();
        assert_eq!(several.content_type().as_deref(), Some("image/png"), "a value that is no media type is ignored");
        assert_eq!(several.file_name().as_deref(), Some("b.mp4"), "a name says more than a path");
    }

    #[test]
    fn names_are_unique_and_bounded() {
        let pair = |name: &str| (name.to_owned(), Vec::new());
        assert_eq!(Metadata::new(vec![pair("a"), pair("a")]), Err(BadMetadata::RepeatedName));
        let many = (0..=MAX_PAIRS).map(|i| pair(&i.to_string())).collect();
        assert_eq!(Metadata::new(many), Err(BadMetadata::TooManyPairs));
    }
}
