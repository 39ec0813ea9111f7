//! Numbers in headers.

use crate::window::ParseStop;

/// Reads the big-endian number in `N` bytes at `at`; `N` is at most 8.
pub(super) fn be<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, ParseStop> {
    let field: [u8; N] = chunk(bytes, at)?;
    Ok(field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Reads the little-endian number in `N` bytes at `at`; `N` is at most 8.
pub(super) fn le<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, ParseStop> {
    let field: [u8; N] = chunk(bytes, at)?;
    Ok(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Result<u16, ParseStop> {
    chunk(bytes, at).map(u16::from_be_bytes)
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Result<u32, ParseStop> {
    chunk(bytes, at).map(u32::from_be_bytes)
}

pub(super) fn le16(bytes: &[u8], at: usize) -> Result<u16, ParseStop> {
    chunk(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Result<u32, ParseStop> {
    chunk(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ParseStop> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(ParseStop::Unreadable)
}
