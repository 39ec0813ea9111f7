//! What a request would do, and whether a proxy has passed it on, by its head alone.

use actix_web::http::header::HeaderMap;

/// What a request would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestAction {
    /// Asks what may be asked, as browsers do before they let a page ask.
    Options,
    /// Asks how things are.
    Head,
    Get,
    /// Changes something, or has no name that says otherwise.
    Write,
    Delete,
}

impl RequestAction {
    /// The method is the one that is followed, not the one that was sent.
    pub(super) fn of(method: &str) -> Self {
        match method {
            "OPTIONS" => Self::Options,
            "HEAD" => Self::Head,
            "GET" => Self::Get,
            "DELETE" => Self::Delete,
            _ => Self::Write,
        }
    }
}

/// Whether a proxy has passed the request on: each adds fields of its own, and none of these comes from a
/// program that asks by itself.
pub(crate) fn came_through_a_proxy(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_added_by_proxies(name.as_str()))
}

/// Names are in lower case. All that begin like `X-Forwarded-For` count, whichever a proxy makes up next.
fn is_added_by_proxies(name: &str) -> bool {
    const NAMES: [&str; 20] = [
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-forwarded-for",
        "x-original-host",
        "x-envoy-external-address",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-appengine-user-ip",
        "x-amzn-trace-id",
        "x-proxyuser-ip",
        "true-client-ip",
        "fastly-client-ip",
        "fly-client-ip",
        "cf-connecting-ip",
        "cf-ray",
        "cdn-loop",
        "wl-proxy-client-ip",
    ];
    name.starts_with("x-forwarded") || NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let request = pairs.iter().fold(TestRequest::get(), |request, pair| request.append_header(*pair));
        request.to_http_request().headers().clone()
    }

    #[test]
    fn proxies_are_known_by_what_they_add() {
        for name in [
            "Forwarded",
            "Via",
            "X-Forwarded-For",
            "X-Forwarded-Host",
            "X-Forwarded-Proto",
            "X-Forwarded-Port",
            "X-Forwarded-Server",
            "X-Forwarded",
            "X-Real-IP",
            "X-Client-IP",
            "X-Cluster-Client-IP",
            "True-Client-IP",
            "CF-Connecting-IP",
            "CDN-Loop",
        ] {
            assert!(came_through_a_proxy(&headers(&[("Accept", "*/*"), (name, "")])), "{name}");
        }
        let own =
            [("Host", "localhost"), ("X-Request-ID", "1"), ("X-HTTP-Method-Override", "PATCH"), ("Accept", "*/*")];
        assert!(!came_through_a_proxy(&headers(&own)));
    }
}
