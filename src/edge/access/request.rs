//! What a request asks for, by its head alone: the part of the server, and what would come of it.

use actix_web::http::header::HeaderMap;

use crate::dialects::tus::wire::Method;
use crate::dialects::{ranged, tus};
use crate::edge::body::HeaderFields;
use domain::id::UploadId;

/// Parts of the server with rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where health is asked for.
    Health,
    /// Where backends report on an upload; `None` if there can be no such upload.
    Stages(Option<UploadId>),
    /// The status of one upload, and the stream of its events. Deleting anything there is for operators.
    Status(Option<UploadId>),
    /// Where it is said which webhooks go where, and shown which did.
    Administration,
    /// What tells of all uploads at once.
    List,
    /// One upload, in the dialects.
    Upload,
    Elsewhere,
}

/// All of this is administration, whatever will be there, but for [`SCHEMAS`].
const ADMINISTRATION: &str = "/api/v1/webhooks";

const SCHEMAS: &str = "/api/v1/webhooks/schemas";

impl Place {
    /// Takes the path as the router reads it, decoded.
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/healthz" | "/readyz" => return Self::Health,
            "/api/v1/uploads" | "/api/v1/events" => return Self::List,
            _ => {}
        }
        if path.starts_with(ADMINISTRATION) {
            let schemas = path.strip_prefix(SCHEMAS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            return if schemas { Self::Elsewhere } else { Self::Administration };
        }
        if path
            .strip_prefix(tus::wire::BASE_PATH)
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|id| !id.is_empty())
        {
            return Self::Upload;
        }
        let Some(rest) = path.strip_prefix("/api/v1/uploads/") else { return Self::Elsewhere };
        if let Some(id) = rest.strip_suffix("/stages") {
            return Self::Stages(id.parse().ok());
        }
        match rest.split_once('/').unwrap_or((rest, "")) {
            (id, "" | "events") => Self::Status(id.parse().ok()),
            _ => Self::Elsewhere,
        }
    }
}

/// What a request would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Asks what may be asked, as browsers do before they let a page ask.
    Options,
    /// Asks how things are: HEAD, and a PUT that carries nothing but the question.
    Look,
    Get,
    /// Changes something, or has no name that says otherwise.
    Write,
    Delete,
}

impl Act {
    /// The method is the one that is followed, not the one that was sent. An override is followed on POST and in tus
    /// only; where it is not, a POST is a write still.
    pub(super) fn of(method: &str, headers: &HeaderMap) -> Self {
        let fields = HeaderFields(headers);
        match method {
            "OPTIONS" => Self::Options,
            "HEAD" => Self::Look,
            "GET" => Self::Get,
            "DELETE" => Self::Delete,
            "POST" if matches!(tus::wire::method(method, &fields), Ok(Some(Method::Delete))) => Self::Delete,
            "PUT" if ranged::wire::only_asks(&fields) => Self::Look,
            _ => Self::Write,
        }
    }
}

/// Whether a proxy has passed the request on: each adds fields of its own, and none of these comes from a program that
/// asks by itself.
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
    fn every_path_has_its_place() {
        let id = "01a2003c-6e4b-7707-8707-070707070707".parse().unwrap();
        for (path, place) in [
            ("/healthz", Place::Health),
            ("/readyz", Place::Health),
            ("/healthz/", Place::Elsewhere),
            ("/api/v1/uploads", Place::List),
            ("/api/v1/events", Place::List),
            ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/stages", Place::Stages(Some(id))),
            ("/api/v1/uploads/x/y/stages", Place::Stages(None)),
            ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707", Place::Status(Some(id))),
            ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/events", Place::Status(Some(id))),
            ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/events/events", Place::Elsewhere),
            ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/read-token", Place::Elsewhere),
            ("/api/v1/uploads/x/events", Place::Status(None)),
            ("/api/v1/uploads/x", Place::Status(None)),
            ("/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/", Place::Status(Some(id))),
            ("/api/v1/webhooks", Place::Administration),
            ("/api/v1/webhooks/anything", Place::Administration),
            ("/api/v1/webhooks/schemas", Place::Elsewhere),
            ("/api/v1/webhooks/schemas/upload.created", Place::Elsewhere),
            ("/api/v1/webhooks/schemas2", Place::Administration),
            ("/api/v1/webhooks//schemas", Place::Administration),
            ("/files", Place::Elsewhere),
            ("/files/", Place::Elsewhere),
            ("/files/01a2003c-6e4b-7707-8707-070707070707", Place::Upload),
            ("/files/a.mp4", Place::Upload),
            ("/", Place::Elsewhere),
        ] {
            assert_eq!(Place::of(path), place, "{path}");
        }
    }

    #[test]
    fn what_counts_is_the_method_that_is_followed() {
        let over = |method| ("x-http-method-override", method);
        for (method, fields, act) in [
            ("GET", &[][..], Act::Get),
            ("HEAD", &[], Act::Look),
            ("OPTIONS", &[], Act::Options),
            ("POST", &[], Act::Write),
            ("PATCH", &[], Act::Write),
            ("PUT", &[], Act::Write),
            ("DELETE", &[], Act::Delete),
            ("TRACE", &[], Act::Write),
            ("get", &[], Act::Write),
            ("POST", &[over("DELETE")], Act::Delete),
            ("POST", &[over("delete")], Act::Delete),
            ("POST", &[over("PATCH")], Act::Write),
            ("POST", &[over("HEAD")], Act::Write),
            ("POST", &[over("DELETE"), over("HEAD")], Act::Write),
            ("GET", &[over("DELETE")], Act::Get),
            ("HEAD", &[over("DELETE")], Act::Look),
            ("PATCH", &[over("DELETE")], Act::Write),
            ("OPTIONS", &[over("DELETE")], Act::Options),
            ("PUT", &[("content-range", "bytes */*")], Act::Look),
            ("PUT", &[("content-range", "bytes */10")], Act::Look),
            ("PUT", &[("content-range", "bytes 0-9/10")], Act::Write),
            ("PUT", &[("content-range", "bytes */ten")], Act::Write),
            ("PUT", &[("content-range", "bytes */*"), ("content-range", "bytes 0-9/10")], Act::Write),
            ("POST", &[("content-range", "bytes */*")], Act::Write),
        ] {
            assert_eq!(Act::of(method, &headers(fields)), act, "{method} {fields:?}");
        }
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
