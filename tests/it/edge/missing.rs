//! Unknown uploads are not found, ended ones are gone, and each dialect reports that in its own form.

use std::time::Duration;

use crate::edge::{PROTOCOLS, begun};
use crate::ietf;
use crate::support::app::TestApp;
use crate::support::client::{OCTETS, TUS};
use crate::support::moving::wait_for_stage;

type Request = (&'static str, Vec<(&'static str, &'static str)>, &'static [u8]);

/// Returns every request to an upload, for each dialect.
fn requests() -> Vec<(&'static str, Request)> {
    let at = ("Upload-Offset", "0");
    let over = |method| ("X-HTTP-Method-Override", method);
    let mut requests: Vec<(&'static str, Request)> = vec![
        ("plain", ("HEAD", vec![], b"")),
        ("plain", ("GET", vec![], b"")),
        ("plain", ("DELETE", vec![], b"")),
        ("tus", ("HEAD", vec![TUS], b"")),
        ("tus", ("GET", vec![TUS], b"")),
        ("tus", ("DELETE", vec![TUS], b"")),
        ("tus", ("PATCH", vec![TUS, OCTETS, at], b"hello")),
        ("tus", ("POST", vec![TUS, OCTETS, at, over("PATCH")], b"hello")),
        ("tus", ("POST", vec![TUS, over("DELETE")], b"")),
        ("ranged", ("PUT", vec![("Content-Range", "bytes 0-4/10")], b"hello")),
        ("ranged", ("PUT", vec![("Content-Range", "bytes */*")], b"")),
        ("ranged", ("PUT", vec![("Content-Range", "bytes */10")], b"")),
        ("google", ("POST", vec![("Content-Range", "bytes 0-4/10")], b"hello")),
        ("google", ("POST", vec![("Content-Range", "bytes */*")], b"")),
    ];
    for number in ietf::NUMBERS {
        let version = ietf::version(number);
        let mut append = vec![version, ietf::end_in(number, true), at];
        if !matches!(number, "3" | "5") {
            append.push(ietf::PARTIAL);
        }
        requests.push(("ietf", ("HEAD", vec![version], b"")));
        requests.push(("ietf", ("GET", vec![version], b"")));
        requests.push(("ietf", ("DELETE", vec![version], b"")));
        requests.push(("ietf", ("PATCH", append, b"hello")));
    }
    requests.push(("ietf", ("PATCH", vec![ietf::PARTIAL, ietf::END, at], b"hello")));
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_there_is_not_found() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for path in ["/files/0197b6a1-0000-7000-8000-000000000000", "/files/nonsense", "/files/a.mp4"] {
        for (protocol, (method, headers, body)) in requests() {
            let answer = client.request(method, path, &headers, body).await;
            let why = format!("{protocol} {method} {path} {headers:?}: {answer:?}");
            assert_eq!(answer.status, 404, "{why}");
            assert_eq!(
                answer.header("tus-resumable").is_some(),
                !["ietf", "ranged", "google"].contains(&protocol),
                "{why}"
            );
            if method != "HEAD" {
                assert_eq!(answer.problem(), "no-such-upload", "{why}");
            }
        }
    }
    assert_eq!(crate::ranged::known(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_gone() {
    // Long enough to create every upload on a busy machine; all expire at about the same time.
    let app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = Duration::from_secs(4)).await;
    let mut client = app.client().await;
    let mut ended = Vec::new();
    for created_in in PROTOCOLS {
        let terminated = begun(&mut client, created_in).await;
        client.request("DELETE", &terminated, &[TUS], b"").await;
        ended.push((created_in, "terminated", terminated));
        ended.push((created_in, "expired", begun(&mut client, created_in).await));
    }
    for (created_in, stage, path) in ended {
        wait_for_stage(app.address(), &path, stage).await;
        for (protocol, (method, headers, body)) in requests() {
            // Up to version 6 the draft has only "not found".
            let is_old = ["3", "5", "6"].iter().any(|number| headers.contains(&ietf::version(number)));
            let answer = client.request(method, &path, &headers, body).await;
            let why = format!("{protocol} {method} of {created_in} {headers:?}: {answer:?}");
            assert_eq!(answer.status, if is_old { 404 } else { 410 }, "{why}");
            assert_eq!(answer.header("upload-offset"), None, "{why}");
        }
    }
}
