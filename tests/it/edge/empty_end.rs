//! A body of unknown size at the end of a complete upload: it is valid as long as it has no byte.
//!
//! Some clients begin such a request before they know whether anything is left to send; tus-java-client does
//! so for every file whose size is a multiple of its payload size.

use crate::edge::{begun, fill};
use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS, TUS};
use crate::{ietf, ranged};

const CHUNKED: (&str, &str) = ("Transfer-Encoding", "chunked");
const EXPECT: (&str, &str) = ("Expect", "100-continue");

/// Sends a chunked body, after `100` where the client waits for it.
async fn send(app: &TestApp, method: &str, path: &str, headers: &[(&str, &str)], chunks: &[&[u8]]) -> Answer {
    let mut client = app.client().await;
    let mut all = headers.to_vec();
    all.push(CHUNKED);
    client.send_head(method, path, &all).await;
    if headers.contains(&EXPECT) {
        assert_eq!(client.next_interim().await.status, 100, "{method} {headers:?}: the body is wanted");
    }
    for chunk in chunks {
        client.send_chunk(chunk).await;
    }
    client.send_chunk(b"").await;
    client.raw_answer(method).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_more_is_taken_at_the_end_of_every_complete_upload() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let over = ("X-HTTP-Method-Override", "PATCH");
    let at = ("Upload-Offset", "10");
    for (protocol, method, headers, status, content) in [
        ("tus", "PATCH", vec![TUS, OCTETS, at], 204, 413),
        ("tus", "POST", vec![TUS, OCTETS, at, over], 204, 413),
        ("ietf", "PATCH", vec![ietf::PARTIAL, ietf::END, at], 201, 400),
        ("ietf", "PATCH", vec![ietf::PARTIAL, ietf::MORE, at], 201, 400),
        ("google", "PUT", vec![("Content-Range", "bytes 10-*/*")], 200, 400),
        ("google", "PUT", vec![("Content-Range", "bytes */10")], 200, 400),
        ("google", "POST", vec![("Content-Range", "bytes */*")], 200, 400),
        ("ranged", "PUT", vec![("Content-Range", "bytes 10-*/*")], 200, 400),
        ("ranged", "PUT", vec![("Content-Range", "bytes */10")], 200, 400),
    ] {
        let path = begun(&mut client, protocol).await;
        fill(&mut client, protocol, &path).await;
        for expect in [None, Some(EXPECT)] {
            let headers = headers.iter().copied().chain(expect).collect::<Vec<_>>();
            let answer = send(&app, method, &path, &headers, &[]).await;
            assert_eq!(answer.status, status, "{protocol} {method} {headers:?}: {answer:?}");
            let answer = send(&app, method, &path, &headers, &[b"more"]).await;
            assert_eq!(answer.status, content, "{protocol} {method} {headers:?}: a byte is too many: {answer:?}");
        }
        is_whole(&mut client, &path).await;
    }
}

async fn is_whole(client: &mut Client, path: &str) {
    assert_eq!(client.get(path).await.body, b"0123456789");
    assert_eq!(client.status(path).await["stage"], "completed", "no dialect lets an overflow fail it now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_no_bytes_may_be_followed_by_an_empty_append() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let created = send(&app, "POST", "/files", &[TUS, OCTETS, ("Upload-Length", "0")], &[]).await;
    assert_eq!((created.status, created.header("upload-offset")), (201, Some("0")), "{created:?}");
    let path = ranged::path_of(&created);
    let answer = send(&app, "PATCH", &path, &[TUS, OCTETS, ("Upload-Offset", "0")], &[]).await;
    assert_eq!((answer.status, answer.header("upload-offset")), (204, Some("0")), "{answer:?}");
    assert_eq!(client.status(&path).await["stage"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_it_is_still_told() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = begun(&mut client, "tus").await;
    fill(&mut client, "tus", &path).await;
    let answer = send(&app, "PATCH", &path, &[TUS, OCTETS, ("Upload-Offset", "5")], &[]).await;
    assert_eq!((answer.status, answer.header("upload-offset")), (409, Some("10")), "another offset");
    let announced = client.patch(&path, 10, b"more").await;
    assert_eq!((announced.status, announced.problem().as_str()), (413, "upload-complete"), "bytes that were announced");
    let wrong = ("Upload-Checksum", "crc32 AAAAAQ==");
    let answer = send(&app, "PATCH", &path, &[TUS, OCTETS, ("Upload-Offset", "10"), wrong], &[]).await;
    assert_eq!(answer.status, 460, "a checksum of something else");

    let part = crate::tus::completed(&mut client, &[("Upload-Concat", "partial")], b"hello").await;
    let answer = send(&app, "PATCH", &part, &[TUS, OCTETS, ("Upload-Offset", "5")], &[]).await;
    assert_eq!(answer.status, 204, "a partial upload is like any other: {answer:?}");
    let joined = client.tus("POST", "/files", &[("Upload-Concat", &format!("final;{part}"))], b"").await;
    let joined = ranged::path_of(&joined);
    let answer = send(&app, "PATCH", &joined, &[TUS, OCTETS, ("Upload-Offset", "5")], &[]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (403, "final-upload"));
}
