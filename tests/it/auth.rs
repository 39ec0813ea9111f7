//! A server with a token: every request needs it, and no response reveals it.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use keyring::{AdminKey, AdminKeyHash};
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::process::Process;
use crate::support::sse::Sse;

const TOKEN: &str = "correct-horse-battery-staple";
const GUESS: &str = "incorrect-horse-battery-stapl";

const PATHS: [&str; 15] = [
    "/",
    "/files",
    "/files/",
    "/upload/storage/v1/b/films/o",
    "/files/01a2003c-6e4b-7707-8707-070707070707",
    "/api/v1/uploads",
    "/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707",
    "/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/events",
    "/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/stages",
    "/api/v1/events",
    "/api/v1/webhooks/deliveries",
    "/api/v1/webhooks/schemas",
    "/api/v1/webhooks/schemas/upload.created",
    "/metrics",
    "/nothing/here",
];

async fn guarded() -> TestApp {
    TestApp::from_file(&format!("[auth]\ntoken = \"{TOKEN}\"\n"), |config| {
        config.limits.bodies.drain_timeout = Duration::from_secs(2);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_without_the_right_token() {
    let app = guarded().await;
    let mut client = app.client().await;
    let wrong = [
        None,
        Some(format!("Bearer {GUESS}")),
        Some(format!("Bearer {TOKEN}x")),
        Some(format!("Bearer {}", &TOKEN[1..])),
        Some(format!("Bearer  {TOKEN}")),
        Some("Bearer ".to_owned()),
        Some("Bearer".to_owned()),
        Some(TOKEN.to_owned()),
        Some(format!("Basic {TOKEN}")),
    ];
    for path in PATHS {
        for method in ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"] {
            for authorization in &wrong {
                let given = authorization.as_deref().map(|value| ("Authorization", value));
                let headers: Vec<_> = [TUS].into_iter().chain(given).collect();
                let answer = client.request(method, path, &headers, b"").await;
                assert_eq!(answer.status, 401, "{method} {path} {authorization:?}: {answer:?}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
                assert!(!format!("{answer:?}").contains(TOKEN), "{answer:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_preflights_need_no_token() {
    let app = guarded().await;
    let mut client = app.client().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    let headers = [("Origin", "http://page.example"), ("Access-Control-Request-Method", "PATCH")];
    for path in PATHS.into_iter().chain(["/healthz", "/readyz"]) {
        let answer = client.request("OPTIONS", path, &headers, b"").await;
        assert_eq!(answer.status, 204, "{path}: browsers send no token with a preflight: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        let allowed = answer.header("access-control-allow-headers").unwrap();
        assert!(allowed.contains("Authorization"), "{path}: {allowed}");
    }
    // A page can read why its request was rejected.
    let refused = client.request("GET", "/api/v1/uploads", &headers[..1], b"").await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("*")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_token_opens_everything() {
    let app = guarded().await;
    let mut client = app.client().await;
    let bearer = format!("Bearer {TOKEN}");
    let token = ("Authorization", bearer.as_str());
    let created = client.tus("POST", "/files", &[token, ("Upload-Length", "11")], b"").await;
    assert_eq!(created.status, 201);
    let path = created.header("location").unwrap().to_owned();
    let headers = [token, OCTETS, ("Upload-Offset", "0")];
    assert_eq!(client.tus("PATCH", &path, &headers, b"hello world").await.status, 204);
    assert_eq!(client.tus("HEAD", &path, &[token], b"").await.status, 200);
    assert_eq!(client.request("GET", &path, &[token], b"").await.body, b"hello world");
    let status = path.replace("/files/", "/api/v1/uploads/");
    let schema = "/api/v1/webhooks/schemas/upload.created";
    for path in [status.as_str(), "/api/v1/uploads", "/api/v1/webhooks/deliveries", schema, "/metrics"] {
        assert_eq!(client.request("GET", path, &[token], b"").await.status, 200, "{path}");
    }
    assert_eq!(client.request("GET", "/nothing/here", &[token], b"").await.status, 404);
    let mut stream = Sse::open(app.address(), &format!("{status}/events"), &[token]).await;
    assert_eq!(stream.message().await.unwrap().event, "snapshot");
    assert_eq!(client.tus("DELETE", &path, &[token], b"").await.status, 204);
}

/// The rejection is sent while the body is still arriving, and reaches the client.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_the_token_is_refused_at_once() {
    let app = guarded().await;
    for (method, path) in [("POST", "/files"), ("PATCH", PATHS[3])] {
        let mut client = app.client().await;
        let length = (8 << 20).to_string();
        let headers = [TUS, OCTETS, ("Upload-Length", &length), ("Upload-Offset", "0"), ("Content-Length", &length)];
        client.send_head(method, path, &headers).await;
        client.send(&[7; 1_000]).await;
        assert_eq!(client.answer(method).await.status, 401, "before the body is over");

        let mut client = app.client().await;
        client.send_head(method, path, &headers).await;
        client.send(&vec![7; 8 << 20]).await;
        assert_eq!(client.answer(method).await.status, 401, "also to a client that sends all of it first");
    }
    assert!(app.stored_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_never_logged() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "trace", "--auth-token-file"]).arg(&token_file);
    command.args(["--storage-min-free-space", "0", "--data-dir"]).arg(folder.path().join("data"));
    let process = Process::spawn(command.stderr(Stdio::from(File::create(&log).unwrap())));
    let mut client = process.client().await;
    for (given, status) in [(TOKEN, 201), (GUESS, 401)] {
        let bearer = format!("Bearer {given}");
        let headers = [("Authorization", bearer.as_str()), ("Upload-Length", "5")];
        assert_eq!(client.tus("POST", "/files", &headers, b"").await.status, status);
        // A header that cannot be parsed is a reason to log more.
        let headers = [("Authorization", bearer.as_str()), ("Upload-Length", "5"), ("Upload-Length", "six")];
        assert!(client.tus("POST", "/files", &headers, b"").await.status >= 400);
    }
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(logged.contains("answered") && logged.contains("401"), "requests are logged: {logged}");
    for secret in [TOKEN, GUESS] {
        assert!(!logged.contains(secret), "{logged}");
    }
}

const ADMINISTRATION: &str = "/api/v1/webhooks/deliveries";

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

async fn get_with(client: &mut Client, path: &str, key: &str) -> u16 {
    client.request("GET", path, &[("Authorization", &bearer(key))], b"").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_key_opens_the_administration_and_all_else() {
    let keys = [AdminKey::generate([1; 32]), AdminKey::generate([2; 32])];
    let hashes = keys.each_ref().map(|key| AdminKeyHash::of(key.expose().as_bytes()).to_string());
    for token in ["", TOKEN] {
        let toml = format!("[auth]\ntoken = \"{token}\"\nadmin_keys = {hashes:?}\n");
        let app = TestApp::from_file(&toml, |_| {}).await;
        let mut client = app.client().await;
        for key in keys.each_ref().map(AdminKey::expose) {
            for path in [ADMINISTRATION, "/api/v1/uploads", "/api/v1/webhooks/schemas", "/metrics"] {
                assert_eq!(get_with(&mut client, path, key).await, 200, "{path}");
            }
        }
        let stranger = AdminKey::generate([3; 32]);
        for wrong in [stranger.expose(), &hashes[0], &hashes[0][7..], "", GUESS] {
            assert_eq!(get_with(&mut client, ADMINISTRATION, wrong).await, 401, "{wrong}");
        }
        // Another spelling of the path leads to the same handler, and to the same check.
        for path in [ADMINISTRATION, "/api/v1/webhook%73/deliveries", "/api/v1/%77ebhooks/d%65liveries"] {
            assert_eq!(client.get(path).await.status, 401, "{path}");
        }
        let shared = client.request("GET", ADMINISTRATION, &[("Authorization", &bearer(TOKEN))], b"").await;
        let elsewhere =
            [client.get("/api/v1/uploads").await.status, client.get("/api/v1/webhooks/schemas").await.status];
        if token.is_empty() {
            assert_eq!((shared.status, elsewhere), (401, [200, 200]));
        } else {
            assert_eq!((shared.status, elsewhere), (403, [401, 401]));
            assert_eq!(shared.json()["type"], "urn:longshore:problem:admin-key-needed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_administration_is_open_to_this_machine_only() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    assert_eq!(client.get(ADMINISTRATION).await.status, 200);
    for origin in ["https://page.example", "null"] {
        for path in [ADMINISTRATION, "/api/v1/uploads"] {
            let refused = client.request("GET", path, &[("Origin", origin)], b"").await;
            assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None), "{origin} {path}");
            assert_eq!(refused.json()["type"], "urn:longshore:problem:cross-site");
        }
    }
    for (name, value) in [("Forwarded", "for=192.0.2.1"), ("X-Forwarded-For", "192.0.2.1")] {
        let refused = client.request("GET", ADMINISTRATION, &[(name, value)], b"").await;
        assert_eq!(refused.status, 403, "{name}: {value}");
        let problem = refused.json();
        assert_eq!(problem["type"], "urn:longshore:problem:no-admin-key");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("longshore admin-key") && detail.contains("auth.admin_keys"), "{detail}");
        let read = client.request("GET", "/api/v1/uploads", &[(name, value)], b"").await;
        assert_eq!((read.status, read.header("access-control-allow-origin")), (200, None), "{name}: {value}");
    }
    let own = format!("http://{}", app.address());
    assert_eq!(client.request("GET", ADMINISTRATION, &[("Origin", &own)], b"").await.status, 200);
    client.send(b"GET /api/v1/webhooks/deliveries HTTP/1.1\r\nHost: page.example\r\n\r\n").await;
    assert_eq!(client.answer("GET").await.status, 421, "a name that was made to mean this machine");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_administration_is_closed_where_others_can_connect() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    for change in 0..3 {
        let app = TestApp::from_file(&format!("[auth]\ntoken = \"{TOKEN}\"\n"), |config| match change {
            0 => config.server.listen = everywhere,
            1 => config.server.read_listen = Some(everywhere),
            _ => config.server.public_url = Some("https://uploads.example".to_owned()),
        })
        .await;
        let port = app.address().port();
        let mut client = Client::connect(([127, 0, 0, 1], port).into()).await;
        assert_eq!(get_with(&mut client, ADMINISTRATION, TOKEN).await, 403, "{change}");
        assert_eq!(get_with(&mut client, ADMINISTRATION, GUESS).await, 401, "{change}");
        assert_eq!(get_with(&mut client, "/api/v1/webhooks/schemas", TOKEN).await, 200, "{change}");
        assert_eq!(get_with(&mut client, "/api/v1/uploads", TOKEN).await, 200, "{change}");
    }
}

/// The server accepts the key that `longshore admin-key` prints.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_by_the_command_line_works() {
    let made = Command::new(env!("CARGO_BIN_EXE_longshore")).arg("admin-key").output().unwrap();
    assert!(made.status.success());
    let printed = String::from_utf8(made.stdout).unwrap();
    let (key, toml) = printed.split_once('\n').unwrap();
    assert!(key.starts_with("lsk_") && !toml.contains(key), "{printed}");
    let app = TestApp::from_file(toml, |_| {}).await;
    let mut client = app.client().await;
    assert_eq!(get_with(&mut client, ADMINISTRATION, key).await, 200);
    assert_eq!(client.get(ADMINISTRATION).await.status, 401);
}
