//! Ogg (RFC 3533): pages of several streams. The first page of each stream contains its type, the last one
//! its duration.

use crate::fields::{be, be16, be32, le, le16, le32};
use crate::flac::StreamInfo;
use crate::read::{MAX_TRACKS, milliseconds, plain_track, squared};
use crate::window::{BLOCK_BYTES, ParseStop, Window};
use domain::facts::{Media, Track, TrackKind};

const HEAD_BYTES: u64 = 27;

const IS_FIRST: u8 = 0x02;

/// The position of a page on which no packet ends.
const NO_POSITION: u64 = u64::MAX;

/// The size of the largest page: 255 segments of 255 bytes.
const MAX_PAGE: u64 = HEAD_BYTES + 255 + 255 * 255;

/// Opus positions count at this rate, regardless of the rate of the input.
const OPUS_HZ: u32 = 48_000;

/// The header of a page.
#[derive(Debug, Clone, Copy)]
struct Page {
    flags: u8,
    position: u64,
    stream: u32,
    number: u32,
    /// Including its header.
    bytes: u64,
    head_bytes: u64,
}

/// One stream: its facts, and the conversion of its positions to time.
#[derive(Debug)]
struct Stream {
    id: u32,
    track: Track,
    clock: Clock,
}

/// The unit of the positions in a stream.
#[derive(Debug, Clone, Copy)]
enum Clock {
    /// Samples, of which the first `skipped` are not played.
    Samples {
        rate_hz: u32,
        skipped: u64,
    },
    /// Frames up to the last key frame, and frames since then in the lowest `since_bits` bits.
    Frames {
        since_bits: u32,
        frames: u32,
        seconds: u32,
    },
    Unknown,
}

impl Clock {
    fn milliseconds(self, position: u64) -> Option<u64> {
        match self {
            Self::Samples { rate_hz, skipped } => milliseconds(position.saturating_sub(skipped), rate_hz),
            Self::Frames { since_bits, frames, seconds } => {
                let count = (position >> since_bits) + (position & ((1 << since_bits) - 1));
                milliseconds(count.saturating_mul(seconds.into()), frames)
            }
            Self::Unknown => None,
        }
    }
}

pub(super) fn read(window: &Window) -> Result<Media, ParseStop> {
    let mut streams: Vec<Stream> = Vec::new();
    let mut at = 0;
    for _ in 0..MAX_TRACKS {
        let page = match page(window, at)? {
            Some(page) if page.flags & IS_FIRST != 0 => page,
            Some(_) | None => break,
        };
        let body = window.get(at + page.head_bytes, (page.bytes - page.head_bytes).min(256))?;
        streams.extend(Stream::parse(page.stream, &body));
        at += page.bytes;
    }
    let duration_ms = last_ms(window, &streams)?;
    Ok(Media { duration_ms, tracks: streams.into_iter().map(|stream| stream.track).collect() })
}

fn page(window: &Window, at: u64) -> Result<Option<Page>, ParseStop> {
    if window.size_bytes().saturating_sub(at) < HEAD_BYTES {
        return Ok(None);
    }
    let left = window.size_bytes() - at;
    Ok(Page::parse(&window.get(at, left.min(HEAD_BYTES + 255))?).filter(|page| page.bytes <= left))
}

impl Page {
    fn parse(head: &[u8]) -> Option<Self> {
        if !head.starts_with(b"OggS\0") {
            return None;
        }
        let pieces = usize::from(*head.get(26)?);
        let sizes = head.get(27..27 + pieces)?;
        let head_bytes = HEAD_BYTES + pieces as u64;
        Some(Self {
            flags: head[5],
            position: le::<8>(head, 6).ok()?,
            stream: le32(head, 14).ok()?,
            number: le32(head, 18).ok()?,
            bytes: head_bytes + sizes.iter().copied().map(u64::from).sum::<u64>(),
            head_bytes,
        })
    }
}

/// Returns the duration by the last page of each stream. `None` for concatenated files: then a last page
/// belongs to a stream that did not begin with the file, or the page numbers are not continuous.
fn last_ms(window: &Window, streams: &[Stream]) -> Result<Option<u64>, ParseStop> {
    let from = (window.size_bytes().saturating_sub(2 * MAX_PAGE)) / BLOCK_BYTES * BLOCK_BYTES;
    let tail = window.get(from, window.size_bytes() - from)?;
    let (mut longest, mut pages) = (None, 0_u64);
    for at in memchr::memmem::find_iter(&tail, b"OggS") {
        let Some(page) = Page::parse(&tail[at..]).filter(|page| page.bytes <= (tail.len() - at) as u64) else {
            continue;
        };
        let Some(stream) = streams.iter().find(|stream| stream.id == page.stream) else { return Ok(None) };
        pages = pages.max(u64::from(page.number) + 1);
        if page.position != NO_POSITION {
            longest = longest.max(stream.clock.milliseconds(page.position));
        }
    }
    let is_whole = pages.saturating_mul(streams.len() as u64) >= window.size_bytes() / MAX_PAGE;
    Ok(longest.filter(|_| is_whole))
}

impl Stream {
    /// Parses the first packet of a stream.
    fn parse(id: u32, body: &[u8]) -> Option<Self> {
        let stream = |track, clock| Some(Self { id, track, clock });
        let samples = |rate_hz, skipped| Clock::Samples { rate_hz, skipped };
        let heard = |codec: &str, channels: u32, rate_hz: u32| Track {
            channels: Some(channels).filter(|count| *count > 0),
            sample_rate_hz: Some(rate_hz).filter(|rate| *rate > 0),
            ..plain_track(TrackKind::Audio, codec.to_owned())
        };
        if let Some(head) = body.strip_prefix(b"\x01vorbis") {
            let rate = le32(head, 5).ok()?;
            stream(heard("vorbis", u32::from(*head.get(4)?), rate), samples(rate, 0))
        } else if let Some(head) = body.strip_prefix(b"OpusHead") {
            let skipped = u64::from(le16(head, 2).ok()?);
            stream(heard("opus", u32::from(*head.get(1)?), OPUS_HZ), samples(OPUS_HZ, skipped))
        } else if let Some(head) = body.strip_prefix(b"\x7fFLAC") {
            let info = StreamInfo::parse(head.get(12..)?).ok()?;
            stream(heard("flac", info.channels, info.rate_hz), samples(info.rate_hz, 0))
        } else if let Some(head) = body.strip_prefix(b"Speex   ") {
            let rate = le32(head, 28).ok()?;
            stream(heard("speex", le32(head, 40).ok()?, rate), samples(rate, 0))
        } else if let Some(head) = body.strip_prefix(b"\x80theora") {
            let (track, clock) = theora(head)?;
            stream(track, clock)
        } else {
            stream(plain_track(TrackKind::Other, "unknown".to_owned()), Clock::Unknown)
        }
    }
}

/// Parses a Theora header (Theora specification, 6.2).
fn theora(head: &[u8]) -> Option<(Track, Clock)> {
    let field = |at| be::<3>(head, at).ok().filter(|field| *field > 0);
    let (frames, seconds) = (be32(head, 15).ok()?, be32(head, 19).ok()?);
    let since_bits = u32::from(be16(head, 33).ok()? >> 5 & 31);
    let rate = (u64::from(frames) * 1_000).checked_div(seconds.into()).and_then(|rate| u32::try_from(rate).ok());
    let shape = field(23).zip(field(26));
    let size = field(7).zip(field(10)).and_then(|(width, height)| squared(width, height, shape));
    let track = Track {
        width: size.map(|(width, _)| width),
        height: size.map(|(_, height)| height),
        frames_per_1000_s: rate.filter(|rate| *rate > 0),
        ..plain_track(TrackKind::Video, "theora".to_owned())
    };
    Some((track, Clock::Frames { since_bits, frames, seconds }))
}
