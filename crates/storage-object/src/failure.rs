//! Failures of requests to the store.

use std::io;

use serde::Deserialize;

/// The body of a failed request, or of a successful one that has failed after its head was sent.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ErrorBody {
    code: String,
    message: String,
}

/// A failed request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    text: String,
}

/// Kinds of failures that callers handle differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The store was not reached, is busy or has failed: the request may succeed later. Nobody knows whether
    /// it was carried out.
    Transient,
    /// The object does not exist.
    NotFound,
    /// The multipart upload does not exist: it was completed or aborted.
    NoSuchUpload,
    /// A part that the completion names is not stored, or not with the named content.
    InvalidPart,
    /// The object has fewer bytes than the requested range.
    TooShort,
    NoSpace,
    /// The store refuses the request, and will refuse it until somebody changes the configuration.
    Refused,
    /// A caller that comes later has ended this operation.
    Ended,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Returns the failure that a response stands for: its status, and the code and message of its body.
    pub(crate) fn of_response(status: u16, code: &str, message: &str) -> Self {
        let kind = match (status, code) {
            (_, "NoSuchUpload") => FailureKind::NoSuchUpload,
            (_, "InvalidPart" | "InvalidPartOrder") => FailureKind::InvalidPart,
            (_, "NoSuchBucket" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied") => {
                FailureKind::Refused
            }
            // The next request is signed with renewed credentials.
            (_, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => FailureKind::Transient,
            (_, "BadDigest" | "RequestTimeout" | "SlowDown" | "InternalError" | "OperationAborted") => {
                FailureKind::Transient
            }
            (_, "QuotaExceeded" | "XMinioStorageFull") | (507, _) => FailureKind::NoSpace,
            (404, _) => FailureKind::NotFound,
            (416, _) => FailureKind::TooShort,
            (408 | 425 | 429 | 500..=599, _) => FailureKind::Transient,
            // An error in the body of a successful response.
            (200..=299, _) => FailureKind::Transient,
            _ => FailureKind::Refused,
        };
        let text = match (code, message) {
            ("", _) => format!("the object store answered {status}"),
            (code, "") => format!("the object store answered {status} {code}"),
            (code, message) => format!("the object store answered {status} {code}: {message}"),
        };
        Self::new(kind, text)
    }

    /// Returns the failure that the body of a response describes. One that cannot be read is judged by the
    /// status.
    pub(crate) fn of_body(status: u16, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let ErrorBody { code, message } = quick_xml::de::from_str(text.trim_start()).unwrap_or_default();
        Self::of_response(status, &code, &message)
    }

    /// Returns the same failure for the ports of the storage, whose errors have kinds by those of `io`.
    pub(crate) fn into_io(self) -> io::Error {
        let kind = match self.kind {
            FailureKind::NotFound | FailureKind::NoSuchUpload => io::ErrorKind::NotFound,
            FailureKind::TooShort | FailureKind::InvalidPart => io::ErrorKind::UnexpectedEof,
            FailureKind::NoSpace => io::ErrorKind::StorageFull,
            FailureKind::Transient | FailureKind::Refused | FailureKind::Ended => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error;
        let text = last_cause(&error);
        if let Some((status, body)) = answer_in(&text) {
            return Self::of_body(status, body.as_bytes());
        }
        let kind = match &error {
            Error::NotFound { .. } => FailureKind::NotFound,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotSupported { .. } => {
                FailureKind::Refused
            }
            // Everything else that this library says about requests: connections, answers it cannot read.
            _ => FailureKind::Transient,
        };
        Self::new(kind, format!("the object store was not reached: {text}"))
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::new(
            FailureKind::Transient,
            format!("the object store was not reached: {}", outbound::failure::root_cause(&error)),
        )
    }
}

/// Returns the text of the last cause of an error. Those before it name the address of the request, which is
/// signed.
fn last_cause(error: &object_store::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// Finds the status and the body of an answer in the text of an error: the library keeps them nowhere else.
fn answer_in(text: &str) -> Option<(u16, &str)> {
    let (_, rest) = text.split_once("status code: ")?;
    let (digits, rest) = rest.split_at_checked(3)?;
    let body = rest.find('<').map_or("", |start| &rest[start..]);
    Some((digits.parse().ok()?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scale-out O10, O16: what is ambiguous is repeated, also an error in the body of a successful response.
    #[test]
    fn the_code_counts_more_than_the_status() {
        for (status, code, kind) in [
            (404, "NoSuchUpload", FailureKind::NoSuchUpload),
            (404, "NoSuchKey", FailureKind::NotFound),
            (404, "NoSuchBucket", FailureKind::Refused),
            (403, "AccessDenied", FailureKind::Refused),
            (403, "ExpiredToken", FailureKind::Transient),
            (400, "ExpiredToken", FailureKind::Transient),
            (400, "BadDigest", FailureKind::Transient),
            (400, "InvalidPart", FailureKind::InvalidPart),
            (400, "EntityTooSmall", FailureKind::Refused),
            (200, "InternalError", FailureKind::Transient),
            (200, "SomethingNew", FailureKind::Transient),
            (503, "", FailureKind::Transient),
            (429, "", FailureKind::Transient),
            (507, "", FailureKind::NoSpace),
            (301, "PermanentRedirect", FailureKind::Refused),
        ] {
            assert_eq!(Failure::of_response(status, code, "").kind, kind, "{status} {code}");
        }
    }

    /// The form in which the library reports an answer; tests with a store notice when it changes.
    #[test]
    fn the_answer_is_found_in_the_text_of_an_error() {
        let text = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>AccessDenied</Code>\
                    <Message>no</Message></Error>";
        let (status, body) = answer_in(text).unwrap();
        let failure = Failure::of_body(status, body.as_bytes());
        assert_eq!((status, failure.kind), (403, FailureKind::Refused));
        assert_eq!(failure.to_string(), "the object store answered 403 AccessDenied: no");
        assert_eq!(answer_in("Connection refused (os error 111)"), None);
        assert_eq!(answer_in("status code: 5"), None);
    }
}
