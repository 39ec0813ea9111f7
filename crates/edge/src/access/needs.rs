//! What rows of the route table need, and what clients have of it.

use domain::id::UploadId;
use domain::principal::{Right, Rights};

/// What takes no admin key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRights {
    pub list: bool,
    pub download: bool,
    pub terminate: bool,
}

/// What a row of the route table needs of whoever calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// A right that clients have, unless the configuration closes it to them.
    Client(Right),
    /// A right on the upload that the path names. Tokens for that upload may give it.
    Upload(Right),
    /// A right as operators have it.
    Operator(Right),
}

/// What a request wants, by the row it is for.
#[derive(Debug, Clone, Copy)]
pub struct RequestedAccess<'a> {
    pub needs: Needs,
    /// The method that is followed.
    pub method: &'a str,
    /// Whether a token that opens one upload for reading is known at this address, with any method.
    pub follows: bool,
    /// The upload that the path names, where tokens for it are known.
    pub upload: Option<UploadId>,
}

impl Needs {
    /// The right that is needed, whoever has it.
    pub fn right(self) -> Option<Right> {
        match self {
            Self::Nothing => None,
            Self::Client(right) | Self::Upload(right) | Self::Operator(right) => Some(right),
        }
    }

    /// Whether a token that opens one upload for reading can help.
    pub(crate) fn follows(self) -> bool {
        matches!(self, Self::Upload(Right::Read | Right::Events))
    }
}

impl ClientRights {
    /// What takes an admin key here, if this right does: in words, and
    /// the key of the configuration that says so.
    pub(super) fn not(self, right: Right) -> Option<(&'static str, &'static str)> {
        match right {
            Right::List if !self.list => Some(("listing uploads", "auth.public_list")),
            Right::Download if !self.download => Some(("downloading", "auth.public_download")),
            Right::Terminate if !self.terminate => Some(("deleting uploads", "auth.public_terminate")),
            _ => None,
        }
    }

    /// The rights of whoever is a client here.
    pub(super) fn rights(self) -> Rights {
        let rights = Rights::all().without(&[Right::ReadWebhooks, Right::ManageWebhooks]);
        Right::ALL
            .iter()
            .filter(|right| self.not(**right).is_some())
            .fold(rights, |rights, right| rights.without(&[*right]))
    }
}
