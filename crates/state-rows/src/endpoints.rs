//! Endpoints.

use domain::endpoint::{DisabledBecause, Endpoint, EndpointId, EndpointState, EndpointTerms, Health, Origin};
use domain::principal::TenantId;
use domain::time::Timestamp;

use crate::fields::TypeName;
use crate::table::table;
use crate::uploads::Incoherent;

table! {
    /// An endpoint as it is written: present, and with the version that the write creates.
    pub struct EndpointRow in "endpoints", key (id), of (endpoint: &Endpoint) {
        id: EndpointId = endpoint.id;
        tenant: TenantId = endpoint.tenant;
        origin: Origin = endpoint.origin;
        /// False for an endpoint that was removed from the configuration.
        present: bool = true;
        terms: EndpointTerms = endpoint.terms;
        sealed: Vec<u8> = endpoint.sealed;
        state: String = TypeName(endpoint.state.name());
        state_since_ms: Option<Timestamp> = since(endpoint.state);
        disabled_because: Option<DisabledBecause> = because(endpoint.state);
        consecutive_failures: u32 = endpoint.health.consecutive_failures;
        failing_since_ms: Option<Timestamp> = endpoint.health.failing_since;
        exhausted: u32 = endpoint.health.exhausted;
        open_until_ms: Option<Timestamp> = endpoint.health.open_until;
        warned_percent: u8 = endpoint.health.warned_percent;
        version: u64 = endpoint.version + 1;
        created_at_ms: Timestamp = endpoint.created_at;
        updated_at_ms: Timestamp = endpoint.updated_at;
    }
}

fn since(state: EndpointState) -> Option<Timestamp> {
    match state {
        EndpointState::Enabled => None,
        EndpointState::Paused { since } | EndpointState::Disabled { since, .. } => Some(since),
    }
}

fn because(state: EndpointState) -> Option<DisabledBecause> {
    match state {
        EndpointState::Disabled { because, .. } => Some(because),
        EndpointState::Enabled | EndpointState::Paused { .. } => None,
    }
}

impl TryFrom<EndpointRow> for Endpoint {
    type Error = Incoherent;

    fn try_from(row: EndpointRow) -> Result<Self, Incoherent> {
        let state = match (row.state.as_str(), row.state_since_ms, row.disabled_because) {
            ("enabled", None, None) => EndpointState::Enabled,
            ("paused", Some(since), None) => EndpointState::Paused { since },
            ("disabled", Some(since), Some(because)) => EndpointState::Disabled { since, because },
            _ => return Err(Incoherent("state")),
        };
        Ok(Self {
            id: row.id,
            tenant: row.tenant,
            origin: row.origin,
            terms: row.terms,
            sealed: row.sealed,
            state,
            health: Health {
                consecutive_failures: row.consecutive_failures,
                failing_since: row.failing_since_ms,
                exhausted: row.exhausted,
                open_until: row.open_until_ms,
                warned_percent: row.warned_percent,
            },
            version: row.version,
            created_at: row.created_at_ms,
            updated_at: row.updated_at_ms,
        })
    }
}
