//! The principal of a request, as determined before the handler is called.

use actix_web::{HttpMessage, HttpRequest};

use domain::principal::Principal;

/// Returns the principal of a request.
///
/// # Panics
///
/// Panics if the request did not pass through the edge, which checks access before each handler.
pub fn principal(request: &HttpRequest) -> Principal {
    *request.extensions().get::<Principal>().expect("the edge judges every request before its handler is called")
}
