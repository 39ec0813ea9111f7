//! Exif: the orientation that cameras write into JPEG, PNG and WebP.

use crate::fields::{be16, be32, le16, le32};
use crate::window::ParseStop;

const ORIENTATION: u16 = 0x0112;

/// Maximum number of directory fields examined. They are sorted by number, and orientation has a low one.
const MAX_FIELDS: usize = 256;

/// Reports whether an image with this Exif block (TIFF 6.0: a header and a directory of fields) is shown on
/// its side.
pub(super) fn is_on_its_side(tiff: &[u8]) -> bool {
    orientation(tiff).is_ok_and(|orientation| (5..=8).contains(&orientation))
}

fn orientation(tiff: &[u8]) -> Result<u16, ParseStop> {
    let (short, long): (Read<u16>, Read<u32>) = match tiff.get(..4) {
        Some(b"MM\0\x2a") => (be16, be32),
        Some(b"II\x2a\0") => (le16, le32),
        _ => return Err(ParseStop::Unreadable),
    };
    let directory = usize::try_from(long(tiff, 4)?).map_err(|_| ParseStop::Unreadable)?;
    let directory = tiff.get(directory..).ok_or(ParseStop::Unreadable)?;
    let count = usize::from(short(directory, 0)?).min(MAX_FIELDS);
    for place in 0..count {
        let field = 2 + 12 * place;
        if short(directory, field)? == ORIENTATION {
            return short(directory, field + 8);
        }
    }
    Err(ParseStop::Unreadable)
}

type Read<T> = fn(&[u8], usize) -> Result<T, ParseStop>;
