//! The duration of recordings in fragments, which the movie does not contain.
//!
//! Each fragment has the duration of its samples, so fragments are examined one by one, within the limit of
//! bytes. If there are more, an index (`sidx` in front of them or `mfra` behind) leads to the last one, which
//! contains its start time. Without an index, or if it does not lead to a fragment, the duration is unknown.

use std::collections::BTreeMap;
use std::ops::Range;

use super::movie::Movie;
use super::times::rate;
use super::{BoxReader, FoundBox, MAX_FRAGMENT_BOXES};
use crate::fields::{be, be32};
use crate::read::milliseconds;
use crate::window::{BLOCK_BYTES, ParseStop, unless_stopped};

/// Blocks reserved for everything but fragments.
const OTHER_BLOCKS: u64 = 8;

const HAS_DATA_OFFSET: u64 = 0x01;
const HAS_FIRST_FLAGS: u64 = 0x04;
const HAS_DURATION: u64 = 0x100;
const HAS_SIZE: u64 = 0x200;
const HAS_FLAGS: u64 = 0x400;
const HAS_COMPOSITION: u64 = 0x800;

/// The facts in an index of the fragments.
#[derive(Debug, Default)]
pub(super) struct FragmentIndex {
    /// The number of entries, and the position of the last one.
    last: Option<(u64, u64)>,
    duration_ms: Option<u64>,
}

/// The times of all tracks.
#[derive(Debug, Default)]
pub(super) struct FragmentTimes {
    tracks: BTreeMap<u32, Span>,
    /// True if every fragment was counted.
    is_whole: bool,
    at_least_ms: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Span {
    timescale: u32,
    samples: u64,
    /// The duration of all samples counted.
    units: u64,
    /// The earliest start and the latest end of a fragment.
    begin: Option<u64>,
    end: u64,
}

impl FragmentIndex {
    /// Records a `sidx` box that ends at `base`.
    pub(super) fn add(&mut self, body: &[u8], base: u64) {
        // An index of other indexes names no fragments.
        let Some((count, last, duration_ms)) = segments(body, base) else { return };
        self.last = self.last.max(Some((count, last)));
        self.duration_ms = self.duration_ms.max(duration_ms);
    }
}

/// Parses a `sidx`: the number of segments, the position of the last one, and the duration of all in
/// milliseconds.
fn segments(body: &[u8], base: u64) -> Option<(u64, u64, Option<u64>)> {
    let timescale = be32(body, 8).ok()?;
    let (first, at) = match body.first()? {
        0 => (be::<4>(body, 16).ok()?, 20),
        _ => (be::<8>(body, 20).ok()?, 28),
    };
    let count = usize::try_from(be::<2>(body, at + 2).ok()?).ok()?;
    let (mut place, mut last, mut units) = (base.checked_add(first)?, None, 0_u64);
    for reference in body.get(at + 4..)?.chunks_exact(12).take(count) {
        let size = be::<4>(reference, 0).ok()?;
        if size >> 31 != 0 {
            return None;
        }
        last = Some(place);
        place = place.checked_add(size)?;
        units = units.saturating_add(be::<4>(reference, 4).ok()?);
    }
    Some((count as u64, last?, milliseconds(units, timescale)))
}

impl BoxReader<'_> {
    /// Examines the fragments from `first` on; `None` if they cannot be followed to the end.
    pub(super) fn fragments(
        &mut self,
        movie: &Movie,
        index: &FragmentIndex,
        first: u64,
    ) -> Result<Option<FragmentTimes>, ParseStop> {
        let countable = (self.window.limit_bytes() / BLOCK_BYTES).saturating_sub(OTHER_BLOCKS);
        let last = match index.last {
            Some(last) => Some(last),
            None => unless_stopped(self.last_of_mfra())?.flatten(),
        };
        let is_small = self.window.size_bytes().saturating_sub(first) <= self.window.limit_bytes() / 2;
        let is_countable = is_small || last.is_none_or(|(count, _)| count <= countable);
        if is_countable {
            let mut times = FragmentTimes { is_whole: true, ..FragmentTimes::begin(movie) };
            match self.through(first, movie, &mut times) {
                Ok(_) => return Ok(Some(times)),
                Err(needs @ ParseStop::Needs(_)) => return Err(needs),
                Err(ParseStop::Exhausted | ParseStop::Unreadable) => {}
            }
        }
        // Too many to examine: the first and the last are enough, if an index leads to the last.
        let Some((_, last)) = last.filter(|(_, last)| *last > first) else { return Ok(None) };
        self.by_index(movie, index, first, last)
    }

    /// Examines the first fragment, and the last one at the position in the index.
    fn by_index(
        &mut self,
        movie: &Movie,
        index: &FragmentIndex,
        first: u64,
        last: u64,
    ) -> Result<Option<FragmentTimes>, ParseStop> {
        let mut times =
            FragmentTimes { at_least_ms: index.duration_ms.max(movie.announced_ms()), ..FragmentTimes::begin(movie) };
        (self.left, self.is_dense) = (MAX_FRAGMENT_BOXES, false);
        let mut at = first;
        let found = self.next(&mut at, self.window.size_bytes())?.ok_or(ParseStop::Unreadable)?;
        self.fragment(found.body, movie, &mut times)?;
        Ok(self.through(last, movie, &mut times)?.then_some(times))
    }

    /// Counts all fragments from `at` to the end, and reports whether there are any.
    fn through(&mut self, mut at: u64, movie: &Movie, times: &mut FragmentTimes) -> Result<bool, ParseStop> {
        let mut is_any = false;
        let mut last_at = at;
        self.left = MAX_FRAGMENT_BOXES;
        loop {
            match self.next(&mut at, self.window.size_bytes()) {
                Ok(Some(FoundBox { kind, body })) if &kind == b"moof" => {
                    is_any = true;
                    self.is_dense = body.start.saturating_sub(last_at) < BLOCK_BYTES;
                    last_at = body.start;
                    self.fragment(body, movie, times)?;
                }
                Ok(Some(_)) => {}
                // Truncated, or not a box: players get no further.
                Ok(None) | Err(ParseStop::Unreadable) => return Ok(is_any),
                Err(stop) => return Err(stop),
            }
        }
    }

    fn fragment(&mut self, body: Range<u64>, movie: &Movie, times: &mut FragmentTimes) -> Result<(), ParseStop> {
        for found in self.children(&body)? {
            if &found.kind == b"traf" {
                // An unreadable one leaves the duration unknown.
                let body = self.body(&found)?.ok_or(ParseStop::Exhausted)?;
                times.add(&body, movie).ok_or(ParseStop::Exhausted)?;
            }
        }
        Ok(())
    }

    /// Reads the index at the end of the file: the number of fragments, and the position of the last one.
    fn last_of_mfra(&mut self) -> Result<Option<(u64, u64)>, ParseStop> {
        let end = self.window.size_bytes();
        let foot = self.window.get(end.checked_sub(16).ok_or(ParseStop::Unreadable)?, 16)?;
        if foot.get(4..8) != Some(b"mfro") {
            return Ok(None);
        }
        let mut at = end.checked_sub(be::<4>(&foot, 12)?).ok_or(ParseStop::Unreadable)?;
        let Some(found) = self.next(&mut at, end)?.filter(|found| &found.kind == b"mfra") else { return Ok(None) };
        let mut last = None;
        for table in self.children(&found.body)?.into_iter().filter(|found| &found.kind == b"tfra") {
            if let Some(body) = self.body(&table)? {
                last = last.max(last_of_tfra(&body));
            }
        }
        Ok(last)
    }
}

/// Parses a `tfra`: the number of entries, and the position in the last one.
fn last_of_tfra(body: &[u8]) -> Option<(u64, u64)> {
    let is_long = body.first()? == &1;
    let packed = be32(body, 8).ok()?;
    // The sizes of three numbers that follow the position.
    let numbers = [packed >> 4 & 3, packed >> 2 & 3, packed & 3].map(|less_one| less_one as usize + 1);
    let place_bytes = if is_long { 16 } else { 8 };
    let count = usize::try_from(be32(body, 12).ok()?).ok()?;
    let entries = body.get(16..)?.chunks_exact(place_bytes + numbers.iter().sum::<usize>());
    let last = entries.take(count).next_back()?;
    let place = if is_long { be::<8>(last, 8) } else { be::<4>(last, 4) };
    Some((count as u64, place.ok()?))
}

impl FragmentTimes {
    /// Starts with the samples in the movie box.
    fn begin(movie: &Movie) -> Self {
        let tracks = movie.tracks().map(|track| {
            let length = track.length();
            let own = length.units.filter(|_| track.samples() > 0);
            let span = Span {
                timescale: length.timescale,
                samples: track.samples().into(),
                units: own.unwrap_or(0),
                begin: own.map(|_| 0),
                end: own.unwrap_or(0),
            };
            (track.id(), span)
        });
        Self { tracks: tracks.collect(), ..Self::default() }
    }

    /// Adds the samples that a fragment has of one track.
    fn add(&mut self, traf: &[u8], movie: &Movie) -> Option<()> {
        let tfhd = super::child(traf, b"tfhd")?;
        let (flags, id) = (be::<3>(tfhd, 1).ok()?, be32(tfhd, 4).ok()?);
        // A track that does not exist is not played.
        let Some(span) = self.tracks.get_mut(&id) else { return Some(()) };
        // A position of eight bytes and a number of four may come before it.
        let at = 8 + if flags & 1 != 0 { 8 } else { 0 } + if flags & 2 != 0 { 4 } else { 0 };
        let default = if flags & 8 != 0 { be32(tfhd, at).ok() } else { movie.default_span(id) };
        let begin = super::child(traf, b"tfdt").and_then(|tfdt| match tfdt.first()? {
            0 => be::<4>(tfdt, 4).ok(),
            _ => be::<8>(tfdt, 4).ok(),
        });
        let begin = begin.unwrap_or(span.end);
        let (mut units, mut samples) = (0_u64, 0_u64);
        for (_, run) in super::children(traf).filter(|(kind, _)| kind == b"trun") {
            let (of_run, count) = run_units(run, default)?;
            units = units.saturating_add(of_run);
            samples += count;
        }
        span.begin = Some(span.begin.map_or(begin, |known| known.min(begin)));
        span.end = span.end.max(begin.saturating_add(units));
        span.units = span.units.saturating_add(units);
        span.samples = span.samples.saturating_add(samples);
        Some(())
    }

    /// Returns the duration of the longest track: from its start to its end, or that of all its samples where
    /// their times overlap.
    pub(super) fn longest_ms(&self) -> Option<u64> {
        let lasting = self.tracks.values().filter_map(|span| {
            let reach = span.end.saturating_sub(span.begin?);
            milliseconds(reach.max(span.units), span.timescale)
        });
        lasting.max().max(self.at_least_ms).filter(|ms| *ms > 0)
    }

    /// Returns the samples of a track in a thousand seconds, if all were counted.
    pub(super) fn rate(&self, track: u32) -> Option<u32> {
        let span = self.tracks.get(&track).filter(|_| self.is_whole)?;
        rate(span.samples, span.units, span.timescale)
    }
}

/// Returns the duration and the number of samples of one run.
fn run_units(run: &[u8], default: Option<u32>) -> Option<(u64, u64)> {
    let (flags, count) = (be::<3>(run, 1).ok()?, be::<4>(run, 4).ok()?);
    if flags & HAS_DURATION == 0 {
        return Some((count.saturating_mul(default?.into()), count));
    }
    let ahead = [HAS_DATA_OFFSET, HAS_FIRST_FLAGS].into_iter().filter(|field| flags & field != 0).count() * 4;
    let fields = [HAS_DURATION, HAS_SIZE, HAS_FLAGS, HAS_COMPOSITION];
    let entry_bytes = fields.into_iter().filter(|field| flags & field != 0).count() * 4;
    let entries = run.get(8 + ahead..)?.chunks_exact(entry_bytes);
    if (entries.len() as u64) < count {
        return None;
    }
    let mut units = 0_u64;
    for entry in entries.take(usize::try_from(count).ok()?) {
        units = units.saturating_add(be::<4>(entry, 0).ok()?);
    }
    Some((units, count))
}
