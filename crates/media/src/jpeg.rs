//! JPEG (ITU-T T.81, annex B): segments before the picture, each with its length.

use crate::exif;
use crate::fields::be16;
use crate::window::{ParseStop, Window};
use domain::facts::Image;

/// Maximum number of segments examined. Profiles and thumbnails take a few dozen.
const MAX_SEGMENTS: usize = 1_024;

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;
const APP1: u8 = 0xe1;

/// Reads up to the first scan, because the size may precede the Exif block with the orientation.
pub(super) fn read(window: &Window) -> Result<Image, ParseStop> {
    let mut at = 2;
    let (mut size, mut on_its_side) = (None, None);
    for _ in 0..MAX_SEGMENTS {
        let Some((marker, start)) = marker(window, at)? else { break };
        if matches!(marker, START_OF_SCAN | END_OF_IMAGE) {
            break;
        }
        // TEM and RST have no length.
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            at = start;
            continue;
        }
        let length = u64::from(be16(&window.get(start, 2)?, 0)?);
        match marker {
            // SOF0 to SOF15, without DHT, JPG and DAC.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                let frame = window.get(start, 7)?;
                size = Some((u32::from(be16(&frame, 5)?), u32::from(be16(&frame, 3)?)));
            }
            APP1 if on_its_side.is_none() && length > 8 => {
                let segment = window.get(start + 2, length - 2)?;
                on_its_side = segment.strip_prefix(b"Exif\0\0").map(exif::is_on_its_side);
            }
            _ => {}
        }
        at = start + length.max(2);
    }
    let (width, height) = size.filter(|(width, height)| *width > 0 && *height > 0).ok_or(ParseStop::Unreadable)?;
    let (width, height) = if on_its_side == Some(true) { (height, width) } else { (width, height) };
    Ok(Image { width, height, frames: Some(1), duration_ms: None })
}

/// Reads the marker at `at`, skipping fill bytes, and returns it with the position of its segment.
fn marker(window: &Window, at: u64) -> Result<Option<(u8, u64)>, ParseStop> {
    let left = window.size_bytes().saturating_sub(at);
    let bytes = window.get(at, left.min(64))?;
    if bytes.first() != Some(&0xff) {
        return Ok(None);
    }
    let fill = bytes.iter().take_while(|byte| **byte == 0xff).count();
    Ok(bytes.get(fill).map(|marker| (*marker, at + fill as u64 + 1)))
}
