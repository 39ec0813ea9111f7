//! The originator of a deletion, and the removal of a file.

use crate::time::Timestamp;

crate::named! {
    /// The originator of a deletion.
    #[derive(PartialOrd, Ord)]
    pub enum DeletedBy {
        /// A client with the right to delete the upload by its protocol.
        Client = "client",
        /// A holder of an admin key.
        Operator = "operator",
        /// The configured retention time of completed uploads.
        Retention = "retention",
    }
}

/// The removal of the file of a completed upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    pub at: Timestamp,
    pub by: DeletedBy,
}
