//! Why an upload failed.

/// Why an upload failed, in words its client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A stable word for programs, such as `digest-mismatch`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// The HTTP status its client is to be told, where a policy or the application has refused the upload; from 400
    /// to 499.
    pub status: Option<u16>,
}
