//! Invalid ranges: malformed ones, ranges that do not match their body, and totals that change.

use crate::ranged::{is_incomplete, is_object, known, put, put_chunked, put_with, ranges, sent, session};
use crate::support::app::TestApp;

/// Content-Range values without meaning, for bodies of five bytes.
const NONSENSE: [&str; 21] = [
    "",
    "bytes",
    "bytes 0-4",
    "bytes 0-4/",
    "bytes 4-0/5",
    "bytes 0-5/5",
    "bytes 0-4/4",
    "bytes 5-*/5",
    "bytes -4/5",
    "bytes 0-/5",
    "bytes *-4/5",
    "bytes=0-4/5",
    "bytes 0-4/5, 5-9/10",
    "bytes 0-4/5;x",
    "lines 0-4/5",
    "bytes +0-4/5",
    "bytes 0x0-0x4/5",
    "bytes 0-4/9223372036854775808",
    "bytes 0-18446744073709551615/*",
    "bytes -1-3/5",
    "bytes ?-?/?",
];

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_mean_nothing_are_refused_and_change_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let of_google = session(&mut client, &[]).await;
    let ours = ranges(&mut client, 10).await;
    for path in [&of_google, &ours] {
        for range in NONSENSE {
            let answer = put(&mut client, path, range, b"hello").await;
            assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-header"), "ranged 23: {range:?}");
        }
        let twice = [("Content-Range", "bytes 0-4/5"), ("Content-Range", "bytes 0-4/5")];
        assert_eq!(put_with(&mut client, path, &twice, b"hello").await.status, 400, "twice, though the same");
        let status = client.status(path).await;
        assert_eq!((&status["stage"], &status["received"]), (&"created".into(), &0.into()), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_as_many_bytes_as_its_range() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let of_google = session(&mut client, &[]).await;
    let ours = ranges(&mut client, 100).await;
    for path in [&of_google, &ours] {
        for (range, body) in [
            ("bytes 0-9/100", &b"hello"[..]),
            ("bytes 0-3/100", b"hello"),
            ("bytes 0-9/100", b""),
            ("bytes */100", b"hello"),
            ("bytes */*", b"hello"),
        ] {
            let answer = put(&mut client, path, range, body).await;
            let problem = if range.contains('-') { "other-count" } else { "question-with-body" };
            assert_eq!((answer.status, answer.problem().as_str()), (400, problem), "ranged 23: {range}");
        }
        assert_eq!(client.status(path).await["received"], 0, "ranged 23");
        // Detected only when the body ends, or is longer.
        for pieces in [&[&b"hello"[..]][..], &[&[b'x'; 60], &[b'x'; 60]]] {
            let range = [("Content-Range", "bytes 0-99/100")];
            let answer = put_chunked(&mut client, path, &range, pieces).await;
            assert_eq!((answer.status, answer.problem().as_str()), (400, "other-count"), "ranged 23");
            assert_ne!(client.status(path).await["stage"], "completed", "ranged 23: nothing is taken for whole");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_that_changes_is_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let announced = session(&mut client, &[("X-Upload-Content-Length", "10")]).await;
    let told_later = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &told_later, "bytes 0-4/10", b"hello").await, 5, "a chunk that tells the total");
    is_incomplete(&put(&mut client, &announced, "bytes 0-4/10", b"hello").await, 5, "a chunk");
    let ours = ranges(&mut client, 10).await;
    assert_eq!(put(&mut client, &ours, "bytes 0-4/10", b"hello").await.status, 400, "it is not aligned");
    for path in [&announced, &told_later, &ours] {
        for (range, body) in [
            ("bytes 5-9/11", &b"world"[..]),
            ("bytes 5-6/7", b"wo"),
            ("bytes 5-*/11", b"world"),
            ("bytes 0-4/5", b"hello"),
            ("bytes */11", b""),
        ] {
            let answer = put(&mut client, path, range, body).await;
            assert_eq!((answer.status, answer.problem().as_str()), (400, "length-changed"), "ranged 24: {range}");
        }
    }
    for path in [&announced, &told_later] {
        is_object(&put(&mut client, path, "bytes 5-9/10", b"world").await, b"helloworld", "ranged 24");
    }
    // A total below the number of bytes already stored.
    let path = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &path, "bytes 0-4/*", b"hello").await, 5, "a chunk");
    let answer = put(&mut client, &path, "bytes 0-2/3", b"hel").await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "length-below-offset"), "ranged 24");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_past_the_end_is_refused() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100_000).await;
    let mut client = app.client().await;
    let of_google = session(&mut client, &[("X-Upload-Content-Length", "10")]).await;
    let ours = ranges(&mut client, 10).await;
    for path in [&of_google, &ours] {
        for range in ["bytes 0-10/*", "bytes 0-*/*"] {
            let answer = put(&mut client, path, range, b"hello world").await;
            assert_eq!((answer.status, answer.problem().as_str()), (400, "beyond-length"), "past the end: {range}");
        }
        let answer = put_chunked(&mut client, path, &[("Content-Range", "bytes 0-*/*")], &[b"hello world"]).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "beyond-length"), "past the end: chunked");
        assert_ne!(client.status(path).await["stage"], "failed", "dialects 1: the upload lives on");
    }
    let open = session(&mut client, &[]).await;
    for range in ["bytes 0-4/100001", "bytes 99999-100003/*"] {
        let answer = put(&mut client, &open, range, b"hello").await;
        let expected = if range.starts_with("bytes 0") { 413 } else { 503 };
        assert_eq!(answer.status, expected, "over the limit, or behind a gap: {range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_what_takes_none_is_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let range = ("Content-Range", "bytes 0-4/5");
    for (method, path) in [("PUT", "/files"), ("PUT", "/files/"), ("POST", "/files")] {
        let answer = sent(&mut client, method, path, &[range, ("Content-Type", "video/mp4")], b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "range-of-nothing"), "ranged 38: {path}");
    }
    let answer = sent(&mut client, "PUT", "/files/video.mp4", &[range], b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "no-such-upload"));
    assert_eq!(known(&app).await, 0, "ranged 38: a part was not taken for a whole");
    let of_tus = client.create(5).await;
    let answer = put(&mut client, &of_tus, "bytes 0-4/5", b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "other-dialect"), "ranged 38");
    assert_eq!(client.offset(&of_tus).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_marks_of_two_dialects_are_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = session(&mut client, &[]).await;
    let range = ("Content-Range", "bytes 0-4/5");
    for other in [("Tus-Resumable", "1.0.0"), ("Upload-Complete", "?1"), ("Upload-Draft-Interop-Version", "8")] {
        let answer = client.request("PUT", &path, &[range, other], b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "mixed-dialects"), "dialects 2: {other:?}");
    }
    is_incomplete(&put(&mut client, &path, "bytes */*", b"").await, 0, "nothing was stored");
}
