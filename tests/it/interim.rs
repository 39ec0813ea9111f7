//! Responses before the final one. A client that waits for permission before it sends a body (`Expect:
//! 100-continue`) is rejected before it has sent any of it, and gets `100` when the body is wanted.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::future::join_all;
use longshore::config::{Config, SecretText};

use crate::support::app::TestApp;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::moving::is_whole;
use crate::support::tls::{Certificate, unwrapped};

const MIB: usize = 1024 * 1024;
const EXPECT: (&str, &str) = ("Expect", "100-continue");
const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A server with two addresses that lead to it: a plain one, and one through TLS.
struct Servers {
    _running: [TestApp; 2],
    addresses: [SocketAddr; 2],
}

impl Servers {
    async fn with(change: impl Fn(&mut Config)) -> Self {
        let certificate = Certificate::new();
        let plain = TestApp::with(&change).await;
        let tls = TestApp::with(|config| {
            certificate.configure(config);
            change(config);
        })
        .await;
        let addresses = [plain.address(), unwrapped(certificate.connector(&["http/1.1"]), tls.address()).await];
        Self { _running: [plain, tls], addresses }
    }
}

/// Reads the next head, of an interim response or a final one.
async fn next_head(client: &mut Client) -> Vec<u8> {
    let reading = tokio::time::timeout(Duration::from_secs(30), client.read_until(b"\r\n\r\n"));
    reading.await.expect("a response in time").expect("a response")
}

/// Sends the head of a request that expects `100` before its body, and asserts that it is rejected at once.
async fn is_refused(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], status: u16) {
    let what = format!("{method} {path} {headers:?}");
    let mut client = Client::connect(address).await;
    let headers = [headers, &[EXPECT]].concat();
    client.send_head(method, path, &headers).await;
    let head = String::from_utf8(next_head(&mut client).await).unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
    assert!(head.contains("\r\nconnection: close\r\n"), "{what}: it may not be taken for the body's end: {head}");
    // The server does not wait for a body that never arrives.
    let ending = tokio::time::timeout(Duration::from_secs(30), client.read_until(b"HTTP/1.1 "));
    assert_eq!(ending.await.expect("the connection ends"), None, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_first_is_refused_before_it_is_told_to_send() {
    // tus 41.
    let servers = Servers::with(|config| {
        config.engine.max_upload_bytes = 1_000;
        config.limits.bodies.drain_timeout = Duration::from_secs(60);
    })
    .await;
    for address in servers.addresses {
        let mut client = Client::connect(address).await;
        let (path, gone) = (client.create(100).await, client.create(100).await);
        assert_eq!(client.tus("DELETE", &gone, &[], b"").await.status, 204);
        let at = |offset| ("Upload-Offset", offset);
        let length = |length| ("Upload-Length", length);
        for body in [("Content-Length", "50"), ("Transfer-Encoding", "chunked")] {
            let refusals = [
                ("PATCH", &*path, &[("Tus-Resumable", "0.2.2"), OCTETS, at("0"), body][..], 412),
                ("PATCH", &*path, &[OCTETS, at("0"), body], 412),
                ("PATCH", &*path, &[TUS, ("Content-Type", "video/mp4"), at("0"), body], 415),
                ("PATCH", &*path, &[TUS, OCTETS, at("+5"), body], 400),
                ("PATCH", &*path, &[TUS, OCTETS, at("5"), body], 409),
                ("PATCH", &*path, &[TUS, OCTETS, at("0"), ("Upload-Checksum", "sha3 AAAA"), body], 400),
                ("PATCH", &*gone, &[TUS, OCTETS, at("0"), body], 410),
                ("POST", "/files", &[TUS, OCTETS, length("1001"), body], 413),
                ("POST", "/files", &[TUS, OCTETS, length("x"), body], 400),
                ("POST", "/files", &[TUS, OCTETS, length("100"), ("Upload-Metadata", "a YR=="), body], 400),
                ("POST", "/files", &[TUS, length("100"), body], 415),
                ("POST", "/nowhere", &[TUS, OCTETS, body], 404),
                ("PUT", &*path, &[TUS, OCTETS, body], 405),
            ];
            let all =
                refusals.map(|(method, path, headers, status)| is_refused(address, method, path, headers, status));
            join_all(all).await;
        }
        let too_long = ("Content-Length", "101");
        is_refused(address, "PATCH", &path, &[TUS, OCTETS, at("0"), too_long], 413).await;
        is_refused(address, "POST", "/files", &[TUS, OCTETS, length("100"), too_long], 413).await;
        assert_eq!(client.offset(&path).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_the_token_is_refused_before_it_is_told_to_send() {
    let servers =
        Servers::with(|config| config.auth.token = Some(SecretText::new("the-shared-token".to_owned()))).await;
    for address in servers.addresses {
        for token in [&[][..], &[("Authorization", "Bearer another-token")]] {
            let headers = [token, &[TUS, OCTETS, ("Upload-Offset", "0"), ("Content-Length", "50")]].concat();
            is_refused(address, "PATCH", "/files/x", &headers, 401).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_first_is_told_to_send_once_and_its_connection_lives_on() {
    let servers = Servers::with(|_| {}).await;
    let half = vec![7; MIB];
    let length = half.len().to_string();
    for address in servers.addresses {
        let mut client = Client::connect(address).await;
        let whole = (2 * half.len()).to_string();
        let creation = [TUS, OCTETS, ("Upload-Length", &whole), ("Content-Length", &length), EXPECT];
        client.send_head("POST", "/files", &creation).await;
        assert_eq!(next_head(&mut client).await, GO_ON);
        client.send(&half[..1]).await;
        client.send(&half[1..]).await;
        let head = String::from_utf8(next_head(&mut client).await).unwrap();
        assert!(head.starts_with("HTTP/1.1 201 ") && head.contains("content-length: 0\r\n"), "{head}");
        let path = head.split("location: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let path = path[path.find("/files/").unwrap()..].to_owned();

        let patch = [TUS, OCTETS, ("Upload-Offset", &length), ("Transfer-Encoding", "chunked"), EXPECT];
        client.send_head("PATCH", &path, &patch).await;
        assert_eq!(next_head(&mut client).await, GO_ON);
        client.send_chunk(&half).await;
        client.send_chunk(b"").await;
        let head = String::from_utf8(next_head(&mut client).await).unwrap();
        assert!(head.starts_with("HTTP/1.1 204 "), "told once, then answered: {head}");
        assert_eq!(client.offset(&path).await, 2 * MIB as u64, "the connection lives on");
        is_whole(address, &path, &[&half[..], &half].concat()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_without_waiting_is_served_all_the_same() {
    let servers = Servers::with(|_| {}).await;
    for address in servers.addresses {
        let mut client = Client::connect(address).await;
        let path = client.create(10).await;
        let patch = |offset: u8| {
            format!(
                "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n\
                 Content-Type: application/offset+octet-stream\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nbytes"
            )
        };
        client.send(patch(0).as_bytes()).await;
        assert_eq!(client.answer("PATCH").await.status, 204);
        // A body that has arrived before the server reaches its request needs no `100`.
        client.send(format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n{}", patch(5)).as_bytes()).await;
        assert_eq!(client.answer("GET").await.status, 200);
        let head = String::from_utf8(next_head(&mut client).await).unwrap();
        assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
        is_whole(address, &path, b"bytesbytes").await;
        assert_eq!(client.offset(&path).await, 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_that_sends_without_waiting() {
    let app = TestApp::start().await;
    let path = app.client().await.create(1 << 30).await;
    for chunked in [false, true].repeat(5) {
        let mut client = app.client().await;
        let body = if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", "5242880") };
        client.send_head("PATCH", &path, &[TUS, OCTETS, ("Upload-Offset", "5"), body, EXPECT]).await;
        for piece in vec![b'x'; 5 * MIB].chunks(64 * 1024) {
            if chunked { client.send_chunk(piece).await } else { client.send(piece).await }
        }
        if chunked {
            client.send_chunk(b"").await;
        }
        assert_eq!(client.answer("PATCH").await.status, 409);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_to_send_what_does_not_exist() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (method, path, headers, status) in [
        ("POST", "/files", &[TUS, ("Upload-Length", "5"), ("Content-Length", "0"), EXPECT][..], "201"),
        ("POST", "/files", &[TUS, ("Upload-Length", "5"), EXPECT], "201"),
        ("OPTIONS", "/files", &[EXPECT], "204"),
    ] {
        client.send_head(method, path, headers).await;
        let head = String::from_utf8(next_head(&mut client).await).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method}: {head}");
    }
    assert_eq!(client.get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_to_send_only_when_its_turn_has_come() {
    let servers = Servers::with(|_| {}).await;
    let source = vec![b'x'; 5 * MIB];
    for address in servers.addresses {
        let mut client = Client::connect(address).await;
        let large = client.create(source.len() as u64).await;
        assert_eq!(client.patch(&large, 0, &source).await.status, 204);
        let path = client.create(5).await;
        client.send_head("GET", &large, &[]).await;
        let headers = [TUS, OCTETS, ("Upload-Offset", "0"), ("Content-Length", "5"), EXPECT];
        client.send_head("PATCH", &path, &headers).await;
        let download = client.answer("GET").await;
        assert!(download.status == 200 && download.body == source, "nothing else is in it");
        assert_eq!(next_head(&mut client).await, GO_ON);
        client.send(b"bytes").await;
        assert_eq!(client.answer("PATCH").await.status, 204);
    }
}

/// Sends a file as the first bytes of an upload with curl, and returns curl's log of the exchange. Returns
/// `None`, with the reason printed, if curl does not start.
async fn curl(app: &TestApp, path: &str, offset: &str, file: &str) -> Option<String> {
    let mut command = Command::new("curl");
    command.args(["-sSv", "-X", "PATCH", "--data-binary", file, "--expect100-timeout", "30"]);
    for header in [EXPECT, TUS, OCTETS, ("Upload-Offset", offset)] {
        command.args(["-H", &format!("{}: {}", header.0, header.1)]);
    }
    command.arg(format!("http://{}{path}", app.address())).stdin(Stdio::null());
    match tokio::task::spawn_blocking(move || command.output()).await.unwrap() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => {
            eprintln!("skipped: curl does not start here: {error}");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_sends_when_it_is_told_to() {
    let app = TestApp::start().await;
    let source = vec![3; 2 * MIB];
    let file = app.folder().join("source");
    std::fs::write(&file, &source).unwrap();
    let file = format!("@{}", file.display());
    let path = app.client().await.create(source.len() as u64).await;
    let Some(refused) = curl(&app, &path, "7", &file).await else { return };
    assert!(refused.contains("< HTTP/1.1 409 ") && !refused.contains("100 Continue"), "{refused}");
    let sent = curl(&app, &path, "0", &file).await.unwrap();
    assert!(sent.contains("< HTTP/1.1 100 Continue") && sent.contains("< HTTP/1.1 204 "), "{sent}");
    is_whole(app.address(), &path, &source).await;
}
