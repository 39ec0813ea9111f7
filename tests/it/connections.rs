//! Connections: how many there may be, and what those above are told.

use crate::support::app::TestApp;
use crate::support::client::TUS;

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_told_to_come_back() {
    let app = TestApp::with(|config| config.limits.max_connections = 2).await;
    let (mut first, mut second) = (app.client().await, app.client().await);
    let path = first.create(4).await;
    assert_eq!(second.offset(&path).await, 0);
    for sent in [&b""[..], b"HEAD /files HTTP/1.1\r\n\r\n", &[b'x'; 64 * 1024]] {
        let mut third = app.client().await;
        third.send(sent).await;
        let answer = third.answer("GET", "").await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "too-many-connections"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(third.read_until(b"HTTP").await.is_none(), "the connection ends");
    }
    // Those that have a place keep it.
    assert_eq!(first.patch(&path, 0, b"data").await.status, 204);
    drop(second);
    // The server may not have seen yet that a place is free.
    let answer = crate::support::world::until("a place is free", async || {
        let mut again = app.client().await;
        again.send_head("HEAD", &path, &[TUS]).await;
        Some(again.answer("HEAD", "").await).filter(|answer| answer.status != 503)
    });
    assert_eq!(answer.await.header("upload-offset"), Some("4"));
}

/// However many come at once, and whether they say anything or not: there is always room for those that have a place.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_silent_connections_is_turned_away() {
    let app = TestApp::with(|config| config.limits.max_connections = 10).await;
    let mut first = app.client().await;
    let path = first.create(4).await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(app.client().await);
    }
    assert_eq!(first.patch(&path, 0, b"data").await.status, 204);
    // Nine of them have places and may stay silent; all others are told and let go, one batch after the other.
    let told = futures::future::join_all(crowd.iter_mut().map(async |client| {
        let wait = tokio::time::timeout(std::time::Duration::from_secs(20), client.raw_answer("GET"));
        matches!(wait.await, Ok(Some(answer)) if answer.status == 503)
    }));
    let told = told.await.into_iter().filter(|told| *told).count();
    assert_eq!(told, 200 - 9);
}
