//! The ranges of a blob that contain bytes.

use std::ops::Range;

/// Ranges of a blob, in order, none touching another.
#[derive(Debug, Clone, Default)]
pub(super) struct Stretches(Vec<Range<u64>>);

impl Stretches {
    pub(super) fn insert(&mut self, new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        let first = self.0.partition_point(|known| known.end < new.start);
        let last = self.0.partition_point(|known| known.start <= new.end);
        let touched = &self.0[first..last];
        let start = touched.first().map_or(new.start, |known| known.start.min(new.start));
        let end = touched.last().map_or(new.end, |known| known.end.max(new.end));
        self.0.splice(first..last, std::iter::once(start..end));
    }

    /// Reports whether any byte of `range` is there.
    pub(super) fn meet(&self, range: &Range<u64>) -> bool {
        self.0.iter().any(|known| known.start < range.end && range.start < known.end)
    }

    /// Reports whether a byte at `place` would follow one that is there, or replace it.
    pub(super) fn reach(&self, place: u64) -> bool {
        self.0.iter().any(|known| (known.start..=known.end).contains(&place))
    }

    /// Removes everything at or above `end`.
    pub(super) fn cut(&mut self, end: u64) {
        self.0.retain(|known| known.start < end);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_that_touch_become_one() {
        let mut stretches = Stretches::default();
        for new in [10..20, 30..40, 5..5, 20..25, 0..3, 24..30] {
            stretches.insert(new);
        }
        assert_eq!(stretches.0, [0..3, 10..40]);
        assert!(stretches.meet(&(39..50)) && !stretches.meet(&(3..10)) && !stretches.meet(&(40..41)));
        assert!(stretches.reach(3) && stretches.reach(40) && !stretches.reach(4) && !stretches.reach(41));
        stretches.cut(35);
        assert_eq!(stretches.0, [0..3, 10..35]);
        stretches.cut(2);
        assert_eq!(stretches.0, std::iter::once(0..2).collect::<Vec<_>>());
    }
}
