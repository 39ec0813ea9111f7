//! A server without a token: open to local programs, and closed to pages of other origins.

use std::fs::File;
use std::process::Stdio;

use keyring::{AdminKey, AdminKeyHash};
use longshore::config::{AllowOrigins, SecretText};
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS, TUS};
use crate::support::http2;
use crate::support::process::Process;
use crate::support::program::run;
use crate::support::tls::Certificate;

const EVIL: (&str, &str) = ("Origin", "https://evil.example");

/// Sends a request with this host.
async fn asked(
    client: &mut Client,
    method: &str,
    path: &str,
    host: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    client.send(head.as_bytes()).await;
    client.send(body).await;
    client.answer(method).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_host_is_refused_and_the_connection_lives_on() {
    let app = TestApp::with(|config| config.server.read_listen = Some("127.0.0.1:0".parse().unwrap())).await;
    let upload = app.client().await.create(5).await;
    for address in [app.address(), app.read_address()] {
        let mut client = Client::connect(address).await;
        for host in ["evil.example", "evil.example:8080", "localhost:80@evil.example", "localhost.evil.example"] {
            for path in ["/api/v1/uploads", "/api/v1/webhooks/endpoints", "/metrics", "/nothing", upload.as_str()] {
                let refused = asked(&mut client, "GET", path, host, &[], b"").await;
                assert_eq!((refused.status, refused.problem().as_str()), (421, "unknown-host"), "{host} {path}");
                assert!(refused.json()["detail"].as_str().unwrap().contains("auth.hosts"), "{refused:?}");
            }
            assert_eq!(asked(&mut client, "GET", "/healthz", host, &[], b"").await.status, 200, "{host}");
        }
        assert_eq!(client.get("/api/v1/uploads").await.status, 200, "on the same connection, and by nothing changed");
    }
    let mut client = app.client().await;
    let refused =
        asked(&mut client, "PATCH", &upload, "evil.example", &[TUS, OCTETS, ("Upload-Offset", "0")], b"hello").await;
    assert_eq!(refused.status, 421);
    if refused.header("connection") == Some("close") {
        client = app.client().await;
    }
    assert_eq!(client.offset(&upload).await, 0, "not a byte was taken");
    let refused = asked(&mut client, "DELETE", &upload, "evil.example", &[TUS], b"").await;
    assert_eq!(refused.status, 421);
    assert_eq!(client.patch(&upload, 0, b"hello").await.status, 204);
    assert_eq!(client.get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_the_authority_is_the_host() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| certificate.configure(config)).await;
    let mut client = http2::Client::connect(app.address(), &certificate).await;
    assert_eq!(client.tus("POST", "/files", &[("Upload-Length", "5")]).await.status, 201);
    client.authority = "evil.example".to_owned();
    for host in ["evil.example", "localhost"] {
        let refused = client.tus("POST", "/files", &[("Upload-Length", "5"), ("Host", host)]).await;
        assert_eq!(refused.status, 421, "with any Host: {host}");
    }
    client.authority = format!("localhost:{}", app.address().port());
    assert_eq!(client.tus("POST", "/files", &[("Upload-Length", "5")]).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_elsewhere_can_neither_plant_nor_delete_nor_read() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(6).await;
    assert_eq!(client.patch(&upload, 0, b"secret").await.status, 204);
    let form = ("Content-Type", "multipart/form-data; boundary=b");
    let part = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nplanted\r\n--b--\r\n";
    let cross = ("Sec-Fetch-Site", "cross-site");
    for who in [&[EVIL][..], &[EVIL, cross], &[("Origin", "null")], &[cross]] {
        for (method, path, headers, body) in [
            ("POST", "/files", &[("Content-Type", "text/plain")][..], &b"planted"[..]),
            ("POST", "/files", &[form], part),
            ("POST", "/files", &[TUS, ("Upload-Length", "5")], b""),
            ("POST", "/files", &[("Upload-Complete", "?1")], b"planted"),
            ("POST", "/files?uploadType=resumable", &[], b""),
            ("POST", "/files", &[("Content-Type", "application/json")], br#"{"size":5}"#),
            ("PUT", "/files/planted", &[], b"planted"),
            ("DELETE", upload.as_str(), &[TUS], b""),
            ("POST", upload.as_str(), &[TUS, ("X-HTTP-Method-Override", "DELETE")], b""),
            ("POST", "/api/v1/webhooks/endpoints", &[("Content-Type", "text/plain")], b"{}"),
        ] {
            let headers = [headers, who].concat();
            let refused = client.request(method, path, &headers, body).await;
            assert_eq!(
                (refused.status, refused.problem().as_str()),
                (403, "cross-site"),
                "{method} {path} {headers:?}"
            );
            assert_eq!(refused.header("access-control-allow-origin"), None);
            assert_eq!(refused.header("vary"), Some("Origin"));
        }
    }
    for headers in [&[EVIL][..], &[("Origin", "null")]] {
        let read = client.request("GET", &upload, headers, b"").await;
        assert_eq!(read.header("access-control-allow-origin"), None, "a browser keeps it from the page");
        let preflight = [headers, &[("Access-Control-Request-Method", "DELETE")]].concat();
        let preflight = client.request("OPTIONS", &upload, &preflight, b"").await;
        assert_eq!(preflight.header("access-control-allow-origin"), None);
        assert_eq!(preflight.header("access-control-allow-methods"), None);
    }
    for dest in ["image", "script", "iframe", "video"] {
        let headers = [cross, ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", dest)];
        assert_eq!(client.request("GET", &upload, &headers, b"").await.status, 403, "{dest}");
    }
    let link = [cross, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    assert_eq!(
        client.request("GET", &upload, &link, b"").await.status,
        200,
        "a followed link opens, and no page can read it"
    );
    let listed = client.get("/api/v1/uploads").await.json();
    assert_eq!(listed["uploads"].as_array().unwrap().len(), 1, "nothing was planted and nothing deleted: {listed}");
    assert_eq!(client.get(&upload).await.body, b"secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_this_machine_upload_and_read() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for origin in ["http://localhost:3000", "http://127.0.0.1:5173", "https://app.localhost"] {
        let page = [("Origin", origin), ("Sec-Fetch-Site", "cross-site")];
        let preflight = [&page[..], &[("Access-Control-Request-Method", "POST")]].concat();
        let preflight = client.request("OPTIONS", "/files", &preflight, b"").await;
        assert_eq!(preflight.header("access-control-allow-origin"), Some(origin));
        assert!(preflight.header("access-control-allow-headers").unwrap().contains("Tus-Resumable"));
        let created = client.tus("POST", "/files", &[page[0], page[1], ("Upload-Length", "5")], b"").await;
        assert_eq!((created.status, created.header("access-control-allow-origin")), (201, Some(origin)));
        let read = client.request("GET", "/api/v1/uploads", &page, b"").await;
        assert_eq!((read.status, read.header("access-control-allow-origin")), (200, Some(origin)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_origins_that_were_written_are_known() {
    let app = TestApp::from_file("[auth]\nhosts = [\"uploads.test\", \"10.0.0.5\"]\n", |config| {
        config.server.public_url = Some("https://up.example.com/base".to_owned());
        config.cors.allow_origins = AllowOrigins::Listed(vec!["https://*.example.org".to_owned()]);
    })
    .await;
    let mut client = app.client().await;
    for (host, status) in [
        ("uploads.test:8080", 200),
        ("10.0.0.5", 200),
        ("up.example.com", 200),
        ("UP.EXAMPLE.COM:443", 200),
        ("example.com", 421),
        ("10.0.0.6", 421),
    ] {
        assert_eq!(asked(&mut client, "GET", "/api/v1/uploads", host, &[], b"").await.status, status, "{host}");
    }
    for (origin, status) in [
        ("https://app.example.org", 201),
        ("https://up.example.com", 201),
        ("https://a.b.example.org", 403),
        ("https://app.example.org.evil.io", 403),
        ("http://localhost:3000", 403),
    ] {
        let headers = [TUS, ("Upload-Length", "5"), ("Origin", origin)];
        assert_eq!(
            asked(&mut client, "POST", "/files", "up.example.com", &headers, b"").await.status,
            status,
            "{origin}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_any_host_and_page_is_served() {
    let token = "correct-horse-battery-staple";
    let app = TestApp::with(|config| config.auth.token = Some(SecretText::new(token.to_owned()))).await;
    let mut client = app.client().await;
    let bearer = format!("Bearer {token}");
    let headers =
        [TUS, ("Authorization", bearer.as_str()), ("Upload-Length", "5"), EVIL, ("Sec-Fetch-Site", "cross-site")];
    let created = asked(&mut client, "POST", "/files", "uploads.example.com", &headers, b"").await;
    assert_eq!((created.status, created.header("access-control-allow-origin")), (201, Some("*")));
    let lower = format!("bearer {token}");
    let listed = client.request("GET", "/api/v1/uploads", &[("Authorization", &lower)], b"").await;
    assert_eq!(listed.status, 200, "RFC 9110, 11.1: the scheme is the same in any case");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_foreign_host_and_page_are_logged_with_the_key_to_set() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let mut command = Process::command(&folder.path().join("data"), &[]);
    let process = Process::spawn(command.stderr(Stdio::from(File::create(&log).unwrap())));
    let mut client = process.client().await;
    assert_eq!(client.get("/api/v1/uploads").await.status, 200);
    for host in ["uploads.example.com", "two.example.com"] {
        assert_eq!(asked(&mut client, "GET", "/api/v1/uploads", host, &[], b"").await.status, 421);
    }
    for _ in 0..2 {
        assert_eq!(client.tus("POST", "/files", &[EVIL, ("Upload-Length", "5")], b"").await.status, 403);
    }
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    let logged = std::fs::read_to_string(&log).unwrap();
    let warnings: Vec<_> = logged.lines().filter(|line| line.contains("auth.hosts")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("WARN"), "{logged}");
    assert!(warnings[0].contains("uploads.example.com") && warnings[0].contains("auth.token"), "{logged}");
    let warnings: Vec<_> = logged.lines().filter(|line| line.contains("cors.allow_origins")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("WARN") && warnings[0].contains(EVIL.1), "{logged}");
}

#[test]
fn beyond_this_machine_nothing_starts_without_a_token_unless_that_was_written() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    for flags in [
        &["--listen", "0.0.0.0:0"][..],
        &["--listen", "[::]:0"],
        &["--listen", "127.0.0.1:0", "--read-listen", "0.0.0.0:0"],
        &["--listen", "127.0.0.1:0", "--public-url", "https://uploads.example.com"],
        &["--listen", "0.0.0.0:0", "--auth-open", "true"],
        &["--listen", "127.0.0.1:0", "--cors-allow-origins", "*"],
    ] {
        let ran = run(&[&["serve", "--data-dir", data.to_str().unwrap()], flags].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{flags:?}: {ran:?}");
        let ways: &[&str] =
            if flags.contains(&"--auth-open") { &["auth.hosts"] } else { &["auth.token", "auth.open = true"] };
        assert!(ways.iter().all(|way| ran.stderr.contains(way)), "{flags:?}: {}", ran.stderr);
        assert!(!data.exists(), "{flags:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_closed_to_clients_is_closed_in_every_dialect() {
    let key = AdminKey::generate([1; 32]);
    let admin = format!("Bearer {}", key.expose());
    let admin = ("Authorization", admin.as_str());
    let token = "correct-horse-battery-staple";
    let shared = format!("Bearer {token}");
    let toml = format!(
        "[auth]\ntoken = \"{token}\"\nadmin_keys = [\"{}\"]\npublic_list = false\npublic_download = false\n\
         public_terminate = false\n",
        AdminKeyHash::of(key.expose().as_bytes())
    );
    let app = TestApp::from_file(&toml, |_| {}).await;
    let client_key = ("Authorization", shared.as_str());
    let mut client = app.client().await;
    let complete = ("Upload-Complete", "?1");
    let draft = ("Upload-Draft-Interop-Version", "8");
    for (dialect, creation, deletions) in [
        ("tus", &[TUS, OCTETS, ("Upload-Length", "5")][..], &[("DELETE", &[TUS][..]), ("DELETE", &[])][..]),
        (
            "tus by override",
            &[TUS, OCTETS, ("Upload-Length", "5")],
            &[
                ("POST", &[TUS, ("X-HTTP-Method-Override", "DELETE")]),
                ("POST", &[TUS, ("X-HTTP-Method-Override", "delete")]),
            ],
        ),
        ("ietf", &[complete, draft], &[("DELETE", &[draft])]),
        ("plain", &[("Content-Type", "video/mp4")], &[("DELETE", &[])]),
    ] {
        let created = client.request("POST", "/files", &[creation, &[client_key]].concat(), b"hello").await;
        assert!(matches!(created.status, 200 | 201), "{dialect}: {created:?}");
        let upload = created.header("location").unwrap().to_owned();
        for (method, headers) in deletions {
            let refused = client.request(method, &upload, &[headers, &[client_key][..]].concat(), b"").await;
            assert_eq!(
                (refused.status, refused.problem().as_str()),
                (403, "admin-key-needed"),
                "{dialect}: {refused:?}"
            );
            assert!(refused.json()["detail"].as_str().unwrap().contains("auth.public_terminate"), "{refused:?}");
        }
        assert_eq!(client.request("GET", &upload, &[client_key], b"").await.status, 403, "{dialect}");
        assert!(matches!(client.request("HEAD", &upload, &[client_key], b"").await.status, 200 | 204), "{dialect}");
        assert_eq!(
            client.request("GET", &upload, &[admin], b"").await.body,
            b"hello",
            "{dialect}: nothing was deleted"
        );
        let status = upload.replace("/files/", "/api/v1/uploads/");
        assert_eq!(client.request("GET", &status, &[client_key], b"").await.status, 200, "{dialect}");
        let (method, headers) = deletions[0];
        assert_eq!(client.request(method, &upload, &[headers, &[admin]].concat(), b"").await.status, 204, "{dialect}");
    }
    for path in ["/api/v1/uploads", "/api/v1/uploads?stage=completed", "/api/v1/events"] {
        assert_eq!(client.request("GET", path, &[client_key], b"").await.status, 403, "{path}");
    }
    assert_eq!(client.request("GET", "/api/v1/uploads", &[admin], b"").await.status, 200);
    let offered = client.request("OPTIONS", "/files", &[], b"").await;
    assert!(!offered.header("tus-extension").unwrap().contains("termination"), "{offered:?}");
    assert!(offered.header("tus-extension").unwrap().contains("concatenation"), "{offered:?}");
}
