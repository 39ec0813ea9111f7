//! What backends report of an upload: stages of their own, such as `transcoding`, 40 percent.

use crate::domain::time::Timestamp;

/// The latest a backend has said of one of its stages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which stage; unique within an upload.
    pub name: String,
    /// From 0 to 100, if it can be told.
    pub percent: Option<u8>,
    /// A sentence for people.
    pub message: Option<String>,
    pub at: Timestamp,
}
