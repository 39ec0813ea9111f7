//! PNG (W3C, third edition): chunks, each with its length. An animation announces itself before the first
//! picture.

use std::borrow::Cow;

use crate::animation::Animation;
use crate::exif;
use crate::fields::{be, be16, be32};
use crate::window::{ParseStop, Window, unless_stopped};
use domain::facts::Image;

/// Maximum number of chunks examined in one call. A large animation has thousands of small ones.
const MAX_CHUNKS: usize = 65_536;

const MAX_EXIF: u64 = 256 << 10;

const SIGNATURE_BYTES: u64 = 8;
/// The size of length, type and checksum of a chunk.
const FRAME_BYTES: u64 = 12;

/// The chunks before the image data.
#[derive(Debug)]
struct Header {
    width: u32,
    height: u32,
    is_on_its_side: bool,
    /// The number of frames in `acTL`, and where that chunk ends.
    animated: Option<(u32, u64)>,
}

pub(super) fn read(window: &Window) -> Result<Image, ParseStop> {
    let Header { width, height, is_on_its_side, animated } = header(window)?;
    let (frames, duration_ms) = match animated {
        None => (Some(1), None),
        Some((said, from)) => match unless_stopped(counted(window, from))? {
            Some(animation) => (Some(animation.frames.max(1)), animation.duration_ms()),
            None => (Some(said).filter(|said| *said > 1), None),
        },
    };
    let (width, height) = if is_on_its_side { (height, width) } else { (width, height) };
    Ok(Image { width, height, frames, duration_ms })
}

/// Reads up to the image data. An Exif block behind it is not searched for.
fn header(window: &Window) -> Result<Header, ParseStop> {
    let mut header: Option<Header> = None;
    let mut at = SIGNATURE_BYTES;
    for _ in 0..MAX_CHUNKS {
        let Some((length, kind)) = chunk_at(window, at, Window::get)? else { break };
        let body = at + 8;
        match (&kind, &mut header) {
            (b"IHDR", None) => {
                let size = window.get(body, 8)?;
                let (width, height) = (be32(&size, 0)?, be32(&size, 4)?);
                if width == 0 || height == 0 {
                    return Err(ParseStop::Unreadable);
                }
                header = Some(Header { width, height, is_on_its_side: false, animated: None });
            }
            (b"acTL", Some(header)) => {
                header.animated = Some((be32(&window.get(body, 4)?, 0)?, at + FRAME_BYTES + length))
            }
            (b"eXIf", Some(header)) if length <= MAX_EXIF => {
                header.is_on_its_side = exif::is_on_its_side(&window.get(body, length)?);
            }
            (b"IDAT" | b"IEND", _) => break,
            _ => {}
        }
        at = body + length + 4;
    }
    header.ok_or(ParseStop::Unreadable)
}

/// Counts the frames behind `at`.
fn counted(window: &Window, mut at: u64) -> Result<Animation, ParseStop> {
    let mut animation = Animation::default();
    for _ in 0..MAX_CHUNKS {
        let Some((length, kind)) = chunk_at(window, at, Window::next)? else { return Ok(animation) };
        match &kind {
            b"fcTL" => {
                let delay = window.next(at + 8, 26)?;
                let (numerator, denominator) = (u64::from(be16(&delay, 20)?), u64::from(be16(&delay, 22)?));
                animation.add(numerator * 1_000 / if denominator == 0 { 100 } else { denominator });
            }
            b"IEND" => return Ok(animation),
            _ => {}
        }
        at += FRAME_BYTES + length;
    }
    Err(ParseStop::Exhausted)
}

/// A method of [`Window`] that fetches bytes, with or without reading ahead.
type Fetch = for<'w> fn(&'w Window, u64, u64) -> Result<Cow<'w, [u8]>, ParseStop>;

/// Reads length and type of the chunk at `at`; `None` where the file ends within it.
fn chunk_at(window: &Window, at: u64, fetch: Fetch) -> Result<Option<(u64, [u8; 4])>, ParseStop> {
    if window.size_bytes().saturating_sub(at) < FRAME_BYTES {
        return Ok(None);
    }
    let head = fetch(window, at, 8)?;
    let (length, kind) = (be::<4>(&head, 0)?, be32(&head, 4)?.to_be_bytes());
    let fits = length <= window.size_bytes() - at - FRAME_BYTES;
    Ok(fits.then_some((length, kind)))
}
