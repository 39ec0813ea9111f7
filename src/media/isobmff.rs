//! MP4, `QuickTime` and 3GP (ISO/IEC 14496-12): boxes within boxes.
//!
//! The few boxes that say something are looked up one by one, wherever they are, and everything else, above all the
//! tables of samples, is passed over unread. So it does not matter whether a file begins or ends with its headers, and
//! a film of many hours needs no more than a short one. The levels are those written down here: a file cannot make
//! this go deeper.

use std::borrow::Cow;
use std::ops::Range;

use mp4_atom::Atom;
use mp4_atom::Audio;
use mp4_atom::Decode;
use mp4_atom::Mdhd;
use mp4_atom::Mehd;
use mp4_atom::Mvhd;
use mp4_atom::Sidx;
use mp4_atom::Tkhd;
use mp4_atom::Visual;

use crate::domain::facts::Media;
use crate::domain::facts::Track;
use crate::domain::facts::TrackKind;
use crate::media::codec;
use crate::media::read::MAX_TRACKS;
use crate::media::read::milliseconds;
use crate::media::window::Stop;
use crate::media::window::Window;

/// How many boxes are looked at in one go.
const MAX_BOXES: u32 = 8_192;

/// The most that is read of one box. Those that are read are small.
const MAX_BODY: u64 = 256 << 10;

/// What stands in a picture's sample entry before its boxes.
const VISUAL_BYTES: usize = 78;

type Kind = [u8; 4];

/// A box: its kind, and where its content is.
#[derive(Debug, Clone)]
struct Found {
    kind: Kind,
    body: Range<u64>,
}

/// Looks up boxes, and counts them.
#[derive(Debug)]
struct Walk<'w> {
    window: &'w Window,
    left: u32,
}

/// What the movie says of itself.
#[derive(Debug, Default)]
struct Movie {
    duration_ms: Option<u64>,
    /// Whether more of it is in fragments, and how long it is with them, if it says so.
    fragments: Option<Option<u64>>,
    timescale: u32,
    tracks: Vec<(Track, Option<u64>)>,
}

/// What one track says of itself, box by box.
#[derive(Debug, Default)]
struct Parts {
    tkhd: Option<Tkhd>,
    mdhd: Option<Mdhd>,
    handler: Kind,
    /// The first of its sample entries.
    entry: Option<(Kind, Vec<u8>)>,
    samples: Option<u32>,
}

pub(super) fn read(window: &Window) -> Result<Media, Stop> {
    let mut walk = Walk { window, left: MAX_BOXES };
    let (mut at, end) = (0, window.size_bytes());
    let mut movie: Option<Movie> = None;
    let mut indexed_ms = None;
    loop {
        let found = match walk.next(&mut at, end) {
            Ok(Some(found)) => found,
            // What is behind the movie was only an index, if at all.
            Err(Stop::Unreadable) if movie.is_some() => break,
            Ok(None) => break,
            Err(stop) => return Err(stop),
        };
        match &found.kind {
            b"moov" => movie = Some(walk.movie(found.body)?),
            b"sidx" => indexed_ms = walk.body(&found)?.and_then(|body| indexed(&body)),
            // The index stands before what it is an index of.
            b"moof" | b"mdat" if movie.is_some() => break,
            _ => {}
        }
        if movie.as_ref().is_some_and(|movie| movie.duration_ms.is_some() || movie.fragments.is_none()) {
            break;
        }
    }
    let movie = movie.ok_or(Stop::Unreadable)?;
    let longest = movie.tracks.iter().filter_map(|(_, duration_ms)| *duration_ms).max();
    Ok(Media {
        duration_ms: movie.duration_ms.or(indexed_ms).or(longest),
        tracks: movie.tracks.into_iter().map(|(track, _)| track).collect(),
    })
}

impl Walk<'_> {
    /// The box at `at`, which moves on to the next one.
    fn next(&mut self, at: &mut u64, end: u64) -> Result<Option<Found>, Stop> {
        if end.saturating_sub(*at) < 8 {
            return Ok(None);
        }
        self.left = self.left.checked_sub(1).ok_or(Stop::Unreadable)?;
        let head = self.window.get(*at, 8)?;
        let (size, kind) = (u64::from(number(&head, 0)?), fourcc(&head, 4)?);
        let (header, size) = match size {
            0 => (8, end - *at),
            1 => (16, u64::from_be_bytes(chunk(&self.window.get(at.saturating_add(8), 8)?, 0)?)),
            size => (8, size),
        };
        let stop = at.checked_add(size).filter(|stop| *stop <= end && size >= header).ok_or(Stop::Unreadable)?;
        let body = *at + header..stop;
        *at = stop;
        Ok(Some(Found { kind, body }))
    }

    fn children(&mut self, of: &Range<u64>) -> Result<Vec<Found>, Stop> {
        let mut at = of.start;
        let mut children = Vec::new();
        while let Some(found) = self.next(&mut at, of.end)? {
            children.push(found);
        }
        Ok(children)
    }

    /// What is in a box, unless it is larger than any that makes sense.
    fn body(&self, of: &Found) -> Result<Option<Cow<'_, [u8]>>, Stop> {
        let count = of.body.end - of.body.start;
        if count > MAX_BODY { Ok(None) } else { self.window.get(of.body.start, count).map(Some) }
    }

    fn decode<T: Atom>(&self, of: &Found) -> Result<Option<T>, Stop> {
        Ok(self.body(of)?.and_then(|body| T::decode_body(&mut &*body).ok()))
    }

    fn movie(&mut self, body: Range<u64>) -> Result<Movie, Stop> {
        let mut movie = Movie::default();
        for found in self.children(&body)? {
            match &found.kind {
                b"mvhd" => {
                    if let Some(mvhd) = self.decode::<Mvhd>(&found)? {
                        movie.timescale = mvhd.timescale;
                        movie.duration_ms = known(mvhd.duration).and_then(|said| milliseconds(said, mvhd.timescale));
                    }
                }
                b"mvex" => movie.fragments = Some(self.fragmented(&found.body)?),
                b"trak" if movie.tracks.len() < MAX_TRACKS => match self.track(&found.body) {
                    Ok(track) => movie.tracks.push(track),
                    Err(needs @ Stop::Needs(_)) => return Err(needs),
                    // The others may be in order.
                    Err(Stop::Unreadable) => {}
                },
                _ => {}
            }
        }
        if let Some(Some(whole)) = movie.fragments {
            movie.duration_ms = milliseconds(whole, movie.timescale).or(movie.duration_ms);
        }
        Ok(movie)
    }

    fn fragmented(&mut self, body: &Range<u64>) -> Result<Option<u64>, Stop> {
        let Some(found) = self.children(body)?.into_iter().find(|found| &found.kind == b"mehd") else {
            return Ok(None);
        };
        Ok(self.decode::<Mehd>(&found)?.and_then(|mehd| known(mehd.fragment_duration)))
    }

    fn track(&mut self, body: &Range<u64>) -> Result<(Track, Option<u64>), Stop> {
        let mut parts = Parts::default();
        for found in self.children(body)? {
            match &found.kind {
                b"tkhd" => parts.tkhd = self.decode(&found)?,
                b"mdia" => self.media(&found.body, &mut parts)?,
                _ => {}
            }
        }
        parts.tell().ok_or(Stop::Unreadable)
    }

    fn media(&mut self, body: &Range<u64>, parts: &mut Parts) -> Result<(), Stop> {
        for found in self.children(body)? {
            match &found.kind {
                b"mdhd" => parts.mdhd = self.decode(&found)?,
                // Version, flags and a reserved number come first.
                b"hdlr" => parts.handler = fourcc(&self.window.get(found.body.start, 12)?, 8)?,
                b"minf" => {
                    let tables = self.children(&found.body)?.into_iter().find(|found| &found.kind == b"stbl");
                    if let Some(tables) = tables {
                        self.samples(&tables.body, parts)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads what the samples are, and how many; the tables themselves are not read.
    fn samples(&mut self, body: &Range<u64>, parts: &mut Parts) -> Result<(), Stop> {
        for found in self.children(body)? {
            match &found.kind {
                b"stsd" => parts.entry = self.body(&found)?.and_then(|body| first_entry(&body)),
                b"stsz" => parts.samples = Some(number(&self.window.get(found.body.start, 12)?, 8)?),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Parts {
    /// The track, and how many milliseconds it has.
    fn tell(self) -> Option<(Track, Option<u64>)> {
        let (kind, body) = self.entry.as_ref()?;
        let duration_ms = self.mdhd.as_ref().and_then(|mdhd| milliseconds(known(mdhd.duration)?, mdhd.timescale));
        let mut track = match &self.handler {
            b"vide" => self.video(*kind, body),
            b"soun" => self.audio(*kind, body),
            _ => plain_track(TrackKind::Other, codec::plain(kind)),
        };
        track.codec.shrink_to_fit();
        Some((track, duration_ms))
    }

    fn video(&self, kind: Kind, body: &[u8]) -> Track {
        let entry = str::from_utf8(&kind).unwrap_or_default();
        let boxes = body.get(VISUAL_BYTES..).unwrap_or_default();
        let named = match &kind {
            b"avc1" | b"avc2" | b"avc3" | b"avc4" => child(boxes, b"avcC").and_then(|config| codec::avc(entry, config)),
            b"hvc1" | b"hev1" => child(boxes, b"hvcC").and_then(|config| codec::hevc(entry, config)),
            b"av01" => child(boxes, b"av1C").and_then(codec::av1),
            b"vp08" | b"vp09" => child(boxes, b"vpcC").and_then(|config| codec::vp(entry, config)),
            b"mp4v" => child(boxes, b"esds").and_then(|config| codec::mpeg4(entry, config).codec),
            _ => None,
        };
        let stored = Visual::decode(&mut &*body).ok().map(|visual| (visual.width, visual.height));
        let shown = self.tkhd.as_ref().and_then(shown).or(stored.map(|(width, height)| (width.into(), height.into())));
        let shown = shown.filter(|(width, height)| *width > 0 && *height > 0);
        Track {
            width: shown.map(|(width, _)| width),
            height: shown.map(|(_, height)| height),
            frames_per_1000_s: self.rate(),
            ..plain_track(TrackKind::Video, named.unwrap_or_else(|| codec::plain(&kind)))
        }
    }

    fn audio(&self, kind: Kind, body: &[u8]) -> Track {
        let mut boxes = body;
        let audio = Audio::decode(&mut boxes).ok();
        let entry = str::from_utf8(&kind).unwrap_or_default();
        let described = match &kind {
            // QuickTime has it one level down.
            b"mp4a" => child(boxes, b"esds").or_else(|| child(child(boxes, b"wave")?, b"esds")),
            _ => None,
        };
        let described = described.map(|config| codec::mpeg4(entry, config)).unwrap_or_default();
        let (channels, rate) = audio.map_or((0, 0), |audio| (audio.channel_count, audio.sample_rate.integer()));
        let timescale = self.mdhd.as_ref().map(|mdhd| mdhd.timescale);
        let (channels, rate) = match body.get(8..10) {
            // QuickTime's second version has its numbers further down, and others in their place.
            Some([0, 2]) => long_audio(body).unwrap_or_default(),
            // A rate that does not fit into 16 bits is left out, and is the track's own unit of time.
            _ => (u32::from(channels), Some(rate).filter(|rate| *rate > 1).map(u32::from).or(timescale).unwrap_or(0)),
        };
        Track {
            channels: described.channels.or(Some(channels)).filter(|channels| *channels > 0),
            sample_rate_hz: Some(rate).filter(|rate| *rate > 0),
            ..plain_track(TrackKind::Audio, described.codec.unwrap_or_else(|| codec::plain(&kind)))
        }
    }

    /// So many frames in that time.
    fn rate(&self) -> Option<u32> {
        let (mdhd, samples) = (self.mdhd.as_ref()?, self.samples.filter(|samples| *samples > 1)?);
        let duration = u128::from(known(mdhd.duration)?);
        let frames = u128::from(samples) * u128::from(mdhd.timescale) * 1000;
        u32::try_from((frames + duration / 2).checked_div(duration)?).ok().filter(|rate| *rate > 0)
    }
}

pub(super) fn plain_track(kind: TrackKind, codec: String) -> Track {
    Track { kind, codec, width: None, height: None, frames_per_1000_s: None, channels: None, sample_rate_hz: None }
}

/// A duration that is one. All ones, in as many bits as there are, say that it is not known, and so does nothing.
fn known(duration: u64) -> Option<u64> {
    Some(duration).filter(|duration| ![0, u64::from(u32::MAX), u64::MAX].contains(duration))
}

/// How large the pictures are shown, the way they are turned.
fn shown(tkhd: &Tkhd) -> Option<(u32, u32)> {
    let (width, height) = (u32::from(tkhd.width.integer()), u32::from(tkhd.height.integer()));
    if tkhd.size_is_aspect_ratio || width == 0 || height == 0 {
        return None;
    }
    let matrix = &tkhd.matrix;
    let on_its_side = matrix.a == 0 && matrix.d == 0 && matrix.b != 0 && matrix.c != 0;
    Some(if on_its_side { (height, width) } else { (width, height) })
}

/// How much time an index of segments covers.
fn indexed(mut body: &[u8]) -> Option<u64> {
    let sidx = Sidx::decode_body(&mut body).ok()?;
    // One of indexes says nothing for sure.
    let plain = sidx.references.iter().all(|reference| !reference.reference_type);
    let covered = sidx.references.iter().map(|reference| u64::from(reference.subsegment_duration)).sum();
    milliseconds(known(covered).filter(|_| plain)?, sidx.timescale)
}

/// The kind and content of the first sample entry.
fn first_entry(stsd: &[u8]) -> Option<(Kind, Vec<u8>)> {
    let entry = stsd.get(8..)?;
    let size = usize::try_from(number(entry, 0).ok()?).ok()?;
    Some((fourcc(entry, 4).ok()?, entry.get(8..size)?.to_vec()))
}

/// The content of the first box of a kind among some that lie in memory.
fn child<'a>(mut boxes: &'a [u8], kind: &Kind) -> Option<&'a [u8]> {
    loop {
        let size = usize::try_from(number(boxes, 0).ok()?).ok().filter(|size| *size >= 8)?;
        let body = boxes.get(8..size)?;
        if fourcc(boxes, 4).is_ok_and(|found| found == *kind) {
            return Some(body);
        }
        boxes = boxes.get(size..)?;
    }
}

/// Channels and rate in `QuickTime`'s second version of a sound description.
fn long_audio(body: &[u8]) -> Option<(u32, u32)> {
    let rate = f64::from_be_bytes(chunk(body, 32).ok()?);
    let whole = format!("{rate:.0}").parse().ok()?;
    Some((number(body, 40).ok()?, whole))
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Stop> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Stop::Unreadable)
}

fn number(bytes: &[u8], at: usize) -> Result<u32, Stop> {
    chunk(bytes, at).map(u32::from_be_bytes)
}

fn fourcc(bytes: &[u8], at: usize) -> Result<Kind, Stop> {
    chunk(bytes, at)
}
