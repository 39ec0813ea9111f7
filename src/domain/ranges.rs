//! Which bytes of an upload are there.

use crate::domain::size::Offset;

/// A set of received byte ranges, kept sorted, disjoint and joined where they touch.
///
/// The offset of an upload is the end of the range that starts at zero. Dialects that append in order only ever
/// lengthen that range; ranged ones may fill in any order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceivedRanges(Vec<(u64, u64)>);

impl ReceivedRanges {
    /// Takes ranges as stored; joins and sorts them, and drops empty ones.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut ranges = Self::default();
        for (start, end) in pairs {
            ranges.insert(start, end);
        }
        ranges
    }

    /// The ranges as `(start, end)`, end excluded, in order.
    pub fn pairs(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// The end of what is there without a gap from the first byte on.
    pub fn contiguous(&self) -> Offset {
        match self.0.first() {
            Some((0, end)) => Offset::new(*end).unwrap_or_default(),
            _ => Offset::ZERO,
        }
    }

    /// Adds the bytes from `start` up to, not including, `end`. Adding what is there changes nothing.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let first = self.0.partition_point(|(_, known_end)| *known_end < start);
        let last = self.0.partition_point(|(known_start, _)| *known_start <= end);
        let (mut start, mut end) = (start, end);
        for (known_start, known_end) in &self.0[first..last] {
            start = start.min(*known_start);
            end = end.max(*known_end);
        }
        self.0.splice(first..last, [(start, end)]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn appending_in_order_keeps_one_range() {
        let mut ranges = ReceivedRanges::default();
        ranges.insert(0, 10);
        ranges.insert(10, 25);
        assert_eq!(ranges.pairs(), [(0, 25)]);
        assert_eq!(ranges.contiguous().get(), 25);
    }

    #[test]
    fn a_gap_holds_the_offset_back_until_it_is_filled() {
        let mut ranges = ReceivedRanges::from_pairs([(10, 20), (30, 40)]);
        assert_eq!(ranges.contiguous(), Offset::ZERO);
        ranges.insert(0, 10);
        assert_eq!(ranges.contiguous().get(), 20);
        ranges.insert(20, 30);
        assert_eq!(ranges.pairs(), [(0, 40)]);
    }

    proptest! {
        #[test]
        fn ranges_hold_exactly_the_bytes_inserted(inserts in prop::collection::vec((0_u64..64, 0_u64..64), 0..20)) {
            let mut bytes = [false; 64];
            let mut ranges = ReceivedRanges::default();
            for (start, end) in inserts {
                let before = ranges.contiguous();
                ranges.insert(start, end);
                prop_assert!(ranges.contiguous() >= before, "the offset never falls");
                for byte in start..end {
                    bytes[usize::try_from(byte).unwrap()] = true;
                }
            }
            let mut held = [false; 64];
            for (start, end) in ranges.pairs() {
                for byte in *start..*end {
                    held[usize::try_from(byte).unwrap()] = true;
                }
            }
            prop_assert_eq!(bytes, held);
            prop_assert!(ranges.pairs().windows(2).all(|pair| pair[0].1 < pair[1].0), "sorted, disjoint, joined");
        }
    }
}
