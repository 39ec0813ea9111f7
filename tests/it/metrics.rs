//! `/metrics`: the metrics, in both formats, and that the documentation lists all of them.

use std::collections::{BTreeMap, BTreeSet};

use longshore::config::SecretText;

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::metrics::{Format, Metrics};
use crate::support::moving::wait_until_taken;
use crate::support::patience::until;
use crate::support::receiver::SECRET;
use crate::support::scripted::Scripted;
use crate::support::sse::Sse;

async fn upload(client: &mut Client) -> String {
    let path = client.create(11).await;
    assert_eq!(client.patch(&path, 0, b"hello world").await.status, 204);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_and_their_webhooks_are_counted() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("backend", "['upload.completed']"), |_| {}).await;
    let mut client = app.client().await;
    for _ in 0..3 {
        upload(&mut client).await;
    }
    let deleted = client.create(5).await;
    client.tus("DELETE", &deleted, &[], b"").await;
    receiver.wait_for_count(3).await;

    let settled = r#"webhook_deliveries_settled_total{disposition="succeeded"}"#;
    let metrics = until("the deliveries are settled", async || {
        Some(Metrics::of(&mut app.client().await).await).filter(|metrics| metrics.value(settled) == 3.0)
    })
    .await;
    for (series, expected) in [
        ("upload_bytes_received_total", 33.0),
        (r#"upload_events_total{type="upload.created"}"#, 4.0),
        (r#"upload_events_total{type="upload.completed"}"#, 3.0),
        (r#"upload_events_total{type="upload.terminated"}"#, 1.0),
        (r#"uploads_created_total{protocol="tus"}"#, 4.0),
        (r#"uploads_created_total{protocol="ietf"}"#, 0.0),
        (r#"uploads_ended_total{protocol="tus",stage="completed"}"#, 3.0),
        (r#"uploads_ended_total{protocol="tus",stage="terminated"}"#, 1.0),
        (r#"webhook_attempts_total{outcome="2xx"}"#, 3.0),
        ("webhook_attempt_duration_seconds_count", 3.0),
        ("webhook_in_flight", 0.0),
        ("webhook_first_attempt_delay_seconds_count", 3.0),
        ("webhook_end_to_end_seconds_count", 3.0),
        ("webhook_breakers_opened_total", 0.0),
        (r#"build_info{version="0.1.0"}"#, 1.0),
    ] {
        let found = metrics.samples.get(&format!("longshore_{series}"));
        assert_eq!(found, Some(&expected), "{series}: {:#?}", metrics.samples);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_in_progress_are_counted_by_stage_also_after_a_restart() {
    let mut app = TestApp::start().await;
    let mut client = app.client().await;
    upload(&mut client).await;
    client.create(5).await;
    let receiving = client.create(5).await;
    assert_eq!(client.patch(&receiving, 0, b"he").await.status, 204);
    let part = client.tus("POST", "/files", &[("Upload-Length", "2"), ("Upload-Concat", "partial")], b"").await;
    let part = part.header("location").unwrap().to_owned();
    assert_eq!(client.patch(&part, 0, b"hi").await.status, 204);
    let stages = ["created", "receiving", "stalled", "received", "verified", "stored"];
    for expected in [[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]; 2] {
        let metrics = Metrics::of(&mut app.client().await).await;
        let counts = stages.map(|stage| metrics.value(&format!(r#"uploads_in_progress{{stage="{stage}"}}"#)));
        assert_eq!(counts, expected);
        app.restart().await;
    }
    let mut client = app.client().await;
    assert_eq!(client.patch(&receiving, 2, b"llo").await.status, 204);
    let metrics = Metrics::of(&mut client).await;
    assert_eq!(metrics.value(r#"uploads_in_progress{stage="receiving"}"#), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_connections_and_problems_are_counted() {
    let app = TestApp::with(|config| {
        config.server.read_listen = Some(([127, 0, 0, 1], 0).into());
        config.auth.token = Some(SecretText::new("the-shared-token"));
    })
    .await;
    let bearer = ("Authorization", "Bearer the-shared-token");
    let mut client = app.client().await;
    let mut reader = Client::connect(app.read_address()).await;
    let created = client.tus("POST", "/files", &[bearer, ("Upload-Length", "5")], b"").await;
    let path = created.header("location").unwrap().to_owned();
    for _ in 0..2 {
        assert_eq!(client.get("/api/v1/uploads").await.status, 401);
    }
    assert_eq!(client.request("BREW", "/coffee", &[bearer], b"").await.status, 404);
    let events = format!("{}/events", path.replace("/files/", "/api/v1/uploads/"));
    let stream = Sse::ask(app.address(), &events, &[bearer]).await.unwrap();
    let answer = reader.request("GET", "/metrics", &[bearer, ("Accept", "application/openmetrics-text")], b"").await;
    let page = String::from_utf8(answer.body).unwrap();
    for line in [
        r#"longshore_http_requests_total{method="POST",route="/files",status="2xx"} 1"#,
        r#"longshore_http_requests_total{method="GET",route="/api/v1/uploads",status="4xx"} 2"#,
        r#"longshore_http_requests_total{method="other",route="other",status="4xx"} 1"#,
        r#"longshore_http_requests_total{method="GET",route="/api/v1/uploads/{id}/events",status="2xx"} 1"#,
        r#"longshore_http_problems_total{code="unauthorized"} 2"#,
        r#"longshore_http_problems_total{code="not-found"} 1"#,
        r#"longshore_http_connections{listener="listen"} 2"#,
        r#"longshore_http_connections{listener="read_listen"} 1"#,
        "longshore_http_event_streams 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_memory_and_the_database_can_be_watched() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    assert_eq!(client.get(&path).await.body, b"hello world");
    let live = client.create(1 << 20).await;
    client.begin_patch(&live, 0, 1 << 20).await;
    client.send(&[7; 1_000]).await;
    wait_until_taken(app.address(), &live, 1_000).await;
    let metrics = Metrics::of(&mut app.client().await).await;
    assert_eq!(metrics.value("download_bytes_sent_total"), 11.0);
    let limit = |budget: &str| metrics.value(&format!(r#"memory_limit_bytes{{budget="{budget}"}}"#));
    for budget in ["storage.buffer_memory", "limits.answer_memory", "limits.read_ahead_memory"] {
        let used = metrics.value(&format!(r#"memory_used_bytes{{budget="{budget}"}}"#));
        assert!(used <= limit(budget) && limit(budget) >= 4096.0, "{budget}: {used} of {}", limit(budget));
    }
    let (writes, transactions) = (metrics.value("database_writes_total"), metrics.value("database_transactions_total"));
    assert!(writes > 3.0 && transactions > 3.0, "{writes} in {transactions}");
    assert!(metrics.value("database_wal_bytes") > 0.0);
    for series in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_threads"] {
        assert!(metrics.samples[series] > 1.0, "{series}");
    }
    assert!(metrics.samples["process_start_time_seconds"] > 1.7e9);
}

/// Returns the families in the table, with their labels: a row begins with | `longshore_x{a,b}` |.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let family = |(family, meaning): (&str, &str)| {
        assert!(meaning.len() > 10, "{family} has a meaning");
        let (name, labels) = family.trim_end_matches('}').split_once('{').unwrap_or((family, ""));
        (name.to_owned(), labels.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect())
    };
    rows.map(family).collect()
}

/// The table of the documentation, and the metrics of a server with everything enabled, are the same in both
/// formats.
#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_lists_every_metric() {
    let hooks = format!("[hooks]\npre_create = 'http://127.0.0.1:9/'\nsecret = '{SECRET}'\n");
    let app = TestApp::from_file(&hooks, |_| {}).await;
    let mut client = app.client().await;
    assert_eq!(client.get("/nothing").await.status, 404, "a problem to be counted");
    let documented = documented();
    for format in [Format::Text, Format::OpenMetrics] {
        let shown = Metrics::in_format(&mut client, format).await.families;
        let missing: Vec<_> = shown.iter().filter(|(name, labels)| documented.get(*name) != Some(labels)).collect();
        assert!(missing.is_empty(), "not in docs/metrics.md, or with other labels: {missing:#?}");
        let gone: Vec<_> = documented.keys().filter(|name| !shown.contains_key(*name)).collect();
        assert!(gone.is_empty(), "in docs/metrics.md only: {gone:#?}");
    }
}
