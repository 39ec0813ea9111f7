//! Problems: answers that say why a request was not served (RFC 9457).

use std::borrow::Cow;

use domain::failure::RejectionKind;
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

/// Returns the HTTP status of a refusal.
pub fn status_of(rejection: RejectionKind) -> u16 {
    REJECTION_STATUSES.into_iter().find(|(kind, _)| *kind == rejection).map_or(422, |(_, status)| status)
}

/// Returns the refusal that an HTTP status stands for; `None` for a status
/// that not every client takes for the end.
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
