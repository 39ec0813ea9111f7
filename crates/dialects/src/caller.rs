//! The parts of a request that a hook passes to the application.

use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::http::header::HeaderName;

use crate::uploads::UploadContext;
use domain::hook::Caller;
use edge::clients::client_of;

/// Returns the request as the application sees it; `None` if no hooks are configured.
///
/// It leaves out the query, in which some clients put a token, and all header fields that are not listed.
pub(crate) fn caller(request: &HttpRequest, shared: &UploadContext) -> Option<Arc<Caller>> {
    let forwarded = shared.settings.forward_headers.as_ref()?;
    Some(Arc::new(Caller {
        method: request.method().as_str().to_owned(),
        path: request.path().to_owned(),
        remote: client_of(request).map(|address| address.to_string()),
        headers: forwarded.iter().filter_map(|name| Some((name.to_string(), field(request, name)?))).collect(),
    }))
}

/// Returns the value of a field. Several lines of a field are one value, separated by commas (RFC 9110, 5.3).
fn field(request: &HttpRequest, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> =
        request.headers().get_all(name).map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}
