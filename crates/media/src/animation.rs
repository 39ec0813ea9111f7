//! Frames of an animated image, and their duration.

/// A frame with a delay of no more than this is shown for [`DEFAULT_MS`], as in browsers and `ffprobe`.
const LEAST_MS: u64 = 10;
const DEFAULT_MS: u64 = 100;

/// The number of frames and their total duration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Animation {
    pub(super) frames: u32,
    duration_ms: u64,
}

impl Animation {
    /// Counts a frame with a delay of `delay_ms`.
    pub(super) fn add(&mut self, delay_ms: u64) {
        let shown_ms = if delay_ms <= LEAST_MS { DEFAULT_MS } else { delay_ms };
        self.frames = self.frames.saturating_add(1);
        self.duration_ms = self.duration_ms.saturating_add(shown_ms);
    }

    /// Returns the duration of one pass. A single frame has none.
    pub(super) fn duration_ms(self) -> Option<u64> {
        (self.frames > 1).then_some(self.duration_ms)
    }
}
