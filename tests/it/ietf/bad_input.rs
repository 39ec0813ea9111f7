//! Invalid requests: each gets a clear response and changes nothing.

use crate::ietf::{END, MORE, PARTIAL, append, begin, count, create, limit, location, offset, send, version};
use crate::support::app::TestApp;
use crate::support::client::TUS;

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_two_dialects_are_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(5)).await;
    let range = ("Content-Range", "bytes 0-4/5");
    for (method, path, headers) in [
        ("POST", "/files", vec![TUS, END]),
        ("POST", "/files", vec![TUS, ("Upload-Incomplete", "?0")]),
        ("PUT", "/files", vec![END, range]),
        ("PATCH", upload.as_str(), vec![TUS, PARTIAL, ("Upload-Offset", "0"), END]),
        ("PATCH", upload.as_str(), vec![PARTIAL, ("Upload-Offset", "0"), END, range]),
        ("PUT", upload.as_str(), vec![version("8"), range]),
    ] {
        let answer = client.request(method, path, &headers, b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "mixed-dialects"), "{method} {headers:?}");
    }
    assert_eq!((count(&mut client).await, offset(&mut client, &upload).await), (1, (0, false)), "nothing happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_not_one_integer_count_as_absent() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, None).await;
    for (at, status) in [
        ("0", 204),
        ("000", 204),
        ("0;foo", 204),
        ("0;foo=1;bar", 204),
        ("0, 0", 400),
        ("-0", 204),
        ("-1", 400),
        ("0.0", 400),
        ("\"0\"", 400),
        ("+0", 400),
        ("0x0", 400),
        ("?0", 400),
        ("1000000000000000", 400),
        ("999999999999999", 409),
    ] {
        let answer = send(&mut client, "PATCH", &upload, &[PARTIAL, ("Upload-Offset", at), MORE], b"").await;
        assert_eq!(answer.status, status, "ietf 52, 77, 78: {at:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_are_not_one_integer_count_as_absent() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for length in ["5, 5", "-5", "5.0", "\"5\"", "1000000000000000", "five"] {
        let answer = create(&mut client, &[MORE, ("Upload-Length", length)], b"hello!").await;
        assert_eq!(answer.status, 201, "ietf 31, 78: {length:?}");
        let told = send(&mut client, "HEAD", &location(&answer), &[], b"").await;
        assert_eq!(told.header("upload-length"), None, "ietf 31, 78: {length:?}");
    }
    let twice = [MORE, ("Upload-Length", "5"), ("Upload-Length", "5")];
    assert_eq!(create(&mut client, &twice, b"hello!").await.status, 201, "ietf 78: two lines are none");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_size_can_be_told() {
    // ietf 77: the configured limit is below the largest Integer.
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 900 << 40).await;
    let mut client = app.client().await;
    let answer = client.request("OPTIONS", "/files", &[], b"").await;
    let told = limit(&answer, "max-size").unwrap();
    assert!(told == 900 << 40 && told <= 999_999_999_999_999, "ietf 77: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_has_no_body_on_head() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(5)).await;
    let refused = send(&mut client, "HEAD", &upload, &[version("6"), ("Upload-Offset", "0")], b"").await;
    assert_eq!(refused.status, 400, "ietf 46, 79");
    // The client would take a body for the next response.
    assert_eq!(append(&mut client, &upload, 0, true, b"hello").await.status, 201, "ietf 79");
}
