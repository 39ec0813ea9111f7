//! Problems: answers that say why a request was not served (RFC 9457).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What the types of this server's own problems begin with.
const OWN: &str = "urn:longshore:problem:";

/// The body of an answer that rejects a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem<'a> {
    #[serde(rename = "type")]
    pub kind: Cow<'a, str>,
    pub title: Cow<'a, str>,
    pub status: u16,
    /// A sentence for people.
    pub detail: Cow<'a, str>,
    /// Under which the server's log says more.
    pub request_id: Cow<'a, str>,
    /// What programs need besides.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

impl Problem<'_> {
    /// Returns the stable word for programs: the last part of the type.
    pub fn code(&self) -> &str {
        self.kind.rsplit([':', '#']).next().unwrap_or_default()
    }
}

/// Returns the type of a problem of this server's own.
pub fn own_kind(code: &str) -> String {
    format!("{OWN}{code}")
}
