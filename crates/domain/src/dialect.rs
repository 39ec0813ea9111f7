//! Names of the protocols that uploads are created with. The dialects themselves define which names exist.

use std::fmt;

/// The name of the protocol that an upload was created with; later requests must use the same protocol.
///
/// A name has 1 to [`Self::MAX_BYTES`] lower-case letters and digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dialect {
    /// The name, padded with zeros.
    name: [u8; Self::MAX_BYTES],
    len: u8,
}

impl Dialect {
    pub const MAX_BYTES: usize = 15;

    /// Makes a name that is known at compile time.
    ///
    /// # Panics
    ///
    /// If the text is not a valid name. In a constant this is a compile error.
    pub const fn named(name: &'static str) -> Self {
        match Self::read(name.as_bytes()) {
            Some(dialect) => dialect,
            None => panic!("not the name of a dialect"),
        }
    }

    /// Reads a stored name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::read(name.as_bytes())
    }

    pub fn name(&self) -> &str {
        // The bytes are always ASCII.
        std::str::from_utf8(&self.name[..usize::from(self.len)]).unwrap_or_default()
    }

    const fn read(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return None;
        }
        let mut name = [0; Self::MAX_BYTES];
        let mut len = 0;
        while (len as usize) < text.len() {
            let byte = text[len as usize];
            if !byte.is_ascii_lowercase() && !byte.is_ascii_digit() {
                return None;
            }
            name[len as usize] = byte;
            len += 1;
        }
        Some(Self { name, len })
    }
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for name in ["tus", "x", "s3", "abcdefghijklmno"] {
            assert_eq!(Dialect::by_name(name).map(|dialect| dialect.name().to_owned()).as_deref(), Some(name));
        }
        for wrong in ["", "Tus", "a-b", "a b", "ä", "abcdefghijklmnop"] {
            assert_eq!(Dialect::by_name(wrong), None, "{wrong:?}");
        }
        assert_eq!(Dialect::named("tus"), Dialect::by_name("tus").unwrap());
        assert_ne!(Dialect::named("tus"), Dialect::named("tus1"));
    }
}
