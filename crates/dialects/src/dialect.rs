//! What a dialect hands to the front: one value with all that others have to know of it.

use std::fmt;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};
use futures::future::LocalBoxFuture;
use percent_encoding::percent_decode_str;

use crate::names;
use crate::uploads::UploadContext;
use domain::id::UploadId;
use edge::fields::Fields;

/// A protocol for uploads.
pub struct DialectHandler {
    /// How the uploads that are created in it are recorded.
    pub records: &'static [domain::dialect::Dialect],
    pub methods: &'static [&'static str],
    /// The media type in which PATCH brings bytes.
    pub patch_type: Option<&'static str>,
    /// Fields that its clients send, for preflights.
    pub request_fields: Vec<&'static str>,
    /// Fields of answers that its clients read.
    pub answer_fields: Vec<&'static str>,
    /// A field of each of its answers, but of those to OPTIONS.
    pub marker: Option<(HeaderName, HeaderValue)>,
    /// The status of its answer to HEAD when the server is busy, if its clients would take 503 for the end of
    /// an upload.
    pub busy_head: Option<StatusCode>,
    pub recognise: fn(&Head<'_>) -> Recognised,
    /// Finds the method that is followed, where it is not the one that was sent.
    pub effective_method: fn(&str, &dyn Fields) -> Option<&'static str>,
    /// Adds to the answer to OPTIONS what its clients look for.
    pub add_options: fn(&mut HeaderMap, &UploadContext),
    pub answer: AnswerFn,
    /// Takes bodies as whole files, if the dialect is for requests without any protocol.
    pub whole_file: Option<AnswerFn>,
    /// Addresses of its own, besides those that all dialects share.
    pub routes: &'static [(&'static str, AnswerFn)],
}

/// Answers a request. Thousands may wait for bytes at once, so the future of each kind of request is a box of
/// its own.
pub type AnswerFn = fn(DialectRequest, Arc<UploadContext>) -> LocalBoxFuture<'static, HttpResponse>;

/// A request in a dialect.
pub struct DialectRequest {
    pub request: HttpRequest,
    pub payload: Payload,
    pub target: RequestTarget,
    pub marked: Marked,
    /// Answers a creation that turns out to be the upload of a whole file.
    pub whole_file: AnswerFn,
}

/// Whether a request is marked as one of its dialect. One without a mark could be of any client of HTTP, and
/// is answered in the dialect that its upload was created in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    Yes,
    No,
}

/// What a request is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTarget {
    /// Where uploads are created.
    Collection,
    Upload(UploadId),
    /// A name below the collection that is not the id of an upload, as `curl -T` makes them.
    Name(String),
    /// An address of the dialect's own, with what stands in the place of its `{name}`.
    Own(String),
}

/// The head of a request, as far as it says which dialect it is in.
pub struct Head<'a> {
    pub method: &'a str,
    pub target: TargetKind,
    pub query: &'a str,
    pub fields: &'a dyn Fields,
    pub carries_body: bool,
}

/// What kind of thing a request is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    Collection,
    Upload,
    Name,
}

/// What a dialect makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recognised {
    pub certainty: Option<Certainty>,
    /// Whether the request has a mark that cannot stand beside those of other dialects.
    pub excludes_others: bool,
}

/// How surely a request is in a dialect, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// It is in no other.
    Otherwise,
    /// Nothing speaks against it.
    Possible,
    /// Its method and its content type are those of the dialect.
    Likely,
    /// It has marks of the dialect that may also be there for another reason.
    Hinted,
    Marked,
}

impl Head<'_> {
    /// Returns whether one of these fields is there.
    pub(crate) fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.fields.has(name))
    }

    /// Returns the media type of the body, in lower case and without parameters.
    pub fn media_type(&self) -> Option<String> {
        let value = self.fields.values("content-type").next().and_then(|value| std::str::from_utf8(value).ok())?;
        Some(domain::media_type::essence(value))
    }
}

impl RequestTarget {
    /// Reads what stands behind the collection in a path, undecoded. The HTTP layer decodes paths too, but as
    /// UTF-8 only.
    pub fn below_collection(segment: &str) -> Self {
        let name = names::text(percent_decode_str(segment).collect());
        name.parse().map_or(Self::Name(name), Self::Upload)
    }

    pub fn kind(&self) -> TargetKind {
        match self {
            Self::Collection | Self::Own(_) => TargetKind::Collection,
            Self::Upload(_) => TargetKind::Upload,
            Self::Name(_) => TargetKind::Name,
        }
    }
}

impl fmt::Debug for DialectHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialectHandler").field("records", &self.records).finish_non_exhaustive()
    }
}

impl fmt::Debug for DialectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialectRequest").field("target", &self.target).finish_non_exhaustive()
    }
}

impl fmt::Debug for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head").field("method", &self.method).field("target", &self.target).finish_non_exhaustive()
    }
}
