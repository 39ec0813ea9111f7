//! The stages of an upload. [`Upload`](crate::upload::Upload) defines the transitions between them.

/// The stage of an upload. See the diagram in [`upload`](crate::upload).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Announced, without any bytes yet.
    Created,
    /// Bytes are arriving, or were until a moment ago.
    Receiving,
    /// No byte has arrived for a while; the client may resume.
    Stalled,
    /// Every byte is durable.
    Received,
    /// The promised digests match, and the content has been examined.
    Verified,
    /// The bytes are stored under their final name.
    Stored,
    Completed,
    Ended(Ended),
}

/// The end of an upload before or after its completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ended {
    Failed,
    Expired,
    Terminated,
}

impl Ended {
    /// Returns the text that follows "has": `failed`, `expired`, `been terminated`.
    pub const fn past(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Terminated => "been terminated",
        }
    }
}

impl Stage {
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Receiving,
        Self::Stalled,
        Self::Received,
        Self::Verified,
        Self::Stored,
        Self::Completed,
        Self::Ended(Ended::Failed),
        Self::Ended(Ended::Expired),
        Self::Ended(Ended::Terminated),
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Receiving => "receiving",
            Self::Stalled => "stalled",
            Self::Received => "received",
            Self::Verified => "verified",
            Self::Stored => "stored",
            Self::Completed => "completed",
            Self::Ended(Ended::Failed) => "failed",
            Self::Ended(Ended::Expired) => "expired",
            Self::Ended(Ended::Terminated) => "terminated",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// Reports whether bytes may still be added.
    pub const fn takes_bytes(self) -> bool {
        matches!(self, Self::Created | Self::Receiving | Self::Stalled)
    }
}
