//! Problems: error responses that state why a request was not served (RFC 9457).

use std::borrow::Cow;

use domain::failure::RejectionKind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Prefix of the types of this server's own problems.
const OWN: &str = "urn:longshore:problem:";

/// The body of an error response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem<'a> {
    #[serde(rename = "type")]
    pub kind: Cow<'a, str>,
    pub title: Cow<'a, str>,
    pub status: u16,
    /// Explanation for people, as a sentence.
    pub detail: Cow<'a, str>,
    /// Id under which the server's log has more details.
    pub request_id: Cow<'a, str>,
    /// Additional members for programs.
    #[serde(flatten)]
    pub members: Map<String, Value>,
}

impl Problem<'_> {
    /// Returns the stable code for programs: the last part of the type.
    pub fn code(&self) -> &str {
        self.kind.rsplit([':', '#']).next().unwrap_or_default()
    }
}

/// Returns the type of one of this server's own problems.
pub fn own_kind(code: &str) -> String {
    format!("{OWN}{code}")
}

/// HTTP status of each kind of rejection. Clients treat all of these as final. After 408, 409, 423, 425 and
/// 429 some clients retry, or send everything again, for as long as they receive them.
pub const REJECTION_STATUSES: [(RejectionKind, u16); RejectionKind::ALL.len()] = [
    (RejectionKind::Malformed, 400),
    (RejectionKind::Unauthenticated, 401),
    (RejectionKind::UnpaidFor, 402),
    (RejectionKind::Forbidden, 403),
    (RejectionKind::Unknown, 404),
    (RejectionKind::Unacceptable, 406),
    (RejectionKind::Gone, 410),
    (RejectionKind::TooLarge, 413),
    (RejectionKind::WrongType, 415),
    (RejectionKind::Unprocessable, 422),
    (RejectionKind::Unlawful, 451),
];

/// Returns the HTTP status of a rejection.
pub fn status_of(rejection: RejectionKind) -> u16 {
    REJECTION_STATUSES.into_iter().find(|(kind, _)| *kind == rejection).map_or(422, |(_, status)| status)
}

/// Returns the kind of rejection that an HTTP status stands for; `None` for a status that some clients do not
/// treat as final.
pub fn rejection_of(status: u16) -> Option<RejectionKind> {
    REJECTION_STATUSES.into_iter().find(|(_, known)| *known == status).map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_status_of_its_own() {
        for rejection in RejectionKind::ALL {
            assert_eq!(rejection_of(status_of(rejection)), Some(rejection));
            assert_eq!(REJECTION_STATUSES.iter().filter(|(kind, _)| *kind == rejection).count(), 1, "{rejection:?}");
        }
        for not_final in [200, 405, 408, 409, 423, 425, 429, 500] {
            assert_eq!(rejection_of(not_final), None, "{not_final}");
        }
    }

    #[test]
    fn a_problem_is_known_by_the_end_of_its_type() {
        let code = |kind: String| Problem { kind: kind.into(), ..Problem::default() }.code().to_owned();
        assert_eq!(code(own_kind("wrong-offset")), "wrong-offset");
        assert_eq!(code("https://iana.org/types#completed-upload".to_owned()), "completed-upload");
    }
}
