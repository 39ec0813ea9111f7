//! Pages of other origins: preflights, readable headers, and origins that are not allowed.

use longshore::config::AllowOrigins;

use crate::support::app::TestApp;
use crate::support::client::{Answer, OCTETS, TUS};

const ORIGIN: (&str, &str) = ("Origin", "https://app.example.com");

// dialects 5: the union of the methods and headers that clients of all dialects send and read.
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const REQUEST_HEADERS: &str = "Authorization, Content-Type, Content-Disposition, Content-Encoding, Content-Range, \
    Content-Digest, Repr-Digest, Want-Content-Digest, Want-Repr-Digest, Origin, X-Requested-With, X-Request-ID, \
    X-HTTP-Method-Override, Tus-Resumable, Upload-Length, Upload-Offset, Upload-Metadata, Upload-Defer-Length, \
    Upload-Concat, Upload-Checksum, Upload-Complete, Upload-Incomplete, Upload-Draft-Interop-Version, Incremental, \
    X-Upload-Content-Type, X-Upload-Content-Length, X-Goog-Resumable, X-Goog-Hash, X-GUploader-No-308";
const ANSWER_HEADERS: &str = "Location, Upload-Offset, Upload-Length, Upload-Metadata, Upload-Defer-Length, \
    Upload-Concat, Upload-Expires, Upload-Complete, Upload-Incomplete, Upload-Limit, Upload-Draft-Interop-Version, \
    Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, Range, Retry-After, \
    Accept-Patch, Content-Digest, Repr-Digest, X-Goog-Hash, X-GUploader-UploadID, X-HTTP-Status-Code-Override, \
    X-Request-ID";

fn listed<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer.header(name).unwrap_or_else(|| panic!("{name} is missing: {answer:?}")).split(',').map(str::trim).collect()
}

fn cors_headers(answer: &Answer) -> Vec<&str> {
    let names = answer.headers.iter().map(|(name, _)| name.as_str());
    names.filter(|name| name.starts_with("access-control-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_is_told_everything_a_client_may_send() {
    let app = TestApp::from_file("[auth]\ntoken = \"a-token-of-many-letters\"\n", |_| {}).await;
    let mut client = app.client().await;
    for path in ["/files", "/files/0197b6a1-0000-7000-8000-000000000000", "/api/v1/uploads"] {
        let asked = [
            ORIGIN,
            ("Access-Control-Request-Method", "PATCH"),
            ("Access-Control-Request-Headers", "authorization,tus-resumable,upload-offset"),
            ("Tus-Resumable", "0.0.1"),
        ];
        let answer = client.request("OPTIONS", path, &asked, b"").await;
        assert_eq!(answer.status, 204, "tus 12: no token and no version is asked of a preflight");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("access-control-max-age"), Some("86400"), "tus 12");
        assert_eq!(listed(&answer, "access-control-allow-methods"), METHODS, "tus 12, protocols 5.5");
        let allowed = listed(&answer, "access-control-allow-headers");
        for name in REQUEST_HEADERS.split(", ") {
            assert!(allowed.contains(&name), "tus 12, protocols 5.5: a client may send {name}");
        }
        assert!(!allowed.contains(&"*"), "protocols 5.5: * does not cover Authorization");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_may_read_every_header_of_successes_and_errors() {
    let app = TestApp::with(|config| {
        config.engine.max_upload_bytes = 100;
        config.cors.allow_origins = AllowOrigins::Any;
    })
    .await;
    let mut client = app.client().await;
    let upload = client.create(5).await;
    let nonsense = "/files/nonsense";
    for (method, path, headers, status) in [
        ("POST", "/files", &[TUS, ("Upload-Length", "5")][..], 201),
        ("POST", "/files", &[TUS], 400),
        ("POST", "/files", &[TUS, ("Upload-Length", "101")], 413),
        ("POST", "/files", &[], 412),
        ("PUT", "/files", &[TUS], 405),
        ("HEAD", upload.as_str(), &[TUS], 200),
        ("HEAD", nonsense, &[TUS], 404),
        ("PATCH", upload.as_str(), &[TUS, OCTETS, ("Upload-Offset", "2")], 409),
        ("PATCH", upload.as_str(), &[TUS], 415),
        ("GET", "/files/of/nothing", &[], 404),
        ("GET", "/api/v1/uploads", &[], 200),
        ("DELETE", upload.as_str(), &[TUS], 204),
    ] {
        let mut headers = headers.to_vec();
        headers.push(ORIGIN);
        let answer = client.request(method, path, &headers, b"").await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "tus 13: {answer:?}");
        assert_eq!(answer.header("vary"), Some("Origin"), "tus 13");
        assert_eq!(answer.header("access-control-allow-credentials"), None, "credentials are not for every page");
        assert_eq!(answer.header("access-control-allow-headers"), None, "only a preflight asks for that");
        let exposed = listed(&answer, "access-control-expose-headers");
        for name in ANSWER_HEADERS.split(", ") {
            assert!(exposed.contains(&name), "tus 13, protocols 5.5: a page may read {name}");
        }
    }
    let answer = client.head("/files/nonsense").await;
    assert_eq!(cors_headers(&answer), [""; 0], "without an origin there is nothing to say");
    assert_eq!(answer.header("vary"), Some("Origin"), "a cache must not give this answer to a page");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_the_token_can_read_that_it_needs_one() {
    let app = TestApp::from_file("[auth]\ntoken = \"a-token-of-many-letters\"\n", |_| {}).await;
    let mut client = app.client().await;
    let answer = client.tus("POST", "/files", &[("Upload-Length", "5"), ORIGIN], b"").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some("*")), "tus 13");
    let token = ("Authorization", "Bearer a-token-of-many-letters");
    let answer = client.tus("POST", "/files", &[("Upload-Length", "5"), ORIGIN, token], b"").await;
    assert_eq!(answer.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_origins_are_let_in_and_may_bring_credentials() {
    let app = TestApp::with(|config| {
        config.cors.allow_origins =
            AllowOrigins::Listed(vec!["https://app.example.com".to_owned(), "https://two.example.com".to_owned()]);
        config.cors.allow_credentials = true;
    })
    .await;
    let mut client = app.client().await;
    for origin in ["https://app.example.com", "https://two.example.com"] {
        let preflight = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        let asked = client.request("OPTIONS", "/files", &preflight, b"").await;
        let created = client.tus("POST", "/files", &[("Upload-Length", "5"), ("Origin", origin)], b"").await;
        for answer in [asked, created] {
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            assert_eq!(answer.header("vary"), Some("Origin"));
        }
    }
    for origin in [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com.evil.example",
        "https://app.example.com:8443",
        "https://APP.example.com",
        "null",
        "*",
        "",
    ] {
        let preflight = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        let asked = client.request("OPTIONS", "/files", &preflight, b"").await;
        let headed = client.tus("HEAD", "/files/nonsense", &[("Origin", origin)], b"").await;
        for answer in [asked, headed] {
            assert_eq!(cors_headers(&answer), [""; 0], "tus 14: {origin:?} gets no CORS fields");
            assert_eq!(answer.header("vary"), Some("Origin"), "a cache must know that origins differ");
        }
    }
}
