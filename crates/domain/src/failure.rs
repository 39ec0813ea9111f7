//! Failures of uploads, as reported to clients and events.

/// The reason why an upload failed, in terms that its client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A stable code for programs, such as `digest-mismatch`.
    pub code: String,
    /// A sentence for display.
    pub message: String,
    /// The kind of the rejection, if a policy or the application rejected the upload.
    pub rejection: Option<RejectionKind>,
}

crate::named! {
    /// A rejection that clients treat as final, by its meaning. Each protocol maps it to a status code.
    pub enum RejectionKind {
        Malformed = "malformed",
        Unauthenticated = "unauthenticated",
        UnpaidFor = "unpaid-for",
        Forbidden = "forbidden",
        Unknown = "unknown",
        Unacceptable = "unacceptable",
        Gone = "gone",
        TooLarge = "too-large",
        WrongType = "wrong-type",
        Unprocessable = "unprocessable",
        Unlawful = "unlawful",
    }
}
