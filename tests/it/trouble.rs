//! Clients that fall silent, full disks, and every other limit.

use std::fs;
use std::time::Duration;

use crate::support::app::TestApp;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::disk::SmallDisk;
use crate::support::moving::{
    is_whole, resume, wait_for_stage, wait_until_at_rest, wait_until_committed, wait_until_taken,
};
use crate::support::patience::until;
use crate::support::receiver::Receiver;
use crate::support::seeded::Seeded;

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_falls_silent_is_ended_and_its_bytes_are_kept() {
    // tus 67: reported with a 5xx, after which clients retry.
    let app = TestApp::with(|config| {
        config.limits.bodies.idle_timeout = Duration::from_secs(1);
        config.limits.bodies.drain_timeout = Duration::from_millis(100);
    })
    .await;
    let source = Seeded::new(1).bytes(100_000);
    for (sent, chunked) in [(0, false), (60_000, false), (60_000, true)] {
        let path = app.client().await.create(source.len() as u64).await;
        let mut client = app.client().await;
        if chunked {
            let headers = [TUS, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")];
            client.send_head("PATCH", &path, &headers).await;
            client.send_chunk(&source[..sent]).await;
        } else {
            client.begin_patch(&path, 0, source.len() as u64).await;
            client.send(&source[..sent]).await;
        }
        let answer = client.answer("PATCH").await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "incomplete-body"), "{answer:?}");
        assert!(client.read_until(b"HTTP").await.is_none(), "the connection ends");
        assert_eq!(app.client().await.offset(&path).await, sent as u64);
        resume(app.address(), &path, &source).await;
        is_whole(app.address(), &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_is_cut() {
    let app = TestApp::with(|config| config.limits.timeouts.header = Duration::from_secs(1)).await;
    for begun in ["", "PATCH /files/x HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nUpload-Of"] {
        let mut client = app.client().await;
        client.send(begun.as_bytes()).await;
        until_closed(&mut client).await;
    }
}

/// Reads until the server ends the connection.
async fn until_closed(client: &mut Client) {
    let closed = tokio::time::timeout(Duration::from_secs(30), client.read_until(b"no such bytes ever come"));
    assert_eq!(closed.await.expect("the server ends it"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_on_an_open_connection_is_stalled_too() {
    let app = TestApp::with(|config| config.engine.lifetimes.stall_after = Duration::from_millis(200)).await;
    let path = app.client().await.create(6).await;
    let mut silent = app.client().await;
    silent.begin_patch(&path, 0, 6).await;
    silent.send(b"one").await;
    let status = wait_for_stage(app.address(), &path, "stalled").await;
    assert_eq!(status["offset"], 3);
    assert!(!status["bytes_per_second"].is_null(), "the append is still running: {status}");
    silent.send(b"two").await;
    assert_eq!(silent.answer("PATCH").await.status, 204);
    is_whole(app.address(), &path, b"onetwo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_silent_is_stalled_and_then_resumed() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("['*']"), |config| {
        config.engine.lifetimes.stall_after = Duration::from_millis(200);
        config.engine.progress.every = Duration::from_secs(3600);
    })
    .await;
    let path = app.client().await.create(9).await;
    assert_eq!(app.client().await.patch(&path, 0, b"one").await.status, 204);
    wait_for_stage(app.address(), &path, "stalled").await;
    assert_eq!(app.client().await.offset(&path).await, 3);
    assert_eq!(app.client().await.patch(&path, 3, b"two").await.status, 204);
    let status = wait_for_stage(app.address(), &path, "stalled").await;
    assert_eq!(status["offset"], 6, "it may stall again");
    assert_eq!(app.client().await.patch(&path, 6, b"end").await.status, 204);
    is_whole(app.address(), &path, b"onetwoend").await;
    let heard = receiver.wait_for_kind("upload.completed").await;
    let kinds: Vec<_> = heard.iter().map(|delivery| delivery.kind().trim_start_matches("upload.")).collect();
    assert_eq!(
        kinds,
        [
            "created",
            "receiving",
            "stalled",
            "resumed",
            "stalled",
            "resumed",
            "received",
            "verified",
            "stored",
            "completed"
        ]
    );
    assert!(heard.iter().map(|delivery| delivery.sequence()).eq(1..=10));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_upload_expires_and_its_bytes_are_swept() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("['upload.expired']"), |config| {
        config.engine.lifetimes.unfinished_expiry = Duration::from_secs(1);
    })
    .await;
    let source = Seeded::new(2).bytes(10_000);
    let (mut client, finished) = (app.client().await, app.client().await.create(4).await);
    assert_eq!(client.patch(&finished, 0, b"done").await.status, 204);
    let path = client.create(source.len() as u64).await;
    let answer = client.patch(&path, 0, &source[..5_000]).await;
    assert!(answer.header("upload-expires").is_some(), "tus 68: told with every PATCH of an unfinished upload");
    wait_for_stage(app.address(), &path, "expired").await;
    assert_eq!(app.client().await.head(&path).await.status, 410, "tus 72");
    assert_eq!(app.client().await.patch(&path, 5_000, &source[5_000..]).await.status, 410);
    until("the bytes are swept", async || (app.stored_files().len() == 1).then_some(())).await;
    assert_eq!(app.client().await.get(&finished).await.body, b"done", "finished bytes are kept");
    let heard = receiver.wait_for_kind("upload.expired").await;
    assert_eq!((heard.len(), heard[0].body["data"]["offset"].as_u64()), (1, Some(5_000)));
}

/// Starts a server whose bytes and database are on a disk of this size.
async fn app_on(disk: &SmallDisk) -> TestApp {
    TestApp::with(|config| {
        config.server.data_dir = disk.path().join("data");
        config.engine.writer.checkpoint_bytes = 64 * 1024;
        config.limits.bodies.drain_timeout = Duration::from_secs(2);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_before_the_bytes_and_costs_none() {
    let Some(disk) = SmallDisk::mount("16m") else { return };
    let mut app = app_on(&disk).await;
    let source = Seeded::new(3).bytes(8 * MIB);
    let path = app.client().await.create(source.len() as u64).await;
    assert_eq!(app.client().await.patch(&path, 0, &source[..MIB]).await.status, 204);
    let full = disk.fill();

    let at = MIB as u64;
    let refused = app.client().await.patch(&path, at, &source[MIB..]).await;
    assert_eq!((refused.status, refused.problem().as_str()), (507, "no-space"), "{refused:?}");
    let mut client = app.client().await;
    let headers = [TUS, OCTETS, ("Upload-Offset", &at.to_string()), ("Transfer-Encoding", "chunked")];
    client.send_head("PATCH", &path, &headers).await;
    client.send_chunk(&source[MIB..2 * MIB]).await;
    client.send_chunk(b"").await;
    assert_eq!(client.answer("PATCH").await.status, 507, "also where the size of the body is not known");
    // Creations too, and none of them leaves a record.
    for length in ["1", "1000000"] {
        let refused = app.client().await.tus("POST", "/files", &[("Upload-Length", length)], b"").await;
        assert_eq!((refused.status, refused.problem().as_str()), (507, "no-space"), "{refused:?}");
    }
    // Reads still work.
    let mut client = app.client().await;
    assert_eq!(client.offset(&path).await, at);
    assert_eq!(client.get("/api/v1/uploads").await.json()["uploads"].as_array().unwrap().len(), 1);
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(client.get("/readyz").await.status, 503, "no balancer should send requests to it");

    drop(full);
    until("it is ready again", async || (app.client().await.get("/readyz").await.status == 200).then_some(())).await;
    assert_eq!(resume(app.address(), &path, &source).await, at);
    is_whole(app.address(), &path, &source).await;
    app.restart().await;
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_beyond_the_free_space_is_refused_before_any_byte() {
    let Some(disk) = SmallDisk::mount("16m") else { return };
    let app = app_on(&disk).await;
    let mut client = app.client().await;
    let length = (32 * MIB).to_string();
    let refused = client.tus("POST", "/files", &[("Upload-Length", &length)], b"").await;
    assert_eq!((refused.status, refused.problem().as_str()), (507, "no-space"), "{refused:?}");
    // With data: the response arrives although the client never sends any.
    let headers = [TUS, OCTETS, ("Upload-Length", &length), ("Content-Length", &length)];
    client.send_head("POST", "/files", &headers).await;
    assert_eq!(client.answer("POST").await.status, 507);
    let list = app.client().await.get("/api/v1/uploads").await.json();
    assert_eq!(list["uploads"], serde_json::json!([]));
    assert!(app.stored_files().is_empty());
    disk.remount("size=64m");
    app.client().await.create(32 * MIB as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_in_the_middle_of_an_append_keeps_what_was_promised() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let mut app = app_on(&disk).await;
    // More bytes than there is space for, which a body of unknown size does not announce.
    let source = Seeded::new(4).bytes(12 * MIB);
    let mut client = app.client().await;
    let created = client.tus("POST", "/files", &[("Upload-Defer-Length", "1")], b"").await;
    let path = created.header("location").unwrap().to_owned();
    let mut client = app.client().await;
    let headers = [TUS, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")];
    client.send_head("PATCH", &path, &headers).await;
    client.send_chunk(&source[..MIB]).await;
    wait_until_committed(app.address(), &path, MIB as u64).await;
    client.send_chunk(&source[MIB..]).await;
    client.send_chunk(b"").await;
    let answer = client.answer("PATCH").await;
    assert_eq!((answer.status, answer.problem().as_str()), (507, "no-space"), "{answer:?}");
    let committed = app.client().await.offset(&path).await;
    assert!((MIB as u64..12 * MIB as u64).contains(&committed), "{committed}");
    wait_until_at_rest(app.address(), &path).await;
    let stored: u64 = app.stored_files().iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(stored, committed, "uncounted bytes take no disk space");

    // The database was on the same disk. Once there is space, it is intact, and so is the upload.
    disk.remount("size=64m");
    app.restart().await;
    assert_eq!(app.client().await.offset(&path).await, committed);
    let (offset, length) = (committed.to_string(), source.len().to_string());
    let headers = [OCTETS, ("Upload-Offset", &offset), ("Upload-Length", &length)];
    let rest = &source[usize::try_from(committed).unwrap()..];
    assert_eq!(app.client().await.tus("PATCH", &path, &headers, rest).await.status, 204);
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_when_a_commit_is_due_takes_nothing_back() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let app = app_on(&disk).await;
    let source = Seeded::new(5).bytes(3 * MIB);
    let path = app.client().await.create(source.len() as u64).await;
    let mut client = app.client().await;
    client.begin_patch(&path, 0, source.len() as u64).await;
    client.send(&source[..MIB]).await;
    wait_until_committed(app.address(), &path, MIB as u64).await;
    let full = disk.fill();
    client.send(&source[MIB..]).await;
    assert_eq!(client.answer("PATCH").await.status, 507);
    let committed = app.client().await.offset(&path).await;
    assert!((MIB as u64..source.len() as u64).contains(&committed), "{committed}");
    // Repeating it does no harm.
    for _ in 0..3 {
        let refused = app.client().await.patch(&path, committed, &source[usize::try_from(committed).unwrap()..]).await;
        assert_eq!(refused.status, 507);
        assert_eq!(app.client().await.offset(&path).await, committed);
    }
    drop(full);
    resume(app.address(), &path, &source).await;
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_can_be_terminated_to_make_room_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let app = app_on(&disk).await;
    let source = Seeded::new(6).bytes(2 * MIB);
    let mut client = app.client().await;
    let (kept, given_up) = (client.create(source.len() as u64).await, client.create(source.len() as u64).await);
    for path in [&kept, &given_up] {
        assert_eq!(client.patch(path, 0, &source[..MIB]).await.status, 204);
    }
    let full = disk.fill();
    let deleted = client.tus("DELETE", &given_up, &[], b"").await;
    // The record of the deletion needs space too: either it is done, or it is reported and can be retried.
    assert!(matches!(deleted.status, 204 | 507), "{deleted:?}");
    if deleted.status == 507 {
        assert_eq!(client.offset(&given_up).await, MIB as u64, "then it has not happened");
        drop(full);
        assert_eq!(client.tus("DELETE", &given_up, &[], b"").await.status, 204);
    }
    assert_eq!(client.head(&given_up).await.status, 410);
    until("its bytes are gone", async || (app.stored_files().len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_whose_files_went_missing_are_gone() {
    let app = TestApp::with(|config| config.engine.writer.keep_open = Duration::ZERO).await;
    let mut client = app.client().await;
    let (open, done) = (client.create(8).await, client.create(4).await);
    assert_eq!(client.patch(&open, 0, b"half").await.status, 204);
    assert_eq!(client.patch(&done, 0, b"done").await.status, 204);
    for file in app.stored_files() {
        fs::remove_file(file).unwrap();
    }
    let answer = app.client().await.patch(&open, 4, b"rest").await;
    assert_eq!((answer.status, answer.problem().as_str()), (410, "bytes-missing"));
    assert_eq!(app.client().await.status(&open).await["offset"], 4, "an acknowledged offset does not fall");
    let answer = app.client().await.get(&done).await;
    assert_eq!((answer.status, answer.problem().as_str()), (410, "bytes-missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_clients_that_trickle_hold_up_nobody() {
    let app = TestApp::start().await;
    let mut trickling = Vec::new();
    for _ in 0..10 {
        let path = app.client().await.create(1_000).await;
        let mut client = app.client().await;
        client.begin_patch(&path, 0, 1_000).await;
        client.send(b"a").await;
        wait_until_taken(app.address(), &path, 1).await;
        trickling.push((client, path));
    }
    let source = Seeded::new(9).bytes(MIB);
    let path = app.client().await.create(source.len() as u64).await;
    resume(app.address(), &path, &source).await;
    is_whole(app.address(), &path, &source).await;
    for (mut client, _) in trickling {
        client.send(&[b'a'; 999]).await;
        assert_eq!(client.answer("PATCH").await.status, 204);
    }
}
