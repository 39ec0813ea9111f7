//! Creation, with and without bytes.

use std::time::Duration;

use crate::support::app::TestApp;
use crate::support::client::{OCTETS, TUS};
use crate::support::patience::until;
use crate::support::receiver::Receiver;
use crate::tus::{base64, create_with, known_uploads, wait_for_status, wait_until_nothing_is_stored};

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_says_where_the_upload_is() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for path in ["/files", "/files/"] {
        let answer = client.tus("POST", path, &[("Upload-Length", "11")], b"").await;
        assert_eq!(answer.status, 201, "tus 15");
        let upload = answer.header("location").expect("tus 15: a Location").to_owned();
        let id = upload.strip_prefix("/files/").expect("tus 16: a path, which is right behind every proxy");
        assert_eq!(client.status(&upload).await["id"], id);
        assert_eq!(client.offset(&upload).await, 0, "tus 15: it begins at 0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_names_the_public_address_and_believes_no_header_about_it() {
    let public = "https://up.example.com/base";
    let app = TestApp::with(|config| config.server.public_url = Some(public.to_owned())).await;
    let mut client = app.client().await;
    let forged = [
        ("Upload-Length", "5"),
        ("Forwarded", "host=evil.example;proto=http"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "http"),
    ];
    let answer = client.tus("POST", "/files", &forged, b"").await;
    let location = answer.header("location").unwrap();
    let path = location.strip_prefix(public).expect("tus 16: the address the operator gave");
    assert_eq!(client.offset(path).await, 0);

    let app = TestApp::start().await;
    let answer = app.client().await.tus("POST", "/files", &forged, b"").await;
    assert!(answer.header("location").unwrap().starts_with("/files/"), "tus 16: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_is_plain_digits_and_stands_alone() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let length = |value| ("Upload-Length", value);
    let defer = |value| ("Upload-Defer-Length", value);
    for (headers, why) in [
        (&[][..], "tus 17: neither length nor deferral"),
        (&[length("5"), defer("1")], "tus 18: both"),
        (&[defer("0")], "tus 19: deferral is exactly 1"),
        (&[defer("2")], "tus 19"),
        (&[defer("true")], "tus 19"),
        (&[defer("")], "tus 19"),
        (&[defer("1"), defer("1")], "tus 19: and once"),
        (&[length("")], "tus 20: a length is digits"),
        (&[length("+5")], "tus 20"),
        (&[length("-5")], "tus 20"),
        (&[length("5.0")], "tus 20"),
        (&[length("0x10")], "tus 20"),
        (&[length("1e3")], "tus 20"),
        (&[length("5 5")], "tus 20"),
        (&[length("5, 5")], "tus 20"),
        (&[length("\u{665}")], "tus 20: ASCII digits"),
        (&[length("9223372036854775808")], "tus 20: 2^63"),
        (&[length("18446744073709551615")], "tus 20: 2^64 - 1"),
        (&[length("18446744073709551616")], "tus 20: 2^64"),
        (&[length("99999999999999999999999999999999999999999")], "tus 20"),
        (&[length("5"), length("5")], "twice, though the same"),
        (&[length("5"), length("6")], "twice and different"),
    ] {
        let answer = client.tus("POST", "/files", headers, b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-header"), "{why}: {headers:?}");
        assert_eq!(answer.header("location"), None);
    }
    assert_eq!(known_uploads(&mut client).await.len(), 0, "nothing was created");
    let upload = create_with(&mut client, &[length("007")]).await;
    assert_eq!(client.head(&upload).await.header("upload-length"), Some("7"), "leading zeros are digits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_over_the_limit_is_refused_before_anything_is_created() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    for length in ["101", "1000000", "9223372036854775807"] {
        let answer = client.tus("POST", "/files", &[("Upload-Length", length)], b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (413, "over-limit"), "tus 21: {length}");
        let answer = client.tus("POST", "/files", &[("Upload-Length", length), OCTETS], b"hello").await;
        assert_eq!(answer.status, 413, "tus 21: {length} with its first bytes");
    }
    assert_eq!(known_uploads(&mut client).await.len(), 0, "tus 21: nothing was created");
    assert!(app.stored_files().is_empty(), "and nothing stored");
    client.create(100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_length_may_come_later() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = create_with(&mut client, &[("Upload-Defer-Length", "1")]).await;
    let head = client.head(&upload).await;
    assert_eq!(head.header("upload-defer-length"), Some("1"), "tus 22, 44, 50: it says that the length is to come");
    assert_eq!(head.header("upload-length"), None, "tus 44");
    assert_eq!(client.status(&upload).await["length"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_nothing_is_complete_at_once_and_announced_once() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("['upload.completed']"), |_| {}).await;
    let mut client = app.client().await;
    for headers in [&[("Upload-Length", "0")][..], &[("Upload-Length", "0"), OCTETS]] {
        let answer = client.tus("POST", "/files", headers, b"").await;
        assert_eq!((answer.status, answer.header("upload-offset")), (201, Some("0")), "tus 23: {headers:?}");
        assert_eq!(answer.header("upload-expires"), None, "tus 71: a complete upload does not expire");
        let upload = answer.header("location").unwrap().to_owned();
        assert_eq!(client.status(&upload).await["stage"], "completed", "tus 23");
        assert_eq!(client.patch(&upload, 0, b"").await.status, 204, "tus 61");
        let download = client.get(&upload).await;
        assert_eq!((download.status, download.body.as_slice()), (200, &b""[..]));
        let id = upload.trim_start_matches("/files/");
        let heard = receiver.wait_for(|heard| heard.iter().any(|one| one.body["data"]["upload_id"] == id)).await;
        assert_eq!(heard.last().unwrap().body["data"]["digests"]["crc32c"], "00000000");
        let deliveries = client.get(&format!("/api/v1/webhooks/deliveries?upload={id}")).await.json();
        assert_eq!(deliveries["deliveries"].as_array().unwrap().len(), 1, "tus 23, 66: announced once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_may_bring_bytes() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (sent, length, stage) in [(&b"hello"[..], "11", "receiving"), (b"hello world", "11", "completed")] {
        let answer = client.tus("POST", "/files", &[("Upload-Length", length), OCTETS], sent).await;
        assert_eq!(answer.status, 201, "tus 36");
        let stored = sent.len().to_string();
        assert_eq!(answer.header("upload-offset"), Some(stored.as_str()), "tus 36: it returns the stored offset");
        let upload = answer.header("location").expect("tus 36").to_owned();
        let status = client.status(&upload).await;
        assert_eq!((&status["stage"], &status["offset"]), (&stage.into(), &sent.len().into()), "tus 36");
        if stage == "receiving" {
            assert_eq!(client.patch(&upload, 5, b" world").await.status, 204);
        }
        assert_eq!(client.get(&upload).await.body, b"hello world");
    }
    let deferred = [("Upload-Defer-Length", "1"), ("Content-Type", "Application/Offset+Octet-Stream; charset=x")];
    let answer = client.tus("POST", "/files", &deferred, b"hello").await;
    assert_eq!((answer.status, answer.header("upload-offset")), (201, Some("5")), "tus 51: any case, any parameters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_with_too_many_bytes_keeps_nothing() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    let answer = client.tus("POST", "/files", &[("Upload-Length", "4"), OCTETS], b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "beyond-length"), "tus 37");
    assert_eq!(answer.header("location"), None, "tus 37: there is nothing to resume");
    let answer = client.tus("POST", "/files", &[("Upload-Length", "0"), OCTETS], b"hello").await;
    assert_eq!(answer.status, 413, "tus 37: nor behind nothing");
    assert_eq!(known_uploads(&mut client).await.len(), 0, "tus 37: not even an empty upload");

    for length in [("Upload-Length", "4"), ("Upload-Defer-Length", "1")] {
        let mut client = app.client().await;
        client.send_head("POST", "/files", &[TUS, OCTETS, length, ("Transfer-Encoding", "chunked")]).await;
        client.send_chunk(&[b'x'; 101]).await;
        client.send_chunk(b"").await;
        let answer = client.answer("POST").await;
        assert_eq!((answer.status, answer.header("location")), (413, None), "tus 37: chunked, {length:?}");
    }
    let left = known_uploads(&mut client).await;
    assert!(left.iter().all(|upload| upload["stage"] == "terminated"), "tus 37: no upload lives on: {left:#?}");
    wait_until_nothing_is_stored(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_another_type_are_not_upload_data() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let length = ("Upload-Length", "5");
    for kind in [&[][..], &[("Content-Type", "application/x-www-form-urlencoded")], &[("Content-Type", "video/mp4")]] {
        let mut headers = vec![length];
        headers.extend_from_slice(kind);
        let answer = client.tus("POST", "/files", &headers, b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (415, "wrong-content-type"), "tus 38: {kind:?}");
        let answer = client.tus("POST", "/files", &headers, b"").await;
        assert_eq!(answer.status, 201, "tus 38: without bytes the type says nothing: {kind:?}");
        assert_eq!(client.offset(answer.header("location").unwrap()).await, 0);
    }
    assert_eq!(known_uploads(&mut client).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_cut_in_its_body_keeps_what_arrived() {
    let app = TestApp::start().await;
    let mut asking = app.client().await;
    for reset in [false, true] {
        let mut client = app.client().await;
        let headers = [TUS, OCTETS, ("Upload-Length", "100"), ("Content-Length", "100")];
        client.send_head("POST", "/files", &headers).await;
        client.send(&[b'x'; 40]).await;
        // The client never learns the path of its upload; the list contains it.
        let upload = until("the bytes arrive", async || {
            let known = known_uploads(&mut asking).await;
            let newest = known.first().filter(|one| one["received"] == 40)?;
            Some(newest["links"]["upload"].as_str().unwrap().to_owned())
        })
        .await;
        if reset {
            client.rst()
        } else {
            client.fin().await
        }
        let status = wait_for_status(&mut asking, &upload, |status| status["bytes_per_second"].is_null()).await;
        assert_eq!((&status["offset"], &status["stage"]), (&40.into(), &"receiving".into()), "tus 39: reset {reset}");
        assert!(status["expires_at"].is_string(), "tus 39: it expires without further requests");
        assert_eq!(asking.patch(&upload, 40, &[b'y'; 60]).await.status, 204, "tus 39: and can be resumed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_creation_still_says_where_the_upload_is() {
    let app = TestApp::with(|config| config.limits.bodies.idle_timeout = Duration::from_millis(200)).await;
    let mut client = app.client().await;
    let wrong = format!("sha1 {}", base64([0; 20]));
    let headers = [("Upload-Length", "5"), OCTETS, ("Upload-Checksum", wrong.as_str())];
    let answer = client.tus("POST", "/files", &headers, b"hello").await;
    assert_eq!(answer.status, 460, "tus 78: the checksum counts on a creation too");
    let upload = answer.header("location").expect("tus 40, 78: where it is").to_owned();
    assert_eq!(client.offset(&upload).await, 0, "tus 78: an empty upload is left");
    assert_eq!(client.patch(&upload, 0, b"hello").await.status, 204);

    let mut silent = app.client().await;
    let headers = [TUS, OCTETS, ("Upload-Length", "5"), ("Content-Length", "5")];
    silent.send_head("POST", "/files", &headers).await;
    silent.send(b"he").await;
    let answer = silent.answer("POST").await;
    assert_eq!(answer.status, 503, "tus 67: silence is no 4xx");
    let upload = answer.header("location").expect("tus 40").to_owned();
    assert_eq!(client.offset(&upload).await, 2, "tus 39: received bytes are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_before_sending_is_refused_before_sending() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    for (headers, status) in [
        (&[TUS, OCTETS, ("Upload-Length", "101")][..], 413),
        (&[TUS, OCTETS, ("Upload-Length", "10")], 413),
        (&[TUS, OCTETS, ("Upload-Length", "x")], 400),
        (&[TUS, OCTETS, ("Upload-Length", "100"), ("Upload-Metadata", "a YR==")], 400),
        (&[TUS, ("Upload-Length", "100")], 415),
        (&[OCTETS, ("Upload-Length", "100")], 412),
    ] {
        let mut client = app.client().await;
        let mut headers = headers.to_vec();
        headers.extend([("Content-Length", "50"), ("Expect", "100-continue")]);
        client.send_head("POST", "/files", &headers).await;
        // No byte of the body is sent.
        let answer = client.answer("POST").await;
        assert_eq!(answer.status, status, "tus 41: {headers:?}");
    }
    assert_eq!(known_uploads(&mut app.client().await).await.len(), 0);
}
