//! The pieces of a blob while it is open.

use std::sync::Arc;

/// The most parts that a multipart upload has (scale-out section 1.1).
pub(crate) const MOST_PARTS: usize = 10_000;

/// The smallest part of a multipart upload, except for the last.
pub(crate) const MIN_PART_BYTES: u64 = 5 << 20;

/// The largest part, also of one that is copied.
pub(crate) const MAX_PART_BYTES: u64 = 5 << 30;

const MIB: u64 = 1 << 20;

/// A stored part of a multipart upload. Its number is its place among the parts, beginning with 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) length_bytes: u64,
    /// The entity tag without its quotation marks.
    pub(crate) etag: Arc<str>,
    /// The CRC-32C that the store has compared with the bytes, if it does that.
    pub(crate) crc32c: Option<u32>,
}

/// A multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Multipart {
    pub(crate) id: String,
    /// Its parts are sent with a checksum. That cannot change: a store that compares them wants one of each
    /// part, and copied parts have none that is known.
    pub(crate) has_checksums: bool,
}

/// A small object that accompanies an open blob: a tail, or a list of its parts. Its name is never used
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extra {
    /// A random number for each opening of the blob.
    pub(crate) opening: u64,
    /// Counts the objects of that opening.
    pub(crate) number: u32,
}

/// Acknowledged bytes behind the last part (scale-out O5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) name: Extra,
    pub(crate) length_bytes: u64,
}

/// Returns the size of the parts of a blob, in bytes: at least `wished_bytes`, and so large that a blob of
/// `largest_bytes` has at most 9,000 (scale-out O3).
pub(crate) fn part_bytes_for(wished_bytes: u64, largest_bytes: u64) -> u64 {
    wished_bytes.max(largest_bytes.div_ceil(9_000).next_multiple_of(MIB)).min(MAX_PART_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scale-out O3: up to the largest object there is.
    #[test]
    fn every_blob_fits_into_its_parts() {
        let largest = 48_800_000_000_000_u64;
        let mut size = 1;
        while size < largest {
            for size in [size - 1, size, size + 1, size * 3 / 2] {
                let part = part_bytes_for(8 * MIB, size);
                assert!(size.div_ceil(part) <= MOST_PARTS as u64, "{size} bytes in parts of {part}");
                assert!((8 * MIB..=MAX_PART_BYTES).contains(&part) && part.is_multiple_of(MIB));
            }
            size *= 2;
        }
        assert_eq!(part_bytes_for(8 * MIB, 2 << 30), 8 * MIB, "256 parts");
        assert_eq!(part_bytes_for(8 * MIB, 72_000 * MIB), 8 * MIB, "9,000 parts");
        assert_eq!(part_bytes_for(8 * MIB, 72_000 * MIB + 1), 9 * MIB);
    }
}
