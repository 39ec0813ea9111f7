//! Unfinished uploads expire, and their clients learn when.

use std::time::{Duration, SystemTime};

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::world::system_time;
use crate::tus::{create_with, wait_for_status, wait_until_nothing_is_stored};
use domain::time::Timestamp;

const HOUR: Duration = Duration::from_secs(3_600);

fn expires(answer: &Answer) -> SystemTime {
    let text = answer.header("upload-expires").unwrap_or_else(|| panic!("Upload-Expires is missing: {answer:?}"));
    let at = httpdate::parse_http_date(text).expect("tus 68: an HTTP date");
    assert_eq!(httpdate::fmt_http_date(at), text, "tus 68: in its preferred form, in GMT");
    at
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + system_time().since(Timestamp::from_unix_ms(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_about_an_unfinished_upload_tells_when_it_expires() {
    let app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = HOUR).await;
    let mut client = app.client().await;
    let before = now() + HOUR - Duration::from_secs(1);
    let created = client.tus("POST", "/files", &[("Upload-Length", "10")], b"").await;
    assert!(expires(&created) >= before, "tus 69: on the creation");
    let upload = created.header("location").unwrap().to_owned();
    for answer in [
        client.head(&upload).await,
        client.patch(&upload, 0, b"hello").await,
        client.patch(&upload, 5, b"").await,
        client.get(&upload).await,
    ] {
        let at = expires(&answer);
        assert!(at >= before && at <= now() + HOUR, "tus 68, 69: {answer:?}");
    }
    for refused in [client.patch(&upload, 7, b"x").await, client.patch(&upload, 5, b"too much").await] {
        assert!(refused.status >= 400);
        assert!(expires(&refused) >= before, "tus 68: every answer to a PATCH, also a refusal");
    }
    let finished = client.patch(&upload, 5, b"world").await;
    assert_eq!(finished.status, 204);
    assert_eq!(finished.header("upload-expires"), None, "tus 71: complete, it does not expire");
    assert_eq!(client.head(&upload).await.header("upload-expires"), None, "tus 71");
    assert_eq!(client.status(&upload).await["expires_at"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn activity_moves_the_end_and_a_restart_does_not() {
    let mut app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = HOUR).await;
    let mut client = app.client().await;
    let upload = client.create(10).await;
    let mut last = client.status(&upload).await["expires_at"].as_str().unwrap().to_owned();
    for body in [&b"hel"[..], b"", b"lo"] {
        let at = client.offset(&upload).await;
        // Times have a resolution of one millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(client.patch(&upload, at, body).await.status, 204);
        let moved = client.status(&upload).await["expires_at"].as_str().unwrap().to_owned();
        assert!(moved > last, "tus 70: {moved} is after {last}");
        last = moved;
    }
    assert_eq!(client.patch(&upload, 9, b"x").await.status, 409);
    client.head(&upload).await;
    let status = client.status(&upload).await;
    assert_eq!(status["expires_at"], last.as_str(), "tus 70: questions and refusals move nothing");
    app.restart().await;
    let mut client = app.client().await;
    assert_eq!(client.status(&upload).await["expires_at"], last.as_str(), "tus 70: it is kept");
}

async fn is_gone(client: &mut Client, upload: &str, when: &str) {
    for answer in [
        client.head(upload).await,
        client.patch(upload, 2, b"llo").await,
        client.patch(upload, 0, b"").await,
        client.get(upload).await,
        client.tus("DELETE", upload, &[], b"").await,
    ] {
        assert_eq!((answer.status, answer.header("upload-offset")), (410, None), "tus 72, 46: {when}: {answer:?}");
        assert_eq!(answer.header("upload-expires"), None, "{when}");
    }
    assert_eq!(client.status(upload).await["stage"], "expired", "{when}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_upload_is_gone_before_and_after_it_is_swept() {
    let mut app = TestApp::with(|config| {
        config.engine.lifetimes.unfinished_expiry = Duration::from_millis(300);
        config.engine.lifetimes.sweep_every = HOUR;
    })
    .await;
    let mut client = app.client().await;
    let part = create_with(&mut client, &[("Upload-Length", "2"), ("Upload-Concat", "partial")]).await;
    assert_eq!(client.patch(&part, 0, b"he").await.status, 204);
    let upload = client.create(5).await;
    assert_eq!(client.patch(&upload, 0, b"he").await.status, 204);
    wait_for_status(&mut client, &upload, |status| status["stage"] == "expired").await;
    assert_eq!(app.stored_files().len(), 2, "nothing is swept yet");
    is_gone(&mut client, &upload, "before the sweeper").await;
    is_gone(&mut client, &part, "a finished part, before the sweeper").await;
    let list = format!("final;{part}");
    let answer = client.tus("POST", "/files", &[("Upload-Concat", &list)], b"").await;
    assert_eq!(answer.status, 404, "tus 90: an expired part is not there any more");
    app.stop().await;

    let app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = Duration::from_millis(300)).await;
    let mut client = app.client().await;
    let upload = client.create(5).await;
    assert_eq!(client.patch(&upload, 0, b"he").await.status, 204);
    wait_until_nothing_is_stored(&app).await;
    is_gone(&mut client, &upload, "after the sweeper").await;
    let stages = client.status(&upload).await["stages"].clone();
    assert_eq!(stages.as_array().unwrap().last().unwrap()["name"], "expired", "its end is on record");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_upload_outlives_the_expiry_of_unfinished_ones() {
    let app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = Duration::from_millis(300)).await;
    let mut client = app.client().await;
    let complete = crate::tus::completed(&mut client, &[], b"hello").await;
    let unfinished = client.create(5).await;
    wait_for_status(&mut client, &unfinished, |status| status["stage"] == "expired").await;
    assert_eq!(client.get(&complete).await.body, b"hello", "tus 71");
}
