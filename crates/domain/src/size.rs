//! Sizes and positions in bytes. Both are `u64` on every machine and stay within the range of a database
//! integer.

use std::fmt;

/// The largest size or position: 2^63 - 1, the maximum of a signed database integer.
pub const MAX_BYTES: u64 = i64::MAX as u64;

/// A position in an upload: the number of bytes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(u64);

/// The size of a whole upload in bytes, as its client declared it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Length(u64);

impl Offset {
    pub const ZERO: Self = Self(0);

    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= MAX_BYTES { Some(Self(bytes)) } else { None }
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the position `count` bytes later, or `None` if it is beyond [`MAX_BYTES`].
    pub fn plus(self, count: u64) -> Option<Self> {
        self.0.checked_add(count).and_then(Self::new)
    }
}

impl Length {
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= MAX_BYTES { Some(Self(bytes)) } else { None }
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// Reports whether an upload of this length may have bytes up to `end`.
    pub fn admits(self, end: Offset) -> bool {
        end.0 <= self.0
    }

    pub fn is_reached_by(self, offset: Offset) -> bool {
        offset.0 >= self.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses a number of bytes written as ASCII digits and nothing else.
///
/// `u64::from_str` accepts `+5`, which every protocol here forbids (tus 1.0, Upload-Length and Upload-Offset:
/// non-negative integers), so digits are checked first.
pub fn parse_bytes(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|bytes| *bytes <= MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_a_size() {
        for (text, expected) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("9223372036854775807", Some(MAX_BYTES)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("+5", None),
            ("-1", None),
            (" 5", None),
            ("5 ", None),
            ("0x10", None),
            ("1e3", None),
            ("٣", None),
            ("", None),
        ] {
            assert_eq!(parse_bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn positions_do_not_wrap() {
        assert_eq!(Offset::new(MAX_BYTES).and_then(|end| end.plus(1)), None);
        assert_eq!(Offset::ZERO.plus(u64::MAX), None);
        assert_eq!(Offset::new(u64::MAX), None);
    }
}
