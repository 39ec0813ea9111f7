//! `Upload-Metadata`: its grammar, its echo, and malicious file names.

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::tus::{base64, completed, create_with, known_uploads};

async fn created(client: &mut Client, metadata: &[&str]) -> (String, Value, Option<String>) {
    let mut headers = vec![("Upload-Length", "5")];
    headers.extend(metadata.iter().map(|value| ("Upload-Metadata", *value)));
    let upload = create_with(client, &headers).await;
    let status = client.status(&upload).await;
    let echoed = client.head(&upload).await.header("upload-metadata").map(str::to_owned);
    (upload, status["metadata"].clone(), echoed)
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_read_and_echoed_unchanged() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (sent, read, why) in [
        ("k1 aGVsbG8=", json!({"k1": "hello"}), "tus 25: a key, a blank, base64"),
        ("k1 aGVsbG8=,k2", json!({"k1": "hello", "k2": ""}), "tus 26: no value"),
        ("k1 aGVsbG8=,k2 ", json!({"k1": "hello", "k2": ""}), "tus 26: a blank and no value, last"),
        ("a ,b Yg==", json!({"a": "", "b": "b"}), "tus 26: a blank and no value, first"),
        ("a,b,c", json!({"a": "", "b": "", "c": ""}), "tus 26"),
        ("a YQ==, b Yg==", json!({"a": "a", "b": "b"}), "tus 27: a blank after the comma"),
        ("a YQ==,\tb Yg==", json!({"a": "a", "b": "b"}), "tus 27: a tab after the comma"),
        ("a YQ== ,b Yg==", json!({"a": "a", "b": "b"}), "a blank before the comma"),
        ("z eg==,a YQ==,m bQ==", json!({"z": "z", "a": "a", "m": "m"}), "tus 33: the order stays"),
        (
            "!#$%&'*+-.^_`|~;=:\"/ YQ==",
            json!({"!#$%&'*+-.^_`|~;=:\"/": "a"}),
            "tus 25: keys are any ASCII but , and blank",
        ),
        ("a YQ==,A Qg==", json!({"a": "a", "A": "B"}), "tus 25: letter case matters"),
        ("name w6TDtsO8", json!({"name": "äöü"}), "a text that is not ASCII"),
        ("a YQ", json!({"a": "a"}), "base64 without padding"),
        ("a YWI=,b YWI", json!({"a": "ab", "b": "ab"}), "base64 with and without padding"),
        ("a YQ==,", json!({"a": "a"}), "RFC 9110, 5.6.1.2: nothing behind a comma"),
        (",a YQ==,,b Yg==", json!({"a": "a", "b": "b"}), "RFC 9110, 5.6.1.2: nothing between commas"),
    ] {
        let (_, metadata, echoed) = created(&mut client, &[sent]).await;
        assert_eq!(metadata, read, "{why}: {sent:?}");
        assert_eq!(echoed.as_deref(), Some(sent.trim_end()), "tus 24, 33: {sent:?} is echoed as it came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_metadata_is_none() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for sent in [&[""][..], &["", ""], &[]] {
        let (_, metadata, echoed) = created(&mut client, sent).await;
        assert_eq!((metadata, echoed), (json!({}), None), "tus 30: {sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_lines_are_one_list() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (_, metadata, echoed) = created(&mut client, &["a YQ==,b Yg==", "c Yw=="]).await;
    assert_eq!(metadata, json!({"a": "a", "b": "b", "c": "c"}), "tus 31");
    assert_eq!(echoed.as_deref(), Some("a YQ==,b Yg==,c Yw=="), "tus 31, 33");
    let (_, metadata, _) = created(&mut client, &["a YQ==", "", "b Yg=="]).await;
    assert_eq!(metadata, json!({"a": "a", "b": "b"}), "tus 30, 31: an empty line adds nothing");
    let twice = [("Upload-Length", "5"), ("Upload-Metadata", "a YQ=="), ("Upload-Metadata", "a Yg==")];
    assert_eq!(client.tus("POST", "/files", &twice, b"").await.status, 400, "tus 31: names are unique over all lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_cannot_be_read_is_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (sent, why) in [
        ("a YQ==,a Yg==", "tus 28: a key twice"),
        ("a,b,a", "tus 28"),
        ("a YQ===", "tus 29"),
        ("a _-8=", "tus 29: the alphabet of URLs"),
        ("a Y Q==", "tus 29: a blank inside"),
        ("a  YQ==", "tus 25: two blanks"),
        ("a !!!!", "tus 29"),
        ("a YQ==YQ==", "tus 29"),
        ("a YR==", "tus 29: bits that say nothing"),
        ("k\u{e4}se YQ==", "tus 25: a key is ASCII"),
    ] {
        let answer = client.tus("POST", "/files", &[("Upload-Length", "5"), ("Upload-Metadata", sent)], b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-header"), "{why}: {sent:?}");
    }
    assert_eq!(known_uploads(&mut client).await.len(), 0, "nothing was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_not_text_survive() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = [0xff, 0xfe, 0x00, 0x80, 0x0d, 0x0a];
    let sent = format!("raw {},text {}", base64(bytes), base64("a\r\nb"));
    let (_, metadata, echoed) = created(&mut client, &[&sent]).await;
    let read = json!({"raw": {"base64": base64(bytes)}, "text": "a\r\nb"});
    assert_eq!(metadata, read, "tus 32: never decoded with losses");
    assert_eq!(echoed, Some(sent), "tus 32, 33");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_cannot_break_out_of_headers_or_folders() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (name, disposition, shown) in [
        ("video.mp4", "attachment; filename=\"video.mp4\"", Some("video.mp4")),
        (
            "a\r\nSet-Cookie: x=1\r\n\r\n<script>.mp4",
            "attachment; filename=\"aSet-Cookie: x=1<script>.mp4\"",
            Some("aSet-Cookie: x=1<script>.mp4"),
        ),
        ("../../../etc/passwd", "attachment; filename=\"passwd\"", Some("passwd")),
        ("..\\..\\boot.ini", "attachment; filename=\"boot.ini\"", Some("boot.ini")),
        ("/", "attachment", None),
        ("..", "attachment", None),
        ("\0", "attachment", None),
        ("a\0b.mp4", "attachment; filename=\"ab.mp4\"", Some("ab.mp4")),
        (
            "a\"; filename=\"evil.exe",
            "attachment; filename=\"a_; filename=_evil.exe\"",
            Some("a\"; filename=\"evil.exe"),
        ),
        ("100%41.mp4", "attachment; filename=\"100_41.mp4\"; filename*=UTF-8''100%2541.mp4", Some("100%41.mp4")),
        (
            "naïve €.mp4",
            "attachment; filename=\"na_ve _.mp4\"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.mp4",
            Some("naïve €.mp4"),
        ),
        ("x\u{202e}4pm.exe", "attachment; filename=\"x4pm.exe\"", Some("x4pm.exe")),
    ] {
        let metadata = format!("filename {}", base64(name));
        let upload = completed(&mut client, &[("Upload-Metadata", &metadata)], b"hello").await;
        let answer = client.get(&upload).await;
        assert_eq!(answer.header("content-disposition"), Some(disposition), "tus 34: {name:?}");
        assert_eq!(answer.header("set-cookie"), None, "tus 34");
        assert_eq!(answer.body, b"hello");
        assert_eq!(client.status(&upload).await["filename"], json!(shown), "tus 34: {name:?}");
    }
    let named = app.stored_files().into_iter().filter(|path| {
        let path = path.to_string_lossy();
        ["passwd", "boot", "video", "evil"].iter().any(|word| path.contains(word))
    });
    assert_eq!(named.count(), 0, "nothing a client says names a file");
    assert!(!app.folder().join("passwd").exists() && !app.data_dir().join("passwd").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_cannot_stand_in_a_header_are_not_put_there() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (named, told) in [
        ("video/mp4", "video/mp4"),
        ("text/csv; charset=utf-8", "text/csv; charset=utf-8"),
        ("text/html; charset=utf-8", "application/octet-stream"),
        // An unreadable type is ignored, and the type is detected from the bytes.
        ("text/html\r\nX-Evil: 1", "text/plain"),
        ("text", "text/plain"),
        ("a/b/c", "text/plain"),
        ("vid\u{e9}o/mp4", "text/plain"),
        ("", "text/plain"),
    ] {
        let metadata = format!("filetype {}", base64(named));
        let upload = completed(&mut client, &[("Upload-Metadata", &metadata)], b"hello").await;
        let answer = client.get(&upload).await;
        assert_eq!(answer.header("content-type"), Some(told), "tus 34: {named:?}");
        assert_eq!(answer.header("x-evil"), None, "tus 34");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_bounded() {
    let app = TestApp::with(|config| config.limits.max_metadata_bytes = 1_000).await;
    let mut client = app.client().await;
    let of_size = |size: usize| format!("k {}", "A".repeat(size - 2));
    let upload = |metadata: &str| {
        [("Upload-Length".to_owned(), "5".to_owned()), ("Upload-Metadata".to_owned(), metadata.to_owned())]
    };
    for (metadata, status) in [
        (of_size(998), 201),
        (of_size(1_002), 431),
        (of_size(60_000), 431),
        ((0..64).map(|i| format!("k{i}")).collect::<Vec<_>>().join(","), 201),
        ((0..65).map(|i| format!("k{i}")).collect::<Vec<_>>().join(","), 400),
    ] {
        let headers = upload(&metadata);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = client.tus("POST", "/files", &headers, b"").await;
        assert_eq!(answer.status, status, "tus 35: {} bytes", metadata.len());
    }
    let half = of_size(602);
    let lines = [("Upload-Length", "5"), ("Upload-Metadata", &half), ("Upload-Metadata", &half)];
    assert_eq!(client.tus("POST", "/files", &lines, b"").await.status, 431, "tus 35: all lines together");
    assert_eq!(known_uploads(&mut client).await.len(), 2);
}
