//! The missing ranges of an upload, as every API lists them.

use domain::upload::Upload;

/// The ranges that have not arrived of an upload that is being received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MissingRanges {
    /// The first and last bytes of each range. The range after the last received byte is included once the
    /// length is known.
    pub ranges: Vec<(u64, u64)>,
    /// True if there are more ranges than are listed.
    pub truncated: bool,
}

/// The largest number of missing ranges in a response.
const MAX_MISSING: usize = 100;

impl MissingRanges {
    pub fn of(upload: &Upload) -> Self {
        if !upload.stage().takes_bytes() {
            return Self::default();
        }
        let received = &upload.record().received;
        let reach = received.pairs().last().map_or(0, |(_, end)| *end);
        let length = upload.length().map_or(reach, |length| length.get());
        let mut missing = received.missing(length).map(|(start, end)| (start, end - 1));
        Self { ranges: missing.by_ref().take(MAX_MISSING).collect(), truncated: missing.next().is_some() }
    }
}
