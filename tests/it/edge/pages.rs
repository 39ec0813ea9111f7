//! Pages of other origins: which requests they may send, and what they may read.

use longshore::config::AllowOrigins;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};

const ORIGIN: (&str, &str) = ("Origin", "https://app.example.com");

async fn preflight(client: &mut Client, origin: &str) -> Answer {
    let asked = [("Origin", origin), ("Access-Control-Request-Method", "GET")];
    client.request("OPTIONS", "/files", &asked, b"").await
}

fn names(answer: &Answer, field: &str) -> Vec<String> {
    let list = answer.header(field).unwrap_or_else(|| panic!("{field} is missing: {answer:?}"));
    list.split(',').map(|name| name.trim().to_ascii_lowercase()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_parts_and_tracing_need_no_setting() {
    let app = TestApp::with(|config| config.cors.allow_origins = AllowOrigins::Any).await;
    let mut client = app.client().await;
    let allowed = names(&preflight(&mut client, ORIGIN.1).await, "access-control-allow-headers");
    for name in [
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "traceparent",
        "tracestate",
        "baggage",
        "sentry-trace",
    ] {
        assert!(allowed.contains(&name.to_owned()), "{name} in {allowed:?}");
    }
    assert!(!allowed.contains(&"x-tenant".to_owned()), "it is not configured");
    let answer = client.request("GET", "/api/v1/uploads", &[ORIGIN], b"").await;
    let exposed = names(&answer, "access-control-expose-headers");
    for name in ["content-range", "accept-ranges", "content-disposition", "content-length", "etag", "last-modified"] {
        assert!(exposed.contains(&name.to_owned()), "{name} in {exposed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_names_may_be_sent() {
    let app = TestApp::with(|config| {
        config.cors.allow_origins = AllowOrigins::Any;
        config.cors.allow_headers = vec!["x-token".to_owned()];
        config.hooks.forward_headers = vec!["x-tenant".to_owned()];
    })
    .await;
    let allowed = names(&preflight(&mut app.client().await, ORIGIN.1).await, "access-control-allow-headers");
    for name in ["x-token", "x-tenant", "tus-resumable"] {
        assert!(allowed.contains(&name.to_owned()), "{name} in {allowed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_an_app_and_of_one_label_are_let_in_by_name() {
    let toml =
        "[cors]\nallow_origins = [\"capacitor://localhost\", \"tauri://localhost\", \"https://*.example.com\"]\n";
    let app = TestApp::from_file(toml, |_| {}).await;
    let mut client = app.client().await;
    for (origin, allowed) in [
        ("capacitor://localhost", true),
        ("tauri://localhost", true),
        ("https://a.example.com", true),
        ("ionic://localhost", false),
        ("capacitor://localhost.evil.example", false),
        ("https://a.b.example.com", false),
        ("https://example.com", false),
        ("https://evil-example.com", false),
    ] {
        let answer = preflight(&mut client, origin).await;
        let expected = allowed.then_some(origin);
        assert_eq!(answer.header("access-control-allow-origin"), expected, "{origin}");
        let put = [("Origin", origin), ("Sec-Fetch-Site", "cross-site")];
        let status = client.request("PUT", "/files/a.txt", &put, b"hello").await.status;
        assert_eq!(status, if allowed { 201 } else { 403 }, "{origin}");
    }
}
