//! The sequence of blobs that hold the bytes of one upload.
//!
//! If the storage fences out an older writer when a newer one opens its blob, an upload has one generation
//! for its whole life. Otherwise a node that takes over an upload from one that may still be writing seals
//! the blob at the end of its committed bytes and continues in a new generation, numbered by the epoch of
//! the takeover. Bytes that the older writer still sends then land outside the counted generations, and no
//! two writers use the same number at the same time. The generations are joined when the upload is stored.

use std::ops::Range;

use crate::node::Epoch;

/// The name of one blob of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// The blob that was begun in this epoch.
    Begun(Epoch),
    /// The blob that all others were joined into, with the generation of the lease as its number.
    Joined(Epoch),
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
    /// The number of the generation that the others are being joined into. It holds no bytes that count.
    joining: Option<Epoch>,
}

impl Default for Generations {
    fn default() -> Self {
        Self { sealed: Vec::new(), current: Generation::FIRST, joining: None }
    }
}

impl Generations {
    /// Restores stored generations. Returns `None` if the sealed ones are not in order.
    pub fn from_parts(sealed: Vec<Sealed>, current: Generation, joining: Option<Epoch>) -> Option<Self> {
        // A generation that was begun and received no byte ends where the one before it does.
        let in_order = sealed.is_sorted_by(|one, next| one.end <= next.end);
        in_order.then_some(Self { sealed, current, joining })
    }

    pub fn sealed(&self) -> &[Sealed] {
        &self.sealed
    }

    pub fn current(&self) -> Generation {
        self.current
    }

    /// Returns the number of the generation that the others are being joined into.
    pub fn joining(&self) -> Option<Epoch> {
        self.joining
    }

    /// Reports whether the current generation was begun in this epoch, as the result of a join or otherwise.
    pub fn is_of(&self, epoch: Epoch) -> bool {
        matches!(self.current, Generation::Begun(begun) | Generation::Joined(begun) if begun == epoch)
    }

    /// Reports whether the generations were joined at `end` bytes and no byte was recorded since.
    pub fn are_joined_at(&self, end: u64) -> bool {
        self.are_joined() && self.sealed.last().is_some_and(|last| last.end == end)
    }

    /// Reports whether a single blob holds, or will hold, every byte.
    pub fn is_single(&self) -> bool {
        self.sealed.is_empty() || self.are_joined()
    }

    fn are_joined(&self) -> bool {
        matches!(self.current, Generation::Joined(_))
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
        let sealed = self.sealed.iter().map(|sealed| sealed.generation);
        sealed.chain([self.current]).chain(self.joining.map(Generation::Joined))
    }

    /// Continues in a generation of this epoch, after `end` bytes. Returns true if that is a new generation.
    pub(crate) fn begin(&mut self, epoch: Epoch, end: u64) -> bool {
        if self.is_of(epoch) {
            return false;
        }
        let next = Generation::Begun(epoch);
        self.drop_joined();
        if end > self.start() {
            self.sealed.push(Sealed { generation: self.current, end });
        }
        self.current = next;
        true
    }

    /// Records that the generations are about to be joined into one of this number.
    pub(crate) fn begin_joining(&mut self, epoch: Epoch) {
        self.drop_joined();
        self.joining = Some(epoch);
    }

    /// Records that all `end` bytes were joined. The other blobs stay listed until they are [dropped]; that
    /// includes a last one without bytes, whose blob may have been created.
    ///
    /// [dropped]: Self::drop_joined
    pub(crate) fn join(&mut self, end: u64) {
        let Some(epoch) = self.joining.take() else { return };
        self.sealed.push(Sealed { generation: self.current, end });
        self.current = Generation::Joined(epoch);
    }

    /// Forgets the joined blobs after they were deleted.
    pub(crate) fn drop_joined(&mut self) {
        if self.are_joined() {
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

    fn joined(epoch: u64) -> Generation {
        Generation::Joined(Epoch::new(epoch))
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
        generations.begin_joining(Epoch::new(3));
        assert_eq!(generations.all().collect::<Vec<_>>(), [begun(1), begun(2), joined(3)], "it may have a blob");
        assert_eq!(spans(&generations, 0, 300), [(begun(1), 0, 100), (begun(2), 100, 300)], "no byte counts yet");
        generations.join(300);
        assert_eq!((generations.start(), generations.is_single()), (0, true));
        assert_eq!(spans(&generations, 0, 300), [(joined(3), 0, 300)]);
        assert_eq!(generations.all().collect::<Vec<_>>(), [begun(1), begun(2), joined(3)]);
        let kept = Generations::from_parts(generations.sealed().to_vec(), generations.current(), None);
        assert_eq!(kept.as_ref(), Some(&generations));
        generations.drop_joined();
        assert_eq!(generations.all().collect::<Vec<_>>(), [joined(3)]);
        let backwards = [(1, 5), (2, 4)].map(|(epoch, end)| Sealed { generation: begun(epoch), end });
        assert_eq!(Generations::from_parts(backwards.to_vec(), begun(3), None), None);
    }

    #[test]
    fn a_generation_without_a_byte_is_joined_like_others() {
        let mut generations = Generations::default();
        generations.begin(Epoch::new(2), 100);
        assert_eq!(spans(&generations, 0, 100), [(begun(1), 0, 100)]);
        generations.begin_joining(Epoch::new(2));
        generations.join(100);
        assert_eq!(generations.all().collect::<Vec<_>>(), [begun(1), begun(2), joined(2)]);
        let kept = Generations::from_parts(generations.sealed().to_vec(), generations.current(), None);
        assert_eq!(kept, Some(generations), "written generations can be read");
    }

    /// Bytes that arrived behind a gap are joined before the upload is full, and the rest follows in that
    /// blob.
    #[test]
    fn bytes_may_follow_in_a_joined_generation() {
        let mut generations = Generations::default();
        generations.begin_joining(Epoch::new(2));
        generations.join(100);
        assert!(generations.are_joined_at(100) && !generations.are_joined_at(150));
        assert!(!generations.begin(Epoch::new(2), 150), "its writer goes on");
        assert_eq!((generations.start(), generations.is_single()), (0, true));
        assert!(generations.begin(Epoch::new(3), 200));
        assert_eq!(spans(&generations, 0, 300), [(joined(2), 0, 200), (begun(3), 200, 300)]);
        generations.begin_joining(Epoch::new(3));
        generations.join(300);
        assert_eq!(spans(&generations, 0, 300), [(joined(3), 0, 300)]);
    }

    /// A join whose node died is done again by the next one, under another number.
    #[test]
    fn a_join_that_was_not_done_is_known() {
        let mut generations = Generations::default();
        generations.begin(Epoch::new(2), 100);
        generations.begin_joining(Epoch::new(2));
        let kept = Generations::from_parts(generations.sealed().to_vec(), generations.current(), generations.joining());
        assert_eq!(kept.as_ref(), Some(&generations));
        assert_eq!(generations.joining(), Some(Epoch::new(2)));
        generations.begin_joining(Epoch::new(4));
        assert_eq!(generations.all().collect::<Vec<_>>(), [begun(1), begun(2), joined(4)]);
    }
}
