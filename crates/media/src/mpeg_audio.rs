//! MP3 (ISO/IEC 11172-3 and 13818-3) and AAC in ADTS frames (ISO/IEC 13818-7): no header contains the
//! duration. The first frame may contain an index; otherwise frames are counted, or extrapolated from a few
//! of them.

use crate::fields::{be16, be32};
use crate::flac;
use crate::read::{milliseconds, sound};
use crate::window::{BLOCK_BYTES, ParseStop, Window, unless_stopped};
use domain::facts::Media;

/// Maximum number of frames counted in one call: about two and a half hours.
const MAX_FRAMES: usize = 400_000;

/// Maximum number of tags skipped at the beginning.
const MAX_TAGS: usize = 16;

/// Maximum distance of the first frame behind the tags.
const SEARCH_BYTES: u64 = 16 << 10;

/// The size of the longer of the two kinds of frame header.
const HEAD_BYTES: u64 = 7;

/// The highest bit rate of MP3.
const MAX_KBPS: u64 = 320;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// MPEG-1 and MPEG-2 audio, layers 1 to 3.
    Mpeg { layer: u8, is_first_version: bool, kbps: u32 },
    /// AAC, with its MPEG-4 audio object type.
    Adts { object: u8 },
}

/// One frame, as its header describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    kind: Kind,
    bytes: u64,
    samples: u32,
    rate_hz: u32,
    /// Zero if the header does not say it.
    channels: u32,
}

/// Parses the frame at the beginning of `head`, if another one follows it.
pub(super) fn at_start(head: &[u8]) -> Option<Frame> {
    let frame = Frame::parse(head)?;
    let behind = head.get(usize::try_from(frame.bytes).ok()?..)?;
    Frame::parse(behind).filter(|next| frame.is_like(next)).map(|_| frame)
}

pub(super) fn read(window: &Window) -> Result<Media, ParseStop> {
    let at = behind_tags(window)?;
    if window.size_bytes().saturating_sub(at) >= 4 && *window.get(at, 4)? == *b"fLaC" {
        return flac::read(window, at);
    }
    let area = window.get(at, SEARCH_BYTES.min(window.size_bytes().saturating_sub(at)))?;
    let starts = (0..area.len()).filter(|start| area[*start] == 0xff);
    let (start, first) = starts
        .filter_map(|start| Some((start, at_start(&area[start..])?)))
        .next()
        .or_else(|| Some((0, Frame::parse(&area)?)))
        .ok_or(ParseStop::Unreadable)?;
    let stream = Stream { window, start: at + start as u64, first };
    let duration_ms = match stream.indexed()? {
        Some(frames) => milliseconds(frames.saturating_mul(first.samples.into()), first.rate_hz),
        None => stream.counted()?,
    };
    Ok(sound(duration_ms, &first.codec(), Some(first.channels).filter(|count| *count > 0), Some(first.rate_hz)))
}

/// Returns the end of the ID3v2 tags at the beginning.
fn behind_tags(window: &Window) -> Result<u64, ParseStop> {
    let mut at = 0;
    for _ in 0..MAX_TAGS {
        if window.size_bytes().saturating_sub(at) < 10 {
            break;
        }
        match id3_bytes(&window.get(at, 10)?) {
            Some(bytes) => at = at.saturating_add(bytes),
            None => break,
        }
    }
    Ok(at.min(window.size_bytes()))
}

/// Returns the size of the ID3v2 tag with this header, which is kept in seven bits of each byte.
fn id3_bytes(head: &[u8]) -> Option<u64> {
    let rest = head.strip_prefix(b"ID3")?;
    let size = rest.get(3..7)?.iter().fold(0, |size, byte| size << 7 | u64::from(byte & 0x7f));
    let footer = if rest[2] & 0x10 == 0 { 0 } else { 10 };
    Some(10 + size + footer)
}

impl Frame {
    fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.get(..4)? {
            [0xff, second, ..] if second & 0xf6 == 0xf0 => Self::adts(bytes),
            [0xff, second, ..] if second & 0xe0 == 0xe0 => Self::mpeg(bytes),
            _ => None,
        }
    }

    fn mpeg(bytes: &[u8]) -> Option<Self> {
        const FIRST: [[u32; 14]; 3] = [
            [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
            [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
            [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        ];
        const SECOND: [[u32; 14]; 2] = [
            [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
            [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
        ];
        let [_, second, third, fourth] = *bytes.first_chunk::<4>()?;
        let halvings = match second >> 3 & 3 {
            3 => 0,
            2 => 1,
            0 => 2,
            _ => return None,
        };
        let layer = 4 - (second >> 1 & 3);
        let rate_hz = [44_100_u32, 48_000, 32_000].get(usize::from(third >> 2 & 3))? >> halvings;
        let is_first_version = halvings == 0;
        let rates = match (is_first_version, layer) {
            (true, 1..=3) => &FIRST[usize::from(layer) - 1],
            (false, 1) => &SECOND[0],
            (false, 2 | 3) => &SECOND[1],
            _ => return None,
        };
        // Zero means that the header does not contain the rate.
        let kbps = *rates.get(usize::from(third >> 4).checked_sub(1)?)?;
        let samples = match (layer, is_first_version) {
            (1, _) => 384,
            (3, false) => 576,
            _ => 1_152,
        };
        let padding = u64::from(third >> 1 & 1);
        let per_slot = if layer == 1 { 4 } else { 1 };
        let slots = u64::from(samples) / 8 / per_slot * u64::from(kbps) * 1_000 / u64::from(rate_hz);
        Some(Self {
            kind: Kind::Mpeg { layer, is_first_version, kbps },
            bytes: (slots + padding) * per_slot,
            samples,
            rate_hz,
            channels: if fourth >> 6 == 3 { 1 } else { 2 },
        })
    }

    fn adts(bytes: &[u8]) -> Option<Self> {
        const RATES: [u32; 13] =
            [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
        let head = bytes.first_chunk::<7>()?;
        let length = u64::from(head[3] & 3) << 11 | u64::from(head[4]) << 3 | u64::from(head[5] >> 5);
        let channels = match (head[2] & 1) << 2 | head[3] >> 6 {
            7 => 8,
            count => u32::from(count),
        };
        Some(Self {
            kind: Kind::Adts { object: (head[2] >> 6) + 1 },
            bytes: Some(length).filter(|length| *length > HEAD_BYTES)?,
            samples: 1_024 * (u32::from(head[6] & 3) + 1),
            rate_hz: *RATES.get(usize::from(head[2] >> 2 & 15))?,
            channels,
        })
    }

    /// Reports whether both can belong to one stream.
    fn is_like(&self, other: &Self) -> bool {
        let is_same_kind = match (self.kind, other.kind) {
            (Kind::Mpeg { layer, .. }, Kind::Mpeg { layer: other, .. }) => layer == other,
            (Kind::Adts { .. }, Kind::Adts { .. }) => true,
            (Kind::Mpeg { .. }, Kind::Adts { .. }) | (Kind::Adts { .. }, Kind::Mpeg { .. }) => false,
        };
        is_same_kind && self.rate_hz == other.rate_hz
    }

    pub(super) fn content_type(&self) -> &'static str {
        match self.kind {
            Kind::Mpeg { .. } => "audio/mpeg",
            Kind::Adts { .. } => "audio/aac",
        }
    }

    fn codec(&self) -> String {
        match self.kind {
            Kind::Mpeg { layer, .. } => format!("mp{layer}"),
            Kind::Adts { object } => format!("mp4a.40.{object}"),
        }
    }
}

/// The frames from `start` to the end of the file.
#[derive(Debug)]
struct Stream<'w> {
    window: &'w Window,
    start: u64,
    first: Frame,
}

impl Stream<'_> {
    fn bytes(&self) -> u64 {
        self.window.size_bytes().saturating_sub(self.start)
    }

    /// Returns the number of frames from the index in the first frame, if that covers the whole file.
    fn indexed(&self) -> Result<Option<u64>, ParseStop> {
        let Kind::Mpeg { layer: 3, is_first_version, .. } = self.first.kind else { return Ok(None) };
        let frame = self.window.get(self.start, self.first.bytes.min(self.bytes()))?;
        let side_bytes = match (is_first_version, self.first.channels) {
            (true, 1) | (false, 2) => 17,
            (true, _) => 32,
            (false, _) => 9,
        };
        let Some((frames, bytes)) = xing(&frame, 4 + side_bytes).or_else(|| vbri(&frame)) else { return Ok(None) };
        // The frames of one file may be followed by those of another.
        if frames == 0 || bytes.is_some_and(|bytes| self.bytes() > bytes + bytes / 16) {
            return Ok(None);
        }
        let most_bytes = u64::from(self.first.samples) / 8 * MAX_KBPS * 1_000 / u64::from(self.first.rate_hz) + 1;
        Ok(Some(frames.max(self.bytes() / most_bytes)))
    }

    /// Returns the duration of all frames in milliseconds: by counting them if the whole file may be read,
    /// otherwise by their bit rate.
    fn counted(&self) -> Result<Option<u64>, ParseStop> {
        if self.bytes() <= self.window.limit_bytes().saturating_sub(2 * BLOCK_BYTES) {
            return unless_stopped(self.walk()).map(Option::flatten);
        }
        match self.first.kind {
            Kind::Mpeg { kbps, .. } if self.is_constant(kbps)? => Ok(milliseconds(self.bytes(), kbps * 1_000 / 8)),
            Kind::Mpeg { .. } | Kind::Adts { .. } => Ok(None),
        }
    }

    /// Counts all frames.
    fn walk(&self) -> Result<Option<u64>, ParseStop> {
        let (mut at, mut samples) = (self.start, 0_u64);
        for _ in 0..MAX_FRAMES {
            let left = self.window.size_bytes().saturating_sub(at);
            if left < HEAD_BYTES {
                return Ok(milliseconds(samples, self.first.rate_hz));
            }
            let head = self.window.next(at, left.min(32))?;
            at += match Frame::parse(&head).filter(|frame| self.first.is_like(frame)) {
                Some(frame) => {
                    samples += u64::from(frame.samples);
                    frame.bytes
                }
                // Players search for the next one as well.
                None => tag_bytes(&head).unwrap_or(1),
            };
        }
        Err(ParseStop::Exhausted)
    }

    /// Reports whether the frames at the beginning, in the middle and at the end have the same bit rate.
    fn is_constant(&self, kbps: u32) -> Result<bool, ParseStop> {
        let last = self.window.size_bytes() / BLOCK_BYTES * BLOCK_BYTES;
        let middle = (self.start + self.bytes() / 2) / BLOCK_BYTES * BLOCK_BYTES;
        for from in [self.start, middle, last.saturating_sub(BLOCK_BYTES)] {
            let to = (from / BLOCK_BYTES + 1) * BLOCK_BYTES;
            let block = self.window.get(from, to.min(self.window.size_bytes()) - from)?;
            if !is_constant(&block, kbps, &self.first) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reports whether the block contains frames of the stream, all of one bit rate.
fn is_constant(block: &[u8], kbps: u32, first: &Frame) -> bool {
    let is_of_stream = |frame: &Frame| frame.is_like(first);
    let mut starts = (0..block.len()).filter(|start| block[*start] == 0xff);
    let start = starts.find(|start| at_start(&block[*start..]).as_ref().is_some_and(is_of_stream));
    let Some(mut rest) = start.and_then(|start| block.get(start..)) else { return false };
    while let Some(frame) = Frame::parse(rest) {
        if !matches!(frame.kind, Kind::Mpeg { kbps: own, .. } if own == kbps) {
            return false;
        }
        rest = usize::try_from(frame.bytes).ok().and_then(|bytes| rest.get(bytes..)).unwrap_or_default();
    }
    // The rest contains no frame, or only a part of one.
    rest.len() < 4
}

/// Returns the size of a tag between or behind frames.
fn tag_bytes(head: &[u8]) -> Option<u64> {
    match head {
        [b'T', b'A', b'G', ..] => Some(128),
        [b'I', b'D', b'3', ..] => id3_bytes(head),
        [b'A', b'P', b'E', b'T', b'A', b'G', b'E', b'X', _, _, _, _, size @ ..] => {
            size.first_chunk::<4>().map(|size| 32 + u64::from(u32::from_le_bytes(*size)))
        }
        _ => None,
    }
}

/// Parses an index by Xing or LAME: frames and bytes.
fn xing(frame: &[u8], at: usize) -> Option<(u64, Option<u64>)> {
    let index = frame.get(at..)?;
    if !index.starts_with(b"Xing") && !index.starts_with(b"Info") {
        return None;
    }
    let flags = be32(index, 4).ok()?;
    let frames = (flags & 1 != 0).then(|| be32(index, 8).ok())??;
    let bytes = (flags & 2 != 0).then(|| be32(index, 12).ok()).flatten();
    Some((frames.into(), bytes.map(u64::from)))
}

/// Parses an index by Fraunhofer: frames and bytes.
fn vbri(frame: &[u8]) -> Option<(u64, Option<u64>)> {
    let index = frame.get(36..).filter(|index| index.starts_with(b"VBRI"))?;
    be16(index, 4).ok()?;
    Some((be32(index, 14).ok()?.into(), Some(be32(index, 10).ok()?.into())))
}
