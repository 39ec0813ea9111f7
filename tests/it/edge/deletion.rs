//! Deletion works the same way in every dialect.

use crate::edge::{PROTOCOLS, begin_to_fill, begun, fill};
use crate::ietf;
use crate::support::app::TestApp;
use crate::support::client::{Client, TUS};
use crate::support::moving::wait_until_taken;
use crate::tus::wait_until_nothing_is_stored;

/// Sends a DELETE and returns the status of the response; Google's has no body.
async fn delete(client: &mut Client, path: &str, headers: &[(&str, &str)]) -> u16 {
    client.send_head("DELETE", path, headers).await;
    client.raw_answer("DELETE").await.expect("an answer").status
}

#[tokio::test(flavor = "multi_thread")]
async fn every_delete_ends_every_upload() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for protocol in PROTOCOLS {
        for (words, headers) in [("plain", vec![]), ("tus", vec![TUS]), ("ietf", vec![ietf::version("8")])] {
            for complete in [false, true] {
                let path = begun(&mut client, protocol).await;
                if complete {
                    fill(&mut client, protocol, &path).await;
                }
                // Google's clients accept no other status for a session that they have canceled.
                let status = if (protocol, words, complete) == ("google", "plain", false) { 499 } else { 204 };
                let why = format!("{words} DELETE of {protocol}, complete: {complete}");
                assert_eq!(delete(&mut client, &path, &headers).await, status, "{why}");
                assert_eq!(client.status(&path).await["stage"], "terminated", "{why}");
                assert_eq!(client.get(&path).await.status, 410, "{why}");
            }
        }
    }
    wait_until_nothing_is_stored(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_writing_learns_at_once_that_the_upload_is_gone() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for protocol in PROTOCOLS {
        let path = begun(&mut client, protocol).await;
        let mut writing = app.client().await;
        let method = begin_to_fill(&mut writing, protocol, &path).await;
        wait_until_taken(app.address(), &path, 4).await;
        let deleted = delete(&mut client, &path, &[]).await;
        assert_eq!(deleted, if protocol == "google" { 499 } else { 204 }, "{protocol}");
        // No more of the body is sent, and nothing else wakes the writer.
        let answer = writing.answer(method).await;
        assert_eq!((answer.status, answer.problem().as_str()), (410, "upload-gone"), "{protocol}");
        assert_eq!(answer.header("location"), None, "{protocol}: there is nowhere to resume");
    }
    wait_until_nothing_is_stored(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_is_still_writing_learns_it_too() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for headers in [
        vec![TUS, crate::support::client::OCTETS, ("Upload-Length", "10"), ("Content-Length", "10")],
        vec![("Content-Type", "video/mp4"), ("Content-Length", "10")],
    ] {
        let mut writing = app.client().await;
        writing.send_head("POST", "/files", &headers).await;
        writing.send(b"0123").await;
        let path = crate::support::patience::until("the bytes arrive", async || {
            let newest = crate::tus::known_uploads(&mut client)
                .await
                .first()
                .filter(|one| one["received"] == 4 && one["stage"] != "terminated")
                .cloned();
            newest.map(|one| one["links"]["upload"].as_str().unwrap().to_owned())
        })
        .await;
        assert_eq!(client.request("DELETE", &path, &[], b"").await.status, 204);
        let answer = writing.answer("POST").await;
        assert_eq!((answer.status, answer.problem().as_str(), answer.header("location")), (410, "upload-gone", None));
    }
}
