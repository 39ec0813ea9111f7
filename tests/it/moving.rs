//! Moving the records of a server from SQLite to PostgreSQL. `tests/services/postgres.sh` starts the database
//! server.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use longshore::app;
use longshore::app::data_folder::DataFolder;
use longshore::app::moving::{self, MoveOrder, MoveStep};
use serde_json::Value;
use state_postgres::{DatabaseUrl, PostgresSettings, PostgresStore, PostgresTarget};
use state_rows::MoveRecord;
use storage::local::FolderAccess;

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::patience::{until, until_fits};
use crate::support::receiver::SECRET;
use crate::support::scripted::{Scripted, closed_port, endpoint_at};
use crate::support::sse::Sse;

/// Creates an empty database and returns its URL.
fn empty_database(name: &str) -> String {
    let server = std::env::var("TEST_POSTGRES_URL").expect("tests/services/postgres.sh names a database server");
    let name = format!("longshore_move_{}_{name}", std::process::id());
    let sql = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'");
    let created = Command::new("psql").args(["--no-psqlrc", "--quiet", "--command", &sql, &server]).status().unwrap();
    assert!(created.success());
    format!("{}/{name}", server.rsplit_once('/').unwrap().0)
}

/// Starts a server whose records are in many stages: uploads without, with some and with all bytes, ended and
/// removed ones, and deliveries that were made, are due, and have failed.
async fn filled() -> (TestApp, Scripted) {
    let receiver = Scripted::start(SECRET).await;
    let toml = format!(
        "{}{}{}",
        receiver.endpoint("heard", "['upload.*']"),
        endpoint_at(closed_port().await, "pending", SECRET, "['upload.completed']"),
        endpoint_at(closed_port().await, "other", SECRET, "['upload.created']"),
    );
    let app = TestApp::from_file(&toml, |config| {
        config.webhooks.sending.retry_schedule = vec![Duration::from_secs(3_600)];
        // Every delivery is tried.
        config.webhooks.sending.health.breaker_failures = 0;
        config.engine.progress.every = Duration::ZERO;
        config.engine.progress.min_bytes = 1;
    })
    .await;
    let mut client = app.client().await;
    client.create(7).await;
    let cut = client.create(100).await;
    assert_eq!(client.patch(&cut, 0, &[1; 10]).await.status, 204);
    for _ in 0..5 {
        let whole = client.create(11).await;
        assert_eq!(client.patch(&whole, 0, b"hello world").await.status, 204);
    }
    let removed = client.create(11).await;
    assert_eq!(client.patch(&removed, 0, b"hello world").await.status, 204);
    assert_eq!(client.tus("DELETE", &removed, &[], b"").await.status, 204);
    let ended = client.create(11).await;
    assert_eq!(client.tus("DELETE", &ended, &[], b"").await.status, 204);
    receiver.wait_for(|heard| heard.iter().filter(|it| it.kind() == "upload.completed").count() == 6).await;
    all_tried(&mut client).await;
    (app, receiver)
}

/// Waits until each delivery was tried once. A progress delivery that a newer event has superseded is never
/// tried.
async fn all_tried(client: &mut Client) {
    let untried = async || {
        let is_untried = |it: &Value| it["attempts"].as_array().unwrap().is_empty() && it["state"] != "superseded";
        deliveries(client).await.into_iter().filter(is_untried).collect::<Vec<Value>>()
    };
    until_fits("every delivery was tried", untried, Vec::is_empty).await;
}

async fn deliveries(client: &mut Client) -> Vec<Value> {
    client.get("/api/v1/webhooks/deliveries?limit=200").await.json()["deliveries"].as_array().unwrap().clone()
}

/// Returns everything that the API shows, without what changes while nothing happens.
async fn shown(app: &TestApp) -> BTreeMap<String, Value> {
    let mut client = app.client().await;
    let mut all = BTreeMap::new();
    let uploads = client.get("/api/v1/uploads?limit=200").await.json();
    for upload in uploads["uploads"].as_array().unwrap() {
        let path = format!("/api/v1/uploads/{}", upload["id"].as_str().unwrap());
        let mut status = client.get(&path).await.json();
        // A restart prolongs unfinished uploads, and the rate depends on the time of the request.
        for changing in ["expires_at", "bytes_per_second", "eta_seconds"] {
            status.as_object_mut().unwrap().remove(changing);
        }
        all.insert(path, status);
    }
    for mut delivery in deliveries(&mut client).await {
        // The last four digits are those of the upload.
        let id = delivery["id"].as_str().unwrap()[..32].to_owned();
        delivery.as_object_mut().unwrap().remove("id");
        all.insert(format!("delivery {id}"), delivery);
    }
    let endpoints = client.get("/api/v1/webhooks/endpoints").await.json();
    for endpoint in endpoints["endpoints"].as_array().unwrap() {
        let shown = [&endpoint["url"], &endpoint["state"], &endpoint["created_at"]].map(Value::clone);
        all.insert(format!("endpoint {}", endpoint["id"]), shown.to_vec().into());
    }
    all
}

/// Waits until no task of an earlier server holds the data folder.
async fn folder_is_free(app: &TestApp) {
    until("the data folder is free", async || DataFolder::take(app.data_dir(), FolderAccess::Exclusive).ok().map(drop))
        .await;
}

fn order(app: &TestApp, url: &str, batch_rows: u32) -> MoveOrder {
    let order = MoveOrder::new(app.data_dir().to_owned(), url, None).unwrap();
    MoveOrder { batch_rows, ..order }
}

/// Moves, but is interrupted at a step, as by a kill. Returns true if the move was finished before.
async fn interrupted(order: &MoveOrder, step: usize) -> bool {
    let (reached, mut steps) = (tokio::sync::Notify::new(), 0);
    let mut progress = |_: MoveStep| {
        steps += 1;
        if steps == step {
            reached.notify_one();
        }
    };
    tokio::select! {
        biased;
        () = reached.notified() => false,
        moved = moving::move_state(order, &mut progress) => {
            moved.unwrap();
            true
        }
    }
}

/// A server on the moved records shows what the one before has shown, continues its uploads and its events,
/// and sends what was due.
#[tokio::test(flavor = "multi_thread")]
async fn moved_records_are_those_of_before() {
    let url = empty_database("whole");
    let (mut app, receiver) = filled().await;
    let mut stream = Sse::open(app.address(), "/api/v1/events", &[]).await;
    let mut client = app.client().await;
    let late = client.create(20).await;
    let event = stream.event().await.unwrap();
    all_tried(&mut client).await;
    let before = shown(&app).await;
    app.stop().await;
    folder_is_free(&app).await;

    let order = order(&app, &url, 3);
    let settings = PostgresSettings { alone: true, ..PostgresSettings::new(DatabaseUrl::parse(&url, None).unwrap()) };
    // An attempt that was interrupted before it had marked the source.
    let lost = MoveRecord { id: [7; 16], other_end: "nowhere".to_owned(), is_finished: false };
    drop(PostgresTarget::open(&settings, &lost).await.unwrap());
    // Each attempt gets a few steps further.
    let (mut steps, mut attempts) = (2, 1);
    while !interrupted(&order, steps).await {
        if attempts == 1 {
            let refused = PostgresStore::open(settings.clone(), webhook::bodies()).await.unwrap_err();
            assert!(format!("{:#}", anyhow::Error::new(refused)).contains("is unfinished"));
            let refused = app::start(app.config().clone()).await.unwrap_err();
            assert!(format!("{refused:#}").contains("are being moved to postgres://"), "{refused:#}");
            folder_is_free(&app).await;
        }
        (steps, attempts) = (steps + 5, attempts + 1);
    }
    assert!(attempts > 4, "only {attempts} attempts");
    let refused = app::start(app.config().clone()).await.unwrap_err();
    assert!(format!("{refused:#}").contains("were moved to postgres://"), "{refused:#}");
    folder_is_free(&app).await;
    // A move that is finished stays finished.
    let again = moving::move_state(&order, &mut |_| {}).await.unwrap();
    assert!(again.tables.contains(&("uploads", 10)), "{again:?}");

    app.config().postgres = Some(settings);
    app.start_again().await;
    assert_eq!(shown(&app).await, before);
    let mut client = app.client().await;
    // The id of an event from before the move stays valid.
    let mut stream =
        Sse::open(app.address(), "/api/v1/events", &[("Last-Event-ID", event.id.as_deref().unwrap())]).await;
    assert_eq!(client.patch(&late, 0, &[7; 20]).await.status, 204);
    let next = stream.event().await.unwrap();
    assert!(next.data.contains(late.rsplit('/').next().unwrap()), "{next:?}");
    receiver.wait_for(|heard| heard.iter().filter(|it| it.kind() == "upload.completed").count() == 7).await;
    app.stop().await;
}

/// The way back: the older records can be used again, and the database of the move cannot be filled twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_can_be_abandoned() {
    let (url, other) = (empty_database("undone"), empty_database("other"));
    let (mut app, _receiver) = filled().await;
    let before = shown(&app).await;
    let running = moving::move_state(&order(&app, &url, 3), &mut |_| {}).await.unwrap_err();
    assert!(format!("{running:#}").contains("in use by another running server"), "{running:#}");
    app.stop().await;
    folder_is_free(&app).await;
    assert!(!interrupted(&order(&app, &url, 3), 5).await);
    let elsewhere = moving::move_state(&order(&app, &other, 3), &mut |_| {}).await.unwrap_err();
    assert!(format!("{elsewhere:#}").contains("has begun"), "{elsewhere:#}");
    assert!(moving::undo(app.data_dir()).await.unwrap().contains("servers may use"));
    assert!(moving::undo(app.data_dir()).await.unwrap().contains("nothing was moved"));
    app.start_again().await;
    assert_eq!(shown(&app).await, before);
    app.stop().await;
    folder_is_free(&app).await;
    let twice = moving::move_state(&order(&app, &url, 3), &mut |_| {}).await.unwrap_err();
    assert!(format!("{twice:#}").contains("an earlier move"), "{twice:#}");
    moving::move_state(&order(&app, &other, 1_000), &mut |_| {}).await.unwrap();
}
