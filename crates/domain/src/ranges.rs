//! The byte ranges of an upload that are present.

use crate::size::Offset;

/// A set of received byte ranges, kept sorted, disjoint and merged where they touch.
///
/// The offset of an upload is the end of the range that starts at zero. Dialects that append in order only
/// extend that range; ranged ones may fill in any order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceivedRanges(Vec<(u64, u64)>);

/// A run of bytes that are all present or all missing. The end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeSpan {
    pub start: u64,
    pub end: u64,
    pub there: bool,
}

impl ReceivedRanges {
    /// Builds the set from stored ranges: merges and sorts them, and drops empty ones.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut ranges = Self::default();
        for (start, end) in pairs {
            ranges.insert(start, end);
        }
        ranges
    }

    /// Returns the ranges as `(start, end)`, end exclusive, in order.
    pub fn pairs(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Returns the end of the bytes that are present without a gap from the first byte.
    pub fn contiguous(&self) -> Offset {
        match self.0.first() {
            Some((0, end)) => Offset::new(*end).unwrap_or_default(),
            _ => Offset::ZERO,
        }
    }

    /// Returns the number of bytes present.
    pub fn total_bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// Reports whether `place` lies within bytes that are present, or at one of their ends. A range that ends
    /// there creates no new boundary.
    pub fn touches(&self, place: u64) -> bool {
        self.0.iter().any(|(start, end)| (*start..=*end).contains(&place))
    }

    /// Reports whether any byte from `start` to `end` is present.
    pub fn has_some(&self, start: u64, end: u64) -> bool {
        let first = self.0.partition_point(|(_, known_end)| *known_end <= start);
        start < end && self.0.get(first).is_some_and(|(known_start, _)| *known_start < end)
    }

    /// Reports whether every byte from `start` to `end` is present.
    pub fn has_all(&self, start: u64, end: u64) -> bool {
        let first = self.0.partition_point(|(_, known_end)| *known_end <= start);
        let whole =
            self.0.get(first).is_some_and(|(known_start, known_end)| *known_start <= start && end <= *known_end);
        start >= end || whole
    }

    /// Returns the end of the last byte that is present.
    pub fn end(&self) -> Offset {
        self.0.last().and_then(|(_, end)| Offset::new(*end)).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the number of ranges after adding the bytes from `start` to `end`.
    pub fn count_with(&self, start: u64, end: u64) -> usize {
        let mut with = self.clone();
        with.insert(start, end);
        with.0.len()
    }

    /// Splits `start` to `end` at the boundaries of the present bytes. Each returned span, in order, is
    /// entirely present or entirely missing.
    pub fn spans(&self, start: u64, end: u64) -> Vec<RangeSpan> {
        let mut spans = Vec::new();
        let mut at = start;
        let first = self.0.partition_point(|(_, known_end)| *known_end <= start);
        for (known_start, known_end) in self.0[first..].iter().take_while(|(known_start, _)| *known_start < end) {
            if at < *known_start {
                spans.push(RangeSpan { start: at, end: *known_start, there: false });
            }
            let (from, to) = (at.max(*known_start), end.min(*known_end));
            spans.push(RangeSpan { start: from, end: to, there: true });
            at = to;
        }
        if at < end {
            spans.push(RangeSpan { start: at, end, there: false });
        }
        spans
    }

    /// Returns the missing parts of the first `length` bytes as `(start, end)`, end exclusive, in order.
    pub fn missing(&self, length: u64) -> impl Iterator<Item = (u64, u64)> {
        let missing = self.spans(0, length).into_iter().filter(|span| !span.there);
        missing.map(|span| (span.start, span.end))
    }

    /// Adds the bytes from `start` to `end`, end exclusive. Adding bytes that are present changes nothing.
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
            let mut missing = [false; 64];
            for (start, end) in ranges.missing(64) {
                for byte in start..end {
                    missing[usize::try_from(byte).unwrap()] = true;
                }
            }
            prop_assert!(bytes.iter().zip(missing).all(|(there, missing)| *there != missing));
            let spans = ranges.spans(5, 60);
            prop_assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].there != pair[1].there));
            prop_assert_eq!((spans[0].start, spans[spans.len() - 1].end), (5, 60));
            for (start, end) in [(0, 64), (5, 60), (17, 18), (30, 30), (9, 40)] {
                let within = &bytes[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
                prop_assert_eq!(ranges.has_all(start, end), within.iter().all(|there| *there));
                prop_assert_eq!(ranges.has_some(start, end), within.iter().any(|there| *there));
            }
            prop_assert_eq!(ranges.end().get(), bytes.iter().rposition(|there| *there).map_or(0, |last| last as u64 + 1));
            for span in spans {
                for byte in span.start..span.end {
                    prop_assert_eq!(bytes[usize::try_from(byte).unwrap()], span.there);
                }
            }
            prop_assert_eq!(ranges.total_bytes(), bytes.iter().filter(|there| **there).count() as u64);
            prop_assert!(ranges.pairs().windows(2).all(|pair| pair[0].1 < pair[1].0), "sorted, disjoint, joined");
        }
    }
}
