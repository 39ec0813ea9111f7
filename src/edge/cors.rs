//! Cross-origin resource sharing: which pages may use this server from a browser, what they may send, and what they may
//! read.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, header};

use crate::edge::access::Origins;

const ALLOW_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The fields of every dialect, of range and conditional requests, and of distributed tracing.
const ALLOW_HEADERS: &str = "Authorization, Content-Type, Content-Disposition, Content-Encoding, Content-Range, \
    Content-Digest, Repr-Digest, Want-Content-Digest, Want-Repr-Digest, Origin, X-Requested-With, X-Request-ID, \
    X-HTTP-Method-Override, Tus-Resumable, Upload-Length, Upload-Offset, Upload-Metadata, Upload-Defer-Length, \
    Upload-Concat, Upload-Checksum, Upload-Complete, Upload-Incomplete, Upload-Draft-Interop-Version, Incremental, \
    X-Upload-Content-Type, X-Upload-Content-Length, X-Goog-Resumable, X-Goog-Hash, X-GUploader-No-308, \
    Range, If-Range, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, Last-Event-ID, Cache-Control, \
    traceparent, tracestate, baggage, sentry-trace";

const EXPOSE_HEADERS: &str = "Location, Upload-Offset, Upload-Length, Upload-Metadata, Upload-Defer-Length, \
    Upload-Concat, Upload-Expires, Upload-Complete, Upload-Incomplete, Upload-Limit, Upload-Draft-Interop-Version, \
    Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, Range, Retry-After, \
    Accept-Patch, Content-Digest, Repr-Digest, X-Goog-Hash, X-Goog-Stored-Content-Length, X-GUploader-UploadID, \
    X-HTTP-Status-Code-Override, X-Request-ID, ETag, Content-Disposition, Content-Range, Accept-Ranges, \
    Content-Length, Last-Modified, Allow, WWW-Authenticate";

/// The answers to preflights and the headers on cross-origin responses, apart from the origins themselves.
#[derive(Debug, Clone)]
pub struct Cors {
    allow_credentials: bool,
    max_age: Duration,
    allow_headers: HeaderValue,
}

impl Cors {
    /// Allows pages to send `own_headers` in addition to the fields that uploads and downloads need.
    pub fn new(allow_credentials: bool, max_age: Duration, own_headers: &[HeaderName]) -> Self {
        let names = own_headers.iter().map(HeaderName::as_str);
        let list = std::iter::once(ALLOW_HEADERS).chain(names).collect::<Vec<_>>().join(", ");
        let allow_headers = HeaderValue::try_from(list).expect("names of fields and commas make a field");
        Self { allow_credentials, max_age, allow_headers }
    }

    /// Adds the CORS fields to a response.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap, request: &HttpRequest, origins: &Origins) {
        // Also without an origin: a cache must not give one page's answer to another.
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = request.headers().get(header::ORIGIN) else { return };
        let allowed = match origins {
            Origins::Any => HeaderValue::from_static("*"),
            _ if origin.to_str().is_ok_and(|origin| origins.allow(origin)) => origin.clone(),
            Origins::ThisMachine { .. } | Origins::Listed(_) => return,
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.allow_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let preflight = request.method() == Method::OPTIONS
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(ALLOW_METHODS));
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.allow_headers.clone());
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age.as_secs()));
        } else {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSE_HEADERS));
        }
    }
}
