//! The context of all dialects' handlers: the engine, and the settings under which uploads are accepted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderName;

use domain::id::UploadId;
use edge::EdgeMetrics;
use edge::addresses::Addresses;
use edge::fields::BadField;
use engine::Engine;

/// The path at which uploads are created; each upload has its address below it.
pub const BASE_PATH: &str = "/files";

/// The path below which each upload has its status.
const STATUS_PATH: &str = "/api/v1/uploads/";

/// The context of all dialects' handlers.
pub struct UploadContext {
    pub engine: Engine,
    pub addresses: Arc<Addresses>,
    pub settings: DialectSettings,
    /// Counts the bytes of downloads.
    pub metrics: EdgeMetrics,
}

/// The settings under which uploads are accepted.
#[derive(Debug, Clone)]
pub struct DialectSettings {
    pub max_metadata_bytes: usize,
    /// The longest time for which a client may send nothing in the middle of a body.
    pub idle_timeout: Duration,
    /// The request header fields that hooks pass to the application; `None` if no hooks are configured.
    pub forward_headers: Option<Vec<HeaderName>>,
    /// True if clients may delete uploads.
    pub clients_may_terminate: bool,
    pub protocols: Protocols,
    /// Ranges begin and end at multiples of this, except where they touch bytes that are already there.
    pub range_alignment_bytes: u64,
}

/// The upload protocols that are enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocols {
    /// The interop numbers of the versions of the IETF draft whose clients receive interim responses.
    pub ietf_interop_versions: Vec<u32>,
    /// True if a whole file may be sent without a protocol.
    pub plain_uploads: bool,
    /// The minimum size of ranges that clients are advised to send.
    pub range_size_bytes: u64,
}

impl DialectSettings {
    /// Returns the size of ranges that clients are advised to send, as a multiple of the alignment of the
    /// storage.
    pub fn range_size_bytes(&self) -> u64 {
        self.protocols.range_size_bytes.next_multiple_of(self.range_alignment_bytes)
    }
}

impl UploadContext {
    /// Returns the address of an upload for links: below `public_url`, or a path.
    pub fn upload_url(&self, id: UploadId) -> String {
        self.addresses.link(&upload_path(id))
    }

    /// Returns the address of the status of an upload.
    pub fn status_url(&self, id: UploadId) -> String {
        format!("{}{id}", status_root(&self.addresses.public_url))
    }

    /// Returns the address of an upload for `Location`.
    pub(crate) fn location(&self, request: &HttpRequest, id: UploadId) -> String {
        self.addresses.location(request, &upload_path(id))
    }

    /// Returns the prefix that makes [`Self::upload_url`] absolute.
    pub(crate) fn absolute_origin(&self, request: &HttpRequest) -> Result<String, BadField> {
        self.addresses.absolute_origin(request)
    }
}

/// Returns the part before the id in the address of an upload's status.
pub fn status_root(public_url: &str) -> String {
    format!("{public_url}{STATUS_PATH}")
}

pub(crate) fn upload_path(id: UploadId) -> String {
    format!("{BASE_PATH}/{id}")
}

impl fmt::Debug for UploadContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadContext").field("settings", &self.settings).finish_non_exhaustive()
    }
}
