//! Administration of webhooks over HTTP: endpoints are created, changed, rotated, paused and tested;
//! deliveries are replayed; and every invalid request.

use std::process::Command;
use std::time::Duration;

use keyring::{AdminKey, AdminKeyHash};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::event_ids::EventIds;
use crate::support::patience::{until, until_fits};
use crate::support::process::Process;
use crate::support::program::{Program, run};
use crate::support::receiver::SECRET;
use crate::support::scripted::{Reply, Scripted, closed_port};
use crate::support::tls::Certificate;

const OTHER_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The receivers of tests are on loopback, which only an operator can allow.
const OPEN_TO_LOOPBACK: &str = "[webhooks]\nallow_networks = ['127.0.0.0/8']\n";

async fn started() -> (TestApp, Client) {
    let app = TestApp::from_file(OPEN_TO_LOOPBACK, |config| {
        config.webhooks.sending.retry_schedule = vec![Duration::from_millis(50)];
        config.webhooks.sending.retry_jitter_percent = 0;
    })
    .await;
    let client = app.client().await;
    (app, client)
}

fn url_of(receiver: &Scripted) -> String {
    format!("http://{}/hook", receiver.address)
}

async fn ask(client: &mut Client, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [("Content-Type", "application/json")];
    client.request(method, &format!("/api/v1/webhooks{path}"), &headers, body.as_bytes()).await
}

async fn done(client: &mut Client, method: &str, path: &str, body: Value) -> Value {
    let answer = ask(client, method, path, body).await;
    assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    if answer.status == 204 { Value::Null } else { answer.json() }
}

/// Any page can send a form or a text, so neither is accepted as JSON.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_says_it_is_no_json_is_refused_where_json_is_read() {
    let (app, mut client) = started().await;
    let receiver = Scripted::start(SECRET).await;
    let body = json!({ "id": "spy", "url": url_of(&receiver) }).to_string();
    let stages = "/api/v1/uploads/01a2003c-6e4b-7707-8707-070707070707/stages";
    for named in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", "application/jsonp", ""]
    {
        let headers = [("Content-Type", named)];
        for path in ["/api/v1/webhooks/endpoints", "/api/v1/webhooks/expunge"] {
            let refused = client.request("POST", path, &headers, body.as_bytes()).await;
            assert_eq!((refused.status, refused.problem().as_str()), (415, "not-json"), "{named:?} {path}");
        }
    }
    let listed = done(&mut client, "GET", "/endpoints", Value::Null).await;
    assert_eq!(listed["endpoints"], json!([]), "nothing was made");
    for (named, status) in [("Application/JSON; charset=utf-8", 201), ("application/json", 409)] {
        let made =
            client.request("POST", "/api/v1/webhooks/endpoints", &[("Content-Type", named)], body.as_bytes()).await;
        assert_eq!(made.status, status, "{named}: {made:?}");
    }
    let answer = client.get("/api/v1/webhooks/endpoints").await;
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));

    let key = AdminKey::generate([1; 32]);
    let hash = AdminKeyHash::of(key.expose().as_bytes());
    let app2 = TestApp::from_file(&format!("[auth]\nadmin_keys = [\"{hash}\"]\n"), |_| {}).await;
    let bearer = format!("Bearer {}", key.expose());
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "text/plain")];
    let refused = app2.client().await.request("POST", stages, &headers, br#"{"name":"a"}"#).await;
    assert_eq!((refused.status, refused.problem().as_str()), (415, "not-json"));
    drop(app);
}

/// Creates an endpoint for this receiver, which knows [`SECRET`].
async fn make(client: &mut Client, name: &str, receiver: &Scripted) -> Value {
    done(client, "POST", "/endpoints", json!({ "id": name, "url": url_of(receiver), "secret": SECRET })).await
}

async fn upload(client: &mut Client) -> String {
    let path = client.create(11).await;
    assert_eq!(client.patch(&path, 0, b"hello world").await.status, 204);
    path
}

async fn deliveries_until(client: &mut Client, query: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let path = format!("/deliveries?{query}");
    let list = async || done(client, "GET", &path, Value::Null).await["deliveries"].as_array().unwrap().clone();
    until_fits("there are enough deliveries", list, |found| enough(found)).await
}

/// webhooks A1, A4, H9.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_made_changed_and_removed() {
    let (_app, mut client) = started().await;
    let receiver = Scripted::start(SECRET).await;
    let made = make(&mut client, "made", &receiver).await;
    assert_eq!(made["secret"], SECRET, "once");
    assert_eq!((&made["origin"], &made["state"]), (&json!("api"), &json!("enabled")));
    upload(&mut client).await;
    receiver.wait_for_kind("upload.completed").await;

    for path in ["/endpoints", "/endpoints/made"] {
        let shown = done(&mut client, "GET", path, Value::Null).await.to_string();
        assert!(shown.contains("\"made\"") && !shown.contains(SECRET), "{shown}");
    }
    let other = Scripted::start(SECRET).await;
    let change = json!({ "url": url_of(&other), "events": ["upload.created"], "max_in_flight": 1, "timeout_ms": 2000 });
    let changed = done(&mut client, "PATCH", "/endpoints/made", change).await;
    assert_eq!((&changed["events"], &changed["max_in_flight"]), (&json!(["upload.created"]), &json!(1)));
    assert_eq!(changed["ordering"], "per_upload", "omitted settings are kept");
    let undone = done(&mut client, "PATCH", "/endpoints/made", json!({ "max_in_flight": null })).await;
    assert_eq!((&undone["max_in_flight"], &undone["timeout_ms"]), (&Value::Null, &json!(2000)));
    upload(&mut client).await;
    other.wait_for_count(1).await;

    done(&mut client, "DELETE", "/endpoints/made", Value::Null).await;
    assert_eq!(ask(&mut client, "GET", "/endpoints/made", Value::Null).await.status, 404);
    assert_eq!(ask(&mut client, "DELETE", "/endpoints/made", Value::Null).await.status, 404);
    upload(&mut client).await;
    let all = deliveries_until(&mut client, "limit=100", |_| true).await;
    assert_eq!(
        (all.len(), other.heard().len()),
        (7, 1),
        "six of the first upload, one of the second, none of the third"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_outlives_a_restart() {
    let (mut app, mut client) = started().await;
    let receiver = Scripted::start(OTHER_SECRET).await;
    let body = json!({ "url": url_of(&receiver), "secret": OTHER_SECRET, "headers": { "X-Team": "video" } });
    let made = done(&mut client, "POST", "/endpoints", body).await;
    assert_eq!(made["headers"], json!(["x-team"]), "names, not values");
    let path = format!("/endpoints/{}", made["id"].as_str().unwrap());
    app.restart().await;
    let mut client = app.client().await;
    let found = done(&mut client, "GET", &path, Value::Null).await;
    assert_eq!(found["url"], made["url"]);
    upload(&mut client).await;
    let heard = receiver.wait_for_kind("upload.completed").await;
    assert_eq!(heard[0].headers["x-team"], "video");
    let database = std::fs::read(app.data_dir().join("longshore.db")).unwrap();
    let wal = std::fs::read(app.data_dir().join("longshore.db-wal")).unwrap_or_default();
    for secret in [&OTHER_SECRET[6..], "video"] {
        let found = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found(&database) && !found(&wal), "webhooks S11: nothing secret is readable in the database");
    }
}

/// webhooks H10: during the overlap a receiver with either secret accepts.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_signs_beside_the_old_one() {
    let (_app, mut client) = started().await;
    let old = Scripted::start(SECRET).await;
    make(&mut client, "rotated", &old).await;
    let rotated = done(&mut client, "POST", "/endpoints/rotated/rotate", json!({ "overlap_ms": 60_000 })).await;
    let new_secret = rotated["secret"].as_str().unwrap().to_owned();
    assert_ne!(new_secret, SECRET);
    assert_eq!(rotated["keys"].as_array().unwrap().len(), 2);
    assert!(rotated["keys"][1]["expires_at"].is_string(), "{rotated}");
    client.create(1).await;
    let heard = old.wait_for_count(1).await;
    assert_eq!(heard[0].headers["webhook-signature"].split(' ').count(), 2);

    let new = Scripted::start(&new_secret).await;
    done(&mut client, "PATCH", "/endpoints/rotated", json!({ "url": url_of(&new) })).await;
    client.create(1).await;
    new.wait_for_count(1).await;
    done(&mut client, "POST", "/endpoints/rotated/rotate", json!({ "overlap_ms": 0, "secret": OTHER_SECRET })).await;
    let newest = Scripted::start(OTHER_SECRET).await;
    done(&mut client, "PATCH", "/endpoints/rotated", json!({ "url": url_of(&newest) })).await;
    client.create(1).await;
    let heard = newest.wait_for_count(1).await;
    let signatures = heard[0].headers["webhook-signature"].split(' ').count();
    assert_eq!(signatures, 2, "the one that was replaced at once is gone, the one before it has its minute");
}

/// webhooks H9: a secret that a change creates is returned with that change, because otherwise the receiver
/// could not verify anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_signing_shows_the_key_it_makes() {
    let (_app, mut client) = started().await;
    let body = json!({ "id": "signed", "url": "http://127.0.0.1:9000/", "signing": "ed25519" });
    let made = done(&mut client, "POST", "/endpoints", body).await;
    assert_eq!((made["secret"].is_null(), made["public_key"].is_string()), (true, true), "{made}");
    let changed = done(&mut client, "PATCH", "/endpoints/signed", json!({ "signing": "both" })).await;
    let secret = changed["secret"].as_str().expect("the new secret is shown");
    assert!(changed["public_key"].is_null(), "only new keys are shown: {changed}");

    let receiver = Scripted::start(secret).await;
    let moved = done(&mut client, "PATCH", "/endpoints/signed", json!({ "url": url_of(&receiver) })).await;
    assert_eq!(moved.get("secret"), None, "once");
    client.create(1).await;
    let heard = receiver.wait_for_count(1).await;
    assert_eq!(heard[0].headers["webhook-signature"].split(' ').count(), 2);
    let back = done(&mut client, "PATCH", "/endpoints/signed", json!({ "signing": "hmac" })).await;
    assert_eq!(back.get("secret"), None, "nothing was made");
}

/// webhooks A5.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_tried_out() {
    let (_app, mut client) = started().await;
    let receiver = Scripted::start(SECRET).await;
    make(&mut client, "tried", &receiver).await;
    let tested = done(&mut client, "POST", "/endpoints/tried/test", Value::Null).await;
    assert_eq!((&tested["type"], &tested["state"]), (&json!("webhook.ping"), &json!("succeeded")));
    assert_eq!((&tested["attempts"][0]["status"], &tested["attempts"][0]["trigger"]), (&json!(204), &json!("test")));
    assert_eq!(tested["attempts"][0]["remote_address"], "127.0.0.1");

    done(&mut client, "POST", "/endpoints/tried/pause", Value::Null).await;
    receiver.always(Reply::Status("500 Oops"));
    let failed = done(&mut client, "POST", "/endpoints/tried/test", Value::Null).await;
    assert_eq!((&failed["state"], &failed["attempts"][0]["status"]), (&json!("cancelled"), &json!(500)));
    assert_eq!(receiver.heard().len(), 2, "also while it is paused, and once");
}

/// webhooks E6, O7.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_keeps_and_a_resume_sends_or_drops() {
    let (_app, mut client) = started().await;
    let receiver = Scripted::start(SECRET).await;
    make(&mut client, "paused", &receiver).await;
    let paused = done(&mut client, "POST", "/endpoints/paused/pause", Value::Null).await;
    assert_eq!(paused["state"], "paused");
    client.create(1).await;
    deliveries_until(&mut client, "state=paused", |found| found.len() == 1).await;
    assert_eq!(done(&mut client, "GET", "/endpoints/paused", Value::Null).await["backlog"]["paused"], 1);
    assert_eq!(done(&mut client, "POST", "/endpoints/paused/resume", Value::Null).await["state"], "enabled");
    receiver.wait_for_count(1).await;

    done(&mut client, "POST", "/endpoints/paused/pause", Value::Null).await;
    client.create(1).await;
    for refused in [
        json!({ "backlog": "cancel", "missed_since": "yesterday" }),
        json!({ "backlog": "cancel", "missed_since": "2126-01-01T00:00:00Z" }),
        json!({ "missed_since": "2126-01-01T00:00:00Z" }),
    ] {
        let answer = ask(&mut client, "POST", "/endpoints/paused/resume", refused).await;
        assert_eq!(answer.status, 422, "{answer:?}");
    }
    let unchanged = done(&mut client, "GET", "/endpoints/paused", Value::Null).await;
    assert_eq!((&unchanged["state"], &unchanged["backlog"]["paused"]), (&json!("paused"), &json!(1)));
    done(&mut client, "POST", "/endpoints/paused/resume", json!({ "backlog": "cancel" })).await;
    deliveries_until(&mut client, "state=cancelled", |found| found.len() == 1).await;
    assert_eq!(done(&mut client, "POST", "/pause", Value::Null).await, json!({ "paused": 1 }));
    client.create(1).await;
    deliveries_until(&mut client, "state=paused", |found| found.len() == 1).await;
    assert_eq!(done(&mut client, "POST", "/resume", Value::Null).await, json!({ "resumed": 1 }));
    receiver.wait_for_count(2).await;

    done(&mut client, "POST", "/endpoints/paused/pause", Value::Null).await;
    client.create(1).await;
    let both = json!({ "backlog": "cancel", "missed_since": "2020-01-01T00:00:00Z" });
    done(&mut client, "POST", "/endpoints/paused/resume", both).await;
    // The deliveries that were canceled just now, and those of before.
    receiver.wait_for_count(4).await;

    receiver.always(Reply::Hang);
    client.create(1).await;
    receiver.wait_for_count(5).await;
    done(&mut client, "POST", "/endpoints/paused/resume", json!({ "backlog": "cancel" })).await;
    deliveries_until(&mut client, "state=leased", |found| found.len() == 1).await;
}

/// webhooks E9: the information that an operator gets about a failing endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_tells_how_it_is_doing() {
    let app = TestApp::from_file(OPEN_TO_LOOPBACK, |config| {
        config.webhooks.sending.retry_schedule = vec![Duration::from_millis(50)];
        config.webhooks.sending.retry_jitter_percent = 0;
        config.webhooks.sending.health.breaker_failures = 4;
        config.webhooks.sending.health.breaker_pause = Duration::from_mins(10);
    })
    .await;
    let mut client = app.client().await;
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Status("500 Oops"));
    let well = make(&mut client, "ill", &receiver).await;
    let nothing = json!({
        "total": 0, "waiting": 0, "ready": 0, "leased": 0, "paused": 0, "has_more": false, "oldest_due": null,
    });
    assert_eq!(well["backlog"], nothing);
    let healthy =
        json!({ "consecutive_failures": 0, "failing_since": null, "exhausted": 0, "breaker_open_until": null });
    assert_eq!(well["health"], healthy);

    // Two attempts each, and both deliveries fail; for the third the breaker is open.
    for count in 1..=2 {
        client.create(1).await;
        deliveries_until(&mut client, "state=dead", |found| found.len() == count).await;
    }
    client.create(1).await;
    let waiting = deliveries_until(&mut client, "state=ready", |found| found.len() == 1).await.remove(0);
    let dead = deliveries_until(&mut client, "state=dead", |found| found.len() == 2).await;
    let ill = done(&mut client, "GET", "/endpoints/ill", Value::Null).await;
    let due = &waiting["next_attempt_at"];
    assert_eq!(due, &waiting["created_at"]);
    let one = json!({
        "total": 1, "waiting": 0, "ready": 1, "leased": 0, "paused": 0, "has_more": false, "oldest_due": due,
    });
    assert_eq!(ill["backlog"], one);
    let health = &ill["health"];
    let (since, until) = (health["failing_since"].clone(), health["breaker_open_until"].clone());
    let expected =
        json!({ "consecutive_failures": 4, "failing_since": since, "exhausted": 2, "breaker_open_until": until });
    assert_eq!(health, &expected);
    let started = |attempt: usize| dead[1]["attempts"][attempt]["started_at"].as_str().unwrap();
    let since = since.as_str().unwrap();
    assert!(started(0) <= since && since <= started(1), "since its first failure: {since}");
    assert!(until.as_str().unwrap() > due.as_str().unwrap());
}

/// webhooks L3, L4.
#[tokio::test(flavor = "multi_thread")]
async fn what_died_is_sent_again_and_what_succeeded_only_by_force() {
    let (_app, mut client) = started().await;
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Status("500 Oops"));
    make(&mut client, "again", &receiver).await;
    client.create(1).await;
    let dead = deliveries_until(&mut client, "state=dead", |found| found.len() == 1).await;
    receiver.always(Reply::Status("204 No Content"));
    let path = format!("/deliveries/{}", dead[0]["id"].as_str().unwrap());
    assert_eq!(ask(&mut client, "POST", &format!("{path}/replay"), Value::Null).await.status, 202);
    deliveries_until(&mut client, "state=succeeded", |found| found.len() == 1).await;
    let heard = receiver.heard();
    assert_eq!(heard.iter().map(|request| request.attempt()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(heard.iter().all(|request| request.id == heard[0].id && request.raw == heard[0].raw), "webhooks H2, P7");
    let shown = done(&mut client, "GET", &path, Value::Null).await;
    assert_eq!(shown["attempts"][2]["trigger"], "manual");

    let refused = ask(&mut client, "POST", &format!("{path}/replay"), Value::Null).await;
    assert_eq!((refused.status, refused.problem().as_str()), (409, "has-succeeded"));
    let forced = ask(&mut client, "POST", &format!("{path}/replay"), json!({ "force": true })).await;
    assert_eq!(forced.status, 202);
    receiver.wait_for_count(4).await;
}

/// webhooks L3: events from before the endpoint existed, in a job whose progress can be observed.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_sends_what_an_endpoint_has_missed() {
    let (_app, mut client) = started().await;
    let paths = [upload(&mut client).await, upload(&mut client).await];
    let receiver = Scripted::start(SECRET).await;
    make(&mut client, "late", &receiver).await;
    let begun = done(&mut client, "POST", "/endpoints/late/replay", json!({ "what": "missed" })).await;
    let heard = receiver.wait_for_count(12).await;
    for path in &paths {
        let sequences: Vec<u64> =
            heard.iter().filter(|it| path.ends_with(it.upload())).map(|request| request.sequence()).collect();
        assert_eq!(sequences, [1, 2, 3, 4, 5, 6], "oldest first");
    }
    let place = format!("/replays/{}", begun["id"].as_str().unwrap());
    let ask_for_it = async || done(&mut client, "GET", &place, Value::Null).await;
    let job = until_fits("the job is done", ask_for_it, |job| job["state"] == "done").await;
    assert_eq!(job["queued"], 12);
    assert_eq!(done(&mut client, "GET", "/replays", Value::Null).await["replays"], json!([job]));
    assert_eq!(ask(&mut client, "DELETE", &place, Value::Null).await.status, 404, "it has ended");
}

/// After an outage of the receiver: the next attempt is an hour away, and the breaker is open for as long.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pending_is_sent_at_once() {
    let hour = Duration::from_hours(1);
    let app = TestApp::from_file(OPEN_TO_LOOPBACK, |config| {
        config.webhooks.sending.retry_schedule = vec![hour];
        config.webhooks.sending.health.breaker_failures = 2;
        config.webhooks.sending.health.breaker_pause = hour;
    })
    .await;
    let mut client = app.client().await;
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Status("503 Away"));
    make(&mut client, "app", &receiver).await;
    let path = upload(&mut client).await;
    until("the breaker is open", async || {
        let shown = done(&mut client, "GET", "/endpoints/app", Value::Null).await;
        (!shown["health"]["breaker_open_until"].is_null() && shown["backlog"]["leased"] == 0).then_some(())
    })
    .await;
    receiver.always(Reply::Status("204 No Content"));
    let ranged = json!({ "what": "pending", "from": "2026-11-20T00:00:00Z" });
    let refused = ask(&mut client, "POST", "/endpoints/app/replay", ranged).await;
    assert_eq!((refused.status, refused.problem().as_str()), (422, "takes-no-range"));
    let begun = done(&mut client, "POST", "/endpoints/app/replay", json!({ "what": "pending" })).await;
    assert_eq!((&begun["state"], &begun["queued"]), (&json!("done"), &json!(6)), "{begun}");
    let sent = deliveries_until(&mut client, "state=succeeded", |found| found.len() == 6).await;
    assert!(sent.iter().all(|delivery| path.ends_with(delivery["upload_id"].as_str().unwrap())));
    let first_attempts = receiver.heard().into_iter().filter(|request| request.attempt() == 1);
    assert_eq!(first_attempts.map(|request| request.sequence()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_the_configuration_are_read_only() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("fixed", "['upload.*']"), |_| {}).await;
    let mut client = app.client().await;
    for (method, path, body) in [
        ("PATCH", "/endpoints/fixed", json!({ "description": "x" })),
        ("DELETE", "/endpoints/fixed", Value::Null),
        ("POST", "/endpoints/fixed/rotate", Value::Null),
    ] {
        let refused = ask(&mut client, method, path, body).await;
        assert_eq!((refused.status, refused.problem().as_str()), (409, "read-only"), "{method} {path}");
    }
    let taken = json!({ "id": "fixed", "url": "https://example.com/" });
    let refused = ask(&mut client, "POST", "/endpoints", taken).await;
    assert_eq!((refused.status, refused.problem().as_str()), (409, "name-taken"));
    for action in ["pause", "resume", "test"] {
        done(&mut client, "POST", &format!("/endpoints/fixed/{action}"), Value::Null).await;
    }
    assert_eq!(receiver.heard().len(), 1);
}

/// Deliveries for an endpoint that is no longer configured can be canceled manually.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_an_endpoint_can_be_removed() {
    let nobody = closed_port().await;
    let endpoint = format!("[[webhooks.endpoints]]\nname = 'left'\nurl = 'http://{nobody}/'\nsecret = '{SECRET}'\n");
    let mut app = TestApp::from_file(&endpoint, |_| {}).await;
    upload(&mut app.client().await).await;
    app.config().webhooks.endpoints.clear();
    app.restart().await;
    let mut client = app.client().await;
    let unfinished = |found: &[Value]| found.iter().filter(|delivery| delivery["finished_at"].is_null()).count();
    deliveries_until(&mut client, "endpoint=left&limit=100", |found| unfinished(found) == 6).await;
    done(&mut client, "DELETE", "/endpoints/left", Value::Null).await;
    deliveries_until(&mut client, "endpoint=left&limit=100", |found| unfinished(found) == 0).await;
    assert_eq!(ask(&mut client, "DELETE", "/endpoints/left", Value::Null).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_can_be_made_to_depend_on_what_was_read() {
    let (_app, mut client) = started().await;
    let receiver = Scripted::start(SECRET).await;
    make(&mut client, "tagged", &receiver).await;
    let read = ask(&mut client, "GET", "/endpoints/tagged", Value::Null).await;
    let tag = read.header("etag").unwrap().to_owned();
    let mut change = async |description: &str| {
        let headers = [("Content-Type", "application/json"), ("If-Match", "\"other\""), ("If-Match", tag.as_str())];
        let body = json!({ "description": description }).to_string();
        client.request("PATCH", "/api/v1/webhooks/endpoints/tagged", &headers, body.as_bytes()).await
    };
    assert_eq!(change("one").await.status, 200);
    let late = change("two").await;
    assert_eq!((late.status, late.problem().as_str()), (412, "changed"));
}

/// webhooks L7.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_said_can_be_taken_out_of_events() {
    let (app, mut client) = started().await;
    let metadata = [("Upload-Length", "5"), ("Upload-Metadata", "name c2VjcmV0")];
    let path = client.tus("POST", "/files", &metadata, b"").await.header("location").unwrap().to_owned();
    let id = path.rsplit('/').next().unwrap();
    assert_eq!(done(&mut client, "POST", "/expunge", json!({ "upload_id": id })).await, json!({ "events": 1 }));
    let from_the_start = EventIds::of(&app).of_one(&path, 0);
    let mut stream = app.client().await;
    stream.send_head("GET", &format!("/api/v1/uploads/{id}/events"), &[("Last-Event-ID", &from_the_start)]).await;
    let shown = stream.read_until(b"expunged").await.expect("the event says that it was emptied");
    assert!(!String::from_utf8_lossy(&shown).contains("\"name\":\"secret\""));
}

/// Every invalid request is answered with what to change, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_told_what_is_wrong() {
    let (app, mut client) = started().await;
    let receiver = Scripted::start(SECRET).await;
    make(&mut client, "there", &receiver).await;
    let own = format!("http://{}/files", app.address());
    let good = "https://example.com/hooks";
    for (body, code) in [
        (json!({}), "bad-field"),
        (json!({ "url": "not a url" }), "invalid-endpoint"),
        (json!({ "url": "ftp://example.com/" }), "invalid-endpoint"),
        (json!({ "url": "https://user:pass@example.com/" }), "invalid-endpoint"),
        (json!({ "url": "http://192.0.2.1/" }), "invalid-endpoint"),
        (json!({ "url": "https://10.0.0.1/" }), "invalid-endpoint"),
        (json!({ "url": "https://[::1]/" }), "invalid-endpoint"),
        (json!({ "url": "https://0x7f.1:22/" }), "invalid-endpoint"),
        (json!({ "url": "https://169.254.169.254/latest" }), "invalid-endpoint"),
        (json!({ "url": "https://example.com:22/" }), "invalid-endpoint"),
        (json!({ "url": own }), "invalid-endpoint"),
        (json!({ "url": format!("http://localhost:{}/files", app.address().port()) }), "invalid-endpoint"),
        (json!({ "url": format!("http://app.localhost:{}/", app.address().port()) }), "invalid-endpoint"),
        (json!({ "url": good, "id": "no spaces" }), "bad-field"),
        (json!({ "url": good, "id": "there" }), "name-taken"),
        (json!({ "url": good, "secret": "hunter2" }), "bad-field"),
        (json!({ "url": good, "secret": "whsec_c2hvcnQ=" }), "bad-field"),
        (json!({ "url": good, "secret": SECRET }), "secret-taken"),
        (json!({ "url": good, "events": [] }), "bad-field"),
        (json!({ "url": good, "events": ["upload.done"] }), "bad-field"),
        (json!({ "url": good, "ordering": "fifo" }), "bad-field"),
        (json!({ "url": good, "signing": "rsa" }), "bad-field"),
        (json!({ "url": good, "payload": "none" }), "bad-field"),
        (json!({ "url": good, "timeout_ms": 5 }), "invalid-endpoint"),
        (json!({ "url": good, "timeout_ms": 3_600_000 }), "invalid-endpoint"),
        (json!({ "url": good, "retry_schedule_ms": [] }), "invalid-endpoint"),
        (json!({ "url": good, "retry_schedule_ms": [1] }), "invalid-endpoint"),
        (json!({ "url": good, "max_in_flight": 0 }), "invalid-endpoint"),
        (json!({ "url": good, "max_per_second": 0 }), "invalid-endpoint"),
        (json!({ "url": good, "headers": { "Host": "x" } }), "invalid-endpoint"),
        (json!({ "url": good, "headers": { "webhook-id": "x" } }), "invalid-endpoint"),
        (json!({ "url": good, "headers": { "x": "a\r\nb: c" } }), "invalid-endpoint"),
        (json!({ "url": good, "colour": "red" }), "bad-body"),
        (json!({ "url": good, "timeout_ms": "5s" }), "bad-body"),
        (json!(["url", good]), "bad-body"),
    ] {
        let refused = ask(&mut client, "POST", "/endpoints", body.clone()).await;
        assert!(matches!(refused.status, 400 | 409 | 422), "{body}: {refused:?}");
        assert_eq!(refused.problem(), code, "{body}: {refused:?}");
        assert!(refused.json()["detail"].as_str().unwrap().len() > 15, "{refused:?}");
    }
    let large = json!({ "url": good, "description": "x".repeat(100_000) });
    assert_eq!(ask(&mut client, "POST", "/endpoints", large).await.status, 413);
    for (method, path, body, status, code) in [
        ("PATCH", "/endpoints/there", json!({ "id": "other" }), 422, "bad-field"),
        ("PATCH", "/endpoints/there", json!({ "secret": SECRET }), 422, "bad-field"),
        ("PATCH", "/endpoints/there", json!({ "url": "https://127.0.0.1:22/" }), 422, "invalid-endpoint"),
        ("GET", "/endpoints/no%20name", Value::Null, 404, "no-such-endpoint"),
        ("POST", "/endpoints/nobody/test", Value::Null, 404, "no-such-endpoint"),
        ("POST", "/endpoints/nobody/replay", Value::Null, 404, "no-such-endpoint"),
        ("POST", "/endpoints/there/explode", Value::Null, 404, "not-found"),
        ("GET", "/endpoints/there/test", Value::Null, 405, "method-not-allowed"),
        ("PUT", "/endpoints", json!({}), 405, "method-not-allowed"),
        ("POST", "/endpoints/there/rotate", json!({ "overlap_ms": 700_000_000 }), 422, "invalid-key"),
        ("POST", "/endpoints/there/rotate", json!({ "kind": "rsa" }), 422, "bad-field"),
        ("POST", "/endpoints/there/resume", json!({ "backlog": "keep" }), 422, "bad-field"),
        ("POST", "/endpoints/there/replay", json!({ "what": "all" }), 422, "bad-field"),
        ("POST", "/endpoints/there/replay", json!({ "what": "everything" }), 409, "needs-force"),
        ("POST", "/endpoints/there/replay", json!({ "from": "yesterday" }), 422, "bad-field"),
        (
            "POST",
            "/endpoints/there/replay",
            json!({ "from": "2026-11-22T00:00:00Z", "before": "2026-11-21T00:00:00Z" }),
            422,
            "empty-range",
        ),
        ("GET", "/deliveries/x", Value::Null, 404, "no-such-delivery"),
        ("GET", "/deliveries/01a2007f-5d0e-7d02-8a11-0c9be2f4a5d6", Value::Null, 404, "no-such-delivery"),
        ("GET", "/deliveries?cursor=evt_1", Value::Null, 400, "bad-query"),
        ("GET", "/deliveries?status=dead", Value::Null, 400, "bad-query"),
        ("GET", "/replays/x", Value::Null, 404, "not-found"),
        ("POST", "/expunge", json!({ "upload_id": "x" }), 422, "bad-field"),
        ("POST", "/expunge", Value::Null, 400, "bad-body"),
    ] {
        let refused = ask(&mut client, method, path, body.clone()).await;
        assert_eq!((refused.status, refused.problem().as_str()), (status, code), "{method} {path} {body}: {refused:?}");
    }
    let left = done(&mut client, "GET", "/endpoints", Value::Null).await;
    assert_eq!(left["endpoints"].as_array().unwrap().len(), 1, "nothing was made");
    assert_eq!(left["endpoints"][0]["version"], 1, "nothing was changed");
    assert_eq!(receiver.heard().len(), 0);
}

/// webhooks S7: neither by a name of loopback, nor by the name that clients use for the server.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_cannot_have_a_name_of_the_server() {
    let key = AdminKey::generate([7; 32]);
    let bearer = format!("Bearer {}", key.expose());
    let app = TestApp::with(|config| {
        config.server.public_url = Some("https://uploads.example.com".to_owned());
        config.auth.admin_keys = vec![AdminKeyHash::of(key.expose().as_bytes())];
    })
    .await;
    let mut client = app.client().await;
    for (url, status) in [
        ("https://uploads.example.com/files", 422),
        ("https://UPLOADS.example.com.:443/", 422),
        ("https://localhost/", 422),
        ("https://hooks.localhost/", 422),
        ("https://app.example.com/hooks", 201),
    ] {
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        let body = json!({ "url": url }).to_string();
        let answer = client.request("POST", "/api/v1/webhooks/endpoints", &headers, body.as_bytes()).await;
        assert_eq!(answer.status, status, "{url}: {answer:?}");
    }
}

/// The first five minutes: a listener, a server configured with the listener's output, and an upload.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_prints_what_it_hears() {
    let listener = Program::start(&["webhooks", "listen", "--listen", "127.0.0.1:0"]);
    let told = printed(&listener, "Ctrl-C").await;
    let block =
        told.split_once("\n\n").and_then(|(_, rest)| rest.split_once("\n\nPress Ctrl-C")).expect("a block to copy").0;
    let (_folder, server) = server_with(block);
    let path = server.client().await.create(1).await;
    let heard = printed(&listener, "upload.created").await;
    let line = heard.lines().find(|line| line.contains("upload.created")).unwrap();
    let id = path.rsplit('/').next().unwrap();
    assert!(line.contains(&format!("{id} #1  0 of 1 bytes")), "{line}");
}

/// webhooks H6: a receiver that has only the public key, and one that has another key.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_verifies_with_a_public_key() {
    let private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    let other = "whpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (key, line) in [(public, "upload.created"), (other, "REJECTED  POST /: no signature verifies")] {
        let listener = Program::start(&["webhooks", "listen", "--listen", "127.0.0.1:0", "--public-key", key]);
        let told = printed(&listener, "Ctrl-C").await;
        let url = told.split_whitespace().find(|word| word.starts_with("http://")).expect("it says where it listens");
        let block = format!("[[webhooks.endpoints]]\nurl = \"{url}/\"\nprivate_key = \"{private}\"\n");
        let (_folder, server) = server_with(&block);
        server.client().await.create(1).await;
        printed(&listener, line).await;
    }
}

/// Starts a server whose configuration file contains this block.
fn server_with(block: &str) -> (TempDir, Process) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("longshore.toml");
    std::fs::write(&file, block).unwrap();
    let server = Process::start(&folder.path().join("data"), &["--config", file.to_str().unwrap()]);
    (folder, server)
}

/// Waits until the program has printed this text. Returns everything it has printed.
async fn printed(program: &Program, text: &str) -> String {
    let both = async || (program.stdout(), program.stderr());
    until_fits(&format!("{text:?} is printed"), both, |(printed, _)| printed.contains(text)).await.0
}

/// The command line against a running server.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_manages_all_of_it() {
    let folder = TempDir::new().unwrap();
    let server = Process::start(folder.path(), &["--webhooks-allow-networks", "127.0.0.0/8"]);
    let run = |line: &str| command(&server, &[], line);
    assert_eq!(run("endpoints").1, "no endpoints\n");
    let nobody = closed_port().await;
    let (code, made, wrong) = run(&format!("endpoints add http://{nobody}/ --name cli --events upload.created"));
    assert_eq!(code, Some(0), "{wrong}");
    let secret = made.lines().find_map(|line| line.strip_prefix("secret: ")).expect("the secret is shown");
    let (code, said, wrong) = run("test cli");
    assert_eq!(code, Some(1), "no process listens there: {wrong}");
    assert!(said.contains("result: failed (refused) after "), "{said}");
    assert!(wrong.starts_with("longshore: the test failed: there was no response (refused)"), "{wrong}");

    let receiver = Scripted::start(secret).await;
    assert_eq!(run(&format!("endpoints set cli --url {}", url_of(&receiver))).0, Some(0));
    assert_eq!(run("test cli").0, Some(0));
    let mut client = server.client().await;
    client.create(1).await;
    receiver.wait_for_count(2).await;
    let (_, listed, _) = run("deliveries --event upload.created --json");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let id = listed["deliveries"][0]["id"].as_str().unwrap();
    let (code, _, wrong) = run(&format!("replay {id}"));
    assert_eq!(
        (code, wrong.as_str()),
        (Some(1), "longshore: this delivery has succeeded; to send it again anyway, use --force\n")
    );
    assert_eq!(run(&format!("replay {id} --force")).0, Some(0));
    receiver.wait_for_count(3).await;
    let (event, upload) = (&listed["deliveries"][0]["event_id"], &listed["deliveries"][0]["upload_id"]);
    for (count, named) in [(4, event.as_str().unwrap()), (5, upload.as_str().unwrap())] {
        let (code, said, wrong) = run(&format!("replay {named}"));
        assert!(code == Some(0) && said.contains("because they have succeeded: 1;"), "{said}{wrong}");
        let (code, said, wrong) = run(&format!("replay {named} --force"));
        assert!(code == Some(0) && said.contains(id), "{said}{wrong}");
        receiver.wait_for_count(count).await;
    }
    for unknown in ["evt_01a2007f-5d0e-7c41-9d3a-6f0a4b1c2d3e", "01a2007f-5d0e-7c41-9d3a-6f0a4b1c2d3e", "x"] {
        let (code, _, wrong) = run(&format!("replay {unknown}"));
        assert!(code == Some(1) && wrong.contains("there is no delivery, event or upload"), "{wrong}");
    }
    let made_at = listed["deliveries"][0]["created_at"].as_str().unwrap();
    assert!(run("deliveries").1.contains(&format!("\n{made_at}  {id}")), "with its time");
    let ids = |line: &str| {
        let listed: Value = serde_json::from_str(&run(&format!("deliveries --json {line}")).1).unwrap();
        let ids = listed["deliveries"].as_array().unwrap().iter().map(|found| found["id"].clone()).collect::<Vec<_>>();
        (ids, listed["next"].clone())
    };
    let (all, _) = ids("");
    assert_eq!(all.len(), 3, "two tests and a creation");
    assert_eq!(ids("--status 2xx --from 2026-01-01T00:00:00Z").0.len(), 2);
    assert_eq!(ids("--error refused --before 2126-01-01T00:00:00Z").0, all[2..]);
    let (first, next) = ids("--limit 2");
    let (second, _) = ids(&format!("--limit 2 --cursor {}", next.as_str().unwrap()));
    assert_eq!([first, second].concat(), all);
    let page = run("deliveries --limit 2").1;
    assert!(page.ends_with(&format!("next page: --cursor {}\n", next.as_str().unwrap())), "{page}");
    assert_eq!(run("deliveries --status dead").0, Some(1));
    assert_eq!(run("endpoints pause cli").0, Some(0));
    assert!(run("endpoints").1.contains("paused"));
    assert_eq!(run("endpoints resume cli").0, Some(0));
    assert_eq!(run("replay --endpoint cli --what missed").0, Some(0));
    assert!(run("replay --jobs").1.contains("missed"));
    assert_eq!(run("endpoints remove cli").0, Some(0));
    let (code, _, wrong) = run("endpoints show cli");
    assert_eq!(
        (code, wrong.as_str()),
        (Some(1), "longshore: the server rejected the request (404): there is no endpoint cli\n")
    );
}

/// A replay without matches reports the pending deliveries, and the command that sends them.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_waits_and_how_to_send_it() {
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Status("503 Away"));
    let block = format!("{}retry_schedule = ['1h']\n", receiver.endpoint("backend", "['upload.created']"));
    let (_folder, server) = server_with(&block);
    server.client().await.create(1).await;
    let run = |line: &str| command(&server, &[], line);
    until("the first attempt is over", async || run("deliveries --state ready").1.contains("503 in ").then_some(()))
        .await;
    for what in ["missed", "dead"] {
        let (code, said, wrong) = run(&format!("replay --endpoint backend --what {what}"));
        assert_eq!(code, Some(0), "{wrong}");
        let expected = "\n1 delivery is waiting, the next at 20";
        assert!(said.contains("state: done\n") && said.contains(expected), "{said}");
        assert!(
            said.contains("send them now: longshore webhooks replay --endpoint backend --what pending\n"),
            "{said}"
        );
    }
    let (code, _, wrong) = run("replay --endpoint backend --what pending --from 2026-11-20T00:00:00Z");
    assert!(code == Some(1) && wrong.contains("takes neither --from nor --before"), "{wrong}");
    receiver.always(Reply::Status("204 No Content"));
    let (_, said, _) = run("replay --endpoint backend --what pending");
    assert!(said.contains("queued: 1\n") && !said.contains("waiting"), "{said}");
    receiver.wait_for_count(2).await;
}

/// The token that clients share gives access to the administration of a laptop; a missing one is named by its
/// flag.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_a_token_or_says_how() {
    let folder = TempDir::new().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "the-token-of-clients\n").unwrap();
    let server = Process::start(&folder.path().join("data"), &["--auth-token-file", token.to_str().unwrap()]);
    let (code, _, wrong) = command(&server, &[], "endpoints");
    assert!(code == Some(1) && wrong.contains("--key-file") && wrong.contains("--token-file"), "{wrong}");
    let (code, _, wrong) = command(&server, &[("LONGSHORE_TOKEN", "another")], "endpoints");
    assert!(code == Some(1) && wrong.contains("rejected this key"), "{wrong}");
    for (env, line) in [
        (&[("LONGSHORE_TOKEN", "the-token-of-clients")][..], "endpoints".to_owned()),
        (&[], format!("endpoints --token-file {}", token.display())),
    ] {
        let (code, said, wrong) = command(&server, env, &line);
        assert_eq!((code, said.as_str()), (Some(0), "no endpoints\n"), "{wrong}");
    }
}

/// A self-signed certificate is reported as such, and is accepted when it is configured itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_is_the_matter_with_a_certificate() {
    let folder = TempDir::new().unwrap();
    let files = Certificate::new().write(folder.path());
    let (certificate, key) = (files.certificate.to_str().unwrap(), files.private_key.to_str().unwrap());
    let flags = ["--tls-certificate-file", certificate, "--tls-private-key-file", key];
    let mut server = Program::serve(&folder.path().join("data"), &flags);
    let url = format!("https://{}", server.address());
    let refused = run(&["webhooks", "endpoints", "--server", &url]);
    assert!(refused.code == Some(1) && refused.stderr.contains("is not trusted"), "{refused:?}");
    assert!(refused.stderr.contains("--server-ca-file"), "{refused:?}");
    let trusted = run(&["webhooks", "endpoints", "--server", &url, "--server-ca-file", certificate]);
    assert_eq!((trusted.code, trusted.stdout.as_str()), (Some(0), "no endpoints\n"), "{trusted:?}");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let wrong = run(&["webhooks", "endpoints", "--server", &url, "--server-ca-file", empty.to_str().unwrap()]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("contains no PEM certificate"), "{wrong:?}");
}

/// Runs one command of `longshore webhooks` against a server. Returns its exit code and its output.
fn command(server: &Process, env: &[(&str, &str)], line: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_longshore"))
        .arg("webhooks")
        .args(line.split_whitespace())
        .env("LONGSHORE_SERVER", format!("http://{}", server.address()))
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}
