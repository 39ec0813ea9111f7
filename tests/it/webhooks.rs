//! The real server against real receivers: the events that are sent, their order and number, and the effects
//! of a misbehaving receiver.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::config::Config;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::patience::{until, until_fits};
use crate::support::process::Process;
use crate::support::receiver::SECRET;
use crate::support::schema::{check_event, published_upload_types};
use crate::support::scripted::{Reply, Request, Scripted, closed_port, endpoint_at};

const SECOND_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

const WHOLE_WAY: [&str; 6] =
    ["upload.created", "upload.receiving", "upload.received", "upload.verified", "upload.stored", "upload.completed"];

/// Makes retries short and removes their randomness.
fn quick(config: &mut Config) {
    config.webhooks.sending.timeout = Duration::from_millis(500);
    config.webhooks.sending.connect_timeout = Duration::from_millis(500);
    config.webhooks.sending.retry_schedule = vec![Duration::from_millis(100); 5];
    config.webhooks.sending.retry_jitter_percent = 0;
    // Tests of retries need every attempt.
    config.webhooks.sending.health.breaker_failures = 0;
}

fn kinds(heard: &[Request]) -> Vec<&str> {
    heard.iter().map(Request::kind).collect()
}

fn about<'a>(heard: &'a [Request], upload: &str) -> Vec<&'a Request> {
    heard.iter().filter(|request| upload.ends_with(request.upload())).collect()
}

/// Sends a whole upload of eleven bytes.
async fn upload(client: &mut Client) -> String {
    let path = client.create(11).await;
    assert_eq!(client.patch(&path, 0, b"hello world").await.status, 204);
    path
}

fn id_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

async fn deliveries(client: &mut Client, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("/api/v1/webhooks/deliveries?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["deliveries"].as_array().unwrap().clone()
}

/// Requests the deliveries repeatedly until they are `enough`.
async fn deliveries_until(client: &mut Client, query: &str, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    until_fits("there are enough deliveries", async || deliveries(client, query).await, |found| enough(found)).await
}

/// Returns the only delivery, once the result of an attempt is recorded.
async fn tried(client: &mut Client) -> Value {
    let tried = |found: &[Value]| found.len() == 1 && !found[0]["attempts"].as_array().unwrap().is_empty();
    deliveries_until(client, "event=upload.created", tried).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_arrow_of_the_stage_diagram_is_told() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("all", "['upload.*']"), |config| {
        config.engine.lifetimes.stall_after = Duration::from_millis(300);
        config.engine.lifetimes.unfinished_expiry = Duration::from_secs(2);
        config.engine.progress.every = Duration::ZERO;
        config.engine.progress.min_bytes = 1;
    })
    .await;
    let mut client = app.client().await;

    // The test waits for each event, so that progress is not superseded by later events and dropped.
    let long = client.create(100).await;
    let told = async |kind: &str| {
        receiver.wait_for(|heard| about(heard, &long).iter().any(|request| request.kind() == kind)).await
    };
    client.patch(&long, 0, &[1; 10]).await;
    told("upload.receiving").await;
    client.patch(&long, 10, &[1; 10]).await;
    told("upload.progress").await;
    told("upload.stalled").await;
    client.patch(&long, 20, &[1; 10]).await;
    told("upload.resumed").await;
    client.patch(&long, 30, &[1; 70]).await;
    let heard = told("upload.completed").await;
    let bearer = format!("Bearer {}", about(&heard, &long)[0].headers["webhook-stage-token"]);
    let stages = format!("{}/stages", long.replace("/files/", "/api/v1/uploads/"));
    let report = br#"{"name": "transcoding", "percent": 40}"#;
    assert_eq!(client.request("POST", &stages, &[("Authorization", &bearer)], report).await.status, 200);
    told("upload.processing").await;
    assert_eq!(client.tus("DELETE", &long, &[], b"").await.status, 204);
    let heard = told("upload.terminated").await;
    let expected = [
        "upload.created",
        "upload.receiving",
        "upload.progress",
        "upload.stalled",
        "upload.resumed",
        "upload.received",
        "upload.verified",
        "upload.stored",
        "upload.completed",
        "upload.processing",
        "upload.terminated",
    ];
    // On a slow machine the upload may stall and report progress more than once.
    let mut way: Vec<&str> = Vec::new();
    for request in about(&heard, &long) {
        if !way.contains(&request.kind()) {
            way.push(request.kind());
        }
    }
    assert_eq!(way, expected);

    let promise = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    let created = client.tus("POST", "/files", &[("Upload-Length", "5"), ("Repr-Digest", promise)], b"").await;
    let broken = created.header("location").unwrap().to_owned();
    client.patch(&broken, 0, b"bytes").await;
    let forgotten = client.create(5).await;
    client.patch(&forgotten, 0, b"by").await;
    let deleted = client.create(5).await;
    client.tus("DELETE", &deleted, &[], b"").await;
    let removed = client.create(5).await;
    client.patch(&removed, 0, b"bytes").await;
    client.request("DELETE", &removed.replace("/files/", "/api/v1/uploads/"), &[], b"").await;
    for (path, last) in [
        (&broken, "upload.failed"),
        (&forgotten, "upload.expired"),
        (&deleted, "upload.terminated"),
        (&removed, "upload.removed"),
    ] {
        let heard =
            receiver.wait_for(|heard| about(heard, path).last().is_some_and(|request| request.kind() == last)).await;
        let way = about(&heard, path);
        assert!(way.iter().map(|request| request.sequence()).eq(1..=way.len() as u64), "no gap: {way:#?}");
        assert_eq!(way[0].kind(), "upload.created");
    }

    let heard = receiver.heard();
    for request in &heard {
        check_event(&request.json);
        assert_eq!(request.headers["content-type"], "application/json", "webhooks P1");
        assert_eq!(request.headers["webhook-event-type"], request.kind(), "webhooks H12");
        assert!(request.headers["user-agent"].starts_with("longshore/"), "webhooks H13");
        let id = request.id.strip_prefix("evt_").expect("webhooks H1: an event's id begins with evt_");
        assert!(id.parse::<uuid::Uuid>().is_ok(), "webhooks H1: {id}");
    }
    let mut told: Vec<String> = kinds(&heard).into_iter().map(str::to_owned).collect();
    told.sort();
    told.dedup();
    assert_eq!(told, published_upload_types(), "webhooks P2, P4: these types and no others, each with its schema");
    let failed = heard.iter().find(|request| request.kind() == "upload.failed").unwrap();
    assert_eq!(failed.json["data"]["error"]["code"], "digest-mismatch");
}

/// webhooks G8: a terminal event is the last, whatever requests follow.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_of_what_has_ended() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("all", "['upload.*']"), |config| {
        config.engine.lifetimes.stall_after = Duration::from_millis(300);
        config.engine.lifetimes.unfinished_expiry = Duration::from_secs(1);
    })
    .await;
    let mut client = app.client().await;
    let promise = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    let created = client.tus("POST", "/files", &[("Upload-Length", "5"), ("Repr-Digest", promise)], b"").await;
    let broken = created.header("location").unwrap().to_owned();
    client.patch(&broken, 0, b"bytes").await;
    let deleted = client.create(5).await;
    client.tus("DELETE", &deleted, &[], b"").await;
    let forgotten = client.create(5).await;
    client.patch(&forgotten, 0, b"by").await;

    let ends = [(&broken, "upload.failed"), (&forgotten, "upload.expired"), (&deleted, "upload.terminated")];
    for (path, last) in ends {
        let is_last = |one: &Request| path.ends_with(one.upload()) && one.kind() == last;
        let heard = receiver.wait_for(|heard| heard.iter().any(is_last)).await;
        let bearer = format!("Bearer {}", about(&heard, path)[0].headers["webhook-stage-token"]);
        let stages = format!("{}/stages", path.replace("/files/", "/api/v1/uploads/"));
        for _ in 0..2 {
            let said = [
                client.head(path).await.status,
                client.patch(path, 2, b"tes").await.status,
                client.tus("DELETE", path, &[], b"").await.status,
                client.request("POST", &stages, &[("Authorization", &bearer)], br#"{"name": "late"}"#).await.status,
            ];
            assert!(said.iter().all(|status| *status >= 400), "{last}: {said:?}");
        }
    }
    // When the sweeper has ended another upload, it has passed these.
    let other = client.create(5).await;
    receiver
        .wait_for(|heard| about(heard, &other).last().is_some_and(|request| request.kind() == "upload.expired"))
        .await;
    for (path, last) in ends {
        let told = deliveries(&mut client, &format!("upload={}", id_of(path))).await;
        assert_eq!(told[0]["type"], last, "the newest is first");
        assert_eq!(told[0]["sequence"], told.len(), "and has the last number: {told:#?}");
    }
}

/// webhooks P4, P6: also for very large and very small events.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_keep_their_schema_whatever_the_upload() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("all", "['upload.*']"), |config| {
        config.limits.max_metadata_bytes = 64 * 1024;
    })
    .await;
    let mut client = app.client().await;
    let much = format!("filename YS5tcDQ=,raw /wA=,much {}", "AAAA".repeat(10_000));
    let all = "crc32c=1,sha-256=1,sha-512=1,sha=1,md5=1";
    let headers = [("Upload-Length", "0"), ("Upload-Metadata", &much), ("Want-Repr-Digest", all)];
    assert_eq!(client.tus("POST", "/files", &headers, b"").await.status, 201);
    let heard = receiver.wait_for_kind("upload.completed").await;
    for request in &heard {
        check_event(&request.json);
        assert!(request.raw.len() <= 20_000, "webhooks P6: {} bytes", request.raw.len());
        assert_eq!(request.json["data"]["truncated"], true);
        assert_eq!(request.json["data"]["filename"], "a.mp4");
    }
    assert_eq!(heard.last().unwrap().json["data"]["digests"].as_object().unwrap().len(), 5);

    let some = "name YS5tcDQ=,filetype dmlkZW8vbXA0,raw /wA=,empty";
    let headers = [("Upload-Defer-Length", "1"), ("Upload-Metadata", some)];
    assert_eq!(client.tus("POST", "/files", &headers, b"").await.status, 201);
    let heard = receiver.wait_for_count(heard.len() + 1).await;
    let created = heard.last().unwrap();
    check_event(&created.json);
    assert_eq!(created.json["data"]["length"], Value::Null);
    assert_eq!(created.json["data"]["content_type"], "video/mp4");
    assert_eq!(created.json["data"]["metadata"]["raw"]["base64"], "/wA=");
    assert_eq!(created.json["data"]["metadata"]["empty"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_endpoint_has_its_own_filter_and_secret() {
    let all = Scripted::start(SECRET).await;
    let few = Scripted::start(SECOND_SECRET).await;
    let file = all.endpoint("all", "['upload.*']") + &few.endpoint("few", "['upload.created', 'upload.completed']");
    let app = TestApp::from_file(&file, |_| {}).await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let heard = all.wait_for_kind("upload.completed").await;
    let selected = few.wait_for_kind("upload.completed").await;
    assert_eq!(kinds(&heard), WHOLE_WAY);
    assert_eq!(kinds(&selected), ["upload.created", "upload.completed"]);
    for request in &selected {
        let same = heard.iter().find(|other| other.sequence() == request.sequence()).unwrap();
        assert_eq!(request.id, same.id, "webhooks H2: one id at all endpoints");
        assert_eq!(request.raw, same.raw, "webhooks P7: the same bytes at all endpoints");
        assert_ne!(request.headers["webhook-signature"], same.headers["webhook-signature"], "webhooks H9");
    }
    let done = |found: &[Value]| found.iter().all(|delivery| delivery["state"] == "succeeded");
    let of_one = deliveries_until(&mut client, "endpoint=few", done).await;
    assert_eq!(of_one.len(), 2, "nothing is queued for an endpoint that does not subscribe");
    assert!(of_one.iter().all(|delivery| delivery["upload_id"] == id_of(&path)));
}

/// webhooks G6: first attempts are made in sequence, and one that backs off blocks no other.
#[tokio::test(flavor = "multi_thread")]
async fn first_attempts_keep_their_order_at_an_endpoint_that_fails_them() {
    let receiver = Scripted::start(SECRET).await;
    receiver.decide(|request| match request.attempt() {
        1 => Reply::Status("500 Oops"),
        _ => Reply::Status("204 No Content"),
    });
    let app = TestApp::from_file(&receiver.endpoint("picky", "['upload.*']"), |config| {
        quick(config);
        config.webhooks.sending.retry_schedule = vec![Duration::from_millis(1_500); 3];
    })
    .await;
    let mut client = app.client().await;
    let paths = [upload(&mut client).await, upload(&mut client).await, upload(&mut client).await];
    let heard = receiver.wait_for_count(3 * 2 * WHOLE_WAY.len()).await;
    for path in &paths {
        let way = about(&heard, path);
        let firsts: Vec<_> = way.iter().filter(|request| request.attempt() == 1).collect();
        assert!(firsts.iter().map(|request| request.sequence()).eq(1..=6), "{firsts:#?}");
        assert_eq!(way[1].sequence(), 2, "the second event did not wait for the first one's retry");
        for first in firsts {
            let again = way.iter().find(|other| other.sequence() == first.sequence() && other.attempt() == 2).unwrap();
            assert_eq!(again.id, first.id, "webhooks H2: the same id on every attempt");
            assert_eq!(again.raw, first.raw, "webhooks P7: the same bytes on every attempt");
            assert!(again.timestamp() > first.timestamp(), "webhooks H3: the time of this attempt");
            assert_ne!(again.headers["webhook-signature"], first.headers["webhook-signature"], "signed anew");
        }
    }
    let done = |found: &[Value]| found.iter().all(|delivery| delivery["state"] == "succeeded");
    let all = deliveries_until(&mut client, "", done).await;
    assert_eq!(receiver.heard().len(), 2 * all.len(), "webhooks G4: nothing is sent again once it succeeded");
}

/// webhooks R2, R14: the schedule, its end, and the record of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_only_fails_gets_as_many_attempts_as_the_schedule_has() {
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Body("500 Oops", b"the database is away".to_vec()));
    let waits = [100, 300, 200].map(Duration::from_millis);
    let app = TestApp::from_file(&receiver.endpoint("broken", "['upload.created']"), |config| {
        quick(config);
        config.webhooks.sending.retry_schedule = waits.to_vec();
    })
    .await;
    let mut client = app.client().await;
    let path = client.create(5).await;
    let dead = deliveries_until(&mut client, "state=dead", |found| found.len() == 1).await.remove(0);
    assert_eq!(dead["upload_id"], id_of(&path));
    assert_eq!(dead["next_attempt_at"], Value::Null);
    assert!(dead["finished_at"].is_string());
    let attempts = dead["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 4);
    let starts: Vec<jiff::Timestamp> =
        attempts.iter().map(|attempt| attempt["started_at"].as_str().unwrap().parse().unwrap()).collect();
    for (index, attempt) in attempts.iter().enumerate() {
        assert_eq!(attempt["number"], index + 1);
        assert_eq!(attempt["status"], 500);
        assert_eq!(attempt["error"], Value::Null);
        assert_eq!(attempt["response_body"], "the database is away");
        if index > 0 {
            let waited = starts[index].duration_since(starts[index - 1]);
            assert!(waited.as_millis() >= waits[index - 1].as_millis() as i128, "{waited:?} before attempt {index}");
        }
    }
    assert_eq!(receiver.heard().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_that_was_overtaken_is_not_sent() {
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Hold);
    let app = TestApp::from_file(&receiver.endpoint("page", "['upload.*']"), |config| {
        config.engine.progress.every = Duration::ZERO;
        config.engine.progress.min_bytes = 1;
    })
    .await;
    let mut client = app.client().await;
    let path = client.create(1_000).await;
    receiver.wait_for_kind("upload.created").await;
    for chunk in 0..10 {
        client.patch(&path, chunk * 50, &[7; 50]).await;
    }
    let pending = deliveries(&mut client, "event=upload.progress&state=waiting").await;
    assert_eq!(pending.len(), 1, "webhooks C3: at most one progress waits");
    receiver.release();
    let heard = receiver.wait_for_kind("upload.progress").await;
    assert_eq!(kinds(&heard), ["upload.created", "upload.receiving", "upload.progress"]);
    assert_eq!(heard[2].json["data"]["offset"], 500, "and it is the newest");
    assert_eq!(heard[2].sequence(), 11);
    let superseded = deliveries(&mut client, "event=upload.progress&state=superseded").await;
    assert_eq!(superseded.len(), 8);
    assert!(superseded.iter().all(|delivery| delivery["attempts"].as_array().unwrap().is_empty()));
    until("the dropped ones are counted (webhooks O1)", async || {
        let page = String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap();
        let value = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)).expect("it is shown").trim();
        assert!(value("longshore_upload_commit_seconds_count").parse::<u64>().unwrap() >= 11);
        (value("longshore_webhook_superseded_total") == "8").then_some(())
    })
    .await;
}

/// webhooks C1, C2.
#[tokio::test(flavor = "multi_thread")]
async fn progress_is_made_seldom_and_only_for_those_who_ask() {
    let patch_all = async |app: &TestApp| {
        let mut client = app.client().await;
        let path = client.create(1_000).await;
        for chunk in 0..20 {
            client.patch(&path, chunk * 50, &[7; 50]).await;
        }
    };
    let receiver = Scripted::start(SECRET).await;
    let hourly = |config: &mut Config| config.engine.progress.every = Duration::from_secs(3_600);
    let app = TestApp::from_file(&receiver.endpoint("page", "['upload.*']"), hourly).await;
    patch_all(&app).await;
    assert_eq!(kinds(&receiver.wait_for_kind("upload.completed").await), WHOLE_WAY);

    let receiver = Scripted::start(SECRET).await;
    let block = receiver.endpoint("page", "[]").replace("events = []\n", "");
    let often = |config: &mut Config| config.engine.progress.every = Duration::ZERO;
    let app = TestApp::from_file(&block, often).await;
    patch_all(&app).await;
    let heard = receiver.wait_for_kind("upload.completed").await;
    assert_eq!(kinds(&heard), WHOLE_WAY);
    assert!(heard.iter().map(Request::sequence).eq(1..=6), "unasked progress leaves no gap either");
}

/// webhooks P8.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_clients_request_headers_is_told() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("all", "['upload.*']"), |_| {}).await;
    let mut client = app.client().await;
    let headers = [
        ("Upload-Length", "3"),
        ("Content-Type", "application/offset+octet-stream"),
        ("Authorization", "Bearer sesame-of-the-client"),
        ("Cookie", "session=sesame-of-the-client"),
        ("X-Request-ID", "sesame-of-the-client"),
        ("Referer", "http://sesame-of-the-client/"),
    ];
    assert_eq!(client.tus("POST", "/files", &headers, b"abc").await.status, 201);
    for request in receiver.wait_for_kind("upload.completed").await {
        let everything = format!("{:?} {}", request.headers, String::from_utf8_lossy(&request.raw));
        assert!(!everything.contains("sesame"), "{everything}");
        assert!(!request.headers.contains_key("authorization") && !request.headers.contains_key("cookie"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_is_on_record_and_the_next_attempt_succeeds() {
    let cases: [(Reply, Value, Value); 3] = [
        (Reply::Status("500 Oops"), 500.into(), Value::Null),
        (Reply::Status("302 Found\r\nLocation: /elsewhere"), 302.into(), Value::Null),
        (Reply::Reset, Value::Null, "reset".into()),
    ];
    for (reply, status, error) in cases {
        let receiver = Scripted::start(SECRET).await;
        let first = reply.clone();
        receiver.decide(move |request| match request.attempt() {
            1 => first.clone(),
            _ => Reply::Status("200 OK"),
        });
        let app = TestApp::from_file(&receiver.endpoint("one", "['upload.created']"), quick).await;
        let mut client = app.client().await;
        client.create(5).await;
        let done = deliveries_until(&mut client, "state=succeeded", |found| found.len() == 1).await.remove(0);
        assert_eq!(done["attempts"][0]["status"], status, "{reply:?}: {done:#}");
        assert_eq!(done["attempts"][0]["error"], error, "{reply:?}: {done:#}");
        assert_eq!(done["attempts"][1]["status"], 200, "{reply:?}: {done:#}");
        let ids: Vec<String> = receiver.heard().into_iter().map(|request| request.id).collect();
        assert!(ids.iter().all(|id| id == done["event_id"].as_str().unwrap()), "{ids:?}");
    }
}

/// webhooks R8.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let elsewhere = Scripted::start(SECRET).await;
    let receiver = Scripted::start(SECRET).await;
    let location: &'static str =
        format!("307 Temporary Redirect\r\nLocation: http://{}/hook", elsewhere.address).leak();
    receiver.always(Reply::Body(location, b"over there".to_vec()));
    let app = TestApp::from_file(&receiver.endpoint("moved", "['upload.created']"), quick).await;
    let mut client = app.client().await;
    client.create(5).await;
    let dead = deliveries_until(&mut client, "state=dead", |found| found.len() == 1).await.remove(0);
    let attempt = &dead["attempts"][0];
    assert_eq!(attempt["status"], 307);
    assert_eq!(attempt["note"], format!("redirects to http://{}/hook", elsewhere.address));
    assert_eq!(attempt["response_body"], "over there");
    assert!(elsewhere.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_a_refusal() {
    let file = endpoint_at(closed_port().await, "away", SECRET, "['upload.created']");
    let app = TestApp::from_file(&file, quick).await;
    let mut client = app.client().await;
    client.create(5).await;
    let delivery = tried(&mut client).await;
    assert_eq!(delivery["attempts"][0]["error"], "refused", "{delivery:#}");
    assert_eq!(delivery["attempts"][0]["status"], Value::Null);
}

/// webhooks R5, R11: the time of an attempt is limited, and a receiver that exceeds it is paused for a
/// minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_or_drips_its_head_times_out() {
    for reply in [Reply::Hang, Reply::DripHead] {
        let receiver = Scripted::start(SECRET).await;
        receiver.always(reply.clone());
        let app = TestApp::from_file(&receiver.endpoint("slow", "['upload.created']"), quick).await;
        let mut client = app.client().await;
        client.create(5).await;
        let delivery = tried(&mut client).await;
        let attempt = &delivery["attempts"][0];
        assert_eq!(attempt["error"], "timeout", "{reply:?}: {delivery:#}");
        assert!(attempt["duration_ms"].as_u64().unwrap() >= 500, "{reply:?}: {delivery:#}");
        let started: jiff::Timestamp = attempt["started_at"].as_str().unwrap().parse().unwrap();
        let next: jiff::Timestamp = delivery["next_attempt_at"].as_str().unwrap().parse().unwrap();
        assert!(next.duration_since(started).as_secs() >= 60, "{reply:?}: {delivery:#}");
    }
}

/// webhooks R12: a success counts, however large or slow its body is, and little of the body is read.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_read_within_bounds() {
    for (reply, note) in
        [(Reply::DripBody, Value::from("the body of the response did not end in time")), (Reply::Gigabyte, Value::Null)]
    {
        let receiver = Scripted::start(SECRET).await;
        receiver.always(reply.clone());
        let app = TestApp::from_file(&receiver.endpoint("talker", "['upload.created']"), quick).await;
        let mut client = app.client().await;
        client.create(5).await;
        let delivery = tried(&mut client).await;
        assert_eq!(delivery["state"], "succeeded", "{reply:?}: {delivery:#}");
        assert_eq!(delivery["attempts"][0]["status"], 200, "{reply:?}");
        assert_eq!(delivery["attempts"][0]["note"], note, "{reply:?}");
        assert!(delivery["attempts"][0]["response_body"].as_str().unwrap().len() <= 4 * 1024, "{reply:?}");
        // The contents of the socket buffers are beyond the control of both sides.
        assert!(receiver.body_bytes_sent() <= 32 << 20, "{reply:?}: {} bytes", receiver.body_bytes_sent());
    }
}

/// webhooks R7, E6.
#[tokio::test(flavor = "multi_thread")]
async fn gone_pauses_the_endpoint_until_the_next_start_and_no_other() {
    let gone = Scripted::start(SECRET).await;
    let other = Scripted::start(SECOND_SECRET).await;
    gone.always(Reply::Status("410 Gone"));
    let file = gone.endpoint("gone", "['upload.*']") + &other.endpoint("other", "['upload.*']");
    let mut app = TestApp::from_file(&file, quick).await;
    let mut client = app.client().await;
    let before = client.create(11).await;
    let paused = |count| move |found: &[Value]| found.len() == count && found.iter().all(|d| d["state"] == "paused");
    let first = deliveries_until(&mut client, "endpoint=gone", paused(1)).await.remove(0);
    assert_eq!(first["attempts"][0]["status"], 410);
    client.patch(&before, 0, b"hello world").await;
    other.wait_for_kind("upload.completed").await;
    deliveries_until(&mut client, "endpoint=gone", paused(6)).await;
    assert_eq!(gone.heard().len(), 1, "nothing is sent to an endpoint that no longer subscribes");

    gone.always(Reply::Status("204 No Content"));
    app.restart().await;
    let heard = gone.wait_for_count(7).await;
    // The first delivery has had its first attempt, so its second attempt and the other deliveries do not
    // wait for each other.
    let (again, rest): (Vec<&Request>, Vec<&Request>) = heard.iter().partition(|request| request.sequence() == 1);
    assert_eq!((again.len(), &again[0].id), (2, &again[1].id));
    assert!(rest.iter().map(|request| request.sequence()).eq(2..=6), "all of it comes after the next start: {rest:#?}");
    assert_eq!(other.heard().len(), 6, "webhooks G4: a delivered event is not sent again");
}

/// webhooks E2: no receiver delays another.
#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_endpoint_holds_up_no_other() {
    let hanging = Scripted::start(SECRET).await;
    let healthy = Scripted::start(SECOND_SECRET).await;
    hanging.always(Reply::Hang);
    let file = hanging.endpoint("hanging", "['upload.*']") + &healthy.endpoint("healthy", "['upload.*']");
    let app = TestApp::from_file(&file, |config| config.webhooks.sending.max_in_flight_per_endpoint = 2).await;
    let mut client = app.client().await;
    for _ in 0..10 {
        upload(&mut client).await;
    }
    let heard = healthy.wait_for_count(60).await;
    assert_eq!(heard.len(), 60);
    assert_eq!(hanging.heard().len(), 2, "webhooks E1: as many as may be in flight");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_log_is_filtered_and_paged() {
    let (one, two) = (Scripted::start(SECRET).await, Scripted::start(SECOND_SECRET).await);
    two.always(Reply::Status("500 Oops"));
    let file = one.endpoint("one", "['upload.*']") + &two.endpoint("two", "['upload.completed']");
    let app = TestApp::from_file(&file, |config| {
        quick(config);
        config.webhooks.sending.retry_schedule = vec![Duration::from_millis(20)];
    })
    .await;
    let mut client = app.client().await;
    let paths = [upload(&mut client).await, upload(&mut client).await];
    deliveries_until(&mut client, "state=succeeded", |found| found.len() == 12).await;
    let dead = deliveries_until(&mut client, "state=dead", |found| found.len() == 2).await;
    for attempts in dead.iter().map(|delivery| &delivery["attempts"]) {
        let planned = attempts[0]["next_attempt_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let made = attempts[1]["started_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!(planned <= made, "webhooks L1: {attempts:#}");
        assert_eq!(attempts[1]["next_attempt_at"], Value::Null, "it is not retried");
    }
    for (query, count) in [
        ("".to_owned(), 14),
        ("endpoint=one".to_owned(), 12),
        ("endpoint=two".to_owned(), 2),
        ("endpoint=three".to_owned(), 0),
        ("event=upload.completed".to_owned(), 4),
        ("event=upload.completed&endpoint=one".to_owned(), 2),
        (format!("upload={}", id_of(&paths[0])), 7),
        (format!("upload={}&state=dead", id_of(&paths[0])), 1),
        ("state=ready".to_owned(), 0),
        ("status=2xx".to_owned(), 12),
        ("status=5xx".to_owned(), 2),
        ("status=500&state=dead".to_owned(), 2),
        ("status=503".to_owned(), 0),
        ("error=timeout".to_owned(), 0),
        ("from=2026-01-01T00:00:00Z".to_owned(), 14),
        ("from=2026-01-01T00:00:00Z&before=2026-01-02T00:00:00Z".to_owned(), 0),
        ("before=2126-01-01T00:00:00Z&status=5xx".to_owned(), 2),
    ] {
        assert_eq!(deliveries(&mut client, &query).await.len(), count, "{query}");
    }

    let all: Vec<Value> =
        deliveries(&mut client, "").await.into_iter().map(|delivery| delivery["id"].clone()).collect();
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = client.get(&format!("/api/v1/webhooks/deliveries?limit=4{cursor}")).await.json();
        paged.extend(page["deliveries"].as_array().unwrap().iter().map(|delivery| delivery["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, all, "pages are the list, newest first");

    for (wrong, told) in [
        ("state=done", "succeeded"),
        ("event=upload.done", "upload.completed"),
        ("upload=x", "id of an upload"),
        ("endpoint=a%20b", "name of an endpoint"),
        ("cursor=x", "`next` of a page of this list"),
        ("cursor=uploads_01a2007f-5d0e-7d02-8a11-0c9be2f4a5d6", "`next` of a page of this list"),
        ("limit=0", "from 1 to 1000"),
        ("status=6xx", "such as 503"),
        ("error=bad", "blocked_ip"),
        ("from=yesterday", "write a time such as"),
        ("before=1", "write a time such as"),
        ("event_id=evt_x", "the webhook-id"),
        ("colour=red", "endpoint, upload, event, event_id, state, status, error, from, before, cursor, limit"),
    ] {
        let answer = client.get(&format!("/api/v1/webhooks/deliveries?{wrong}")).await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(told), "{wrong}: {answer:?}");
    }
}

/// One delivery as documented, field by field.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_told_field_by_field() {
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Body("200 OK", b"thanks".to_vec()));
    let app = TestApp::from_file(&receiver.endpoint("backend", "['upload.created']"), |_| {}).await;
    let mut client = app.client().await;
    let path = client.create(5).await;
    let delivery = deliveries_until(&mut client, "state=succeeded", |found| found.len() == 1).await.remove(0);
    let names: Vec<&String> = delivery.as_object().unwrap().keys().collect();
    let expected = [
        "id",
        "event_id",
        "type",
        "upload_id",
        "sequence",
        "endpoint",
        "state",
        "created_at",
        "next_attempt_at",
        "finished_at",
        "attempts",
    ];
    assert_eq!(names, expected);
    assert_eq!(delivery["event_id"], receiver.heard()[0].id);
    assert_eq!(delivery["type"], "upload.created");
    assert_eq!(delivery["upload_id"], id_of(&path));
    assert_eq!(delivery["sequence"], 1);
    assert_eq!(delivery["endpoint"], "backend");
    assert_eq!(delivery["next_attempt_at"], Value::Null);
    for time in ["created_at", "finished_at"] {
        assert!(delivery[time].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{delivery:#}");
    }
    let attempt = delivery["attempts"][0].as_object().unwrap();
    let names: Vec<&String> = attempt.keys().collect();
    let expected = [
        "number",
        "trigger",
        "started_at",
        "duration_ms",
        "dns_ms",
        "connect_ms",
        "first_byte_ms",
        "remote_address",
        "status",
        "error",
        "note",
        "next_attempt_at",
        "response_headers",
        "response_body",
    ];
    assert_eq!(names, expected);
    assert_eq!(attempt["response_body"], "thanks");
    assert_eq!(attempt["next_attempt_at"], Value::Null, "there is none after a success");
}

/// Writes the configuration of a real program that sends to this receiver, and returns the arguments.
fn configure(folder: &Path, endpoints: &str) -> Vec<String> {
    let file = folder.join("longshore.toml");
    // The shortest permitted schedule.
    let text = format!("[webhooks]\nretry_schedule = ['1s', '1s', '1s', '1s', '1s', '1s']\n{endpoints}");
    std::fs::write(&file, text).unwrap();
    vec!["--config".to_owned(), file.to_str().unwrap().to_owned()]
}

fn start(folder: &Path, flags: &[String]) -> Process {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Process::start(&folder.join("data"), &flags)
}

/// Asserts that every event of the upload was received, always with the same id and the same bytes, and that
/// each one first arrived after the first arrival of the event before it.
fn check_heard(heard: &[Request], path: &str) {
    let mut known: HashMap<u64, &Request> = HashMap::new();
    for request in about(heard, path) {
        let sequence = request.sequence();
        assert!(sequence == 1 || known.contains_key(&(sequence - 1)), "{sequence} came before its turn: {heard:#?}");
        let first = known.entry(sequence).or_insert(request);
        assert_eq!(first.id, request.id, "webhooks H2: the same id after a crash");
        assert_eq!(first.raw, request.raw, "webhooks P7: the same bytes after a crash");
    }
    let mut kinds: Vec<_> = known.into_iter().collect();
    kinds.sort_by_key(|(sequence, _)| *sequence);
    assert_eq!(kinds.iter().map(|(_, request)| request.kind()).collect::<Vec<_>>(), WHOLE_WAY);
}

fn all_completed(paths: &[String]) -> impl Fn(&[Request]) -> bool {
    move |heard| paths.iter().all(|path| about(heard, path).iter().any(|request| request.kind() == "upload.completed"))
}

/// webhooks G1: a kill between commit and send, and during the send.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_receiver_hangs_loses_no_event() {
    let folder = TempDir::new().unwrap();
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Hang);
    let flags = configure(folder.path(), &receiver.endpoint("backend", "['upload.*']"));
    let process = start(folder.path(), &flags);
    let mut client = process.client().await;
    let paths = vec![upload(&mut client).await, upload(&mut client).await, upload(&mut client).await];
    // The first event of each upload is being sent; the later ones are committed and wait for their turn.
    let before = receiver.wait_for_count(3).await;
    assert!(before.iter().all(|request| request.sequence() == 1));
    process.kill();

    receiver.always(Reply::Status("204 No Content"));
    let process = start(folder.path(), &flags);
    let heard = receiver.wait_for(all_completed(&paths)).await;
    for path in &paths {
        check_heard(&heard, path);
        assert!(about(&heard, path).len() >= 7, "the one that hung is sent again");
    }
    let mut client = process.client().await;
    let done = |found: &[Value]| found.len() == 18 && found.iter().all(|delivery| delivery["state"] == "succeeded");
    deliveries_until(&mut client, "", done).await;
}

/// webhooks G1: a kill after the receiver has answered and before the result is recorded. The program is
/// stopped while the response is on its way, so it can never have seen it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_answer_and_record_sends_the_event_again_under_its_id() {
    let folder = TempDir::new().unwrap();
    let receiver = Scripted::start(SECRET).await;
    receiver.always(Reply::Hold);
    let flags = configure(folder.path(), &receiver.endpoint("backend", "['upload.*']"));
    let process = start(folder.path(), &flags);
    let paths = vec![upload(&mut process.client().await).await];
    receiver.wait_for_count(1).await;
    process.freeze().await;
    receiver.release();
    receiver.wait_for_answers(1).await;
    process.kill();
    assert_eq!(receiver.heard().len(), 1);

    let _process = start(folder.path(), &flags);
    let heard = receiver.wait_for(all_completed(&paths)).await;
    assert_eq!(heard.len(), 7, "one twice, the others once: {heard:#?}");
    check_heard(&heard, &paths[0]);
    assert_eq!((heard[0].sequence(), heard[1].sequence()), (1, 1));
}

/// webhooks G1: a kill at any time while events are being sent.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_lose_no_event() {
    let folder = TempDir::new().unwrap();
    let receiver = Scripted::start(SECRET).await;
    let flags = configure(folder.path(), &receiver.endpoint("backend", "['upload.*']"));
    let mut paths = Vec::new();
    for round in 0..8 {
        let process = start(folder.path(), &flags);
        let mut client = process.client().await;
        let heard_before = receiver.heard().len();
        paths.push(upload(&mut client).await);
        paths.push(upload(&mut client).await);
        // A different number of deliveries in each round, so that the kill falls between different steps.
        receiver.wait_for_count(heard_before + round).await;
        process.kill();
    }
    let _process = start(folder.path(), &flags);
    let heard = receiver.wait_for(all_completed(&paths)).await;
    for path in &paths {
        check_heard(&heard, path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_the_receiver_is_dead_is_told_when_it_is_back() {
    let receiver = Scripted::start(SECRET).await;
    let address = receiver.address;
    let file = receiver.endpoint("backend", "['upload.*']");
    drop(receiver);
    let app = TestApp::from_file(&file, |config| {
        quick(config);
        config.webhooks.sending.retry_schedule = vec![Duration::from_millis(200); 100];
    })
    .await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let refused = |found: &[Value]| {
        found.len() == 6 && found.iter().all(|delivery| delivery["attempts"][0]["error"] == "refused")
    };
    deliveries_until(&mut client, "", refused).await;

    let back = Scripted::at(address, SECRET).await;
    let heard = back.wait_for(|heard| heard.len() >= 6).await;
    let mut sequences: Vec<u64> = about(&heard, &path).iter().map(|request| request.sequence()).collect();
    sequences.sort_unstable();
    assert!(sequences.into_iter().eq(1..=6), "each once: {heard:#?}");
    let done = |found: &[Value]| found.iter().all(|delivery| delivery["state"] == "succeeded");
    deliveries_until(&mut client, "", done).await;
    assert_eq!(back.heard().len(), 6);
}

/// webhooks O5: a graceful stop waits for responses that are on their way, so nothing is sent twice after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_order_lets_a_delivery_on_its_way_end() {
    let receiver = Scripted::start(SECRET).await;
    let held = Arc::new(Mutex::new(0));
    let count = Arc::clone(&held);
    receiver.decide(move |_| {
        *count.lock().unwrap() += 1;
        Reply::Hold
    });
    let mut app = TestApp::from_file(&receiver.endpoint("backend", "['upload.created']"), |_| {}).await;
    app.client().await.create(5).await;
    receiver.wait_for_count(1).await;
    let (stopped, ()) = tokio::join!(app.stop(), async { receiver.release() });
    assert_eq!(stopped, longshore::app::StopOutcome::Clean);
    app.start_again().await;
    let mut client = app.client().await;
    let delivery = deliveries(&mut client, "").await.remove(0);
    assert_eq!(delivery["state"], "succeeded", "{delivery:#}");
    assert_eq!(*held.lock().unwrap(), 1);
}
