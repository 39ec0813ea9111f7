//! What the application is asked before a move of an upload is made, and what it may answer.
//!
//! A notification tells what has happened; a hook asks whether it may. Without an answer nothing moves.

use std::time::Duration;

use crate::failure::Failure;
use crate::id::{HookCallId, UploadId};
use crate::metadata::Metadata;
use crate::principal::TenantId;
use crate::time::Timestamp;
use crate::upload::Upload;

/// The code of every refusal that comes from the application.
pub const REJECTED: &str = "rejected-by-application";

/// What is said where the application gives no reason.
pub const NO_REASON: &str = "the application rejected this upload";

crate::named! {
    /// A question the application may want to be asked.
    #[derive(PartialOrd, Ord)]
    pub enum Hook {
        /// Before an upload is created.
        PreCreate = "pre_create",
        /// When every byte is durable and verified, before the upload is stored and completed.
        PreFinish = "pre_finish",
        /// Before a client ends an upload and its bytes go.
        PreTerminate = "pre_terminate",
    }
}

impl Hook {
    /// As the type of the message that asks.
    pub const fn message_type(self) -> &'static str {
        match self {
            Self::PreCreate => "hook.pre_create",
            Self::PreFinish => "hook.pre_finish",
            Self::PreTerminate => "hook.pre_terminate",
        }
    }
}

/// The request of a client that led to a question, as far as the application may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    pub method: String,
    pub path: String,
    /// Who has connected: a client, or the last proxy before us.
    pub remote: Option<String>,
    /// Those header fields that may be forwarded.
    pub headers: Vec<(String, String)>,
}

/// One question.
#[derive(Debug, Clone)]
pub struct HookRequest {
    pub hook: Hook,
    /// Names the decision: the same for as long as the same is to be decided, across retries and
    /// restarts. Made of letters, digits, `_` and `-`.
    pub decision: String,
    /// As it is; before its creation, as it would be.
    pub upload: Upload,
    /// `None` when no client's request is behind it, as after a restart.
    pub caller: Option<Caller>,
    pub requested_at: Timestamp,
}

impl HookRequest {
    pub fn new(hook: Hook, upload: &Upload, caller: Option<Caller>, now: Timestamp, random: [u8; 10]) -> Self {
        // Whether an upload may be created or finished is decided once. Whether it may be
        // ended can be asked again, by somebody else.
        let subject = match hook {
            Hook::PreCreate | Hook::PreFinish => upload.id().to_string(),
            Hook::PreTerminate => HookCallId::new(now, random).to_string(),
        };
        let decision = format!("hook_{}_{subject}", hook.name());
        Self { hook, decision, upload: upload.clone(), caller, requested_at: now }
    }
}

/// What the application has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted(UploadOverrides),
    /// With a kind of refusal, always.
    Rejected(Failure),
}

/// What the application may set for an upload that is about to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadOverrides {
    pub id: Option<UploadId>,
    /// In the place of all that the client has said.
    pub metadata: Option<Metadata>,
    pub max_bytes: Option<u64>,
    pub expires_after: Option<Duration>,
}

crate::named! {
    /// How a call ended.
    pub enum CallOutcome {
        Accepted = "accepted",
        Rejected = "rejected",
        Timeout = "timeout",
        /// No connection, or one that broke.
        Unreachable = "unreachable",
        /// A status that is neither yes nor no.
        BadStatus = "bad_status",
        /// An answer that cannot be understood.
        BadAnswer = "bad_answer",
    }
}

impl CallOutcome {
    /// Whether it is a verdict.
    pub const fn is_verdict(self) -> bool {
        matches!(self, Self::Accepted | Self::Rejected)
    }
}

/// One call, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    pub id: HookCallId,
    pub hook: Hook,
    /// Whose upload it was about.
    pub tenant: TenantId,
    pub upload: UploadId,
    /// See [`HookRequest::decision`].
    pub decision: String,
    pub started_at: Timestamp,
    pub took: Duration,
    pub outcome: CallOutcome,
    /// Of the answer, if there was one.
    pub status: Option<u16>,
    /// Why it was rejected, or what went wrong.
    pub message: Option<String>,
    /// The first bytes of the answer.
    pub response_body: Vec<u8>,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookResult {
    /// `None` when there is no verdict.
    pub verdict: Option<Verdict>,
    /// `None` when no call was made.
    pub call: Option<HookCall>,
}

impl HookResult {
    /// Nobody wants to be asked.
    pub fn accepted_without_call() -> Self {
        Self { verdict: Some(Verdict::Accepted(UploadOverrides::default())), call: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_what_they_name() {
        for hook in Hook::ALL {
            assert_eq!(Hook::by_name(hook.name()), Some(hook));
            assert_eq!(hook.message_type(), format!("hook.{}", hook.name()));
        }
        for outcome in CallOutcome::ALL {
            assert_eq!(CallOutcome::by_name(outcome.name()), Some(outcome));
        }
    }
}
