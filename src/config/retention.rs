//! How long records are kept.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::units::{days, hours};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Of uploads that failed, expired or were terminated.
    pub ended_uploads: Duration,
}

impl Retention {
    pub(super) fn read(from: &mut Reader) -> Self {
        Self { ended_uploads: from.duration("retention.ended_uploads", hours(1)..=days(3650)) }
    }
}
