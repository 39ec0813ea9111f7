//! Reads the facts in the headers of a file.

use std::ops::Range;

use crate::sniff::{Container, Sniffed, UNKNOWN};
use crate::window::{ParseStop, Window};
use crate::{contained, flac, gif, isobmff, jpeg, matroska, mpeg_audio, ogg, png, wav, webp};
use domain::facts::{Content, Facts, Media, Track, TrackKind};

/// Maximum number of tracks reported of one file. No player shows more, and every event repeats them.
pub(super) const MAX_TRACKS: usize = 32;

/// The result of a call of [`read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    Done(Facts),
    /// These bytes are to be fetched before the next call.
    Needs(Range<u64>),
}

/// Reads the headers. A file that cannot be read still has a type.
pub fn read(sniffed: Sniffed, window: &Window) -> ReadOutcome {
    let Some(container) = sniffed.container else { return ReadOutcome::Done(typed(sniffed)) };
    // The libraries log everything they do not know. Operators need no log lines about the content of
    // uploads.
    let quietly =
        || tracing::dispatcher::with_default(&tracing::Dispatch::none(), || content(container, sniffed, window));
    match contained(quietly).unwrap_or(Err(ParseStop::Unreadable)) {
        Ok(content) => {
            let content_type = refined(sniffed, &content);
            ReadOutcome::Done(Facts { content_type, content: Some(content) })
        }
        Err(ParseStop::Needs(range)) => ReadOutcome::Needs(range),
        Err(ParseStop::Unreadable | ParseStop::Exhausted) => ReadOutcome::Done(typed(sniffed)),
    }
}

/// Returns the facts of a file whose headers were not read.
pub fn typed(sniffed: Sniffed) -> Facts {
    Facts { content_type: sniffed.content_type.to_owned(), content: None }
}

fn content(container: Container, sniffed: Sniffed, window: &Window) -> Result<Content, ParseStop> {
    let content = match container {
        Container::IsoBmff if sniffed.content_type.starts_with("image/") => isobmff::read_image(window)?,
        Container::IsoBmff => isobmff::read(window).map(Content::Media)?,
        Container::Matroska => matroska::read(window).map(Content::Media)?,
        Container::Jpeg => jpeg::read(window).map(Content::Image)?,
        Container::Png => png::read(window).map(Content::Image)?,
        Container::Gif => gif::read(window).map(Content::Image)?,
        Container::WebP => webp::read(window).map(Content::Image)?,
        Container::Wave => wav::read(window).map(Content::Media)?,
        Container::Flac => flac::read(window, 0).map(Content::Media)?,
        Container::Ogg => ogg::read(window).map(Content::Media)?,
        Container::MpegAudio => mpeg_audio::read(window).map(Content::Media)?,
    };
    match &content {
        Content::Media(media) if media.tracks.is_empty() => Err(ParseStop::Unreadable),
        Content::Media(_) | Content::Image(_) => Ok(content),
    }
}

/// Returns the type, with the content taken into account. A container for video and audio is named after
/// audio if it contains no pictures.
fn refined(sniffed: Sniffed, content: &Content) -> String {
    let Content::Media(media) = content else { return sniffed.content_type.to_owned() };
    let has = |kind| media.tracks.iter().any(|track| track.kind == kind);
    let is_sound = has(TrackKind::Audio) && !has(TrackKind::Video);
    let first = media.tracks.first().map_or("", |track| track.codec.as_str());
    let family = match (sniffed.container, sniffed.content_type) {
        // The file names itself an image, or has an unknown name, and is a film.
        (Some(Container::IsoBmff), UNKNOWN) => "video/mp4",
        (Some(Container::IsoBmff), image) if image.starts_with("image/") => "video/mp4",
        (Some(Container::Matroska), UNKNOWN) => "video/x-matroska",
        (Some(Container::Ogg), _) if has(TrackKind::Video) => "video/ogg",
        // Behind a tag at the beginning there may be either.
        (Some(Container::MpegAudio), _) if first == "flac" => "audio/flac",
        (Some(Container::MpegAudio), _) if first.starts_with("mp4a") => "audio/aac",
        (_, family) => family,
    };
    match family.strip_prefix("video/") {
        Some(rest) if rest != "quicktime" && is_sound => format!("audio/{rest}"),
        _ => family.to_owned(),
    }
}

/// Maximum duration reported: the largest integer that every JSON reader represents exactly. Some reject a
/// body with a larger one, and a header can claim it.
pub(super) const MAX_DURATION_MS: u64 = (1 << 53) - 1;

/// Converts a duration in units of a `timescale`th of a second to milliseconds, saturating.
pub(super) fn milliseconds(duration: u64, timescale: u32) -> Option<u64> {
    let milliseconds = (u128::from(duration) * 1000).checked_div(u128::from(timescale))?;
    Some(u64::try_from(milliseconds).unwrap_or(u64::MAX).min(MAX_DURATION_MS))
}

/// Returns the size of a picture with pixels of this shape (width, height) after making them square, at the
/// same height.
pub(super) fn squared(width: u64, height: u64, shape: Option<(u64, u64)>) -> Option<(u32, u32)> {
    let (wide, high) = shape.filter(|(wide, high)| *wide > 0 && *high > 0).unwrap_or((1, 1));
    let width = (u128::from(width) * u128::from(wide) + u128::from(high) / 2) / u128::from(high);
    let size = u32::try_from(width).ok().zip(u32::try_from(height).ok());
    size.filter(|(width, height)| *width > 0 && *height > 0)
}

/// Builds the facts of a file with one audio track.
pub(super) fn sound(
    duration_ms: Option<u64>,
    codec: &str,
    channels: Option<u32>,
    sample_rate_hz: Option<u32>,
) -> Media {
    let track = Track { channels, sample_rate_hz, ..plain_track(TrackKind::Audio, codec.to_owned()) };
    Media { duration_ms, tracks: vec![track] }
}

pub(super) fn plain_track(kind: TrackKind, codec: String) -> Track {
    Track { kind, codec, width: None, height: None, frames_per_1000_s: None, channels: None, sample_rate_hz: None }
}
