//! Cross-origin resource sharing: the methods and fields that pages may send, and the fields that they may
//! read.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::http::{Method, header};

use crate::access::Origins;

/// The request fields that belong to no upload protocol: those of authorization, conditional requests, range
/// requests and distributed tracing, and the position of a write.
const REQUEST_FIELDS: [&str; 18] = [
    "Authorization",
    "Content-Type",
    "Origin",
    "X-Requested-With",
    "X-Request-ID",
    "Range",
    "If-Range",
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "Last-Event-ID",
    "Longshore-Position",
    "Cache-Control",
    "traceparent",
    "tracestate",
    "baggage",
    "sentry-trace",
];

const ANSWER_FIELDS: [&str; 12] = [
    "Location",
    "Retry-After",
    "X-Request-ID",
    "Longshore-Position",
    "ETag",
    "Content-Disposition",
    "Content-Range",
    "Accept-Ranges",
    "Content-Length",
    "Last-Modified",
    "Allow",
    "WWW-Authenticate",
];

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The CORS fields of preflight and other responses, except the origins.
#[derive(Debug, Clone)]
pub struct Cors {
    allow_credentials: bool,
    max_age: Duration,
    allow_methods: HeaderValue,
    allow_headers: HeaderValue,
    expose_headers: HeaderValue,
}

/// The names that the upload protocols and the application add to the lists.
#[derive(Debug, Clone, Default)]
pub struct CorsLists {
    pub methods: Vec<&'static str>,
    pub request_fields: Vec<String>,
    pub answer_fields: Vec<&'static str>,
}

impl Cors {
    pub fn new(allow_credentials: bool, max_age: Duration, lists: &CorsLists) -> Self {
        let methods = METHODS.into_iter().filter(|method| *method == "OPTIONS" || lists.methods.contains(method));
        let request_fields = REQUEST_FIELDS.into_iter().chain(lists.request_fields.iter().map(String::as_str));
        let answer_fields = ANSWER_FIELDS.into_iter().chain(lists.answer_fields.iter().copied());
        Self {
            allow_credentials,
            max_age,
            allow_methods: joined(methods),
            allow_headers: joined(request_fields),
            expose_headers: joined(answer_fields),
        }
    }

    /// Adds the CORS fields to a response.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap, request: &HttpRequest, origins: &Origins) {
        // Also without an origin, so that no cache serves the response for one page to another.
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
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.allow_methods.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.allow_headers.clone());
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age.as_secs()));
        } else {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.expose_headers.clone());
        }
    }
}

/// Joins names into a list, each once.
fn joined<'a>(names: impl Iterator<Item = &'a str>) -> HeaderValue {
    let mut list: Vec<&str> = Vec::new();
    for name in names {
        if !list.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            list.push(name);
        }
    }
    HeaderValue::try_from(list.join(", ")).expect("names of fields and commas make a field")
}
