//! The movie: its tracks, the type of their samples, and their size as shown.

use std::collections::BTreeMap;
use std::ops::Range;

use mp4_atom::{Audio, Decode, Mdhd, Mehd, Mvhd, Tkhd, Trex, Visual};

use super::times::{TrackDuration, known};
use super::{BoxReader, Kind, child, fourcc};
use crate::codec;
use crate::fields::{be32, chunk};
use crate::read::{MAX_TRACKS, milliseconds, plain_track, squared};
use crate::window::ParseStop;
use domain::facts::{Track, TrackKind};

/// Size of the fields of a visual sample entry before its boxes.
const VISUAL_BYTES: usize = 78;

/// The facts in the movie box.
#[derive(Debug, Default)]
pub(super) struct Movie {
    timescale: u32,
    duration: Option<u64>,
    matrix: Option<mp4_atom::Matrix>,
    /// True if more of the movie is in fragments.
    is_fragmented: bool,
    /// The duration with fragments, as announced.
    with_fragments: Option<u64>,
    /// The default duration of samples in fragments, by track.
    defaults: BTreeMap<u32, u32>,
    tracks: Vec<MovieTrack>,
}

/// One track.
#[derive(Debug)]
pub(super) struct MovieTrack {
    id: u32,
    handler: Kind,
    length: TrackDuration,
    samples: Option<u32>,
    /// Its facts; only for the first tracks.
    track: Option<Track>,
}

/// The boxes of one track.
#[derive(Debug, Default)]
struct TrackBoxes {
    tkhd: Option<Tkhd>,
    mdhd: Option<Mdhd>,
    handler: Kind,
    /// The first of its sample entries.
    entry: Option<(Kind, Vec<u8>)>,
    samples: Option<u32>,
    /// The position of the table of sample durations.
    spans: Option<Range<u64>>,
    edits: Option<u64>,
}

impl Movie {
    pub(super) fn is_fragmented(&self) -> bool {
        self.is_fragmented
    }

    /// Reports whether it is the movie of an image: image sequences have their own handler, and in raw photos
    /// of Canon all pictures are raw.
    pub(super) fn is_of_image(&self) -> bool {
        let mut pictures = self.tracks.iter().filter(|track| [b"vide", b"pict"].contains(&&track.handler)).peekable();
        let is_raw = |track: &MovieTrack| track.track.as_ref().is_some_and(|track_facts| track_facts.codec == "craw");
        pictures.peek().is_some() && pictures.all(|track| &track.handler == b"pict" || is_raw(track))
    }

    pub(super) fn tracks(&self) -> impl Iterator<Item = &MovieTrack> {
        self.tracks.iter()
    }

    pub(super) fn default_span(&self, track: u32) -> Option<u32> {
        self.defaults.get(&track).copied()
    }

    /// Returns the number of frames of the first video track.
    pub(super) fn first_frames(&self) -> Option<u32> {
        let is_pictures =
            |track: &&MovieTrack| track.track.as_ref().is_some_and(|track_facts| track_facts.kind == TrackKind::Video);
        self.tracks.iter().find(is_pictures)?.samples.filter(|samples| *samples > 0)
    }

    /// Returns the duration without fragments: that of the longest track, or of the movie if no track has
    /// one.
    pub(super) fn duration_ms(&self) -> Option<u64> {
        let longest = self.tracks.iter().filter_map(|track| track.length.milliseconds(self.timescale)).max();
        longest.filter(|ms| *ms > 0).or_else(|| milliseconds(self.duration?, self.timescale))
    }

    /// Returns the announced duration with all fragments.
    pub(super) fn announced_ms(&self) -> Option<u64> {
        milliseconds(self.with_fragments?, self.timescale)
    }

    /// Returns the facts of its tracks.
    pub(super) fn track_facts(&self) -> Vec<Track> {
        self.tracks.iter().filter_map(|track| track.track.clone()).collect()
    }
}

impl MovieTrack {
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn length(&self) -> &TrackDuration {
        &self.length
    }

    pub(super) fn samples(&self) -> u32 {
        self.samples.unwrap_or(0)
    }
}

impl BoxReader<'_> {
    pub(super) fn movie(&mut self, body: Range<u64>) -> Result<Movie, ParseStop> {
        let mut movie = Movie::default();
        let boxes = self.children(&body)?;
        // The rotation of the movie applies to its tracks, and its header may be behind them.
        if let Some(found) = boxes.iter().find(|found| &found.kind == b"mvhd")
            && let Some(mvhd) = self.decode::<Mvhd>(found)?
        {
            movie.timescale = mvhd.timescale;
            movie.duration = known(mvhd.duration);
            movie.matrix = Some(mvhd.matrix);
        }
        for found in boxes {
            match &found.kind {
                b"mvex" => self.fragmented(&found.body, &mut movie)?,
                b"trak" => match self.track(&found.body, &movie) {
                    Ok(track) => movie.tracks.push(track),
                    Err(stop @ (ParseStop::Needs(_) | ParseStop::Exhausted)) => return Err(stop),
                    // The other tracks may be readable.
                    Err(ParseStop::Unreadable) => {}
                },
                _ => {}
            }
        }
        Ok(movie)
    }

    fn fragmented(&mut self, body: &Range<u64>, movie: &mut Movie) -> Result<(), ParseStop> {
        movie.is_fragmented = true;
        for found in self.children(body)? {
            match &found.kind {
                b"mehd" => {
                    movie.with_fragments = self.decode::<Mehd>(&found)?.and_then(|mehd| known(mehd.fragment_duration));
                }
                b"trex" => {
                    if let Some(trex) = self.decode::<Trex>(&found)? {
                        movie.defaults.insert(trex.track_id, trex.default_sample_duration);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn track(&mut self, body: &Range<u64>, movie: &Movie) -> Result<MovieTrack, ParseStop> {
        let mut parts = TrackBoxes::default();
        for found in self.children(body)? {
            match &found.kind {
                b"tkhd" => parts.tkhd = self.decode(&found)?,
                b"edts" => {
                    let list = self.children(&found.body)?.into_iter().find(|found| &found.kind == b"elst");
                    parts.edits = match list {
                        Some(list) => self.body(&list)?.and_then(|list| super::times::edited(&list)),
                        None => None,
                    };
                }
                b"mdia" => self.media(&found.body, &mut parts)?,
                _ => {}
            }
        }
        let spans = match (&parts.spans, &parts.handler) {
            (Some(spans), b"vide" | b"soun" | b"pict") => self.spans(spans, parts.samples)?,
            _ => None,
        };
        let length = TrackDuration {
            timescale: parts.mdhd.as_ref().map_or(0, |mdhd| mdhd.timescale),
            units: spans.or_else(|| known(parts.mdhd.as_ref()?.duration)),
            edits: parts.edits,
        };
        let track = if movie.tracks.len() < MAX_TRACKS {
            Some(parts.facts(&length, movie.matrix.as_ref()).ok_or(ParseStop::Unreadable)?)
        } else {
            None
        };
        let id = parts.tkhd.as_ref().map_or(0, |tkhd| tkhd.track_id);
        Ok(MovieTrack { id, handler: parts.handler, length, samples: parts.samples, track })
    }

    fn media(&mut self, body: &Range<u64>, parts: &mut TrackBoxes) -> Result<(), ParseStop> {
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

    /// Reads the type and the number of the samples. The tables of their positions are not read.
    fn samples(&mut self, body: &Range<u64>, parts: &mut TrackBoxes) -> Result<(), ParseStop> {
        for found in self.children(body)? {
            match &found.kind {
                b"stsd" => parts.entry = self.body(&found)?.and_then(|body| first_entry(&body)),
                // The compact form has its count at the same position.
                b"stsz" | b"stz2" => parts.samples = Some(be32(&self.window.get(found.body.start, 12)?, 8)?),
                b"stts" => parts.spans = Some(found.body),
                _ => {}
            }
        }
        Ok(())
    }
}

impl TrackBoxes {
    fn facts(&self, length: &TrackDuration, matrix: Option<&mp4_atom::Matrix>) -> Option<Track> {
        let (kind, body) = self.entry.as_ref()?;
        let mut track = match &self.handler {
            b"vide" | b"pict" => self.video(*kind, body, length, matrix),
            b"soun" => self.audio(*kind, body),
            _ => plain_track(TrackKind::Other, codec::plain(kind)),
        };
        track.codec.shrink_to_fit();
        Some(track)
    }

    fn video(&self, kind: Kind, body: &[u8], length: &TrackDuration, matrix: Option<&mp4_atom::Matrix>) -> Track {
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
        let shown = self.shown(body, child(boxes, b"pasp"), matrix);
        Track {
            width: shown.map(|(width, _)| width),
            height: shown.map(|(_, height)| height),
            frames_per_1000_s: length.rate(self.samples),
            ..plain_track(TrackKind::Video, named.unwrap_or_else(|| codec::plain(&kind)))
        }
    }

    /// Returns the size as shown: the stored height, and the width that follows from the shape of the pixels
    /// or of the track; both swapped if rotated by a quarter turn.
    fn shown(&self, body: &[u8], pasp: Option<&[u8]>, movie: Option<&mp4_atom::Matrix>) -> Option<(u32, u32)> {
        let stored = Visual::decode(&mut &*body).ok().map(|visual| (u64::from(visual.width), u64::from(visual.height)));
        let tkhd = self.tkhd.as_ref();
        let framed = tkhd.map(|tkhd| (u64::from(tkhd.width.integer()), u64::from(tkhd.height.integer())));
        let framed = framed.filter(|(width, height)| *width > 0 && *height > 0);
        let (width, height) = stored.filter(|(width, height)| *width > 0 && *height > 0).or(framed)?;
        let said = pasp.and_then(|pasp| be32(pasp, 0).ok().zip(be32(pasp, 4).ok()));
        let said = said.filter(|(wide, high)| *wide > 0 && *high > 0).map(|(wide, high)| (wide.into(), high.into()));
        let shape = said.or_else(|| framed.map(|(wide, high)| (wide * height, high * width)));
        let turn = tkhd.map(|tkhd| DisplayMatrix::of(&tkhd.matrix, movie)).unwrap_or_default();
        let size = squared(width, height, turn.shape().or(shape));
        size.map(|(width, height)| if turn.is_on_its_side() { (height, width) } else { (width, height) })
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
        let mut described = described.map(|config| codec::mpeg4(entry, config)).unwrap_or_default();
        described.channels = match &kind {
            b"ac-3" => child(boxes, b"dac3").and_then(codec::ac3_channels),
            b"ec-3" => child(boxes, b"dec3").and_then(codec::eac3_channels),
            _ => described.channels,
        };
        let (channels, rate) = audio.map_or((0, 0), |audio| (audio.channel_count, audio.sample_rate.integer()));
        let timescale = self.mdhd.as_ref().map(|mdhd| mdhd.timescale);
        let (channels, rate) = match body.get(8..10) {
            // QuickTime's second version has its numbers at other positions, and constants in these.
            Some([0, 2]) => long_audio(body).unwrap_or_default(),
            // A rate that does not fit into 16 bits is omitted; the track's timescale then equals it.
            _ => (u32::from(channels), Some(rate).filter(|rate| *rate > 1).map(u32::from).or(timescale).unwrap_or(0)),
        };
        Track {
            channels: described.channels.or(Some(channels)).filter(|channels| *channels > 0),
            sample_rate_hz: Some(rate).filter(|rate| *rate > 0),
            ..plain_track(TrackKind::Audio, described.codec.unwrap_or_else(|| codec::plain(&kind)))
        }
    }
}

/// The matrix of a track multiplied by that of the movie, without the translation.
#[derive(Debug, Default)]
struct DisplayMatrix {
    a: i128,
    b: i128,
    c: i128,
    d: i128,
}

impl DisplayMatrix {
    fn of(own: &mp4_atom::Matrix, movie: Option<&mp4_atom::Matrix>) -> Self {
        let numbers = |of: &mp4_atom::Matrix| [of.a, of.b, of.c, of.d].map(i128::from);
        let one = 1 << 16;
        let [a, b, c, d] = numbers(own);
        let [e, f, g, h] = movie.map_or([one, 0, 0, one], numbers);
        let shortened = |product: i128| product >> 16;
        Self {
            a: shortened(a * e + b * g),
            b: shortened(a * f + b * h),
            c: shortened(c * e + d * g),
            d: shortened(c * f + d * h),
        }
    }

    /// Reports whether it rotates by a quarter turn, to within about a degree.
    fn is_on_its_side(&self) -> bool {
        let along = self.a.abs().max(self.d.abs());
        let across = self.b.abs().min(self.c.abs());
        across > 0 && 57 * along < across
    }

    /// Returns the shape of pixels that it stretches unevenly.
    fn shape(&self) -> Option<(u64, u64)> {
        let length = |x: i128, y: i128| u64::try_from((x * x + y * y).isqrt()).ok();
        let (wide, high) = (length(self.a, self.c)?, length(self.b, self.d)?);
        let is_uneven = wide > 0 && high > 0 && wide.abs_diff(high) > high / 100;
        is_uneven.then_some((wide, high))
    }
}

/// Returns the kind and content of the first sample entry.
fn first_entry(stsd: &[u8]) -> Option<(Kind, Vec<u8>)> {
    let entry = stsd.get(8..)?;
    let size = usize::try_from(be32(entry, 0).ok()?).ok()?;
    Some((fourcc(entry, 4).ok()?, entry.get(8..size)?.to_vec()))
}

/// Returns the channels and the rate in `QuickTime`'s second version of a sound description.
fn long_audio(body: &[u8]) -> Option<(u32, u32)> {
    let rate = f64::from_be_bytes(chunk(body, 32).ok()?);
    let whole = format!("{rate:.0}").parse().ok()?;
    Some((be32(body, 40).ok()?, whole))
}
