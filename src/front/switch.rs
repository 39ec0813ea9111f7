//! The uploads themselves: brings each request to the dialect it is said in.

use std::sync::Arc;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpMessage, HttpResponse};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};

use dialects::choice::{Choice, choose};
use dialects::dialect::{Answer, Asked, Claim, Dialect, Head, Kind, Marked, Target};
use dialects::uploads::{BASE_PATH, Uploads};
use domain::principal::Right;
use edge::access::Needs;
use edge::body::{HeaderFields, carries_body};
use edge::principal::principal;
use edge::problem::Problem;
use edge::table::{ANY, EffectiveMethod, Handler, MarkerField, Route, RoutedRequest, UploadAddress};

const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// The dialects, and what they work with.
pub(super) struct Switch {
    dialects: Arc<Vec<Dialect>>,
    /// The place of the one that answers in case of doubt.
    in_doubt: usize,
    uploads: Arc<Uploads>,
    /// Takes bodies as whole files.
    whole_file: Answer,
    /// Every media type that PATCH takes.
    accept_patch: HeaderValue,
}

impl Switch {
    pub(super) fn new(dialects: Arc<Vec<Dialect>>, uploads: Arc<Uploads>) -> Self {
        let accept_patch = HeaderValue::try_from(dialects::patch_types()).expect("media types and commas make a field");
        let whole_file = dialects.iter().find_map(|dialect| dialect.whole_file).unwrap_or(no_whole_files);
        let unmarked = Head { method: "", target: Kind::Name, query: "", fields: &Vec::new(), carries_body: false };
        let has_doubt = |dialect: &Dialect| (dialect.recognise)(&unmarked).claim == Some(Claim::Otherwise);
        let in_doubt = dialects.iter().position(has_doubt).unwrap_or_default();
        Self { in_doubt, uploads, whole_file, accept_patch, dialects }
    }

    /// What the edge has to know of an address that all dialects share.
    pub(super) fn address(&self, path: &str) -> UploadAddress {
        let dialect = &self.dialects[self.in_doubt];
        // Where uploads are created, there is none that a client could give up.
        let busy_head = dialect.busy_head.filter(|_| path != BASE_PATH);
        UploadAddress { marker: dialect.marker.clone(), busy_head }
    }

    /// The rows of addresses that belong to one dialect.
    pub(super) fn own_rows(self: &Arc<Self>) -> Vec<Route> {
        let mut rows = Vec::new();
        for dialect in self.dialects.iter() {
            for (path, answer) in dialect.routes {
                let (switch, answer) = (Arc::clone(self), *answer);
                let row = own_row(path, Box::new(move |call| switch.answer_at_own(call, answer)));
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
            Choice::Dialect(place) => return self.answer_in(place, call, target, Marked::Yes),
            Choice::AsCreated => return self.answer_as_created(call, target),
            Choice::Options => self.options(),
            Choice::Mixed => mixed().respond(request),
            Choice::UnknownPatch => self.unknown_patch().respond(request),
        };
        ready(answer).boxed_local()
    }

    /// An unknown upload is answered in the dialect that answers in case of doubt.
    fn answer_as_created(
        self: &Arc<Self>,
        call: RoutedRequest,
        target: Target,
    ) -> LocalBoxFuture<'static, HttpResponse> {
        let switch = Arc::clone(self);
        Box::pin(async move {
            let created = match target {
                Target::Upload(id) => switch.uploads.engine.status(&principal(&call.request), id).await.ok(),
                Target::Collection | Target::Name(_) | Target::Own(_) => None,
            };
            let created = created.map(|status| status.upload.dialect());
            let has_created = |dialect: &Dialect| created.is_some_and(|created| dialect.records.contains(&created));
            let place = switch.dialects.iter().position(has_created).unwrap_or(switch.in_doubt);
            switch.answer_in(place, call, target, Marked::No).await
        })
    }

    fn answer_in(
        &self,
        place: usize,
        call: RoutedRequest,
        target: Target,
        marked: Marked,
    ) -> LocalBoxFuture<'static, HttpResponse> {
        let dialect = &self.dialects[place];
        let RoutedRequest { request, payload, .. } = call;
        if place != self.in_doubt {
            request.extensions_mut().insert(MarkerField(dialect.marker.clone()));
        }
        let asked = Asked { request, payload, target, marked, whole_file: self.whole_file };
        (dialect.answer)(asked, Arc::clone(&self.uploads))
    }

    fn answer_at_own(&self, call: RoutedRequest, answer: Answer) -> LocalBoxFuture<'static, HttpResponse> {
        if call.request.method() == Method::OPTIONS {
            return ready(self.options()).boxed_local();
        }
        let target = Target::Own(call.parameter(0));
        let RoutedRequest { request, payload, .. } = call;
        let asked = Asked { request, payload, target, marked: Marked::Yes, whole_file: self.whole_file };
        answer(asked, Arc::clone(&self.uploads))
    }

    /// What this server can do, for the clients of every dialect.
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
        let detail = format!("a PATCH has one of the content types {types}");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-type", detail)
            .with(ACCEPT_PATCH, types)
            .with(header::CACHE_CONTROL, "no-store")
    }
}

/// The row of an address that belongs to one dialect: uploads are created there.
pub(super) fn own_row(path: &'static str, handler: Handler) -> Route {
    Route::new(ANY, path, Needs::Client(Right::Create), handler)
}

/// Finds the method that is followed, where a dialect follows another than was sent.
pub(super) fn effective_method(dialects: Arc<Vec<Dialect>>) -> EffectiveMethod {
    Box::new(move |method, headers| {
        let fields = HeaderFields(headers);
        dialects.iter().find_map(|dialect| (dialect.effective_method)(method, &fields))
    })
}

/// What a path of the addresses that all dialects share leads to.
fn target(path: &str) -> Target {
    match path.strip_prefix(BASE_PATH).and_then(|rest| rest.strip_prefix('/')) {
        Some(name) => Target::below_collection(name),
        None => Target::Collection,
    }
}

fn mixed() -> Problem {
    Problem::bad_request(
        "mixed-dialects",
        "the request carries the marks of two upload protocols (Tus-Resumable, Upload-Complete, Content-Range); send those of one",
    )
}

/// Answers in place of a dialect for whole files, where there is none.
fn no_whole_files(asked: Asked, _: Arc<Uploads>) -> LocalBoxFuture<'static, HttpResponse> {
    ready(Problem::not_found().respond(&asked.request)).boxed_local()
}
