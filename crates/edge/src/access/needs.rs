//! The needs of rows of the route table, and the rights that clients have.

use domain::id::UploadId;
use domain::principal::{Right, Rights};

/// The rights that clients have without an admin key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRights {
    pub list: bool,
    pub download: bool,
    pub terminate: bool,
}

/// The right that a row of the route table requires of its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// A right that clients have unless the configuration closes it.
    Client(Right),
    /// A right on the upload that the path names. A token for that upload can grant it.
    Upload(Right),
    /// A right that only operators have.
    Operator(Right),
}

/// The access that a request needs, according to its row.
#[derive(Debug, Clone, Copy)]
pub struct RequestedAccess<'a> {
    pub needs: Needs,
    /// The effective method.
    pub method: &'a str,
    /// True if a read token for one upload is recognized at this address, whatever the method.
    pub follows: bool,
    /// The upload that the path names, at addresses where tokens for one upload are recognized.
    pub upload: Option<UploadId>,
}

impl Needs {
    /// Returns the right that is needed, of a client or an operator.
    pub fn right(self) -> Option<Right> {
        match self {
            Self::Nothing => None,
            Self::Client(right) | Self::Upload(right) | Self::Operator(right) => Some(right),
        }
    }

    /// Returns whether a read token for one upload can grant this.
    pub(crate) fn follows(self) -> bool {
        matches!(self, Self::Upload(Right::Read | Right::Events))
    }
}

impl ClientRights {
    /// If clients need an admin key for a right here, returns a description of the action and the
    /// configuration key that closes it.
    pub(super) fn not(self, right: Right) -> Option<(&'static str, &'static str)> {
        match right {
            Right::List if !self.list => Some(("listing uploads", "auth.public_list")),
            Right::Download if !self.download => Some(("downloading", "auth.public_download")),
            Right::Terminate if !self.terminate => Some(("deleting uploads", "auth.public_terminate")),
            _ => None,
        }
    }

    /// Returns the rights of clients.
    pub(super) fn rights(self) -> Rights {
        let rights =
            Rights::all().without(&[Right::ReadWebhooks, Right::ManageWebhooks, Right::ReadNodes, Right::DrainNodes]);
        Right::ALL
            .iter()
            .filter(|right| self.not(**right).is_some())
            .fold(rights, |rights, right| rights.without(&[*right]))
    }
}
