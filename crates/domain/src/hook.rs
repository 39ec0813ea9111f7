//! Hooks: requests to the application that it must approve before an upload is created, stored or terminated.
//!
//! A webhook reports a past change; a hook decides about a change that has not happened yet. Without a
//! verdict the upload does not change.

use std::time::Duration;

use crate::failure::Failure;
use crate::id::{HookCallId, UploadId};
use crate::metadata::Metadata;
use crate::principal::TenantId;
use crate::time::Timestamp;
use crate::upload::Upload;

/// The code of every rejection by the application.
pub const REJECTED: &str = "rejected-by-application";

/// The message of a rejection for which the application gives no reason.
pub const NO_REASON: &str = "the application rejected this upload";

crate::named! {
    /// A point in the life of an upload at which the application can be called.
    #[derive(PartialOrd, Ord)]
    pub enum Hook {
        /// Before an upload is created.
        PreCreate = "pre_create",
        /// After every byte is durable and verified, before the upload is stored and completed.
        PreFinish = "pre_finish",
        /// Before a client terminates an upload and its bytes are deleted.
        PreTerminate = "pre_terminate",
    }
}

impl Hook {
    /// Returns the `type` of the message that is sent to the application.
    pub const fn message_type(self) -> &'static str {
        match self {
            Self::PreCreate => "hook.pre_create",
            Self::PreFinish => "hook.pre_finish",
            Self::PreTerminate => "hook.pre_terminate",
        }
    }
}

/// The client request that caused a hook call, as far as the application may see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    pub method: String,
    pub path: String,
    /// The peer of the connection: a client, or the last proxy in front of the server.
    pub remote: Option<String>,
    /// The header fields that may be forwarded.
    pub headers: Vec<(String, String)>,
}

/// One request to the application.
#[derive(Debug, Clone)]
pub struct HookRequest {
    pub hook: Hook,
    /// The identifier of the decision. It stays the same across retries and restarts as long as the same
    /// decision is pending. It consists of letters, digits, `_` and `-`.
    pub decision: String,
    /// The current upload; before its creation, the upload as it would be created.
    pub upload: Upload,
    /// `None` if no client request caused the call, as after a restart.
    pub caller: Option<Caller>,
    pub requested_at: Timestamp,
}

impl HookRequest {
    pub fn new(hook: Hook, upload: &Upload, caller: Option<Caller>, now: Timestamp, random: [u8; 10]) -> Self {
        // Creation and completion of an upload are decided once. Termination can be requested again, by
        // another client, and is then decided again.
        let subject = match hook {
            Hook::PreCreate | Hook::PreFinish => upload.id().to_string(),
            Hook::PreTerminate => HookCallId::new(now, random).to_string(),
        };
        let decision = format!("hook_{}_{subject}", hook.name());
        Self { hook, decision, upload: upload.clone(), caller, requested_at: now }
    }
}

/// The decision of the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accepted(UploadOverrides),
    /// The failure always has a [`RejectionKind`](crate::failure::RejectionKind).
    Rejected(Failure),
}

/// Values that the application may set for an upload about to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadOverrides {
    pub id: Option<UploadId>,
    /// Replaces all metadata from the client.
    pub metadata: Option<Metadata>,
    pub max_bytes: Option<u64>,
    pub expires_after: Option<Duration>,
}

crate::named! {
    /// The outcome of a hook call.
    pub enum CallOutcome {
        Accepted = "accepted",
        Rejected = "rejected",
        Timeout = "timeout",
        /// The connection failed or broke.
        Unreachable = "unreachable",
        /// The status is neither an acceptance nor a rejection.
        BadStatus = "bad_status",
        /// The response cannot be interpreted.
        BadAnswer = "bad_answer",
    }
}

impl CallOutcome {
    /// Reports whether the call produced a verdict.
    pub const fn is_verdict(self) -> bool {
        matches!(self, Self::Accepted | Self::Rejected)
    }
}

/// A recorded hook call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    pub id: HookCallId,
    pub hook: Hook,
    /// The tenant of the upload.
    pub tenant: TenantId,
    pub upload: UploadId,
    /// See [`HookRequest::decision`].
    pub decision: String,
    pub started_at: Timestamp,
    pub took: Duration,
    pub outcome: CallOutcome,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// The reason for the rejection, or the error.
    pub message: Option<String>,
    /// The first bytes of the response.
    pub response_body: Vec<u8>,
}

/// The result of a hook request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookResult {
    /// `None` if the application gave no verdict.
    pub verdict: Option<Verdict>,
    /// `None` if no call was made.
    pub call: Option<HookCall>,
}

impl HookResult {
    /// Returns an acceptance for a hook that no application is registered for.
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
