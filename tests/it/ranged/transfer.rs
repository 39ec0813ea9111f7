//! Data of Google's sessions: the response to each chunk, and actions that are never allowed to a server.

use std::time::Duration;

use crate::ranged::{
    crc32c_of, is_incomplete, is_object, is_stored, put, put_chunked, put_with, sent, session, source,
};
use crate::support::app::TestApp;
use crate::support::moving::{wait_until_at_rest, wait_until_taken};

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_known_length_are_answered_308_until_the_last() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = source(600_000);
    let path = session(&mut client, &[("X-Upload-Content-Length", "600000")]).await;
    let answer = put(&mut client, &path, "bytes 0-262143/600000", &bytes[..262_144]).await;
    is_incomplete(&answer, 262_144, "ranged 8");
    let answer = put(&mut client, &path, "bytes 262144-524287/600000", &bytes[262_144..524_288]).await;
    is_incomplete(&answer, 524_288, "ranged 8");
    let answer = put(&mut client, &path, "bytes 524288-599999/600000", &bytes[524_288..]).await;
    is_object(&answer, &bytes, "ranged 13");
    is_stored(&mut client, &path, &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_an_unknown_length_never_end_an_upload_by_themselves() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "ranged 12");
    is_incomplete(&put(&mut client, &path, "bytes 5-5/*", b" ").await, 6, "ranged 12: 6, 22");
    assert_eq!(client.status(&path).await["length"], serde_json::Value::Null, "ranged 12");
    let answer = put(&mut client, &path, "bytes 6-10/11", b"world").await;
    is_object(&answer, b"hello world", "ranged 13: the last chunk tells the total");

    // Also if the total is known from the start: `/*` says that more follows.
    let path = session(&mut client, &[("X-Upload-Content-Length", "5")]).await;
    is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "ranged 12");
    assert_eq!(client.status(&path).await["stage"], "receiving");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_that_came_is_kept_whatever_the_size_of_a_chunk() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = source(300_001);
    let path = session(&mut client, &[]).await;
    let answer = put(&mut client, &path, "bytes 0-300000/*", &bytes).await;
    is_incomplete(&answer, 300_001, "ranged 19: not rounded down to 262144");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_go_on_without_saying_where_it_ends() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let range = [("Content-Range", "bytes 0-*/*")];
    is_incomplete(&put_chunked(&mut client, &path, &range, &[b"he", b"llo"]).await, 5, "ranged 18");
    let range = [("Content-Range", "bytes 5-*/11")];
    is_incomplete(&put_chunked(&mut client, &path, &range, &[b" wo"]).await, 8, "ranged 18: not all of it");
    let range = [("Content-Range", "bytes 8-*/11")];
    is_object(&put_chunked(&mut client, &path, &range, &[b"rld"]).await, b"hello world", "ranged 18");

    let path = session(&mut client, &[]).await;
    let answer = put_chunked(&mut client, &path, &[("Content-Range", "bytes 0-*/*")], &[]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "nothing-stored"), "ranged 10");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_without_a_range_is_the_whole_object() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for bytes in [&b""[..], b"hello world"] {
        let path = session(&mut client, &[]).await;
        is_object(&put_with(&mut client, &path, &[], bytes).await, bytes, "ranged 17");
        is_stored(&mut client, &path, bytes).await;
    }
    let path = session(&mut client, &[]).await;
    is_object(&put_chunked(&mut client, &path, &[], &[b"hel", b"lo"]).await, b"hello", "ranged 17: chunked");
    // Also after a part of the bytes was received: that part is skipped.
    let path = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "a beginning");
    is_object(&put_with(&mut client, &path, &[], b"hello world").await, b"hello world", "ranged 17");
    let path = session(&mut client, &[("X-Upload-Content-Length", "11")]).await;
    let answer = put_with(&mut client, &path, &[], b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "inconsistent-length"), "ranged 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_is_passed_over_and_never_written_again() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &path, "bytes 0-5/*", b"hello ").await, 6, "the first chunk");
    let answer = put(&mut client, &path, "bytes 0-5/*", b"hello ").await;
    is_incomplete(&answer, 6, "ranged 21: an identical chunk after a lost answer");
    let answer = put(&mut client, &path, "bytes 2-3/*", b"XX").await;
    is_incomplete(&answer, 6, "ranged 21: well within the stored bytes");
    let answer = put(&mut client, &path, "bytes 3-8/*", b"XXXwor").await;
    is_incomplete(&answer, 9, "ranged 20: only new bytes are written");
    let answer = put(&mut client, &path, "bytes 0-10/11", b"XXXXXXXXXld").await;
    is_object(&answer, b"hello world", "ranged 20; 6, 23: nothing is overwritten or doubled");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_left_out_are_missed_in_words_that_name_both_offsets() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "a beginning");
    for range in ["bytes 8-10/11", "bytes 8-10/*"] {
        let answer = put(&mut client, &path, range, b"rld").await;
        assert_eq!(answer.status, 503, "ranged 22");
        assert!(answer.header("content-type").unwrap().starts_with("text/plain"), "ranged 22: {answer:?}");
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert!(text.contains("offset is 8 byte(s)") && text.contains("size of 5 byte(s)"), "6, 27: {text}");
        assert_eq!(answer.header("range"), None);
    }
    is_incomplete(&put(&mut client, &path, "bytes */*", b"").await, 5, "ranged 22: nothing was stored");
    is_object(&put(&mut client, &path, "bytes 5-10/11", b" world").await, b"hello world", "and it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_cut_in_its_middle_leaves_its_beginning() {
    let app = TestApp::start().await;
    let mut asking = app.client().await;
    for reset in [false, true] {
        let path = session(&mut asking, &[]).await;
        let mut client = app.client().await;
        let range = ("Content-Range", "bytes 0-99/100");
        client.send_head("PUT", &path, &[range, ("Content-Length", "100")]).await;
        client.send(&[b'x'; 40]).await;
        wait_until_taken(app.address(), &path, 40).await;
        if reset {
            client.rst()
        } else {
            client.fin().await
        }
        wait_until_at_rest(app.address(), &path).await;
        let answer = put(&mut asking, &path, "bytes */100", b"").await;
        is_incomplete(&answer, 40, "ranged 25");
        // A client that did not request the offset sends the chunk again.
        let answer = put(&mut asking, &path, "bytes 0-99/100", &[b'x'; 100]).await;
        is_object(&answer, &[b'x'; 100], "ranged 20, 25");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_is_told_an_offset_its_next_chunk_is_taken_at() {
    let app = TestApp::start().await;
    let mut asking = app.client().await;
    let path = session(&mut asking, &[]).await;
    // The server does not know that the old connection is dead.
    let mut old = app.client().await;
    old.send_head("PUT", &path, &[("Content-Range", "bytes 0-99/100"), ("Content-Length", "100")]).await;
    old.send(&[b'x'; 40]).await;
    wait_until_taken(app.address(), &path, 40).await;
    is_incomplete(&put(&mut asking, &path, "bytes */*", b"").await, 40, "ranged 26");
    old.send(b"x").await;
    let answer = put(&mut asking, &path, "bytes 40-99/100", &[b'y'; 60]).await;
    let bytes = [vec![b'x'; 40], vec![b'y'; 60]].concat();
    is_object(&answer, &bytes, "dialects 8: the newest request wins");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_told_to_try_again() {
    let app = TestApp::with(|config| config.limits.bodies.idle_timeout = Duration::from_millis(200)).await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    client.send_head("PUT", &path, &[("Content-Range", "bytes 0-99/100"), ("Content-Length", "100")]).await;
    client.send(&[b'x'; 40]).await;
    let answer = client.raw_answer("PUT").await.expect("an answer");
    assert_eq!((answer.status, answer.header("location")), (503, None), "ranged 34");
    let mut client = app.client().await;
    is_incomplete(&put(&mut client, &path, "bytes */*", b"").await, 40, "ranged 25");
}

#[tokio::test(flavor = "multi_thread")]
async fn post_will_do_for_put() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let range = |range| [("Content-Range", range)];
    let answer = sent(&mut client, "POST", &path, &range("bytes 0-4/*"), b"hello").await;
    is_incomplete(&answer, 5, "ranged 37");
    let answer = sent(&mut client, "POST", &path, &range("bytes */*"), b"").await;
    is_incomplete(&answer, 5, "ranged 37");
    let answer = sent(&mut client, "POST", &path, &range("bytes 5-10/11"), b" world").await;
    is_object(&answer, b"hello world", "ranged 37");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_told_308_is_told_200_with_the_308_inside() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let headers = |range| [("Content-Range", range), ("X-GUploader-No-308", "yes")];
    let answer = put_with(&mut client, &path, &headers("bytes 0-4/*"), b"hello").await;
    let told = (answer.status, answer.header("x-http-status-code-override"), answer.header("range"));
    assert_eq!(told, (200, Some("308"), Some("bytes=0-4")), "ranged 35");
    assert!(answer.body.is_empty());
    let answer = put_with(&mut client, &path, &headers("bytes 5-10/11"), b" world").await;
    assert_eq!(answer.header("x-http-status-code-override"), None, "ranged 35");
    is_object(&answer, b"hello world", "ranged 35");
}

#[tokio::test(flavor = "multi_thread")]
async fn useful_header_fields_are_there() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let id = path.trim_start_matches("/files/");
    let answer = put(&mut client, &path, "bytes 0-4/*", b"hello").await;
    assert_eq!(answer.header("x-guploader-uploadid"), Some(id), "ranged 36");
    let answer = put(&mut client, &path, "bytes */5", b"").await;
    assert_eq!(answer.header("x-guploader-uploadid"), Some(id), "ranged 36");
    assert_eq!(answer.header("x-goog-stored-content-length"), Some("5"), "ranged 15, 36");
    let hash = answer.header("x-goog-hash").expect("ranged 36");
    assert!(hash.contains(&format!("crc32c={}", crc32c_of(b"hello"))), "ranged 36: {hash}");
}
