//! Measurements of a store, for its metrics.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bucket::DAY;
use crate::lock::lock;
use domain::time::Timestamp;

/// The upper bounds of the groups of a [`Distribution`] of durations, in seconds.
const DURATIONS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0];

/// The upper bounds of the groups of a [`Distribution`] of the sizes of batches.
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The number of observations by magnitude.
#[derive(Debug)]
pub(crate) struct Distribution {
    bounds: &'static [f64],
    /// One count for each bound, and one for the observations above all bounds.
    counts: Vec<AtomicU64>,
    /// The sum of all observations, in millionths.
    sum_millionths: AtomicU64,
}

impl Distribution {
    pub(crate) fn of_durations() -> Self {
        Self::within(DURATIONS)
    }

    pub(crate) fn of_sizes() -> Self {
        Self::within(SIZES)
    }

    fn within(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_millionths: AtomicU64::new(0) }
    }

    pub(crate) fn observe_duration(&self, took: Duration) {
        self.observe(took.as_secs_f64(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn observe_size(&self, size: usize) {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.observe(f64::from(size), u64::from(size) * 1_000_000);
    }

    fn observe(&self, value: f64, millionths: u64) {
        let group = self.bounds.partition_point(|bound| *bound < value);
        self.counts[group].fetch_add(1, Ordering::Relaxed);
        self.sum_millionths.fetch_add(millionths, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> DistributionReading {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let bounds = self.bounds.iter().copied().chain([f64::MAX]);
        let sum = Duration::from_micros(self.sum_millionths.load(Ordering::Relaxed)).as_secs_f64();
        DistributionReading { sum, groups: bounds.zip(counts).collect() }
    }
}

/// The observations of a distribution so far.
#[derive(Debug, Clone, PartialEq)]
pub struct DistributionReading {
    /// The sum of all observations.
    pub sum: f64,
    /// The upper bound of each group, and the number of observations above the bound before it.
    pub groups: Vec<(f64, u64)>,
}

impl DistributionReading {
    /// Returns the number of observations.
    pub fn count(&self) -> u64 {
        self.groups.iter().map(|(_, count)| count).sum()
    }
}

/// The result of a commit whose response was lost (scale-out P14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AmbiguousCommit {
    /// The record shows that it was made.
    Committed,
    /// It was not made, or may be made twice, and was repeated.
    Repeated,
    /// Another commit was made before or after it.
    Conflict,
    /// It remains unknown, and the caller got an error that says so.
    Unknown,
}

impl AmbiguousCommit {
    const ALL: [Self; 4] = [Self::Committed, Self::Repeated, Self::Conflict, Self::Unknown];

    const fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Repeated => "repeated",
            Self::Conflict => "conflict",
            Self::Unknown => "unknown",
        }
    }
}

/// The measurements of a store that its parts share.
#[derive(Debug)]
pub(crate) struct Measures {
    ambiguous: [AtomicU64; AmbiguousCommit::ALL.len()],
    /// Commits rejected because the upload has another epoch.
    epochs_rejected: AtomicU64,
    batches: Distribution,
    /// The oldest position that readers may not see yet, and when it was noticed.
    hidden: Mutex<Option<(i64, Instant)>>,
    /// The end of the days that have partitions, in milliseconds since 1970.
    partitions_end_ms: AtomicI64,
    /// Rows in the partitions for other days, as last counted.
    other_rows: AtomicU64,
}

impl Default for Measures {
    fn default() -> Self {
        Self {
            ambiguous: Default::default(),
            epochs_rejected: AtomicU64::new(0),
            batches: Distribution::of_sizes(),
            hidden: Mutex::default(),
            partitions_end_ms: AtomicI64::new(0),
            other_rows: AtomicU64::new(0),
        }
    }
}

impl Measures {
    pub(crate) fn ambiguous(&self, outcome: AmbiguousCommit) {
        self.ambiguous[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn epoch_rejected(&self) {
        self.epochs_rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn batch(&self, changes: usize) {
        self.batches.observe_size(changes);
    }

    /// Notes up to which position readers see the log, and its newest position.
    pub(crate) fn horizon(&self, visible: i64, newest: i64) {
        let mut hidden = lock(&self.hidden);
        match *hidden {
            Some((first, _)) if visible < first => {}
            _ => *hidden = (visible < newest).then(|| (newest, Instant::now())),
        }
    }

    pub(crate) fn partitions(&self, end: Timestamp, other_rows: u64) {
        self.partitions_end_ms.store(end.unix_ms(), Ordering::Relaxed);
        self.other_rows.store(other_rows, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, now: Timestamp, pool_waits: Vec<(&'static str, DistributionReading)>) -> Readings {
        let ahead_ms = self.partitions_end_ms.load(Ordering::Relaxed).saturating_sub(now.unix_ms()).max(0);
        let ahead = Duration::from_millis(u64::try_from(ahead_ms).unwrap_or(0)).as_secs_f64() / DAY.as_secs_f64();
        let count = |outcome: AmbiguousCommit| self.ambiguous[outcome as usize].load(Ordering::Relaxed);
        Readings {
            ambiguous_commits: AmbiguousCommit::ALL.map(|outcome| (outcome.name(), count(outcome))),
            epochs_rejected: self.epochs_rejected.load(Ordering::Relaxed),
            batches: self.batches.read(),
            horizon_lag: lock(&self.hidden).map_or(Duration::ZERO, |(_, since)| since.elapsed()),
            partitions_ahead_days: ahead.floor(),
            other_rows: self.other_rows.load(Ordering::Relaxed),
            pool_waits,
        }
    }
}

/// The measurements of a store at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings {
    /// Commits whose responses were lost, by what was found out: `committed`, `repeated`, `conflict`,
    /// `unknown`.
    pub ambiguous_commits: [(&'static str, u64); 4],
    /// Commits rejected because another node had taken over the upload.
    pub epochs_rejected: u64,
    /// Changes of uploads in one transaction.
    pub batches: DistributionReading,
    /// The time for which readers of the log have waited for an older transaction; zero if they see every
    /// event.
    pub horizon_lag: Duration,
    /// Whole days from now on whose partitions exist in all tables.
    pub partitions_ahead_days: f64,
    /// Rows in the partitions for other days, at most [`MOST_OTHER_ROWS`](crate::MOST_OTHER_ROWS) of each
    /// table.
    pub other_rows: u64,
    /// Times that callers waited for a connection, by its purpose, in seconds.
    pub pool_waits: Vec<(&'static str, DistributionReading)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_are_grouped_by_their_bounds() {
        let sizes = Distribution::of_sizes();
        for size in [1, 1, 2, 3, 128, 1_000] {
            sizes.observe_size(size);
        }
        let read = sizes.read();
        assert_eq!((read.count(), read.sum), (6, 1_135.0));
        let counts: Vec<u64> = read.groups.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 1, 0, 0, 0, 0, 1, 0, 1]);
        let durations = Distribution::of_durations();
        durations.observe_duration(Duration::from_millis(20));
        assert_eq!(durations.read().groups[4], (0.025, 1));
    }

    #[test]
    fn the_lag_of_the_horizon_is_that_of_the_oldest_hidden_event() {
        let measures = Measures::default();
        let lag = || measures.read(Timestamp::from_unix_ms(0), Vec::new()).horizon_lag;
        measures.horizon(5, 5);
        assert_eq!(lag(), Duration::ZERO);
        measures.horizon(5, 7);
        std::thread::sleep(Duration::from_millis(20));
        measures.horizon(6, 9);
        assert!(lag() >= Duration::from_millis(20), "7 is still hidden");
        measures.horizon(8, 9);
        assert!(lag() < Duration::from_millis(20), "9 was noticed later");
        measures.horizon(9, 9);
        assert_eq!(lag(), Duration::ZERO);
    }
}
