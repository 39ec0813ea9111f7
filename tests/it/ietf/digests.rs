//! Digest fields (RFC 9530): of the bytes of one request, and of the whole upload.

use sha2::Digest as _;

use crate::ietf::{
    END, MORE, PARTIAL, append, begin, count, create, download, end_in, kind, location, offset, send, version,
};
use crate::support::app::TestApp;
use crate::support::client::OCTETS;
use crate::tus::{base64, wait_for_status};

const MISMATCHED: &str = "https://iana.org/assignments/http-problem-types#digest-mismatched-values";
const INVALID: &str = "https://iana.org/assignments/http-problem-types#digest-invalid-values";
const UNSUPPORTED: &str = "https://iana.org/assignments/http-problem-types#digest-unsupported-algorithms";

fn sha256(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", base64(sha2::Sha256::digest(bytes)))
}

/// Returns the digest of some bytes with each algorithm that the server can check.
fn all(bytes: &[u8]) -> [String; 5] {
    [
        sha256(bytes),
        format!("sha-512=:{}:", base64(sha2::Sha512::digest(bytes))),
        format!("sha=:{}:", base64(sha1::Sha1::digest(bytes))),
        format!("md5=:{}:", base64(md5::Md5::digest(bytes))),
        format!("crc32c=:{}:", base64(crc32c::crc32c(bytes).to_be_bytes())),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_digest_must_match_or_nothing_is_appended() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(30)).await;
    let mut at = 0;
    for digest in all(b"hello") {
        let place = at.to_string();
        let headers = [PARTIAL, ("Upload-Offset", place.as_str()), MORE, ("Content-Digest", &digest)];
        let wrong = send(&mut client, "PATCH", &upload, &headers, b"hellO").await;
        assert_eq!((wrong.status, kind(&wrong).as_str()), (400, MISMATCHED), "ietf 72, 76: {digest}");
        assert_eq!(wrong.header("upload-complete"), Some("?0"), "ietf 72");
        let (algorithm, value) = digest.split_once('=').unwrap();
        let expected = serde_json::json!([
            { "algorithm": algorithm, "provided_digest": value, "header": "Content-Digest" }
        ]);
        assert_eq!(wrong.json()["mismatched_digests"], expected, "ietf 76: without the computed digest");
        assert_eq!(offset(&mut client, &upload).await, (at, false), "ietf 72: {digest}");
        assert_eq!(send(&mut client, "PATCH", &upload, &headers, b"hello").await.status, 204, "ietf 72: {digest}");
        at += 5;
    }
    assert_eq!(append(&mut client, &upload, 25, true, b"world").await.status, 201);
    assert_eq!(download(&mut client, &upload).await, b"hellohellohellohellohelloworld", "ietf 72");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_whose_bytes_do_not_match_keeps_an_empty_upload() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let digest = sha256(b"hello");
    for end in [true, false] {
        for (sent, status) in [(&b"hellO"[..], 400), (b"", 400), (b"hello", 201)] {
            let headers = [end_in("", end), ("Content-Digest", &digest)];
            let answer = create(&mut client, &headers, sent).await;
            assert_eq!(answer.status, status, "ietf 72: {end} {sent:?}");
            let at = if status == 201 { (5, end) } else { (0, false) };
            assert_eq!(offset(&mut client, &location(&answer)).await, at, "ietf 33, 72: {end} {sent:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_request_with_a_digest_leaves_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(103)).await;
    append(&mut client, &upload, 0, false, b"abc").await;
    for reset in [false, true] {
        let mut cut = app.client().await;
        // The digest even matches the bytes that arrive, which are fewer than announced.
        let digest = sha256(&[b'x'; 40]);
        let headers =
            [PARTIAL, ("Upload-Offset", "3"), END, ("Content-Length", "100"), ("Content-Digest", digest.as_str())];
        cut.send_head("PATCH", &upload, &headers).await;
        cut.send(&[b'x'; 40]).await;
        wait_for_status(&mut client, &upload, |status| status["received"] == 43).await;
        if reset {
            cut.rst()
        } else {
            cut.fin().await
        }
        wait_for_status(&mut client, &upload, |status| status["bytes_per_second"].is_null()).await;
        assert_eq!(offset(&mut client, &upload).await, (3, false), "ietf 72: reset {reset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_about_the_whole_is_checked_at_the_end() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for digest in all(b"hello world") {
        let promise = ("Repr-Digest", digest.as_str());
        let kept = create(&mut client, &[END, promise], b"hello world").await;
        assert_eq!(kept.status, 201, "ietf 73: {digest}");
        assert_eq!(kept.header("repr-digest"), Some(digest.as_str()), "ietf 74: {digest}");
        for begun_with in [&b""[..], b"hello "] {
            let upload = location(&create(&mut client, &[MORE, promise], begun_with).await);
            let rest = if begun_with.is_empty() { &b"hello world"[..] } else { b"world" };
            let kept = append(&mut client, &upload, begun_with.len(), true, rest).await;
            assert_eq!(kept.status, 201, "ietf 73: {digest}");

            let upload = location(&create(&mut client, &[MORE, promise], begun_with).await);
            let broken = append(&mut client, &upload, begun_with.len(), true, b"wrong").await;
            assert_eq!((broken.status, kind(&broken).as_str()), (400, MISMATCHED), "ietf 73, 76: {digest}");
            assert_eq!(broken.header("upload-complete"), Some("?1"), "ietf 62, 73: there is nothing to resume");
            assert_eq!(broken.json()["mismatched_digests"][0]["header"], "Repr-Digest", "ietf 76");
            assert_eq!(client.status(&upload).await["stage"], "failed", "ietf 73");
            assert_eq!(client.get(&upload).await.status, 410, "ietf 73: it cannot be downloaded");
        }
        let broken = create(&mut client, &[END, promise], b"hello worlD").await;
        assert_eq!((broken.status, broken.header("upload-complete")), (400, Some("?1")), "ietf 73: {digest}");
        assert_eq!(broken.header("location"), None, "ietf 73: there is nothing to resume");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_that_were_wanted_are_told_at_the_end() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let want = ("Want-Repr-Digest", "sha-256=5, sha-512=3, unixsum=9, md5=0");
    let [sha256, sha512, ..] = all(b"hello");
    let expected = format!("{sha256}, {sha512}");
    let answer = create(&mut client, &[END, want], b"hello").await;
    assert_eq!(answer.header("repr-digest"), Some(expected.as_str()), "ietf 74, 75");
    let upload = location(&create(&mut client, &[MORE, want], b"hel").await);
    let more = append(&mut client, &upload, 3, false, b"").await;
    assert_eq!(more.header("repr-digest"), None, "ietf 74: only at the end");
    let answer = append(&mut client, &upload, 3, true, b"lo").await;
    assert_eq!(answer.header("repr-digest"), Some(expected.as_str()), "ietf 74");
    assert_eq!(create(&mut client, &[END], b"hello").await.header("repr-digest"), None, "it was not requested");
    // A digest that is computed for every upload can still be requested with the last bytes.
    let upload = begin(&mut client, None).await;
    let headers = [PARTIAL, ("Upload-Offset", "0"), END, ("Want-Repr-Digest", "crc32c=1, sha-256=2")];
    let answer = send(&mut client, "PATCH", &upload, &headers, b"hello").await;
    assert_eq!(answer.header("repr-digest"), Some(all(b"hello")[4].as_str()), "ietf 74");
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_that_cannot_be_used_are_refused_before_anything_happens() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(5)).await;
    for name in ["Content-Digest", "Repr-Digest"] {
        for (value, expected) in [
            ("adler=:YQ==:, unixsum=:YQ==:", Some(UNSUPPORTED)),
            ("crc32=:AAAAAA==:", Some(UNSUPPORTED)),
            ("sha-256=:YQ==:", Some(INVALID)),
            ("sha-256=5, sha-512=\"x\"", Some(INVALID)),
            ("sha-256=:YQ==", None),
            ("nonsense,", None),
        ] {
            let answer = create(&mut client, &[version("8"), END, (name, value)], b"hello").await;
            assert_eq!(answer.status, 400, "ietf 75, 76: {name}: {value}");
            let expected = expected.unwrap_or("urn:longshore:problem:bad-header");
            assert_eq!(kind(&answer), expected, "ietf 75, 76: {name}: {value}");
            assert_eq!(answer.header("upload-complete"), Some("?1"), "ietf 34: {name}: {value}");
            match expected {
                UNSUPPORTED => assert_eq!(answer.json()["unsupported_algorithms"][0]["header"], name, "ietf 76"),
                INVALID => assert_eq!(answer.json()["invalid_digests"][0]["algorithm"], "sha-256", "ietf 76"),
                _ => {}
            }
        }
    }
    let headers = [PARTIAL, ("Upload-Offset", "0"), END, ("Content-Digest", "adler=:YQ==:")];
    assert_eq!(kind(&send(&mut client, "PATCH", &upload, &headers, b"hello").await), UNSUPPORTED, "ietf 75");
    assert_eq!(offset(&mut client, &upload).await, (0, false), "ietf 75");
    let known = format!("adler=:YQ==:, {}", sha256(b"hello"));
    assert_eq!(create(&mut client, &[END, ("Content-Digest", &known)], b"hello").await.status, 201, "ietf 75: ignored");
    assert_eq!(count(&mut client).await, 2, "nothing else was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn digest_fields_mean_the_same_on_tus_requests() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    for digest in &all(b"hello")[..2] {
        let headers = [OCTETS, ("Upload-Offset", "0"), ("Content-Digest", digest)];
        let answer = client.tus("PATCH", &upload, &headers, b"hellO").await;
        assert_eq!((answer.status, kind(&answer).as_str()), (400, MISMATCHED), "dialects 6: {digest}");
        assert_eq!(client.offset(&upload).await, 0, "dialects 6: {digest}");
    }
    let digest = sha256(b"hello");
    let headers = [OCTETS, ("Upload-Offset", "0"), ("Content-Digest", &digest)];
    assert_eq!(client.tus("PATCH", &upload, &headers, b"hello").await.status, 204, "dialects 6");
    let headers = [OCTETS, ("Upload-Offset", "5"), ("Content-Digest", "adler=:YQ==:")];
    let answer = client.tus("PATCH", &upload, &headers, b"world").await;
    assert_eq!((answer.status, kind(&answer).as_str()), (400, UNSUPPORTED), "dialects 6");
    let headers = [("Upload-Length", "5"), OCTETS, ("Content-Digest", &digest)];
    let answer = client.tus("POST", "/files", &headers, b"hellO").await;
    assert_eq!((answer.status, kind(&answer).as_str()), (400, MISMATCHED), "dialects 6: with the creation");
}
