//! Requests for the offset.

use crate::support::app::TestApp;
use crate::tus::{completed, create_with, rest_of, wait_for_status};

#[tokio::test(flavor = "multi_thread")]
async fn head_tells_offset_and_length_at_every_point() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(5).await;
    for (sent, offset) in [(&b""[..], "0"), (b"he", "2"), (b"llo", "5")] {
        if !sent.is_empty() {
            let at = offset.parse::<u64>().unwrap() - sent.len() as u64;
            assert_eq!(client.patch(&upload, at, sent).await.status, 204);
        }
        let head = client.head(&upload).await;
        assert_eq!((head.status, head.header("upload-offset")), (200, Some(offset)), "tus 43: also 0 and complete");
        assert_eq!(head.header("upload-length"), Some("5"), "tus 44");
        assert_eq!(head.header("upload-defer-length"), None, "tus 44");
        assert_eq!(head.header("cache-control"), Some("no-store"), "tus 45");
        assert_eq!(head.header("upload-concat"), None);
        assert_eq!(head.header("content-length"), None, "tus 47: nothing GET would not say");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_of_what_is_not_there_tells_no_offset_and_has_no_body() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let ended = client.create(5).await;
    assert_eq!(client.tus("DELETE", &ended, &[], b"").await.status, 204);
    for (path, status) in [
        ("/files/0197b6a1-0000-7000-8000-000000000000", 404),
        ("/files/nonsense", 404),
        ("/files/a/b", 404),
        ("/files", 405),
        (ended.as_str(), 410),
    ] {
        let head = client.head(path).await;
        assert_eq!(head.status, status, "tus 46: {path}");
        assert_eq!(head.header("upload-offset"), None, "tus 46: {path}");
        assert_eq!(head.header("cache-control"), Some("no-store"), "tus 45: {path}");
        // tus 47: a body would be taken for the next response on this connection.
    }
    assert_eq!(client.create(1).await.len(), ended.len(), "the connection is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_during_a_patch_tells_an_offset_the_next_patch_can_use() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(100).await;
    let mut stale = app.client().await;
    stale.begin_patch(&upload, 0, 100).await;
    stale.send(&[b'x'; 40]).await;
    wait_for_status(&mut client, &upload, |status| status["received"] == 40).await;
    let head = client.head(&upload).await;
    assert_eq!((head.status, head.header("upload-offset")), (200, Some("40")), "tus 48: a running PATCH is no 4xx");
    // Bytes that the old connection still delivers must not move the offset.
    stale.send(&[b'x'; 10]).await;
    assert_eq!(client.patch(&upload, 40, &[b'y'; 60]).await.status, 204, "tus 49");
    let bytes = client.get(&upload).await.body;
    assert_eq!(bytes, [[b'x'; 40].as_slice(), &[b'y'; 60]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_while_the_end_of_a_whole_body_is_missing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    let mut stale = app.client().await;
    let chunked = ("Transfer-Encoding", "chunked");
    let headers = [crate::support::client::TUS, crate::support::client::OCTETS, ("Upload-Offset", "0"), chunked];
    stale.send_head("PATCH", &upload, &headers).await;
    stale.send_chunk(b"0123456789").await;
    wait_for_status(&mut client, &upload, |status| status["received"] == 10).await;
    // All bytes are stored, but the server does not know yet whether more follow.
    let offset = client.offset(&upload).await;
    assert_eq!(client.patch(&upload, offset, rest_of(b"0123456789", offset)).await.status, 204, "tus 48, 49");
    assert_eq!(client.get(&upload).await.body, b"0123456789");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_parallel_clients_add_to_every_request_is_passed_over() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let single = completed(&mut client, &[], b"hello").await;
    let part = create_with(&mut client, &[("Upload-Length", "5"), ("Upload-Concat", "partial")]).await;
    for (upload, role) in [(&single, None), (&part, Some("partial"))] {
        let head = client.tus("HEAD", upload, &[("Upload-Concat", "partial")], b"").await;
        assert_eq!((head.status, head.header("upload-concat")), (200, role), "tus 99: HEAD");
    }
    let headers = [crate::support::client::OCTETS, ("Upload-Offset", "0"), ("Upload-Concat", "partial")];
    assert_eq!(client.tus("PATCH", &part, &headers, b"hello").await.status, 204, "tus 99: PATCH");
    assert_eq!(client.tus("DELETE", &part, &[("Upload-Concat", "nonsense")], b"").await.status, 204, "tus 99: DELETE");
}
