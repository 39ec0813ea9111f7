//! The edge: what is around every request, whoever answers it.
//!
//! Owns connections from their acceptance to their end, bodies, the form of problems, header fields and
//! queries as text, addresses, credentials, and the route table that leads a request to its handler. Promises
//! that no handler sees a request that was not judged, and that no client holds anything for nothing. It
//! knows no dialect's header or path, no engine and no database: rows and lists of fields are given to it.

use std::fmt;

use domain::time::Timestamp;

pub mod access;
pub mod address_limits;
pub mod addresses;
pub mod answers;
pub mod body;
mod body_rate;
pub mod clients;
pub mod conditions;
mod cors;
pub mod fields;
pub mod json;
pub mod listen;
mod lock;
mod metrics;
mod middleware;
mod path;
pub mod principal;
pub mod problem;
pub mod query;
pub mod refusals;
mod rejections;
pub mod stream_slots;
pub mod table;

use std::sync::Arc;

use access::Access;
use address_limits::AddressLimit;
use addresses::Addresses;
use answers::AnswerMemory;
use body::BodyLimits;
pub use cors::{Cors, CorsLists};
pub use metrics::EdgeMetrics;
use refusals::Refusals;
pub use rejections::Rejections;
use table::RouteTable;

/// What goes around every request.
pub struct Edge {
    pub table: RouteTable,
    pub access: Arc<Access>,
    pub addresses: Arc<Addresses>,
    pub cors: Cors,
    /// Connections of one address at once.
    pub connections: AddressLimit,
    /// Requests of one address at once that bring bytes of uploads.
    pub uploads: AddressLimit,
    pub refusals: Refusals,
    pub rejections: Rejections,
    pub metrics: EdgeMetrics,
    pub answers: AnswerMemory,
    pub bodies: BodyLimits,
    pub now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("table", &self.table).finish_non_exhaustive()
    }
}
