//! How long the frames of an animated image are shown.

/// Whoever asks for a frame to be shown for no longer than this gets [`DEFAULT_MS`]: browsers and `ffprobe` do so.
const LEAST_MS: u64 = 10;
const DEFAULT_MS: u64 = 100;

/// Frames, counted one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Animation {
    pub(super) frames: u32,
    duration_ms: u64,
}

impl Animation {
    /// Counts a frame that is to be shown for as many milliseconds.
    pub(super) fn add(&mut self, delay_ms: u64) {
        let shown_ms = if delay_ms <= LEAST_MS { DEFAULT_MS } else { delay_ms };
        self.frames = self.frames.saturating_add(1);
        self.duration_ms = self.duration_ms.saturating_add(shown_ms);
    }

    /// How long it takes to be shown once. A single frame stays.
    pub(super) fn duration_ms(self) -> Option<u64> {
        (self.frames > 1).then_some(self.duration_ms)
    }
}
