//! The hook that runs before a client terminates an upload.

use crate::hooks::{BYTES, data, is_put_off, is_refused, json, pair, ways};
use crate::support::client::Client;
use crate::support::moving::wait_until_live;
use crate::support::scripted::Reply;

const ASKED: [&str; 1] = ["pre_terminate"];

/// Creates an upload in each dialect, unfinished where the dialect allows it.
async fn begun(client: &mut Client) -> Vec<(&'static str, Vec<(&'static str, &'static str)>, String)> {
    let mut begun = Vec::new();
    for way in ways().iter().filter(|way| ["tus", "ietf", "google", "ranges", "plain"].contains(&way.name)) {
        let created = way.create(client).await;
        let location = created.header("location").unwrap();
        let path = location[location.find("/files/").unwrap()..].to_owned();
        begun.push((way.name, way.marks().to_vec(), path));
    }
    begun
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_leaves_the_upload_as_it_is_and_a_yes_ends_it() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    for (dialect, marks, path) in begun(&mut client).await {
        let before = client.status(&path).await;
        application.always(json("403 Forbidden", r#"{"message": "please keep it"}"#));
        let answer = client.request("DELETE", &path, &marks, b"").await;
        is_refused(&answer, 403, "please keep it", dialect);
        let after = client.status(&path).await;
        assert_eq!((&after["stage"], &after["updated_at"]), (&before["stage"], &before["updated_at"]), "{dialect}");
        application.always(Reply::Status("503 Down"));
        is_put_off(&client.request("DELETE", &path, &marks, b"").await, dialect);
        application.always(Reply::Status("204 No Content"));
        client.send_head("DELETE", &path, &marks).await;
        let answer = client.raw_answer("DELETE").await.unwrap();
        // The status of Google's protocol for a canceled session.
        assert_eq!(answer.status, if dialect == "google" { 499 } else { 204 }, "{dialect}: {answer:?}");
        let asked = application.heard();
        let [.., first, second, third] = asked.as_slice() else { panic!("asked three times") };
        assert_ne!(first.id, third.id, "each request to end it gets a separate decision");
        assert_ne!(second.id, third.id);
        assert_eq!(third.kind(), "hook.pre_terminate");
        assert!(path.ends_with(data(third)["upload_id"].as_str().unwrap()));
        assert_eq!(data(third)["request"]["method"], "DELETE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_does_not_end_a_live_writer() {
    let (application, app) = pair(&ASKED, "").await;
    application.always(Reply::Status("403 Forbidden"));
    let mut writing = app.client().await;
    let path = writing.create(5).await;
    writing.begin_patch(&path, 0, 5).await;
    writing.send(b"he").await;
    let mut client = app.client().await;
    wait_until_live(client.address, &path).await;
    let answer = client.tus("DELETE", &path, &[], b"").await;
    is_refused(&answer, 403, "the application rejected this upload", "while it is written");
    writing.send(b"llo").await;
    assert_eq!(writing.answer("PATCH").await.status, 204);
    assert_eq!(client.get(&path).await.body, BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_asked_about() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    let path = client.create(5).await;
    assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 204);
    assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 410);
    let nowhere = "/files/01a2003c-6e4b-7707-8707-070707070707";
    assert_eq!(client.tus("DELETE", nowhere, &[], b"").await.status, 404);
    assert_eq!(application.heard().len(), 1);
}

/// Uploads that the server itself removes after a failed creation.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_about_what_the_server_cleans_up() {
    let (application, app) = pair(&ASKED, "").await;
    application.always(Reply::Status("403 Forbidden"));
    let mut client = app.client().await;
    let headers = [
        crate::support::client::TUS,
        crate::support::client::OCTETS,
        ("Upload-Length", "3"),
        ("Transfer-Encoding", "chunked"),
    ];
    client.send_head("POST", "/files", &headers).await;
    client.send_chunk(BYTES).await;
    client.send_chunk(b"").await;
    assert_eq!(client.raw_answer("POST").await.unwrap().status, 413);
    assert_eq!(application.heard().len(), 0);
}
