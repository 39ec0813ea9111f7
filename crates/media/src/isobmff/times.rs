//! The durations of tracks: the sum of their samples, unless an edit list shows other parts of them.

use std::ops::Range;

use super::BoxReader;
use crate::fields::{be, be32};
use crate::read::milliseconds;
use crate::window::{BLOCK_BYTES, ParseStop};

/// The size of an entry: a count of samples, and the duration of each.
const SPAN_BYTES: u64 = 8;

/// The duration of a track.
#[derive(Debug, Default)]
pub(super) struct TrackDuration {
    /// Its units per second.
    pub(super) timescale: u32,
    /// The duration of its samples, in its own units.
    pub(super) units: Option<u64>,
    /// The duration of its edits, in units of the movie.
    pub(super) edits: Option<u64>,
}

impl TrackDuration {
    pub(super) fn milliseconds(&self, movie_timescale: u32) -> Option<u64> {
        let shown = self.edits.and_then(|edits| milliseconds(edits, movie_timescale));
        shown.or_else(|| milliseconds(self.units?, self.timescale))
    }

    /// Returns the samples in a thousand seconds.
    pub(super) fn rate(&self, samples: Option<u32>) -> Option<u32> {
        rate(samples?.into(), self.units?, self.timescale)
    }
}

/// Returns the samples in a thousand seconds.
pub(super) fn rate(samples: u64, units: u64, timescale: u32) -> Option<u32> {
    let samples = Some(samples).filter(|samples| *samples > 1)?;
    let (frames, units) = (u128::from(samples) * u128::from(timescale) * 1000, u128::from(units));
    u32::try_from((frames + units / 2).checked_div(units)?).ok().filter(|rate| *rate > 0)
}

/// Returns a duration if it is known. All ones, in 32 or 64 bits, mean that it is unknown, and so does zero.
pub(super) fn known(duration: u64) -> Option<u64> {
    Some(duration).filter(|duration| ![0, u64::from(u32::MAX), u64::MAX].contains(duration))
}

/// Returns the duration of all edits in a list, in units of the movie; `None` if one has none.
pub(super) fn edited(list: &[u8]) -> Option<u64> {
    let (is_long, count) = (list.first()? == &1, be32(list, 4).ok()?);
    let entry_bytes = if is_long { 20 } else { 12 };
    let entries = list.get(8..)?.chunks_exact(entry_bytes).take(usize::try_from(count).ok()?);
    let shown = entries.map(|entry| if is_long { be::<8>(entry, 0) } else { be::<4>(entry, 0) });
    shown.map(|shown| shown.ok().and_then(known)).try_fold(0, |sum: u64, shown| sum.checked_add(shown?)).and_then(known)
}

impl BoxReader<'_> {
    /// Sums up the table of durations. Samples beyond the table have the duration of its last entry, as in
    /// players.
    pub(super) fn spans(&self, body: &Range<u64>, samples: Option<u32>) -> Result<Option<u64>, ParseStop> {
        let head = self.window.get(body.start, 8)?;
        let (mut at, end) = (body.start + 8, body.end);
        let end = end.min(at + u64::from(be32(&head, 4)?) * SPAN_BYTES);
        let end = end - end.saturating_sub(at) % SPAN_BYTES;
        self.window.want(at, end.saturating_sub(at))?;
        let (mut count, mut units, mut last) = (0_u64, 0_u64, 0_u64);
        while at < end {
            // Up to the end of a block, so that nothing is copied; an entry across the end is read
            // separately.
            let whole = (BLOCK_BYTES - at % BLOCK_BYTES) / SPAN_BYTES * SPAN_BYTES;
            let piece = whole.max(SPAN_BYTES).min(end - at);
            for entry in self.window.get(at, piece)?.chunks_exact(8) {
                let of_these = be::<4>(entry, 0)?;
                last = be::<4>(entry, 4)?;
                count = count.saturating_add(of_these);
                units = units.saturating_add(of_these.saturating_mul(last));
            }
            at += piece;
        }
        let rest = samples.map_or(0, u64::from).saturating_sub(count);
        Ok(Some(units.saturating_add(rest.saturating_mul(last))).filter(|units| *units > 0))
    }
}
