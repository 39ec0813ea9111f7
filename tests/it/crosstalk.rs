//! Uploads that were created in one dialect and receive requests of another.

use crate::ietf;
use crate::ietf::{END, MORE, PARTIAL, send, version};
use crate::support::app::TestApp;
use crate::support::client::OCTETS;

#[tokio::test(flavor = "multi_thread")]
async fn anyone_may_ask_how_far_an_upload_is() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let of_tus = client.create(9).await;
    client.patch(&of_tus, 0, b"hello").await;
    let of_ietf = ietf::begin(&mut client, Some(9)).await;
    ietf::append(&mut client, &of_ietf, 0, false, b"hello").await;
    for upload in [&of_tus, &of_ietf] {
        let tus = client.head(upload).await;
        assert_eq!((tus.status, tus.header("upload-offset")), (200, Some("5")), "dialects 3, 4");
        assert_eq!(tus.header("upload-length"), Some("9"), "dialects 3");
        assert_eq!(tus.header("upload-complete"), None, "a tus client sees nothing of this");
        let marked = send(&mut client, "HEAD", upload, &[version("8")], b"").await;
        assert_eq!((marked.status, marked.header("upload-offset")), (204, Some("5")), "dialects 3, 4");
        assert_eq!(marked.header("upload-complete"), Some("?0"), "dialects 3");
        assert_eq!(ietf::limit(&marked, "max-size"), Some(64 << 30), "dialects 3");
    }
    // An unmarked request is answered in the dialect that the upload was created in.
    assert_eq!(client.request("HEAD", &of_tus, &[], b"").await.status, 200, "dialects 2.6");
    assert_eq!(client.request("HEAD", &of_ietf, &[], b"").await.status, 204, "dialects 2.6");
    assert_eq!(client.request("DELETE", &of_tus, &[], b"").await.status, 204, "one way to delete");
    assert_eq!(client.request("DELETE", &of_ietf, &[], b"").await.status, 204, "dialects 2.6");
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_in_another_dialect_are_refused_and_change_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let of_tus = client.create(9).await;
    client.patch(&of_tus, 0, b"hello").await;
    for (end, body) in [(true, &b" you"[..]), (false, b" y"), (false, b"")] {
        let answer = ietf::append(&mut client, &of_tus, 5, end, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (409, "other-dialect"), "dialects 3: {body:?}");
    }
    assert_eq!(client.offset(&of_tus).await, 5, "dialects 3");
    assert_eq!(client.patch(&of_tus, 5, b" you").await.status, 204, "dialects 3: its own client goes on");

    let of_ietf = ietf::begin(&mut client, Some(9)).await;
    ietf::append(&mut client, &of_ietf, 0, false, b"hello").await;
    for body in [&b" you"[..], b" y", b""] {
        let answer = client.patch(&of_ietf, 5, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (409, "other-dialect"), "dialects 3: {body:?}");
    }
    assert_eq!(ietf::offset(&mut client, &of_ietf).await, (5, false), "dialects 3");
    assert_eq!(ietf::append(&mut client, &of_ietf, 5, true, b" you").await.status, 201, "dialects 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tus_client_never_takes_an_open_upload_for_finished() {
    for crossing in [false, true] {
        let app = TestApp::with(|config| config.engine.cross_dialects = crossing).await;
        let mut client = app.client().await;
        let upload = ietf::begin(&mut client, Some(5)).await;
        ietf::append(&mut client, &upload, 0, false, b"hello").await;
        let hidden = client.head(&upload).await;
        // tus clients retry after 423 and after no other rejection.
        assert_eq!((hidden.status, hidden.header("upload-offset")), (423, None), "dialects 3");
        if crossing {
            assert_eq!(client.patch(&upload, 5, b"").await.status, 204, "dialects 3: tus ends a full upload");
        } else {
            assert_eq!(ietf::append(&mut client, &upload, 5, true, b"").await.status, 201);
        }
        let told = client.head(&upload).await;
        assert_eq!((told.status, told.header("upload-offset")), (200, Some("5")), "dialects 3");
        assert_eq!(ietf::offset(&mut client, &upload).await, (5, true), "dialects 3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_crossing_is_allowed_each_goes_on_where_the_other_was() {
    let app = TestApp::with(|config| config.engine.cross_dialects = true).await;
    let mut client = app.client().await;
    let of_tus = client.create(9).await;
    client.patch(&of_tus, 0, b"hel").await;
    let answer = ietf::append(&mut client, &of_tus, 3, false, b"lo").await;
    assert_eq!((answer.status, answer.header("upload-complete")), (204, Some("?0")), "dialects 3");
    // A tus upload completes when it is full, no matter which client sends the rest, or in which dialect.
    let answer = ietf::append(&mut client, &of_tus, 5, false, b" you").await;
    assert_eq!((answer.status, answer.header("upload-complete")), (201, Some("?1")), "dialects 3");

    let of_ietf = ietf::begin(&mut client, Some(9)).await;
    ietf::append(&mut client, &of_ietf, 0, false, b"hel").await;
    assert_eq!(client.patch(&of_ietf, 3, b"lo").await.status, 204, "dialects 3");
    assert_eq!(client.patch(&of_ietf, 5, b" you").await.status, 204, "dialects 3");
    for upload in [of_tus, of_ietf] {
        assert_eq!(ietf::download(&mut client, &upload).await, b"hello you", "dialects 3");
        assert_eq!(ietf::offset(&mut client, &upload).await, (9, true), "dialects 3");
        assert_eq!(client.offset(&upload).await, 9, "dialects 3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fatal_in_one_dialect_is_not_in_the_other() {
    let app = TestApp::with(|config| config.engine.cross_dialects = true).await;
    let mut client = app.client().await;
    for tus_overflows in [true, false] {
        let upload = ietf::begin(&mut client, Some(9)).await;
        ietf::append(&mut client, &upload, 0, false, b"hello").await;
        let chunked = ("Transfer-Encoding", "chunked");
        let at = ("Upload-Offset", "5");
        let mut sending = app.client().await;
        if tus_overflows {
            sending.send_head("PATCH", &upload, &[crate::support::client::TUS, OCTETS, at, chunked]).await;
        } else {
            sending.send_head("PATCH", &upload, &[PARTIAL, at, MORE, chunked]).await;
        }
        sending.send_chunk(b"too much").await;
        sending.send_chunk(b"").await;
        let refused = sending.answer("PATCH").await;
        assert_eq!(refused.status, if tus_overflows { 413 } else { 400 }, "dialects 3");
        let after = send(&mut client, "HEAD", &upload, &[version("8")], b"").await;
        assert_eq!(after.status, if tus_overflows { 204 } else { 410 }, "dialects 3");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_name_and_type_go_from_one_dialect_to_the_other() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let headers = [END, ("Content-Type", "video/mp4"), ("Content-Disposition", "inline; filename=\"a film.mp4\"")];
    let of_ietf = ietf::location(&ietf::create(&mut client, &headers, b"hello").await);
    let metadata = format!("filename {},filetype dmlkZW8vbXA0", crate::tus::base64("a film.mp4"));
    let of_tus = crate::tus::completed(&mut client, &[("Upload-Metadata", &metadata)], b"hello").await;
    for upload in [&of_ietf, &of_tus] {
        let status = client.status(upload).await;
        assert_eq!((&status["filename"], &status["content_type"]), (&"a film.mp4".into(), &"video/mp4".into()));
        let answer = client.get(upload).await;
        assert_eq!(answer.header("content-type"), Some("video/mp4"), "dialects 3");
        assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"a film.mp4\""));
    }
    let echoed = send(&mut client, "HEAD", &of_tus, &[version("8")], b"").await;
    assert_eq!(echoed.header("upload-metadata"), Some(metadata.as_str()), "dialects 3, 4: as it was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concatenated_upload_takes_no_bytes_in_any_dialect() {
    let app = TestApp::with(|config| config.engine.cross_dialects = true).await;
    let mut client = app.client().await;
    let part = crate::tus::completed(&mut client, &[("Upload-Concat", "partial")], b"hello").await;
    let list = format!("final;{part}");
    let whole = crate::tus::create_with(&mut client, &[("Upload-Concat", &list)]).await;
    let answer = ietf::append(&mut client, &whole, 5, true, b"more").await;
    assert_eq!((answer.status, answer.problem().as_str()), (403, "final-upload"), "dialects 3");
    assert_eq!(ietf::download(&mut client, &whole).await, b"hello", "dialects 3");
}
