//! The resume token of an open blob, and the object that holds what would make the token too long.
//!
//! A token names the multipart upload, its newest parts, and the tails behind them. When it grows too long,
//! all parts so far are written to a small object, and the token names that one instead. A token and what it
//! names never change, so the caller's commit of a token makes its offset true at once, parts included.

use std::io;

use crate::parts::{Extra, Multipart, Part, Tail};
use storage::Resume;

/// Maximum length of a token. Databases keep values up to about this length beside the other values of a row.
pub(crate) const MOST_TOKEN_BYTES: usize = 1536;

/// Maximum length of the identifier of a multipart upload.
pub(crate) const MOST_UPLOAD_ID_BYTES: usize = 640;

/// The first byte of a token and of a list of parts. Those of other stores begin with others.
const TOKEN: u8 = b'O';
const PARTS: u8 = b'P';

const MD5_BYTES: usize = 16;

/// The state of an open blob.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stored {
    pub(crate) part_bytes: u64,
    /// The multipart upload, if one was begun.
    pub(crate) upload: Option<Multipart>,
    pub(crate) parts: Vec<Part>,
    pub(crate) tails: Vec<Tail>,
}

/// The object that lists the first parts of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartList {
    pub(crate) name: Extra,
    pub(crate) count: usize,
}

/// The content of a token: the state, without the parts that a list has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Token {
    /// Without the first `list.count` parts.
    pub(crate) stored: Stored,
    pub(crate) list: Option<PartList>,
    /// Number of bytes of the parts that the list has.
    pub(crate) listed_bytes: u64,
}

impl Stored {
    /// Returns the number of bytes in parts.
    pub(crate) fn parts_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.length_bytes).sum()
    }

    pub(crate) fn tails_bytes(&self) -> u64 {
        self.tails.iter().map(|tail| tail.length_bytes).sum()
    }

    pub(crate) fn end(&self) -> u64 {
        self.parts_bytes() + self.tails_bytes()
    }

    /// Returns the token of this state, the first parts of which `list` has. `None` if it would be too long.
    pub(crate) fn token(&self, list: Option<PartList>) -> Option<Resume> {
        let listed = list.map_or(0, |list| list.count);
        let mut to = vec![TOKEN];
        put(&mut to, self.part_bytes);
        put_bytes(&mut to, self.upload.as_ref().map_or("", |upload| &upload.id).as_bytes());
        to.push(u8::from(self.upload.as_ref().is_some_and(|upload| upload.has_checksums)));
        put(&mut to, listed as u64);
        if let Some(list) = list {
            put_extra(&mut to, list.name);
            put(&mut to, self.parts[..listed].iter().map(|part| part.length_bytes).sum());
        }
        put_parts(&mut to, &self.parts[listed..]);
        put(&mut to, self.tails.len() as u64);
        for tail in &self.tails {
            put_extra(&mut to, tail.name);
            put(&mut to, tail.length_bytes);
        }
        sealed(to, MOST_TOKEN_BYTES).map(Resume::from_bytes)
    }
}

impl Token {
    /// Decodes a token. None means that nothing was ever durable.
    pub(crate) fn decode(from: Option<&Resume>) -> io::Result<Self> {
        let Some(from) = from else { return Ok(Self::default()) };
        let read = |from: &mut Reader<'_>| {
            let part_bytes = from.number()?;
            let id = String::from_utf8(from.bytes()?.to_vec()).ok()?;
            let has_checksums = from.byte()? == 1;
            let count = from.count()?;
            let (mut list, mut listed_bytes) = (None, 0);
            if count > 0 {
                list = Some(PartList { name: from.extra()?, count });
                listed_bytes = from.number()?;
            }
            let parts = from.parts()?;
            let tails = (0..from.count()?).map(|_| Some(Tail { name: from.extra()?, length_bytes: from.number()? }));
            let tails = tails.collect::<Option<_>>()?;
            let upload = Some(Multipart { id, has_checksums }).filter(|upload| !upload.id.is_empty());
            Some(Self { stored: Stored { part_bytes, upload, parts, tails }, list, listed_bytes })
        };
        Reader::open(from.as_bytes(), TOKEN, read).ok_or_else(garbage)
    }

    pub(crate) fn end(&self) -> u64 {
        self.listed_bytes.saturating_add(self.stored.end())
    }
}

/// Returns the content of the object that lists these parts.
pub(crate) fn list_of(parts: &[Part]) -> Vec<u8> {
    let mut to = vec![PARTS];
    put_parts(&mut to, parts);
    sealed(to, usize::MAX).unwrap_or_default()
}

/// Reads the parts from such an object.
pub(crate) fn read_list(bytes: &[u8]) -> io::Result<Vec<Part>> {
    Reader::open(bytes, PARTS, Reader::parts).ok_or_else(garbage)
}

/// Adds the checksum by which garbage is recognized. `None` if it is too long.
fn sealed(mut bytes: Vec<u8>, most_bytes: usize) -> Option<Vec<u8>> {
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    (bytes.len() <= most_bytes).then_some(bytes)
}

/// Appends a number in as many bytes as it needs, seven bits in each.
fn put(to: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            return to.push(low);
        }
        to.push(low | 0x80);
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    put(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_extra(to: &mut Vec<u8>, extra: Extra) {
    to.extend_from_slice(&extra.opening.to_le_bytes());
    put(to, extra.number.into());
}

/// Appends parts. Their lengths are mostly the same, and their tags mostly an MD5 in hexadecimal digits.
fn put_parts(to: &mut Vec<u8>, parts: &[Part]) {
    put(to, parts.len() as u64);
    let mut length_bytes = 0;
    for part in parts {
        let (same_length, md5) = (part.length_bytes == length_bytes, from_hex(&part.etag));
        to.push(u8::from(same_length) | u8::from(md5.is_some()) << 1 | u8::from(part.crc32c.is_some()) << 2);
        if !same_length {
            length_bytes = part.length_bytes;
            put(to, length_bytes);
        }
        match md5 {
            Some(md5) => to.extend_from_slice(&md5),
            None => put_bytes(to, part.etag.as_bytes()),
        }
        to.extend(part.crc32c.iter().flat_map(|crc32c| crc32c.to_le_bytes()));
    }
}

fn from_hex(text: &str) -> Option<[u8; MD5_BYTES]> {
    let is_plain = text.len() == 2 * MD5_BYTES && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; MD5_BYTES];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2).filter(|_| is_plain)?, 16).ok()?;
    }
    Some(bytes)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what the functions above have written. Everything is `None` behind the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn open<T>(bytes: &'a [u8], kind: u8, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let (content, crc32c) = bytes.split_last_chunk()?;
        if crc32c::crc32c(content) != u32::from_le_bytes(*crc32c) {
            return None;
        }
        let mut reader = Self(content.strip_prefix(&[kind])?);
        read(&mut reader).filter(|_| reader.0.is_empty())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// Reads the number of things that follow, each at least a byte long.
    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= crate::parts::MOST_PARTS)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn extra(&mut self) -> Option<Extra> {
        let opening = u64::from_le_bytes(self.take(8)?.try_into().ok()?);
        Some(Extra { opening, number: u32::try_from(self.number()?).ok()? })
    }

    fn parts(&mut self) -> Option<Vec<Part>> {
        let mut length_bytes = 0;
        let mut parts = Vec::new();
        for _ in 0..self.count()? {
            let flags = self.byte()?;
            if flags & 1 == 0 {
                length_bytes = self.number()?;
            }
            let etag = match flags & 2 {
                0 => std::str::from_utf8(self.bytes()?).ok()?.into(),
                _ => to_hex(self.take(MD5_BYTES)?).into(),
            };
            let crc32c = match flags & 4 {
                0 => None,
                _ => Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            };
            parts.push(Part { length_bytes, etag, crc32c });
        }
        Some(parts)
    }
}

fn garbage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the resume token does not belong to this store")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: usize) -> Part {
        let etag = match number % 7 {
            0 => format!("\"odd\"-{number}"),
            _ => to_hex(&[u8::try_from(number % 256).unwrap(); MD5_BYTES]),
        };
        let length_bytes = if number.is_multiple_of(5) { 5 << 20 } else { 8 << 20 };
        Part {
            length_bytes,
            etag: etag.into(),
            crc32c: number.is_multiple_of(2).then_some(u32::try_from(number).unwrap()),
        }
    }

    fn stored(parts: usize, tails: u32) -> Stored {
        let tail = |number| Tail { name: Extra { opening: u64::MAX, number }, length_bytes: u64::from(number) + 1 };
        Stored {
            part_bytes: 8 << 20,
            upload: Some(Multipart { id: "x".repeat(MOST_UPLOAD_ID_BYTES), has_checksums: parts.is_multiple_of(3) }),
            parts: (0..parts).map(part).collect(),
            tails: (0..tails).map(tail).collect(),
        }
    }

    #[test]
    fn a_token_says_what_it_was_made_of() {
        for stored in [Stored::default(), stored(0, 1), stored(3, 16), stored(20, 0)] {
            let token = Token::decode(Some(&stored.token(None).unwrap())).unwrap();
            assert_eq!((token.end(), token.list, token.stored), (stored.end(), None, stored));
        }
        assert_eq!(Token::decode(None).unwrap(), Token::default());
    }

    #[test]
    fn a_list_replaces_the_first_parts() {
        let whole = stored(9_000, 16);
        assert!(whole.token(None).is_none(), "too long");
        let list = PartList { name: Extra { opening: 7, number: 3 }, count: 8_990 };
        let resume = whole.token(Some(list)).unwrap();
        assert!(resume.as_bytes().len() <= MOST_TOKEN_BYTES);
        let token = Token::decode(Some(&resume)).unwrap();
        assert_eq!((token.list, token.end()), (Some(list), whole.end()));
        let mut parts = read_list(&list_of(&whole.parts[..list.count])).unwrap();
        parts.extend(token.stored.parts);
        assert_eq!(parts, whole.parts);
    }

    #[test]
    fn a_token_has_room_for_the_parts_of_some_hundred_megabytes() {
        let plain = |_| Part { length_bytes: 8 << 20, etag: to_hex(&[0xab; MD5_BYTES]).into(), crc32c: Some(7) };
        let parts = (0..25).map(plain).collect();
        assert!(Stored { parts, ..stored(0, 16) }.token(None).is_some());
    }

    #[test]
    fn garbage_is_no_token() {
        let good = stored(5, 2).token(None).unwrap().into_bytes();
        for place in 0..good.len() {
            let mut wrong = good.clone();
            wrong[place] ^= 0x10;
            assert!(Token::decode(Some(&Resume::from_bytes(wrong))).is_err(), "bit at {place}");
            assert!(Token::decode(Some(&Resume::from_bytes(good[..place].to_vec()))).is_err(), "cut at {place}");
        }
        let list = list_of(&stored(5, 0).parts);
        assert!(Token::decode(Some(&Resume::from_bytes(list))).is_err(), "a list is no token");
        let error = Token::decode(Some(&Resume::from_bytes(vec![1; 9]))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
