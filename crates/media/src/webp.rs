//! WebP (RFC 9649): a single picture, or a canvas with frames and metadata around it.

use crate::animation::Animation;
use crate::fields::{le, le16, le32};
use crate::riff::Chunk;
use crate::window::{ParseStop, Window, unless_stopped};
use crate::{exif, riff};
use domain::facts::Image;

/// Maximum number of chunks examined in one call.
const MAX_CHUNKS: usize = 16_384;

const MAX_EXIF: u64 = 256 << 10;

const HAS_EXIF: u8 = 0x08;
const IS_ANIMATED: u8 = 0x02;

pub(super) fn read(window: &Window) -> Result<Image, ParseStop> {
    let first = riff::chunk(window, riff::FIRST)?.ok_or(ParseStop::Unreadable)?;
    let still = |(width, height)| Image { width, height, frames: Some(1), duration_ms: None };
    match &first.kind {
        b"VP8 " => lossy(window, first).map(still),
        b"VP8L" => lossless(window, first).map(still),
        b"VP8X" => extended(window, first),
        _ => Err(ParseStop::Unreadable),
    }
}

/// Reads the size in a key frame header (RFC 6386, 9.1), of which two bits are a scale.
fn lossy(window: &Window, of: Chunk) -> Result<(u32, u32), ParseStop> {
    let frame = window.get(of.start, 10)?;
    if frame.get(3..6) != Some(&[0x9d, 0x01, 0x2a]) {
        return Err(ParseStop::Unreadable);
    }
    let side = |at| le16(&frame, at).map(|side| u32::from(side & 0x3fff));
    sized(side(6)?, side(8)?)
}

fn lossless(window: &Window, of: Chunk) -> Result<(u32, u32), ParseStop> {
    let head = window.get(of.start, 5)?;
    let bits = le32(&head, 1)?;
    if head.first() != Some(&0x2f) {
        Err(ParseStop::Unreadable)
    } else {
        sized((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1)
    }
}

fn sized(width: u32, height: u32) -> Result<(u32, u32), ParseStop> {
    if width == 0 || height == 0 { Err(ParseStop::Unreadable) } else { Ok((width, height)) }
}

fn extended(window: &Window, of: Chunk) -> Result<Image, ParseStop> {
    let head = window.get(of.start, 10)?;
    let side =
        |at| le::<3>(&head, at).and_then(|less_one| u32::try_from(less_one + 1).map_err(|_| ParseStop::Unreadable));
    let (width, height) = (side(4)?, side(7)?);
    let flags = head[0];
    if flags & (HAS_EXIF | IS_ANIMATED) == 0 {
        return Ok(Image { width, height, frames: Some(1), duration_ms: None });
    }
    let found = unless_stopped(counted(window, of.next()))?;
    let (width, height) =
        if found.is_some_and(|found| found.is_on_its_side) { (height, width) } else { (width, height) };
    let animation = found.map(|found| found.animation);
    let (frames, duration_ms) = if flags & IS_ANIMATED == 0 {
        (Some(1), None)
    } else {
        (animation.map(|animation| animation.frames.max(1)), animation.and_then(Animation::duration_ms))
    };
    Ok(Image { width, height, frames, duration_ms })
}

#[derive(Debug, Clone, Copy, Default)]
struct Found {
    animation: Animation,
    is_on_its_side: bool,
}

/// Examines all chunks: the Exif block is behind the frames.
fn counted(window: &Window, mut at: u64) -> Result<Found, ParseStop> {
    let mut found = Found::default();
    for _ in 0..MAX_CHUNKS {
        let Some(chunk) = riff::chunk(window, at)? else { return Ok(found) };
        match &chunk.kind {
            b"ANMF" if window.size_bytes().saturating_sub(chunk.start) >= 16 => {
                found.animation.add(le::<3>(&window.get(chunk.start, 16)?, 12)?);
            }
            b"EXIF" if chunk.size <= MAX_EXIF => {
                let block = window.get(chunk.start, chunk.size)?;
                // Some writers keep the prefix that precedes it in JPEG.
                found.is_on_its_side = exif::is_on_its_side(block.strip_prefix(b"Exif\0\0").unwrap_or(&block));
            }
            _ => {}
        }
        at = chunk.next();
    }
    Err(ParseStop::Exhausted)
}
