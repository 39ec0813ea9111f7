//! Files in HTML forms.

use crate::ranged::{is_stored, known, path_of, put, source};
use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::moving::wait_until_at_rest;
use crate::tus::{known_uploads, wait_until_nothing_is_stored};

const FORM: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=----xyz");

fn text(name: &str, value: &[u8]) -> Vec<u8> {
    part(&format!("Content-Disposition: form-data; name=\"{name}\""), value)
}

fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
    part(
        &format!("Content-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: video/mp4"),
        bytes,
    )
}

fn part(head: &str, bytes: &[u8]) -> Vec<u8> {
    [b"------xyz\r\n", head.as_bytes(), b"\r\n\r\n", bytes, b"\r\n"].concat()
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), b"------xyz--\r\n".to_vec()].concat()
}

async fn post(client: &mut Client, body: &[u8]) -> Answer {
    client.request("POST", "/files", &[FORM], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_in_a_form_is_the_upload_and_texts_before_it_are_metadata() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    // With every sequence in it that could be taken for the end of the body.
    let bytes = [source(300_000), b"\r\n------xy\r\n--\r\n------xy".to_vec()].concat();
    let body = form(&[text("user", b"7"), text("note", b"a\r\nb"), text("empty", b""), file("\u{dc}bung.mp4", &bytes)]);
    let answer = post(&mut client, &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("connection"), None, "the connection can be used again");
    assert_eq!((&answer.json()["size"], answer.json().get("ignored_fields")), (&bytes.len().into(), None));
    let upload = path_of(&answer);
    let status = client.status(&upload).await;
    let told = (&status["filename"], &status["content_type"], &status["length"]);
    assert_eq!(told, (&"\u{dc}bung.mp4".into(), &"video/mp4".into(), &bytes.len().into()));
    let metadata = &status["metadata"];
    assert_eq!((&metadata["user"], &metadata["note"]), (&"7".into(), &"a\r\nb".into()));
    assert_eq!(metadata["empty"], "");
    is_stored(&mut client, &upload, &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_may_come_in_any_pieces() {
    let app = TestApp::start().await;
    let bytes = source(3_000);
    let body = form(&[text("user", b"7"), file("a.mp4", &bytes), text("late", b"no")]);
    for piece in [1, 2, 3, 7, 100, 1_000] {
        let mut client = app.client().await;
        client.send_head("POST", "/files", &[FORM, ("Transfer-Encoding", "chunked")]).await;
        for piece in body.chunks(piece) {
            client.send_chunk(piece).await;
        }
        client.send_chunk(b"").await;
        let answer = client.answer("POST").await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.json()["ignored_fields"], serde_json::json!(["late"]), "fields after the file are reported");
        is_stored(&mut app.client().await, &path_of(&answer), &bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_is_taken_and_not_several_and_not_none() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let unnamed = part("Content-Disposition: form-data; name=\"file\"; filename=\"\"", b"");
    let answer = post(&mut client, &form(&[file("a", b"hello"), file("b", b"world")])).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "several-files"));
    assert_eq!(answer.header("location"), None);
    wait_until_nothing_is_stored(&app).await;
    let left = known_uploads(&mut client).await;
    assert!(left.iter().all(|upload| upload["stage"] == "terminated"), "none was kept: {left:#?}");
    for parts in [&[][..], &[text("user", b"7")], std::slice::from_ref(&unnamed)] {
        let answer = post(&mut client, &form(parts)).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "no-file"));
    }
    let answer = post(&mut client, &form(&[unnamed.clone(), file("a", b"hello"), unnamed])).await;
    assert_eq!(answer.status, 201, "a field that was left empty is no file: {answer:?}");
    assert_eq!(known(&app).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_ends_wrongly_is_not_whole() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let whole = form(&[file("a.mp4", b"hello world")]);
    let begun = whole.len() - 20;
    for end in [begun, whole.len() - 12, whole.len() - 5, whole.len() - 4, whole.len() - 3] {
        let answer = post(&mut client, &whole[..end]).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-form"), "{end}");
        let upload = path_of(&answer);
        let status = client.status(&upload).await;
        assert_eq!(status["length"], serde_json::Value::Null, "{end}: its length is unknown");
        assert!(matches!(status["stage"].as_str(), Some("created" | "receiving")), "{end}: {status}");
        let offset = status["offset"].as_u64().unwrap();
        assert!(offset <= 11, "{end}: nothing of the boundary was taken for the file");
    }
    let mut wrong = whole.clone();
    wrong.truncate(whole.len() - 4);
    wrong.extend_from_slice(b"zz\r\n");
    let answer = post(&mut client, &wrong).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-form"), "another boundary");
    assert_eq!(client.status(&path_of(&answer)).await["offset"], 11, "received bytes are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_cut_by_the_network_keeps_what_arrived() {
    let app = TestApp::start().await;
    let mut asking = app.client().await;
    let whole = form(&[file("a.mp4", &[b'x'; 100])]);
    let length = whole.len().to_string();
    let at = whole.windows(3).position(|window| window == b"xxx").unwrap() + 40;
    let mut client = app.client().await;
    client.send_head("POST", "/files", &[FORM, ("Content-Length", &length)]).await;
    client.send(&whole[..at]).await;
    let upload = crate::support::patience::until("the bytes arrive", async || {
        let newest = known_uploads(&mut asking).await.first().filter(|one| one["received"] == 40).cloned();
        newest.map(|one| one["links"]["upload"].as_str().unwrap().to_owned())
    })
    .await;
    client.rst();
    wait_until_at_rest(app.address(), &upload).await;
    let status = asking.status(&upload).await;
    assert_eq!((&status["offset"], &status["length"]), (&40.into(), &serde_json::Value::Null));
    let answer = put(&mut asking, &upload, "bytes 40-99/100", &[b'x'; 60]).await;
    assert_eq!(answer.status, 200, "it can be resumed: {answer:?}");
    is_stored(&mut asking, &upload, &[b'x'; 100]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_bounded_before_and_behind_the_file() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let large = text("note", &[b'a'; 10_000]);
    let answer = post(&mut client, &form(&[large.clone(), file("a", b"hello")])).await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "metadata-too-large"));
    assert_eq!(known(&app).await, 0);
    let answer = post(&mut client, &form(&[file("a", b"hello"), large])).await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "metadata-too-large"));
    assert_eq!(client.status(&path_of(&answer)).await["offset"], 5, "it is known where it is");
    let answer = post(&mut client, &form(&[text("filename", b"x"), file("a", b"hello")])).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-metadata"), "a name that is taken");
    let many: Vec<Vec<u8>> = (0..80).map(|at| text(&format!("k{at}"), b"")).collect();
    let answer = post(&mut client, &form(&[many.concat(), file("a", b"hello")])).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-metadata"), "too many");
    for content_type in ["multipart/form-data", "multipart/form-data; boundary="] {
        let answer = client.request("POST", "/files", &[("Content-Type", content_type)], b"x").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-form"), "{content_type}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_too_long_leaves_nothing() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    let answer = post(&mut client, &form(&[file("a", &[b'x'; 101])])).await;
    assert_eq!((answer.status, answer.problem().as_str(), answer.header("location")), (413, "over-limit", None));
    wait_until_nothing_is_stored(&app).await;
    assert_eq!(known_uploads(&mut client).await[0]["stage"], "terminated", "no task waits for more of it");
    let answer = post(&mut client, &form(&[file("a", &[b'x'; 100])])).await;
    assert_eq!(answer.status, 201, "and one of just that size is taken: {answer:?}");
}
