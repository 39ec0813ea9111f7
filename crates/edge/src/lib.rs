//! The edge: everything that surrounds the handler of a request.
//!
//! Owns connections from their acceptance to their end, bodies, the form of problems, header fields and
//! queries as text, addresses, credentials, and the route table that leads a request to its handler. Promises
//! that a request reaches a handler only after its access was checked, and that limits and timeouts bound
//! what a client can hold. It knows no header field or path of a dialect, no engine and no database: routes
//! and lists of fields are passed in.

use std::fmt;

use domain::position::CommitPosition;
use domain::time::Timestamp;
use futures::future::LocalBoxFuture;

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
pub use middleware::POSITION;
use refusals::Refusals;
pub use rejections::Rejections;
use table::RouteTable;

/// Returns the position of the latest commit, for the response to a write; `None` where every read shows
/// every write.
pub type PositionSource = Box<dyn Fn() -> LocalBoxFuture<'static, Option<CommitPosition>> + Send + Sync>;

/// Everything that the processing of a request needs around its handler.
pub struct Edge {
    pub table: RouteTable,
    pub access: Arc<Access>,
    pub addresses: Arc<Addresses>,
    pub cors: Cors,
    /// Concurrent connections of one address.
    pub connections: AddressLimit,
    /// Concurrent requests of one address that carry bytes of uploads.
    pub uploads: AddressLimit,
    pub refusals: Refusals,
    pub rejections: Rejections,
    pub metrics: EdgeMetrics,
    pub answers: AnswerMemory,
    pub bodies: BodyLimits,
    pub now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    pub position: PositionSource,
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("table", &self.table).finish_non_exhaustive()
    }
}
