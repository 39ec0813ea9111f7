//! Malicious requests: paths, headers and framing that are made to confuse.

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS};
use crate::tus::known_uploads;

/// Sends bytes unchanged on a separate connection, and reads the response.
async fn sent_raw(app: &TestApp, bytes: &[u8]) -> Option<Answer> {
    let mut client = app.client().await;
    client.send(bytes).await;
    client.raw_answer("POST").await
}

/// Returns a creation with these lines between the usual ones.
fn creation(lines: &[u8]) -> Vec<u8> {
    [b"POST /files HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nContent-Length: 0\r\n", lines, b"\r\n\r\n"]
        .concat()
}

async fn is_well(app: &TestApp) {
    let mut client = app.client().await;
    let upload = client.create(5).await;
    assert_eq!(client.patch(&upload, 0, b"hello").await.status, 204);
    assert_eq!(client.get(&upload).await.body, b"hello");
    assert_eq!(client.tus("DELETE", &upload, &[], b"").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_paths_find_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = crate::tus::completed(&mut client, &[], b"hello").await;
    let id = upload.trim_start_matches("/files/");
    std::fs::write(app.folder().join("secret"), "secret").unwrap();
    for id in [
        "..",
        ".",
        "%2e%2e",
        "%2E%2E%2Fsecret",
        "..%2f..%2fsecret",
        "..%5c..%5csecret",
        "..%252f..%252fsecret",
        "%00",
        "a%00b",
        "%ff%fe",
        "%",
        "%zz",
        "longshore.db",
        "-",
        "0",
        &format!("{id}%00"),
        &format!("{id}%20"),
        &format!("%20{id}"),
        &format!("{id}."),
        &format!("{id}/.."),
        &format!("{id};x"),
        &id.to_uppercase(),
        &id.replace('-', ""),
        &format!("%7b{id}%7d"),
        &format!("urn:uuid:{id}"),
        &"a".repeat(10_000),
    ] {
        for (method, headers) in
            [("HEAD", &[][..]), ("GET", &[]), ("PATCH", &[OCTETS, ("Upload-Offset", "0")]), ("DELETE", &[])]
        {
            for path in [format!("/files/{id}"), format!("/api/v1/uploads/{id}")] {
                let answer = client.tus(method, &path, headers, b"").await;
                assert!(matches!(answer.status, 404 | 405), "{method} {path}: {answer:?}");
                assert!(!answer.body.windows(6).any(|window| window == b"secret\0"), "{path}");
            }
        }
    }
    assert_eq!(client.get(&upload).await.body, b"hello", "the real one was not touched");
    let encoded: String = upload.replace('-', "%2d");
    assert_eq!(client.get(&encoded).await.body, b"hello", "the same id, escaped, is the same id");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_not_plain_text_are_refused() {
    let app = TestApp::start().await;
    for lines in [
        &b"Upload-Length: \xc3\xa4"[..],
        b"Upload-Length: \xff",
        b"Upload-Length: 5\r\nUpload-Metadata: name \xff\xfe",
        b"Upload-Length: 5\r\nUpload-Metadata: n\xc3\xa4me YQ==",
        b"Upload-Length: 5\r\nUpload-Concat: p\xc3\xa4rtial",
        b"Upload-Length: 5\r\nContent-Digest: sha-256=:\x80:",
        b"Upload-Length: 5\r\nUpload-Length: 5",
        b"Upload-Length: 5\r\nupload-length: 6",
        b"Upload-Length: 5\r\nUpload-Defer-Length: \xb9",
        b"Upload-Length: 5\r\nContent-Type: \xff",
        b"Upload-Length: 5\r\nX-HTTP-Method-Override: \xff",
        b"Upload-Length: 5\r\nRepr-Digest: \xff",
        b"Upload-Length: 5\x00",
        b"Upload-Length: 5\r\nUpload-Metadata: name YQ==\x00",
        b"Upload-Length: 5\r\nUpload-Metadata: name\x01 YQ==",
        b"Upload-Length: 5\r\nX\x00Y: z",
        b"Upload-Length: 5\r\nno colon at all",
        b"Upload-Length: 5\r\n: no name",
        b"Upload-Length: 5\r\nUpload-Metadata : name YQ==",
        b"Upload-Length: 5\r\nUpload-Metadata: a YQ==\r\n folded",
    ] {
        let answer = sent_raw(&app, &creation(lines)).await.expect("an answer");
        assert_eq!(answer.status, 400, "{:?}: {answer:?}", String::from_utf8_lossy(lines));
    }
    let answer = sent_raw(&app, &creation(b"Upload-Length: 5\r\nTus-Resumable: 1.0.0")).await.unwrap();
    assert!(matches!(answer.status, 400 | 412), "two versions are none: {answer:?}");
    assert_eq!(known_uploads(&mut app.client().await).await.len(), 0, "nothing was created");
    is_well(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_headers_are_refused_and_the_server_lives_on() {
    let app = TestApp::start().await;
    let long = "A".repeat(100_000);
    let many: String = (0..60).map(|i| format!("X-{i}: y\r\n")).collect();
    let too_many: String = (0..2_000).map(|i| format!("X-{i}: y\r\n")).collect();
    let endless = "B".repeat(1_000_000);
    for (lines, statuses) in [
        (format!("Upload-Length: 5\r\nUpload-Metadata: name {long}"), &[431][..]),
        (format!("Upload-Length: {}", "9".repeat(50_000)), &[400]),
        (format!("Upload-Length: 5\r\nUpload-Concat: final;{long}"), &[400]),
        (format!("Upload-Length: 5\r\nContent-Digest: {long}"), &[400]),
        (format!("Upload-Length: 5\r\n{}", many.trim_end()), &[201]),
        (format!("Upload-Length: 5\r\n{}", too_many.trim_end()), &[400, 431]),
        (format!("Upload-Length: 5\r\nX: {endless}"), &[400, 431]),
    ] {
        // The rest of an endless head may arrive at a closed connection, and the response may be lost with
        // it.
        if let Some(answer) = sent_raw(&app, &creation(lines.as_bytes())).await {
            assert!(statuses.contains(&answer.status), "{}…: {answer:?}", &lines[..40]);
            assert!(answer.body.len() < 2_000, "the input is not repeated at length");
        } else {
            assert!(lines.len() > 131_072, "{}… is answered", &lines[..40]);
        }
    }
    assert_eq!(known_uploads(&mut app.client().await).await.len(), 1, "one of them was in order");
    is_well(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn framing_that_can_be_read_in_two_ways_is_refused() {
    let app = TestApp::start().await;
    let upload = app.client().await.create(10).await;
    let head = format!(
        "PATCH {upload} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n\
         Content-Type: application/offset+octet-stream\r\n"
    );
    for (lines, body) in [
        ("Content-Length: 5\r\nContent-Length: 6", "hello!"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Content-Length: +5", "hello"),
        ("Content-Length: -5", "hello"),
        ("Content-Length: 5x", "hello"),
        ("Content-Length: 0x5", "hello"),
        ("Content-Length: 18446744073709551616", "hello"),
        ("Transfer-Encoding: chunked, identity", "5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let answer = sent_raw(&app, format!("{head}{lines}\r\n\r\n{body}").as_bytes()).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 400, "{lines:?}: {answer:?}");
        assert_eq!(app.client().await.offset(&upload).await, 0, "{lines:?}");
    }
    for chunk in ["-5\r\nhello\r\n0\r\n\r\n", "zz\r\nhello\r\n0\r\n\r\n", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"] {
        let request = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}");
        if let Some(answer) = sent_raw(&app, request.as_bytes()).await {
            assert!(answer.status >= 400, "{chunk:?}: {answer:?}");
        }
        assert_eq!(app.client().await.offset(&upload).await, 0, "a chunk of no size brings nothing: {chunk:?}");
    }
    is_well(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_answered_or_closed() {
    let app = TestApp::start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /files\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /fi les HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /files HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"PATCH\t/files HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client: Client = app.client().await;
        client.send(bytes).await;
        // The request has no end, so the server would wait for more.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await;
        if let Some(answer) = client.raw_answer("GET").await {
            assert!((400..600).contains(&answer.status), "{:?}: {answer:?}", String::from_utf8_lossy(bytes));
        }
    }
    is_well(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_tell_what_to_change_and_nothing_else() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let folder = app.folder().to_string_lossy().into_owned();
    let hostile = "\"><script>alert(1)</script>";
    for (method, path, headers) in [
        ("POST", "/files", &[("Upload-Length", hostile)][..]),
        ("POST", "/files", &[("Upload-Length", "5"), ("Upload-Concat", "final;<script>")]),
        ("POST", "/files", &[("Upload-Concat", "final;/<script>alert(1)</script>")]),
        ("POST", "/files", &[("Upload-Length", "5"), ("Repr-Digest", "<script>=:YQ==:")]),
        ("POST", "/files", &[("Tus-Resumable", hostile)]),
        ("GET", "/files/%3Cscript%3E", &[]),
        ("GET", "/api/v1/uploads?x=%3Cscript%3E", &[]),
        ("BREW", "/files", &[]),
    ] {
        let mut all = headers.to_vec();
        if !headers.iter().any(|(name, _)| *name == "Tus-Resumable") {
            all.push(crate::support::client::TUS);
        }
        let answer = client.request(method, path, &all, b"").await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
        let body = String::from_utf8(answer.body.clone()).unwrap();
        assert!(!body.contains(&folder) && !body.contains("src/") && !body.contains("panicked"), "{body}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "never a page that a browser runs");
    }
}
