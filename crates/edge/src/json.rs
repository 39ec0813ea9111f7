//! JSON in requests and responses.

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderValue};
use actix_web::http::{StatusCode, header};

use crate::body;
use crate::body::BodySize;
use crate::problem::Problem;
use domain::media_type;

/// Rejects a body whose `Content-Type` is not JSON: pages of other origins can send forms and text without a
/// preflight. A request without `Content-Type` is accepted, because many programs send none.
pub fn is_not(request: &HttpRequest) -> Option<Problem> {
    let named = request.headers().get(header::CONTENT_TYPE)?;
    if body::announced_size(request) == BodySize::Known(0) {
        return None;
    }
    (media_type::essence(named.to_str().unwrap_or_default()) != "application/json").then(|| {
        let detail = "the body of this request must be JSON; send Content-Type: application/json";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", detail)
    })
}

/// Adds the charset to the type of a JSON response. Downloads, which have a `Content-Disposition`, keep the
/// type of the uploaded file.
pub(crate) fn name_charset(headers: &mut HeaderMap) {
    let is_json = headers.get(header::CONTENT_TYPE).is_some_and(|named| named == "application/json");
    if is_json && !headers.contains_key(header::CONTENT_DISPOSITION) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
}
