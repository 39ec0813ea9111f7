//! The action of a request and the presence of a proxy, both read from its head.

use actix_web::http::header::HeaderMap;

/// The action that a request performs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestAction {
    /// Requests permissions, as browsers do in a preflight.
    Options,
    /// Reads metadata.
    Head,
    Get,
    /// Changes something. Unknown methods count as this.
    Write,
    Delete,
}

impl RequestAction {
    /// Returns the action of the effective method, which can differ from the one that was sent.
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

/// Returns whether the request came through a proxy. Proxies add header fields that programs do not send on
/// their own behalf.
pub(crate) fn came_through_a_proxy(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_added_by_proxies(name.as_str()))
}

/// Expects a lower-case name. Every name with the prefix `x-forwarded` counts, including ones that future
/// proxies may introduce.
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
