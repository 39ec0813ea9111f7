//! Tokens with which a page follows one upload: their creation, the requests they permit, where they may be
//! sent, and their end.

use std::time::Duration;

use longshore::config::{Config, SecretText};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::patience::until;
use crate::support::program::Program;
use crate::support::sse::Sse;

const TOKEN: &str = "the-token-of-the-backend";
const BACKEND: (&str, &str) = ("Authorization", "Bearer the-token-of-the-backend");

async fn started(change: impl FnOnce(&mut Config)) -> (TestApp, Client) {
    let app = TestApp::with(|config| {
        config.auth.token = Some(SecretText::new(TOKEN));
        config.auth.query_tokens = true;
        change(config);
    })
    .await;
    let client = app.client().await;
    (app, client)
}

/// Creates an upload and returns the URL of its status.
async fn created(client: &mut Client) -> String {
    let answer = client.tus("POST", "/files", &[BACKEND, ("Upload-Length", "11")], b"").await;
    answer.header("location").unwrap().replace("/files/", "/api/v1/uploads/")
}

async fn made(client: &mut Client, status: &str) -> Value {
    let answer = client.request("POST", &format!("{status}/read-token"), &[BACKEND], b"").await;
    assert_eq!((answer.status, answer.header("cache-control")), (201, Some("no-store")), "{answer:?}");
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_gets_a_token_with_which_a_page_follows_one_upload() {
    let (app, mut client) = started(|_| {}).await;
    let (status, other) = (created(&mut client).await, created(&mut client).await);
    let made = made(&mut client, &status).await;
    let token = made["token"].as_str().unwrap();
    assert_eq!(made["status_url"], status.as_str());
    assert_eq!(made["events_url"], format!("{status}/events"));
    assert!(made["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() > jiff::Timestamp::now());

    let bearer = format!("Bearer {token}");
    let shown = [("Authorization", bearer.as_str()), ("Origin", "https://app.example.com")];
    let answer = client.request("GET", &format!("{status}?wait=0s"), &shown, b"").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")), "{answer:?}");
    assert_eq!(answer.json()["stage"], "created");
    for (method, path) in [
        ("GET", other.as_str()),
        ("GET", "/api/v1/uploads"),
        ("GET", "/api/v1/events"),
        ("GET", &status.replace("/api/v1/uploads/", "/files/")),
        ("DELETE", &status.replace("/api/v1/uploads/", "/files/")),
        ("POST", &format!("{status}/read-token")),
        ("POST", &format!("{status}/stages")),
        ("GET", "/metrics"),
    ] {
        assert_eq!(client.request(method, path, &shown, b"").await.status, 401, "{method} {path}");
    }

    let page = format!("{status}/events?until=ended&token={token}");
    let mut stream = Sse::ask(app.address(), &page, &[("Origin", "https://app.example.com")]).await.unwrap();
    assert_eq!(stream.message().await.unwrap().event, "snapshot");
    let ask = [
        ("Origin", "https://app.example.com"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "if-none-match,last-event-id"),
    ];
    for asked in [format!("{status}?token={token}"), format!("{status}/events?token={token}")] {
        let preflight = client.request("OPTIONS", &asked, &ask, b"").await;
        assert_eq!(preflight.status, 204, "a page may send header fields with it: {asked}");
    }
    let elsewhere = client.get(&format!("/api/v1/uploads?token={token}")).await;
    assert_eq!((elsewhere.status, elsewhere.problem().as_str()), (400, "token-in-url"));
    let unknown = status.replace(&status[status.len() - 12..], "000000000000");
    assert_eq!(client.request("POST", &format!("{unknown}/read-token"), &[BACKEND], b"").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_expires_and_a_running_stream_goes_on() {
    let (app, mut client) = started(|config| config.auth.read_token_lifetime = Duration::from_secs(1)).await;
    let status = created(&mut client).await;
    let token = made(&mut client, &status).await["token"].as_str().unwrap().to_owned();
    let page = format!("{status}/events?token={token}");
    let mut stream = Sse::ask(app.address(), &page, &[]).await.unwrap();
    assert_eq!(stream.message().await.unwrap().event, "snapshot");
    let expired = until("the token has expired", async || {
        Some(client.get(&format!("{status}?token={token}")).await).filter(|answer| answer.status != 200)
    })
    .await;
    assert_eq!((expired.status, expired.problem().as_str()), (401, "token-expired"), "{expired:?}");
    let ask = [("Origin", "https://app.example.com"), ("Access-Control-Request-Method", "GET")];
    let preflight = client.request("OPTIONS", &format!("{status}?token={token}"), &ask, b"").await;
    assert_eq!(preflight.status, 204, "the page is to read why its request is rejected");
    let path = status.replace("/api/v1/uploads/", "/files/");
    let headers = [BACKEND, crate::support::client::OCTETS, ("Upload-Offset", "0")];
    assert_eq!(client.tus("PATCH", &path, &headers, b"hello").await.status, 204);
    while stream.message().await.unwrap().event != "upload.receiving" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_takes_no_token_unless_it_is_allowed() {
    let (_app, mut client) = started(|config| config.auth.query_tokens = false).await;
    let status = created(&mut client).await;
    let token = made(&mut client, &status).await["token"].as_str().unwrap().to_owned();
    for path in
        [format!("{status}?token={token}"), format!("{status}/events?token={token}"), format!("{status}?token={TOKEN}")]
    {
        let refused = client.get(&path).await;
        assert_eq!((refused.status, refused.problem().as_str()), (400, "token-in-url"), "{path}");
        assert!(!String::from_utf8_lossy(&refused.body).contains(&token), "it is not repeated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_ever_logged() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let flags = ["--auth-token", TOKEN, "--auth-query-tokens", "true", "--log-level", "debug"];
    let mut program = Program::serve(&data, &flags);
    let mut client = Client::connect(program.address()).await;
    let status = created(&mut client).await;
    let token = made(&mut client, &status).await["token"].as_str().unwrap().to_owned();
    for (path, expected) in [
        (format!("{status}?token={token}"), 200),
        (format!("{status}?token={token}x"), 401),
        (format!("/files?token={TOKEN}"), 400),
        (format!("/nothing?token={token}"), 400),
    ] {
        assert_eq!(client.get(&path).await.status, expected, "{path}");
    }
    client.send(format!("GET /files ?token={token} HTTP/9\r\n\r\n").as_bytes()).await;
    client.raw_answer("GET").await;
    program.signal("TERM");
    let log = program.ran().stderr;
    assert!(log.contains("answered"), "{log}");
    for secret in [TOKEN, token.as_str()] {
        assert!(!log.contains(secret), "{secret} is in\n{log}");
    }
}
