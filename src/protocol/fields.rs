//! Request header fields as plain text, whatever HTTP crate they came from.

use std::borrow::Cow;

/// Reads header fields by their lower-case name.
pub trait Fields {
    /// Every value of a field, in order, as bytes.
    fn values<'a>(&'a self, name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a>;

    fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }
}

/// A field that cannot be read.
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

/// The text of a field that may stand there once. A repeated field is refused rather than guessed at.
pub fn single<'a>(fields: &'a dyn Fields, field: &'static str) -> Result<Option<&'a str>, BadField> {
    let mut values = fields.values(field);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BadField::new(field, "is there more than once"));
    }
    text(field, value).map(Some)
}

/// All values of a field that is a list, joined as one (RFC 9110, 5.2).
pub fn joined(fields: &dyn Fields, field: &'static str) -> Result<Option<String>, BadField> {
    let values: Vec<&str> = fields.values(field).map(|value| text(field, value)).collect::<Result<_, _>>()?;
    Ok((!values.is_empty()).then(|| values.join(",")))
}

fn text<'a>(field: &'static str, value: &'a [u8]) -> Result<&'a str, BadField> {
    let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    match std::str::from_utf8(value) {
        Ok(text) if printable => Ok(text.trim_matches([' ', '\t'])),
        _ => Err(BadField::new(field, "has characters other than printable ASCII")),
    }
}

/// Fields written down in a test or built by a client.
impl Fields for Vec<(&'static str, &'static str)> {
    fn values<'a>(&'a self, name: &'a str) -> Box<dyn Iterator<Item = &'a [u8]> + 'a> {
        Box::new(
            self.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_bytes()),
        )
    }
}
