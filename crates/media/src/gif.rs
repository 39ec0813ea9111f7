//! GIF (89a): there is no index, so frames are counted by skipping from block to block.

use crate::animation::Animation;
use crate::fields::le16;
use crate::window::{ParseStop, Window, unless_stopped};
use domain::facts::Image;

/// Maximum number of blocks skipped in one call; a block has up to 255 bytes.
const MAX_BLOCKS: usize = 1 << 18;

const EXTENSION: u8 = 0x21;
const GRAPHIC_CONTROL: u8 = 0xf9;
const IMAGE: u8 = 0x2c;

pub(super) fn read(window: &Window) -> Result<Image, ParseStop> {
    let screen = window.get(0, 13)?;
    if !screen.starts_with(b"GIF8") {
        return Err(ParseStop::Unreadable);
    }
    let (width, height) = (u32::from(le16(&screen, 6)?), u32::from(le16(&screen, 8)?));
    if width == 0 || height == 0 {
        return Err(ParseStop::Unreadable);
    }
    let animation = unless_stopped(counted(window, 13 + colours(screen[10])))?;
    let frames = animation.map(|animation| animation.frames).filter(|frames| *frames > 0);
    Ok(Image { width, height, frames, duration_ms: animation.and_then(Animation::duration_ms) })
}

/// Returns the size of the color table that these flags announce.
fn colours(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn counted(window: &Window, mut at: u64) -> Result<Animation, ParseStop> {
    let (mut animation, mut delay_ms, mut left) = (Animation::default(), 0, MAX_BLOCKS);
    loop {
        match byte(window, at)? {
            Some(EXTENSION) => {
                if byte(window, at + 1)? == Some(GRAPHIC_CONTROL) && window.size_bytes() - at >= 6 {
                    delay_ms = 10 * u64::from(le16(&window.next(at + 4, 2)?, 0)?);
                }
                at = behind_blocks(window, at + 2, &mut left)?;
            }
            Some(IMAGE) => {
                animation.add(delay_ms);
                delay_ms = 0;
                let flags = byte(window, at + 9)?.unwrap_or(0);
                at = behind_blocks(window, at + 11 + colours(flags), &mut left)?;
            }
            // The trailer, the end of a file without one, or a block that no decoder can skip.
            _ => return Ok(animation),
        }
    }
}

/// Skips the data blocks from `at` on and returns the position behind the empty one that ends them.
fn behind_blocks(window: &Window, mut at: u64, left: &mut usize) -> Result<u64, ParseStop> {
    loop {
        *left = left.checked_sub(1).ok_or(ParseStop::Exhausted)?;
        match byte(window, at)? {
            Some(0) | None => return Ok(at + 1),
            Some(count) => at += 1 + u64::from(count),
        }
    }
}

fn byte(window: &Window, at: u64) -> Result<Option<u8>, ParseStop> {
    if at >= window.size_bytes() { Ok(None) } else { window.next(at, 1).map(|byte| byte.first().copied()) }
}
