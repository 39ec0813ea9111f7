//! PATCH: bytes at the offset, and nowhere else.

use std::time::Duration;

use crate::support::app::TestApp;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::receiver::Receiver;
use crate::tus::{create_with, rest_of, wait_for_status};

const CHUNKED: (&str, &str) = ("Transfer-Encoding", "chunked");
const AT_START: (&str, &str) = ("Upload-Offset", "0");

#[tokio::test(flavor = "multi_thread")]
async fn only_upload_data_is_appended() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    for kind in [
        &[][..],
        &[("Content-Type", "application/octet-stream")],
        &[("Content-Type", "application/offset+octet-stream-2")],
        &[("Content-Type", "")],
        &[("Content-Type", "text/plain; application/offset+octet-stream")],
    ] {
        let mut headers = kind.to_vec();
        headers.push(AT_START);
        let answer = client.tus("PATCH", &upload, &headers, b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (415, "wrong-content-type"), "tus 51: {kind:?}");
        assert_eq!(answer.header("accept-patch"), Some("application/offset+octet-stream"));
    }
    assert_eq!(client.offset(&upload).await, 0);
    let mut offset = 0;
    for kind in ["Application/Offset+Octet-Stream", "application/offset+octet-stream; charset=utf-8"] {
        let at = offset.to_string();
        let headers = [("Content-Type", kind), ("Upload-Offset", at.as_str())];
        let answer = client.tus("PATCH", &upload, &headers, b"hello").await;
        offset += 5;
        assert_eq!(answer.status, 204, "tus 51: {kind:?}");
        assert_eq!(answer.header("upload-offset"), Some(offset.to_string().as_str()), "tus 54");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_is_plain_digits_and_stands_there_once() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    let at = |value| ("Upload-Offset", value);
    for offsets in [
        &[][..],
        &[at("")],
        &[at("+0")],
        &[at("-0")],
        &[at("0x0")],
        &[at("0.0")],
        &[at("zero")],
        &[at("\u{660}")],
        &[at("0, 0")],
        &[at("9223372036854775808")],
        &[at("18446744073709551616")],
        &[at("0"), at("0")],
        &[at("0"), at("5")],
    ] {
        let mut headers = offsets.to_vec();
        headers.push(OCTETS);
        let answer = client.tus("PATCH", &upload, &headers, b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-header"), "tus 52: {offsets:?}");
    }
    assert_eq!(client.offset(&upload).await, 0, "nothing was appended");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_for_another_offset_change_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    assert_eq!(client.patch(&upload, 0, b"abc").await.status, 204);
    for at in [0, 1, 2, 4, 9, 10, 11, 9_223_372_036_854_775_807] {
        for body in [&b""[..], b"xyz"] {
            let answer = client.patch(&upload, at, body).await;
            assert_eq!((answer.status, answer.problem().as_str()), (409, "wrong-offset"), "tus 53: {at}");
            assert_eq!(answer.header("upload-offset"), Some("3"), "tus 53: and told the right one");
        }
    }
    assert_eq!(client.patch(&upload, 3, b"defghij").await.header("upload-offset"), Some("10"), "tus 54");
    assert_eq!(client.get(&upload).await.body, b"abcdefghij", "tus 53: not a byte was changed");
    assert_eq!(client.patch(&upload, 3, b"defghij").await.status, 409, "tus 53: nor of a complete upload");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_takes_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let ended = client.create(5).await;
    assert_eq!(client.tus("DELETE", &ended, &[], b"").await.status, 204);
    for (path, status) in
        [("/files/0197b6a1-0000-7000-8000-000000000000", 404), ("/files/nonsense", 404), (ended.as_str(), 410)]
    {
        let answer = client.patch(path, 0, b"hello").await;
        assert_eq!((answer.status, answer.header("upload-offset")), (status, None), "tus 55: {path}");
    }
    assert!(app.stored_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_announced_too_long_is_refused_before_a_byte_is_stored() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(4).await;
    let answer = client.patch(&upload, 0, b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "beyond-length"), "tus 56");
    assert!(app.stored_files().is_empty(), "tus 56: before anything is written");

    let mut patient = app.client().await;
    patient.begin_patch(&upload, 0, 9_223_372_036_854_775_807).await;
    assert_eq!(patient.answer("PATCH").await.status, 413, "tus 56: told before a byte of it is sent");
    let mut absurd = app.client().await;
    absurd.begin_patch(&upload, 0, u64::MAX).await;
    assert_eq!(absurd.answer("PATCH").await.status, 413, "2^64 - 1 wraps nothing");
    assert_eq!(client.patch(&upload, 0, b"four").await.status, 204, "the upload lives on");
}

async fn patch_chunked(client: &mut Client, upload: &str, headers: &[(&str, &str)], chunks: &[&[u8]]) {
    let mut all = vec![TUS, OCTETS, CHUNKED];
    all.extend_from_slice(headers);
    client.send_head("PATCH", upload, &all).await;
    // In one write, so that the server sees all of it or nothing.
    let mut framed = Vec::new();
    for chunk in chunks {
        framed.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    client.send(&framed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_size_is_appended() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(11).await;
    patch_chunked(&mut client, &upload, &[AT_START], &[b"hello", b" ", b"world", b""]).await;
    let answer = client.answer("PATCH").await;
    assert_eq!((answer.status, answer.header("upload-offset")), (204, Some("11")), "tus 54");
    assert_eq!(client.get(&upload).await.body, b"hello world");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_runs_past_the_length_is_rolled_back() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    assert_eq!(client.patch(&upload, 0, b"abc").await.status, 204);
    for chunks in [&[&b"12345"[..], b"67890", b""][..], &[b"12345678", b""], &[b"1234567", b"8", b""]] {
        let mut over = app.client().await;
        patch_chunked(&mut over, &upload, &[("Upload-Offset", "3")], chunks).await;
        let answer = over.answer("PATCH").await;
        assert_eq!((answer.status, answer.problem().as_str()), (413, "beyond-length"), "tus 57");
        assert_eq!(client.offset(&upload).await, 3, "tus 57: the request leaves nothing behind, nor does it complete");
    }
    assert_eq!(client.patch(&upload, 3, b"defghij").await.status, 204);
    assert_eq!(client.get(&upload).await.body, b"abcdefghij", "tus 57");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_fills_the_upload_and_then_runs_on_does_not_complete_it() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    let mut over = app.client().await;
    patch_chunked(&mut over, &upload, &[AT_START], &[b"0123456789"]).await;
    wait_for_status(&mut client, &upload, |status| status["received"] == 10).await;
    assert!(client.offset(&upload).await < 10, "tus 49: all of it is promised only with the end of the body");
    over.send_chunk(b"!").await;
    over.send_chunk(b"").await;
    assert_eq!(over.answer("PATCH").await.status, 413, "tus 57");
    let offset = client.offset(&upload).await;
    assert_eq!(client.patch(&upload, offset, rest_of(b"0123456789", offset)).await.status, 204);
    assert_eq!(client.get(&upload).await.body, b"0123456789");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_length_grows_up_to_the_limit() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    let upload = create_with(&mut client, &[("Upload-Defer-Length", "1")]).await;
    let answer = client.patch(&upload, 0, &[b'x'; 101]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "over-limit"), "tus 58: announced");
    let mut over = app.client().await;
    patch_chunked(&mut over, &upload, &[AT_START], &[&[b'x'; 60], &[b'x'; 41], b""]).await;
    let answer = over.answer("PATCH").await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "over-limit"), "tus 58: in the middle of the stream");
    assert_eq!(client.offset(&upload).await, 0, "tus 58");
    assert_eq!(client.patch(&upload, 0, &[b'x'; 100]).await.status, 204, "up to the limit it may grow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_body_keeps_what_arrived() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(100).await;
    let mut offset = 0;
    for reset in [false, true] {
        let mut cut = app.client().await;
        cut.begin_patch(&upload, offset, 100 - offset).await;
        cut.send(&[b'x'; 30]).await;
        offset += 30;
        wait_for_status(&mut client, &upload, |status| status["received"] == offset).await;
        if reset {
            cut.rst()
        } else {
            cut.fin().await
        }
        let status = wait_for_status(&mut client, &upload, |status| status["bytes_per_second"].is_null()).await;
        assert_eq!(status["offset"], offset, "tus 59: reset {reset}");
        assert_eq!(client.offset(&upload).await, offset, "tus 59");
    }
    let mut half_closed = app.client().await;
    half_closed.begin_patch(&upload, 60, 40).await;
    half_closed.send(&[b'x'; 10]).await;
    tokio::io::AsyncWriteExt::shutdown(&mut half_closed.stream).await.unwrap();
    if let Some(answer) = half_closed.raw_answer("PATCH").await {
        assert!(answer.status >= 500, "tus 59: a cut body is never a success: {answer:?}");
    }
    assert_eq!(client.offset(&upload).await, 70, "tus 59");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_without_its_end_completes_nothing_before_it_is_over() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(20).await;
    let mut cut = app.client().await;
    patch_chunked(&mut cut, &upload, &[AT_START], &[b"0123456789"]).await;
    wait_for_status(&mut client, &upload, |status| status["received"] == 10).await;
    cut.fin().await;
    let status = wait_for_status(&mut client, &upload, |status| status["bytes_per_second"].is_null()).await;
    assert_eq!((&status["offset"], &status["stage"]), (&10.into(), &"receiving".into()), "tus 59");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_at_the_right_offset_changes_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(5).await;
    for (at, body) in [(0, &b""[..]), (0, b"hel"), (3, b""), (3, b"lo"), (5, b""), (5, b"")] {
        let answer = client.patch(&upload, at, body).await;
        let after = (at + body.len() as u64).to_string();
        assert_eq!(answer.status, 204, "tus 60, 61: at {at}");
        assert_eq!(answer.header("upload-offset"), Some(after.as_str()), "tus 60, 61: at {at}");
    }
    let answer = client.patch(&upload, 5, b"!").await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (413, "upload-complete"),
        "tus 61: with bytes it is too much"
    );
    assert_eq!(client.get(&upload).await.body, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_can_declare_the_length() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    let deferred = ("Upload-Defer-Length", "1");
    let at = |offset| ("Upload-Offset", offset);
    let length = |bytes| ("Upload-Length", bytes);

    let first = create_with(&mut client, &[deferred]).await;
    let answer = client.tus("PATCH", &first, &[OCTETS, at("0"), length("5")], b"he").await;
    assert_eq!((answer.status, answer.header("upload-offset")), (204, Some("2")), "tus 62: with the first bytes");
    assert_eq!(client.head(&first).await.header("upload-length"), Some("5"), "tus 62, 44");
    assert_eq!(client.head(&first).await.header("upload-defer-length"), None, "tus 44");
    for (declared, status) in [("5", 204), ("4", 400), ("6", 400), ("x", 400)] {
        let answer = client.tus("PATCH", &first, &[OCTETS, at("2"), length(declared)], b"").await;
        assert_eq!(answer.status, status, "tus 63: it does not change once known; {declared} after 5");
    }
    let answer = client.tus("PATCH", &first, &[OCTETS, at("2"), length("5")], b"llo").await;
    assert_eq!(answer.status, 204, "tus 63: the same again is fine");
    assert_eq!(client.status(&first).await["stage"], "completed");

    let second = create_with(&mut client, &[deferred]).await;
    assert_eq!(client.patch(&second, 0, b"hello").await.status, 204);
    for (declared, status, problem) in [("4", 400, "length-below-offset"), ("101", 413, "over-limit")] {
        let answer = client.tus("PATCH", &second, &[OCTETS, at("5"), length(declared)], b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, problem), "tus 64: {declared}");
    }
    let head = client.head(&second).await;
    assert_eq!((head.header("upload-defer-length"), head.header("upload-length")), (Some("1"), None), "tus 64");
    let answer = client.tus("PATCH", &second, &[OCTETS, at("3"), length("9")], b"").await;
    assert_eq!(answer.status, 409, "a refused request declares nothing");
    assert_eq!(client.head(&second).await.header("upload-length"), None);
    let answer = client.tus("PATCH", &second, &[OCTETS, at("5"), length("5")], b"").await;
    assert_eq!((answer.status, answer.header("upload-offset")), (204, Some("5")), "tus 62: it may be the last word");
    assert_eq!(client.status(&second).await["stage"], "completed", "tus 62");
    assert_eq!(client.get(&second).await.body, b"hello");

    let third = create_with(&mut client, &[deferred]).await;
    let answer = client.tus("PATCH", &third, &[OCTETS, at("0"), length("3")], b"hello").await;
    assert_eq!(answer.status, 413, "tus 56: the length just declared counts");
    assert_eq!(client.head(&third).await.header("upload-defer-length"), Some("1"));
    let answer = client.tus("PATCH", &third, &[OCTETS, at("0"), length("0")], b"").await;
    assert_eq!((answer.status, &client.status(&third).await["stage"]), (204, &"completed".into()), "tus 62");
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_is_announced_once_however_often_it_is_asked_for() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("['upload.completed', 'upload.terminated']"), |_| {}).await;
    let mut client = app.client().await;
    let upload = client.create(5).await;
    assert_eq!(client.patch(&upload, 0, b"hello").await.status, 204);
    for _ in 0..3 {
        let mut client = app.client().await;
        assert_eq!(client.patch(&upload, 5, b"").await.status, 204, "tus 61, 66");
        assert_eq!(client.offset(&upload).await, 5);
    }
    assert_eq!(client.tus("DELETE", &upload, &[], b"").await.status, 204);
    let heard = receiver.wait_for_kind("upload.terminated").await;
    let kinds: Vec<_> = heard.iter().map(|delivery| delivery.kind()).collect();
    assert_eq!(kinds, ["upload.completed", "upload.terminated"], "tus 66: once across retries and reconnects");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_patch_with_an_answer_worth_retrying() {
    let app = TestApp::with(|config| {
        config.limits.bodies.idle_timeout = Duration::from_millis(200);
        config.limits.bodies.drain_timeout = Duration::from_millis(200);
    })
    .await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    let mut silent = app.client().await;
    silent.begin_patch(&upload, 0, 10).await;
    silent.send(b"hell").await;
    let answer = silent.answer("PATCH").await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (503, "incomplete-body"),
        "tus 67: 5xx, clients retry those"
    );
    assert_eq!(answer.header("upload-offset"), None, "tus 59: no sign of success");
    assert_eq!(silent.read_until(b"anything").await, None, "tus 67: and the connection is closed");
    assert_eq!(client.offset(&upload).await, 4, "tus 59: received bytes are kept");
}
