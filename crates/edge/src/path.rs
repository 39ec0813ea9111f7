//! Normalizes request paths before access is checked and the route is found.

use actix_web::dev::ServiceRequest;
use actix_web::http::Uri;

/// Merges repeated slashes in the path of a request and removes a trailing one. Clients that join URLs
/// carelessly send both, and no two routes differ only in them.
pub(crate) fn normalize(request: &mut ServiceRequest) {
    let Some(path) = normalized(request.path()) else { return };
    let target = match request.query_string() {
        "" => path,
        query => format!("{path}?{query}"),
    };
    let mut parts = request.head().uri.clone().into_parts();
    parts.path_and_query = target.try_into().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
}

/// Returns the normalized path; `None` if it is already normal, which is nearly always the case.
fn normalized(path: &str) -> Option<String> {
    let ends_with_slash = path.len() > 1 && path.ends_with('/');
    if !ends_with_slash && !path.contains("//") {
        return None;
    }
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let normalized: String = segments.flat_map(|segment| ["/", segment]).collect();
    Some(if normalized.is_empty() { "/".to_owned() } else { normalized })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_too_many_are_dropped_and_nothing_else_changes() {
        for (path, expected) in [
            ("/", None),
            ("*", None),
            ("/files", None),
            ("/files/a%2F%2Fb", None),
            ("/files/", Some("/files")),
            ("/files/a/", Some("/files/a")),
            ("//files/a", Some("/files/a")),
            ("/files//a", Some("/files/a")),
            ("///files///a///", Some("/files/a")),
            ("/files/../a/", Some("/files/../a")),
            ("//", Some("/")),
        ] {
            assert_eq!(normalized(path).as_deref(), expected, "{path}");
        }
    }
}
