//! Who deleted an upload, or had its file removed.

use crate::time::Timestamp;

crate::named! {
    /// On whose behalf an upload is deleted.
    #[derive(PartialOrd, Ord)]
    pub enum DeletedBy {
        /// Whoever may delete it in its protocol.
        Client = "client",
        /// Whoever has an admin key.
        Operator = "operator",
        /// The configuration says how long completed uploads are kept.
        Retention = "retention",
    }
}

/// The end of the file of a completed upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    pub at: Timestamp,
    pub by: DeletedBy,
}
