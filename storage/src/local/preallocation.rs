//! Disk space allocated ahead of sequential writes.
//!
//! A file of known length gets that length when it is opened, without a block on the disk. Blocks are
//! allocated while bytes arrive, in steps as large as the bytes the writer has written so far: a large upload
//! finds its blocks allocated, mostly in one piece, and no upload occupies more than about twice the disk
//! space of the bytes it has sent. Several runs of sequential writes, as parallel ranges make them, are each
//! followed separately.

use std::ops::Range;

use pool::DIRECT_MIN_BYTES;

const MIN_STEP_BYTES: u64 = 1 << 20;
const MAX_STEP_BYTES: u64 = 1 << 30;

/// Maximum number of runs that are followed; the oldest is dropped.
const MAX_RUNS: usize = 64;

/// Decides when the next step is due for the file of one writer.
#[derive(Debug)]
pub(super) struct Preallocation {
    size_bytes: u64,
    runs: Vec<Run>,
}

/// A run of sequential writes.
#[derive(Debug)]
struct Run {
    written_bytes: u64,
    /// The offset at which the next write is expected.
    next: u64,
    /// The end of the requested blocks.
    allocated: u64,
}

impl Preallocation {
    /// Creates the plan for a blob. `size_bytes` is the size of the whole blob: nothing is allocated beyond
    /// it.
    pub(super) fn new(size_bytes: u64) -> Self {
        Self { size_bytes, runs: Vec::new() }
    }

    /// Records a write and returns the range to allocate now, if its run is near the end of its allocated
    /// blocks.
    ///
    /// Small writes allocate nothing ahead: one byte must not reserve a megabyte.
    pub(super) fn note(&mut self, write: &Range<u64>) -> Option<Range<u64>> {
        if write.end - write.start < DIRECT_MIN_BYTES as u64 {
            return None;
        }
        let size_bytes = self.size_bytes;
        let run = self.run_at(write.start);
        run.written_bytes += write.end - write.start;
        run.next = write.end;
        let step = run.written_bytes.clamp(MIN_STEP_BYTES, MAX_STEP_BYTES);
        if run.allocated >= write.end.saturating_add(step / 2).min(size_bytes) {
            return None;
        }
        let due = run.allocated.max(write.start)..write.end.saturating_add(step).min(size_bytes);
        run.allocated = due.end;
        (!due.is_empty()).then_some(due)
    }

    fn run_at(&mut self, start: u64) -> &mut Run {
        let follows = |run: &Run| (run.next..=run.allocated.max(run.next)).contains(&start);
        let index = self.runs.iter().position(follows).unwrap_or_else(|| {
            if self.runs.len() >= MAX_RUNS {
                self.runs.remove(0);
            }
            self.runs.push(Run { written_bytes: 0, next: start, allocated: start });
            self.runs.len() - 1
        });
        &mut self.runs[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// Writes `range` in pieces of 1 MiB; returns the steps.
    fn write(preallocation: &mut Preallocation, range: Range<u64>) -> Vec<Range<u64>> {
        let starts = (range.start..range.end).step_by(1 << 20);
        starts.filter_map(|start| preallocation.note(&(start..(start + MIB).min(range.end)))).collect()
    }

    #[test]
    fn a_large_file_is_allocated_in_few_steps_ahead_of_its_bytes_and_never_beyond_its_size() {
        let size = 5 * GIB + 7;
        let mut preallocation = Preallocation::new(size);
        let (mut allocated, mut steps) = (0, 0);
        for start in (0..size).step_by(1 << 20) {
            let end = (start + MIB).min(size);
            if let Some(step) = preallocation.note(&(start..end)) {
                assert_eq!(step.start, allocated, "no gap, nothing twice");
                (allocated, steps) = (step.end, steps + 1);
            }
            let small_tail = end - start < DIRECT_MIN_BYTES as u64;
            assert!(allocated >= end || small_tail, "a write at {end} finds {allocated} allocated");
            assert!(allocated <= size && allocated - end.min(allocated) <= end.clamp(MIB, GIB));
        }
        assert!(steps < 40, "{steps}");
    }

    #[test]
    fn small_writes_allocate_nothing() {
        let mut preallocation = Preallocation::new(GIB);
        assert_eq!(preallocation.note(&(0..1)), None);
        assert_eq!(preallocation.note(&(GIB - 1..GIB)), None);
        assert_eq!(preallocation.note(&(0..DIRECT_MIN_BYTES as u64 - 1)), None);
    }

    #[test]
    fn a_range_at_the_end_allocates_only_there() {
        let mut preallocation = Preallocation::new(64 * GIB);
        let steps = write(&mut preallocation, 64 * GIB - 2 * MIB..64 * GIB);
        let [step] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(*step, 64 * GIB - 2 * MIB..64 * GIB);
    }

    #[test]
    fn parallel_ranges_are_followed_separately() {
        let (mut alone, mut mixed) = (Preallocation::new(GIB), Preallocation::new(GIB));
        let expected = write(&mut alone, 0..8 * MIB);
        let mut first = Vec::new();
        for start in (0..8 * MIB).step_by(1 << 20) {
            first.extend(mixed.note(&(start..start + MIB)));
            mixed.note(&(512 * MIB + start..513 * MIB + start));
        }
        assert_eq!(first, expected);
    }

    #[test]
    fn the_number_of_runs_is_bounded() {
        let mut preallocation = Preallocation::new(1 << 50);
        for place in 0..10_000 {
            preallocation.note(&(place * GIB..place * GIB + MIB));
        }
        assert_eq!(preallocation.runs.len(), MAX_RUNS);
    }
}
