//! MP4, `QuickTime`, 3GP, HEIC and AVIF (ISO/IEC 14496-12 and 23008-12): boxes within boxes.
//!
//! The few boxes with facts are looked up one by one, wherever they are. Everything else, above all the
//! tables of sample positions, is skipped unread. A file may therefore begin or end with its headers, and a
//! film of many hours needs hardly more reads than a short one. The nesting levels are fixed here: a file
//! cannot make this recurse deeper.
//!
//! `movie` reads tracks, `times` their durations, `fragments` the fragments behind the movie of a recording,
//! `still` images.

use std::borrow::Cow;
use std::ops::Range;

use mp4_atom::Atom;

use crate::fields::{be, be32, chunk};
use crate::window::{ParseStop, Window, unless_stopped};
use domain::facts::{Content, Image, Media, TrackKind};

mod fragments;
mod movie;
mod still;
mod times;

/// Maximum number of boxes examined in one call.
const MAX_BOXES: u32 = 8_192;

/// Maximum number of boxes examined in fragments.
const MAX_FRAGMENT_BOXES: u32 = 32_768;

/// Maximum number of bytes read of one box. The boxes that are read are small.
const MAX_BODY: u64 = 256 << 10;

type Kind = [u8; 4];

/// A box: its kind, and the position of its content.
#[derive(Debug, Clone)]
struct FoundBox {
    kind: Kind,
    body: Range<u64>,
}

/// Looks up boxes, and counts them.
#[derive(Debug)]
struct BoxReader<'w> {
    window: &'w Window,
    left: u32,
    /// True if boxes are so close to each other that reading ahead pays.
    is_dense: bool,
}

impl<'w> BoxReader<'w> {
    fn new(window: &'w Window) -> Self {
        Self { window, left: MAX_BOXES, is_dense: false }
    }
}

/// The boxes at the top of a file.
#[derive(Debug, Default)]
struct TopBoxes {
    movie: Option<movie::Movie>,
    image: Option<(u32, u32)>,
    index: fragments::FragmentIndex,
    /// The position of the first fragment.
    fragments_at: Option<u64>,
}

pub(super) fn read(window: &Window) -> Result<Media, ParseStop> {
    let mut walk = BoxReader::new(window);
    let top = walk.top(false)?;
    walk.whole(top.movie.ok_or(ParseStop::Unreadable)?, &top.index, top.fragments_at)
}

/// Reads a file whose type is an image. If it contains a film and no image, it is a film.
pub(super) fn read_image(window: &Window) -> Result<Content, ParseStop> {
    let mut walk = BoxReader::new(window);
    let top = walk.top(true)?;
    let image = top.image;
    let is_of_image = top.movie.as_ref().is_some_and(movie::Movie::is_of_image);
    let Some(movie) = top.movie else {
        let (width, height) = image.ok_or(ParseStop::Unreadable)?;
        return Ok(Content::Image(Image { width, height, frames: Some(1), duration_ms: None }));
    };
    let frames = movie.first_frames();
    let media = walk.whole(movie, &top.index, top.fragments_at)?;
    if image.is_none() && !is_of_image {
        return Ok(Content::Media(media));
    }
    let video = media.tracks.iter().find(|track| track.kind == TrackKind::Video);
    let size = image.or_else(|| video.and_then(|track| track.width.zip(track.height)));
    let (width, height) = size.ok_or(ParseStop::Unreadable)?;
    Ok(Content::Image(Image { width, height, frames, duration_ms: media.duration_ms.filter(|_| frames != Some(1)) }))
}

impl BoxReader<'_> {
    /// Returns the facts of the movie with all its fragments.
    fn whole(
        &mut self,
        movie: movie::Movie,
        index: &fragments::FragmentIndex,
        at: Option<u64>,
    ) -> Result<Media, ParseStop> {
        // Fragments may be announced although there are none.
        let Some(at) = at.filter(|_| movie.is_fragmented()) else {
            return Ok(Media { duration_ms: movie.duration_ms(), tracks: movie.track_facts() });
        };
        let times = unless_stopped(self.fragments(&movie, index, at))?.flatten();
        let mut tracks = movie.track_facts();
        for (track, track_facts) in movie.tracks().zip(&mut tracks) {
            track_facts.frames_per_1000_s = match track_facts.kind {
                TrackKind::Video => times.as_ref().and_then(|times| times.rate(track.id())),
                TrackKind::Audio | TrackKind::Other => None,
            };
        }
        Ok(Media { duration_ms: times.and_then(|times| times.longest_ms()), tracks })
    }

    /// Examines the boxes at the top, as far as they are needed.
    fn top(&mut self, wants_image: bool) -> Result<TopBoxes, ParseStop> {
        let (mut at, end) = (0, self.window.size_bytes());
        let mut top = TopBoxes::default();
        loop {
            let start = at;
            let found = match self.next(&mut at, end) {
                Ok(Some(found)) => found,
                // Behind the movie there could only be an index.
                Err(ParseStop::Unreadable) if top.movie.is_some() || top.image.is_some() => break,
                Ok(None) => break,
                Err(stop) => return Err(stop),
            };
            match &found.kind {
                // Players take the first, too.
                b"moov" if top.movie.is_none() => top.movie = Some(self.movie(found.body)?),
                b"meta" if wants_image && top.image.is_none() => top.image = self.still(&found.body)?,
                b"sidx" => top.index.add(self.body(&found)?.as_deref().unwrap_or_default(), at),
                b"moof" => top.fragments_at = top.fragments_at.or(Some(start)),
                _ => {}
            }
            // Fragments are examined separately, from the first on.
            let is_whole = |movie: &movie::Movie| !movie.is_fragmented() || top.fragments_at.is_some();
            if top.movie.as_ref().is_some_and(is_whole) && (!wants_image || top.image.is_some()) {
                break;
            }
        }
        Ok(top)
    }

    /// Returns the box at `at`, and moves `at` to the next one.
    fn next(&mut self, at: &mut u64, end: u64) -> Result<Option<FoundBox>, ParseStop> {
        if end.saturating_sub(*at) < 8 {
            return Ok(None);
        }
        self.left = self.left.checked_sub(1).ok_or(ParseStop::Exhausted)?;
        let head = if self.is_dense { self.window.next(*at, 8)? } else { self.window.get(*at, 8)? };
        let (size, kind) = (u64::from(be32(&head, 0)?), fourcc(&head, 4)?);
        let (header, size) = match size {
            0 => (8, end - *at),
            1 => (16, be::<8>(&self.window.get(at.saturating_add(8), 8)?, 0)?),
            size => (8, size),
        };
        let stop = at.checked_add(size).filter(|stop| *stop <= end && size >= header).ok_or(ParseStop::Unreadable)?;
        let body = *at + header..stop;
        *at = stop;
        Ok(Some(FoundBox { kind, body }))
    }

    fn children(&mut self, of: &Range<u64>) -> Result<Vec<FoundBox>, ParseStop> {
        let mut at = of.start;
        let mut children = Vec::new();
        while let Some(found) = self.next(&mut at, of.end)? {
            children.push(found);
        }
        Ok(children)
    }

    /// Returns the content of a box, unless it is larger than any box that is read.
    fn body(&self, of: &FoundBox) -> Result<Option<Cow<'_, [u8]>>, ParseStop> {
        let count = of.body.end - of.body.start;
        if count > MAX_BODY { Ok(None) } else { self.window.get(of.body.start, count).map(Some) }
    }

    fn decode<T: Atom>(&self, of: &FoundBox) -> Result<Option<T>, ParseStop> {
        Ok(self.body(of)?.and_then(|body| T::decode_body(&mut &*body).ok()))
    }
}

/// Returns the content of the first box of a kind in `boxes`.
fn child<'a>(boxes: &'a [u8], kind: &Kind) -> Option<&'a [u8]> {
    children(boxes).find(|(found, _)| found == kind).map(|(_, body)| body)
}

/// Iterates over boxes in memory: kind and content. Ends at a broken one.
fn children(boxes: &[u8]) -> impl Iterator<Item = (Kind, &[u8])> {
    let mut rest = boxes;
    std::iter::from_fn(move || {
        let size = usize::try_from(be32(rest, 0).ok()?).ok().filter(|size| *size >= 8)?;
        let found = (fourcc(rest, 4).ok()?, rest.get(8..size)?);
        rest = &rest[size..];
        Some(found)
    })
}

fn fourcc(bytes: &[u8], at: usize) -> Result<Kind, ParseStop> {
    chunk(bytes, at)
}
