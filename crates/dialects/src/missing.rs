//! The ranges that an upload still lacks, as every API lists them.

use domain::upload::Upload;

/// What has not arrived of an upload that is still being received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MissingRanges {
    /// First and last bytes. What is behind everything that is there is among them once the length is known.
    pub ranges: Vec<(u64, u64)>,
    /// Whether there are more than are listed.
    pub truncated: bool,
}

/// The most missing ranges told at once.
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
