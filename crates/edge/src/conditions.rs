//! Conditions on entity tags (RFC 9110, 13.1): lists that can span several lines.

use actix_web::http::header::{HeaderMap, HeaderName};

/// Returns the value of a list field, with all its lines joined (RFC 9110, 5.3).
pub fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).filter_map(|line| line.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// Returns whether a list of `If-None-Match` contains a tag. The comparison is weak (RFC 9110, 8.8.3.2),
/// because proxies that compress make tags weak.
pub fn names(list: &str, tag: &str) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let tag = opaque(tag);
    list.split(',').map(str::trim).any(|item| item == "*" || opaque(item) == tag)
}

/// Returns whether a list of `If-Match` contains a tag. The comparison is strong.
pub fn names_strongly(list: &str, tag: &str) -> bool {
    list.split(',').map(str::trim).any(|item| item == "*" || item == tag)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header;
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn tags_match_weakly_and_in_lists() {
        assert!(names("\"a\", \"b\"", "\"b\"") && names("W/\"b\"", "\"b\"") && names("*", "\"b\""));
        assert!(names("\"3-0\"", "W/\"3-0\""), "a tag of ours that has lost its weakness on the way");
        assert!(!names("\"a\"", "\"b\"") && !names("", "\"b\""));
        assert!(names_strongly("\"a\", \"b\"", "\"b\"") && !names_strongly("W/\"b\"", "\"b\""));
    }

    #[test]
    fn lines_are_one_list() {
        let lines = [(header::IF_MATCH, "\"a\""), (header::IF_MATCH, "\"b\", \"c\"")];
        let request = lines.into_iter().fold(TestRequest::get(), |request, line| request.append_header(line));
        let headers = request.to_http_request().headers().clone();
        assert_eq!(list(&headers, &header::IF_MATCH).as_deref(), Some("\"a\",\"b\", \"c\""));
        assert_eq!(list(&headers, &header::IF_NONE_MATCH), None);
    }
}
