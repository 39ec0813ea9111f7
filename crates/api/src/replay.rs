//! Jobs that send many deliveries again, and what is taken out of events.

use serde::{Deserialize, Serialize};

use crate::Keyword;

/// A job as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replay {
    pub id: String,
    pub endpoint: String,
    pub what: Keyword,
    /// The range of events, its end excluded.
    pub from: String,
    pub before: String,
    pub state: Keyword,
    /// Deliveries made due so far.
    pub queued: u64,
    pub created_at: String,
    pub finished_at: Option<String>,
}

/// All jobs that are kept, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayList {
    pub replays: Vec<Replay>,
}

/// Which deliveries to an endpoint a new job sends.
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
    /// Also what has succeeded.
    #[serde(default)]
    pub force: bool,
}

/// The upload whose words are to be taken out of its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expunge {
    pub upload_id: String,
}

/// How many events have lost what was said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expunged {
    pub events: u64,
}
