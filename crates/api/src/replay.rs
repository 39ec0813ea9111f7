//! Replay jobs, which send many deliveries again, and requests to expunge data from events.

use serde::{Deserialize, Serialize};

use crate::Keyword;

/// The state of a replay job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replay {
    pub id: String,
    pub endpoint: String,
    pub what: Keyword,
    /// Start of the range of events. The end, `before`, is exclusive.
    pub from: String,
    pub before: String,
    pub state: Keyword,
    /// Number of deliveries made due so far.
    pub queued: u64,
    pub created_at: String,
    pub finished_at: Option<String>,
}

/// All jobs that are still stored, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayList {
    pub replays: Vec<Replay>,
}

/// Request to start a replay job: selects deliveries to one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewReplay {
    /// `pending`, `dead`, `missed` or `everything`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Set to include deliveries that have succeeded.
    #[serde(default)]
    pub force: bool,
}

/// Request to expunge the client's data from all events of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expunge {
    pub upload_id: String,
}

/// Number of events that were expunged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expunged {
    pub events: u64,
}
