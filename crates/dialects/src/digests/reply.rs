//! Problems for digests that are unusable or do not match, with their registered types.

use crate::digests::{BadDigests, byte_sequence, token};
use domain::checksum::Digest;
use edge::problem::Problem;

const UNSUPPORTED: &str = "https://iana.org/assignments/http-problem-types#digest-unsupported-algorithms";
const INVALID: &str = "https://iana.org/assignments/http-problem-types#digest-invalid-values";
const MISMATCHED: &str = "https://iana.org/assignments/http-problem-types#digest-mismatched-values";

pub(crate) fn problem(error: &BadDigests) -> Problem {
    let problem = Problem::bad_request("bad-header", error.to_string());
    match error {
        BadDigests::Unreadable(_) => problem,
        BadDigests::Unsupported { field, algorithms } => {
            let entries = algorithms.iter().map(|name| [("algorithm", name.clone()), ("header", shown(field))]);
            problem.kind(UNSUPPORTED).list("unsupported_algorithms", entries)
        }
        BadDigests::Invalid { field, algorithm } => {
            let reason = format!("it is not {} bytes long", algorithm.digest_bytes());
            let entry = [("algorithm", token(*algorithm).to_owned()), ("header", shown(field)), ("reason", reason)];
            problem.kind(INVALID).list("invalid_digests", [entry])
        }
    }
}

/// Reports bytes that do not have the digest sent with them. The response does not contain their actual
/// digest, which would help a client that guesses.
pub(crate) fn mismatched(field: &'static str, provided: &Digest) -> Problem {
    let algorithm = token(provided.algorithm());
    let detail = format!("{field}: the data does not match the {algorithm} digest that was sent with it");
    let entry = [
        ("algorithm", algorithm.to_owned()),
        ("provided_digest", byte_sequence(provided.value())),
        ("header", shown(field)),
    ];
    Problem::bad_request("digest-mismatch", detail).kind(MISMATCHED).list("mismatched_digests", [entry])
}

/// Returns the name of a field in its usual capitalization.
fn shown(field: &str) -> String {
    let words = field.split('-').map(|word| word[..1].to_ascii_uppercase() + &word[1..]);
    words.collect::<Vec<_>>().join("-")
}
