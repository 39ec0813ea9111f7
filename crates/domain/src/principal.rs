//! Principals: the tenant, the subject and the rights of a request.
//!
//! Every command and every query names a [`Principal`], and every access to stored facts a [`TenantScope`].
//! Neither has a default, so no access crosses tenants because a scope was omitted. Credentials belong to the
//! edge, which checks them and makes a principal for each request.

use std::fmt;

use crate::id::UploadId;

/// A tenant, by the number that its facts and bytes are stored under. Its label may change; the number is
/// never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(u32);

impl TenantId {
    /// The only tenant of a server without tenants. Responses never mention it.
    pub const DEFAULT: Self = Self(0);

    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantId({})", self.0)
    }
}

/// The tenants whose facts an access may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantScope {
    One(TenantId),
    /// All tenants: for the server's own work and for operators.
    All,
}

impl TenantScope {
    pub fn covers(self, tenant: TenantId) -> bool {
        match self {
            Self::One(own) => own == tenant,
            Self::All => true,
        }
    }
}

crate::named! {
    /// A right that a route requires of its caller.
    pub enum Right {
        /// Create an upload.
        Create = "uploads:create",
        /// Send bytes and query the offset.
        Append = "uploads:append",
        /// Read the status of an upload.
        Read = "uploads:read",
        List = "uploads:list",
        /// Subscribe to the events of uploads.
        Events = "uploads:events",
        Download = "uploads:download",
        /// Terminate an unfinished upload, or remove a completed one.
        Terminate = "uploads:terminate",
        /// Report processing stages of an upload after its completion.
        Report = "uploads:report",
        /// Issue a token that grants read access to one upload.
        MintTokens = "tokens:mint",
        ReadWebhooks = "webhooks:read",
        ManageWebhooks = "webhooks:manage",
        ReadMetrics = "metrics:read",
        ReadNodes = "nodes:read",
        DrainNodes = "nodes:drain",
    }
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u32);

impl Rights {
    pub const NONE: Self = Self(0);

    /// Returns the set of all rights.
    pub fn all() -> Self {
        Self::of(&Right::ALL)
    }

    pub fn of(rights: &[Right]) -> Self {
        Self(rights.iter().fold(0, |set, right| set | right.bit()))
    }

    #[must_use]
    pub fn without(self, rights: &[Right]) -> Self {
        Self(self.0 & !Self::of(rights).0)
    }

    pub fn include(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }
}

impl Right {
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let included = Right::ALL.iter().filter(|right| self.include(**right));
        f.debug_set().entries(included.map(|right| right.name())).finish()
    }
}

/// The kind of credential that a request has presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A caller without a credential, where none is required.
    Anonymous,
    /// A holder of the token that clients and backends share.
    SharedToken,
    /// A holder of a token that grants read access to one upload.
    Reader(UploadId),
    /// A holder of a token that permits reports about one upload.
    Stage(UploadId),
    /// A holder of an admin key.
    Operator,
    /// The server itself.
    Server,
}

/// The originator of a request: its tenant, subject and rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    pub tenant: TenantId,
    pub subject: Subject,
    pub rights: Rights,
}

impl Principal {
    pub const fn new(tenant: TenantId, subject: Subject, rights: Rights) -> Self {
        Self { tenant, subject, rights }
    }

    /// Returns the principal of the server itself, acting for the default tenant.
    pub fn server() -> Self {
        Self::new(TenantId::DEFAULT, Subject::Server, Rights::all())
    }

    /// Returns the scope of facts that this principal may access.
    pub const fn scope(&self) -> TenantScope {
        TenantScope::One(self.tenant)
    }

    pub fn may(&self, right: Right) -> bool {
        self.rights.include(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_rights_it_was_made_of_and_no_other() {
        for right in Right::ALL {
            let one = Rights::of(&[right]);
            let others = Rights::all().without(&[right]);
            for known in Right::ALL {
                assert_eq!(one.include(known), known == right, "{known:?} of {one:?}");
                assert_eq!(others.include(known), known != right, "{known:?} of {others:?}");
            }
            assert!(!Rights::NONE.include(right));
        }
    }

    #[test]
    fn a_scope_of_one_tenant_covers_no_other() {
        let (own, other) = (TenantId::DEFAULT, TenantId::from_number(1));
        let principal = Principal::new(own, Subject::Anonymous, Rights::NONE);
        assert!(principal.scope().covers(own) && !principal.scope().covers(other));
        assert!(TenantScope::All.covers(own) && TenantScope::All.covers(other));
    }
}
