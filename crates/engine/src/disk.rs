//! The free space of the disk. It is measured with every sweep and on request; a change of state is logged
//! once.
//!
//! The check that an upload fits is in `space` and runs when its bytes are needed: an upload that is under
//! way may have disk space set aside for it on a disk that is full for new ones.

use std::sync::Mutex;

use storage::Capacity;

use crate::command::EngineError;
use crate::lock::lock;
use crate::{Engine, EngineSettings, Inner};

domain::named! {
    /// The state of the disk, by its free space.
    #[derive(Default)]
    pub enum DiskState {
        #[default]
        Enough = "ok",
        /// Little space is free in addition to the reserve that uploads must leave.
        Low = "low",
        /// New uploads are rejected: less space is free than the reserve that uploads must leave.
        Full = "full",
    }
}

impl DiskState {
    /// Returns the state at `free_bytes`. The state improves only when the free space exceeds its threshold
    /// by an eighth, so that a disk near a threshold does not change its state with every upload.
    fn at(self, free_bytes: u64, Thresholds { full_below, low_below }: Thresholds) -> Self {
        let recovers_at = |threshold: u64| threshold.saturating_add(threshold / 8);
        let is_full = free_bytes < full_below || self == Self::Full && free_bytes < recovers_at(full_below);
        let is_low = free_bytes < low_below || self != Self::Enough && free_bytes < recovers_at(low_below);
        match (is_full, is_low) {
            (true, _) => Self::Full,
            (false, true) => Self::Low,
            (false, false) => Self::Enough,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Thresholds {
    full_below: u64,
    low_below: u64,
}

impl Thresholds {
    fn of(settings: &EngineSettings) -> Self {
        // A disk without a free byte is full, whatever the reserve.
        let full_below = settings.space.min_free_bytes.max(1);
        Self { full_below, low_below: full_below.saturating_add(settings.space.low_free_bytes) }
    }
}

/// The measured state of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    pub state: DiskState,
    pub capacity: Capacity,
}

/// The state that was logged last.
#[derive(Debug, Default)]
pub(super) struct LoggedDiskState(Mutex<DiskState>);

impl Engine {
    /// Measures the disk. Returns `None` if the storage does not know its size.
    pub fn disk(&self) -> Result<Option<DiskUsage>, EngineError> {
        self.0.measure_disk()
    }
}

impl Inner {
    pub(super) fn measure_disk(&self) -> Result<Option<DiskUsage>, EngineError> {
        let Some(capacity) = self.blobs.capacity().map_err(EngineError::storage)? else { return Ok(None) };
        self.metrics.disk(capacity);
        let mut logged = lock(&self.disk.0);
        let state = logged.at(capacity.free_bytes, Thresholds::of(&self.settings));
        if state != *logged {
            log_change(*logged, state, capacity, &self.settings);
            *logged = state;
        }
        Ok(Some(DiskUsage { state, capacity }))
    }
}

fn log_change(before: DiskState, now: DiskState, capacity: Capacity, settings: &EngineSettings) {
    let Capacity { free_bytes, size_bytes } = capacity;
    let min_free_bytes = settings.space.min_free_bytes;
    match (before, now) {
        (_, DiskState::Full) => tracing::warn!(
            free_bytes,
            size_bytes,
            min_free_bytes,
            "the disk is full: new uploads are rejected (507) until uploads are deleted or other files removed"
        ),
        (DiskState::Full, DiskState::Low) => {
            tracing::warn!(free_bytes, size_bytes, min_free_bytes, "uploads are accepted again, but disk space is low");
        }
        (DiskState::Enough | DiskState::Low, DiskState::Low) => {
            tracing::warn!(free_bytes, size_bytes, min_free_bytes, "disk space is low");
        }
        (_, DiskState::Enough) => tracing::info!(free_bytes, size_bytes, "there is enough disk space again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_left_a_little_above_where_it_was_entered() {
        use DiskState::*;
        let thresholds = Thresholds { full_below: 80, low_below: 800 };
        let mut state = Enough;
        for (free_bytes, expected) in [
            (1_000, Enough),
            (800, Enough),
            (799, Low),
            (850, Low),
            (899, Low),
            (900, Enough),
            (79, Full),
            (80, Full),
            (89, Full),
            (90, Low),
            (79, Full),
            (1_000, Enough),
        ] {
            state = state.at(free_bytes, thresholds);
            assert_eq!(state, expected, "{free_bytes}");
        }
    }

    #[test]
    fn without_a_minimum_only_an_empty_disk_is_full() {
        let thresholds = Thresholds { full_below: 1, low_below: 1 };
        assert_eq!(DiskState::Enough.at(0, thresholds), DiskState::Full);
        assert_eq!(DiskState::Full.at(1, thresholds), DiskState::Enough);
    }
}
