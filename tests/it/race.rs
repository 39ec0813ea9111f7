//! Concurrent requests to one upload: the newest writer wins, readers interrupt nothing, and bytes never mix.

use std::time::{Duration, Instant};

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS, TUS};
use crate::support::moving::{
    Watcher, is_whole, wait_until_at_rest, wait_until_committed, wait_until_live, wait_until_taken,
};
use crate::support::patience::until;
use crate::support::seeded::Seeded;

const SIZE: usize = 500_000;
/// Generous; it shows that no request waits for a timeout.
const AT_ONCE: Duration = Duration::from_secs(5);

fn source() -> Vec<u8> {
    Seeded::new(11).bytes(SIZE)
}

/// Begins an append that announces all of the rest and sends only some of it.
async fn silent_append(app: &TestApp, path: &str, at: u64, bytes: &[u8]) -> Client {
    let mut client = app.client().await;
    client.begin_patch(path, at, SIZE as u64 - at).await;
    client.send(bytes).await;
    wait_until_live(app.address(), path).await;
    wait_until_taken(app.address(), path, at + bytes.len() as u64).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnects_wins_over_its_own_half_open_connection() {
    let app = TestApp::start().await;
    let source = source();
    for sent in [0, 1, 200_000] {
        let path = app.client().await.create(SIZE as u64).await;
        let mut old = silent_append(&app, &path, 0, &source[..sent]).await;
        let mut client = app.client().await;
        let began = Instant::now();
        let told = client.offset(&path).await;
        client.begin_patch(&path, told, SIZE as u64 - told).await;
        let head_and_takeover = until("the old append is answered", async || old.raw_answer("PATCH").await).await;
        let took = began.elapsed();
        eprintln!("HEAD and takeover of a silent connection after {sent} bytes: {took:?}");
        assert!(took < AT_ONCE, "{took:?}");
        assert!(told <= sent as u64);
        assert_eq!(head_and_takeover.status, 503, "the stale request never succeeds: {head_and_takeover:?}");
        client.send(&source[usize::try_from(told).unwrap()..]).await;
        assert_eq!(client.answer("PATCH").await.status, 204);
        is_whole(app.address(), &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_has_a_live_writer_commit_what_it_took() {
    let app = TestApp::with(|config| config.engine.writer.checkpoint_every = Duration::from_secs(60)).await;
    let source = source();
    let path = app.client().await.create(SIZE as u64).await;
    assert_eq!(app.client().await.patch(&path, 0, &source[..10]).await.status, 204);
    let mut moving = silent_append(&app, &path, 10, &source[10..200_000]).await;
    let mut client = app.client().await;
    assert_eq!(client.status(&path).await["offset"], 10, "the status only looks");
    assert_eq!(client.offset(&path).await, 200_000);
    assert_eq!(client.status(&path).await["offset"], 200_000);
    moving.send(&source[200_000..]).await;
    assert_eq!(moving.answer("PATCH").await.status, 204, "and the writer goes on");
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnects_without_asking_wins_too() {
    // The client knows the offset from the previous response.
    let app = TestApp::start().await;
    let source = source();
    let path = app.client().await.create(SIZE as u64).await;
    let mut client = app.client().await;
    assert_eq!(client.patch(&path, 0, &source[..1_000]).await.status, 204);
    let _old = silent_append(&app, &path, 1_000, b"").await;
    let began = Instant::now();
    assert_eq!(client.patch(&path, 1_000, &source[1_000..]).await.status, 204);
    eprintln!("takeover of a silent connection, and an upload of {SIZE} bytes: {:?}", began.elapsed());
    assert!(began.elapsed() < AT_ONCE);
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offset_told_is_accepted_though_the_old_connection_still_delivers() {
    let app = TestApp::with(|config| {
        config.engine.writer.checkpoint_bytes = 65_536;
        config.engine.writer.checkpoint_every = Duration::from_millis(50);
    })
    .await;
    let source = source();
    for round in 0..8 {
        let path = app.client().await.create(SIZE as u64).await;
        let watcher = Watcher::start(app.address(), &path);
        let mut old = silent_append(&app, &path, 0, &source[..100_000]).await;
        let mut client = app.client().await;
        let told = client.offset(&path).await;
        assert!((1..=100_000).contains(&told), "{told}");
        // Bytes that were delayed arrive now: they differ from the source, so that any of them in the result
        // would show.
        old.send(&[0xee; 100_000]).await;
        wait_until_taken(app.address(), &path, 200_000).await;
        if round % 2 == 0 {
            // A second request returns the same, as for a page that shows the progress.
            assert_eq!(app.client().await.offset(&path).await, told);
        }
        if round % 3 == 0 {
            drop(old);
        }
        let rest = &source[usize::try_from(told).unwrap()..];
        let answer = client.patch(&path, told, rest).await;
        assert_eq!(answer.status, 204, "round {round}: {answer:?}");
        is_whole(app.address(), &path, &source).await;
        watcher.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_writer_that_keeps_sending_adds_nothing() {
    let app = TestApp::start().await;
    let source = source();
    let path = app.client().await.create(SIZE as u64).await;
    let mut old = silent_append(&app, &path, 0, &source[..10]).await;
    let mut client = app.client().await;
    let told = client.offset(&path).await;
    client.begin_patch(&path, told, SIZE as u64 - told).await;
    client.send(&source[10..1_000]).await;
    wait_until_taken(app.address(), &path, 1_000).await;
    old.send(&vec![0xee; SIZE - 10]).await;
    let refused = old.answer("PATCH").await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "superseded"));
    client.send(&source[1_000..]).await;
    assert_eq!(client.answer("PATCH").await.status, 204);
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_a_wrong_offset_disturbs_no_moving_transfer() {
    let app = TestApp::start().await;
    let source = source();
    let path = app.client().await.create(SIZE as u64).await;
    let mut moving = silent_append(&app, &path, 0, &source[..1_000]).await;
    wait_until_committed(app.address(), &path, 1_000).await;
    for wrong in [0, 1, 999, 1_001, SIZE as u64, u64::MAX >> 1] {
        let refused = app.client().await.patch(&path, wrong, b"intruder").await;
        assert_eq!((refused.status, refused.problem().as_str()), (409, "wrong-offset"), "tus 53: at {wrong}");
        assert_eq!(refused.header("upload-offset"), Some("1000"), "and it names the right one");
        let empty = app.client().await.patch(&path, wrong, b"").await;
        assert_eq!(empty.status, 409);
    }
    // Other requests that must be rejected, although the offset is right.
    let offset = ("Upload-Offset", "1000");
    for (headers, status) in [
        (vec![offset, ("Content-Type", "text/plain")], 415),
        (vec![offset, OCTETS, ("Upload-Checksum", "sha1 x")], 400),
        (vec![offset, OCTETS, ("Upload-Length", "7")], 400),
    ] {
        let refused = app.client().await.tus("PATCH", &path, &headers, b"intruder").await;
        assert_eq!(refused.status, status, "{refused:?}");
    }
    let too_long = app.client().await.patch(&path, 1_000, &vec![0; SIZE]).await;
    assert_eq!(too_long.status, 413, "tus 56: beyond the length, before anything is written");
    moving.send(&source[1_000..]).await;
    assert_eq!(moving.answer("PATCH").await.status, 204);
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_the_offset_never_interrupts_a_moving_transfer() {
    let app = TestApp::with(|config| config.engine.writer.checkpoint_every = Duration::from_millis(50)).await;
    let source = Seeded::new(3).bytes(8 * 1024 * 1024);
    let path = app.client().await.create(source.len() as u64).await;
    let mut moving = app.client().await;
    moving.begin_patch(&path, 0, source.len() as u64).await;
    let mut asking = app.client().await;
    let mut highest = 0;
    // One piece between two requests each, so that all requests fall into the transfer.
    for piece in source.chunks(source.len().div_ceil(50)) {
        moving.send(piece).await;
        let offset = asking.offset(&path).await;
        assert!(offset >= highest, "{offset} after {highest}");
        highest = offset;
    }
    let answer = moving.answer("PATCH").await;
    assert_eq!((answer.status, answer.header("upload-offset")), (204, Some(source.len().to_string().as_str())));
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_hammering_one_upload_end_in_the_right_bytes() {
    let app = TestApp::with(|config| {
        config.engine.writer.checkpoint_bytes = 65_536;
        config.engine.writer.checkpoint_every = Duration::from_millis(50);
    })
    .await;
    let source = Seeded::new(5).bytes(2_000_000);
    let path = app.client().await.create(source.len() as u64).await;
    let watcher = Watcher::start(app.address(), &path);
    let hammer = async |seed: u64| {
        let mut random = Seeded::new(seed);
        loop {
            let mut client = app.client().await;
            let at = usize::try_from(client.offset(&path).await).unwrap();
            if at == source.len() {
                return;
            }
            let end = (at + 1 + random.below(300_000)).min(source.len());
            client.begin_patch(&path, at as u64, (end - at) as u64).await;
            for piece in source[at..end].chunks(1 + random.below(100_000)) {
                client.send(piece).await;
            }
            // The other request may have come first, or taken over; the response then reports that, and never
            // success.
            match client.raw_answer("PATCH").await {
                Some(Answer { status: 204, headers, .. }) => {
                    let told = headers.iter().find(|(name, _)| name == "upload-offset").unwrap();
                    assert_eq!(told.1, end.to_string());
                }
                Some(answer) => assert!(matches!(answer.status, 409 | 413 | 503), "{answer:?}"),
                None => {}
            }
        }
    };
    tokio::join!(hammer(1), hammer(2));
    assert_eq!(watcher.stop().await, source.len() as u64);
    is_whole(app.address(), &path, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_terminated_while_it_moves_never_comes_back() {
    // tus 84: the running PATCH is cut, and no file is resurrected.
    let app = TestApp::with(|config| config.engine.writer.checkpoint_every = Duration::from_millis(50)).await;
    let source = source();
    for round in 0..6 {
        let path = app.client().await.create(SIZE as u64).await;
        let mut moving = silent_append(&app, &path, 0, &source[..1_000]).await;
        let (deleted, _) = tokio::join!(
            async { app.client().await.tus("DELETE", &path, &[], b"").await },
            // More bytes arrive at that moment, in some rounds all of them.
            moving.send(&source[1_000..SIZE - round % 2]),
        );
        let cut = moving.raw_answer("PATCH").await;
        let mut client = app.client().await;
        match &cut {
            // The last byte arrived first; a completed upload may be terminated too.
            Some(answer) if answer.status == 204 => assert_eq!(round % 2, 0),
            Some(answer) => assert!(matches!(answer.status, 503 | 410), "{answer:?}"),
            None => {}
        }
        assert_eq!(deleted.status, 204, "tus 81: {deleted:?}");
        assert_eq!(client.head(&path).await.status, 410, "tus 82");
        assert_eq!(client.get(&path).await.status, 410);
        assert_eq!(app.client().await.patch(&path, 1_000, &source[1_000..]).await.status, 410);
        let status = client.status(&path).await;
        assert_eq!(status["stage"], "terminated", "its record stays readable");
        wait_until_at_rest(app.address(), &path).await;
        assert_eq!(app.stored_files(), Vec::<std::path::PathBuf>::new());
        let again = client.tus("DELETE", &path, &[], b"").await;
        assert_eq!(again.status, 410);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_active_uploads_than_allowed_are_asked_to_come_back() {
    let app = TestApp::with(|config| config.engine.max_active_uploads = 2).await;
    let source = source();
    let mut client = app.client().await;
    let paths = [client.create(SIZE as u64).await, client.create(SIZE as u64).await, client.create(SIZE as u64).await];
    let mut first = silent_append(&app, &paths[0], 0, &source[..10]).await;
    let _second = silent_append(&app, &paths[1], 0, &source[..10]).await;
    let refused = app.client().await.patch(&paths[2], 0, &source).await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "busy"), "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    // A creation with data is an append too; a plain one is not.
    let headers = [OCTETS, ("Upload-Length", "4")];
    let refused = app.client().await.tus("POST", "/files", &headers, b"data").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    client.create(4).await;
    // Requesting the offset is not writing.
    assert_eq!(client.offset(&paths[2]).await, 0);
    // A client that returns to its own upload adds no active one.
    let told = client.offset(&paths[1]).await;
    let taken_over = client.patch(&paths[1], told, &source[10..]).await;
    assert_eq!(taken_over.status, 204, "{taken_over:?}");
    // And there is a free slot again.
    assert_eq!(client.patch(&paths[2], 0, &source).await.status, 204);
    first.send(&source[10..]).await;
    assert_eq!(first.answer("PATCH").await.status, 204);
    for path in &paths {
        is_whole(app.address(), path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_for_one_upload_leave_one_writer() {
    let app = TestApp::start().await;
    let source = source();
    let path = app.client().await.create(SIZE as u64).await;
    let append = async || {
        let mut client = app.client().await;
        let length = SIZE.to_string();
        client.send_head("PATCH", &path, &[TUS, OCTETS, ("Upload-Offset", "0"), ("Content-Length", &length)]).await;
        client.send(&source).await;
        client.raw_answer("PATCH").await.map(|answer| answer.status)
    };
    let answers = futures::future::join_all((0..20).map(|_| append())).await;
    let won = answers.iter().filter(|answer| **answer == Some(204)).count();
    assert_eq!(won, 1, "one of them brought the upload to its end: {answers:?}");
    assert!(answers.iter().flatten().all(|status| matches!(status, 204 | 409 | 413 | 503)), "{answers:?}");
    is_whole(app.address(), &path, &source).await;
}
