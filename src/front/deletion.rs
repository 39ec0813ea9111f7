//! Deletion by an operator: one way for uploads of every protocol and every stage. Who may was judged before.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use crate::edge::Shared;
use crate::edge::principal::principal;
use crate::edge::problem::Problem;
use crate::front::status;

const ALLOW: &str = "GET, HEAD, DELETE, OPTIONS";

/// `/api/v1/uploads/{id}`: its status, and its deletion.
pub(super) async fn resource(request: HttpRequest, id: web::Path<String>, shared: web::Data<Shared>) -> HttpResponse {
    match request.method().as_str() {
        "GET" | "HEAD" => status::one(request, id, shared).await,
        "DELETE" => delete(&request, &id, &shared).await.unwrap_or_else(|problem| problem.respond(&request)),
        "OPTIONS" => HttpResponse::NoContent().insert_header((header::ALLOW, ALLOW)).finish(),
        _ => Problem::method_not_allowed(ALLOW).respond(&request),
    }
}

/// 204 says that the upload has no bytes any more, or that they are on their way out; also when it had ended before.
async fn delete(request: &HttpRequest, id: &str, shared: &Shared) -> Result<HttpResponse, Problem> {
    let id = status::parse_id(id)?;
    shared.engine.delete(&principal(request), id).await.map_err(|error| status::problem(error, request))?;
    Ok(HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "no-store")).finish())
}
