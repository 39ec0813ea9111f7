//! Who asks, for which tenant, and what they may do.
//!
//! Every command and every query names a [`Principal`], and every access to stored facts a [`TenantScope`].
//! Neither has a default, so that nothing reaches across tenants because somebody forgot to say whose facts
//! are meant. Credentials are the edge's business: it judges them and makes a principal of each request.

use std::fmt;

use crate::id::UploadId;

/// A tenant, by the number under which its facts and bytes are kept. Its label may
/// change; the number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(u32);

impl TenantId {
    /// The only tenant of a server that knows none. No answer names it.
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

/// Whose facts an access may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantScope {
    One(TenantId),
    /// Every tenant's: for the server's own work, and for operators.
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
    /// What a route needs of whoever calls it.
    pub enum Right {
        /// Create an upload.
        Create = "uploads:create",
        /// Send bytes, and ask where to go on.
        Append = "uploads:append",
        /// Read the status of an upload.
        Read = "uploads:read",
        List = "uploads:list",
        /// Follow the events of uploads.
        Events = "uploads:events",
        Download = "uploads:download",
        /// End an unfinished upload, or remove a completed one.
        Terminate = "uploads:terminate",
        /// Report the stages of an upload that follow its completion.
        Report = "uploads:report",
        /// Make a token that opens one upload for reading.
        MintTokens = "tokens:mint",
        ReadWebhooks = "webhooks:read",
        ManageWebhooks = "webhooks:manage",
        ReadMetrics = "metrics:read",
    }
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u32);

impl Rights {
    pub const NONE: Self = Self(0);

    /// Every right there is.
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

/// What a request has shown to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Somebody without a credential, where none is needed.
    Anonymous,
    /// A holder of the token that clients and backends share.
    SharedToken,
    /// A holder of a token that opens one upload for reading.
    Reader(UploadId),
    /// A holder of a token for reports about one upload.
    Stage(UploadId),
    /// A holder of an admin key.
    Operator,
    /// The server itself.
    Server,
}

/// Who asks, for which tenant, and what they may do.
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

    /// The server itself, at work for the default tenant.
    pub fn server() -> Self {
        Self::new(TenantId::DEFAULT, Subject::Server, Rights::all())
    }

    /// What this principal may see.
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
