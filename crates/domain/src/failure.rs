//! Why an upload failed, and what its client is to make of it.

/// Why an upload failed, in words its client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A stable word for programs, such as `digest-mismatch`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// What kind of refusal it is, where a policy or the application has refused the upload.
    pub rejection: Option<RejectionKind>,
}

crate::named! {
    /// A refusal that clients take for the end, by what they are to understand. Each protocol has its own
    /// number for it.
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
