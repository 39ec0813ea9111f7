//! The resume token of backends that keep a blob as one run of bytes: the offset up to which it is durable.

use std::io;

use crate::Resume;

/// First byte of every token, so that another layout can be recognized later.
const VERSION: u8 = 1;

/// The length of a token.
pub(crate) const TOKEN_BYTES: usize = 9;

/// Encodes the token of a blob that is durable up to `end`.
pub(crate) fn encode(end: u64) -> Resume {
    let mut bytes = Vec::with_capacity(TOKEN_BYTES);
    bytes.push(VERSION);
    bytes.extend_from_slice(&end.to_le_bytes());
    Resume::from_bytes(bytes)
}

/// Decodes the offset at which writing resumes. No token means that nothing was ever durable.
pub(crate) fn decode(from: Option<&Resume>) -> io::Result<u64> {
    let Some(token) = from else { return Ok(0) };
    match token.as_bytes() {
        [VERSION, end @ ..] => end.try_into().map(u64::from_le_bytes).map_err(|_| garbage()),
        _ => Err(garbage()),
    }
}

/// Checks that a token may cover bytes up to `end`, where `highest` is the end of the highest byte written.
pub(crate) fn check_reach(end: u64, highest: u64) -> io::Result<()> {
    if end <= highest {
        return Ok(());
    }
    let beyond = format!("the blob cannot end at byte {end}, because nothing was written beyond byte {highest}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, beyond))
}

/// Checks that a blob that is durable up to `end` may be finished with this many bytes.
pub fn check_size(end: u64, size_bytes: u64) -> io::Result<()> {
    if end == size_bytes {
        return Ok(());
    }
    let differs = format!("it cannot be finished with {size_bytes} bytes, because {end} are durable");
    Err(io::Error::new(io::ErrorKind::InvalidInput, differs))
}

fn garbage() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the resume token does not belong to this store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_it_was_made_of() {
        for end in [0, 1, 1 << 40, u64::MAX] {
            assert_eq!(decode(Some(&encode(end))).ok(), Some(end));
        }
        assert_eq!(decode(None).ok(), Some(0));
    }

    #[test]
    fn garbage_is_not_taken_for_an_offset() {
        let other_version = [2, 0, 0, 0, 0, 0, 0, 0, 0];
        for wrong in [&b""[..], b"\x01", b"\x01\0\0\0", &other_version, &[1; 10], b"{\"end\":9}"] {
            let error = decode(Some(&Resume::from_bytes(wrong.to_vec()))).expect_err("garbage");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{wrong:?}");
        }
    }
}
