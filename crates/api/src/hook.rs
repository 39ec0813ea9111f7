//! Hook requests to the application, and the records of hook calls.

use std::borrow::Cow;

use domain::hook::{Caller as KnownCaller, Hook, HookCall, HookRequest as KnownRequest};
use domain::time::milliseconds;
use domain::upload::Role;
use serde::{Deserialize, Serialize};

use crate::Keyword;
use crate::event::EventMessage;
use crate::facts::Facts;
use crate::pairs::Pairs;
use crate::text::Text;

/// The record of one hook call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookCallRecord {
    pub id: String,
    pub hook: Keyword,
    pub upload_id: String,
    /// Id of the decision, the same in every retry of the call.
    pub decision: String,
    pub started_at: String,
    pub duration_ms: u64,
    pub outcome: Keyword,
    /// HTTP status of the response; `null` if there was none.
    pub status: Option<u16>,
    pub message: Option<String>,
    pub response_body: String,
}

/// A page of hook calls, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookCallList {
    pub calls: Vec<HookCallRecord>,
    /// Cursor of the next page; `null` on the last one.
    pub next: Option<String>,
}

/// Data of a hook request: the upload that the application decides on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookRequest<'a> {
    pub upload_id: String,
    pub dialect: Cow<'a, str>,
    pub role: Keyword,
    /// Ids of the partial uploads that a final upload consists of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parts: Option<Vec<String>>,
    pub length: Option<u64>,
    pub filename: Option<String>,
    pub content_type: Option<String>,
    pub metadata: Pairs<'a, Text<'a>>,
    #[serde(flatten)]
    pub arrived: Option<ReceivedState<'a>>,
    /// `null` when no client request caused the hook.
    pub request: Option<CallerRequest<'a>>,
}

/// State of an upload that already exists.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReceivedState<'a> {
    pub stage: Keyword,
    pub offset: u64,
    pub digests: Pairs<'a, String>,
    pub facts: Option<Facts>,
}

/// The client request that caused a hook request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallerRequest<'a> {
    pub method: Cow<'a, str>,
    pub path: Cow<'a, str>,
    pub remote_address: Option<Cow<'a, str>>,
    pub headers: Pairs<'a, Cow<'a, str>>,
}

impl<'a> From<&'a KnownRequest> for EventMessage<HookRequest<'a>> {
    fn from(question: &'a KnownRequest) -> Self {
        let record = question.upload.record();
        let metadata = record.metadata.pairs().iter();
        let data = HookRequest {
            upload_id: record.id.to_string(),
            dialect: record.dialect.name().into(),
            role: record.role.name().into(),
            parts: match &record.role {
                Role::Final { parts, .. } => Some(parts.iter().map(ToString::to_string).collect()),
                Role::Single | Role::Partial => None,
            },
            length: record.length.map(|length| length.get()),
            filename: record.metadata.file_name(),
            content_type: record.metadata.content_type(),
            metadata: metadata.map(|(name, value)| (name, Text::from(&value[..]))).collect(),
            arrived: (question.hook != Hook::PreCreate).then(|| ReceivedState {
                stage: record.stage.name().into(),
                offset: question.upload.offset().get(),
                digests: record.digests.iter().map(|digest| (digest.algorithm().name(), digest.hex())).collect(),
                facts: record.facts.as_ref().map(Facts::from),
            }),
            request: question.caller.as_ref().map(CallerRequest::from),
        };
        Self { kind: question.hook.message_type().into(), timestamp: question.requested_at.to_string(), data }
    }
}

impl<'a> From<&'a KnownCaller> for CallerRequest<'a> {
    fn from(caller: &'a KnownCaller) -> Self {
        Self {
            method: caller.method.as_str().into(),
            path: caller.path.as_str().into(),
            remote_address: caller.remote.as_deref().map(Cow::from),
            headers: caller.headers.iter().map(|(name, value)| (name, value.as_str().into())).collect(),
        }
    }
}

impl From<&HookCall> for HookCallRecord {
    fn from(call: &HookCall) -> Self {
        Self {
            id: call.id.to_string(),
            hook: call.hook.name().into(),
            upload_id: call.upload.to_string(),
            decision: call.decision.clone(),
            started_at: call.started_at.to_string(),
            duration_ms: milliseconds(call.took),
            outcome: call.outcome.name().into(),
            status: call.status,
            message: call.message.clone(),
            response_body: String::from_utf8_lossy(&call.response_body).into_owned(),
        }
    }
}
