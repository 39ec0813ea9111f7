//! What the handlers of all dialects use: the engine, and the terms on which uploads are taken.

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

/// Where uploads are created; each has its address below.
pub const BASE_PATH: &str = "/files";

/// Where the status of each upload is, below.
const STATUS_PATH: &str = "/api/v1/uploads/";

/// What the handlers of all dialects use.
pub struct UploadContext {
    pub engine: Engine,
    pub addresses: Arc<Addresses>,
    pub settings: DialectSettings,
    /// Counts the bytes of downloads.
    pub metrics: EdgeMetrics,
}

/// The terms on which uploads are taken.
#[derive(Debug, Clone)]
pub struct DialectSettings {
    pub max_metadata_bytes: usize,
    /// How long a client may send nothing in the middle of a body.
    pub idle_timeout: Duration,
    /// Header fields of a client's request that the application may see when it is asked; `None` when it is
    /// not.
    pub forward_headers: Option<Vec<HeaderName>>,
    /// Whether clients may delete uploads.
    pub clients_may_terminate: bool,
    pub protocols: Protocols,
    /// Ranges begin and end at multiples of this, where they do not touch bytes that are there.
    pub range_alignment_bytes: u64,
}

/// Which ways of uploading are offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocols {
    /// Versions of the IETF draft, by their interop number, whose clients are sent interim responses.
    pub ietf_interop_versions: Vec<u32>,
    /// Whether a whole file may be sent as it is, without a protocol.
    pub plain_uploads: bool,
    /// The least size of ranges that clients are advised to send.
    pub range_size_bytes: u64,
}

impl DialectSettings {
    /// Returns the size of ranges that clients are advised to send, which the storage can take.
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

/// What stands before the id in the address of an upload's status.
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
