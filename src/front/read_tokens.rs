//! Where backends get tokens with which a page follows one upload.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use crate::edge::Shared;
use crate::edge::principal::principal;
use crate::edge::problem::Problem;
use crate::front::status;
use domain::time::Timestamp;

const ALLOW: &str = "POST, OPTIONS";

/// `POST /api/v1/uploads/{id}/read-token`. Who may was judged before; a body is not looked at.
pub(super) async fn make(request: HttpRequest, id: web::Path<String>, shared: web::Data<Shared>) -> HttpResponse {
    match request.method().as_str() {
        "POST" => answer(&request, &id, &shared).await.unwrap_or_else(|problem| problem.respond(&request)),
        "OPTIONS" => HttpResponse::NoContent().insert_header((header::ALLOW, ALLOW)).finish(),
        _ => Problem::method_not_allowed(ALLOW).respond(&request),
    }
}

async fn answer(request: &HttpRequest, id: &str, shared: &Shared) -> Result<HttpResponse, Problem> {
    let id = status::parse_id(id)?;
    shared.engine.status(&principal(request), id).await.map_err(|error| status::problem(error, request))?;
    // A token names a whole second.
    let ends_ms = shared.engine.now().plus(shared.access.read_token_lifetime).unix_ms();
    let expires_at = Timestamp::from_unix_ms(ends_ms / 1_000 * 1_000);
    let status_url = shared.status_url(id);
    Ok(HttpResponse::Created().insert_header((header::CACHE_CONTROL, "no-store")).json(json!({
        "token": shared.access.read_tokens.token(id, expires_at),
        "expires_at": expires_at.to_string(),
        "status_url": status_url,
        "events_url": format!("{status_url}/events"),
    })))
}
