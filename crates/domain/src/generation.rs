//! The sequence of blobs that hold the bytes of one upload.
//!
//! If the storage lets a newer writer continue in the blob of an older one, an upload has one generation for
//! its whole life. Otherwise a node that takes over an upload seals the blob at the end of its committed
//! bytes and continues in a new generation, numbered by the node's epoch. Bytes that the older writer still
//! sends then land outside the counted generations, and no two writers ever use the same number. The
//! generations are joined when the upload is stored.

use std::ops::Range;

use crate::node::Epoch;

/// The name of one blob of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// The blob that was begun in this epoch.
    Begun(Epoch),
    /// The blob that all others were joined into.
    Joined,
}

impl Generation {
    /// The generation of an upload that no node has taken over.
    pub const FIRST: Self = Self::Begun(Epoch::new(1));
}

/// A generation that accepts no more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    pub generation: Generation,
    /// The end of its bytes, counted from the beginning of the upload.
    pub end: u64,
}

/// A range of the upload and the generation that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationSpan {
    pub generation: Generation,
    /// The first byte of the generation. Like all positions here, it is counted from the beginning of the
    /// upload.
    pub base: u64,
    pub start: u64,
    pub end: u64,
}

impl GenerationSpan {
    /// Returns the same range, counted from the beginning of the generation.
    pub const fn in_generation(self) -> Range<u64> {
        self.start - self.base..self.end - self.base
    }
}

/// All generations of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generations {
    /// Sealed generations in the order of their bytes.
    sealed: Vec<Sealed>,
    /// The last generation, which accepts bytes until the upload is full.
    current: Generation,
}

impl Default for Generations {
    fn default() -> Self {
        Self { sealed: Vec::new(), current: Generation::FIRST }
    }
}

impl Generations {
    /// Restores stored generations. Returns `None` if the sealed ones are not in order.
    pub fn from_parts(sealed: Vec<Sealed>, current: Generation) -> Option<Self> {
        // A generation that was begun and received no byte ends where the one before it does.
        let in_order = sealed.is_sorted_by(|one, next| one.end <= next.end);
        in_order.then_some(Self { sealed, current })
    }

    pub fn sealed(&self) -> &[Sealed] {
        &self.sealed
    }

    pub fn current(&self) -> Generation {
        self.current
    }

    /// Reports whether a single blob holds, or will hold, every byte.
    pub fn is_single(&self) -> bool {
        self.sealed.is_empty() || self.current == Generation::Joined
    }

    /// Returns the first byte of the current generation, counted from the beginning of the upload.
    pub fn start(&self) -> u64 {
        if self.is_single() { 0 } else { self.sealed.last().map_or(0, |last| last.end) }
    }

    /// Returns the generations that hold bytes from `start` to `end`, each with the range it holds.
    pub fn spans(&self, start: u64, end: u64) -> Vec<GenerationSpan> {
        let current = Sealed { generation: self.current, end: u64::MAX };
        let counting = if self.is_single() { &[] } else { self.sealed.as_slice() };
        let mut from = 0;
        let mut found = Vec::with_capacity(1);
        for Sealed { generation, end: to } in counting.iter().chain([&current]) {
            let span =
                GenerationSpan { generation: *generation, base: from, start: start.max(from), end: end.min(*to) };
            if span.start < span.end {
                found.push(span);
            }
            from = *to;
        }
        found
    }

    /// Returns every generation that may have a blob.
    pub fn all(&self) -> impl Iterator<Item = Generation> + '_ {
        self.sealed.iter().map(|sealed| sealed.generation).chain([self.current])
    }

    /// Continues in a generation of this epoch, after `end` bytes. Returns true if that is a new generation.
    pub(crate) fn begin(&mut self, epoch: Epoch, end: u64) -> bool {
        let next = Generation::Begun(epoch);
        if self.current == next {
            return false;
        }
        if end > self.start() {
            self.sealed.push(Sealed { generation: self.current, end });
        }
        self.current = next;
        true
    }

    /// Records that all `end` bytes were joined into one blob. The other blobs stay listed until they are
    /// [dropped]; that includes a last one without bytes, whose blob may have been created.
    ///
    /// [dropped]: Self::drop_joined
    pub(crate) fn join(&mut self, end: u64) {
        self.sealed.push(Sealed { generation: self.current, end });
        self.current = Generation::Joined;
    }

    /// Forgets the joined blobs after they were deleted.
    pub(crate) fn drop_joined(&mut self) {
        if self.current == Generation::Joined {
            self.sealed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(epoch: u64) -> Generation {
        Generation::Begun(Epoch::new(epoch))
    }

    fn spans(generations: &Generations, start: u64, end: u64) -> Vec<(Generation, u64, u64)> {
        let found = generations.spans(start, end);
        found.into_iter().map(|span| (span.generation, span.start, span.end)).collect()
    }

    #[test]
    fn an_upload_that_stays_in_one_epoch_has_one_generation() {
        let mut generations = Generations::default();
        assert!(!generations.begin(Epoch::new(1), 0));
        assert!(!generations.begin(Epoch::new(1), 500));
        assert_eq!((generations.start(), generations.is_single()), (0, true));
        assert_eq!(spans(&generations, 100, 200), [(begun(1), 100, 200)]);
        assert_eq!(spans(&generations, 7, 7), []);
    }

    #[test]
    fn a_takeover_seals_what_was_committed_and_nothing_else() {
        let mut generations = Generations::default();
        assert!(generations.begin(Epoch::new(2), 0), "a first generation without a byte is not kept");
        assert!(generations.begin(Epoch::new(4), 100));
        assert!(generations.begin(Epoch::new(5), 100), "one without bytes of its own is replaced");
        assert!(generations.begin(Epoch::new(9), 150));
        assert_eq!(generations.all().collect::<Vec<_>>(), [begun(2), begun(5), begun(9)]);
        assert_eq!(generations.start(), 150);
        assert_eq!(spans(&generations, 0, 200), [(begun(2), 0, 100), (begun(5), 100, 150), (begun(9), 150, 200)]);
        assert_eq!(spans(&generations, 99, 101), [(begun(2), 99, 100), (begun(5), 100, 101)]);
        assert_eq!(spans(&generations, 100, 150), [(begun(5), 100, 150)]);
        assert_eq!(generations.spans(120, 160)[0].in_generation(), 20..50);
    }

    #[test]
    fn joined_generations_count_no_more_and_are_there_until_forgotten() {
        let mut generations = Generations::default();
        generations.begin(Epoch::new(2), 100);
        generations.drop_joined();
        generations.join(300);
        assert_eq!((generations.start(), generations.is_single()), (0, true));
        assert_eq!(spans(&generations, 0, 300), [(Generation::Joined, 0, 300)]);
        assert_eq!(generations.all().collect::<Vec<_>>(), [begun(1), begun(2), Generation::Joined]);
        let kept = Generations::from_parts(generations.sealed().to_vec(), generations.current());
        assert_eq!(kept.as_ref(), Some(&generations));
        generations.drop_joined();
        assert_eq!(generations.all().collect::<Vec<_>>(), [Generation::Joined]);
        let backwards = [(1, 5), (2, 4)].map(|(epoch, end)| Sealed { generation: begun(epoch), end });
        assert_eq!(Generations::from_parts(backwards.to_vec(), begun(3)), None);
    }

    #[test]
    fn a_generation_without_a_byte_is_joined_like_others() {
        let mut generations = Generations::default();
        generations.begin(Epoch::new(2), 100);
        assert_eq!(spans(&generations, 0, 100), [(begun(1), 0, 100)]);
        generations.join(100);
        assert_eq!(generations.all().collect::<Vec<_>>(), [begun(1), begun(2), Generation::Joined]);
        let kept = Generations::from_parts(generations.sealed().to_vec(), generations.current());
        assert_eq!(kept, Some(generations), "written generations can be read");
    }
}
