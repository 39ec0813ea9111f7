//! Discovery of features and versions, and overridden methods.

use crate::support::app::TestApp;
use crate::support::client::{OCTETS, TUS};
use crate::tus::{completed, known_uploads};

const UNKNOWN: &str = "/files/0197b6a1-0000-7000-8000-000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn options_tells_what_the_server_can_do() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 12_345).await;
    let mut client = app.client().await;
    let upload = client.create(5).await;
    for path in ["/files", "/files/", upload.as_str(), UNKNOWN] {
        let answer = client.request("OPTIONS", path, &[], b"").await;
        assert_eq!(answer.status, 204, "tus 1: OPTIONS succeeds on {path}");
        assert_eq!(answer.header("tus-version"), Some("1.0.0"), "tus 1, 2: the versions, most preferred first");
        assert_eq!(
            answer.header("tus-extension"),
            Some("creation,creation-with-upload,creation-defer-length,expiration,checksum,termination,concatenation"),
            "tus 4, 80: exactly the supported extensions, without checksum-trailer"
        );
        assert_eq!(answer.header("tus-max-size"), Some("12345"), "tus 5: the limit");
        let algorithms = answer.header("tus-checksum-algorithm");
        assert_eq!(
            algorithms,
            Some("sha1,sha256,sha512,md5,crc32,crc32c"),
            "tus 6, 73: the algorithms, sha1 among them"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_does_not_mind_any_version() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let told = |answer: &crate::support::client::Answer| {
        let stable = |name: &str| !matches!(name, "date" | "x-request-id");
        let headers = answer.headers.iter().filter(|(name, _)| stable(name));
        (answer.status, headers.cloned().collect::<Vec<_>>())
    };
    let plain = client.request("OPTIONS", "/files", &[], b"").await;
    for versions in [&["1.0.0"][..], &["0.2.2"], &["99"], &[""], &["nonsense"], &["1.0.0", "0.2.2"], &["\u{fc}"]] {
        let headers: Vec<_> = versions.iter().map(|version| ("Tus-Resumable", *version)).collect();
        let answer = client.request("OPTIONS", "/files", &headers, b"").await;
        assert_eq!(told(&answer), told(&plain), "tus 3: OPTIONS with {versions:?} is answered as without");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_the_version() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    let upload = client.create(5).await;
    let deeper = format!("{upload}/deeper");
    // tus 7: also rejections by the router and by limits. The client checks the header of each response.
    for (method, path, headers, status) in [
        ("GET", "/files", &[][..], 405),
        ("GET", "/files/deeper/still", &[], 404),
        ("POST", deeper.as_str(), &[TUS], 404),
        ("HEAD", UNKNOWN, &[], 404),
        ("POST", "/files", &[], 412),
        ("POST", "/files", &[TUS], 400),
        ("POST", "/files", &[TUS, ("Upload-Length", "101")], 413),
        ("POST", upload.as_str(), &[TUS], 405),
        ("PUT", upload.as_str(), &[TUS], 405),
        ("BREW", "/files", &[TUS], 405),
        ("BREW", upload.as_str(), &[TUS], 405),
        ("PATCH", upload.as_str(), &[TUS], 415),
        ("PATCH", upload.as_str(), &[TUS, OCTETS], 400),
        ("PATCH", upload.as_str(), &[TUS, OCTETS, ("Upload-Offset", "3")], 409),
        ("GET", upload.as_str(), &[], 409),
        ("DELETE", upload.as_str(), &[TUS], 204),
        ("GET", upload.as_str(), &[], 410),
    ] {
        let answer = client.request(method, path, headers, b"").await;
        answer.names_the_version();
        assert_eq!(answer.status, status, "{method} {path} {headers:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_changes_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    assert_eq!(client.patch(&upload, 0, b"abc").await.status, 204);
    let before = client.status(&upload).await;
    for version in ["0.2.2", "1.0.1", "1.0", "2.0.0", "1.0.0, 0.2.2", ""] {
        for (method, path, headers, body) in [
            ("POST", "/files", &[("Upload-Length", "5")][..], &b""[..]),
            ("POST", "/files", &[("Upload-Length", "5"), OCTETS], b"hello"),
            ("PATCH", upload.as_str(), &[OCTETS, ("Upload-Offset", "3")], b"defghij"),
            ("POST", upload.as_str(), &[OCTETS, ("Upload-Offset", "3"), ("X-HTTP-Method-Override", "PATCH")], b"d"),
            ("DELETE", upload.as_str(), &[], b""),
            ("HEAD", upload.as_str(), &[], b""),
            ("GET", upload.as_str(), &[], b""),
        ] {
            let mut headers = headers.to_vec();
            headers.push(("Tus-Resumable", version));
            let answer = client.request(method, path, &headers, body).await;
            assert_eq!(answer.status, 412, "tus 8: {method} with version {version:?} is refused: {answer:?}");
            assert_eq!(answer.header("tus-version"), Some("1.0.0"), "tus 8: and told which one is spoken");
            assert_eq!(answer.header("upload-offset"), None);
        }
    }
    assert_eq!(known_uploads(&mut client).await.len(), 1, "tus 8: nothing was created");
    assert_eq!(client.status(&upload).await, before, "tus 8: nothing was written or deleted");
    assert_eq!(client.patch(&upload, 3, b"defghij").await.status, 204);
    assert_eq!(client.get(&upload).await.body, b"abcdefghij");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_must_name_the_version_and_a_question_need_not() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    let in_disguise = ("X-HTTP-Method-Override", "DELETE");
    for (method, path, more) in
        [("POST", "/files", None), ("PATCH", upload.as_str(), None), ("POST", upload.as_str(), Some(in_disguise))]
    {
        let mut headers = vec![OCTETS, ("Upload-Length", "10"), ("Upload-Offset", "0")];
        headers.extend(more);
        let answer = client.request(method, path, &headers, b"").await;
        assert_eq!(answer.status, 412, "tus 9: {method} without a version is refused");
        assert_eq!(answer.header("tus-version"), Some("1.0.0"), "tus 9");
        assert_eq!(answer.problem(), "unsupported-version");
    }
    assert_eq!(known_uploads(&mut client).await.len(), 1);
    assert_eq!(client.request("HEAD", &upload, &[], b"").await.header("upload-offset"), Some("0"), "tus 9: HEAD may");
    assert_eq!(client.get(&upload).await.status, 409, "tus 9: GET may; there is nothing to download yet");
    assert_eq!(client.request("DELETE", &upload, &[], b"").await.status, 204, "and DELETE may");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_can_stand_in_for_another_method() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    let mut offset = 0;
    for token in ["PATCH", "patch"] {
        let at = offset.to_string();
        let headers = [OCTETS, ("Upload-Offset", at.as_str()), ("X-HTTP-Method-Override", token)];
        let answer = client.tus("POST", &upload, &headers, b"hello").await;
        offset += 5;
        assert_eq!(answer.status, 204, "tus 10: POST with {token} appends: {answer:?}");
        assert_eq!(answer.header("upload-offset"), Some(offset.to_string().as_str()), "tus 10");
    }
    assert_eq!(client.get(&upload).await.body, b"hellohello");
    let answer = client.tus("POST", &upload, &[("X-HTTP-Method-Override", "HEAD")], b"").await;
    assert_eq!((answer.status, answer.header("upload-length")), (200, Some("10")), "tus 10: POST with HEAD asks");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let answer = client.tus("POST", &upload, &[("X-HTTP-Method-Override", "DELETE")], b"").await;
    assert_eq!(answer.status, 204, "tus 10: POST with DELETE terminates");
    assert_eq!(client.head(&upload).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_harmless_becomes_harmful_in_disguise() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    for (method, status) in [("HEAD", 200), ("GET", 409), ("OPTIONS", 204)] {
        let answer = client.tus(method, &upload, &[("X-HTTP-Method-Override", "DELETE")], b"").await;
        assert_eq!(answer.status, status, "tus 11: only POST is overridden, not {method}");
    }
    for token in ["PUT", "GET", "OPTIONS", "POST", "BREW", "PATCH, DELETE", ""] {
        let answer = client.tus("POST", &upload, &[("X-HTTP-Method-Override", token)], b"").await;
        assert_eq!(answer.status, 405, "tus 11: {token:?} is not on the list");
        let allowed = answer.header("allow").expect("RFC 9110, 15.5.6: a 405 lists the allowed methods");
        assert!(allowed.contains("PATCH"), "{allowed}");
    }
    let twice = [("X-HTTP-Method-Override", "DELETE"), ("X-HTTP-Method-Override", "PATCH")];
    assert_eq!(client.tus("POST", &upload, &twice, b"").await.status, 400, "two overrides are none");
    let answer = client.tus("POST", "/files", &[("X-HTTP-Method-Override", "PATCH")], b"").await;
    assert_eq!(answer.status, 405, "there is nothing to append to at the creation URL");
    assert_eq!(client.offset(&upload).await, 0, "it is all still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allowed_is_told_with_every_405() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = completed(&mut client, &[], b"hello").await;
    for (path, allowed) in [("/files", "OPTIONS, POST"), (upload.as_str(), "OPTIONS, HEAD, GET, PATCH, DELETE")] {
        for method in ["PUT", "BREW", "TRACE"] {
            let answer = client.tus(method, path, &[], b"").await;
            assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
        }
    }
}
