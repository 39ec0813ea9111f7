//! Error responses in the form of RFC 9457, with one public sentence.
//!
//! Errors that a client can act on are described precisely. Internal errors are logged with their causes, and
//! the client receives a fixed sentence with the request's id. Temporary errors are 5xx with `Retry-After`,
//! not 4xx: clients stop retrying after a 4xx, and some forget the upload. A dialect whose clients require
//! another status replaces it by [`Problem::with_status`].

use std::borrow::Cow;
use std::time::Duration;

use actix_web::http::header::HeaderName;
use actix_web::http::{ConnectionType, StatusCode, header};
use actix_web::{HttpMessage, HttpRequest, HttpResponse};
use serde_json::Value;

use api::problem::{Problem as Body, own_kind};
use domain::failure::Failure;
use domain::upload::Upload;

/// An error response, which tells a person what to change.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// A stable identifier for programs, such as `wrong-offset`.
    code: Cow<'static, str>,
    /// The registered problem type with the same meaning, if there is one.
    kind: Option<&'static str>,
    /// A sentence for people.
    detail: String,
    /// Further members for programs.
    members: Vec<(&'static str, Value)>,
    headers: Vec<(HeaderName, String)>,
}

/// Selects a response with or without its body. The response to HEAD has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShowsBody {
    Yes,
    No,
}

/// The id of a request, in its response and in every log line about it.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub String);

/// The code of a problem, in the extensions of the response.
#[derive(Debug, Clone)]
pub(crate) struct ProblemCode(pub(crate) Cow<'static, str>);

impl Problem {
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { status, code: code.into(), kind: None, detail: detail.into(), members: Vec::new(), headers: Vec::new() }
    }

    /// Reports a rejection by a policy or the application, with its reason.
    pub fn rejected(failure: &Failure) -> Self {
        let chosen = failure.rejection.and_then(|refusal| StatusCode::from_u16(api::problem::status_of(refusal)).ok());
        let status = chosen.unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
        Self::new(status, failure.code.clone(), failure.message.clone())
    }

    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no resource at this URL")
    }

    pub fn method_not_allowed(allow: impl Into<String>) -> Self {
        let allow = allow.into();
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", format!("this URL supports only {allow}"))
            .with(header::ALLOW, allow)
    }

    /// Rejects the download of an upload that is not complete.
    pub fn not_complete(upload: &Upload) -> Self {
        let (received, length) = (upload.received_bytes(), upload.length());
        let detail = match (upload.is_partial(), length) {
            (true, _) => "a partial upload is a part of a final upload and cannot be downloaded".to_owned(),
            (false, Some(length)) => format!("the upload is not complete: {received} of {length} bytes are received"),
            (false, None) => {
                format!("the upload is not complete: {received} bytes are received, and its length is not known yet")
            }
        };
        Self::new(StatusCode::CONFLICT, "not-complete", detail)
    }

    /// Reports a temporary error.
    pub fn try_again(code: &'static str, detail: impl Into<String>, after: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).with(header::RETRY_AFTER, after.as_secs().to_string())
    }

    #[must_use]
    pub fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Uses a problem type that is registered for all servers (RFC 9457, 4.2).
    #[must_use]
    pub fn kind(mut self, uri: &'static str) -> Self {
        self.kind = Some(uri);
        self
    }

    #[must_use]
    pub fn member(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// Adds a member that is a list of small objects.
    #[must_use]
    pub fn list<const N: usize>(
        self,
        name: &'static str,
        entries: impl IntoIterator<Item = [(&'static str, String); N]>,
    ) -> Self {
        let object =
            |entry: [(&'static str, String); N]| entry.into_iter().map(|(key, value)| (key.to_owned(), value.into()));
        let objects = entries.into_iter().map(|entry| Value::Object(object(entry).collect()));
        self.member(name, objects.collect::<Vec<_>>())
    }

    pub fn respond(self, request: &HttpRequest) -> HttpResponse {
        let id = request_id(request);
        self.respond_as(&id)
    }

    /// Renders the response if there is no request that the application could see.
    pub(crate) fn respond_alone(self) -> HttpResponse {
        let id = new_request_id();
        let mut response = self
            .with(HeaderName::from_static("x-request-id"), id.as_str())
            .with(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .respond_as(&id);
        response.head_mut().set_connection_type(ConnectionType::Close);
        response
    }

    fn respond_as(self, id: &str) -> HttpResponse {
        let body = self.body(id);
        let mut response = HttpResponse::build(self.status);
        response.reason(reason(self.status));
        for (name, value) in self.headers {
            response.insert_header((name, value));
        }
        response.extensions_mut().insert(ProblemCode(self.code));
        response.insert_header((header::CACHE_CONTROL, "no-store")).content_type("application/problem+json").body(body)
    }

    /// Replaces the status where a client would misunderstand the original one.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Renders the whole response as HTTP/1.1, for a connection on which no request is served and that closes
    /// afterwards.
    pub(crate) fn to_http1(&self, shows_body: ShowsBody) -> Vec<u8> {
        let id = new_request_id();
        let body = self.body(&id);
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status.as_u16(), reason(self.status));
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\nx-request-id: {id}\r\n", body.len()));
        head.push_str("content-type: application/problem+json\r\nx-content-type-options: nosniff\r\n");
        head.push_str("cache-control: no-store\r\nconnection: close\r\n\r\n");
        match shows_body {
            ShowsBody::Yes => [head, body].concat().into_bytes(),
            ShowsBody::No => head.into_bytes(),
        }
    }

    fn body(&self, request_id: &str) -> String {
        let body = Body {
            kind: self.kind.map_or_else(|| own_kind(&self.code).into(), Cow::from),
            title: reason(self.status).into(),
            status: self.status.as_u16(),
            detail: self.detail.as_str().into(),
            request_id: request_id.into(),
            members: self.members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        serde_json::to_string(&body).expect("a struct of strings, numbers and JSON is JSON")
    }
}

pub fn request_id(request: &HttpRequest) -> String {
    request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default()
}

/// Returns an id for a request that brought none.
pub(crate) fn new_request_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Returns the reason phrase of a status, including statuses for which HTTP defines none.
fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        460 => "Checksum Mismatch",
        507 => "Insufficient Storage",
        _ => status.canonical_reason().unwrap_or("Error"),
    }
}
