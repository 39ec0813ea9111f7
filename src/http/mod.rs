//! The shared edge: how connections come in, the route table, what goes around every request, status, events,
//! downloads, health.
//!
//! It knows requests and responses and the engine; neither databases nor files.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::HeaderName;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, web};
use prometheus_client::registry::Registry;

use domain::id::UploadId;
use engine::Engine;
use webhook::{Admin, Beat};

pub mod access;
pub(crate) mod answers;
mod attachment;
pub mod body;
pub(crate) mod caller;
pub mod clients;
mod conditions;
mod cors;
mod deletion;
pub mod download;
mod edge;
pub mod error;
pub mod events;
mod exposition;
mod files;
pub mod health;
mod hook_calls;
mod json;
pub mod listen;
mod location;
mod metrics;
pub(crate) mod pace;
mod path;
pub(crate) mod query;
mod read_tokens;
mod reading;
pub mod refusals;
mod rejections;
mod route;
mod schemas;
pub mod shares;
mod stages;
pub mod status;
mod webhooks;

use access::Access;
pub use answers::Answers;
pub use cors::Cors;
use error::Problem;
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
    pub registry: Arc<Registry>,
    pub readiness: health::Readiness,
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
    fn most_event_bytes(&self) -> usize {
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

/// The route table.
pub fn routes(app: &mut web::ServiceConfig) {
    app.service(web::scope("").wrap(from_fn(edge::edge)).configure(resources));
}

/// The same for those who only read.
pub fn reading_routes(app: &mut web::ServiceConfig) {
    app.service(web::scope("").wrap(from_fn(reading::only)).wrap(from_fn(edge::edge)).configure(resources));
}

fn resources(scope: &mut web::ServiceConfig) {
    scope
        .service(web::resource(["/files", "/files/"]).route(web::route().to(files::collection)))
        .service(web::resource("/files/{id}").route(web::route().to(files::resource)))
        .service(web::resource("/upload/storage/v1/b/{bucket}/o").route(web::route().to(files::bucket)))
        .service(web::resource("/api/v1/uploads").route(web::route().to(status::list)))
        .service(web::resource("/api/v1/uploads/{id}").route(web::route().to(deletion::resource)))
        .service(web::resource("/api/v1/uploads/{id}/events").route(web::route().to(events::of_one)))
        .service(web::resource("/api/v1/uploads/{id}/stages").route(web::route().to(stages::report)))
        .service(web::resource("/api/v1/uploads/{id}/read-token").route(web::route().to(read_tokens::make)))
        .service(web::resource("/api/v1/events").route(web::route().to(events::of_all)))
        .service(web::resource("/api/v1/webhooks/schemas").route(web::route().to(schemas::list)))
        .service(web::resource("/api/v1/webhooks/schemas/{type}").route(web::route().to(schemas::one)))
        .service(web::resource("/api/v1/webhooks/hooks").route(web::route().to(hook_calls::list)))
        .configure(webhooks::resources)
        .service(web::resource("/healthz").route(web::route().to(health::alive)))
        .service(web::resource("/readyz").route(web::route().to(health::ready)))
        .service(web::resource("/metrics").route(web::route().to(exposition::metrics)))
        .default_service(web::route().to(nothing_here));
}

async fn nothing_here(request: HttpRequest) -> HttpResponse {
    match request.method().as_str() {
        "OPTIONS" => HttpResponse::NoContent().finish(),
        _ => Problem::not_found().respond(&request),
    }
}

/// The answer to a method other than GET and HEAD, where only those make sense.
fn unless_reading(request: &HttpRequest) -> Option<HttpResponse> {
    match request.method().as_str() {
        "GET" | "HEAD" => None,
        "OPTIONS" => Some(HttpResponse::NoContent().insert_header(("allow", "GET, HEAD, OPTIONS")).finish()),
        _ => Some(Problem::method_not_allowed("GET, HEAD, OPTIONS").respond(request)),
    }
}
