//! Who a request comes from, as the edge has judged it before its handler was called.

use actix_web::{HttpMessage, HttpRequest};

use domain::principal::Principal;

/// Returns the principal of a request.
///
/// # Panics
///
/// If the request did not come through the edge: no handler runs without a judgement.
pub fn principal(request: &HttpRequest) -> Principal {
    *request.extensions().get::<Principal>().expect("the edge judges every request before its handler is called")
}
