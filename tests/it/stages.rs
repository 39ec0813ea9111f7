//! Stages that backends report: authorization, timing, and visibility.

use std::time::Duration;

use domain::principal::Principal;
use domain::report::NewReport;
use domain::upload::ReportOutcome;
use engine::command::{EngineError, Unavailable};
use engine::report::ReportError;
use serde_json::{Value, json};
use storage::faults::Effect;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::receiver::SECRET;
use crate::support::scripted::Scripted;
use crate::support::sse::Sse;
use crate::support::world::{Trouble, World};

const TOKEN: &str = "correct-horse-battery-staple";

/// Starts a server, and a receiver of all events.
async fn served(toml: &str) -> (TestApp, Scripted) {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&format!("{toml}{}", receiver.endpoint("all", "['*']")), |_| {}).await;
    (app, receiver)
}

fn status_of(path: &str) -> String {
    path.replace("/files/", "/api/v1/uploads/")
}

fn stages_of(path: &str) -> String {
    format!("{}/stages", status_of(path))
}

async fn upload(client: &mut Client) -> String {
    let path = client.create(11).await;
    assert_eq!(client.patch(&path, 0, b"hello world").await.status, 204);
    path
}

/// Returns the token in the first webhook about an upload.
async fn token_of(receiver: &Scripted, path: &str) -> String {
    let heard = receiver.wait_for(|heard| heard.iter().any(|request| path.ends_with(request.upload()))).await;
    let first = heard.iter().find(|request| path.ends_with(request.upload())).unwrap();
    first.headers["webhook-stage-token"].clone()
}

async fn post(client: &mut Client, path: &str, token: &str, body: &[u8]) -> Answer {
    client.request("POST", &stages_of(path), &[("Authorization", &format!("Bearer {token}"))], body).await
}

async fn report(client: &mut Client, path: &str, token: &str, report: Value) -> Answer {
    post(client, path, token, report.to_string().as_bytes()).await
}

/// Returns the status and the code of a problem.
fn code(answer: &Answer) -> (u16, String) {
    let kind = answer.json()["type"].as_str().unwrap().to_owned();
    (answer.status, kind.trim_start_matches("urn:longshore:problem:").to_owned())
}

fn problem(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_in_the_status_and_told_to_everyone() {
    let (app, receiver) = served("").await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let token = token_of(&receiver, &path).await;
    let heard = receiver.wait_for_kind("upload.completed").await;
    assert!(heard.iter().all(|request| request.headers["webhook-stage-token"] == token), "the same in each");
    let before = client.get(&status_of(&path)).await;
    assert_eq!(before.json()["reports"], json!([]));

    let answer = report(&mut client, &path, &token, json!({ "name": "hls", "percent": 40, "message": "720p" })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let reported = answer.json();
    assert_eq!(
        (&reported["name"], &reported["percent"], &reported["message"]),
        (&json!("hls"), &json!(40), &json!("720p"))
    );

    let status = client.get(&status_of(&path)).await;
    assert_eq!(status.json()["reports"], json!([reported]));
    assert_eq!(status.json()["stage"], "completed");
    assert_ne!(status.header("etag"), before.header("etag"));
    let heard = receiver.wait_for_kind("upload.processing").await;
    let told = heard.iter().find(|request| request.kind() == "upload.processing").unwrap();
    assert_eq!(told.json["data"]["report"], json!({ "name": "hls", "percent": 40, "message": "720p" }));
    assert_eq!((&told.json["data"]["stage"], told.sequence()), (&json!("completed"), 7));
    assert_eq!(told.json["timestamp"], reported["at"]);

    // A repeated report changes nothing.
    let again = report(&mut client, &path, &token, json!({ "message": "720p", "percent": 40, "name": "hls" })).await;
    assert_eq!((again.status, again.json()), (200, reported));
    let unchanged = client.get(&status_of(&path)).await;
    assert_eq!(unchanged.header("etag"), status.header("etag"));

    // After the end only the end is published.
    assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 204);
    let heard = receiver.wait_for_kind("upload.terminated").await;
    assert!(heard.iter().map(|request| request.sequence()).eq(1..=8), "{heard:#?}");
    let refused = report(&mut client, &path, &token, json!({ "name": "hls", "percent": 50 })).await;
    assert_eq!(code(&refused), problem(409, "upload-ended"));
    assert_eq!(client.status(&path).await["reports"], json!([again.json()]), "earlier reports are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_its_own_upload_and_for_nothing_else() {
    for toml in [String::new(), format!("[auth]\ntoken = \"{TOKEN}\"\n")] {
        let (app, receiver) = served(&toml).await;
        let mut client = app.client().await;
        let shared = ("Authorization", format!("Bearer {TOKEN}"));
        let shared = (shared.0, shared.1.as_str());
        let mut paths = Vec::new();
        for _ in 0..2 {
            let created = client.tus("POST", "/files", &[shared, ("Upload-Length", "0")], b"").await;
            paths.push(created.header("location").unwrap().to_owned());
        }
        let (token, other) = (token_of(&receiver, &paths[0]).await, token_of(&receiver, &paths[1]).await);
        assert_ne!(token, other);
        let said = json!({ "name": "a" });
        for wrong in [
            "",
            "x",
            "stg_",
            &other,
            &token.to_uppercase(),
            &format!("{token}="),
            &token[4..],
            "incorrect-horse-battery",
        ] {
            let answer = report(&mut client, &paths[0], wrong, said.clone()).await;
            assert_eq!(code(&answer), problem(401, "unauthorized"), "{wrong}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
        let without = client.request("POST", &stages_of(&paths[0]), &[], said.to_string().as_bytes()).await;
        assert_eq!(without.status, 401, "also where everything else is open to all");
        let basic = ("Authorization", format!("Basic {token}"));
        let basic = client.request("POST", &stages_of(&paths[0]), &[(basic.0, &basic.1)], b"{}").await;
        assert_eq!(basic.status, 401);
        assert_eq!(report(&mut client, &paths[0], &token, said.clone()).await.status, 200);

        if toml.is_empty() {
            continue;
        }
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str())];
        for path in [paths[0].as_str(), &status_of(&paths[0]), &format!("{}/events", status_of(&paths[0])), "/metrics"]
        {
            assert_eq!(client.request("GET", path, &headers, b"").await.status, 401, "{path}");
        }
        assert_eq!(client.tus("DELETE", &paths[0], &headers, b"").await.status, 401);
        assert_eq!(report(&mut client, &paths[1], TOKEN, said).await.status, 200, "the shared token opens it too");
    }
}

/// The router decodes paths; the check of a token must see the same path.
#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_of_the_address_opens_nothing() {
    let (app, _receiver) = served(&format!("[auth]\ntoken = \"{TOKEN}\"\n")).await;
    let mut client = app.client().await;
    let id = "01a2003c-6e4b-7707-8707-070707070707";
    for path in [
        format!("/api/v1/uploads/{id}/st%61ges"),
        format!("/api/v1/%75ploads/{id}/stages"),
        format!("/api/v1/uploads/{id}%2Fevents/stages"),
        format!("/api/v1/uploads/{id}/events/stages"),
        format!("/api/v1/uploads//{id}/stages"),
        "/api/v1/uploads/stages".to_owned(),
        "/api/v1/uploads/../uploads/stages".to_owned(),
    ] {
        assert_eq!(client.request("POST", &path, &[], b"{\"name\":\"a\"}").await.status, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_after_a_restart() {
    let (mut app, receiver) = served("").await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let token = token_of(&receiver, &path).await;
    receiver.wait_for_kind("upload.completed").await;
    app.restart().await;
    let mut client = app.client().await;
    assert_eq!(report(&mut client, &path, &token, json!({ "name": "a", "percent": 1 })).await.status, 200);
    app.restart().await;
    let mut client = app.client().await;
    let status = client.status(&path).await;
    assert_eq!((&status["reports"][0]["name"], &status["reports"][0]["percent"]), (&json!("a"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reported_is_refused_and_changes_nothing() {
    let (app, receiver) = served("").await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let token = token_of(&receiver, &path).await;
    let before = client.status(&path).await;
    let long = format!(r#"{{"name": "a", "message": "{}"}}"#, "x".repeat(501));
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"a\"",
        "{}",
        r#"{"name": 7}"#,
        r#"{"name": ""}"#,
        r#"{"name": "Two Words"}"#,
        r#"{"name": "a", "percent": 101}"#,
        r#"{"name": "a", "percent": -1}"#,
        r#"{"name": "a", "percent": 40.5}"#,
        r#"{"name": "a", "percent": "40"}"#,
        r#"{"name": "a", "message": ""}"#,
        r#"{"name": "a", "message": "two\nlines"}"#,
        r#"{"name": "a", "stage": "completed"}"#,
        r#"{"name": "a", "name": "b"}"#,
        r#"{"name": "a"} {"name": "b"}"#,
        &long,
    ] {
        let answer = post(&mut client, &path, &token, body.as_bytes()).await;
        assert_eq!(code(&answer), problem(400, "bad-report"), "{body}");
        assert!(answer.json()["detail"].as_str().unwrap().len() > 20, "it names the correct form: {answer:?}");
    }
    let escaped = format!(r#"{{"name": "a", "message": "{}"}}"#, r"\ud83c\udf89".repeat(500));
    let large = format!("{}{escaped}", " ".repeat(8 * 1024));
    let answer = post(&mut client, &path, &token, large.as_bytes()).await;
    assert_eq!(code(&answer), problem(413, "report-too-large"));
    assert_eq!(client.status(&path).await, before);
    assert_eq!(post(&mut client, &path, &token, escaped.as_bytes()).await.status, 200, "the longest that fits");

    let headers = [("Authorization", format!("Bearer {token}"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let get = client.request("GET", &stages_of(&path), &headers, b"").await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST, OPTIONS")));
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_reported_once_every_byte_is_there() {
    let (app, receiver) = served(&format!("[auth]\ntoken = \"{TOKEN}\"\n")).await;
    let mut client = app.client().await;
    let shared = format!("Bearer {TOKEN}");
    let shared = ("Authorization", shared.as_str());
    let created = client.tus("POST", "/files", &[shared, ("Upload-Length", "11")], b"").await;
    let path = created.header("location").unwrap().to_owned();
    let token = token_of(&receiver, &path).await;
    let said = json!({ "name": "a" });
    let early = report(&mut client, &path, &token, said.clone()).await;
    assert_eq!(code(&early), problem(409, "not-received"));
    let octets = ("Content-Type", "application/offset+octet-stream");
    client.tus("PATCH", &path, &[shared, octets, ("Upload-Offset", "0")], b"hello").await;

    // The status request does not interrupt an active writer.
    let mut writer = app.client().await;
    let tus = ("Tus-Resumable", "1.0.0");
    let headers = [shared, tus, octets, ("Upload-Offset", "5"), ("Content-Length", "6")];
    writer.send_head("PATCH", &path, &headers).await;
    writer.send(b" wor").await;
    let early = report(&mut client, &path, &token, said.clone()).await;
    assert_eq!(code(&early), problem(409, "not-received"));
    writer.send(b"ld").await;
    assert_eq!(writer.answer("PATCH").await.status, 204);
    assert_eq!(report(&mut client, &path, &token, said.clone()).await.status, 200);

    let none = "/files/01a2003c-6e4b-7707-8707-070707070707";
    assert_eq!(code(&report(&mut client, none, TOKEN, said).await), problem(404, "no-such-upload"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_has_a_bounded_number_of_reported_stages() {
    let (app, receiver) = served("").await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let token = token_of(&receiver, &path).await;
    for number in 0..32 {
        let said = json!({ "name": format!("stage-{number}"), "percent": 0 });
        assert_eq!(report(&mut client, &path, &token, said).await.status, 200);
    }
    let more = report(&mut client, &path, &token, json!({ "name": "one-more" })).await;
    assert_eq!(code(&more), problem(409, "too-many-stages"));
    assert_eq!(report(&mut client, &path, &token, json!({ "name": "stage-7", "percent": 100 })).await.status, 200);
    assert_eq!(client.status(&path).await["reports"][7]["percent"], 100);
}

/// Concurrent reports from several connections: none is lost, and each published one is published once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reports_that_come_at_once_are_all_kept() {
    let (app, receiver) = served("").await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let token = token_of(&receiver, &path).await;
    let reporting = (0..8).map(|number| {
        let (path, token, address) = (path.clone(), token.clone(), app.address());
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            for percent in 0..=20 {
                let said = json!({ "name": format!("stage-{number}"), "percent": percent * 5 });
                let answer = report(&mut client, &path, &token, said).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        })
    });
    for reported in futures::future::join_all(reporting).await {
        reported.unwrap();
    }
    let status = client.status(&path).await;
    let reports = status["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 8);
    assert!(reports.iter().all(|report| report["percent"] == 100), "{reports:#?}");
    let done = |heard: &[crate::support::scripted::Request]| {
        heard.iter().filter(|request| request.json["data"]["report"]["percent"] == 100).count() == 8
    };
    let heard = receiver.wait_for(done).await;
    let sequences: Vec<u64> = heard.iter().map(|request| request.sequence()).collect();
    assert!(sequences.iter().copied().eq(1..=heard.len() as u64), "{sequences:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_goes_on_to_the_end_shows_reports_but_never_the_token() {
    let (app, receiver) = served("").await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let token = token_of(&receiver, &path).await;
    receiver.wait_for_kind("upload.completed").await;
    let events = format!("{}/events", status_of(&path));
    let mut stream = Sse::open(app.address(), &format!("{events}?until=ended"), &[]).await;
    let mut all = Sse::open(app.address(), "/api/v1/events", &[]).await;
    let mut seen = vec![stream.message().await.unwrap(), all.message().await.unwrap()];
    assert_eq!(seen[0].event, "snapshot");

    assert_eq!(report(&mut client, &path, &token, json!({ "name": "hls", "percent": 1 })).await.status, 200);
    for stream in [&mut stream, &mut all] {
        let told = stream.event().await.unwrap();
        assert_eq!((told.event.as_str(), &told.json()["data"]["report"]["name"]), ("upload.processing", &json!("hls")));
        seen.push(told);
    }
    // A report that comes too soon for an event is shown nevertheless, though without an id.
    assert_eq!(report(&mut client, &path, &token, json!({ "name": "hls", "percent": 2 })).await.status, 200);
    let shown = stream.message().await.unwrap();
    let percent = match shown.event.as_str() {
        "progress" => shown.json()["reports"][0]["percent"].clone(),
        // On a slow machine more than a second has passed in between.
        _ => shown.json()["data"]["report"]["percent"].clone(),
    };
    assert_eq!(percent, 2);
    seen.push(shown);

    assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 204);
    let last = stream.event().await.unwrap();
    assert_eq!(last.event, "upload.terminated");
    assert_eq!(stream.message().await, None, "nothing more can come");
    let again = [("Last-Event-ID", last.id.as_deref().unwrap())];
    let over = Sse::ask(app.address(), &format!("{events}?until=ended"), &again).await.err().unwrap();
    assert_eq!(over.status, 204);
    for message in &seen {
        assert!(!message.data.contains("stg_"), "{message:?}");
    }
}

/// By default a stream ends with the upload, as it always did, and includes the reports since then.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_cut_tells_the_reports_it_missed_and_ends() {
    let (app, receiver) = served("").await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let token = token_of(&receiver, &path).await;
    let events = format!("{}/events", status_of(&path));
    let first = Sse::open(app.address(), &events, &[]).await.message().await.unwrap();
    assert_eq!(report(&mut client, &path, &token, json!({ "name": "hls" })).await.status, 200);
    let headers = [("Last-Event-ID", first.id.as_deref().unwrap())];
    let missed = Sse::open(app.address(), &events, &headers).await.rest().await;
    assert_eq!(missed.iter().map(|event| event.event.as_str()).collect::<Vec<_>>(), ["upload.processing"]);
    for wrong in ["until=never", "until=", "follow=true"] {
        let refused = Sse::ask(app.address(), &format!("{events}?{wrong}"), &[]).await.err().unwrap();
        assert_eq!(refused.status, 400, "{wrong}");
    }
    let refused = Sse::ask(app.address(), "/api/v1/events?until=ended", &[]).await.err().unwrap();
    assert_eq!(refused.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_change_is_told_of_a_report() {
    let (app, receiver) = served("").await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let token = token_of(&receiver, &path).await;
    let tag = client.get(&status_of(&path)).await.header("etag").unwrap().to_owned();
    let mut waiting = app.client().await;
    waiting.send_head("GET", &format!("{}?wait=30s", status_of(&path)), &[("If-None-Match", &tag)]).await;
    tokio::time::timeout(Duration::from_secs(30), report(&mut client, &path, &token, json!({ "name": "hls" })))
        .await
        .expect("waiting requests do not delay it");
    let answer = waiting.answer("GET").await;
    assert_eq!((answer.status, &answer.json()["reports"][0]["name"]), (200, &json!("hls")));
}

fn hls(percent: u64) -> NewReport {
    NewReport::new("hls".to_owned(), Some(percent), None).unwrap()
}

/// Neither the completing writer nor the report loses its commit to the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_waits_for_an_upload_that_is_being_settled() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = life.create(10).await;
    life.append(id, 0, b"hello").await.unwrap();
    life.records.hold(Effect::Done);
    let writing = life.append(id, 5, b"world");
    let reporting = async {
        life.records.reached().await;
        assert_eq!(life.find(id).await.stage().name(), "verified");
        let engine = life.engine.clone();
        let reporting = tokio::spawn(async move { engine.report(&Principal::server(), id, hls(1)).await });
        // The request is in progress now: it has begun, and cannot have ended.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!reporting.is_finished());
        life.records.release();
        reporting.await.unwrap()
    };
    let (written, reported) = tokio::join!(writing, reporting);
    written.unwrap();
    assert_eq!(reported.unwrap().1, ReportOutcome::Changed);
    let way = ["created", "receiving", "received", "verified", "stored", "completed", "processing"];
    assert_eq!(life.events(id).await, way);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_loses_its_commit_is_tried_again() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = life.create(0).await;
    life.records.fail_next(Effect::Nothing, Trouble::Conflict);
    assert_eq!(life.engine.report(&Principal::server(), id, hls(1)).await.unwrap().1, ReportOutcome::Changed);
    // Committed, although an error was returned: the retry finds nothing left to change.
    life.records.fail_next(Effect::Done, Trouble::Conflict);
    assert_eq!(life.engine.report(&Principal::server(), id, hls(100)).await.unwrap().1, ReportOutcome::Unchanged);
    let events = life.events(id).await;
    assert_eq!(events[events.len() - 2..], ["processing", "processing"]);

    life.records.fail_next(Effect::Nothing, Trouble::Broken);
    let failed = life.engine.report(&Principal::server(), id, hls(50)).await;
    assert!(matches!(failed, Err(ReportError::Engine(EngineError::Failed { .. }))), "{failed:?}");
    assert_eq!(life.find(id).await.record().reports[0].percent, Some(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_does_not_wait_for_ever() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.takeover_timeout = Duration::from_millis(50)).await;
    let id = life.create(5).await;
    life.records.hold(Effect::Done);
    let writing = life.append(id, 0, b"hello");
    let reporting = async {
        life.records.reached().await;
        let refused = life.engine.report(&Principal::server(), id, hls(1)).await;
        assert!(
            matches!(refused, Err(ReportError::Engine(EngineError::Unavailable(Unavailable::Held)))),
            "{refused:?}"
        );
        life.records.release();
    };
    tokio::join!(writing, reporting).0.unwrap();
    assert!(life.find(id).await.record().reports.is_empty());
}
