//! An application that is slow, failing, unreachable, or answers nothing of use.

use std::time::Duration;

use serde_json::json;

use crate::hooks::{SECRET, asking, asking_at, calls, is_put_off, json, pair, uploads, ways};
use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::patience::until;
use crate::support::scripted::{Reply, Scripted, closed_port};

const EAGER: &str = "timeout = \"1s\"\nbreaker_failures = 1000";

async fn try_to_create(client: &mut Client) -> Answer {
    client.tus("POST", "/files", &[("Upload-Length", "5")], b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_clear_answer_fails_closed() {
    let (application, app) = pair(&["pre_create"], EAGER).await;
    let mut client = app.client().await;
    let elsewhere = Scripted::start(SECRET).await;
    let redirect = format!("302 Found\r\nLocation: http://{}/hook", elsewhere.address);
    for (reply, outcome) in [
        (Reply::Hang, "timeout"),
        (Reply::DripHead, "timeout"),
        (Reply::DripBody, "timeout"),
        (Reply::Status("500 Oops"), "bad_status"),
        (Reply::Status("404 Not Found"), "bad_status"),
        (Reply::Status("401 Unauthorized"), "bad_status"),
        (Reply::Status("429 Slow Down"), "bad_status"),
        (Reply::Status("202 Accepted"), "bad_status"),
        (Reply::Status(redirect.leak()), "bad_status"),
        (json("200 OK", "<html>hello</html>"), "bad_answer"),
        (json("200 OK", r#"{"accept": true}"#), "bad_answer"),
        (json("200 OK", r#"{"id": "../../etc/passwd"}"#), "bad_answer"),
        (Reply::Gigabyte, "bad_answer"),
        (Reply::Reset, "unreachable"),
    ] {
        application.always(reply.clone());
        is_put_off(&try_to_create(&mut client).await, outcome);
        let kept = calls(&mut client, "?limit=1").await;
        assert_eq!(kept[0]["outcome"], outcome, "{reply:?}: {kept:?}");
        assert!(kept[0]["message"].is_string(), "{kept:?}");
    }
    assert!(application.body_bytes_sent() < 64 << 20, "a gigabyte is not read");
    assert_eq!(elsewhere.heard().len(), 0, "a redirect is not followed");
    assert_eq!(uploads(&mut client).await, [] as [serde_json::Value; 0]);
    application.always(Reply::Status("204 No Content"));
    assert_eq!(try_to_create(&mut client).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_is_gone_puts_every_dialect_off() {
    let address = closed_port().await;
    let app = TestApp::from_file(&asking_at(&address.to_string(), &["pre_create"], EAGER), |_| {}).await;
    let mut client = app.client().await;
    for way in ways() {
        is_put_off(&way.create(&mut client).await, way.name);
    }
    let kept = calls(&mut client, "").await;
    assert!(kept.iter().all(|call| call["outcome"] == "unreachable" && call["status"].is_null()), "{kept:?}");
    assert!(!format!("{kept:?}").contains(&address.to_string()));
    // The application returns.
    let _application = Scripted::at(address, SECRET).await;
    assert_eq!(try_to_create(&mut client).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_means_yes_only_where_that_is_set() {
    let application = Scripted::start(SECRET).await;
    for (open, created, ended) in [("pre_create", 201, 503), ("pre_terminate", 503, 204)] {
        application.always(Reply::Status("500 Oops"));
        let file = asking(&application, &["pre_create", "pre_terminate"], &format!("fail_open = [\"{open}\"]"));
        let app = TestApp::from_file(&file, |_| {}).await;
        let mut client = app.client().await;
        assert_eq!(try_to_create(&mut client).await.status, created, "{open}");
        application.always(Reply::Status("204 No Content"));
        let path = client.create(5).await;
        application.always(Reply::Status("500 Oops"));
        assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, ended, "{open}");
        // A 403 is a rejection.
        application.always(Reply::Status("403 Forbidden"));
        assert_eq!(try_to_create(&mut client).await.status, 403, "{open}");
    }
}

/// An answer that cannot be interpreted may have been meant as a rejection, however often it is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_not_silence() {
    let application = Scripted::start(SECRET).await;
    let file = asking(&application, &["pre_create"], "fail_open = [\"pre_create\"]\nbreaker_failures = 3");
    let app = TestApp::from_file(&file, |_| {}).await;
    let mut client = app.client().await;
    let long = format!(r#"{{"reject":{{"message":"{}"}}}}"#, "x".repeat(20_000));
    for body in [r#"{"reject":{"status":409}}"#, r#"{"reject":{"code":7}}"#, "no", &long] {
        application.always(Reply::Body("200 OK", body.as_bytes().to_vec()));
        is_put_off(&try_to_create(&mut client).await, body);
    }
    for status in ["401 Who", "404 What", "302 There"] {
        application.always(Reply::Status(status));
        is_put_off(&try_to_create(&mut client).await, status);
    }
    application.always(Reply::Body("200 OK", br#"{"reject":{}}"#.to_vec()));
    assert_eq!(try_to_create(&mut client).await.status, 403, "it was asked all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_complete_without_a_word_where_that_is_set() {
    let application = Scripted::start(SECRET).await;
    application.always(Reply::Status("500 Oops"));
    let file = asking(&application, &["pre_finish"], "fail_open = [\"pre_finish\"]");
    let app = TestApp::from_file(&file, |_| {}).await;
    let mut client = app.client().await;
    for way in ways() {
        let (answer, path) = way.upload(&mut client, &application).await;
        assert!(answer.status < 300, "{}: {answer:?}", way.name);
        assert_eq!(client.status(&path).await["stage"], "completed", "{}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_again_and_again_is_left_alone_for_a_while() {
    let (application, app) = pair(&["pre_create", "pre_finish"], "breaker_failures = 3\nbreaker_pause = \"1s\"").await;
    let mut client = app.client().await;
    application.always(Reply::Status("500 Oops"));
    for _ in 0..10 {
        is_put_off(&try_to_create(&mut client).await, "ill");
    }
    assert_eq!(application.heard().len(), 3, "then the breaker was open");
    assert_eq!(calls(&mut client, "").await.len(), 3, "a call that was not made is not recorded");
    let metrics = String::from_utf8(client.get("/metrics").await.body).unwrap();
    for line in [
        "longshore_hook_calls_total{hook=\"pre_create\",outcome=\"bad_status\"} 3",
        "longshore_hook_calls_total{hook=\"pre_create\",outcome=\"breaker_open\"} 7",
        "longshore_hook_duration_seconds_count{hook=\"pre_create\"} 3",
        "longshore_hook_breaker_open{hook=\"pre_create\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    application.always(Reply::Status("204 No Content"));
    until("it is asked again", async || (try_to_create(&mut client).await.status == 201).then_some(())).await;
    let metrics = String::from_utf8(client.get("/metrics").await.body).unwrap();
    assert!(metrics.contains("longshore_hook_breaker_open{hook=\"pre_create\"} 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_wait_for_their_turn_but_not_for_ever() {
    let (application, app) =
        pair(&["pre_create"], "timeout = \"1s\"\nmax_in_flight = 1\nbreaker_failures = 1000").await;
    application.always(Reply::Hang);
    let [mut first, mut second] = [app.client().await, app.client().await];
    let (first, second) = tokio::join!(try_to_create(&mut first), async {
        application.wait_for_count(1).await;
        try_to_create(&mut second).await
    });
    is_put_off(&first, "it was asked");
    is_put_off(&second, "it had no turn, or too late");
    application.always(Reply::Status("204 No Content"));
    let mut client = app.client().await;
    assert_eq!(try_to_create(&mut client).await.status, 201, "places are given back");
}

/// The connection was open, and the application closes it when the request arrives, as a restarting one does.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_sent_once_more_when_its_open_connection_was_dead() {
    let (application, app) = pair(&["pre_create"], "").await;
    let mut client = app.client().await;
    assert_eq!(try_to_create(&mut client).await.status, 201);
    let turn = std::sync::atomic::AtomicUsize::new(0);
    application.decide(move |_| match turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Reply::Reset,
        _ => Reply::Status("204 No Content"),
    });
    assert_eq!(try_to_create(&mut client).await.status, 201);
    let asked = application.heard();
    assert_eq!(asked.len(), 3);
    assert_eq!((&asked[1].id, &asked[1].raw), (&asked[2].id, &asked[2].raw), "the same question");
    // Not repeatedly.
    application.always(Reply::Reset);
    is_put_off(&try_to_create(&mut client).await, "twice");
    assert_eq!(application.heard().len(), 5);
    let outcomes: Vec<_> = calls(&mut client, "").await.iter().map(|call| call["outcome"].clone()).collect();
    assert_eq!(outcomes, [json!("unreachable"), json!("accepted"), json!("accepted")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_is_not_held_up_by_an_application_that_hangs() {
    let (application, mut app) = pair(&["pre_finish"], "timeout = \"1s\"").await;
    application.always(Reply::Hang);
    let mut client = app.client().await;
    let path = client.create(5).await;
    client.begin_patch(&path, 0, 5).await;
    client.send(b"hello").await;
    application.wait_for_count(1).await;
    let stopped = tokio::time::timeout(Duration::from_secs(20), app.stop()).await.unwrap();
    assert_eq!(stopped, longshore::app::StopOutcome::Clean);
}
