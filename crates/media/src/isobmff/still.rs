//! Images in HEIC and AVIF (ISO/IEC 23008-12): items with properties; one item is the primary image.

use std::ops::Range;

use super::{BoxReader, children};
use crate::fields::{be, be16, be32};
use crate::window::ParseStop;

/// Maximum number of properties examined of one item.
const MAX_PROPERTIES: usize = 64;

impl BoxReader<'_> {
    /// Returns the size of the primary image of a `meta` box, as shown.
    pub(super) fn still(&mut self, body: &Range<u64>) -> Result<Option<(u32, u32)>, ParseStop> {
        // Version and flags come first.
        let boxes = self.children(&(body.start.saturating_add(4).min(body.end)..body.end))?;
        let of_kind = |kind: &[u8; 4]| boxes.iter().find(|found| &found.kind == kind);
        let Some((pitm, iprp)) = of_kind(b"pitm").zip(of_kind(b"iprp")) else { return Ok(None) };
        let (Some(pitm), Some(iprp)) = (self.body(pitm)?, self.body(iprp)?) else { return Ok(None) };
        Ok(primary(&pitm).and_then(|item| shown(item, &iprp)))
    }
}

/// Parses `pitm`: the id of the primary item.
fn primary(pitm: &[u8]) -> Option<u32> {
    match pitm.first()? {
        0 => be16(pitm, 4).ok().map(u32::from),
        _ => be32(pitm, 4).ok(),
    }
}

fn shown(item: u32, iprp: &[u8]) -> Option<(u32, u32)> {
    let properties: Vec<_> = children(super::child(iprp, b"ipco")?).collect();
    let lists = children(iprp).filter(|(kind, _)| kind == b"ipma");
    let mut size = None;
    // They apply in this order: rotating and cropping are not interchangeable.
    for place in lists.filter_map(|(_, ipma)| places(item, ipma)).next()? {
        let Some((kind, body)) = place.checked_sub(1).and_then(|place| properties.get(place)) else { continue };
        size = match (kind, size) {
            (b"ispe", None) => Some((be32(body, 4).ok()?, be32(body, 8).ok()?)),
            (b"clap", Some(_)) => Some((ratio(body, 0)?, ratio(body, 8)?)),
            (b"irot", Some((width, height))) if body.first().is_some_and(|quarters| quarters & 1 == 1) => {
                Some((height, width))
            }
            (_, size) => size,
        };
    }
    size.filter(|(width, height)| *width > 0 && *height > 0)
}

/// Reads a fraction, rounded.
fn ratio(body: &[u8], at: usize) -> Option<u32> {
    let (over, under) = (be::<4>(body, at).ok()?, be::<4>(body, at + 4).ok()?);
    u32::try_from((over + under / 2).checked_div(under)?).ok()
}

/// Returns the indices of the properties of an item, counted from 1.
fn places(item: u32, ipma: &[u8]) -> Option<Vec<usize>> {
    let (is_long_id, is_long_place) = (*ipma.first()? > 0, be::<3>(ipma, 1).ok()? & 1 == 1);
    let items = be32(ipma, 4).ok()?;
    let mut rest = ipma.get(8..)?;
    for _ in 0..items {
        let (id, id_bytes) = if is_long_id { (be32(rest, 0).ok()?, 4) } else { (be16(rest, 0).ok()?.into(), 2) };
        let count = usize::from(*rest.get(id_bytes)?);
        let (list, place_bytes) = (rest.get(id_bytes + 1..)?, if is_long_place { 2 } else { 1 });
        if id == item {
            // The highest bit marks properties that a reader must know.
            let entries = list.chunks_exact(place_bytes).take(count.min(MAX_PROPERTIES));
            let place = |entry: &[u8]| match *entry {
                [high, low] => usize::from(u16::from_be_bytes([high & 0x7f, low])),
                [place] => usize::from(place & 0x7f),
                _ => 0,
            };
            return Some(entries.map(place).collect());
        }
        rest = list.get(count * place_bytes..)?;
    }
    None
}
