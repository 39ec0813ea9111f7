//! Whole files in one plain request.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::ranged::{is_stored, known, path_of, put, put_chunked, source};
use crate::support::app::TestApp;
use crate::support::moving::{wait_for_stage, wait_until_at_rest};
use crate::tus::{base64, known_uploads, wait_until_nothing_is_stored};

const VIDEO: (&str, &str) = ("Content-Type", "video/mp4");

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_as_it_comes() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = source(100_000);
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    for (method, path, headers, name, kind) in [
        ("PUT", "/files/video.mp4", &[VIDEO][..], Some("video.mp4"), Some("video/mp4")),
        ("PUT", "/files/%C3%9Cbung%20%231.mp4", &[], Some("Übung #1.mp4"), None),
        ("PUT", "/files/..%2F..%2Fpasswd", &[], Some("passwd"), None),
        ("PUT", "/files", &[VIDEO], None, Some("video/mp4")),
        ("PUT", "/files/", &[], None, None),
        ("POST", "/files", &[VIDEO], None, Some("video/mp4")),
        // The headers of curl when no type is given.
        ("POST", "/files", &[form], None, None),
        ("PUT", "/files/a.json", &[("Content-Type", "application/json")], Some("a.json"), Some("application/json")),
    ] {
        let answer = client.request(method, path, headers, &bytes).await;
        assert_eq!(answer.status, 201, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("tus-resumable"), None);
        let upload = path_of(&answer);
        let id = upload.trim_start_matches("/files/");
        let told = answer.json();
        assert_eq!(
            (&told["id"], &told["upload"], &told["size"]),
            (&id.into(), &upload.clone().into(), &100_000.into())
        );
        assert_eq!(told["status"], format!("/api/v1/uploads/{id}"));
        assert_eq!(told["digests"]["crc32c"], format!("{:08x}", crc32c::crc32c(&bytes)));
        let status = client.status(&upload).await;
        let described = (status["filename"].as_str(), status["content_type"].as_str());
        assert_eq!(described, (name, kind), "{method} {path}");
        is_stored(&mut client, &upload, &bytes).await;
    }
    assert_eq!(known(&app).await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_may_be_empty_or_of_unknown_size() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let answer = client.request("PUT", "/files/empty", &[], b"").await;
    assert_eq!((answer.status, &answer.json()["size"]), (201, &0.into()));
    is_stored(&mut client, &path_of(&answer), b"").await;
    let answer = put_chunked(&mut client, "/files/piped", &[], &[b"hello", b" world"]).await;
    assert_eq!((answer.status, &answer.json()["size"]), (201, &11.into()));
    is_stored(&mut client, &path_of(&answer), b"hello world").await;
    let answer = put_chunked(&mut client, "/files/nothing", &[], &[]).await;
    assert_eq!((answer.status, &answer.json()["size"]), (201, &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_kept_and_can_be_gone_on_with() {
    let app = TestApp::start().await;
    let mut asking = app.client().await;
    for (framing, length) in [(("Content-Length", "100"), Some(100)), (("Transfer-Encoding", "chunked"), None)] {
        let mut client = app.client().await;
        client.send_head("PUT", "/files/video.mp4", &[framing]).await;
        if length.is_some() {
            client.send(&[b'x'; 40]).await;
        } else {
            client.send_chunk(&[b'x'; 40]).await;
        }
        let upload = crate::support::patience::until("the bytes arrive", async || {
            let newest = known_uploads(&mut asking).await.first().filter(|one| one["received"] == 40).cloned();
            newest.map(|one| one["links"]["upload"].as_str().unwrap().to_owned())
        })
        .await;
        client.fin().await;
        wait_until_at_rest(app.address(), &upload).await;
        let status = asking.status(&upload).await;
        let told = (&status["offset"], &status["stage"], status["length"].as_u64());
        assert_eq!(told, (&40.into(), &"receiving".into(), length), "a cut upload is not complete");
        let answer = put(&mut asking, &upload, "bytes 40-99/100", &[b'y'; 60]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        is_stored(&mut asking, &upload, &[vec![b'x'; 40], vec![b'y'; 60]].concat()).await;
        assert_eq!(asking.request("DELETE", &upload, &[], b"").await.status, 204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_the_upload_was_made_says_where_it_is() {
    let app = TestApp::with(|config| config.limits.bodies.idle_timeout = Duration::from_millis(200)).await;
    let mut client = app.client().await;
    client.send_head("PUT", "/files/video.mp4", &[("Content-Length", "100")]).await;
    client.send(&[b'x'; 40]).await;
    let answer = client.answer("PUT").await;
    assert_eq!(answer.status, 503);
    let upload = path_of(&answer);
    let mut client = app.client().await;
    assert_eq!(client.status(&upload).await["offset"], 40, "ranged 33; 1, 40");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_long_leaves_nothing() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    let answer = client.request("PUT", "/files/a", &[], &[b'x'; 101]).await;
    assert_eq!((answer.status, answer.problem().as_str(), answer.header("location")), (413, "over-limit", None));
    assert_eq!(known(&app).await, 0, "nothing was created");
    let answer = put_chunked(&mut client, "/files/a", &[], &[&[b'x'; 60], &[b'x'; 60]]).await;
    assert_eq!((answer.status, answer.problem().as_str(), answer.header("location")), (413, "over-limit", None));
    wait_until_nothing_is_stored(&app).await;
    let left = known_uploads(&mut client).await;
    assert!(left.iter().all(|upload| upload["stage"] == "terminated"), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_must_have_the_digest_that_comes_with_it() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (of, status, stage) in [(&b"hello"[..], 201, "completed"), (b"other", 400, "failed")] {
        let digest = format!("sha-256=:{}:", base64(Sha256::digest(of)));
        let answer = client.request("PUT", "/files/a", &[("Content-Digest", &digest)], b"hello").await;
        assert_eq!(answer.status, status, "dialects 6: {answer:?}");
        let newest = known_uploads(&mut client).await[0].clone();
        assert_eq!(newest["stage"], stage);
        assert_eq!(answer.header("location").is_some(), status == 201, "a failed upload is no place to go on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_may_refuse_files_without_a_protocol() {
    let app = TestApp::with(|config| config.protocols.plain_uploads = false).await;
    let mut client = app.client().await;
    let form = ("Content-Type", "multipart/form-data; boundary=x");
    for (method, path, headers) in [
        ("PUT", "/files/a.mp4", &[][..]),
        ("PUT", "/files", &[VIDEO]),
        ("POST", "/files", &[VIDEO]),
        ("POST", "/files", &[form]),
    ] {
        let answer = client.request(method, path, headers, b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, "plain-uploads-off"), "{method} {path}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("protocols.plain_uploads"), "it says which key");
    }
    assert_eq!(known(&app).await, 0);
    let upload = crate::ranged::ranges(&mut client, 5).await;
    assert_eq!(put(&mut client, &upload, "bytes 0-4/5", b"hello").await.status, 200, "a session is a protocol");
    wait_for_stage(app.address(), &upload, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_has_a_limit() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let answer = client.request("PUT", &format!("/files/{}", "a".repeat(9_000)), &[], b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "metadata-too-large"));
    assert_eq!(known(&app).await, 0);
}
