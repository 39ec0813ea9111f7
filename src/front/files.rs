//! The uploads themselves: brings each request to the dialect it is said in.
//!
//! A request holds the room of its handler as long as bytes come, and thousands may. So the room of each dialect but the
//! smallest is a box of its own.

use actix_web::http::header::HeaderName;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;

use crate::dialects::dispatch::{Spoken, Target};
use crate::dialects::{dispatch, ietf, names, ranged, tus};
use crate::edge::Shared;
use crate::edge::body::HeaderFields;
use crate::edge::principal::principal;
use crate::edge::problem::Problem;
use domain::dialect::Dialect;
use domain::id::UploadId;

/// Requests to the creation URL.
pub(super) async fn collection(request: HttpRequest, payload: web::Payload, shared: web::Data<Shared>) -> HttpResponse {
    let answer = match spoken(&request, Target::Collection) {
        Spoken::Options => Ok(options(&shared)),
        Spoken::Ietf => {
            note(&request, Dialect::Ietf);
            Box::pin(ietf::create(&request, payload, &shared)).await
        }
        Spoken::Ranged => {
            note(&request, Dialect::Google);
            Box::pin(ranged::start(&request, payload, &shared)).await
        }
        Spoken::Plain => {
            note(&request, Dialect::Ranged);
            Box::pin(ranged::plain(&request, None, payload, &shared)).await
        }
        Spoken::Tus | Spoken::AsCreated => tus::collection(&request, payload, &shared).await,
        Spoken::Mixed => Err(mixed()),
        Spoken::UnknownPatch => Err(unknown_patch()),
    };
    answer.unwrap_or_else(|problem| problem.respond(&request))
}

/// Requests to the address where Google's libraries start sessions, below the endpoint they are given.
pub(super) async fn bucket(
    request: HttpRequest,
    bucket: web::Path<String>,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    let answer = match spoken(&request, Target::Collection) {
        Spoken::Options => Ok(options(&shared)),
        _ => ranged::start_in_bucket(&request, &bucket, payload, &shared).await,
    };
    answer.unwrap_or_else(|problem| problem.respond(&request))
}

/// Requests to the URL of one upload, or to a name a plain upload is to have.
pub(super) async fn resource(
    request: HttpRequest,
    name: web::Path<String>,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> HttpResponse {
    let answer = match name.parse::<UploadId>() {
        Ok(id) => upload(&request, id, payload, &shared).await,
        Err(_) => Box::pin(named(&request, &name_in(&request), payload, &shared)).await,
    };
    answer.unwrap_or_else(|problem| problem.respond(&request))
}

async fn upload(
    request: &HttpRequest,
    id: UploadId,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    let dialect = match spoken(request, Target::Upload) {
        Spoken::Options => return Ok(options(shared)),
        Spoken::Mixed => return Err(mixed()),
        Spoken::UnknownPatch => return Err(unknown_patch()),
        Spoken::Tus => Dialect::Tus,
        Spoken::Ietf => Dialect::Ietf,
        Spoken::Ranged | Spoken::Plain => Dialect::Ranged,
        // Of what is not there tus speaks.
        Spoken::AsCreated => {
            shared.engine.status(&principal(request), id).await.map_or(Dialect::Tus, |found| found.upload.dialect())
        }
    };
    note(request, dialect);
    match dialect {
        Dialect::Tus => tus::resource(request, id, payload, shared).await,
        Dialect::Ietf => Box::pin(ietf::resource(request, id, payload, shared)).await,
        Dialect::Google | Dialect::Ranged => Box::pin(ranged::resource(request, id, payload, shared)).await,
    }
}

/// Returns the name at the end of a path. The router decodes paths too, but as UTF-8 only.
fn name_in(request: &HttpRequest) -> String {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    names::text(percent_decode_str(name).collect())
}

async fn named(
    request: &HttpRequest,
    name: &str,
    payload: web::Payload,
    shared: &Shared,
) -> Result<HttpResponse, Problem> {
    match spoken(request, Target::Name) {
        Spoken::Options => Ok(options(shared)),
        Spoken::Plain => {
            note(request, Dialect::Ranged);
            ranged::plain(request, Some(name), payload, shared).await
        }
        Spoken::Mixed => Err(mixed()),
        Spoken::UnknownPatch => Err(unknown_patch()),
        Spoken::Ietf => {
            note(request, Dialect::Ietf);
            ietf::nothing_here(request, shared)
        }
        Spoken::Ranged => {
            note(request, Dialect::Ranged);
            Err(ranged::nothing_here())
        }
        Spoken::Tus | Spoken::AsCreated => tus::nothing_here(request),
    }
}

/// Remembers for the answer which dialect it is given in.
fn note(request: &HttpRequest, dialect: Dialect) {
    request.extensions_mut().insert(dialect);
}

fn spoken(request: &HttpRequest, target: Target) -> Spoken {
    let fields = HeaderFields(request.headers());
    dispatch::spoken(request.method().as_str(), target, request.query_string(), &fields)
}

/// What this server can do, for the clients of every dialect.
fn options(shared: &Shared) -> HttpResponse {
    let mut response = tus::options(shared);
    ietf::add_options(response.headers_mut(), shared);
    response
}

fn mixed() -> Problem {
    Problem::bad_request(
        "mixed-dialects",
        "the request carries the marks of two upload protocols (Tus-Resumable, Upload-Complete, Content-Range); send those of one",
    )
}

fn unknown_patch() -> Problem {
    let detail = format!("a PATCH has one of the content types {}", dispatch::ACCEPT_PATCH);
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong-content-type", detail)
        .with(HeaderName::from_static("accept-patch"), dispatch::ACCEPT_PATCH)
        .with(header::CACHE_CONTROL, "no-store")
}
