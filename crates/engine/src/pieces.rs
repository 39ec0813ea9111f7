//! The CRC-32C of bytes that arrive in any order: kept for each contiguous range, and joined as gaps are
//! filled.
//!
//! Other digests need the preceding bytes; they are computed from the stored bytes at the end. So is the
//! CRC-32C where bytes were replaced.

use crate::digest::{UnreadableState, crc32c_joined};
use domain::checksum::{Algorithm, Digest};

/// A contiguous range of bytes and its CRC-32C. The end is excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) crc32c: u32,
}

/// Pieces in order, none touching another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pieces(Vec<Piece>);

/// Size of a piece in the saved state.
const PIECE_BYTES: usize = 20;

impl Piece {
    pub(super) fn of(start: u64, bytes: &[u8]) -> Self {
        Self { start, end: start + bytes.len() as u64, crc32c: crc32c::crc32c(bytes) }
    }

    /// Joins this piece with the one that begins where it ends.
    fn joined(self, next: Self) -> Self {
        let crc32c = crc32c_joined(self.crc32c, next.crc32c, next.end - next.start);
        Self { start: self.start, end: next.end, crc32c }
    }
}

impl Pieces {
    /// Resumes from a [state](Self::state).
    pub(super) fn resume(state: &[u8]) -> Result<Self, UnreadableState> {
        let (pieces, rest) = state.as_chunks::<PIECE_BYTES>();
        let piece = |bytes: &[u8; PIECE_BYTES]| {
            let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            let crc32c = u32::from_le_bytes(bytes[16..].try_into().expect("four bytes"));
            Piece { start: word(0), end: word(8), crc32c }
        };
        let pieces: Vec<Piece> = pieces.iter().map(piece).collect();
        let in_order = pieces.windows(2).all(|pair| pair[0].end < pair[1].start);
        let sound = rest.is_empty() && in_order && pieces.iter().all(|piece| piece.start < piece.end);
        if sound { Ok(Self(pieces)) } else { Err(UnreadableState) }
    }

    pub(super) fn state(&self) -> Vec<u8> {
        let mut state = Vec::with_capacity(self.0.len() * PIECE_BYTES);
        for piece in &self.0 {
            state.extend(piece.start.to_le_bytes());
            state.extend(piece.end.to_le_bytes());
            state.extend(piece.crc32c.to_le_bytes());
        }
        state
    }

    /// Adds a piece of bytes that were not there before, or are [forgotten](Self::forget).
    pub(super) fn add(&mut self, piece: Piece) {
        let place = self.0.partition_point(|known| known.end < piece.start);
        let (mut joined, mut until) = (piece, place);
        if let Some(before) = self.0.get(place).filter(|before| before.end == piece.start) {
            joined = before.joined(piece);
            until += 1;
        }
        if let Some(after) = self.0.get(until).filter(|after| after.start == joined.end) {
            joined = joined.joined(*after);
            until += 1;
        }
        self.0.splice(place..until, [joined]);
    }

    /// Forgets the checksums of the bytes from `start` to `end`, and of all pieces that overlap them.
    pub(super) fn forget(&mut self, start: u64, end: u64) {
        self.0.retain(|piece| piece.end <= start || end <= piece.start);
    }

    /// Returns the end of the last piece.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |piece| piece.end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Piece> {
        self.0.iter().copied()
    }

    /// Returns the digest of a whole of this many bytes, if none of it is unknown.
    pub(super) fn whole(&self, length_bytes: u64) -> Option<Digest> {
        let crc32c = match self.0.as_slice() {
            [] if length_bytes == 0 => 0,
            [Piece { start: 0, end, crc32c }] if *end == length_bytes => *crc32c,
            _ => return None,
        };
        Digest::new(Algorithm::Crc32c, crc32c.to_be_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn in_whatever_order_they_come_the_whole_is_the_same(
            bytes in prop::collection::vec(any::<u8>(), 1..400),
            cuts in prop::collection::vec(0_usize..400, 0..12),
            seed in any::<u64>(),
        ) {
            let mut borders: Vec<usize> = cuts.into_iter().map(|cut| cut % bytes.len()).chain([0, bytes.len()]).collect();
            borders.sort_unstable();
            borders.dedup();
            let mut parts: Vec<(usize, usize)> = borders.windows(2).map(|pair| (pair[0], pair[1])).collect();
            parts.sort_by_key(|(start, _)| (*start as u64 + 1).wrapping_mul(seed | 1));
            let length = bytes.len() as u64;
            let mut pieces = Pieces::default();
            for (count, (start, end)) in parts.iter().enumerate() {
                prop_assert_eq!(pieces.whole(length), None, "after {} of {}", count, parts.len());
                pieces.add(Piece::of(*start as u64, &bytes[*start..*end]));
                pieces = Pieces::resume(&pieces.state()).unwrap();
            }
            let crc32c = crc32c::crc32c(&bytes).to_be_bytes().to_vec();
            prop_assert_eq!(pieces.whole(length), Digest::new(Algorithm::Crc32c, crc32c));
            prop_assert_eq!(pieces.whole(length + 1), None);
        }
    }

    #[test]
    fn what_is_replaced_is_not_known_until_it_is_told_again() {
        let mut pieces = Pieces::default();
        pieces.add(Piece::of(0, b"abc"));
        pieces.add(Piece::of(5, b"fgh"));
        pieces.forget(6, 7);
        assert_eq!(pieces.iter().collect::<Vec<_>>(), [Piece::of(0, b"abc")]);
        pieces.forget(3, 9);
        assert!(pieces.whole(3).is_some(), "a piece that only touches is kept");
        pieces.forget(2, 3);
        assert_eq!(pieces, Pieces::default());
        assert!(pieces.whole(0).is_some(), "nothing has a digest too");
    }

    #[test]
    fn a_state_that_cannot_be_is_not_taken() {
        let good = Pieces(vec![Piece::of(0, b"abc"), Piece::of(5, b"fgh")]).state();
        assert!(Pieces::resume(&good).is_ok());
        assert!(Pieces::resume(&good[1..]).is_err());
        let swapped = [&good[PIECE_BYTES..], &good[..PIECE_BYTES]].concat();
        assert!(Pieces::resume(&swapped).is_err());
    }
}
