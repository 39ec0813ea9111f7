//! The shared edge: how connections come in, the route table, what goes around every request, status, events,
//! downloads, health.
//!
//! It knows requests and responses and the engine; neither databases nor files.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderName;
use prometheus_client::registry::Registry;

use domain::id::UploadId;
use engine::Engine;
use keyring::EventCursors;
use webhook::{Admin, Beat};

pub mod access;
pub mod addresses;
pub(crate) mod answers;
pub(crate) mod around;
pub mod body;
pub mod clients;
pub(crate) mod conditions;
pub(crate) mod cors;
pub mod fields;
pub(crate) mod json;
pub mod listen;
pub(crate) mod metrics;
pub(crate) mod pace;
pub(crate) mod path;
pub(crate) mod principal;
pub mod problem;
pub(crate) mod query;
pub mod refusals;
pub(crate) mod rejections;
pub(crate) mod route;
pub mod shares;

use access::Access;
pub use answers::Answers;
pub use cors::Cors;

pub use metrics::Metrics;
pub use rejections::Rejections;

/// What every request handler may use.
pub struct Shared {
    pub engine: Engine,
    /// Put before the path of an upload in `Location` and links; empty where none is set.
    pub public_url: String,
    /// What clients that connect directly speak: `http` or `https`.
    pub scheme: &'static str,
    pub access: Access,
    pub cors: Cors,
    pub webhooks: Admin,
    /// Whether webhooks are being sent.
    pub beat: Beat,
    pub max_metadata_bytes: usize,
    pub protocols: Protocols,
    /// Header fields of a client's request that the application may see when it is asked; `None` when it is not.
    pub forward_headers: Option<Vec<HeaderName>>,
    pub idle_timeout: Duration,
    /// The fewest bytes a second of a body, on average over `idle_timeout`, from clients on other machines.
    pub min_rate_bytes: u64,
    pub proxies: clients::Proxies,
    pub shares: Shares,
    pub refusals: refusals::Refusals,
    pub rejections: Rejections,
    pub metrics: Metrics,
    pub drain_timeout: Duration,
    pub long_poll_max: Duration,
    pub heartbeat: Duration,
    pub max_streams: usize,
    pub max_page: u32,
    pub answers: Answers,
    /// Seals the ids of events.
    pub event_cursors: EventCursors,
    pub registry: Arc<Registry>,
    pub readiness: crate::front::health::Readiness,
}

/// What the clients of one address may hold at once.
#[derive(Debug, Clone)]
pub struct Shares {
    pub connections: shares::Share,
    /// Event streams and long polls together.
    pub streams: shares::Share,
    pub uploads: shares::Share,
}

/// Which ways of uploading are offered, and their terms.
#[derive(Debug, Clone)]
pub struct Protocols {
    pub ietf_interop_versions: Vec<u32>,
    pub plain_uploads: bool,
    pub range_alignment_bytes: u64,
    pub range_size_bytes: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("public_url", &self.public_url).finish_non_exhaustive()
    }
}

impl Shared {
    /// What an event is told with at the most: its metadata twice, as texts and encoded, and what is always there.
    pub(crate) fn most_event_bytes(&self) -> usize {
        self.max_metadata_bytes.saturating_mul(2).saturating_add(2 << 10)
    }

    /// Where the status of an upload is.
    pub fn status_url(&self, id: UploadId) -> String {
        format!("{}{id}", status_root(&self.public_url))
    }
}

/// What stands before the id in the address of an upload's status.
pub fn status_root(public_url: &str) -> String {
    format!("{public_url}/api/v1/uploads/")
}
