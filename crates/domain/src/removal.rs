//! Who deleted an upload, or had its file removed.

use crate::time::Timestamp;

/// On whose behalf an upload is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeletedBy {
    /// Whoever may delete it in its protocol.
    Client,
    /// Whoever has an admin key.
    Operator,
    /// The configuration says how long completed uploads are kept.
    Retention,
}

impl DeletedBy {
    pub const ALL: [Self; 3] = [Self::Client, Self::Operator, Self::Retention];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Operator => "operator",
            Self::Retention => "retention",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.name() == name)
    }
}

/// The end of the file of a completed upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    pub at: Timestamp,
    pub by: DeletedBy,
}
