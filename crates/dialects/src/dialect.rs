//! The interface between a dialect and the front: one value with everything that other modules need to know
//! of it.

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

/// An upload protocol.
pub struct DialectHandler {
    /// The names under which uploads created in this dialect are recorded.
    pub records: &'static [domain::dialect::Dialect],
    pub methods: &'static [&'static str],
    /// The media type of a PATCH that carries bytes.
    pub patch_type: Option<&'static str>,
    /// The request fields of its clients, for preflights.
    pub request_fields: Vec<&'static str>,
    /// The response fields that its clients read.
    pub answer_fields: Vec<&'static str>,
    /// A field of each of its responses, except those to OPTIONS.
    pub marker: Option<(HeaderName, HeaderValue)>,
    /// The status of its response to HEAD when the server is busy, if its clients take 503 as the end of an
    /// upload.
    pub busy_head: Option<StatusCode>,
    pub recognise: fn(&Head<'_>) -> Recognised,
    /// Returns the effective method, if it is not the one that was sent.
    pub effective_method: fn(&str, &dyn Fields) -> Option<&'static str>,
    /// Adds the fields that its clients look for to the response to OPTIONS.
    pub add_options: fn(&mut HeaderMap, &UploadContext),
    pub answer: AnswerFn,
    /// Stores a body as a whole file, if the dialect serves requests without a protocol.
    pub whole_file: Option<AnswerFn>,
    /// Addresses of this dialect only, in addition to those that all dialects share.
    pub routes: &'static [(&'static str, AnswerFn)],
}

/// Answers a request. Thousands of requests may wait for bytes concurrently, so the future of each kind of
/// request is boxed separately and takes only the memory that its kind needs.
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

/// The presence of a dialect's mark in a request. A request without a mark may come from any HTTP client, and
/// is answered in the dialect that its upload was created in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked {
    Yes,
    No,
}

/// The target of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestTarget {
    /// The URL at which uploads are created.
    Collection,
    Upload(UploadId),
    /// A name below the collection that is not the id of an upload, as `curl -T` sends it.
    Name(String),
    /// An address of this dialect only, with the value of its `{name}`.
    Own(String),
}

/// The parts of a request's head that determine its dialect.
pub struct Head<'a> {
    pub method: &'a str,
    pub target: TargetKind,
    pub query: &'a str,
    pub fields: &'a dyn Fields,
    pub carries_body: bool,
}

/// The kind of a request's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    Collection,
    Upload,
    Name,
}

/// The answer of a dialect to whether a request belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recognised {
    pub certainty: Option<Certainty>,
    /// True if the request has a mark that must not occur together with marks of other dialects.
    pub excludes_others: bool,
}

/// The certainty that a request belongs to a dialect, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Certainty {
    /// Only if no other dialect claims the request.
    Otherwise,
    /// Nothing contradicts it.
    Possible,
    /// The method and the content type are those of the dialect.
    Likely,
    /// The request has marks of the dialect that can also have another reason.
    Hinted,
    Marked,
}

impl Head<'_> {
    /// Returns whether any of these fields is present.
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
    /// Parses the undecoded path segment below the collection. The HTTP layer decodes paths, too, but only as
    /// UTF-8.
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
