//! Issues tokens with which a page can follow one upload.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header;
use serde_json::json;

use crate::front::{UploadApi, problems};
use domain::time::Timestamp;
use edge::principal::principal;
use edge::problem::Problem;
use edge::table::RoutedRequest;

/// `POST /api/v1/uploads/{id}/read-token`. A request body is ignored.
pub(super) async fn make(call: RoutedRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    let request = &call.request;
    let id = problems::parse_id(&call.parameter(0))?;
    shared.engine.status(&principal(request), id).await.map_err(|error| problems::problem(error, request))?;
    // The expiry of a token is a whole second.
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
