//! Facts about the content of uploads: reported to every reader, and the rejection of unwanted content, in
//! every dialect.

use std::time::Duration;

use domain::id::UploadId;
use domain::policy::{ContentPolicy, TypePattern};
use domain::rejection::Rejection;
use engine::command::EngineError;
use engine::{EngineSettings, MediaSettings};
use longshore::config::Config;
use serde_json::{Value, json};
use storage::faults::{Calls, Cause, Effect, Operation};

use crate::support::app::TestApp;
use crate::support::client::{Answer, OCTETS};
use crate::support::film::film;
use crate::support::patience::until;
use crate::support::receiver::{Delivery, Receiver};
use crate::support::schema::check_event;
use crate::support::world::{Life, Trouble, World};
use crate::tus::{base64, completed, wait_until_nothing_is_stored};
use crate::{ietf, ranged};

const TEXT: &[u8] = b"no film at all";

/// Returns the facts that are reported for a film of ten seconds.
fn facts() -> Value {
    json!({
        "content_type": "video/mp4",
        "duration_ms": 10_000,
        "width": 1280,
        "height": 720,
        "tracks": [
            { "kind": "video", "codec": "avc1.64001f", "width": 1280, "height": 720, "frame_rate": 25.0 }
        ]
    })
}

fn types(patterns: &[&str]) -> Vec<TypePattern> {
    patterns.iter().map(|pattern| TypePattern::new(pattern).unwrap()).collect()
}

fn only_films(config: &mut Config) {
    config.engine.media.as_mut().unwrap().policy.allowed_types = types(&["video/*"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_film_is_stands_in_its_status_and_in_events_from_verified_on() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("[\"upload.*\"]"), |_| {}).await;
    let mut client = app.client().await;
    for (in_front, media) in [(true, 2_000), (true, 300_000), (false, 300_000)] {
        let bytes = film(10_000, media, in_front);
        let path = completed(&mut client, &[], &bytes).await;
        assert_eq!(client.status(&path).await["facts"], facts(), "{in_front} {media}");
        let id = path.trim_start_matches("/files/");
        let heard = receiver
            .wait_for(|heard| {
                heard.iter().any(|one| one.kind() == "upload.completed" && one.body["data"]["upload_id"] == id)
            })
            .await;
        let of_this = heard.iter().filter(|one| one.body["data"]["upload_id"] == id);
        assert!(of_this.clone().map(Delivery::kind).eq(WHOLE_WAY.map(|kind| format!("upload.{kind}"))), "{heard:?}");
        for event in of_this {
            check_event(&event.body);
            let known = ["upload.verified", "upload.stored", "upload.completed"].contains(&event.kind());
            assert_eq!(event.body["data"]["facts"], if known { facts() } else { Value::Null }, "{}", event.kind());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_upload_has_a_type() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (bytes, expected) in [
        (TEXT, "text/plain"),
        (b"\x89PNG\r\n\x1a\nand so on", "image/png"),
        (b"\0\x01\x02\x03", "application/octet-stream"),
        (b"\0\0\0\x10ftypisom\0\0\0\0and then nothing of a film", "video/mp4"),
    ] {
        // The type that the client declares is ignored.
        let said = format!("filetype {}", base64("audio/mpeg"));
        let path = completed(&mut client, &[("Upload-Metadata", &said)], bytes).await;
        let status = client.status(&path).await;
        assert_eq!(status["facts"], json!({ "content_type": expected }));
        assert_eq!(status["content_type"], "audio/mpeg");
    }
    let empty = client.create(0).await;
    assert_eq!(client.status(&empty).await["facts"], json!({ "content_type": "application/octet-stream" }));
    let open = client.create(5).await;
    assert_eq!(client.status(&open).await["facts"], Value::Null, "it has not arrived yet");
}

/// Returns a picture of 3 by 2 pixels that is shown twice, for this many seconds each.
fn animation(seconds: u16) -> Vec<u8> {
    let [low, high] = (seconds * 100).to_le_bytes();
    let frame = [0x21, 0xf9, 4, 0, low, high, 0, 0, 0x2c, 0, 0, 0, 0, 3, 0, 2, 0, 0, 2, 1, 0x44, 0];
    [b"GIF89a\x03\0\x02\0\0\0\0".as_slice(), &frame, &frame, &[0x3b]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_sound_have_facts_and_lists_are_filtered_by_them() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("[\"upload.completed\"]"), |_| {}).await;
    let mut client = app.client().await;
    let sound = [
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x02\0\x40\x1f\0\0\0\x7d\0\0\x04\0\x10\0data\0\x7d\0\0".as_slice(),
        &[0; 32_000],
    ];
    let mut paths = Vec::new();
    for bytes in [animation(5), sound.concat(), film(10_000, 0, true), TEXT.to_vec()] {
        paths.push(completed(&mut client, &[], &bytes).await);
    }
    let image = json!({ "content_type": "image/gif", "duration_ms": 10_000, "width": 3, "height": 2, "frames": 2 });
    assert_eq!(client.status(&paths[0]).await["facts"], image);
    let track = json!({ "kind": "audio", "codec": "pcm", "channels": 2, "sample_rate_hz": 8_000 });
    let heard = json!({ "content_type": "audio/wav", "duration_ms": 1_000, "tracks": [track] });
    assert_eq!(client.status(&paths[1]).await["facts"], heard);
    for event in receiver.wait_for(|heard| heard.len() == 4).await {
        check_event(&event.body);
    }
    for (query, expected) in [
        ("type=image/*,audio/wav", vec![1, 0]),
        ("type=video/mp4&type=text/plain", vec![3, 2]),
        ("type=video/webm", vec![]),
        ("min_duration=10s", vec![2, 0]),
        ("max_duration=9999ms", vec![1]),
        ("max_width=3&min_height=2", vec![0]),
        ("min_width=4&max_height=720&stage=completed", vec![2]),
    ] {
        let listed = client.get(&format!("/api/v1/uploads?{query}")).await.json();
        let ids: Vec<&str> =
            listed["uploads"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
        let expected: Vec<&str> =
            expected.into_iter().map(|at: usize| paths[at].trim_start_matches("/files/")).collect();
        assert_eq!(ids, expected, "{query}");
    }
}

/// Films and animations whose duration is longer than it appears.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_duration_is_not_got_round() {
    let app = TestApp::with(|config| {
        config.engine.media.as_mut().unwrap().policy.max_duration = Some(Duration::from_secs(60));
        config.engine.media.as_mut().unwrap().policy.requires_duration = true;
    })
    .await;
    let mut client = app.client().await;
    let renamed = |brand: &[u8; 4]| {
        let mut bytes = film(60_001, 0, true);
        for place in [8, 16, 20] {
            bytes[place..place + 4].copy_from_slice(brand);
        }
        bytes
    };
    let mut unfinished = animation(20);
    unfinished.truncate(13);
    for (why, bytes, status, code) in [
        ("an animation of half a minute", animation(15), 204, ""),
        ("one of a minute and a half", animation(45), 422, "media-too-long"),
        ("one without a picture", unfinished, 422, "duration-unknown"),
        ("a film that is an image by name", renamed(b"heic"), 422, "media-too-long"),
        ("a film of no known name", renamed(b"abcd"), 422, "media-too-long"),
        ("a still", b"\xff\xd8\xff\xc0\0\x11\x08\0\x02\0\x03\x03\0\0\0\0\0\0\0\0\0\xff\xd9".to_vec(), 204, ""),
    ] {
        let path = client.create(bytes.len() as u64).await;
        let told = client.patch(&path, 0, &bytes).await;
        assert_eq!(told.status, status, "{why}: {told:?} {}", client.status(&path).await);
        if status != 204 {
            assert_eq!(told.problem(), code, "{why}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_made_of_parts_has_facts_and_its_parts_have_none() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = film(10_000, 3_000, true);
    let mut parts = Vec::new();
    for part in bytes.chunks(2_000) {
        parts.push(completed(&mut client, &[("Upload-Concat", "partial")], part).await);
    }
    assert_eq!(client.status(&parts[0]).await["facts"], Value::Null);
    let list = format!("final;{}", parts.join(" "));
    let whole = client.tus("POST", "/files", &[("Upload-Concat", &list)], b"").await;
    assert_eq!(whole.status, 201, "{whole:?}");
    assert_eq!(client.status(whole.header("location").unwrap()).await["facts"], facts());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_looks_if_nobody_wants_to_know() {
    let app = TestApp::with(|config| config.engine.media = None).await;
    let mut client = app.client().await;
    let path = completed(&mut client, &[], &film(10_000, 0, true)).await;
    let status = client.status(&path).await;
    assert_eq!((&status["facts"], &status["stage"]), (&Value::Null, &json!("completed")));
}

/// Asserts the rejection of content that is not a film.
fn is_refused(answer: &Answer, why: &str) {
    assert_eq!(answer.status, 415, "{why}: {answer:?}");
    if !answer.body.is_empty() {
        assert_eq!(answer.problem(), "type-not-allowed", "{why}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("text/plain"), "{why}: {detail}");
    }
    assert_eq!(answer.header("location"), None, "{why}: there is nothing to resume");
}

/// Asserts that an upload is rejected permanently, for every request.
async fn stays_refused(app: &TestApp, path: &str) {
    let mut client = app.client().await;
    let status = client.status(path).await;
    assert_eq!(status["stage"], "failed", "{status}");
    assert_eq!(status["error"]["code"], "type-not-allowed");
    assert_eq!(status["facts"], json!({ "content_type": "text/plain" }), "the detected type is reported");
    is_refused(&client.head(path).await, "tus HEAD");
    is_refused(&client.tus("GET", path, &[], b"").await, "tus GET");
    is_refused(&client.get(path).await, "GET");
    let at = TEXT.len().to_string();
    is_refused(&client.patch(path, TEXT.len() as u64, b"").await, "the last PATCH once more");
    is_refused(&client.patch(path, 0, TEXT).await, "everything once more");
    for number in ietf::NUMBERS {
        let head = ietf::send(&mut client, "HEAD", path, &[ietf::version(number)], b"").await;
        is_refused(&head, "IETF HEAD");
        let (field, value) = ietf::end_in(number, false);
        assert_ne!(head.header(&field.to_lowercase()), Some(value), "IETF {number}: cannot be resumed");
        let headers =
            [ietf::PARTIAL, ietf::version(number), ("Upload-Offset", at.as_str()), ietf::end_in(number, true)];
        is_refused(&ietf::send(&mut client, "PATCH", path, &headers, b"").await, "IETF PATCH");
    }
    let range = format!("bytes 0-{}/{}", TEXT.len() - 1, TEXT.len());
    is_refused(&ranged::put(&mut client, path, &range, TEXT).await, "a range once more");
    is_refused(&ranged::put(&mut client, path, &format!("bytes */{}", TEXT.len()), b"").await, "a question");
    wait_until_nothing_is_stored(app).await;
}

/// Starts a server that accepts only films, and continues uploads across dialects.
async fn cinema() -> TestApp {
    TestApp::with(|config| {
        only_films(config);
        config.engine.cross_dialects = true;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tus_clients_are_told_what_is_not_wanted() {
    let app = cinema().await;
    let mut client = app.client().await;
    let length = TEXT.len().to_string();

    let path = client.create(TEXT.len() as u64).await;
    assert_eq!(client.patch(&path, 0, &TEXT[..5]).await.status, 204);
    let last = client.patch(&path, 5, &TEXT[5..]).await;
    is_refused(&last, "the last PATCH");
    assert_eq!(last.header("upload-offset"), None, "nothing that looks like progress");
    stays_refused(&app, &path).await;

    let at_once = client.tus("POST", "/files", &[OCTETS, ("Upload-Length", &length)], TEXT).await;
    is_refused(&at_once, "a creation with all of it");
    let empty = client.tus("POST", "/files", &[("Upload-Length", "0")], b"").await;
    assert_eq!((empty.status, empty.problem().as_str()), (415, "type-not-allowed"), "of no bytes, so no film");

    let part = completed(&mut client, &[("Upload-Concat", "partial")], TEXT).await;
    let list = format!("final;{part}");
    is_refused(&client.tus("POST", "/files", &[("Upload-Concat", &list)], b"").await, "a whole of parts");
    assert_eq!(client.offset(&part).await, TEXT.len() as u64, "the parts are as they were");

    completed(&mut client, &[], &film(1_000, 0, true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ietf_clients_are_told_what_is_not_wanted() {
    let app = cinema().await;
    let mut client = app.client().await;
    for number in ietf::NUMBERS {
        let (field, value) = ietf::end_in(number, true);
        let is_final = |answer: &Answer| {
            is_refused(answer, number);
            assert_eq!(answer.header(&field.to_lowercase()), Some(value), "ietf 34: the last word: {answer:?}");
        };
        let at_once = ietf::create(&mut client, &[ietf::version(number), (field, value)], TEXT).await;
        is_final(&at_once);
        let begun = ietf::create(&mut client, &[ietf::version(number), ietf::end_in(number, false)], &TEXT[..5]).await;
        let path = ietf::location(&begun);
        let headers = [ietf::PARTIAL, ietf::version(number), ("Upload-Offset", "5"), (field, value)];
        is_final(&ietf::send(&mut client, "PATCH", &path, &headers, &TEXT[5..]).await);
        stays_refused(&app, &path).await;
    }
    let film = film(1_000, 0, true);
    assert_eq!(ietf::create(&mut client, &[ietf::END], &film).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_ranges_are_told_what_is_not_wanted() {
    let app = cinema().await;
    let mut client = app.client().await;
    let (last, total) = (TEXT.len() - 1, TEXT.len());

    let google = ranged::session(&mut client, &[]).await;
    is_refused(&ranged::put(&mut client, &google, &format!("bytes 0-{last}/{total}"), TEXT).await, "Google's last PUT");
    is_refused(&ranged::put(&mut client, &google, "bytes */*", b"").await, "Google's question");
    stays_refused(&app, &google).await;

    let path = ranged::ranges(&mut client, total).await;
    is_refused(&ranged::put(&mut client, &path, &format!("bytes 0-{last}/{total}"), TEXT).await, "the last range");
    stays_refused(&app, &path).await;

    is_refused(
        &ranged::sent(&mut client, "PUT", "/files/a.mp4", &[("Content-Type", "video/mp4")], TEXT).await,
        "a file",
    );
    let form =
        b"--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.mp4\"\r\n\r\nno film at all\r\n--x--\r\n";
    let headers = [("Content-Type", "multipart/form-data; boundary=x")];
    is_refused(&ranged::sent(&mut client, "POST", "/files", &headers, form).await, "a form");
    wait_until_nothing_is_stored(&app).await;

    let film = film(1_000, 0, true);
    let taken = ranged::sent(&mut client, "PUT", "/files/a.txt", &[("Content-Type", "text/plain")], &film).await;
    assert_eq!(taken.status, 201, "its content decides, not its name: {taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_long_and_too_large_have_words_of_their_own() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("[\"upload.failed\"]"), |config| {
        config.engine.media.as_mut().unwrap().policy = ContentPolicy {
            allowed_types: vec![],
            max_duration: Some(Duration::from_secs(60)),
            max_durations: vec![(types(&["audio/mpeg"]).remove(0), Some(Duration::from_secs(30)))],
            requires_duration: true,
            max_sizes: vec![(types(&["video/*"]).remove(0), 5_000)],
        };
    })
    .await;
    let mut client = app.client().await;
    for (bytes, status, code) in [
        (film(60_000, 0, true), 204, ""),
        (film(60_001, 0, true), 422, "media-too-long"),
        (film(1_000, 5_000, true), 413, "too-large-for-type"),
        (film(0, 0, true), 422, "duration-unknown"),
        ([b"ID3\x04".as_slice(), &[0; 300]].concat(), 422, "duration-unknown"),
        (vec![b'a'; 9_000], 204, ""),
    ] {
        let path = client.create(bytes.len() as u64).await;
        let told = client.patch(&path, 0, &bytes).await;
        assert_eq!(told.status, status, "{told:?}");
        if status != 204 {
            assert_eq!(told.problem(), code);
            assert_eq!(client.head(&path).await.status, status);
            assert_eq!(client.status(&path).await["error"]["code"], code);
        }
    }
    let heard = receiver.wait_for(|heard| heard.len() == 4).await;
    let mut told: Vec<&str> = Vec::new();
    for event in &heard {
        check_event(&event.body);
        told.push(event.body["data"]["facts"]["content_type"].as_str().unwrap());
    }
    told.sort_unstable();
    assert_eq!(told, ["audio/mpeg", "video/mp4", "video/mp4", "video/mp4"], "the event has the detected type");
}

/// A rejection survives a restart of the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_same_after_a_restart() {
    let mut app = cinema().await;
    let mut client = app.client().await;
    let path = client.create(TEXT.len() as u64).await;
    let before = client.patch(&path, 0, TEXT).await;
    is_refused(&before, "before");
    app.restart().await;
    stays_refused(&app, &path).await;
    let after = app.client().await.patch(&path, TEXT.len() as u64, b"").await;
    assert_eq!(after.json()["detail"], before.json()["detail"]);
}

fn looking(settings: &mut EngineSettings) {
    settings.media = Some(MediaSettings {
        read_limit_bytes: 16 << 20,
        timeout: Duration::from_secs(60),
        max_at_once: 1,
        policy: ContentPolicy { allowed_types: types(&["video/*", "text/*"]), ..ContentPolicy::default() },
    });
}

const WHOLE_WAY: [&str; 6] = ["created", "receiving", "received", "verified", "stored", "completed"];

/// Finishes an upload from its offset, if it is not finished already, and asserts that its content was
/// examined once.
async fn ends_well(life: &Life, id: UploadId, bytes: &[u8]) {
    let at = life.committed(id).await;
    if at < bytes.len() {
        life.append(id, at, &bytes[at..]).await.unwrap();
    }
    let upload = life.wait_for_stage(id, "completed").await;
    let facts = upload.record().facts.clone().expect("it was looked into");
    assert_eq!((facts.content_type.as_str(), facts.duration_ms()), ("video/mp4", Some(10_000)));
    assert_eq!(life.events(id).await, WHOLE_WAY);
    assert!(life.read(id).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_around_the_look_leaves_an_upload_that_is_looked_into_once() {
    let bytes = film(10_000, 200_000, false);
    for effect in [Effect::Nothing, Effect::Done] {
        let world = World::on_disk();
        let life = world.live_with(looking).await;
        let id = life.create(bytes.len()).await;
        life.append(id, 0, &bytes[..150_000]).await.unwrap();
        life.records.hold(effect);
        tokio::select! {
            _ = life.append(id, 150_000, &bytes[150_000..]) => panic!("it was held"),
            () = life.records.reached() => {}
        }
        life.die();
        let life = world.live_with(looking).await;
        life.engine.recover().await;
        ends_well(&life, id, &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_during_the_look_loses_nothing_that_was_promised() {
    let bytes = film(10_000, 200_000, false);
    let world = World::on_disk();
    let life = world.live_with(looking).await;
    let id = life.create(bytes.len()).await;
    life.append(id, 0, &bytes[..150_000]).await.unwrap();
    let hold = life.faults.hold(Operation::Read);
    tokio::select! {
        _ = life.append(id, 150_000, &bytes[150_000..]) => panic!("it was held"),
        () = hold.reached() => {}
    }
    assert_eq!(life.find(id).await.stage().name(), "receiving", "nothing is reported before it is known");
    life.die();
    let life = world.live_with(looking).await;
    life.engine.recover().await;
    assert_eq!(life.committed(id).await, 150_000);
    ends_well(&life, id, &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_read_for_a_moment_is_no_verdict() {
    let bytes = film(10_000, 200_000, false);
    // The first read finds the type, the second one the headers.
    for nth in [1, 2] {
        let world = World::on_disk();
        let life = world.live_with(looking).await;
        let id = life.create(bytes.len()).await;
        life.faults.fail(Operation::Read, Calls::Nth(nth), Cause::BROKEN_DISK);
        let told = life.append(id, 0, &bytes).await;
        assert!(matches!(told, Err(EngineError::Failed { .. })), "{nth}: {told:?}");
        assert!(life.find(id).await.stage().takes_bytes(), "{nth}: its client may go on");
        life.at_rest(id).await;
        ends_well(&life, id, &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_lost_after_a_refusal_leaves_no_success() {
    let bytes = vec![0x80; 100_000];
    let world = World::on_disk();
    let life = world.live_with(looking).await;
    let id = life.create(bytes.len()).await;
    life.append(id, 0, &bytes[..50_000]).await.unwrap();
    life.records.fail_next(Effect::Nothing, Trouble::Broken);
    assert!(matches!(life.append(id, 50_000, &bytes[50_000..]).await, Err(EngineError::Failed { .. })));
    life.at_rest(id).await;
    let at = life.committed(id).await;
    let refused = life.append(id, at, &bytes[at..]).await;
    assert!(matches!(refused, Err(EngineError::Rejected(Rejection::Refused(_)))), "{refused:?}");
    assert_eq!(life.events(id).await, ["created", "receiving", "received", "failed"]);
    assert!(world.files().is_empty(), "its bytes are gone");
}

/// An upload whose headers take long to read delays only uploads that have headers too.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_look_does_not_delay_others() {
    let world = World::on_disk();
    let life = world.live_with(looking).await;
    let bytes = film(10_000, 200_000, false);
    let (slow, next) = (life.create(bytes.len()).await, life.create(bytes.len()).await);
    let hold = life.faults.hold_calls(Operation::Read, Calls::Nth(2));
    let second = async {
        until("the first is held", async || (life.faults.calls(Operation::Read) == 2).then_some(())).await;
        life.append(next, 0, &bytes).await
    };
    let meanwhile = async {
        until("the second has a type", async || (life.faults.calls(Operation::Read) == 3).then_some(())).await;
        let text = life.create(TEXT.len()).await;
        assert_eq!(life.append(text, 0, TEXT).await.unwrap().stage().name(), "completed");
        assert_eq!(life.find(next).await.stage().name(), "created", "its headers wait their turn");
        assert_eq!(life.faults.calls(Operation::Read), 4);
        hold.release();
    };
    let (slow, next, ()) = tokio::join!(life.append(slow, 0, &bytes), second, meanwhile);
    assert_eq!((slow.unwrap().stage().name(), next.unwrap().stage().name()), ("completed", "completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_take_too_long_are_not_waited_for() {
    let world = World::on_disk();
    let quick = |settings: &mut EngineSettings| {
        looking(settings);
        settings.media.as_mut().unwrap().timeout = Duration::from_millis(100);
    };
    let life = world.live_with(quick).await;
    let bytes = film(10_000, 200_000, false);
    let _hold = life.faults.hold_calls(Operation::Read, Calls::Nth(2));
    let id = life.create(bytes.len()).await;
    let upload = life.append(id, 0, &bytes).await.unwrap();
    let facts = upload.record().facts.clone().expect("the type is known");
    assert_eq!((facts.content_type.as_str(), facts.content), ("video/mp4", None));
    assert_eq!(life.events(id).await, WHOLE_WAY);
}
