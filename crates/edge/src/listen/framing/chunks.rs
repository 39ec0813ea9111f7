//! Chunked bodies: finds their end, or the position where they are invalid (RFC 9112, 7.1).

/// The size limits of one line between the data, and of all trailer fields in total.
const MAX_LINE_BYTES: usize = 4 * 1024;
const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// The position in a chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    expects: Expects,
    /// Bytes of the current line or of the trailer so far.
    line_bytes: usize,
    /// Bytes of data so far, without the framing.
    data_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Expects {
    #[default]
    Size,
    MoreSize(u64),
    Blank(u64),
    Extension(u64),
    SizeFeed(u64),
    Data(u64),
    DataReturn,
    DataFeed,
    TrailerLine,
    Trailer,
    TrailerFeed,
    LastFeed,
    Nothing,
}

/// The result of scanning some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkScan {
    /// All of the bytes belong to the body, and more of it follows.
    All,
    /// The body ends after this many bytes.
    End(usize),
    /// The byte after this many is invalid.
    Broken(usize),
}

impl Chunks {
    /// Scans the next bytes of the body.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> ChunkScan {
        let mut at = 0;
        while at < bytes.len() {
            if let Expects::Data(left) = self.expects {
                let count = left.min((bytes.len() - at) as u64);
                self.expects = if left == count { Expects::DataReturn } else { Expects::Data(left - count) };
                self.data_bytes += count;
                at += usize::try_from(count).unwrap_or(bytes.len() - at);
                continue;
            }
            let Some(next) = self.expects.after(bytes[at]).filter(|next| self.fits(*next)) else {
                return ChunkScan::Broken(at);
            };
            self.expects = next;
            at += 1;
            if next == Expects::Nothing {
                return ChunkScan::End(at);
            }
        }
        ChunkScan::All
    }

    /// Returns the number of bytes of data so far, without the framing.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    fn fits(&mut self, next: Expects) -> bool {
        let most = match next {
            Expects::Data(_) | Expects::DataReturn | Expects::DataFeed | Expects::Size => {
                self.line_bytes = 0;
                return true;
            }
            Expects::MoreSize(_) | Expects::Blank(_) | Expects::Extension(_) | Expects::SizeFeed(_) => MAX_LINE_BYTES,
            Expects::TrailerLine | Expects::Trailer | Expects::TrailerFeed | Expects::LastFeed | Expects::Nothing => {
                MAX_TRAILER_BYTES
            }
        };
        self.line_bytes += 1;
        self.line_bytes <= most
    }
}

impl Expects {
    /// Returns what is expected after this byte; `None` if the byte is invalid here.
    fn after(self, byte: u8) -> Option<Self> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Some(match (self, byte) {
            (Self::Size, _) => Self::MoreSize(digit?),
            (Self::MoreSize(size), _) if digit.is_some() => Self::MoreSize(size.checked_mul(16)?.checked_add(digit?)?),
            (Self::MoreSize(size) | Self::Blank(size), b' ' | b'\t') => Self::Blank(size),
            (Self::MoreSize(size) | Self::Blank(size), b';') => Self::Extension(size),
            (Self::MoreSize(size) | Self::Blank(size) | Self::Extension(size), b'\r') => Self::SizeFeed(size),
            (Self::Extension(size), b'\t' | b' '..=b'~' | 0x80..) => Self::Extension(size),
            (Self::SizeFeed(0), b'\n') => Self::TrailerLine,
            (Self::SizeFeed(size), b'\n') => Self::Data(size),
            (Self::DataReturn, b'\r') => Self::DataFeed,
            (Self::DataFeed, b'\n') => Self::Size,
            (Self::TrailerLine, b'\r') => Self::LastFeed,
            (Self::Trailer, b'\r') => Self::TrailerFeed,
            (Self::TrailerLine | Self::Trailer, b'\t' | b' '..=b'~' | 0x80..) => Self::Trailer,
            (Self::TrailerFeed, b'\n') => Self::TrailerLine,
            (Self::LastFeed, b'\n') => Self::Nothing,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result of scanning a text, which must be the same in one piece and byte by byte.
    fn read(text: &str) -> ChunkScan {
        let whole = Chunks::default().pass(text.as_bytes());
        let mut chunks = Chunks::default();
        let mut singly = ChunkScan::All;
        for (at, byte) in text.bytes().enumerate() {
            singly = match chunks.pass(&[byte]) {
                ChunkScan::All => continue,
                ChunkScan::End(count) => ChunkScan::End(at + count),
                ChunkScan::Broken(count) => ChunkScan::Broken(at + count),
            };
            break;
        }
        assert_eq!(whole, singly, "{text:?}");
        whole
    }

    #[test]
    fn whole_bodies_end_where_they_end() {
        for text in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;name=\"value\"\r\nhello\r\n000\r\n\r\n",
            "5 \t\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\nZ: \r\n\r\n",
        ] {
            assert_eq!(read(text), ChunkScan::End(text.len()), "{text:?}");
            assert_eq!(Chunks::default().pass(format!("{text}GET").as_bytes()), ChunkScan::End(text.len()));
        }
        let mut begun = Chunks::default();
        assert_eq!(begun.pass(b"2\r\nhe\r\na\r\nllo"), ChunkScan::All);
        assert_eq!(begun.data_bytes(), 5);
    }

    #[test]
    fn what_cannot_be_there_is_found_where_it_is() {
        for (text, at) in [
            ("\r\n", 0),
            ("x\r\n", 0),
            ("-5\r\n", 0),
            ("5\nhello", 1),
            ("5\r\nhelloXX0\r\n\r\n", 8),
            ("5\r\nhello\n", 8),
            ("5;\u{1}\r\n", 2),
            ("ffffffffffffffff0\r\n", 16),
            ("0\r\nX: y\n", 7),
            ("0\r\n\rX", 4),
        ] {
            assert_eq!(read(text), ChunkScan::Broken(at), "{text:?}");
        }
    }

    #[test]
    fn lines_between_the_bytes_are_bounded() {
        let long = "x".repeat(MAX_LINE_BYTES);
        assert!(matches!(read(&format!("5;{long}")), ChunkScan::Broken(_)));
        let trailer = format!("X: {}\r\n", "x".repeat(1_000)).repeat(20);
        assert!(matches!(read(&format!("0\r\n{trailer}")), ChunkScan::Broken(_)));
        // The number of lines is not limited.
        assert_eq!(read(&format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(5_000))), ChunkScan::End(5_000 * 6 + 5));
    }
}
