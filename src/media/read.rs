//! What a media file says of itself, read out of its headers.

use std::ops::Range;

use crate::domain::facts::Facts;
use crate::domain::facts::Media;
use crate::domain::facts::TrackKind;
use crate::media::contained;
use crate::media::isobmff;
use crate::media::matroska;
use crate::media::sniff::Container;
use crate::media::sniff::Sniffed;
use crate::media::window::Stop;
use crate::media::window::Window;

/// The most tracks told of one file. No player shows more, and every event repeats them.
pub(super) const MAX_TRACKS: usize = 32;

/// What came of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    Done(Facts),
    /// Fetch these bytes and look again.
    Needs(Range<u64>),
}

/// Reads what the headers say. A file that cannot be read has a type nevertheless.
pub fn read(sniffed: Sniffed, window: &Window) -> Reading {
    let Some(container) = sniffed.container else { return Reading::Done(typed(sniffed)) };
    // The libraries tell the log of whatever they do not know. It is no concern of the operator's what clients send.
    let quietly = || tracing::dispatcher::with_default(&tracing::Dispatch::none(), || media(container, window));
    match contained(quietly).unwrap_or(Err(Stop::Unreadable)) {
        Ok(media) => Reading::Done(Facts { content_type: refined(sniffed.content_type, &media), media: Some(media) }),
        Err(Stop::Needs(range)) => Reading::Needs(range),
        Err(Stop::Unreadable) => Reading::Done(typed(sniffed)),
    }
}

/// All that is known of a file whose headers were not read.
pub fn typed(sniffed: Sniffed) -> Facts {
    Facts { content_type: sniffed.content_type.to_owned(), media: None }
}

fn media(container: Container, window: &Window) -> Result<Media, Stop> {
    let media = match container {
        Container::IsoBmff => isobmff::read(window)?,
        Container::Matroska => matroska::read(window)?,
    };
    if media.tracks.is_empty() { Err(Stop::Unreadable) } else { Ok(media) }
}

/// A container that may hold both is named after sound alone if there are no pictures in it.
fn refined(content_type: &str, media: &Media) -> String {
    let has = |kind| media.tracks.iter().any(|track| track.kind == kind);
    match content_type.strip_prefix("video/") {
        Some(rest) if rest != "quicktime" && has(TrackKind::Audio) && !has(TrackKind::Video) => format!("audio/{rest}"),
        _ => content_type.to_owned(),
    }
}

/// So many milliseconds are `duration` of the `timescale`th part of a second.
pub(super) fn milliseconds(duration: u64, timescale: u32) -> Option<u64> {
    let milliseconds = (u128::from(duration) * 1000).checked_div(u128::from(timescale))?;
    u64::try_from(milliseconds).ok()
}
