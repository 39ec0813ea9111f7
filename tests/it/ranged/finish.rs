//! Google's sessions: requests for their state, their end, and their cancellation.

use std::time::Duration;

use crate::ranged::{crc32c_of, is_incomplete, is_object, is_stored, put, put_with, sent, session};
use crate::support::app::TestApp;
use crate::support::moving::{wait_for_stage, wait_until_live};
use crate::support::receiver::Receiver;

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_with_what_is_there() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &path, "bytes */*", b"").await, 0, "ranged 26: no Range at 0");
    is_incomplete(&put(&mut client, &path, "bytes */11", b"").await, 0, "ranged 27");
    is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "a chunk");
    is_incomplete(&put(&mut client, &path, "bytes */*", b"").await, 5, "ranged 26; 6, 21: off by none");
    is_incomplete(&put(&mut client, &path, "bytes */11", b"").await, 5, "ranged 27: more to come");
    is_incomplete(&put(&mut client, &path, "bytes */3", b"").await, 5, "ranged 27: less than is there");
    let answer = put(&mut client, &path, "bytes 5-10/11", b" world").await;
    is_object(&answer, b"hello world", "ranged 27: questions have changed nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_does_not_end_an_upload_but_the_total_does() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for headers in [&[][..], &[("X-Upload-Content-Length", "5")]] {
        let path = session(&mut client, headers).await;
        is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "all of it");
        for _ in 0..2 {
            let answer = put(&mut client, &path, "bytes */*", b"").await;
            is_incomplete(&answer, 5, "ranged 29: it never ends an upload");
        }
        assert_eq!(client.status(&path).await["stage"], "receiving", "ranged 29");
        is_object(&put(&mut client, &path, "bytes */5", b"").await, b"hello", "ranged 28");
        is_stored(&mut client, &path, b"hello").await;
    }
    for headers in [&[][..], &[("X-Upload-Content-Length", "0")]] {
        let path = session(&mut client, headers).await;
        is_object(&put(&mut client, &path, "bytes */0", b"").await, b"", "ranged 28: an empty object");
        is_stored(&mut client, &path, b"").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_upload_answers_everything_with_the_same_object() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("['upload.completed']"), |_| {}).await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let first = is_object(&put(&mut client, &path, "bytes 0-4/5", b"hello").await, b"hello", "the first answer");
    for (range, body) in [
        ("bytes */*", &b""[..]),
        ("bytes */5", b""),
        ("bytes */7", b""),
        ("bytes 0-4/5", b"hello"),
        ("bytes 0-4/*", b"hello"),
        ("bytes 1-3/5", b"ell"),
    ] {
        let answer = put(&mut client, &path, range, body).await;
        let again = is_object(&answer, b"hello", &format!("ranged 30: {range}"));
        assert_eq!(again, first, "ranged 30: the same JSON");
    }
    is_object(&put_with(&mut client, &path, &[], b"hello").await, b"hello", "ranged 30");
    for (range, body, refusal) in [
        ("bytes 0-4/5", &b"hellO"[..], (409, "different-bytes")),
        ("bytes 5-9/10", b"world", (400, "length-changed")),
        ("bytes 5-9/*", b"world", (400, "beyond-length")),
    ] {
        let answer = put(&mut client, &path, range, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), refusal, "{range}");
    }
    let answer = put_with(&mut client, &path, &[], b"whole").await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "different-bytes"));
    let hash = format!("crc32c={}", crc32c_of(b"whole"));
    let answer = put_with(&mut client, &path, &[("X-Goog-Hash", &hash)], b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "digest-mismatch"));
    is_stored(&mut client, &path, b"hello").await;
    let id = path.trim_start_matches("/files/");
    receiver.wait_for(|heard| heard.iter().any(|one| one.body["data"]["upload_id"] == id)).await;
    let deliveries = client.get(&format!("/api/v1/webhooks/deliveries?upload={id}")).await.json();
    assert_eq!(deliveries["deliveries"].as_array().unwrap().len(), 1, "ranged 30: announced once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_object_is_told_after_a_restart() {
    let mut app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let first = is_object(&put(&mut client, &path, "bytes 0-4/5", b"hello").await, b"hello", "the first answer");
    drop(client);
    app.restart().await;
    let mut client = app.client().await;
    let again = is_object(&put(&mut client, &path, "bytes */5", b"").await, b"hello", "ranged 30");
    assert_eq!(again, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_session_is_gone() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for begun in [false, true] {
        let path = session(&mut client, &[]).await;
        if begun {
            is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "a chunk");
        }
        let answer = sent(&mut client, "DELETE", &path, &[], b"").await;
        let told = (answer.status, answer.reason.as_str(), answer.body.as_slice());
        assert_eq!(told, (499, "Client Closed Request", &b""[..]), "ranged 31");
        for range in ["bytes */*", "bytes 5-9/10"] {
            let body: &[u8] = if range == "bytes */*" { b"" } else { b"world" };
            let answer = put(&mut client, &path, range, body).await;
            assert_eq!((answer.status, answer.problem().as_str()), (410, "upload-gone"), "ranged 31");
        }
        assert_eq!(sent(&mut client, "DELETE", &path, &[], b"").await.status, 410, "ranged 31");
        assert_eq!(client.request("HEAD", &path, &[], b"").await.status, 410);
    }
    crate::tus::wait_until_nothing_is_stored(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_cancelled_while_it_is_written() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let mut writing = app.client().await;
    writing.send_head("PUT", &path, &[("Content-Range", "bytes 0-99/100"), ("Content-Length", "100")]).await;
    writing.send(&[b'x'; 40]).await;
    wait_until_live(app.address(), &path).await;
    assert_eq!(sent(&mut client, "DELETE", &path, &[], b"").await.status, 499, "ranged 31");
    let answer = writing.answer("PUT").await;
    assert_eq!((answer.status, answer.problem().as_str()), (410, "upload-gone"), "the writing request reports it");
    wait_for_stage(app.address(), &path, "terminated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_object_is_deleted_as_any_upload_is() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    is_object(&put(&mut client, &path, "bytes 0-4/5", b"hello").await, b"hello", "all of it");
    let answer = sent(&mut client, "DELETE", &path, &[], b"").await;
    assert_eq!(answer.status, 204, "it is no session any more");
    assert_eq!(client.get(&path).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found_and_what_was_is_gone() {
    let app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = Duration::from_millis(50)).await;
    let mut client = app.client().await;
    let unknown = "/files/01a2003c-6e4b-7707-8707-070707070707";
    for (range, body) in [("bytes */*", &b""[..]), ("bytes 0-4/5", b"hello")] {
        let answer = put(&mut client, unknown, range, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "no-such-upload"), "ranged 33");
    }
    let path = session(&mut client, &[]).await;
    wait_for_stage(app.address(), &path, "expired").await;
    for (range, body) in [("bytes */*", &b""[..]), ("bytes 0-4/5", b"hello")] {
        let answer = put(&mut client, &path, range, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (410, "upload-gone"), "ranged 33");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_get_tell_the_offset_of_a_session() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "a chunk");
    for method in ["HEAD", "GET"] {
        let answer = client.request(method, &path, &[], b"").await;
        let told = (answer.status, answer.header("upload-offset"), answer.header("upload-length"));
        let status = if method == "HEAD" { 204 } else { 409 };
        assert_eq!(told, (status, Some("5"), None), "dialects 2.6, 4: {method}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("tus-resumable"), None, "dialects 4: only for tus");
    }
    is_object(&put(&mut client, &path, "bytes */5", b"").await, b"hello", "all of it");
    let answer = client.request("HEAD", &path, &[], b"").await;
    let told = (answer.status, answer.header("upload-offset"), answer.header("upload-length"));
    assert_eq!(told, (200, Some("5"), Some("5")), "dialects 4");
    is_stored(&mut client, &path, b"hello").await;
    let answer = client.request("BREW", &path, &[], b"").await;
    assert_eq!(answer.status, 405);
}
