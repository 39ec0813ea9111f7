//! Matroska and `WebM` (RFC 9559): elements within elements.
//!
//! The few top-level elements with facts are looked up, and their content is read in memory, at fixed nesting
//! levels. Headers behind the media are not looked up; no common writer puts them there. Of the pointers in a
//! file only the one to the index is followed: if the duration was shortened afterwards, the last time in the
//! index reveals it.

use std::ops::Range;

use crate::fields::le16;
use crate::read::{MAX_DURATION_MS, MAX_TRACKS, plain_track, squared};
use crate::window::{ParseStop, Window, unless_stopped};
use crate::{codec, wav};
use domain::facts::{Media, Track, TrackKind};

/// Maximum number of elements examined in one call.
const MAX_ELEMENTS: u32 = 1_024;

/// Maximum number of bytes read of one element.
const MAX_BODY: u64 = 1 << 20;

const EBML: u32 = 0x1a45_dfa3;
const SEGMENT: u32 = 0x1853_8067;
const SEEK_HEAD: u32 = 0x114d_9b74;
const SEEK: u32 = 0x4dbb;
const SEEK_ID: u32 = 0x53ab;
const SEEK_POSITION: u32 = 0x53ac;
const INFO: u32 = 0x1549_a966;
const TIMESTAMP_SCALE: u32 = 0x2ad7b1;
const DURATION: u32 = 0x4489;
const TRACKS: u32 = 0x1654_ae6b;
const TRACK_ENTRY: u32 = 0xae;
const TRACK_TYPE: u32 = 0x83;
const CODEC_ID: u32 = 0x86;
const CODEC_PRIVATE: u32 = 0x63a2;
const DEFAULT_DURATION: u32 = 0x23_e383;
const VIDEO: u32 = 0xe0;
const PIXEL_WIDTH: u32 = 0xb0;
const PIXEL_HEIGHT: u32 = 0xba;
const CROP_BOTTOM: u32 = 0x54aa;
const CROP_TOP: u32 = 0x54bb;
const CROP_LEFT: u32 = 0x54cc;
const CROP_RIGHT: u32 = 0x54dd;
const DISPLAY_WIDTH: u32 = 0x54b0;
const DISPLAY_HEIGHT: u32 = 0x54ba;
const DISPLAY_UNIT: u32 = 0x54b2;
const PROJECTION: u32 = 0x7670;
const POSE_ROLL: u32 = 0x7675;
const AUDIO: u32 = 0xe1;
const SAMPLING_FREQUENCY: u32 = 0xb5;
const OUTPUT_SAMPLING_FREQUENCY: u32 = 0x78b5;
const CHANNELS: u32 = 0x9f;
const CUES: u32 = 0x1c53_bb6b;
const CUE_POINT: u32 = 0xbb;
const CUE_TIME: u32 = 0xb3;
const CLUSTER: u32 = 0x1f43_b675;

/// An element: its id, and the position of its content; up to the end if its size is unknown.
#[derive(Debug)]
struct Element {
    id: u32,
    body: Range<u64>,
    is_open: bool,
}

/// The facts in the top-level elements of a segment.
#[derive(Debug, Default)]
struct SegmentTop {
    /// The nanoseconds per unit of time, and the duration in units.
    info: Option<(u64, Option<f64>)>,
    tracks: Option<Vec<Track>>,
    cues_at: Option<u64>,
}

pub(super) fn read(window: &Window) -> Result<Media, ParseStop> {
    let first = element(window, 0, window.size_bytes())?.filter(|first| first.id == EBML && !first.is_open);
    let first = first.ok_or(ParseStop::Unreadable)?;
    let segment = element(window, first.body.end, window.size_bytes())?.filter(|found| found.id == SEGMENT);
    let segment = segment.ok_or(ParseStop::Unreadable)?;
    let top = top(window, &segment.body)?;
    let ((scale_ns, units), tracks) = top.info.zip(top.tracks).ok_or(ParseStop::Unreadable)?;
    let milliseconds = |units: f64| whole::<u64>(units * scale_ns as f64 / 1e6).map(|ms| ms.min(MAX_DURATION_MS));
    let said_ms = units.filter(|units| units.is_finite() && *units > 0.0).and_then(milliseconds);
    let duration_ms = match (said_ms, top.cues_at) {
        // The duration is at least the last time in the index.
        (Some(said_ms), Some(at)) => {
            let last = unless_stopped(last_cue(window, at, segment.body.end))?.flatten();
            Some(said_ms.max(last.and_then(|last| milliseconds(last as f64)).unwrap_or(0)))
        }
        (said_ms, _) => said_ms,
    };
    Ok(Media { duration_ms, tracks })
}

fn top(window: &Window, segment: &Range<u64>) -> Result<SegmentTop, ParseStop> {
    let mut top = SegmentTop::default();
    let mut at = segment.start;
    for _ in 0..MAX_ELEMENTS {
        if top.info.is_some() && top.tracks.is_some() {
            break;
        }
        let Some(found) = element(window, at, segment.end)? else { break };
        match found.id {
            INFO if top.info.is_none() => {
                let body = body(window, &found)?;
                let scale_ns = child(&body, TIMESTAMP_SCALE).and_then(unsigned).filter(|scale| *scale > 0);
                top.info = Some((scale_ns.unwrap_or(1_000_000), child(&body, DURATION).and_then(float)));
            }
            TRACKS => {
                let body = body(window, &found)?;
                let entries = children(&body).filter(|(id, _)| *id == TRACK_ENTRY).take(MAX_TRACKS);
                top.tracks = Some(entries.map(|(_, entry)| track(entry)).collect());
            }
            SEEK_HEAD if top.cues_at.is_none() => {
                let position = cues_position(&body(window, &found)?);
                top.cues_at = position.and_then(|position| segment.start.checked_add(position));
            }
            CLUSTER => break,
            _ if found.is_open => break,
            _ => {}
        }
        at = found.body.end;
    }
    Ok(top)
}

/// Returns the position of the index, relative to the content of the segment.
fn cues_position(seek_head: &[u8]) -> Option<u64> {
    let mut seeks = children(seek_head).filter(|(id, _)| *id == SEEK).map(|(_, seek)| seek);
    let cues = seeks.find(|seek| child(seek, SEEK_ID).and_then(unsigned) == Some(u64::from(CUES)))?;
    child(cues, SEEK_POSITION).and_then(unsigned)
}

/// Returns the last time in the index at `at`, in units.
fn last_cue(window: &Window, at: u64, end: u64) -> Result<Option<u64>, ParseStop> {
    let Some(cues) = element(window, at, end)?.filter(|found| found.id == CUES) else { return Ok(None) };
    let body = body(window, &cues)?;
    let points = children(&body).filter(|(id, _)| *id == CUE_POINT);
    Ok(points.filter_map(|(_, point)| child(point, CUE_TIME).and_then(unsigned)).max())
}

/// The header of an element.
#[derive(Debug)]
struct Head {
    id: u32,
    /// `None` if the size is unknown.
    size: Option<u64>,
    /// The size of the header.
    bytes: usize,
}

impl Head {
    fn parse(head: &[u8]) -> Option<Self> {
        let id_bytes = head.first()?.leading_zeros() as usize + 1;
        let id = head.get(..id_bytes).filter(|id| id.len() <= 4)?;
        let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
        let size_bytes = head.get(id_bytes)?.leading_zeros() as usize + 1;
        let size = head.get(id_bytes..id_bytes + size_bytes).filter(|size| size.len() <= 8)?;
        // All ones mean that the size is unknown.
        let ones = (1 << (7 * size_bytes)) - 1;
        let size = size.iter().fold(0, |size, byte| size << 8 | u64::from(*byte)) & ones;
        Some(Self { id, size: (size != ones).then_some(size), bytes: id_bytes + size_bytes })
    }
}

/// Returns the element at `at`, which ends at `end` at the latest.
fn element(window: &Window, at: u64, end: u64) -> Result<Option<Element>, ParseStop> {
    if at >= end {
        return Ok(None);
    }
    // The id takes up to four bytes, the size up to eight.
    let head = Head::parse(&window.get(at, (end - at).min(12))?).ok_or(ParseStop::Unreadable)?;
    let start = at + head.bytes as u64;
    let is_open = head.size.is_none();
    let stop = match head.size {
        None => Some(end),
        Some(size) => start.checked_add(size).filter(|stop| *stop <= end),
    };
    // An interrupted recording may be shorter than its segment announces.
    let stop = stop.or((head.id == SEGMENT).then_some(end)).ok_or(ParseStop::Unreadable)?;
    Ok(Some(Element { id: head.id, body: start..stop, is_open }))
}

fn body<'w>(window: &'w Window, of: &Element) -> Result<std::borrow::Cow<'w, [u8]>, ParseStop> {
    let count = of.body.end - of.body.start;
    if of.is_open || count > MAX_BODY { Err(ParseStop::Unreadable) } else { window.get(of.body.start, count) }
}

/// Iterates over the elements in `body`: id and content. Ends at a broken one.
fn children(body: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let head = Head::parse(rest)?;
        let end = head.bytes.checked_add(usize::try_from(head.size?).ok()?)?;
        let content = rest.get(head.bytes..end)?;
        rest = &rest[end..];
        Some((head.id, content))
    })
}

fn child(body: &[u8], wanted: u32) -> Option<&[u8]> {
    children(body).find(|(id, _)| *id == wanted).map(|(_, content)| content)
}

fn unsigned(content: &[u8]) -> Option<u64> {
    (content.len() <= 8).then(|| content.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn float(content: &[u8]) -> Option<f64> {
    match content.len() {
        4 => content.first_chunk().map(|bytes| f64::from(f32::from_be_bytes(*bytes))),
        8 => content.first_chunk().map(|bytes| f64::from_be_bytes(*bytes)),
        _ => None,
    }
}

/// Returns the nearest integer, if it fits into the type.
fn whole<T: std::str::FromStr>(number: f64) -> Option<T> {
    format!("{number:.0}").parse().ok()
}

fn track(entry: &[u8]) -> Track {
    let id = child(entry, CODEC_ID).and_then(|id| str::from_utf8(id).ok()).unwrap_or_default().trim_end_matches('\0');
    let codec = codec_name(id, child(entry, CODEC_PRIVATE).unwrap_or_default());
    match child(entry, TRACK_TYPE).and_then(unsigned) {
        Some(1) => video_track(codec, entry),
        Some(2) => audio_track(codec, child(entry, AUDIO).unwrap_or_default()),
        _ => plain_track(TrackKind::Other, codec),
    }
}

fn video_track(codec: String, entry: &[u8]) -> Track {
    let size = child(entry, VIDEO).and_then(shown);
    let frame_ns = child(entry, DEFAULT_DURATION).and_then(unsigned).filter(|ns| *ns > 0);
    Track {
        width: size.map(|(width, _)| width),
        height: size.map(|(_, height)| height),
        frames_per_1000_s: frame_ns
            .and_then(|ns| u32::try_from((1_000_000_000_000 + ns / 2) / ns).ok())
            .filter(|rate| *rate > 0),
        ..plain_track(TrackKind::Video, codec)
    }
}

/// Returns the size as shown.
fn shown(video: &[u8]) -> Option<(u32, u32)> {
    let field = |id| child(video, id).and_then(unsigned);
    let side = |pixels, crops: [u32; 2]| {
        let cropped = crops.into_iter().filter_map(field).fold(0, u64::saturating_add);
        field(pixels)?.checked_sub(cropped).filter(|side| *side > 0)
    };
    let pixels = (side(PIXEL_WIDTH, [CROP_LEFT, CROP_RIGHT])?, side(PIXEL_HEIGHT, [CROP_TOP, CROP_BOTTOM])?);
    let display = field(DISPLAY_WIDTH).zip(field(DISPLAY_HEIGHT)).filter(|(width, height)| *width > 0 && *height > 0);
    let size = match (field(DISPLAY_UNIT).unwrap_or(0), display) {
        (0, Some((width, height))) => squared(width, height, None),
        // Centimeters, inches, or only a ratio: scale the width to the stored height.
        (1..=3, Some((width, height))) => squared(pixels.1, pixels.1, Some((width, height))),
        _ => squared(pixels.0, pixels.1, None),
    };
    let roll = child(video, PROJECTION).and_then(|projection| child(projection, POSE_ROLL)).and_then(float);
    let is_on_its_side = roll.is_some_and(|degrees| (degrees.abs() - 90.0).abs() < 1.0);
    size.map(|(width, height)| if is_on_its_side { (height, width) } else { (width, height) })
}

fn audio_track(codec: String, audio: &[u8]) -> Track {
    let rate = |id| child(audio, id).and_then(float).and_then(whole::<u32>).filter(|rate| *rate > 0);
    let channels = child(audio, CHANNELS).map_or(Some(1), unsigned);
    Track {
        channels: channels.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0),
        sample_rate_hz: rate(OUTPUT_SAMPLING_FREQUENCY).or_else(|| rate(SAMPLING_FREQUENCY)).or(Some(8_000)),
        ..plain_track(TrackKind::Audio, codec)
    }
}

/// Returns the name of the codec with this Matroska id.
fn codec_name(id: &str, private: &[u8]) -> String {
    let detailed = match id {
        "V_MPEG4/ISO/AVC" => codec::avc("avc1", private),
        "V_MPEGH/ISO/HEVC" => codec::hevc("hvc1", private),
        "V_AV1" => codec::av1(private),
        "A_AAC" => codec::aac(private),
        // A Windows codec: the header of a bitmap, or of a WAV file.
        "V_MS/VFW/FOURCC" => private.get(16..20).map(codec::plain),
        "A_MS/ACM" => le16(private, 0).ok().map(|tag| wav::codec_of(tag).to_owned()),
        _ => None,
    };
    let plain = match id {
        "V_MPEG4/ISO/AVC" => "avc1",
        "V_MPEGH/ISO/HEVC" => "hvc1",
        "V_AV1" => "av01",
        "A_MPEG/L3" => "mp3",
        "A_AC3" => "ac-3",
        "A_EAC3" => "ec-3",
        "S_TEXT/UTF8" => "srt",
        "S_TEXT/ASS" => "ass",
        "S_TEXT/WEBVTT" => "webvtt",
        id if id.starts_with("A_AAC") => "mp4a",
        id => id.strip_prefix("V_").or(id.strip_prefix("A_")).or(id.strip_prefix("S_")).unwrap_or(id),
    };
    detailed.unwrap_or_else(|| codec::plain(plain.as_bytes()))
}
