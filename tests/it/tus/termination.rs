//! DELETE.

use crate::support::app::TestApp;
use crate::support::client::OCTETS;
use crate::tus::{completed, create_with, wait_for_status, wait_until_nothing_is_stored};

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_upload_is_gone_and_its_storage_free() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let fresh = client.create(5).await;
    let begun = client.create(5).await;
    assert_eq!(client.patch(&begun, 0, b"he").await.status, 204);
    let deferred = create_with(&mut client, &[("Upload-Defer-Length", "1")]).await;
    let part = create_with(&mut client, &[("Upload-Length", "0"), ("Upload-Concat", "partial")]).await;
    let complete = completed(&mut client, &[], b"hello").await;
    for upload in [fresh, begun, deferred, part, complete] {
        let answer = client.tus("DELETE", &upload, &[], b"").await;
        assert_eq!((answer.status, answer.body.len()), (204, 0), "tus 81: at any stage");
        for (method, headers, body) in [
            ("HEAD", &[][..], &b""[..]),
            ("GET", &[], b""),
            ("DELETE", &[], b""),
            ("PATCH", &[OCTETS, ("Upload-Offset", "0")], b"hello"),
            ("PATCH", &[OCTETS, ("Upload-Offset", "2")], b"llo"),
            ("PATCH", &[OCTETS, ("Upload-Offset", "5")], b""),
        ] {
            assert_eq!(client.tus(method, &upload, headers, body).await.status, 410, "tus 82: {method} afterwards");
        }
        assert_eq!(client.status(&upload).await["stage"], "terminated", "its record stays");
    }
    wait_until_nothing_is_stored(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_there_cannot_be_terminated() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for path in ["/files/0197b6a1-0000-7000-8000-000000000000", "/files/nonsense"] {
        assert_eq!(client.tus("DELETE", path, &[], b"").await.status, 404, "tus 83");
    }
    assert_eq!(client.tus("DELETE", "/files", &[], b"").await.status, 405, "all of them at once least of all");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_wins_over_a_running_patch() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = client.create(100).await;
    let mut running = app.client().await;
    running.begin_patch(&upload, 0, 100).await;
    running.send(&[b'x'; 40]).await;
    wait_for_status(&mut client, &upload, |status| status["received"] == 40).await;
    assert_eq!(client.tus("DELETE", &upload, &[], b"").await.status, 204, "tus 84");
    let answer = running.answer("PATCH").await;
    assert_eq!((answer.status, answer.problem().as_str()), (410, "upload-gone"), "tus 84: the PATCH is cut");
    assert_eq!(client.head(&upload).await.status, 410, "tus 84");
    assert_eq!(client.status(&upload).await["stage"], "terminated");
    wait_until_nothing_is_stored(&app).await;
    assert_eq!(client.patch(&upload, 40, &[b'x'; 60]).await.status, 410, "tus 84: never a file that comes back");
    assert!(app.stored_files().is_empty(), "tus 84");
}
