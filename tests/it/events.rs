//! Server-Sent Events: a snapshot, then every change once and in order, also across reconnects.

use std::time::Duration;

use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::principal::TenantId;
use domain::size::Length;
use domain::time::Timestamp;
use domain::upload::{DurableBytes, NewUpload, Role, Upload};
use domain::write_rules::{Completion, WriteOrder, WriteRules};
use state::conformance::change_of;
use state::{Store, Uploads};
use state_sqlite::{SqliteSettings, SqliteStore};

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::event_ids::EventIds;
use crate::support::patience::until;
use crate::support::receiver::SECRET;
use crate::support::scripted::Scripted;
use crate::support::sse::{Item, Message, Sse};
use crate::support::world::system_time;

const ALL: &str = "/api/v1/events";
const LAST: &str = "Last-Event-ID";

const WHOLE_WAY: [&str; 6] =
    ["upload.created", "upload.receiving", "upload.received", "upload.verified", "upload.stored", "upload.completed"];

fn stream_of(path: &str) -> String {
    format!("{}/events", path.replace("/files/", "/api/v1/uploads/"))
}

fn id_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn kinds(events: &[Message]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).collect()
}

async fn upload(client: &mut Client) -> String {
    let path = client.create(11).await;
    assert_eq!(client.patch(&path, 0, b"hello world").await.status, 204);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_a_snapshot_then_each_event_and_ends_with_the_upload() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("all", "['*']"), |_| {}).await;
    let mut client = app.client().await;
    let path = client.create(11).await;
    let mut stream = Sse::open(app.address(), &stream_of(&path), &[]).await;
    let ids = EventIds::of(&app);
    let number = |message: &Message| ids.sequence(&path, message);

    let snapshot = stream.message().await.unwrap();
    assert_eq!((snapshot.event.as_str(), number(&snapshot)), ("snapshot", 1));
    assert_eq!(snapshot.json(), client.status(&path).await, "the snapshot is the status");

    client.patch(&path, 0, b"hello ").await;
    assert_eq!(stream.event().await.unwrap().event, "upload.receiving");
    client.patch(&path, 6, b"world").await;
    let rest = stream.rest().await;
    assert_eq!(kinds(&rest), WHOLE_WAY[2..]);
    assert!(rest.iter().map(number).eq(3..=6), "ids are the sequence");

    let again = Sse::ask(app.address(), &stream_of(&path), &[(LAST, &ids.of_one(&path, 6))]).await;
    assert_eq!(again.err().unwrap().status, 204, "which keeps browsers from coming back");

    let heard = receiver.wait_for_kind("upload.completed").await;
    for event in rest {
        let told = heard.iter().find(|request| request.sequence() == number(&event)).unwrap();
        assert_eq!(event.data.as_bytes(), told.raw, "byte for byte as in webhooks");
        assert_eq!(event.event, told.kind());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_has_ended_is_a_snapshot_and_the_end() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let completed = upload(&mut client).await;
    let terminated = client.create(5).await;
    client.tus("DELETE", &terminated, &[], b"").await;
    for (path, stage, number) in [(completed, "completed", 6), (terminated, "terminated", 2)] {
        let mut stream = Sse::open(app.address(), &stream_of(&path), &[]).await;
        let snapshot = stream.message().await.unwrap();
        assert_eq!(snapshot.json()["stage"], stage);
        assert_eq!(EventIds::of(&app).sequence(&path, &snapshot), number);
        assert_eq!(stream.item().await, None, "nothing more can happen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_between_commits_has_no_id() {
    let app = TestApp::with(|config| config.engine.writer.checkpoint_every = Duration::from_secs(60)).await;
    let mut client = app.client().await;
    let path = client.create(1_000_000).await;
    client.begin_patch(&path, 0, 1_000_000).await;
    let mut stream = Sse::open(app.address(), &stream_of(&path), &[]).await;
    assert_eq!(stream.message().await.unwrap().event, "snapshot");
    let mut told = Vec::new();
    let mut sent = 0_usize;
    while told.len() < 3 {
        client.send(&[7; 10_000]).await;
        sent += 10_000;
        let progress = loop {
            let message = stream.message().await.unwrap();
            if message.event == "progress" && message.json()["received"] == sent {
                break message;
            }
        };
        assert_eq!(progress.id, None);
        assert!(progress.json()["offset"].as_u64().unwrap() <= sent as u64);
        told.push(progress);
    }
    assert!(told.iter().any(|progress| progress.json()["offset"] != progress.json()["received"]), "{told:#?}");
    client.send(&vec![7; 1_000_000 - sent]).await;
    assert_eq!(client.answer("PATCH").await.status, 204);
    let rest = stream.rest().await;
    assert_eq!(rest.last().unwrap().event, "upload.completed");
    let ids = EventIds::of(&app);
    assert!(rest.iter().map(|message| ids.sequence(&path, message)).is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconnect_goes_on_without_gap_or_repeat() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = upload(&mut client).await;
    let ids = EventIds::of(&app);
    for seen in 0..6_usize {
        let id = ids.of_one(&path, seen as u64);
        let by_header = Sse::open(app.address(), &stream_of(&path), &[(LAST, &id)]).await.rest().await;
        let query = format!("{}?last_event_id={id}", stream_of(&path));
        let by_query = Sse::open(app.address(), &query, &[]).await.rest().await;
        assert_eq!(kinds(&by_header), WHOLE_WAY[seen..], "after {seen}");
        assert_eq!(by_query, by_header, "after {seen}");
        let query = format!("{}?last_event_id={}", stream_of(&path), ids.of_one(&path, 6));
        let by_both = Sse::open(app.address(), &query, &[(LAST, &id)]).await.rest().await;
        assert_eq!(by_both, by_header, "the header has the newest id that a browser has received");
    }
}

/// A client that is disconnected repeatedly, at every event, while the upload continues.
#[tokio::test(flavor = "multi_thread")]
async fn reconnects_while_events_happen_miss_nothing() {
    let app = TestApp::from_file("", |config| config.engine.lifetimes.sweep_every = Duration::from_millis(20)).await;
    let address = app.address();
    let uploading = tokio::spawn(async move {
        let mut client = Client::connect(address).await;
        for _ in 0..10 {
            upload(&mut client).await;
        }
    });
    let ids = EventIds::of(&app);
    let mut seen = ids.of_all(0);
    let mut heard = Vec::new();
    while heard.len() < 60 {
        let mut stream = Sse::open(address, ALL, &[(LAST, &seen)]).await;
        for _ in 0..1 + heard.len() % 3 {
            let event = stream.event().await.unwrap();
            seen = event.id.clone().unwrap();
            heard.push(event);
        }
    }
    uploading.await.unwrap();
    assert!(heard.iter().map(|message| ids.position(message)).eq(1..=heard.len() as u64), "{:?}", kinds(&heard));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_everything_is_in_the_order_of_commits() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("all", "['*']"), |_| {}).await;
    let mut client = app.client().await;
    let open = client.create(11).await;
    upload(&mut client).await;

    let mut stream = Sse::open(app.address(), ALL, &[]).await;
    let snapshot = stream.message().await.unwrap();
    let ids = EventIds::of(&app);
    assert_eq!((snapshot.event.as_str(), ids.position(&snapshot)), ("snapshot", 7));
    let shown = snapshot.json()["uploads"].as_array().unwrap().clone();
    assert_eq!(shown.len(), 1, "only uploads in progress");
    assert_eq!(shown[0], client.status(&open).await);

    let (mut one, mut two) = (app.client().await, app.client().await);
    let (first, second) = tokio::join!(upload(&mut one), upload(&mut two));
    client.patch(&open, 0, b"hello world").await;
    let mut events = Vec::new();
    while events.len() < 17 {
        events.push(stream.message().await.unwrap());
    }
    assert!(events.iter().map(|message| ids.position(message)).eq(8..=24), "positions in the log");
    for (path, from) in [(&first, 1), (&second, 1), (&open, 2)] {
        let of_one = events.iter().map(Message::json).filter(|event| event["data"]["upload_id"] == id_of(path));
        let sequences: Vec<u64> = of_one.map(|event| event["data"]["sequence"].as_u64().unwrap()).collect();
        assert!(sequences.iter().copied().eq(from..=6), "{sequences:?}");
    }
    let heard = receiver.wait_for_count(24).await;
    for event in &events {
        assert!(heard.iter().any(|told| told.raw == event.data.as_bytes()), "byte for byte as in webhooks");
    }

    for seen in [7, 12, 23_usize] {
        let mut resumed = Sse::open(app.address(), ALL, &[(LAST, &ids.of_all(seen as u64))]).await;
        let mut again = Vec::new();
        while again.len() < 24 - seen {
            again.push(resumed.message().await.unwrap());
        }
        assert_eq!(again, events[seen - 7..], "after {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_missed_too_much_gets_a_new_snapshot() {
    let mut app = TestApp::with(|config| config.engine.lifetimes.sweep_every = Duration::from_secs(3_600)).await;
    app.stop().await;
    let id = busy_upload(&app, 300).await;
    app.start_again().await;
    let newest = 1 + 2 * 300;

    let ids = EventIds::of(&app);
    for path in [format!("/api/v1/uploads/{id}/events"), ALL.to_owned()] {
        let seen = |number| if path == ALL { ids.of_all(number) } else { ids.of_one(&path, number) };
        let number = |message: &Message| if path == ALL { ids.position(message) } else { ids.sequence(&path, message) };
        let mut far_behind = Sse::open(app.address(), &path, &[(LAST, &seen(100))]).await;
        let first = far_behind.message().await.unwrap();
        assert_eq!((first.event.as_str(), number(&first)), ("snapshot", newest), "{path}");

        let mut behind = Sse::open(app.address(), &path, &[(LAST, &seen(101))]).await;
        for expected in 102..=newest {
            assert_eq!(number(&behind.message().await.unwrap()), expected, "{path}");
        }
        // Neither stream has ended: both continue with the next event.
    }
}

/// A client that was away for longer than events are kept cannot receive everything it has missed.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_missed_what_is_not_kept_any_more_gets_a_new_snapshot() {
    let mut app = TestApp::start().await;
    let mut client = app.client().await;
    let removed = client.create(5).await;
    client.create(5).await;
    client.create(5).await;
    drop(client);
    app.stop().await;
    let database = rusqlite::Connection::open(app.data_dir().join("longshore.db")).unwrap();
    let id = id_of(&removed).parse::<UploadId>().unwrap();
    let gone = database.execute("DELETE FROM events WHERE upload_id = ?1", [id.as_bytes()]).unwrap();
    assert_eq!(gone, 1);
    drop(database);
    app.start_again().await;
    let ids = EventIds::of(&app);
    for (seen, expected) in [(0, ("snapshot", 3)), (1, ("upload.created", 2)), (2, ("upload.created", 3))] {
        let mut stream = Sse::open(app.address(), ALL, &[(LAST, &ids.of_all(seen))]).await;
        let first = stream.message().await.unwrap();
        assert_eq!((first.event.as_str(), ids.position(&first)), expected, "after {seen}");
    }
}

/// The state after the database was restored from a backup: ids that the client has seen no longer exist.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_seen_what_is_not_there_gets_a_new_snapshot() {
    let app = TestApp::start().await;
    let upload = app.client().await.create(5).await;
    let ids = EventIds::of(&app);
    let of_one = stream_of(&upload);
    for (path, seen) in [(of_one.as_str(), ids.of_one(&upload, 2)), (ALL, ids.of_all(2))] {
        let mut stream = Sse::open(app.address(), path, &[(LAST, &seen)]).await;
        let first = stream.message().await.unwrap();
        let number = if path == ALL { ids.position(&first) } else { ids.sequence(&upload, &first) };
        assert_eq!((first.event.as_str(), number), ("snapshot", 1), "{path}");
    }
    let mut stream = Sse::open(app.address(), &of_one, &[(LAST, &ids.of_one(&upload, 999_999))]).await;
    app.client().await.tus("DELETE", &upload, &[], b"").await;
    assert_eq!(kinds(&stream.rest().await), ["snapshot", "upload.terminated"]);
}

/// Ids are sealed: an id that was not sealed for this very stream has no meaning, numbers of older versions
/// included.
#[tokio::test(flavor = "multi_thread")]
async fn who_brings_an_id_that_does_not_open_gets_a_new_snapshot() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let [one, two] = [client.create(5).await, client.create(5).await];
    let ids = EventIds::of(&app);
    let (of_one, of_all) = (ids.of_one(&one, 1), ids.of_all(1));
    let stream = stream_of(&two);
    for (path, seen) in [
        (stream.as_str(), of_one.as_str()),
        (&stream, &of_all),
        (ALL, &of_one),
        (ALL, "1"),
        (&stream, "1"),
        (&stream, "x"),
        (&stream, "-1"),
        (ALL, "99999999999999999999"),
    ] {
        let first = Sse::open(app.address(), path, &[(LAST, seen)]).await.message().await.unwrap();
        assert_eq!(first.event, "snapshot", "{path} {seen}");
    }
    let query = format!("{stream}?last_event_id=1.5");
    assert_eq!(Sse::open(app.address(), &query, &[]).await.message().await.unwrap().event, "snapshot");
}

/// A reader of one upload cannot infer the activity of other uploads from its ids.
#[tokio::test(flavor = "multi_thread")]
async fn ids_tell_nothing_of_how_much_happens() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = client.create(5).await;
    let snapshot = async || {
        let stream = Sse::open(app.address(), &stream_of(&path), &[]).await.message().await.unwrap();
        let all = Sse::open(app.address(), ALL, &[]).await.message().await.unwrap();
        [stream.id.unwrap(), all.id.unwrap()]
    };
    let before = snapshot().await;
    for id in &before {
        assert_eq!(id.len(), 24, "{id}");
        assert!(id.parse::<u64>().is_err(), "{id}");
    }
    client.create(5).await;
    let after = snapshot().await;
    assert_eq!(before[0], after[0], "nothing has happened to this upload");
    let same = before[1].bytes().zip(after[1].bytes()).filter(|(one, other)| one == other).count();
    assert!(same < 12, "neighbours look alike: {before:?} {after:?}");
}

/// Creates an open upload that has stalled and resumed this many times, each time with an event.
async fn busy_upload(app: &TestApp, times: u64) -> UploadId {
    let store = SqliteStore::open(&app.data_dir().join("longshore.db"), SqliteSettings::default(), webhook::bodies())
        .await
        .unwrap();
    let now = system_time();
    let later = now.plus(Duration::from_secs(3_600));
    let new = NewUpload {
        id: UploadId::new(now, [9; 10]),
        tenant: TenantId::DEFAULT,
        dialect: Dialect::named("tus"),
        write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
        role: Role::Single,
        length: Length::new(1_000),
        metadata: Metadata::default(),
        metadata_as_sent: None,
        terms: domain::upload::UploadTerms::default(),
        wanted_digests: vec![],
        promised_digests: vec![],
        expires_at: later,
    };
    let mut upload = Upload::create(new, now);
    for byte in 0..times {
        let ranges = vec![(byte, byte + 1)];
        upload
            .receive(DurableBytes { ranges, running_digests: vec![], resume: vec![], expires_at: later }, None, now)
            .unwrap();
        upload.stall(now);
    }
    let id = store.insert(change_of(upload)).await.unwrap().id();
    store.close().await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_gives_signs_of_life() {
    let app = TestApp::with(|config| config.status.heartbeat = Duration::from_millis(50)).await;
    let path = app.client().await.create(5).await;
    for path in [stream_of(&path), ALL.to_owned()] {
        let mut stream = Sse::open(app.address(), &path, &[]).await;
        assert!(matches!(stream.item().await, Some(Item::Message(_))));
        for _ in 0..3 {
            assert_eq!(stream.item().await, Some(Item::Comment), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_bounded_and_a_seat_comes_free() {
    let app = TestApp::with(|config| {
        config.status.max_streams = 2;
        config.status.heartbeat = Duration::from_millis(50);
    })
    .await;
    let path = app.client().await.create(5).await;
    let first = Sse::open(app.address(), &stream_of(&path), &[]).await;
    let _second = Sse::open(app.address(), ALL, &[]).await;
    for path in [stream_of(&path), ALL.to_owned()] {
        let refused = Sse::ask(app.address(), &path, &[]).await.err().unwrap();
        assert_eq!(refused.status, 503, "{refused:?}");
        assert_eq!(refused.problem(), "too-many-streams");
    }
    // Requests that need no slot are served all the same.
    assert_eq!(app.client().await.get("/api/v1/uploads").await.status, 200);
    drop(first);
    until("a client that left gives its seat back", async || {
        let asked = Sse::ask(app.address(), ALL, &[]).await;
        asked.inspect_err(|refused| assert_eq!(refused.status, 503)).ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_the_head_of_a_stream_takes_no_seat() {
    let app = TestApp::with(|config| config.status.max_streams = 1).await;
    let path = app.client().await.create(5).await;
    for address in [stream_of(&path), ALL.to_owned(), stream_of(&path)] {
        let answer = app.client().await.request("HEAD", &address, &[], b"").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    }
    assert!(Sse::ask(app.address(), ALL, &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_the_server_stops() {
    let mut app = TestApp::start().await;
    let path = app.client().await.create(5).await;
    let mut one = Sse::open(app.address(), &stream_of(&path), &[]).await;
    let mut all = Sse::open(app.address(), ALL, &[]).await;
    assert!(one.message().await.is_some() && all.message().await.is_some());
    assert_eq!(app.stop().await, longshore::app::StopOutcome::Clean);
    assert_eq!((one.item().await, all.item().await), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_be_is_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let known = stream_of(&client.create(5).await);
    let unknown = format!("/api/v1/uploads/{}/events", UploadId::new(Timestamp::from_unix_ms(1), [1; 10]));
    for (path, headers, status) in [
        (unknown.as_str(), vec![], 404),
        ("/api/v1/uploads/x/events", vec![], 404),
        (&format!("{known}?since=1"), vec![], 400),
        (&format!("{ALL}?since=1"), vec![], 400),
    ] {
        let refused = Sse::ask(app.address(), path, &headers).await.err();
        assert_eq!(refused.map(|answer| answer.status), Some(status), "{path} {headers:?}");
    }
    assert_eq!(client.request("POST", &known, &[], b"").await.status, 405);
}
