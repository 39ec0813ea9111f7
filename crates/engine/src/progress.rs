//! The progress of a live upload: counters that its writer sets and readers read without a lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use domain::time::milliseconds;
use state::{ProgressReading, WriterCounters};

/// The progress of a live upload, readable without a lock.
#[derive(Debug)]
pub(super) struct WriterProgress {
    began: Instant,
    accepted_bytes: AtomicU64,
    /// The offset committed by the writer; zero before its first commit.
    committed_bytes: AtomicU64,
    /// The time at which bytes last arrived, in milliseconds after `began`.
    accepted_at_ms: AtomicU64,
    bytes_per_second: AtomicU64,
    is_parked: AtomicBool,
}

impl Default for WriterProgress {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            accepted_bytes: AtomicU64::default(),
            committed_bytes: AtomicU64::default(),
            accepted_at_ms: AtomicU64::default(),
            bytes_per_second: AtomicU64::default(),
            is_parked: AtomicBool::default(),
        }
    }
}

impl WriterCounters for WriterProgress {
    fn read(&self) -> ProgressReading {
        let accepted_at = Duration::from_millis(self.accepted_at_ms.load(Ordering::Relaxed));
        ProgressReading {
            received_bytes: self.accepted_bytes.load(Ordering::Relaxed),
            bytes_per_second: self.bytes_per_second.load(Ordering::Relaxed),
            age: self.began.elapsed().saturating_sub(accepted_at),
        }
    }
}

impl WriterProgress {
    pub(super) fn committed_bytes(&self) -> u64 {
        self.committed_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn commit(&self, offset_bytes: u64) {
        self.committed_bytes.store(offset_bytes, Ordering::Relaxed);
    }

    pub(super) fn is_parked(&self) -> bool {
        self.is_parked.load(Ordering::Acquire)
    }

    /// Records whether the upload is parked. Returns the previous value.
    pub(super) fn set_parked(&self, is_parked: bool) -> bool {
        self.is_parked.swap(is_parked, Ordering::AcqRel)
    }

    pub(super) fn accept(&self, total_bytes: u64) {
        self.accepted_bytes.store(total_bytes, Ordering::Relaxed);
        let now_ms = milliseconds(self.began.elapsed());
        self.accepted_at_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(super) fn set_rate(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }
}

/// Measures the rate of a live upload: half the weight is on the last window, half on the rate before.
#[derive(Debug)]
pub(super) struct RateMeter {
    since: Instant,
    bytes_before: u64,
    smoothed: Option<u64>,
}

impl RateMeter {
    const WINDOW: Duration = Duration::from_millis(500);

    pub(super) fn start(total_bytes: u64) -> Self {
        Self { since: Instant::now(), bytes_before: total_bytes, smoothed: None }
    }

    /// Takes the number of bytes so far. Returns a new rate when a window has passed.
    pub(super) fn observe(&mut self, total_bytes: u64) -> Option<u64> {
        let elapsed = self.since.elapsed();
        if elapsed < Self::WINDOW {
            return None;
        }
        let bytes = u128::from(total_bytes.saturating_sub(self.bytes_before));
        let rate = u64::try_from(bytes * 1_000_000 / elapsed.as_micros().max(1)).unwrap_or(u64::MAX);
        let smoothed = self.smoothed.map_or(rate, |before| before / 2 + rate / 2);
        self.since = Instant::now();
        self.bytes_before = total_bytes;
        self.smoothed = Some(smoothed);
        Some(smoothed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_follows_the_last_second() {
        let mut meter = RateMeter::start(100);
        assert_eq!(meter.observe(200), None);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(meter.observe(1_100), Some(2_000));
        tokio::time::advance(Duration::from_millis(1_000)).await;
        assert_eq!(meter.observe(1_100), Some(1_000));
    }
}
