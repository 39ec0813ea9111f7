//! Digests of the whole upload and of one request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::ranged::{
    JSON, START, crc32c_of, is_incomplete, is_object, is_stored, md5_of, path_of, put, put_with, ranges, session,
    source,
};
use crate::support::app::TestApp;

fn content_digest(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_must_have_the_hashes_that_come_with_its_last_chunk() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (crc32c, md5) = (crc32c_of(b"hello world"), md5_of(b"hello world"));
    let right = [
        format!("crc32c={crc32c}"),
        format!("md5={md5}"),
        format!("crc32c={crc32c},md5={md5}"),
        format!("md5={md5}, crc32c={crc32c}"),
    ];
    for hash in &right {
        let path = session(&mut client, &[]).await;
        is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "a chunk");
        let headers = [("Content-Range", "bytes 5-10/11"), ("x-goog-hash", hash.as_str())];
        let answer = put_with(&mut client, &path, &headers, b" world").await;
        is_object(&answer, b"hello world", &format!("ranged 16: {hash}"));
    }
    let (crc32c, md5) = (crc32c_of(b"other"), md5_of(b"other"));
    for (hash, body) in [
        (format!("crc32c={crc32c}"), &b" world"[..]),
        (format!("md5={md5}"), b" world"),
        (format!("{},md5={md5}", right[0]), b" world"),
        (format!("md5={md5}"), b""),
    ] {
        let path = session(&mut client, &[]).await;
        let (begin, range) =
            if body.is_empty() { (&b"hello world"[..], "bytes */11") } else { (&b"hello"[..], "bytes 5-10/11") };
        let first = format!("bytes 0-{}/*", begin.len() - 1);
        is_incomplete(&put(&mut client, &path, &first, begin).await, begin.len(), "a chunk");
        let headers = [("Content-Range", range), ("x-goog-hash", hash.as_str())];
        let answer = put_with(&mut client, &path, &headers, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "digest-mismatch"), "ranged 16: {hash}");
        assert_eq!(client.status(&path).await["stage"], "failed", "ranged 16: it is not published");
        assert_eq!(put(&mut client, &path, "bytes */11", b"").await.status, 410);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_must_have_the_hashes_its_description_named() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (json, status) in [
        (format!("{{\"md5Hash\": \"{}\"}}", md5_of(b"hello")), 200),
        (format!("{{\"crc32c\": \"{}\"}}", crc32c_of(b"hello")), 200),
        (format!("{{\"md5Hash\": \"{}\"}}", md5_of(b"other")), 400),
        (format!("{{\"crc32c\": \"{}\"}}", crc32c_of(b"other")), 400),
    ] {
        let path = path_of(&client.request("POST", START, &[JSON], json.as_bytes()).await);
        let answer = put(&mut client, &path, "bytes 0-4/5", b"hello").await;
        assert_eq!(answer.status, status, "ranged 6: {json}: {answer:?}");
        let stage = if status == 200 { "completed" } else { "failed" };
        assert_eq!(client.status(&path).await["stage"], stage, "ranged 6");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_that_cannot_be_read_are_refused_and_those_of_a_part_not_looked_at() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let none = [("Content-Range", "bytes 0-4/5"), ("x-goog-hash", "")];
    is_object(&put_with(&mut client, &path, &none, b"hello").await, b"hello", "an empty field says nothing");
    let path = session(&mut client, &[]).await;
    for hash in ["crc32c", "crc32c=x", "md5=AAAAAA==", "sha1=AAAAAA=="] {
        let answer =
            put_with(&mut client, &path, &[("Content-Range", "bytes 0-4/5"), ("x-goog-hash", hash)], b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-header"), "{hash}");
    }
    let part = format!("crc32c={}", crc32c_of(b"hello"));
    let answer =
        put_with(&mut client, &path, &[("Content-Range", "bytes 0-4/*"), ("x-goog-hash", &part)], b"hello").await;
    is_incomplete(&answer, 5, "ranged 16: the hash is of the whole, and counts with the last chunk");
    is_object(&put(&mut client, &path, "bytes 5-10/11", b" world").await, b"hello world", "all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_with_a_digest_of_its_own_counts_when_it_matches() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let (right, wrong) = (content_digest(b"hello"), content_digest(b"other"));
    let headers = |digest| [("Content-Range", "bytes 0-4/*"), ("Content-Digest", digest)];
    let answer = put_with(&mut client, &path, &headers(&wrong), b"hello").await;
    assert_eq!(answer.status, 400, "dialects 6: {answer:?}");
    assert!(answer.json()["type"].as_str().unwrap().ends_with("#digest-mismatched-values"), "{answer:?}");
    is_incomplete(&put(&mut client, &path, "bytes */*", b"").await, 0, "dialects 6: nothing was stored");
    is_incomplete(&put_with(&mut client, &path, &headers(&right), b"hello").await, 5, "dialects 6");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_with_a_digest_wins_over_bytes_without_one() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = source(12_288);
    let path = ranges(&mut client, bytes.len()).await;
    let mut damaged = bytes[4096..8192].to_vec();
    damaged[100] ^= 1;
    let range = ("Content-Range", "bytes 4096-8191/12288");
    assert_eq!(put_with(&mut client, &path, &[range], &damaged).await.status, 202);
    let answer = put_with(&mut client, &path, &[range], &bytes[4096..8192]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "different-bytes"), "the first committed wins");
    assert!(answer.json()["detail"].as_str().unwrap().contains("at 4196"), "the answer says where: {answer:?}");
    let wrong = content_digest(b"other");
    let answer = put_with(&mut client, &path, &[range, ("Content-Digest", &wrong)], &bytes[4096..8192]).await;
    assert_eq!(answer.status, 400, "a digest that does not match wins over nothing");
    let right = content_digest(&bytes[4096..8192]);
    let answer = put_with(&mut client, &path, &[range, ("Content-Digest", &right)], &bytes[4096..8192]).await;
    assert_eq!(answer.status, 202, "the checksummed one wins: {answer:?}");
    for first in [0, 8192] {
        let range = format!("bytes {first}-{}/12288", first + 4095);
        put(&mut client, &path, &range, &bytes[first..first + 4096]).await;
    }
    is_stored(&mut client, &path, &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_our_own_must_have_the_digests_it_was_described_with() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (of, status, stage) in [(&b"hello"[..], 200, "completed"), (b"other", 422, "failed")] {
        let sha256: String = Sha256::digest(of).iter().map(|byte| format!("{byte:02x}")).collect();
        let json = format!("{{\"size\": 5, \"digests\": {{\"sha256\": \"{sha256}\"}}}}");
        let path = path_of(&client.request("POST", "/files", &[JSON], json.as_bytes()).await);
        let answer = put(&mut client, &path, "bytes 0-4/5", b"hello").await;
        assert_eq!(answer.status, status, "{answer:?}");
        let told = client.status(&path).await;
        assert_eq!(told["stage"], stage);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_of_a_form_is_rejected_and_one_of_its_file_is_checked() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let form = b"--xyz\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\nhello\r\n--xyz--\r\n";
    let kind = ("Content-Type", "multipart/form-data; boundary=xyz");
    let (of_form, of_file, of_other) = (content_digest(form), content_digest(b"hello"), content_digest(b"other"));
    for (field, digest, status) in [
        ("Content-Digest", &of_form, 400),
        ("Content-Digest", &of_other, 400),
        ("Repr-Digest", &of_file, 201),
        ("Repr-Digest", &of_other, 422),
    ] {
        let answer = client.request("POST", "/files", &[kind, (field, digest)], form).await;
        assert_eq!(answer.status, status, "{field}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_of_the_whole_are_named_and_asked_for_in_header_fields_too() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (of, stage) in [(&b"hello"[..], "completed"), (b"other", "failed")] {
        let named = content_digest(of);
        let headers = [("Repr-Digest", named.as_str()), ("Want-Repr-Digest", "sha-512=1")];
        let google = client.request("POST", START, &headers, b"").await;
        let ours = client.request("POST", "/files", &[headers[0], headers[1], JSON], b"{}").await;
        for session in [google, ours] {
            let path = path_of(&session);
            put(&mut client, &path, "bytes 0-4/5", b"hello").await;
            let status = client.status(&path).await;
            assert_eq!(status["stage"], stage, "dialects 6: {status}");
            assert!(status["digests"]["sha512"].is_string(), "dialects 6: it was requested: {status}");
        }
        client.request("PUT", "/files/a", &headers, b"hello").await;
        let newest = crate::tus::known_uploads(&mut client).await[0].clone();
        assert_eq!(newest["stage"], stage, "dialects 6: a plain file");
    }
    let wrong = client.request("PUT", "/files/a", &[("Repr-Digest", "sha-256=x")], b"hello").await;
    assert_eq!(wrong.status, 400, "dialects 6");
}
