//! The route table: which requests are served, which right each needs, and which handler answers it.
//!
//! Owns the lookup of a row by path and method. A row holds both the right that a request needs and its
//! handler, so no request is served without an access check. The rows are passed in; this module knows none
//! of them.

use std::fmt;
use std::sync::Arc;

use actix_web::dev::{Payload, ServiceRequest};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse};
use domain::principal::Right;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};
use percent_encoding::percent_decode_str;

use crate::access::{Needs, RequestedAccess};
use crate::problem::Problem;

/// Answers the requests of a row.
pub type Handler = Box<dyn Fn(RoutedRequest) -> LocalBoxFuture<'static, HttpResponse> + Send + Sync>;

/// Returns the effective method, if it is not the one that was sent.
pub type EffectiveMethod = Box<dyn Fn(&str, &HeaderMap) -> Option<&'static str> + Send + Sync>;

/// Matches every method: the handler distinguishes them.
pub const ANY: &str = "*";

/// The methods that a row can be for, in the order in which `Allow` lists them.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// The label of requests whose path is not in the table.
const OTHER: &str = "other";

/// A row: requests with this method to this path need this right and are answered by this handler.
pub struct Route {
    /// A method, or [`ANY`]. A row for GET also serves HEAD, unless HEAD has its own row.
    method: &'static str,
    /// `{name}` matches one segment, and `{..}` at the end matches one or more.
    path: &'static str,
    needs: Needs,
    handler: Handler,
    label: &'static str,
    uploads: Option<UploadAddress>,
    is_empty: bool,
}

/// The facts about an address for uploads that the edge needs.
#[derive(Debug, Clone, Default)]
pub struct UploadAddress {
    /// A field of every response at this address, unless a handler has set another [`MarkerField`].
    pub marker: Option<(HeaderName, HeaderValue)>,
    /// The status of the response to HEAD when the server is busy, for clients that take 503 as the end of an
    /// upload.
    pub busy_head: Option<StatusCode>,
}

/// The marker field of the response, in the extensions of the request. It replaces that of the address.
#[derive(Debug, Clone)]
pub struct MarkerField(pub Option<(HeaderName, HeaderValue)>);

/// A request on its way to its handler.
pub struct RoutedRequest {
    pub request: HttpRequest,
    pub payload: Payload,
    address: Arc<RoutePath>,
}

/// The rows of one path.
pub(crate) struct RoutePath {
    segments: Vec<Segment>,
    rows: Vec<Route>,
    label: RouteLabel,
    allow: String,
}

/// The name of an address in metrics and logs: one of a few, whatever is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteLabel {
    pub(crate) index: usize,
    pub(crate) name: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Fixed(&'static str),
    Any,
    /// One or more segments.
    Rest,
}

/// The needs of a path that is not in the table: a right that every client has, so that strangers learn
/// nothing.
const NOWHERE: Needs = Needs::Client(Right::Read);

/// All rows.
pub struct RouteTable {
    addresses: Vec<Arc<RoutePath>>,
    nowhere: Arc<RoutePath>,
    labels: Vec<&'static str>,
    effective_method: EffectiveMethod,
}

impl Route {
    pub fn new(method: &'static str, path: &'static str, needs: Needs, handler: Handler) -> Self {
        Self { method, path, needs, handler, label: path, uploads: None, is_empty: false }
    }

    /// Sets the label, so that several paths can share one in metrics and logs.
    #[must_use]
    pub fn labelled(self, label: &'static str) -> Self {
        Self { label, ..self }
    }

    /// Marks an address to which uploads are sent.
    #[must_use]
    pub fn for_uploads(self, address: UploadAddress) -> Self {
        Self { uploads: Some(address), ..self }
    }

    /// Marks an address without a resource: its row exists only for what it needs.
    #[must_use]
    pub fn for_nothing(self) -> Self {
        Self { is_empty: true, ..self }
    }
}

impl RouteTable {
    /// Builds the table. If two paths match a request, the first one is used.
    pub fn new(rows: impl IntoIterator<Item = Route>, effective_method: EffectiveMethod) -> Self {
        let mut labels = vec![OTHER];
        let mut addresses: Vec<(&'static str, RoutePath)> = Vec::new();
        for row in rows {
            let known = addresses.iter_mut().find(|(path, _)| *path == row.path);
            if let Some((_, address)) = known {
                address.rows.push(row);
                continue;
            }
            let index = labels.iter().position(|label| *label == row.label).unwrap_or_else(|| {
                labels.push(row.label);
                labels.len() - 1
            });
            let label = RouteLabel { index, name: row.label };
            addresses.push((row.path, RoutePath { label, ..RoutePath::of(segments(row.path), vec![row]) }));
        }
        let addresses = addresses.into_iter().map(|(_, address)| Arc::new(address.with_methods())).collect();
        Self { addresses, nowhere: Arc::new(RoutePath::of(Vec::new(), Vec::new())), labels, effective_method }
    }

    /// Returns the address of a decoded path; one without rows if the table has none.
    pub(crate) fn find(&self, path: &str) -> &Arc<RoutePath> {
        self.addresses.iter().find(|address| address.fits(path)).unwrap_or(&self.nowhere)
    }

    /// Returns the labels of the addresses; the position of a label is the `index` of its `RouteLabel`.
    pub fn labels(&self) -> &[&'static str] {
        &self.labels
    }

    /// Returns the methods and paths of the table.
    pub fn paths(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.addresses.iter().flat_map(|address| address.rows.iter().map(|row| (row.method, row.path)))
    }

    /// Returns the access that a request needs.
    pub fn requested_access<'a>(&self, request: &'a ServiceRequest) -> RequestedAccess<'a> {
        self.requested_access_at(self.find(request.match_info().as_str()), request)
    }

    pub(crate) fn requested_access_at<'a>(
        &self,
        address: &RoutePath,
        request: &'a ServiceRequest,
    ) -> RequestedAccess<'a> {
        let sent = request.method().as_str();
        let method = (self.effective_method)(sent, request.headers()).unwrap_or(sent);
        let needs = address.needs(sent, method);
        let follows = address.rows.iter().any(|row| row.needs.follows());
        let names_one = follows || matches!(needs, Needs::Upload(_));
        let named = || address.parameter(request.match_info().as_str(), 0).and_then(|id| id.parse().ok());
        RequestedAccess { needs, method, follows, upload: if names_one { named() } else { None } }
    }

    /// Returns the label of a path in metrics and logs.
    pub fn label_of(&self, path: &str) -> &'static str {
        self.find(path).label.name
    }
}

impl RoutePath {
    fn of(segments: Vec<Segment>, rows: Vec<Route>) -> Self {
        Self { segments, rows, label: RouteLabel { index: 0, name: OTHER }, allow: String::new() }
    }

    fn with_methods(self) -> Self {
        let has = |method: &str| self.rows.iter().any(|row| row.method == method);
        let methods = METHODS.into_iter().filter(|method| has(method) || *method == "HEAD" && has("GET"));
        Self { allow: methods.chain(["OPTIONS"]).collect::<Vec<_>>().join(", "), ..self }
    }

    fn fits(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut given = path.split('/');
        for segment in &self.segments {
            let fits = match (segment, given.next()) {
                (_, None) => false,
                (Segment::Rest, Some(_)) => return true,
                (Segment::Fixed(name), Some(given)) => *name == given,
                (Segment::Any, Some(given)) => !given.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        given.next().is_none()
    }

    fn row(&self, method: &str) -> Option<&Route> {
        let of = |requested_access: &str| self.rows.iter().find(|row| row.method == requested_access);
        of(method).or_else(|| if method == "HEAD" { of("GET") } else { None }).or_else(|| of(ANY))
    }

    /// Returns the needs of the row that answers a request. The handler of an [`ANY`] row distinguishes the
    /// effective method, so for such a row the needs are those of the effective method's row. An unsupported
    /// method needs what the first row needs, so that nobody without that right learns about the address.
    pub(crate) fn needs(&self, sent: &str, followed: &str) -> Needs {
        let answering = self.row(sent).filter(|row| row.method != ANY);
        answering.or_else(|| self.row(followed)).or(self.rows.first()).map_or(NOWHERE, |row| row.needs)
    }

    pub(crate) fn label(&self) -> RouteLabel {
        self.label
    }

    pub(crate) fn uploads(&self) -> Option<&UploadAddress> {
        self.rows.first().and_then(|row| row.uploads.as_ref())
    }

    /// Returns the path as defined in the table, without anything that a client has chosen.
    pub(crate) fn pattern(&self) -> &'static str {
        self.rows.first().map_or(OTHER, |row| row.path)
    }

    /// Returns the segment that the `number`th `{name}` matches, as the router has it: `%25`, `%2B` and `%2F`
    /// are not decoded.
    pub(crate) fn parameter<'a>(&self, path: &'a str, number: usize) -> Option<&'a str> {
        let pairs = self.segments.iter().zip(path.split('/').skip(1));
        pairs.filter(|(segment, _)| **segment == Segment::Any).map(|(_, given)| given).nth(number)
    }

    /// Returns the problem for a method on a listener that serves only reads.
    pub(crate) fn unless_it_reads(&self, method: &str) -> Option<Problem> {
        let is_empty = self.rows.iter().all(|row| row.is_empty);
        let is_read = is_empty || self.rows.iter().any(|row| row.method == "GET");
        if method == "OPTIONS" || is_read && matches!(method, "GET" | "HEAD") {
            return None;
        }
        let allowed = if is_read { "GET, HEAD, OPTIONS" } else { "OPTIONS" };
        let detail = format!(
            "this listener serves only reads and supports {allowed} at this path; send uploads and changes to the \
             main listener (listen)"
        );
        Some(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "read-only", detail).with(header::ALLOW, allowed))
    }
}

impl RoutedRequest {
    pub(crate) fn new(request: HttpRequest, payload: Payload, address: &Arc<RoutePath>) -> Self {
        Self { request, payload, address: Arc::clone(address) }
    }

    /// Returns the decoded text that the `number`th `{name}` matches, counted from 0.
    pub fn parameter(&self, number: usize) -> String {
        let given = self.address.parameter(self.request.match_info().as_str(), number).unwrap_or_default();
        percent_decode_str(given).decode_utf8_lossy().into_owned()
    }

    /// Answers the request with its row, or with the methods that the address supports.
    pub(crate) fn answer(self) -> LocalBoxFuture<'static, HttpResponse> {
        let address = Arc::clone(&self.address);
        if let Some(row) = address.row(self.request.method().as_str()) {
            return (row.handler)(self);
        }
        let answer = match (self.request.method().as_str(), address.rows.is_empty()) {
            ("OPTIONS", true) => HttpResponse::NoContent().finish(),
            ("OPTIONS", false) => HttpResponse::NoContent().insert_header((header::ALLOW, &*address.allow)).finish(),
            (_, true) => Problem::not_found().respond(&self.request),
            (_, false) => Problem::method_not_allowed(address.allow.clone()).respond(&self.request),
        };
        ready(answer).boxed_local()
    }
}

/// Splits a path of the table into its segments.
fn segments(path: &'static str) -> Vec<Segment> {
    let segment = |text| match text {
        "{..}" => Segment::Rest,
        name if name.starts_with('{') => Segment::Any,
        name => Segment::Fixed(name),
    };
    path.split('/').skip(1).map(segment).collect()
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.paths()).finish()
    }
}

impl fmt::Debug for RoutedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoutedRequest").field("request", &self.request).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn row(method: &'static str, path: &'static str, right: Right) -> Route {
        let name = path.to_owned();
        let answer = move |_| ready(HttpResponse::Ok().body(name.clone())).boxed_local();
        Route::new(method, path, Needs::Client(right), Box::new(answer))
    }

    fn table() -> RouteTable {
        let rows = [
            row("GET", "/things", Right::List),
            row("POST", "/things", Right::Create),
            row("GET", "/things/{id}", Right::Read),
            row("DELETE", "/things/{id}", Right::Terminate),
            row(ANY, "/things/{id}/{part}", Right::Append),
            row(ANY, "/things/{..}", Right::Report).labelled("/things/{id}").for_nothing(),
        ];
        RouteTable::new(rows, Box::new(|_, _| None))
    }

    #[test]
    fn the_first_path_that_fits_counts_and_a_method_has_its_own_right() {
        for (method, path, right, label) in [
            ("GET", "/things", Right::List, "/things"),
            ("HEAD", "/things", Right::List, "/things"),
            ("POST", "/things", Right::Create, "/things"),
            ("BREW", "/things", Right::List, "/things"),
            ("GET", "/things/a", Right::Read, "/things/{id}"),
            ("DELETE", "/things/a", Right::Terminate, "/things/{id}"),
            ("DELETE", "/things/a/b", Right::Append, "/things/{id}/{part}"),
            ("GET", "/things/a/b/c", Right::Report, "/things/{id}"),
            ("GET", "/things/", Right::Report, "/things/{id}"),
            ("GET", "/thing", Right::Read, OTHER),
            ("GET", "/", Right::Read, OTHER),
            ("GET", "", Right::Read, OTHER),
            ("OPTIONS", "*", Right::Read, OTHER),
        ] {
            let address = Arc::clone(table().find(path));
            assert_eq!(
                (address.needs(method, method), address.label.name),
                (Needs::Client(right), label),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn what_no_row_takes_is_told_which_methods_there_are() {
        let table = table();
        let answer = |method: &str, path: &str| {
            let request = TestRequest::with_uri(path).method(method.parse().unwrap()).to_http_request();
            let call = RoutedRequest::new(request, Payload::None, table.find(path));
            let answer = call.answer().now_or_never().unwrap();
            let allow = answer.headers().get("allow").map(|allow| allow.to_str().unwrap().to_owned());
            (answer.status().as_u16(), allow.unwrap_or_default())
        };
        for (method, path, status, allow) in [
            ("GET", "/things", 200, ""),
            ("HEAD", "/things/a", 200, ""),
            ("OPTIONS", "/things/a", 204, "GET, HEAD, DELETE, OPTIONS"),
            ("POST", "/things/a", 405, "GET, HEAD, DELETE, OPTIONS"),
            ("PUT", "/things", 405, "GET, HEAD, POST, OPTIONS"),
            ("BREW", "/things/a/b", 200, ""),
            ("GET", "/elsewhere", 404, ""),
            ("OPTIONS", "/elsewhere", 204, ""),
        ] {
            assert_eq!(answer(method, path), (status, allow.to_owned()), "{method} {path}");
        }
    }

    #[test]
    fn where_only_reading_is_served_the_rows_for_get_are_left() {
        let table = table();
        for (method, path, passes) in [
            ("GET", "/things", true),
            ("HEAD", "/things/a", true),
            ("OPTIONS", "/things/a/b", true),
            ("POST", "/things", false),
            ("DELETE", "/things/a", false),
            ("GET", "/things/a/b", false),
            ("GET", "/things/a/b/c", true),
            ("PUT", "/things/a/b/c", false),
            ("GET", "/elsewhere", true),
            ("PUT", "/elsewhere", false),
        ] {
            assert_eq!(table.find(path).unless_it_reads(method).is_none(), passes, "{method} {path}");
        }
    }

    #[test]
    fn parameters_are_what_stands_in_their_places() {
        let request = TestRequest::with_uri("/things/a%20b/c%2Fd").to_http_request();
        let table = table();
        let path = request.match_info().as_str().to_owned();
        let call = RoutedRequest::new(request, Payload::None, table.find(&path));
        assert_eq!((call.parameter(0).as_str(), call.parameter(1).as_str()), ("a b", "c/d"));
    }
}
