//! The status of an upload, lists of them, and what backends report.

use domain::failure::Failure as KnownFailure;
use domain::report::Report as Known;
use serde::{Deserialize, Serialize};

use crate::Keyword;
use crate::facts::Facts;
use crate::pairs::Pairs;
use crate::text::Text;

/// Everything about an upload that its client, a page or a backend may know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadStatus<'a> {
    pub id: String,
    pub stage: Keyword,
    pub protocol: String,
    pub role: Keyword,
    /// Durable bytes without a gap.
    pub offset: u64,
    /// Bytes taken in, those of a running request included.
    pub received: u64,
    pub length: Option<u64>,
    /// First and last bytes of what is missing.
    pub missing: Vec<(u64, u64)>,
    /// Whether more is missing than is listed.
    pub missing_truncated: bool,
    /// With two digits after the point.
    pub percent: Option<f64>,
    pub bytes_per_second: Option<u64>,
    pub eta_seconds: Option<u64>,
    pub created_at: String,
    pub updated_at: String,
    pub expires_at: Option<String>,
    pub removed_at: Option<String>,
    pub removed_by: Option<Keyword>,
    pub bytes_missing_since: Option<String>,
    /// Oldest first.
    pub stages: Vec<StageEntry>,
    pub reports: Vec<StageReport>,
    /// By algorithm, in hexadecimal digits.
    pub digests: Pairs<'a, String>,
    pub content_type: Option<String>,
    pub facts: Option<Facts>,
    pub filename: Option<String>,
    pub metadata: Pairs<'a, Text<'a>>,
    pub error: Option<UploadFailure>,
    pub links: UploadLinks,
}

/// A stage and when it was entered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageEntry {
    pub name: Keyword,
    pub at: String,
}

/// The latest that a backend has said of a stage of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageReport {
    pub name: String,
    pub percent: Option<u8>,
    pub message: Option<String>,
    pub at: String,
}

/// Why an upload failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadFailure {
    pub code: String,
    pub message: String,
}

/// Where to go from a status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadLinks {
    #[serde(rename = "self")]
    pub status: String,
    pub events: String,
    pub upload: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<String>,
    /// On the machine of the server, for those who may know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// A page of statuses, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadList<'a> {
    pub uploads: Vec<UploadStatus<'a>>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

/// What a stream of everything begins with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadSnapshot<'a> {
    pub uploads: Vec<UploadStatus<'a>>,
}

/// A report as a backend sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewStageReport {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl From<&Known> for StageReport {
    fn from(report: &Known) -> Self {
        let Known { name, percent, message, at, published_at: _ } = report;
        Self { name: name.clone(), percent: *percent, message: message.clone(), at: at.to_string() }
    }
}

impl From<&KnownFailure> for UploadFailure {
    fn from(failure: &KnownFailure) -> Self {
        Self { code: failure.code.clone(), message: failure.message.clone() }
    }
}
