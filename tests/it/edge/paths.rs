//! Paths with a superfluous slash, and `OPTIONS *`, the only request without a path.

use crate::edge::{PROTOCOLS, begun, fill};
use crate::support::app::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn a_slash_too_many_leads_to_the_same_upload() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for protocol in PROTOCOLS {
        let path = begun(&mut client, protocol).await;
        let id = path.trim_start_matches("/files/");
        fill(&mut client, protocol, &format!("/files/{id}/")).await;
        for path in [format!("/files/{id}/"), format!("//files/{id}"), format!("/files//{id}//")] {
            assert_eq!(client.get(&path).await.body, b"0123456789", "{protocol}: {path}");
            assert_eq!(client.request("HEAD", &path, &[], b"").await.status, 200, "{protocol}: {path}");
        }
        for path in
            [format!("/api/v1/uploads/{id}/"), format!("/api//v1/uploads/{id}?x"), format!("//api/v1/uploads/{id}")]
        {
            let status = client.get(&path).await.status;
            assert_eq!(status, if path.contains('?') { 400 } else { 200 }, "{protocol}: {path}");
        }
        assert_eq!(client.request("DELETE", &format!("/files/{id}/"), &[], b"").await.status, 204, "{protocol}");
    }
    for target in ["/files/", "//files", "//files//"] {
        let answer = client.tus("POST", target, &[("Upload-Length", "5")], b"").await;
        assert_eq!(answer.status, 201, "{target}");
    }
    for target in ["/files//named.mp4", "/files/named.mp4/"] {
        let answer = client.request("PUT", target, &[], b"hello").await;
        assert_eq!((answer.status, answer.json()["filename"].as_str()), (201, Some("named.mp4")), "{target}");
    }
    assert_eq!(client.get("/healthz/").await.status, 200);
    assert_eq!(client.get("/").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_in_another_spelling_is_judged_as_what_it_is() {
    let key = "correct-horse-battery-staple";
    let app =
        TestApp::with(|config| config.auth.token = Some(longshore::config::SecretText::new(key.to_owned()))).await;
    let mut client = app.client().await;
    for path in ["//api/v1/uploads", "/api//v1/uploads/", "//api/v1//webhooks", "/files//a.mp4"] {
        assert_eq!(client.get(path).await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_as_a_whole_can_be_asked_for_its_options() {
    let app = TestApp::start().await;
    let answer = app.client().await.request("OPTIONS", "*", &[], b"").await;
    assert_eq!(answer.status, 204, "RFC 9110, 9.3.7: {answer:?}");
}
