//! HTTP/1.0, which nginx uses for its upstreams unless it is configured otherwise.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::app::TestApp;

/// Sends a request and reads until the server closes the connection, or, for an endless response, until
/// `enough` has arrived.
async fn ask(app: &TestApp, request: &str, enough: Option<&str>) -> (String, String) {
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let reading = async {
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).await.unwrap();
            read.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&read);
            if count == 0 || enough.is_some_and(|enough| text.contains(enough)) {
                return text.into_owned();
            }
        }
    };
    let text = tokio::time::timeout(std::time::Duration::from_secs(30), reading).await.expect("an answer in time");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_length_ends_with_the_connection() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = client.create(10).await;
    assert_eq!(client.patch(&path, 0, b"0123456789").await.status, 204);
    let events = path.replace("/files/", "/api/v1/uploads/") + "/events";
    for (target, host) in [("/api/v1/events", "Host: localhost\r\n"), ("/api/v1/events", ""), (events.as_str(), "")] {
        let (head, body) = ask(&app, &format!("GET {target} HTTP/1.0\r\n{host}\r\n"), Some("\n\n")).await;
        assert!(head.starts_with("http/1.0 200"), "{target}: {head}");
        assert!(!head.contains("transfer-encoding"), "RFC 9112, 6.1: {target}: {head}");
        assert!(body.starts_with("id: "), "{target}: it begins with an event and not with a length: {body:?}");
    }
    for target in ["/api/v1/uploads", "/metrics", "/healthz", path.as_str()] {
        let (head, body) = ask(&app, &format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n"), None).await;
        let length = format!("content-length: {}", body.len());
        assert!(head.starts_with("http/1.0 200") && head.contains(&length), "{target}: {head}");
        assert!(!head.contains("transfer-encoding"), "{target}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_says_nothing_of_a_body_has_none() {
    let app = TestApp::start().await;
    for (target, fields, status) in [
        ("/files", "Tus-Resumable: 1.0.0\r\nUpload-Length: 10\r\n", 201),
        ("/files?uploadType=resumable&name=a.mp4", "", 200),
        ("/files", "Content-Type: application/x-www-form-urlencoded\r\n", 201),
    ] {
        let request = format!("POST {target} HTTP/1.0\r\nHost: localhost\r\n{fields}\r\n");
        let (head, _) = ask(&app, &request, None).await;
        assert!(head.starts_with(&format!("http/1.0 {status}")), "RFC 9112, 6.3: {target}: {head}");
    }
    // The head arrives in pieces, so the server has to buffer and join them.
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = "POST /files HTTP/1.0\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Length: 7\r\n\r\n";
    for piece in request.as_bytes().chunks(9) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 201"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_head_is_said() {
    let app = TestApp::start().await;
    for (request, why) in [
        ("GET /files HTTP/1.1\r\n\r\n", "exactly one Host"),
        ("GET /files HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "exactly one Host"),
        ("GET /files HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "exactly one Host"),
        (
            "POST /files HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding",
        ),
        ("POST /files HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
    ] {
        let (head, body) = ask(&app, request, None).await;
        assert!(head.contains(" 400 ") && head.contains("application/problem+json"), "{request:?}: {head}");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(why), "{request:?}: {problem}");
    }
}
