//! Where an upload stands. The moves between stages are those of [`Upload`](crate::upload::Upload).

/// Where an upload stands. See the diagram in [`upload`](crate::upload).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Announced; not a byte yet.
    Created,
    /// Bytes are arriving, or were a moment ago.
    Receiving,
    /// No byte for a while; the client may come back.
    Stalled,
    /// Every byte is durable.
    Received,
    /// The promised digests match, and it is known what the bytes are.
    Verified,
    /// The bytes are at their final name.
    Stored,
    Completed,
    Ended(Ended),
}

/// How an upload ended without, or after, completing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ended {
    Failed,
    Expired,
    Terminated,
}

impl Ended {
    /// Goes after "has": `failed`, `expired`, `been terminated`.
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

    /// Whether bytes may still be added.
    pub const fn takes_bytes(self) -> bool {
        matches!(self, Self::Created | Self::Receiving | Self::Stalled)
    }
}
