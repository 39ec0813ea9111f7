//! Deletion by an operator: one request for uploads of every protocol and in every stage.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header;

use crate::front::{UploadApi, problems};
use edge::principal::principal;
use edge::problem::Problem;
use edge::table::RoutedRequest;

/// `DELETE /api/v1/uploads/{id}`. 204 means that the upload's bytes are deleted or are being deleted, also if
/// it had ended before.
pub(super) async fn delete(call: RoutedRequest, shared: Arc<UploadApi>) -> Result<HttpResponse, Problem> {
    let id = problems::parse_id(&call.parameter(0))?;
    shared
        .engine
        .delete(&principal(&call.request), id)
        .await
        .map_err(|error| problems::problem(error, &call.request))?;
    Ok(HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "no-store")).finish())
}
