//! Problems: answers that say why a request was not served (RFC 9457).

use std::borrow::Cow;

use domain::failure::Refusal;
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

/// Each kind of refusal with its HTTP status. Clients take every one of these for the end. After 408, 409,
/// 423, 425 and 429 there are some that try again, or send everything anew, for as long as they get them.
pub const REFUSALS: [(Refusal, u16); Refusal::ALL.len()] = [
    (Refusal::Malformed, 400),
    (Refusal::Unauthenticated, 401),
    (Refusal::UnpaidFor, 402),
    (Refusal::Forbidden, 403),
    (Refusal::Unknown, 404),
    (Refusal::Unacceptable, 406),
    (Refusal::Gone, 410),
    (Refusal::TooLarge, 413),
    (Refusal::WrongType, 415),
    (Refusal::Unprocessable, 422),
    (Refusal::Unlawful, 451),
];

/// Returns the HTTP status of a refusal.
pub fn status_of(refusal: Refusal) -> u16 {
    REFUSALS.into_iter().find(|(kind, _)| *kind == refusal).map_or(422, |(_, status)| status)
}

/// Returns the refusal that an HTTP status stands for; `None` for a status
/// that not every client takes for the end.
pub fn refusal_of(status: u16) -> Option<Refusal> {
    REFUSALS.into_iter().find(|(_, known)| *known == status).map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_status_of_its_own() {
        for refusal in Refusal::ALL {
            assert_eq!(refusal_of(status_of(refusal)), Some(refusal));
            assert_eq!(REFUSALS.iter().filter(|(kind, _)| *kind == refusal).count(), 1, "{refusal:?}");
        }
        for not_final in [200, 405, 408, 409, 423, 425, 429, 500] {
            assert_eq!(refusal_of(not_final), None, "{not_final}");
        }
    }

    #[test]
    fn a_problem_is_known_by_the_end_of_its_type() {
        let code = |kind: String| Problem { kind: kind.into(), ..Problem::default() }.code().to_owned();
        assert_eq!(code(own_kind("wrong-offset")), "wrong-offset");
        assert_eq!(code("https://iana.org/types#completed-upload".to_owned()), "completed-upload");
    }
}
