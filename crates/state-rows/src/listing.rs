//! The plan of a list of uploads: which index is walked, and how far.

use domain::principal::{TenantId, TenantScope};
use domain::query::{NumberBounds, UploadQuery};

/// The number of uploads above which a condition counts as common; exact numbers beyond it are not
/// determined.
pub const COMMON: u32 = 1_000;

/// The maximum number of types that are walked. The server recognizes fewer.
pub const MOST_TYPES: usize = 128;

/// The maximum number of uploads that one query examines, including those that do not match.
pub const MAX_SCANNED: u32 = 5_000;

/// The index to walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadRoute {
    All,
    Stages,
    Types,
    /// The metadata pair at this position of the query.
    Pair(usize),
}

impl UploadRoute {
    /// Returns the indexes that a query may walk, besides that of all uploads. If there are several, that of
    /// the rarest condition is the shortest walk.
    pub fn candidates(query: &UploadQuery) -> Vec<Self> {
        let mut routes: Vec<_> = (0..query.metadata.len()).map(Self::Pair).collect();
        if !query.stages.is_empty() {
            routes.push(Self::Stages);
        }
        if !query.types.is_empty() {
            routes.push(Self::Types);
        }
        routes
    }

    /// Reports whether the walk may pass uploads that do not match or belong to other tenants.
    pub fn is_walk(self, scope: TenantScope, query: &UploadQuery) -> bool {
        let (has_stages, has_types) = (!query.stages.is_empty(), !query.types.is_empty());
        let has_others = match self {
            Self::Pair(_) => query.metadata.len() > 1 || has_stages || has_types,
            Self::Stages => !query.metadata.is_empty() || has_types,
            Self::Types => !query.metadata.is_empty() || has_stages,
            Self::All => !query.metadata.is_empty(),
        };
        let bounds = [query.width, query.height, query.duration_ms];
        let is_bounded = bounds.into_iter().any(|bounds| bounds != NumberBounds::OPEN);
        let is_dated = query.created_from.is_some() || query.created_before.is_some();
        passes_tenants(scope) || has_others || is_bounded || is_dated
    }
}

/// Returns the number of uploads to examine for each requested type. The types are walked in parallel, and in
/// total they examine no more uploads than a single type would.
pub fn share_of_type(query: &UploadQuery) -> u32 {
    MAX_SCANNED.div_ceil(u32::try_from(query.types.len()).unwrap_or(MAX_SCANNED).max(1))
}

/// Reports whether a walk in a scope may pass many rows of other tenants. As long as no other tenants can be
/// created, the default tenant owns all rows, and finding the end of its walks would be wasted work.
pub fn passes_tenants(scope: TenantScope) -> bool {
    !matches!(scope, TenantScope::All | TenantScope::One(TenantId::DEFAULT))
}
