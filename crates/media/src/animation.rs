//! Frames of an animated image, and how long they are shown.

/// A frame with a delay of no more than this is shown for [`DEFAULT_MS`], as browsers and `ffprobe` do.
const LEAST_MS: u64 = 10;
const DEFAULT_MS: u64 = 100;

/// Frames, counted one after the other.
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

    /// Returns how long one pass takes. A single frame has no duration.
    pub(super) fn duration_ms(self) -> Option<u64> {
        (self.frames > 1).then_some(self.duration_ms)
    }
}
