//! The status of an upload at every stage, the list, ETags and long polls.

use std::time::{Duration, Instant};

use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::principal::TenantId;
use domain::size::Length;
use domain::time::Timestamp;
use domain::upload::{NewUpload, Role, Upload};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use serde_json::{Value, json};
use state::conformance::change_of;
use state::{Store, Uploads};
use state_sqlite::{SqliteSettings, SqliteStore};

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS};
use crate::support::metrics::Metrics;
use crate::support::patience::{until, until_fits};
use crate::support::world::system_time;

const FIELDS: [&str; 27] = [
    "id",
    "stage",
    "protocol",
    "role",
    "offset",
    "received",
    "length",
    "missing",
    "missing_truncated",
    "percent",
    "bytes_per_second",
    "eta_seconds",
    "created_at",
    "updated_at",
    "expires_at",
    "removed_at",
    "removed_by",
    "bytes_missing_since",
    "stages",
    "reports",
    "digests",
    "content_type",
    "facts",
    "filename",
    "metadata",
    "error",
    "links",
];

fn id_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn status_path(path: &str) -> String {
    path.replace("/files/", "/api/v1/uploads/")
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

fn stages(status: &Value) -> Vec<&str> {
    let stages = status["stages"].as_array().unwrap();
    assert!(stages.is_sorted_by_key(|stage| time(&stage["at"])), "{status:#}");
    stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect()
}

/// Returns the status, after checking the properties that hold at every stage.
async fn status(client: &mut Client, path: &str) -> Value {
    let status = client.status(path).await;
    check(&status, path);
    status
}

fn check(status: &Value, path: &str) {
    let id = id_of(path);
    assert_eq!(status.as_object().unwrap().keys().collect::<Vec<_>>(), FIELDS);
    assert_eq!(status["id"], id);
    let link = format!("/api/v1/uploads/{id}");
    assert_eq!(status["links"]["self"], link);
    assert_eq!(status["links"]["events"], format!("{link}/events"));
    assert_eq!(status["links"]["upload"], path);
    let download = (status["stage"] == "completed").then_some(path);
    assert_eq!(status["links"].get("download").and_then(Value::as_str), download, "{status:#}");
    assert!(time(&status["created_at"]) <= time(&status["updated_at"]));
    let stage = status["stage"].as_str().unwrap();
    assert_eq!(stages(status).last(), Some(&stage), "{status:#}");
    assert_eq!(status["error"].is_object(), stage == "failed", "{status:#}");
    assert!(status["offset"].as_u64() <= status["received"].as_u64(), "{status:#}");
    assert_eq!(status["length"].is_null(), status["percent"].is_null(), "{status:#}");
    let expires = matches!(stage, "created" | "receiving" | "stalled");
    assert_eq!(status["expires_at"].is_string(), expires || stage == "received", "{status:#}");
}

async fn status_until(client: &mut Client, path: &str, enough: impl Fn(&Value) -> bool) -> Value {
    let status = until_fits("the status says enough", async || client.status(path).await, enough).await;
    check(&status, path);
    status
}

async fn create(client: &mut Client, headers: &[(&str, &str)]) -> String {
    let answer = client.tus("POST", "/files", headers, b"").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.header("location").unwrap().to_owned()
}

async fn list(client: &mut Client, query: &str) -> Value {
    let answer = client.get(&format!("/api/v1/uploads?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()
}

/// Returns the ids on a page, as paths below `/files/`.
async fn listed(client: &mut Client, query: &str) -> Vec<String> {
    let page = list(client, query).await;
    let ids = page["uploads"].as_array().unwrap().iter().map(|upload| upload["id"].as_str().unwrap());
    ids.map(|id| format!("/files/{id}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_only_announced() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let metadata = "filename dmlkZW8ubXA0,filetype dmlkZW8vbXA0,raw /wA=,empty,umlaut Z3LDvG4=";
    let path = create(&mut client, &[("Upload-Length", "1000"), ("Upload-Metadata", metadata)]).await;
    let status = status(&mut client, &path).await;
    assert_eq!(status["stage"], "created");
    assert_eq!((&status["protocol"], &status["role"]), (&json!("tus"), &json!("single")));
    assert_eq!((&status["offset"], &status["received"]), (&json!(0), &json!(0)));
    assert_eq!((&status["length"], &status["percent"]), (&json!(1000), &json!(0.0)));
    assert_eq!((&status["bytes_per_second"], &status["eta_seconds"]), (&Value::Null, &Value::Null));
    assert_eq!(status["digests"], json!({}));
    assert_eq!(status["filename"], "video.mp4");
    assert_eq!(status["content_type"], "video/mp4");
    let expected = json!({
        "filename": "video.mp4", "filetype": "video/mp4", "raw": {"base64": "/wA="}, "empty": "", "umlaut": "grün",
    });
    assert_eq!(status["metadata"], expected);
    let lives = time(&status["expires_at"]).duration_since(time(&status["created_at"]));
    assert!((lives.as_secs() - 24 * 3600).abs() < 60, "{lives:?}");
}

/// A live upload is ahead of its offset, and reports its rate and its remaining time.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_bytes_arrive_just_now() {
    let app = TestApp::with(|config| config.engine.writer.checkpoint_every = Duration::from_secs(60)).await;
    let (mut client, mut other) = (app.client().await, app.client().await);
    let path = client.create(1_000_000).await;
    client.begin_patch(&path, 0, 1_000_000).await;
    let mut sent = 0_u64;
    // The first bytes are committed early; the bytes after them only with the checkpoint, a minute later.
    let after_more_bytes = async || {
        client.send(&[7; 100]).await;
        sent += 100;
        let status = status(&mut other, &path).await;
        assert!(status["received"].as_u64().unwrap() <= sent && sent < 900_000, "{sent} bytes sent: {status:#}");
        status
    };
    let has_a_rate = |status: &Value| {
        status["bytes_per_second"].as_u64() > Some(0) && status["received"].as_u64() > status["offset"].as_u64()
    };
    let live = until_fits("there is a rate", after_more_bytes, has_a_rate).await;
    assert_eq!(live["stage"], "receiving");
    assert!(live["offset"].as_u64().unwrap() > 0, "the first bytes are committed at once: {live:#}");
    let received = live["received"].as_u64().unwrap();
    let rate = live["bytes_per_second"].as_u64().unwrap();
    assert_eq!(live["eta_seconds"], (1_000_000 - received).div_ceil(rate));
    assert_eq!(live["percent"].as_f64().unwrap(), (received * 100 / 10_000) as f64 / 100.0, "of the received bytes");
    // The list shows the same values.
    let listed = list(&mut other, "stage=receiving").await["uploads"][0].clone();
    assert!(listed["received"].as_u64().unwrap() >= received);

    // After a cut the received bytes are kept; no client is connected any more, so there is no rate.
    client.rst();
    let cut = status_until(&mut other, &path, |status| status["bytes_per_second"].is_null()).await;
    assert_eq!(cut["offset"], cut["received"], "{cut:#}");
    assert!(cut["offset"].as_u64().unwrap() >= received, "{cut:#}");
    assert_eq!(cut["eta_seconds"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_has_completed() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let wanted = "crc32c=1,sha-256=1,md5=1";
    let path = create(&mut client, &[("Upload-Length", "11"), ("Want-Repr-Digest", wanted)]).await;
    client.patch(&path, 0, b"hello world").await;
    let status = status(&mut client, &path).await;
    assert_eq!(status["stage"], "completed");
    assert_eq!(stages(&status), ["created", "receiving", "received", "verified", "stored", "completed"]);
    assert_eq!((&status["offset"], &status["received"]), (&json!(11), &json!(11)));
    assert_eq!((&status["length"], &status["percent"]), (&json!(11), &json!(100.0)));
    let digests = json!({
        "crc32c": "c99465aa",
        "md5": "5eb63bbbe01eeed093cb22bb8f5acdc3",
        "sha256": "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9",
    });
    assert_eq!(status["digests"], digests);
    assert_eq!((&status["filename"], &status["content_type"]), (&Value::Null, &Value::Null));
    let download = status["links"]["download"].as_str().unwrap();
    assert_eq!(client.get(download).await.body, b"hello world");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_not_what_its_client_promised_has_failed() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let promise = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    let path = create(&mut client, &[("Upload-Length", "11"), ("Repr-Digest", promise)]).await;
    client.patch(&path, 0, b"hello world").await;
    let status = status(&mut client, &path).await;
    assert_eq!(stages(&status), ["created", "receiving", "received", "failed"]);
    let error = json!({
        "code": "digest-mismatch", "message": "the upload does not match the sha256 digest that the client declared",
    });
    assert_eq!(status["error"], error);
    assert_eq!(status["digests"]["crc32c"], "c99465aa", "the actual digest of the bytes");
    assert!(app.stored_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_has_expired() {
    let app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = Duration::from_millis(500)).await;
    let mut client = app.client().await;
    let path = client.create(11).await;
    client.patch(&path, 0, b"hello").await;
    let in_name = |status: &Value| status["stage"] == "expired" && status["stages"][2]["name"] == "expired";
    let status = status_until(&mut client, &path, in_name).await;
    assert_eq!(stages(&status), ["created", "receiving", "expired"]);
    assert_eq!((&status["offset"], &status["length"]), (&json!(5), &json!(11)), "how far it had come");
    assert_eq!(client.head(&path).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_terminated() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (open, completed) = (client.create(11).await, client.create(0).await);
    for (path, before) in
        [(open, vec!["created"]), (completed, vec!["created", "received", "verified", "stored", "completed"])]
    {
        assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 204);
        let status = status(&mut client, &path).await;
        assert_eq!(status["stage"], "terminated");
        assert_eq!(stages(&status), [before, vec!["terminated"]].concat());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_yet_unknown_length() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = create(&mut client, &[("Upload-Defer-Length", "1")]).await;
    client.patch(&path, 0, b"hello").await;
    let unknown = status(&mut client, &path).await;
    assert_eq!((&unknown["length"], &unknown["percent"]), (&Value::Null, &Value::Null));
    assert_eq!((&unknown["offset"], &unknown["eta_seconds"]), (&json!(5), &Value::Null));
    let headers = [OCTETS, ("Upload-Offset", "5"), ("Upload-Length", "10")];
    client.tus("PATCH", &path, &headers, b"").await;
    let known = status(&mut client, &path).await;
    assert_eq!((&known["length"], &known["percent"]), (&json!(10), &json!(50.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upload_and_the_parts_of_a_whole() {
    let app = TestApp::with(|config| config.engine.lifetimes.stall_after = Duration::from_millis(200)).await;
    let mut client = app.client().await;
    let path = client.create(11).await;
    client.patch(&path, 0, b"hello").await;
    let stalled = status_until(&mut client, &path, |status| status["stage"] == "stalled").await;
    assert_eq!(stages(&stalled), ["created", "receiving", "stalled"]);

    let part = create(&mut client, &[("Upload-Length", "5"), ("Upload-Concat", "partial")]).await;
    client.patch(&part, 0, b"hello").await;
    let rests = status(&mut client, &part).await;
    assert_eq!((&rests["role"], &rests["stage"]), (&json!("partial"), &json!("received")));
    let whole = create(&mut client, &[("Upload-Concat", &format!("final;{part}"))]).await;
    let whole = status(&mut client, &whole).await;
    assert_eq!((&whole["role"], &whole["stage"]), (&json!("final"), &json!("completed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_there_has_no_status() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let unknown = UploadId::new(Timestamp::from_unix_ms(1), [1; 10]).to_string();
    for id in [unknown.as_str(), "x", "..", "%2e%2e", "%00", &unknown.to_uppercase()] {
        let answer = client.get(&format!("/api/v1/uploads/{id}")).await;
        assert_eq!(answer.status, 404, "{id}: {answer:?}");
    }
    assert_eq!(client.request("PUT", &format!("/api/v1/uploads/{unknown}"), &[], b"").await.status, 405);
}

/// Creates uploads of every kind for filters, oldest first.
async fn some_uploads(client: &mut Client) -> Vec<String> {
    let mut paths = Vec::new();
    // user=7 kind=a; user=7 kind=b; user=8 kind=a; none
    for metadata in ["user Nw==,kind YQ==", "user Nw==,kind Yg==", "user OA==,kind YQ==,raw /wA="] {
        paths.push(create(client, &[("Upload-Length", "5"), ("Upload-Metadata", metadata)]).await);
    }
    paths.push(client.create(5).await);
    client.patch(&paths[1], 0, b"he").await;
    client.patch(&paths[2], 0, b"hello").await;
    client.tus("DELETE", &paths[3], &[], b"").await;
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_filtered() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let paths = some_uploads(&mut client).await;
    for (query, expected) in [
        ("", vec![3, 2, 1, 0]),
        ("stage=created", vec![0]),
        ("stage=receiving", vec![1]),
        ("stage=completed,terminated", vec![3, 2]),
        ("stage=created&stage=receiving,terminated", vec![3, 1, 0]),
        ("stage=failed", vec![]),
        ("metadata.user=7", vec![1, 0]),
        ("metadata.user=7&metadata.kind=a", vec![0]),
        ("metadata.kind=a", vec![2, 0]),
        ("metadata.kind=a&stage=completed", vec![2]),
        ("metadata.kind=a&stage=created,completed&limit=1", vec![2]),
        ("metadata.user=9", vec![]),
        ("metadata.nobody=7", vec![]),
        ("limit=2", vec![3, 2]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|index: usize| paths[index].clone()).collect();
        assert_eq!(listed(&mut client, query).await, expected, "{query}");
    }
    let page = list(&mut client, "").await;
    for (upload, path) in page["uploads"].as_array().unwrap().iter().zip(paths.iter().rev()) {
        assert_eq!(*upload, status(&mut client, path).await, "a list has the same status of each upload");
    }
    assert_eq!(page["next"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_bounded_by_time() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let mut paths = Vec::new();
    let mut times = Vec::new();
    for _ in 0..3 {
        let path = client.create(5).await;
        times.push(status(&mut client, &path).await["created_at"].as_str().unwrap().to_owned());
        paths.push(path);
        // Times have a resolution of milliseconds; these have to differ.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let in_another_zone =
        times[1].parse::<jiff::Timestamp>().unwrap().strftime("%Y-%m-%dT%H:%M:%S%.3f%%2B00:00").to_string();
    for (query, expected) in [
        (format!("created_from={}", times[1]), vec![2, 1]),
        (format!("created_from={in_another_zone}"), vec![2, 1]),
        (format!("created_before={}", times[1]), vec![0]),
        (format!("created_from={}&created_before={}", times[1], times[2]), vec![1]),
        (format!("created_from={}&created_before={}", times[1], times[1]), vec![]),
        (format!("created_from={}&stage=created&limit=1", times[0]), vec![2]),
        ("created_from=2000-01-01T00:00:00Z&created_before=2001-01-01T00:00:00Z".to_owned(), vec![]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|index: usize| paths[index].clone()).collect();
        assert_eq!(listed(&mut client, &query).await, expected, "{query}");
    }
}

/// Pages follow each other without a gap or a repetition while uploads are created and deleted in between. A
/// page may end at an upload that its reader may not see.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_tells_no_id() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let ids = [client.create(5).await, client.create(5).await].map(|path| path.rsplit_once('/').unwrap().1.to_owned());
    let page = list(&mut client, "limit=1").await;
    let next = page["next"].as_str().unwrap();
    assert!(ids.iter().all(|id| !next.contains(id)), "{next}");
    assert_eq!(list(&mut client, &format!("cursor={next}")).await["uploads"][0]["id"], ids[0]);
    for (path, name) in [("uploads", "uploads"), ("webhooks/deliveries", "deliveries"), ("webhooks/hooks", "calls")] {
        for cursor in [format!("{name}_{}", ids[1]), next.replace("uploads", "files")] {
            let answer = client.get(&format!("/api/v1/{path}?cursor={cursor}")).await;
            assert_eq!(answer.status, 400, "{path} {cursor}");
            assert!(
                String::from_utf8_lossy(&answer.body).contains("`next` of a page of this list"),
                "{path} {cursor}: {answer:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_stable_while_uploads_come_and_go() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let mut known = Vec::new();
    for _ in 0..23 {
        known.push(client.create(5).await);
    }
    // Newest first, by id; two of the same millisecond may be in either order.
    known.sort();
    known.reverse();
    for query in ["", "stage=created,terminated&"] {
        let mut seen: Vec<String> = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = list(&mut client, &format!("{query}limit=5{cursor}")).await;
            let uploads = page["uploads"].as_array().unwrap();
            seen.extend(uploads.iter().map(|upload| format!("/files/{}", upload["id"].as_str().unwrap())));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
            client.create(5).await;
            // The upload that the cursor names, and one that is still to come.
            for gone in [&seen[seen.len() - 1], &known[known.len() - 1]] {
                client.tus("DELETE", gone, &[], b"").await;
            }
        }
        let old: Vec<_> = seen.iter().filter(|path| known.contains(path)).cloned().collect();
        assert_eq!(old, known, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_ends_the_list_has_no_next() {
    let app = TestApp::with(|config| config.status.max_page = 4).await;
    let mut client = app.client().await;
    for _ in 0..4 {
        client.create(5).await;
    }
    assert_eq!(list(&mut client, "limit=3").await["uploads"].as_array().unwrap().len(), 3);
    let full = list(&mut client, "").await;
    assert_eq!(full["uploads"].as_array().unwrap().len(), 4, "the default is held at the most there may be");
    let next = full["next"].as_str().unwrap();
    let behind = list(&mut client, &format!("cursor={next}")).await;
    assert_eq!(behind, json!({ "uploads": [], "next": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_is_not_understood_is_refused_with_what_is_allowed() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let one = status_path(&client.create(5).await);
    let all = "/api/v1/uploads".to_owned();
    for (path, query, told) in [
        (
            &all,
            "stage=done",
            "created, receiving, stalled, received, verified, stored, completed, failed, expired, terminated",
        ),
        (&all, "stage=", "created, receiving"),
        (&all, "stage=Created", "created, receiving"),
        (&all, "limit=0", "from 1 to 1000"),
        (&all, "limit=1001", "from 1 to 1000"),
        (&all, "limit=-1", "from 1 to 1000"),
        (&all, "limit=99999999999999999999", "from 1 to 1000"),
        (&all, "cursor=x", "`next` of a page of this list"),
        (&all, "created_from=yesterday", "2026-11-21T22:31:30Z"),
        (&all, "created_before=2026-13-01T00:00:00Z", "2026-11-21T22:31:30Z"),
        (&all, "colour=red", "created_from, created_before, metadata.<key>, cursor, limit"),
        (&all, "type=video", "video/*"),
        (&all, "min_width=wide", "whole number"),
        (&all, "max_duration=1h", "30s"),
        (&all, "stage=%ff", "UTF-8"),
        (&one, "wait=soon", "30s"),
        (&one, "wait=-1s", "30s"),
        (&one, "stage=created", "wait"),
    ] {
        let answer = client.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(told), "{query}: {detail}");
        assert_eq!(answer.problem(), "bad-query");
    }
}

async fn ask(client: &mut Client, path: &str, etag: &str, wait: &str) -> Answer {
    let path = format!("{}{wait}", status_path(path));
    client.request("GET", &path, &[("If-None-Match", etag)], b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_status_is_recognized_however_its_etag_comes_back() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = client.create(11).await;
    let etag = client.get(&status_path(&path)).await.header("etag").unwrap().to_owned();
    for known in [etag.clone(), etag.replace("W/", ""), format!("\"x\", {etag}"), "*".to_owned()] {
        let again = ask(&mut client, &path, &known, "").await;
        let said = (again.status, again.header("etag"), again.header("cache-control"));
        assert_eq!(said, (304, Some(etag.as_str()), Some("no-cache")), "RFC 9110, 8.8.3.2 and 15.4.5: {known}");
    }
    let lines = [("If-None-Match", "\"x\""), ("If-None-Match", etag.as_str())];
    assert_eq!(client.request("GET", &status_path(&path), &lines, b"").await.status, 304);
    assert_eq!(ask(&mut client, &path, "\"x\"", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etag_stands_for_a_status_until_it_changes() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = client.create(11).await;
    let mut etags: Vec<String> = Vec::new();
    for step in 0..4_u32 {
        match step {
            1 => assert_eq!(client.patch(&path, 0, b"hello").await.status, 204),
            2 => assert_eq!(client.patch(&path, 5, b" world").await.status, 204),
            3 => assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 204),
            _ => {}
        }
        let answer = client.get(&status_path(&path)).await;
        let etag = answer.header("etag").unwrap().to_owned();
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        let same = ask(&mut client, &path, &etag, "").await;
        assert_eq!((same.status, same.header("etag")), (304, Some(etag.as_str())));
        let among = ask(&mut client, &path, &format!("\"other\", {etag}"), "").await;
        assert_eq!(among.status, 304);
        for old in &etags {
            assert_eq!(ask(&mut client, &path, old, "").await.status, 200, "step {step}");
        }
        etags.push(etag);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_at_a_change() {
    let app = TestApp::start().await;
    let (mut waiting, mut client) = (app.client().await, app.client().await);
    let path = client.create(11).await;
    let mut etag = waiting.get(&status_path(&path)).await.header("etag").unwrap().to_owned();
    let following = async {
        let mut seen: Vec<Value> = Vec::new();
        while seen.last().is_none_or(|status| status["stage"] != "completed") {
            // One change may cause several responses: bytes received, bytes committed, request ended.
            let answer = ask(&mut waiting, &path, &etag, "?wait=60s").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let newer = answer.header("etag").unwrap().to_owned();
            assert_ne!(newer, etag);
            etag = newer;
            seen.push(answer.json());
        }
        seen
    };
    let uploading = async {
        for (offset, bytes) in [(0, b"hello".as_slice()), (5, b" "), (6, b"world")] {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(client.patch(&path, offset, bytes).await.status, 204);
        }
    };
    let (seen, ()) = tokio::join!(following, uploading);
    assert!(seen.is_sorted_by_key(|status| status["offset"].as_u64()), "{seen:#?}");

    // Without a known status, the request returns at the next change. Another change follows whenever the
    // request arrives.
    let path = client.create(1_000).await;
    let question = format!("{}?wait=60s", status_path(&path));
    let changing = async {
        for offset in 0.. {
            client.patch(&path, offset, b"x").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::select! {
        answer = waiting.get(&question) => answer,
        () = changing => unreachable!("it changes until there is an answer"),
    };
    assert!(answer.json()["offset"].as_u64().unwrap() > 0);
    // A client that knows an older status is answered at once.
    let answer = ask(&mut waiting, &path, "W/\"0-0\"", "?wait=60s").await;
    assert_eq!(answer.json()["stage"], "receiving");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_hears_of_bytes_that_are_not_committed_yet() {
    let app = TestApp::with(|config| config.engine.writer.checkpoint_every = Duration::from_secs(60)).await;
    let (mut waiting, mut client) = (app.client().await, app.client().await);
    let path = client.create(1_000).await;
    client.begin_patch(&path, 0, 1_000).await;
    client.send(&[7; 100]).await;
    status_until(&mut waiting, &path, |status| status["offset"] == 100).await;
    let etag = waiting.get(&status_path(&path)).await.header("etag").unwrap().to_owned();
    let (answer, ()) = tokio::join!(ask(&mut waiting, &path, &etag, "?wait=60s"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send(&[7; 100]).await;
    });
    assert_eq!((&answer.json()["offset"], &answer.json()["received"]), (&json!(100), &json!(200)));
}

/// A checksum that does not match takes received bytes back, and so may a writer that ends: neither commits
/// anything.
#[tokio::test(flavor = "multi_thread")]
async fn who_knows_of_bytes_that_were_dropped_is_answered_at_once() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = client.create(1_000).await;
    let etag = client.get(&status_path(&path)).await.header("etag").unwrap().to_owned();
    let dropped = etag.replace("-0\"", "-500\"");
    assert_ne!(dropped, etag);
    let asking = ask(&mut client, &path, &dropped, "?wait=60s");
    let answer = tokio::time::timeout(Duration::from_secs(30), asking).await.expect("it is answered at once");
    assert_eq!((answer.status, answer.header("etag")), (200, Some(etag.as_str())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_is_answered_at_its_deadline() {
    let app = TestApp::with(|config| config.status.long_poll_max = Duration::from_millis(400)).await;
    let mut client = app.client().await;
    let path = client.create(5).await;
    let etag = client.get(&status_path(&path)).await.header("etag").unwrap().to_owned();
    // A longer wait is limited to the longest permitted one.
    for (wait, least) in [("200ms", 200), ("3600", 400)] {
        let began = Instant::now();
        assert_eq!(ask(&mut client, &path, &etag, &format!("?wait={wait}")).await.status, 304);
        assert!(began.elapsed() >= Duration::from_millis(least), "{wait}");
        let began = Instant::now();
        let answer = client.get(&format!("{}?wait={wait}", status_path(&path))).await;
        assert_eq!(answer.json()["stage"], "created");
        assert!(began.elapsed() >= Duration::from_millis(least), "{wait}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_does_not_hold_up_a_stop() {
    let mut app = TestApp::start().await;
    let (mut waiting, mut client) = (app.client().await, app.client().await);
    let path = client.create(5).await;
    waiting.send_head("GET", &format!("{}?wait=60s", status_path(&path)), &[]).await;
    until("it waits", async || (Metrics::of(&mut client).await.value("http_event_streams") == 1.0).then_some(())).await;
    let (answer, stopped) = tokio::join!(waiting.answer("GET"), app.stop());
    assert_eq!(answer.json()["stage"], "created");
    // A stop that takes longer than `shutdown_timeout`, which is shorter than the minute, is not clean.
    assert_eq!(stopped, longshore::app::StopOutcome::Clean);
}

/// Promise 1: a reported offset never falls, whatever the client does.
#[tokio::test(flavor = "multi_thread")]
async fn the_offset_never_goes_backwards() {
    let app = TestApp::with(|config| config.engine.writer.checkpoint_every = Duration::from_millis(50)).await;
    let mut client = app.client().await;
    let path = client.create(400_000).await;
    let (done, mut polling) = (tokio_util::sync::CancellationToken::new(), app.client().await);
    let (ended, polled_path) = (done.clone(), path.clone());
    let poller = tokio::spawn(async move {
        let (mut last, mut polls) = (0, 0);
        while !ended.is_cancelled() {
            let status = polling.status(&polled_path).await;
            let offset = status["offset"].as_u64().unwrap();
            assert!(offset >= last, "{offset} after {last}");
            assert!(status["received"].as_u64().unwrap() >= offset);
            (last, polls) = (offset, polls + 1);
        }
        (last, polls)
    });
    for round in 0..20 {
        let mut sender = app.client().await;
        let offset = client.offset(&path).await;
        sender.begin_patch(&path, offset, 400_000 - offset).await;
        for _ in 0..5 {
            sender.send(&[7; 4_000]).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match round % 3 {
            0 => sender.rst(),
            1 => sender.fin().await,
            // Taken over while it is still sending.
            _ => {
                let offset = client.offset(&path).await;
                assert_eq!(client.patch(&path, offset, &[7; 100]).await.status, 204);
            }
        }
    }
    let offset = client.offset(&path).await;
    let rest = vec![7; usize::try_from(400_000 - offset).unwrap()];
    assert_eq!(client.patch(&path, offset, &rest).await.status, 204);
    done.cancel();
    let (last, polls) = poller.await.unwrap();
    assert!(last > 0 && polls > 20, "{polls} polls up to {last}");
    assert_eq!(status(&mut client, &path).await["stage"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the duration is reported and not checked")]
async fn ten_thousand_uploads_are_listed_page_by_page() {
    const COUNT: usize = 10_000;
    let mut app = TestApp::start().await;
    app.stop().await;
    let inserted = insert_many(&app, COUNT).await;
    app.start_again().await;
    let mut client = app.client().await;

    let began = Instant::now();
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = list(&mut client, &format!("limit=1000{cursor}")).await;
        seen.extend(page["uploads"].as_array().unwrap().iter().map(|upload| upload["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    println!("{COUNT} uploads in pages of 1000: {:?}", began.elapsed());
    let expected: Vec<String> = inserted.iter().rev().map(UploadId::to_string).collect();
    assert_eq!(seen, expected);

    for (query, step) in [("limit=1000&metadata.hundredth=7", 100), ("limit=1000&metadata.tenth=3&stage=created", 10)] {
        let began = Instant::now();
        let found = listed(&mut client, query).await;
        println!("{query}: {:?}", began.elapsed());
        assert_eq!(found.len(), COUNT / step, "{query}");
    }
    let began = Instant::now();
    let asked = inserted.iter().step_by(100);
    for id in asked.clone() {
        assert_eq!(status(&mut client, &format!("/files/{id}")).await["stage"], "created");
    }
    println!("{} statuses, one after another: {:?}", asked.len(), began.elapsed());
}

/// Writes uploads directly to the database, while the server is not running.
async fn insert_many(app: &TestApp, count: usize) -> Vec<UploadId> {
    let store = SqliteStore::open(&app.data_dir().join("longshore.db"), SqliteSettings::default(), webhook::bodies())
        .await
        .unwrap();
    let now = system_time();
    let uploads = (0..count).map(|index| {
        let pair = |name: &str, every: usize| (name.to_owned(), (index % every).to_string().into_bytes());
        let [.., third, second, first] = index.to_be_bytes();
        Upload::create(
            NewUpload {
                id: UploadId::new(now, [0, 0, 0, 0, 0, 0, 0, third, second, first]),
                tenant: TenantId::DEFAULT,
                dialect: Dialect::named("tus"),
                write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
                role: Role::Single,
                length: Length::new(1_000),
                metadata: Metadata::new(vec![pair("tenth", 10), pair("hundredth", 100)]).unwrap(),
                metadata_as_sent: None,
                terms: domain::upload::UploadTerms::default(),
                wanted_digests: vec![],
                promised_digests: vec![],
                expires_at: now.plus(Duration::from_secs(24 * 3600)),
            },
            now,
        )
    });
    let inserted = futures::future::join_all(uploads.map(|upload| store.insert(change_of(upload)))).await;
    let ids = inserted.into_iter().map(|upload| upload.unwrap().id()).collect();
    store.close().await;
    ids
}
