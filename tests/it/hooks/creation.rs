//! The hook that runs before an upload is created.

use std::sync::atomic::{AtomicUsize, Ordering};

use domain::id::UploadId;
use serde_json::json;

use crate::hooks::{BYTES, Rest, calls, data, is_put_off, is_refused, json, pair, uploads, ways};
use crate::support::client::TUS;
use crate::support::moving::wait_for_stage;
use crate::support::scripted::Reply;
use crate::support::world::system_time;

const ASKED: [&str; 1] = ["pre_create"];

fn new_id() -> UploadId {
    UploadId::new(system_time(), rand::random())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_lets_every_dialect_create() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    for reply in [Reply::Status("204 No Content"), Reply::Status("200 OK"), json("200 OK", "{}")] {
        application.always(reply);
        for way in ways() {
            let before = application.heard().len();
            let (answer, path) = way.upload(&mut client, &application).await;
            assert!(answer.status < 300, "{}: {answer:?}", way.name);
            wait_for_stage(client.address, &path, "completed").await;
            assert_eq!(client.get(&path).await.body, BYTES, "{}", way.name);
            let asked = application.heard();
            assert_eq!(asked.len(), before + 1, "{}: asked once", way.name);
            let proposed = data(&asked[before])["upload_id"].as_str().unwrap();
            assert!(path.ends_with(proposed), "{}: {path} was asked about as {proposed}", way.name);
            assert_eq!(asked[before].id, format!("hook_pre_create_{proposed}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_reaches_the_client_of_every_dialect_and_nothing_is_created() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    for (reply, status, message) in [
        (json("200 OK", r#"{"reject": {"status": 402, "message": "your plan is\nfull"}}"#), 402, "your plan is full"),
        (json("413 Too Large", r#"{"message": "it is too much"}"#), 413, "it is too much"),
        (Reply::Status("403 Forbidden"), 403, "the application rejected this upload"),
    ] {
        application.always(reply);
        for way in ways() {
            let answer = way.create(&mut client).await;
            is_refused(&answer, status, message, way.name);
            assert_eq!(answer.header("location"), None, "{}", way.name);
        }
    }
    assert_eq!(uploads(&mut client).await, [] as [serde_json::Value; 0]);
    assert_eq!(app.stored_files(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_learns_what_is_asked_for_and_by_whom() {
    let (application, app) = pair(&ASKED, "forward_headers = [\"Authorization\", \"x-many\", \"x-none\"]").await;
    let mut client = app.client().await;
    let headers = [
        TUS,
        ("Upload-Length", "5"),
        ("Upload-Metadata", "filename YS5tcDQ=,filetype dmlkZW8vbXA0"),
        ("Authorization", "Bearer user-7"),
        ("Cookie", "never"),
        ("X-Many", "a"),
        ("X-Many", "b"),
    ];
    assert_eq!(client.request("POST", "/files?secret=never", &headers, b"").await.status, 201);
    let asked = &application.heard()[0];
    assert_eq!(asked.kind(), "hook.pre_create");
    let expected = json!({
        "upload_id": data(asked)["upload_id"],
        "dialect": "tus",
        "role": "single",
        "length": 5,
        "filename": "a.mp4",
        "content_type": "video/mp4",
        "metadata": { "filename": "a.mp4", "filetype": "video/mp4" },
        "request": {
            "method": "POST",
            "path": "/files",
            "remote_address": "127.0.0.1",
            "headers": { "authorization": "Bearer user-7", "x-many": "a, b" },
        },
    });
    assert_eq!(data(asked), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_may_set_id_and_metadata() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    for way in ways() {
        let id = new_id();
        application.always(json("200 OK", &format!(r#"{{"id": "{id}", "metadata": {{"user": "7"}}}}"#)));
        let (answer, path) = way.upload(&mut client, &application).await;
        assert!(answer.status < 300, "{}: {answer:?}", way.name);
        let path = if path.ends_with(&id.to_string()) { path } else { panic!("{}: {path} is not {id}", way.name) };
        let status = client.status(&path).await;
        assert_eq!(status["metadata"], json!({ "user": "7" }), "{}: the client's metadata is replaced", way.name);
    }
    // tus 1.0, HEAD: the metadata as the client sent it.
    application.always(json("200 OK", r#"{"metadata": {"internal": "x"}}"#));
    let headers = [("Upload-Length", "5"), ("Upload-Metadata", "a YQ==")];
    let created = client.tus("POST", "/files", &headers, b"").await;
    let head = client.head(created.header("location").unwrap()).await;
    assert_eq!(head.header("upload-metadata"), Some("a YQ=="));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_taken_is_trouble_of_the_server() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    let path = client.create(5).await;
    let taken = path.trim_start_matches("/files/").to_owned();
    application.always(json("200 OK", &format!(r#"{{"id": "{taken}", "metadata": {{"a": "b"}}}}"#)));
    for held in [false, true] {
        let mut writing = app.client().await;
        if held {
            writing.begin_patch(&path, 0, 5).await;
            writing.send(b"he").await;
            crate::support::moving::wait_until_live(client.address, &path).await;
        }
        let answer = client.tus("POST", "/files", &[("Upload-Length", "7")], b"").await;
        assert_eq!((answer.status, answer.problem()), (500, "internal".to_owned()), "{answer:?}");
    }
    let status = client.status(&path).await;
    assert_eq!((&status["length"], &status["metadata"]), (&5.into(), &json!({})), "the other is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_the_application_sets_holds_in_every_dialect() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    application.always(json("200 OK", r#"{"max_size": 4}"#));
    for way in ways() {
        let answer = way.create(&mut client).await;
        let answer = match answer.header("location").filter(|_| answer.status < 300) {
            // The hook ran before the length was known.
            Some(location) => {
                let path = location[location.find("/files/").unwrap()..].to_owned();
                let answer = match way.rest {
                    Rest::Tus => {
                        client
                            .tus("PATCH", &path, &[crate::support::client::OCTETS, ("Upload-Offset", "0")], BYTES)
                            .await
                    }
                    _ => way.bring(&mut client, &path).await,
                };
                assert_ne!(client.status(&path).await["stage"], "completed", "{}", way.name);
                answer
            }
            None => answer,
        };
        assert_eq!((answer.status, answer.problem()), (413, "over-limit".to_owned()), "{}: {answer:?}", way.name);
        assert!(answer.json()["detail"].as_str().unwrap().contains("at most 4 bytes"), "{}: {answer:?}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_bytes_stop_at_the_size_that_the_application_sets() {
    let (application, app) = pair(&ASKED, "").await;
    application.always(json("200 OK", r#"{"max_size": 4}"#));
    let chunked = ("Transfer-Encoding", "chunked");
    for way in ways().iter().filter(|way| ["tus, length told last", "google"].contains(&way.name)) {
        let mut client = app.client().await;
        let created = way.create(&mut client).await;
        let location = created.header("location").unwrap().to_owned();
        let path = &location[location.find("/files/").unwrap()..];
        match way.rest {
            Rest::Tus => {
                let headers = [TUS, crate::support::client::OCTETS, ("Upload-Offset", "0"), chunked];
                client.send_head("PATCH", path, &headers).await;
            }
            _ => client.send_head("PUT", path, &[("Content-Range", "bytes 0-*/*"), chunked]).await,
        }
        client.send_chunk(BYTES).await;
        client.send_chunk(b"").await;
        let answer = client.raw_answer("PUT").await.unwrap();
        assert_eq!((answer.status, answer.problem()), (413, "over-limit".to_owned()), "{}: {answer:?}", way.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_expires_when_the_application_says_whatever_its_client_does() {
    let (application, app) = pair(&ASKED, "").await;
    application.always(json("200 OK", r#"{"expires_after": 1}"#));
    for way in ways().iter().filter(|way| ["tus", "ranges"].contains(&way.name)) {
        let mut client = app.client().await;
        let created = way.create(&mut client).await;
        let path = created.header("location").unwrap().to_owned();
        let mut writing = app.client().await;
        match way.rest {
            Rest::Tus => writing.begin_patch(&path, 0, 5).await,
            _ => writing.send_head("PUT", &path, &[("Content-Range", "bytes 0-4/5"), ("Content-Length", "5")]).await,
        }
        writing.send(b"hel").await;
        // The client would continue to send; it is rejected when the time is over, or with its last byte at
        // the latest.
        let writing = async {
            tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
            writing.send(b"lo").await;
            writing.raw_answer("PATCH").await.unwrap()
        };
        let answer = writing.await;
        assert_eq!(answer.status, 410, "{}: {answer:?}", way.name);
        wait_for_stage(client.address, &path, "expired").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_what_is_made_of_them_are_asked_about() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    let headers = [("Upload-Length", "5"), ("Upload-Concat", "partial")];
    let part = client.tus("POST", "/files", &headers, b"").await.header("location").unwrap().to_owned();
    assert_eq!(client.patch(&part, 0, BYTES).await.status, 204);
    let other = client.tus("POST", "/files", &headers, b"").await.header("location").unwrap().to_owned();
    assert_eq!(client.patch(&other, 0, BYTES).await.status, 204);
    let joined = format!("final;{part} {other}");
    application.always(json("200 OK", r#"{"max_size": 9}"#));
    let answer = client.tus("POST", "/files", &[("Upload-Concat", &joined)], b"").await;
    assert_eq!((answer.status, answer.problem()), (413, "over-limit".to_owned()));
    application.always(Reply::Status("403 Forbidden"));
    let answer = client.tus("POST", "/files", &[("Upload-Concat", &joined)], b"").await;
    is_refused(&answer, 403, "the application rejected this upload", "a final one");
    application.always(Reply::Status("204 No Content"));
    assert_eq!(client.tus("POST", "/files", &[("Upload-Concat", &joined)], b"").await.status, 201);
    let asked = application.heard();
    let roles: Vec<_> = asked.iter().map(|request| data(request)["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["partial", "partial", "final", "final", "final"]);
    let ids = [part.trim_start_matches("/files/"), other.trim_start_matches("/files/")];
    assert_eq!(data(&asked[4])["parts"], json!(ids));
    assert_eq!(data(&asked[4])["length"], 10);
}

/// webhooks K3: every verdict is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_is_kept_with_what_was_said() {
    let (application, app) = pair(&ASKED, "").await;
    let mut client = app.client().await;
    let turn = AtomicUsize::new(0);
    application.decide(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
        0 => json("200 OK", "{}"),
        1 => json("403 Forbidden", r#"{"message": "not for you"}"#),
        _ => Reply::Body("500 Oops", vec![b'x'; 10_000]),
    });
    let accepted = client.create(5).await;
    is_refused(&client.tus("POST", "/files", &[("Upload-Length", "5")], b"").await, 403, "not for you", "the second");
    is_put_off(&client.tus("POST", "/files", &[("Upload-Length", "5")], b"").await, "the third");
    let kept = calls(&mut client, "").await;
    let told = |name: &str| kept.iter().map(|call| call[name].clone()).collect::<Vec<_>>();
    assert_eq!(told("outcome"), [json!("bad_status"), json!("rejected"), json!("accepted")]);
    assert_eq!(told("status"), [json!(500), json!(403), json!(200)]);
    assert_eq!(told("message"), [json!("status 500 neither accepts nor rejects"), json!("not for you"), json!(null)]);
    assert_eq!(kept[0]["response_body"].as_str().unwrap().len(), 4096);
    let ids: Vec<_> = application.heard().iter().rev().map(|request| json!(request.id)).collect();
    assert_eq!(told("decision"), ids);

    let of_one = calls(&mut client, &format!("?upload={}", accepted.trim_start_matches("/files/"))).await;
    assert_eq!(of_one, kept[2..]);
    let page = client.get("/api/v1/webhooks/hooks?limit=2").await.json();
    let next = page["next"].as_str().unwrap();
    assert_eq!(calls(&mut client, &format!("?limit=2&cursor={next}")).await, kept[2..]);
    assert_eq!(client.get("/api/v1/webhooks/hooks?uplaod=x").await.status, 400);
}
