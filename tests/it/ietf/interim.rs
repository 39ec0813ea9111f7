//! `104 Upload Resumption Supported`: before the body, and while it arrives.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ietf::{END, MORE, PARTIAL, begin, count, download, limit, location, offset, version};
use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::http2;
use crate::support::tls::{Certificate, connect};

/// Sends chunks until an interim response arrives. Returns it with the number of chunks sent.
async fn send_until_told(client: &mut Client, chunk: &[u8]) -> (crate::support::client::Answer, usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    for sent in 1.. {
        assert!(Instant::now() < deadline, "the offset is reported in the end");
        client.send_chunk(chunk).await;
        let told = tokio::time::timeout(Duration::from_millis(20), client.next_interim()).await;
        if let Ok(told) = told {
            return (told, sent);
        }
    }
    unreachable!("there is no end to the numbers")
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_tells_committed_bytes_and_not_too_often() {
    let app = TestApp::start().await;
    let mut asking = app.client().await;
    let mut client = app.client().await;
    for (creation, number) in [(true, "6"), (false, "8")] {
        let began = Instant::now();
        let upload = if creation {
            client.send_head("POST", "/files", &[version(number), END, ("Transfer-Encoding", "chunked")]).await;
            location(&client.next_interim().await)
        } else {
            let upload = begin(&mut asking, None).await;
            let headers = [PARTIAL, version(number), END, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")];
            client.send_head("PATCH", &upload, &headers).await;
            upload
        };
        let (mut told_before, mut sent) = (0, 0);
        for round in 1..=2 {
            let (told, chunks) = send_until_told(&mut client, &[b'x'; 1000]).await;
            sent += chunks * 1000;
            assert_eq!(told.status, 104, "ietf 22, 59");
            assert_eq!(told.header("location"), None, "ietf 22, 59: no place with progress");
            assert_eq!(told.header("upload-draft-interop-version"), Some(number), "ietf 1");
            let at: u64 = told.header("upload-offset").expect("ietf 22, 59").parse().unwrap();
            assert!(told_before < at && at <= sent as u64, "ietf 59: {told_before} < {at} <= {sent}");
            let committed = asking.status(&upload).await["offset"].as_u64().unwrap();
            assert!(committed >= at, "ietf 59: only committed bytes are reported: {at}, {committed}");
            assert!(began.elapsed() >= Duration::from_secs(round), "ietf 59: once a second at most");
            told_before = at;
        }
        client.send_chunk(b"").await;
        let answer = client.answer("POST").await;
        assert_eq!((answer.status, location(&answer)), (201, upload.clone()), "ietf 27");
        assert_eq!(download(&mut asking, &upload).await, vec![b'x'; sent], "ietf 59");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_be_told_is_told_both() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let headers = [version("8"), END, ("Content-Length", "5"), ("Expect", "100-continue")];
    client.send_head("POST", "/files", &headers).await;
    assert_eq!(client.next_interim().await.status, 104, "ietf 38");
    assert_eq!(client.next_interim().await.status, 100, "ietf 38: although a 104 went out");
    client.send(b"hello").await;
    assert_eq!(client.answer("POST").await.status, 201, "ietf 38");
    // A rejection that the head is enough for is sent before the client sends anything.
    let headers = [version("8"), END, ("Content-Length", "5"), ("Upload-Length", "6"), ("Expect", "100-continue")];
    client.send_head("POST", "/files", &headers).await;
    assert_eq!(client.answer("POST").await.status, 400);
    assert!(client.interim.is_empty(), "neither 104 nor 100");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_has_no_interim_responses() {
    let app = TestApp::start().await;
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    let head = "POST /files HTTP/1.0\r\nHost: localhost\r\nUpload-Draft-Interop-Version: 8\r\nUpload-Complete: ?1\r\n";
    stream.write_all(format!("{head}Content-Length: 5\r\n\r\nhello").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 201 "), "ietf 21: {answer}");
    assert!(!answer.contains(" 104 "), "ietf 21: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_tls_they_are_told_too_and_over_http_2_a_careful_creation_does_without() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| certificate.configure(config)).await;
    let mut stream = connect(&certificate.connector(&["http/1.1"]), app.address()).await.unwrap();
    let head = "POST /files HTTP/1.1\r\nHost: localhost\r\nUpload-Draft-Interop-Version: 8\r\nUpload-Complete: ?1\r\n";
    stream.write_all(format!("{head}Content-Length: 5\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    let told = String::from_utf8(read).unwrap();
    assert!(told.starts_with("HTTP/1.1 104 ") && told.contains("location: /files/"), "ietf 21: {told}");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    // The server may close the connection without closing TLS first.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 201 "), "ietf 25: {}", String::from_utf8_lossy(&answer));

    let mut client = http2::Client::connect(app.address(), &certificate).await;
    let careful = client.begin("POST", "/files", &[version("8"), MORE], true).await;
    let careful = careful.answer("POST").await;
    assert_eq!((careful.status, careful.header("upload-complete")), (201, Some("?0")), "ietf 24: {careful:?}");
    assert!(limit(&careful, "max-size").is_some(), "ietf 24");
    let upload = location(&careful);
    let upload = &upload[upload.find("/files/").unwrap()..];
    let headers = [PARTIAL, version("8"), ("Upload-Offset", "0"), END, ("Content-Length", "5")];
    let mut last = client.begin("PATCH", upload, &headers, false).await;
    last.send("hello".into()).await.unwrap();
    last.end();
    let last = last.answer("PATCH").await;
    assert_eq!((last.status, last.header("upload-complete")), (201, Some("?1")), "ietf 24, 48: {last:?}");
    let head = client.begin("HEAD", upload, &[version("8")], true).await.answer("HEAD").await;
    assert_eq!((head.status, head.header("upload-offset")), (204, Some("5")), "ietf 40");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_creations_each_get_their_own() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let mut all = Vec::new();
    for i in 0..10 {
        let head =
            format!("POST /files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX-Request-ID: request-{i}\r\n");
        all.extend(format!("{head}Upload-Draft-Interop-Version: 6\r\nUpload-Complete: ?1\r\n\r\nhello").into_bytes());
    }
    client.send(&all).await;
    for i in 0..10 {
        client.interim.clear();
        let answer = client.answer("POST").await;
        assert_eq!((answer.status, answer.header("x-request-id")), (201, Some(format!("request-{i}").as_str())));
        for told in &client.interim {
            assert_eq!(told.header("location"), answer.header("location"), "ietf 27: of this request and no other");
        }
        let upload = location(&answer);
        let mut other = app.client().await;
        assert_eq!(offset(&mut other, &upload).await, (5, true), "request {i}");
    }
    assert_eq!(count(&mut app.client().await).await, 10);
}
