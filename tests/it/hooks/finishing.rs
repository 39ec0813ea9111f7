//! The hook that runs when all bytes have arrived, before an upload completes.

use longshore::config::Config;
use serde_json::json;
use tempfile::TempDir;

use crate::hooks::{BYTES, SECRET, Way, asking, calls, data, is_put_off, is_refused, json, pair, ways};
use crate::support::app::TestApp;
use crate::support::client::{Client, TUS};
use crate::support::moving::wait_for_stage;
use crate::support::patience::until;
use crate::support::process::Process;
use crate::support::receiver::Receiver;
use crate::support::scripted::{Reply, Scripted};

const ASKED: [&str; 1] = ["pre_finish"];
const NO: &str = r#"{"reject": {"status": 422, "message": "not a video"}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_completes_the_uploads_of_every_dialect() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    for way in ways() {
        let before = application.heard().len();
        let (answer, path) = way.upload(&mut client, &application).await;
        assert!(answer.status < 300, "{}: {answer:?}", way.name);
        assert_eq!(client.get(&path).await.body, BYTES, "{}", way.name);
        let asked = application.heard();
        assert_eq!(asked.len(), before + 1, "{}: asked once", way.name);
        let told = data(&asked[before]);
        assert_eq!(asked[before].kind(), "hook.pre_finish");
        assert!(path.ends_with(told["upload_id"].as_str().unwrap()), "{}", way.name);
        let crc = format!("{:08x}", crc32c::crc32c(BYTES));
        let facts = (&told["offset"], &told["length"], &told["stage"], &told["digests"]["crc32c"]);
        assert_eq!(facts, (&json!(5), &json!(5), &json!("verified"), &json!(crc)), "{}", way.name);
        assert!(["PATCH", "PUT", "POST"].contains(&told["request"]["method"].as_str().unwrap()), "{}", way.name);
    }
}

/// Asserts that no later request succeeds, of whatever kind and however often repeated.
async fn stays_refused(client: &mut Client, way: &Way, path: &str) {
    for round in 0..2 {
        let why = format!("{}, round {round}", way.name);
        let head = client.request("HEAD", path, way.marks(), b"").await;
        assert_eq!(head.status, 422, "{why}: {head:?}");
        is_refused(&client.request("GET", path, way.marks(), b"").await, 422, "not a video", &why);
        is_refused(&way.bring(client, path).await, 422, "not a video", &why);
        let status = client.status(path).await;
        let error = (&status["error"]["code"], &status["error"]["message"]);
        assert_eq!(
            (&status["stage"], error),
            (&json!("failed"), (&json!("rejected-by-application"), &json!("not a video")))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_is_never_taken_for_a_success_in_any_dialect() {
    let (application, mut app) = pair(&ASKED, "").await;
    application.always(json("200 OK", NO));
    let mut refused = Vec::new();
    let mut client = app.client().await;
    for way in ways() {
        let (answer, path) = way.upload(&mut client, &application).await;
        is_refused(&answer, 422, "not a video", way.name);
        if way.name.starts_with("ietf") {
            assert_eq!(answer.header("upload-complete"), Some("?1"), "{}: the last word", way.name);
        }
        stays_refused(&mut client, &way, &path).await;
        refused.push((way, path));
    }
    assert_eq!(application.heard().len(), refused.len(), "each was asked about once");
    until("no bytes are kept", async || app.stored_files().is_empty().then_some(())).await;
    app.restart().await;
    let mut client = app.client().await;
    for (way, path) in refused {
        stays_refused(&mut client, &way, &path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_no_bytes_is_asked_about_too() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    let path = client.create(0).await;
    assert_eq!(client.status(&path).await["stage"], "completed");
    application.always(json("200 OK", NO));
    is_refused(&client.tus("POST", "/files", &[("Upload-Length", "0")], b"").await, 422, "not a video", "empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_not_asked_about_but_what_is_made_of_it() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    application.always(json("200 OK", NO));
    let headers = [("Upload-Length", "5"), ("Upload-Concat", "partial")];
    let part = client.tus("POST", "/files", &headers, b"").await.header("location").unwrap().to_owned();
    assert_eq!(client.patch(&part, 0, BYTES).await.status, 204);
    assert_eq!(application.heard().len(), 0);
    let other = client.tus("POST", "/files", &headers, b"").await.header("location").unwrap().to_owned();
    assert_eq!(client.patch(&other, 0, BYTES).await.status, 204);
    let joined = format!("final;{part} {other}");
    let answer = client.tus("POST", "/files", &[("Upload-Concat", &joined)], b"").await;
    is_refused(&answer, 422, "not a video", "a final one");
    assert_eq!(data(&application.heard()[0])["role"], "final");
    assert_eq!(client.offset(&part).await, 5, "the part stays");
    application.always(Reply::Status("204 No Content"));
    assert_eq!(client.tus("POST", "/files", &[("Upload-Concat", &joined)], b"").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_application_is_silent_nobody_is_told_of_success_and_then_everybody() {
    let application = Scripted::start(SECRET).await;
    let file = asking(&application, &ASKED, "breaker_failures = 1000\n[limits]\ntakeover_timeout = \"100ms\"");
    let app = TestApp::from_file(&file, |_| {}).await;
    let mut client = app.client().await;
    for way in ways() {
        application.always(Reply::Status("500 Oops"));
        let (answer, path) = way.upload(&mut client, &application).await;
        is_put_off(&answer, way.name);
        let head = client.request("HEAD", &path, way.marks(), b"").await;
        // tus-js-client retries after 423 only.
        assert_eq!(head.status, if way.name.starts_with("tus") { 423 } else { 503 }, "{}: {head:?}", way.name);
        assert_eq!(client.get(&path).await.status, 503, "{}", way.name);
        assert_eq!(client.status(&path).await["stage"], "verified", "{}", way.name);
        application.always(Reply::Status("204 No Content"));
        wait_for_stage(client.address, &path, "completed").await;
        assert_eq!(client.get(&path).await.body, BYTES, "{}", way.name);
        let asked = application.heard();
        let ids: Vec<_> =
            asked.iter().filter(|one| path.ends_with(one.json["data"]["upload_id"].as_str().unwrap())).collect();
        assert!(ids.len() >= 2, "{}: it was asked again", way.name);
        assert!(ids.iter().all(|one| one.id == ids[0].id), "{}: the same decision", way.name);
        assert!(data(ids.last().unwrap())["request"].is_null(), "no client is behind it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_no_is_a_no() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    application.always(Reply::Status("503 Down"));
    let path = client.create(5).await;
    is_put_off(&client.patch(&path, 0, BYTES).await, "down");
    application.always(json("200 OK", NO));
    wait_for_stage(client.address, &path, "failed").await;
    assert_eq!(client.head(&path).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_meanwhile_changes_nothing() {
    let (application, app) = pair(&ASKED, "timeout = \"15s\"").await;
    application.always(Reply::Hold);
    let mut paths = Vec::new();
    for reset in [false, true] {
        let mut client = app.client().await;
        let path = client.create(5).await;
        client.begin_patch(&path, 0, 5).await;
        client.send(BYTES).await;
        application.wait_for_count(paths.len() + 1).await;
        if reset {
            client.rst()
        } else {
            client.fin().await
        }
        paths.push(path);
    }
    application.release();
    let mut client = app.client().await;
    for path in &paths {
        wait_for_stage(client.address, path, "completed").await;
        assert_eq!(client.offset(path).await, 5);
    }
    assert_eq!(application.heard().len(), 2, "asked once each");
}

/// webhooks K4: the upload is held until the application answers. A deletion waits for the answer, but not
/// forever.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_comes_meanwhile_ends_nothing_before_the_answer() {
    for (patience, too_early) in [("100ms", true), ("30s", false)] {
        let more = format!("timeout = \"15s\"\n[limits]\ntakeover_timeout = \"{patience}\"");
        let (application, app) = pair(&ASKED, &more).await;
        application.always(Reply::Hold);
        let mut writing = app.client().await;
        let path = writing.create(5).await;
        writing.begin_patch(&path, 0, 5).await;
        writing.send(BYTES).await;
        application.wait_for_count(1).await;

        let mut client = app.client().await;
        client.send_head("DELETE", &path, &[TUS]).await;
        if too_early {
            let answer = client.raw_answer("DELETE").await.unwrap();
            assert_eq!((answer.status, answer.problem()), (503, "held".to_owned()), "{answer:?}");
            assert!(answer.header("retry-after").is_some());
            assert_eq!(client.status(&path).await["stage"], "verified", "nothing has happened to it");
        }
        application.release();
        assert_eq!(writing.answer("PATCH").await.status, 204, "its client gets the success");
        if too_early {
            assert_eq!(client.status(&path).await["stage"], "completed");
            client.send_head("DELETE", &path, &[TUS]).await;
        }
        assert_eq!(client.raw_answer("DELETE").await.unwrap().status, 204);
        assert_eq!(client.status(&path).await["stage"], "terminated");
        assert_eq!(application.heard().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_waits_for_a_verdict_can_be_deleted() {
    let (application, app) = pair(&ASKED, "breaker_failures = 1000").await;
    application.always(Reply::Status("500 Oops"));
    let mut client = app.client().await;
    let path = client.create(5).await;
    is_put_off(&client.patch(&path, 0, BYTES).await, "down");
    assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 204);
    application.always(Reply::Status("204 No Content"));
    // By the time another upload is accepted, the hook for this one would have been repeated.
    let other = client.create(5).await;
    assert_eq!(client.patch(&other, 0, BYTES).await.status, 204);
    assert_eq!(client.status(&path).await["stage"], "terminated");
    assert_eq!(client.head(&path).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_verified_upload_is_asked_about_and_the_failure_is_told_to_backends() {
    let receiver = Receiver::start().await;
    let application = Scripted::start(SECRET).await;
    let file = format!("{}\n{}", asking(&application, &ASKED, ""), receiver.endpoint("[\"*\"]"));
    let app = TestApp::from_file(&file, |_| {}).await;
    let mut client = app.client().await;
    let wrong = ("Repr-Digest", "crc32c=:AAAAAA==:");
    let answer = client.request("PUT", "/files/a", &[wrong], BYTES).await;
    assert!(answer.status >= 400, "{answer:?}");
    assert_eq!(application.heard().len(), 0, "no hook is called for a broken upload");
    application.always(json("200 OK", NO));
    is_refused(&client.request("PUT", "/files/a", &[], BYTES).await, 422, "not a video", "plain");
    let failed = |body: &serde_json::Value| body["data"]["error"]["code"] == "rejected-by-application";
    let heard = receiver.wait_for(|heard| heard.iter().any(|one| failed(&one.body))).await;
    let told = heard.iter().find(|one| failed(&one.body)).unwrap();
    assert_eq!(told.kind(), "upload.failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_does_not_wait_for_the_application_and_asks_soon_after() {
    let application = Scripted::start(SECRET).await;
    application.always(Reply::Status("500 Oops"));
    let quick = |config: &mut Config| config.hooks.calls.as_mut().unwrap().breaker_failures = 1000;
    let mut app = TestApp::from_file(&asking(&application, &ASKED, ""), quick).await;
    let mut client = app.client().await;
    let path = client.create(5).await;
    is_put_off(&client.patch(&path, 0, BYTES).await, "down");
    app.stop().await;
    application.always(Reply::Hang);
    let before = application.heard().len();
    app.start_again().await;
    let mut client = app.client().await;
    assert_eq!(client.status(&path).await["stage"], "verified");
    application.wait_for_count(before + 1).await;
    application.always(Reply::Status("204 No Content"));
    wait_for_stage(client.address, &path, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_it_asks_asks_again() {
    let folder = TempDir::new().unwrap();
    let application = Scripted::start(SECRET).await;
    let url = format!("http://{}/hook", application.address);
    let flags = [
        "--hooks-pre-finish",
        &url,
        "--hooks-secret",
        SECRET,
        "--hooks-timeout",
        "15s",
        "--limits-sweep-every",
        "100ms",
    ];
    application.always(Reply::Hang);
    let process = Process::start(folder.path(), &flags);
    let mut client = process.client().await;
    let path = client.create(5).await;
    client.begin_patch(&path, 0, 5).await;
    client.send(BYTES).await;
    application.wait_for_count(1).await;
    process.kill();
    application.always(json("200 OK", NO));
    let process = Process::start(folder.path(), &flags);
    let mut client = process.client().await;
    wait_for_stage(client.address, &path, "failed").await;
    assert_eq!(client.head(&path).await.status, 422);
    let asked = application.heard();
    assert_eq!(asked[0].id, asked[1].id, "the same decision");
    let kept = calls(&mut client, "").await;
    assert_eq!(kept.len(), 1, "the first call has no end to record: {kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_wait_do_not_wait_for_each_other() {
    let (application, app) = pair(&ASKED, "timeout = \"15s\"\nbreaker_failures = 1000").await;
    application.always(Reply::Status("500 Oops"));
    let mut client = app.client().await;
    let mut paths = Vec::new();
    for _ in 0..6 {
        let path = client.create(5).await;
        is_put_off(&client.patch(&path, 0, BYTES).await, "down");
        paths.push(path);
    }
    // The hook for one of them is never answered.
    let slow = paths[0].clone();
    application.decide(move |request| match slow.ends_with(request.json["data"]["upload_id"].as_str().unwrap()) {
        true => Reply::Hang,
        false => Reply::Status("204 No Content"),
    });
    for path in &paths[1..] {
        wait_for_stage(client.address, path, "completed").await;
    }
    assert_eq!(client.status(&paths[0]).await["stage"], "verified");
}
