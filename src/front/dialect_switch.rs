//! Routes each upload request to the dialect that it uses.

use std::sync::Arc;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpMessage, HttpResponse};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};

use dialects::choice::{DialectChoice, choose};
use dialects::dialect::{AnswerFn, Certainty, DialectHandler, DialectRequest, Head, Marked, RequestTarget, TargetKind};
use dialects::uploads::{BASE_PATH, UploadContext};
use domain::principal::Right;
use edge::access::Needs;
use edge::body::{HeaderFields, carries_body};
use edge::principal::principal;
use edge::problem::Problem;
use edge::table::{ANY, EffectiveMethod, Handler, MarkerField, Route, RoutedRequest, UploadAddress};

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// The dialects and their shared context.
pub(super) struct DialectSwitch {
    dialects: Arc<Vec<DialectHandler>>,
    /// Index of the default dialect, which answers if the request and the upload determine no other.
    in_doubt: usize,
    uploads: Arc<UploadContext>,
    /// Handles bodies that are whole files.
    whole_file: AnswerFn,
    /// All media types that PATCH accepts.
    accept_patch: HeaderValue,
}

impl DialectSwitch {
    pub(super) fn new(dialects: Arc<Vec<DialectHandler>>, uploads: Arc<UploadContext>) -> Self {
        let accept_patch = HeaderValue::try_from(dialects::patch_types()).expect("media types and commas make a field");
        let whole_file = dialects.iter().find_map(|dialect| dialect.whole_file).unwrap_or(no_whole_files);
        let unmarked =
            Head { method: "", target: TargetKind::Name, query: "", fields: &Vec::new(), carries_body: false };
        let has_doubt =
            |dialect: &DialectHandler| (dialect.recognise)(&unmarked).certainty == Some(Certainty::Otherwise);
        let in_doubt = dialects.iter().position(has_doubt).unwrap_or_default();
        Self { in_doubt, uploads, whole_file, accept_patch, dialects }
    }

    /// Returns the facts that the edge needs about an address that all dialects share.
    pub(super) fn address(&self, path: &str) -> UploadAddress {
        let dialect = &self.dialects[self.in_doubt];
        // At the address for creating uploads there is no upload that a client could abandon.
        let busy_head = dialect.busy_head.filter(|_| path != BASE_PATH);
        UploadAddress { marker: dialect.marker.clone(), busy_head }
    }

    /// Returns the routes for addresses that belong to one dialect.
    pub(super) fn own_routes(self: &Arc<Self>) -> Vec<Route> {
        let mut rows = Vec::new();
        for dialect in self.dialects.iter() {
            for (path, answer) in dialect.routes {
                let (switch, answer) = (Arc::clone(self), *answer);
                let row = own_route(path, Box::new(move |call| switch.answer_at_own(call, answer)));
                rows.push(row.for_uploads(UploadAddress { marker: dialect.marker.clone(), busy_head: None }));
            }
        }
        rows
    }

    /// Answers a request to an address that all dialects share.
    pub(super) fn answer(self: &Arc<Self>, call: RoutedRequest) -> LocalBoxFuture<'static, HttpResponse> {
        let request = &call.request;
        let target = target(request.uri().path());
        let head = Head {
            method: request.method().as_str(),
            target: target.kind(),
            query: request.query_string(),
            fields: &HeaderFields(request.headers()),
            carries_body: carries_body(request.headers()),
        };
        let answer = match choose(&self.dialects, &head) {
            DialectChoice::Dialect(place) => return self.answer_in(place, call, target, Marked::Yes),
            DialectChoice::AsCreated => return self.answer_as_created(call, target),
            DialectChoice::Options => self.options(),
            DialectChoice::Mixed => mixed().respond(request),
            DialectChoice::UnknownPatch => self.unknown_patch().respond(request),
        };
        ready(answer).boxed_local()
    }

    /// Answers in the dialect that created the upload. An unknown upload is answered in the default dialect.
    fn answer_as_created(
        self: &Arc<Self>,
        call: RoutedRequest,
        target: RequestTarget,
    ) -> LocalBoxFuture<'static, HttpResponse> {
        let switch = Arc::clone(self);
        Box::pin(async move {
            let created = match target {
                RequestTarget::Upload(id) => switch.uploads.engine.status(&principal(&call.request), id).await.ok(),
                RequestTarget::Collection | RequestTarget::Name(_) | RequestTarget::Own(_) => None,
            };
            let created = created.map(|status| status.upload.dialect());
            let has_created =
                |dialect: &DialectHandler| created.is_some_and(|created| dialect.records.contains(&created));
            let place = switch.dialects.iter().position(has_created).unwrap_or(switch.in_doubt);
            switch.answer_in(place, call, target, Marked::No).await
        })
    }

    fn answer_in(
        &self,
        place: usize,
        call: RoutedRequest,
        target: RequestTarget,
        marked: Marked,
    ) -> LocalBoxFuture<'static, HttpResponse> {
        let dialect = &self.dialects[place];
        let RoutedRequest { request, payload, .. } = call;
        if place != self.in_doubt {
            request.extensions_mut().insert(MarkerField(dialect.marker.clone()));
        }
        let dialect_request = DialectRequest { request, payload, target, marked, whole_file: self.whole_file };
        (dialect.answer)(dialect_request, Arc::clone(&self.uploads))
    }

    fn answer_at_own(&self, call: RoutedRequest, answer: AnswerFn) -> LocalBoxFuture<'static, HttpResponse> {
        if call.request.method() == Method::OPTIONS {
            return ready(self.options()).boxed_local();
        }
        let target = RequestTarget::Own(call.parameter(0));
        let RoutedRequest { request, payload, .. } = call;
        let dialect_request =
            DialectRequest { request, payload, target, marked: Marked::Yes, whole_file: self.whole_file };
        answer(dialect_request, Arc::clone(&self.uploads))
    }

    /// Returns the capabilities of this server, for the clients of every dialect.
    fn options(&self) -> HttpResponse {
        let mut response = HttpResponse::NoContent().finish();
        response.headers_mut().insert(ACCEPT_PATCH, self.accept_patch.clone());
        for dialect in self.dialects.iter() {
            (dialect.add_options)(response.headers_mut(), &self.uploads);
        }
        response
    }

    fn unknown_patch(&self) -> Problem {
        let types = self.accept_patch.to_str().unwrap_or_default();
        let detail = format!("a PATCH must have one of the content types {types}");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-type", detail)
            .with(ACCEPT_PATCH, types)
            .with(header::CACHE_CONTROL, "no-store")
    }
}

/// Returns the route for an address that belongs to one dialect, where uploads are created.
pub(super) fn own_route(path: &'static str, handler: Handler) -> Route {
    Route::new(ANY, path, Needs::Client(Right::Create), handler)
}

/// Returns a function that finds the effective method where a dialect overrides the one that was sent.
pub(super) fn effective_method(dialects: Arc<Vec<DialectHandler>>) -> EffectiveMethod {
    Box::new(move |method, headers| {
        let fields = HeaderFields(headers);
        dialects.iter().find_map(|dialect| (dialect.effective_method)(method, &fields))
    })
}

/// Returns the target of a path among the addresses that all dialects share.
fn target(path: &str) -> RequestTarget {
    match path.strip_prefix(BASE_PATH).and_then(|rest| rest.strip_prefix('/')) {
        Some(name) => RequestTarget::below_collection(name),
        None => RequestTarget::Collection,
    }
}

fn mixed() -> Problem {
    Problem::bad_request(
        "mixed-dialects",
        "the request has header fields of two upload protocols (Tus-Resumable, Upload-Complete, Content-Range); send \
         those of one protocol",
    )
}

/// Replaces the handler for whole files if no dialect has one.
fn no_whole_files(dialect_request: DialectRequest, _: Arc<UploadContext>) -> LocalBoxFuture<'static, HttpResponse> {
    ready(Problem::not_found().respond(&dialect_request.request)).boxed_local()
}
