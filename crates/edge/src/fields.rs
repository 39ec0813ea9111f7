//! Request header fields as plain text, independent of the HTTP crate.

use std::borrow::Cow;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Standard base64, with or without padding.
pub const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads header fields by their lower-case names.
pub trait Fields {
    /// Returns all values of a field, in order, as bytes.
    fn values<'a>(&'a self, name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a>;

    fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }
}

/// A field that is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadField {
    pub field: &'static str,
    pub problem: Cow<'static, str>,
}

impl BadField {
    pub fn new(field: &'static str, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { field, problem: problem.into() }
    }
}

/// Returns the text of a field that is allowed once. A repeated field is an error; no value is picked.
pub fn single<'a>(fields: &'a dyn Fields, field: &'static str) -> Result<Option<&'a str>, BadField> {
    let mut values = fields.values(field);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadField::new(field, "must not be sent more than once"));
    }
    text(field, value).map(Some)
}

/// Returns the media type of the body, in lower case and without parameters.
pub fn media_type(fields: &dyn Fields) -> Result<Option<String>, BadField> {
    Ok(single(fields, "content-type")?.map(domain::media_type::essence))
}

/// Returns all values of a list field, joined (RFC 9110, 5.2). Empty lines add nothing.
pub fn joined(fields: &dyn Fields, field: &'static str) -> Result<Option<String>, BadField> {
    let mut values: Vec<&str> = fields.values(field).map(|value| text(field, value)).collect::<Result<_, _>>()?;
    values.retain(|value| !value.is_empty());
    Ok((!values.is_empty()).then(|| values.join(",")))
}

fn text<'a>(field: &'static str, value: &'a [u8]) -> Result<&'a str, BadField> {
    let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    match std::str::from_utf8(value) {
        Ok(text) if printable => Ok(text.trim_matches([' ', '\t'])),
        _ => Err(BadField::new(field, "must contain only printable ASCII characters")),
    }
}

/// Fields defined by a test or built by a client.
impl Fields for Vec<(&'static str, &'static str)> {
    fn values<'a>(&'a self, name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
        Box::new(
            self.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_bytes()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Raw<'v>(&'v [&'v [u8]]);

    impl Fields for Raw<'_> {
        fn values<'a>(&'a self, _name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
            Box::new(self.0.iter().copied())
        }
    }

    #[test]
    fn a_field_that_may_stand_once_does() {
        let cases: [(&[&[u8]], _); 11] = [
            (&[], Ok(None)),
            (&[b"5"], Ok(Some("5"))),
            (&[b" \t5 \t"], Ok(Some("5"))),
            (&[b""], Ok(Some(""))),
            (&[b"5", b"5"], Err("must not be sent more than once")),
            (&[b"5", b""], Err("must not be sent more than once")),
            (&[b"\xc3\xbc"], Err("must contain only printable ASCII characters")),
            (&[b"\xff"], Err("must contain only printable ASCII characters")),
            (&[b"a\0b"], Err("must contain only printable ASCII characters")),
            (&[b"a\x7f"], Err("must contain only printable ASCII characters")),
            (&[b"a\r\nb"], Err("must contain only printable ASCII characters")),
        ];
        for (values, expected) in cases {
            let fields = Raw(values);
            let read = single(&fields, "upload-length");
            let expected = expected.map_err(|problem| BadField::new("upload-length", problem));
            assert_eq!(read, expected, "{values:?}");
        }
    }

    #[test]
    fn a_list_is_all_its_lines() {
        let cases: [(&[&[u8]], _); 7] = [
            (&[], Ok(None)),
            (&[b""], Ok(None)),
            (&[b"", b" "], Ok(None)),
            (&[b"a"], Ok(Some("a"))),
            (&[b"a,b", b" c "], Ok(Some("a,b,c"))),
            (&[b"a", b"", b"b"], Ok(Some("a,b"))),
            (&[b"a", b"\xff"], Err(())),
        ];
        for (values, expected) in cases {
            let read = joined(&Raw(values), "upload-metadata");
            assert_eq!(read.as_ref().map(Option::as_deref).map_err(|_| ()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_bad_field_says_which_and_why() {
        let error = single(&Raw(&[b"a", b"b"]), "upload-offset").unwrap_err();
        assert_eq!(error.to_string(), "upload-offset: must not be sent more than once");
    }
}
