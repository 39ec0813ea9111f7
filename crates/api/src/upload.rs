//! The status of an upload, lists of statuses, and reports of backends.

use domain::failure::Failure as KnownFailure;
use domain::report::Report as Known;
use serde::{Deserialize, Serialize};

use crate::Keyword;
use crate::facts::Facts;
use crate::pairs::Pairs;
use crate::text::Text;

/// The public status of an upload, for its client, for pages and for backends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadStatus<'a> {
    pub id: String,
    pub stage: Keyword,
    pub protocol: String,
    pub role: Keyword,
    /// Number of leading bytes that are durable and committed.
    pub offset: u64,
    /// Bytes that have arrived, including those of running requests.
    pub received: u64,
    pub length: Option<u64>,
    /// Missing ranges as pairs of first and last byte.
    pub missing: Vec<(u64, u64)>,
    /// Set if more ranges are missing than are listed.
    pub missing_truncated: bool,
    /// Progress in percent, with two decimal places.
    pub percent: Option<f64>,
    pub bytes_per_second: Option<u64>,
    pub eta_seconds: Option<u64>,
    pub created_at: String,
    pub updated_at: String,
    pub expires_at: Option<String>,
    pub removed_at: Option<String>,
    pub removed_by: Option<Keyword>,
    pub bytes_missing_since: Option<String>,
    /// Stages entered so far, oldest first.
    pub stages: Vec<StageEntry>,
    pub reports: Vec<StageReport>,
    /// Digests by algorithm, in hexadecimal.
    pub digests: Pairs<'a, String>,
    pub content_type: Option<String>,
    pub facts: Option<Facts>,
    pub filename: Option<String>,
    pub metadata: Pairs<'a, Text<'a>>,
    pub error: Option<UploadFailure>,
    pub links: UploadLinks,
}

/// A stage and the time at which it was entered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageEntry {
    pub name: Keyword,
    pub at: String,
}

/// The latest report of a backend on one of its own stages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageReport {
    pub name: String,
    pub percent: Option<u8>,
    pub message: Option<String>,
    pub at: String,
}

/// Reason why an upload failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadFailure {
    pub code: String,
    pub message: String,
}

/// URLs and paths related to an upload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadLinks {
    #[serde(rename = "self")]
    pub status: String,
    pub events: String,
    pub upload: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<String>,
    /// Path on the server's machine; present only for callers with the right to see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// A page of statuses, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadList<'a> {
    pub uploads: Vec<UploadStatus<'a>>,
    /// Cursor of the next page; `null` on the last one.
    pub next: Option<String>,
}

/// First message of a stream that covers all uploads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadSnapshot<'a> {
    pub uploads: Vec<UploadStatus<'a>>,
}

/// A report as sent by a backend.
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
