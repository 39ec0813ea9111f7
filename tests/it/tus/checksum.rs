//! `Upload-Checksum`: bytes count only if they match, and only as a whole.

use sha1::Digest as _;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS, TUS};
use crate::tus::{base64, create_with, known_uploads, wait_for_status};

/// Returns the digest of some bytes with each algorithm.
fn digests(bytes: &[u8]) -> [(&'static str, Vec<u8>); 6] {
    [
        ("sha1", sha1::Sha1::digest(bytes).to_vec()),
        ("sha256", sha2::Sha256::digest(bytes).to_vec()),
        ("sha512", sha2::Sha512::digest(bytes).to_vec()),
        ("md5", md5::Md5::digest(bytes).to_vec()),
        ("crc32", crc32fast::hash(bytes).to_be_bytes().to_vec()),
        ("crc32c", crc32c::crc32c(bytes).to_be_bytes().to_vec()),
    ]
}

async fn patch_with(client: &mut Client, upload: &str, at: u64, checksum: &str, body: &[u8]) -> Answer {
    let at = at.to_string();
    client.tus("PATCH", upload, &[OCTETS, ("Upload-Offset", &at), ("Upload-Checksum", checksum)], body).await
}

#[test]
fn the_value_of_a_crc_is_big_endian() {
    // tus 79: the check values of the catalogs, most significant byte first.
    let known = digests(b"123456789");
    assert_eq!(known[4].1, [0xcb, 0xf4, 0x39, 0x26]);
    assert_eq!(known[5].1, [0xe3, 0x06, 0x92, 0x83]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_matching_checksum_is_accepted_for_every_algorithm_in_any_case() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(6 * 2 * 5).await;
    let mut at = 0;
    for (name, digest) in digests(b"hello") {
        for name in [name.to_owned(), name.to_uppercase()] {
            let checksum = format!("{name} {}", base64(&digest));
            let answer = patch_with(&mut client, &upload, at, &checksum, b"hello").await;
            at += 5;
            let offset = at.to_string();
            assert_eq!(answer.status, 204, "tus 73, 74, 79: {name}: {answer:?}");
            assert_eq!(answer.header("upload-offset"), Some(offset.as_str()), "tus 74");
        }
    }
    assert_eq!(client.get(&upload).await.body, b"hello".repeat(12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_leaves_no_trace() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    assert_eq!(client.patch(&upload, 0, b"abc").await.status, 204);
    let before = client.status(&upload).await;
    for (name, digest) in digests(b"hello") {
        let checksum = format!("{name} {}", base64(&digest));
        for body in [&b"hellO"[..], b"hell", b"hello!", b"", b"olleh"] {
            let answer = patch_with(&mut client, &upload, 3, &checksum, body).await;
            assert_eq!((answer.status, answer.reason.as_str()), (460, "Checksum Mismatch"), "tus 74: {name}, {body:?}");
            assert_eq!(answer.problem(), "checksum-mismatch");
        }
    }
    let after = client.status(&upload).await;
    for field in ["offset", "received", "stage", "stages", "length"] {
        assert_eq!(after[field], before[field], "tus 74: {field} is unchanged");
    }
    assert_eq!(client.offset(&upload).await, 3, "tus 74");
    assert_eq!(client.patch(&upload, 3, b"defghij").await.status, 204, "tus 74: no refused byte is left in the way");
    assert_eq!(client.get(&upload).await.body, b"abcdefghij", "tus 74");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_last_chunk_completes_nothing_and_the_running_digests_forget_it() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    assert_eq!(client.patch(&upload, 0, b"hello").await.status, 204);
    let wrong = format!("md5 {}", base64([0; 16]));
    assert_eq!(patch_with(&mut client, &upload, 5, &wrong, b"world").await.status, 460);
    assert_eq!(client.status(&upload).await["stage"], "receiving", "tus 74: the rejected end does not complete it");
    let right = format!("md5 {}", base64(&digests(b"WORLD")[3].1));
    assert_eq!(patch_with(&mut client, &upload, 5, &right, b"WORLD").await.status, 204);
    let crc = format!("{:08x}", crc32c::crc32c(b"helloWORLD"));
    assert_eq!(client.status(&upload).await["digests"]["crc32c"], crc.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_request_with_a_checksum_is_discarded_whole() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(103).await;
    assert_eq!(client.patch(&upload, 0, b"abc").await.status, 204);
    let bytes = [b'x'; 100];
    for (name, digest) in digests(&bytes[..40]).into_iter().take(2) {
        for reset in [false, true] {
            let mut cut = app.client().await;
            // The checksum even matches the bytes that arrive, which are fewer than announced.
            let checksum = format!("{name} {}", base64(&digest));
            let headers =
                [TUS, OCTETS, ("Upload-Offset", "3"), ("Content-Length", "100"), ("Upload-Checksum", &checksum)];
            cut.send_head("PATCH", &upload, &headers).await;
            cut.send(&bytes[..40]).await;
            wait_for_status(&mut client, &upload, |status| status["received"] == 43).await;
            assert_eq!(client.offset(&upload).await, 3, "tus 75: nothing of it is promised while it runs");
            if reset {
                cut.rst()
            } else {
                cut.fin().await
            }
            let status = wait_for_status(&mut client, &upload, |status| status["bytes_per_second"].is_null()).await;
            assert_eq!((&status["offset"], &status["received"]), (&3.into(), &3.into()), "tus 75: reset {reset}");
        }
    }
    assert_eq!(client.patch(&upload, 3, &[b'y'; 100]).await.status, 204);
    assert_eq!(client.get(&upload).await.body, [&b"abc"[..], &[b'y'; 100]].concat(), "tus 75");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checksum_is_of_the_body_without_its_framing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(11).await;
    for (sent, status) in [(&b"hello worlD"[..], 460), (b"hello world", 204)] {
        let checksum = format!("sha256 {}", base64(&digests(b"hello world")[1].1));
        let headers =
            [TUS, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked"), ("Upload-Checksum", &checksum)];
        client.send_head("PATCH", &upload, &headers).await;
        for chunk in [&sent[..4], &sent[4..], b""] {
            client.send_chunk(chunk).await;
        }
        assert_eq!(client.answer("PATCH").await.status, status, "tus 77");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_that_cannot_be_read_is_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    let sha1 = base64(&digests(b"hello")[0].1);
    for checksum in [
        "",
        "sha1",
        "sha1 ",
        sha1.as_str(),
        &format!("sha1:{sha1}"),
        &format!("sha1  {sha1}"),
        &format!("sha3 {sha1}"),
        &format!("sha-1 {sha1}"),
        &format!("sha1 {}", sha1.replace('=', "*")),
        &format!("sha256 {sha1}"),
        &format!("md5 {sha1}"),
        &format!("crc32 {}", base64("907060870")),
        &format!("sha1 {sha1},md5 {sha1}"),
        "sha1 qvTGHdzF6KLavt4PO0gs2a6pQ00\u{fc}",
    ] {
        let answer = patch_with(&mut client, &upload, 0, checksum, b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-header"), "tus 74, 76: {checksum:?}");
        let headers = [("Upload-Length", "5"), OCTETS, ("Upload-Checksum", checksum)];
        assert_eq!(client.tus("POST", "/files", &headers, b"hello").await.status, 400, "tus 78: {checksum:?}");
    }
    let without_padding = format!("sha1 {}", sha1.trim_end_matches('='));
    assert_eq!(patch_with(&mut client, &upload, 0, &without_padding, b"hellO").await.status, 460, "it counts");
    let right = format!("sha1 {sha1}");
    let twice = [OCTETS, ("Upload-Offset", "0"), ("Upload-Checksum", &right), ("Upload-Checksum", &right)];
    assert_eq!(client.tus("PATCH", &upload, &twice, b"hello").await.status, 400, "twice is not once");
    assert_eq!(client.offset(&upload).await, 0, "tus 74: the offset is unchanged");
    assert_eq!(known_uploads(&mut client).await.len(), 1, "tus 78: nothing was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_with_a_matching_checksum_keeps_its_bytes() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let checksum = format!("crc32 {}", base64(&digests(b"hello")[4].1));
    let headers = [("Upload-Length", "10"), OCTETS, ("Upload-Checksum", &checksum)];
    let answer = client.tus("POST", "/files", &headers, b"hello").await;
    assert_eq!((answer.status, answer.header("upload-offset")), (201, Some("5")), "tus 78");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_that_is_to_come_after_the_data_is_refused() {
    let app = TestApp::start().await;
    let mut asking = app.client().await;
    let upload = asking.create(5).await;
    for announced in ["Upload-Checksum", "upload-checksum", "X-Other, Upload-Checksum", "X-Other,UPLOAD-CHECKSUM , Y"] {
        for (method, path, extra) in
            [("PATCH", upload.as_str(), ("Upload-Offset", "0")), ("POST", "/files", ("Upload-Length", "5"))]
        {
            let mut client = app.client().await;
            let headers = [TUS, OCTETS, extra, ("Transfer-Encoding", "chunked"), ("Trailer", announced)];
            client.send_head(method, path, &headers).await;
            client.send(b"5\r\nhello\r\n0\r\nUpload-Checksum: sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n").await;
            let answer = client.answer(method).await;
            assert_eq!((answer.status, answer.problem().as_str()), (400, "checksum-trailer"), "tus 80: {announced}");
        }
    }
    assert_eq!(asking.offset(&upload).await, 0, "tus 80: unverified data is not stored");
    assert_eq!(known_uploads(&mut asking).await.len(), 1);
    let harmless = [OCTETS, ("Upload-Offset", "0"), ("Trailer", "X-Other")];
    assert_eq!(asking.tus("PATCH", &upload, &harmless, b"hello").await.status, 204, "other trailers say nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_promise_about_the_whole_is_never_taken_for_success() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let promise = |bytes: &[u8]| format!("sha-256=:{}:", base64(&digests(bytes)[1].1));
    let kept = promise(b"hello");
    let upload = create_with(&mut client, &[("Upload-Length", "5"), ("Repr-Digest", &kept)]).await;
    assert_eq!(client.patch(&upload, 0, b"hello").await.status, 204);
    let status = client.status(&upload).await;
    assert_eq!(status["stage"], "completed");
    let hex: String = digests(b"hello")[1].1.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(status["digests"]["sha256"], hex.as_str(), "a digest that is promised can be read");

    let upload = create_with(&mut client, &[("Upload-Length", "5"), ("Repr-Digest", &kept)]).await;
    let answer = client.patch(&upload, 0, b"HELLO").await;
    assert!(answer.status >= 400, "the client must not take it for stored: {answer:?}");
    let status = client.status(&upload).await;
    assert_eq!((&status["stage"], &status["error"]["code"]), (&"failed".into(), &"digest-mismatch".into()));
    for method in ["HEAD", "GET", "DELETE"] {
        assert_eq!(client.tus(method, &upload, &[], b"").await.status, 410, "{method} of a failed upload");
    }
    crate::tus::wait_until_nothing_is_stored_of(&app, &upload).await;

    let headers = [("Upload-Length", "5"), OCTETS, ("Repr-Digest", kept.as_str())];
    let answer = client.tus("POST", "/files", &headers, b"HELLO").await;
    assert!(answer.status >= 400, "nor with a creation: {answer:?}");
    let answer = client.tus("POST", "/files", &[("Upload-Length", "0"), ("Repr-Digest", &kept)], b"").await;
    assert!(answer.status >= 400, "nor with an upload of nothing: {answer:?}");
    for unreadable in ["sha-256", "sha-256=abc", "sha-256=:abc:", "sha-256=:YQ==:", "="] {
        let headers = [("Upload-Length", "5"), ("Repr-Digest", unreadable)];
        assert_eq!(client.tus("POST", "/files", &headers, b"").await.status, 400, "{unreadable:?}");
    }
}
