//! Ranged PUT to uploads of other dialects, and other dialects on uploads of ranged PUT.

use crate::ranged::{is_incomplete, is_object, is_stored, put, put_with, ranges, session};
use crate::support::app::TestApp;
use crate::support::client::TUS;

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_in_its_own_dialect_only() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let of_tus = client.create(10).await;
    let answer = put_with(&mut client, &of_tus, &[], b"helloworld").await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "other-dialect"), "dialects 3");
    let answer = put(&mut client, &of_tus, "bytes 0-9/10", b"helloworld").await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "other-dialect"), "ranged 38; 5.3");
    assert_eq!(client.offset(&of_tus).await, 0);

    let of_google = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &of_google, "bytes 0-4/*", b"hello").await, 5, "a chunk");
    let ours = ranges(&mut client, 10).await;
    for (path, offset) in [(&of_google, 5), (&ours, 0)] {
        let answer = client.patch(path, offset, b"world").await;
        assert_eq!((answer.status, answer.problem().as_str()), (409, "other-dialect"), "dialects 3");
    }
    is_object(&put(&mut client, &of_google, "bytes 5-9/10", b"world").await, b"helloworld", "dialects 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_allowed_uploads_go_on_in_another_dialect() {
    let app = TestApp::with(|config| config.engine.cross_dialects = true).await;
    let mut client = app.client().await;
    let of_tus = client.create(10).await;
    assert_eq!(client.patch(&of_tus, 0, b"hello").await.status, 204);
    let answer = put(&mut client, &of_tus, "bytes */*", b"").await;
    assert_eq!((answer.status, &answer.json()["offset"]), (202, &5.into()), "dialects 3");
    let answer = put(&mut client, &of_tus, "bytes 7-9/10", b"rld").await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "wrong-offset"), "it takes bytes in order only");
    let answer = put(&mut client, &of_tus, "bytes 3-9/10", b"loworld").await;
    assert_eq!(answer.status, 200, "dialects 3: {answer:?}");
    is_stored_for_tus(&mut client, &of_tus).await;

    let of_google = session(&mut client, &[("X-Upload-Content-Length", "10")]).await;
    is_incomplete(&put(&mut client, &of_google, "bytes 0-4/*", b"hello").await, 5, "a chunk");
    assert_eq!(client.patch(&of_google, 5, b"world").await.status, 204, "dialects 3");
    is_stored(&mut client, &of_google, b"helloworld").await;
}

async fn is_stored_for_tus(client: &mut crate::support::client::Client, path: &str) {
    assert_eq!(client.status(path).await["stage"], "completed");
    assert_eq!(client.get(path).await.body, b"helloworld");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dialect_may_ask_about_any_upload() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let of_google = session(&mut client, &[]).await;
    is_incomplete(&put(&mut client, &of_google, "bytes 0-4/*", b"hello").await, 5, "a chunk");
    let answer = client.request("HEAD", &of_google, &[TUS], b"").await;
    assert_eq!((answer.status, answer.header("upload-offset")), (200, Some("5")), "dialects 3");
    // The client that created a finished upload may also delete it with a tus request.
    is_object(&put(&mut client, &of_google, "bytes */5", b"").await, b"hello", "all of it");
    assert_eq!(client.tus("DELETE", &of_google, &[], b"").await.status, 204);
}
