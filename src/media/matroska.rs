//! Matroska and `WebM` (RFC 9559): elements within elements.
//!
//! The two that say something, `Info` and `Tracks`, are looked up among those at the top, and put alone into a file of
//! their own, which is what the library gets: it would follow every pointer of the real one. Files that have them
//! behind their media are not followed there; nobody writes them so who can help it.

use std::io::Cursor;
use std::ops::Range;

use matroska_demuxer::Audio;
use matroska_demuxer::DisplayUnit;
use matroska_demuxer::Info;
use matroska_demuxer::MatroskaFile;
use matroska_demuxer::TrackEntry;
use matroska_demuxer::TrackType;
use matroska_demuxer::Video;

use crate::domain::facts::Media;
use crate::domain::facts::Track;
use crate::domain::facts::TrackKind;
use crate::media::codec;
use crate::media::isobmff::plain_track;
use crate::media::read::MAX_TRACKS;
use crate::media::window::Stop;
use crate::media::window::Window;

/// How many elements are looked at in one go.
const MAX_ELEMENTS: u32 = 1_024;

/// The most that is read of one element.
const MAX_BODY: u64 = 1 << 20;

const EBML: u32 = 0x1a45_dfa3;
const SEGMENT: u32 = 0x1853_8067;
const INFO: u32 = 0x1549_a966;
const TRACKS: u32 = 0x1654_ae6b;
const TRACK_ENTRY: u32 = 0xae;
const CLUSTER: u32 = 0x1f43_b675;

/// A cluster of nothing, at time 0. The library wants one.
const NO_CLUSTER: [u8; 8] = [0x1f, 0x43, 0xb6, 0x75, 0x83, 0xe7, 0x81, 0x00];

/// An element: what it is, and where its content is; to the end if that is not known.
#[derive(Debug)]
struct Found {
    id: u32,
    body: Range<u64>,
    is_open: bool,
}

pub(super) fn read(window: &Window) -> Result<Media, Stop> {
    let file = MatroskaFile::open(Cursor::new(abridged(window)?)).map_err(|_| Stop::Unreadable)?;
    let tracks = file.tracks().iter().take(MAX_TRACKS).map(track);
    Ok(Media { duration_ms: duration_ms(file.info()), tracks: tracks.collect() })
}

/// A file of the same kind with the same headers and no media.
fn abridged(window: &Window) -> Result<Vec<u8>, Stop> {
    let first = element(window, 0, window.size_bytes())?.filter(|first| first.id == EBML && !first.is_open);
    let first = first.ok_or(Stop::Unreadable)?;
    let segment = element(window, first.body.end, window.size_bytes())?.filter(|found| found.id == SEGMENT);
    let segment = segment.ok_or(Stop::Unreadable)?;
    let (mut info, mut tracks) = (None, None);
    let mut at = segment.body.start;
    for _ in 0..MAX_ELEMENTS {
        if info.is_some() && tracks.is_some() {
            break;
        }
        let Some(found) = element(window, at, segment.body.end)? else { break };
        match found.id {
            INFO => info = Some(element_of(INFO, &body(window, &found)?)),
            TRACKS => tracks = Some(element_of(TRACKS, &entries(window, &found)?)),
            CLUSTER => break,
            _ if found.is_open => break,
            _ => {}
        }
        at = found.body.end;
    }
    let (info, tracks) = info.zip(tracks).ok_or(Stop::Unreadable)?;
    let inner = [info, tracks, NO_CLUSTER.to_vec()].concat();
    Ok([element_of(EBML, &body(window, &first)?), element_of(SEGMENT, &inner)].concat())
}

/// The element at `at`, which ends at `end` at the latest.
fn element(window: &Window, at: u64, end: u64) -> Result<Option<Found>, Stop> {
    if at >= end {
        return Ok(None);
    }
    // Four bytes say what it is, and up to eight how large.
    let head = window.get(at, (end - at).min(12))?;
    let id_bytes = head.first().map_or(0, |byte| byte.leading_zeros() as usize) + 1;
    let id = head.get(..id_bytes).filter(|id| id.len() <= 4).ok_or(Stop::Unreadable)?;
    let id = id.iter().fold(0, |id, byte| id << 8 | u32::from(*byte));
    let rest = head.get(id_bytes..).unwrap_or_default();
    let size_bytes = rest.first().map_or(8, |byte| byte.leading_zeros() as usize) + 1;
    let size = rest.get(..size_bytes).filter(|size| size.len() <= 8).ok_or(Stop::Unreadable)?;
    // All ones are no size.
    let ones = (1 << (7 * size_bytes)) - 1;
    let size = size.iter().fold(0, |size, byte| size << 8 | u64::from(*byte)) & ones;
    let start = at + (id_bytes + size_bytes) as u64;
    let is_open = size == ones;
    let stop = if is_open { Some(end) } else { start.checked_add(size).filter(|stop| *stop <= end) };
    // What an interrupted recording has announced and not written.
    let stop = stop.or((id == SEGMENT).then_some(end)).ok_or(Stop::Unreadable)?;
    Ok(Some(Found { id, body: start..stop, is_open }))
}

fn body<'w>(window: &'w Window, of: &Found) -> Result<std::borrow::Cow<'w, [u8]>, Stop> {
    let count = of.body.end - of.body.start;
    if of.is_open || count > MAX_BODY { Err(Stop::Unreadable) } else { window.get(of.body.start, count) }
}

/// As many tracks as are told. The library keeps a thousand bytes for each, and a track takes fifteen in a file.
fn entries(window: &Window, tracks: &Found) -> Result<Vec<u8>, Stop> {
    body(window, tracks)?;
    let mut kept = Vec::new();
    let (mut at, mut left) = (tracks.body.start, MAX_TRACKS);
    for _ in 0..MAX_ELEMENTS {
        let Some(found) = element(window, at, tracks.body.end)?.filter(|_| left > 0) else { break };
        if found.id == TRACK_ENTRY {
            kept.extend(element_of(TRACK_ENTRY, &body(window, &found)?));
            left -= 1;
        }
        at = found.body.end;
    }
    Ok(kept)
}

/// Writes an element whose size takes eight bytes.
fn element_of(id: u32, body: &[u8]) -> Vec<u8> {
    let size = (body.len() as u64 | 1 << 56).to_be_bytes();
    [&id.to_be_bytes(), size.as_slice(), body].concat()
}

fn duration_ms(info: &Info) -> Option<u64> {
    let units = info.duration().filter(|units| units.is_finite() && *units > 0.0)?;
    whole(units * (info.timestamp_scale().get() as f64) / 1e6)
}

/// The nearest whole number, if it is one of that type.
fn whole<T: std::str::FromStr>(number: f64) -> Option<T> {
    format!("{number:.0}").parse().ok()
}

fn track(entry: &TrackEntry) -> Track {
    let codec = codec_name(entry.codec_id(), entry.codec_private().unwrap_or_default());
    match (entry.track_type(), entry.video(), entry.audio()) {
        (TrackType::Video, Some(video), _) => video_track(codec, entry, video),
        (TrackType::Audio, _, Some(audio)) => audio_track(codec, audio),
        (TrackType::Video, None, _) => plain_track(TrackKind::Video, codec),
        (TrackType::Audio, _, None) => plain_track(TrackKind::Audio, codec),
        _ => plain_track(TrackKind::Other, codec),
    }
}

fn video_track(codec: String, entry: &TrackEntry, video: &Video) -> Track {
    let in_pixels = matches!(video.display_unit(), None | Some(DisplayUnit::Pixels));
    let shown = video.display_width().zip(video.display_height()).filter(|_| in_pixels);
    let (width, height) = shown.unwrap_or((video.pixel_width(), video.pixel_height()));
    let frame_ns = entry.default_duration().map(|span| span.get());
    Track {
        width: u32::try_from(width.get()).ok(),
        height: u32::try_from(height.get()).ok(),
        frames_per_1000_s: frame_ns
            .and_then(|ns| u32::try_from((1_000_000_000_000 + ns / 2) / ns).ok())
            .filter(|rate| *rate > 0),
        ..plain_track(TrackKind::Video, codec)
    }
}

fn audio_track(codec: String, audio: &Audio) -> Track {
    let rate = audio.output_sampling_frequency().unwrap_or_else(|| audio.sampling_frequency());
    Track {
        channels: u32::try_from(audio.channels().get()).ok(),
        sample_rate_hz: whole(rate).filter(|rate| *rate > 0),
        ..plain_track(TrackKind::Audio, codec)
    }
}

/// The name of a codec that Matroska calls `id`.
fn codec_name(id: &str, private: &[u8]) -> String {
    let detailed = match id {
        "V_MPEG4/ISO/AVC" => codec::avc("avc1", private),
        "V_MPEGH/ISO/HEVC" => codec::hevc("hvc1", private),
        "V_AV1" => codec::av1(private),
        "A_AAC" => codec::aac(private),
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
