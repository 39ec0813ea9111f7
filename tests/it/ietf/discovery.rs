//! Discovery: supported features and versions.

use std::time::Duration;

use crate::ietf::{END, MORE, NUMBERS, begin, create, end_in, limit, location, send, version};
use crate::support::app::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn options_tells_the_limits() {
    let app = TestApp::with(|config| {
        config.engine.max_upload_bytes = 12_345;
        config.engine.lifetimes.unfinished_expiry = Duration::from_secs(600);
    })
    .await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(5)).await;
    for path in ["/files", "/files/", upload.as_str()] {
        let answer = client.request("OPTIONS", path, &[], b"").await;
        assert_eq!(answer.status, 204, "ietf 5: {path}");
        assert_eq!(limit(&answer, "max-size"), Some(12_345), "ietf 5, 6 and 10: {path}");
        assert_eq!(limit(&answer, "max-age"), Some(600), "ietf 15: {path}");
        let patches = "application/partial-upload, application/offset+octet-stream";
        assert_eq!(answer.header("accept-patch"), Some(patches), "ietf 9, dialects 2: {path}");
        assert!(answer.header("tus-version").is_some(), "dialects 2: one answer for all dialects: {path}");
    }
    // ietf 8: the announced limits are applied.
    assert_eq!(create(&mut client, &[MORE, ("Upload-Length", "12345")], b"").await.status, 201, "ietf 8");
    assert_eq!(create(&mut client, &[MORE, ("Upload-Length", "12346")], b"").await.status, 413, "ietf 8");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_configured_version_are_told_where_their_upload_is_before_the_answer() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for number in NUMBERS {
        let answer = create(&mut client, &[version(number), end_in(number, true)], b"hello").await;
        assert_eq!(answer.status, 201, "ietf 1: {number}: {answer:?}");
        assert_eq!(answer.header("upload-draft-interop-version"), Some(number), "ietf 4");
        let begun = &client.interim[0];
        assert_eq!((begun.status, begun.reason.as_str()), (104, "Upload Resumption Supported"), "ietf 21: {number}");
        assert_eq!(begun.header("upload-draft-interop-version"), Some(number), "ietf 1");
        assert_eq!(begun.header("location"), answer.header("location"), "ietf 27");
        assert!(limit(begun, "max-size").is_some(), "ietf 21");
        assert_eq!(limit(begun, "expires").is_some(), number == "6", "ietf 18");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_served_without_interim_responses() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    // ietf 2 and 3: no number, a number that is not configured, and values that are not integers.
    for number in ["", "4", "11", "99", "\"8\"", "8.0", "8, 8", "-8", "?1", "8 8", "1000000000000000"] {
        let headers = [version(number), END];
        let headers = if number.is_empty() { &headers[1..] } else { &headers };
        let answer = create(&mut client, headers, b"hello").await;
        assert_eq!(answer.status, 201, "ietf 2: {number:?}: {answer:?}");
        assert_eq!(answer.header("upload-complete"), Some("?1"), "ietf 2: {number:?}");
        assert!(answer.header("location").is_some(), "ietf 2: {number:?}");
        assert!(client.interim.is_empty(), "ietf 2: no 104 at all: {number:?}");
        assert_eq!(answer.header("upload-draft-interop-version"), None, "ietf 4: nothing to echo: {number:?}");
    }
    let answer = create(&mut client, &[version("8;x=1"), END], b"hello").await;
    assert_eq!(answer.header("upload-draft-interop-version"), Some("8"), "ietf 3: parameters do not matter");
    assert_eq!(client.interim.len(), 1, "ietf 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn which_versions_are_spoken_is_configured() {
    let app = TestApp::with(|config| config.protocols.ietf_interop_versions = vec![4, 11]).await;
    let mut client = app.client().await;
    for (number, spoken) in [("4", true), ("11", true), ("3", false), ("8", false)] {
        let answer = create(&mut client, &[version(number), end_in(number, false)], b"hello").await;
        assert_eq!(answer.status, 201, "{number}");
        assert_eq!(answer.header("upload-draft-interop-version"), spoken.then_some(number), "ietf 1, 2: {number}");
        assert_eq!(client.interim.len(), usize::from(spoken), "ietf 1, 2: {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_is_echoed_on_every_answer() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = location(&create(&mut client, &[MORE], b"").await);
    let gone = "/files/0197b6a1-0000-7000-8000-000000000000";
    for number in NUMBERS {
        for (method, path, status) in [
            ("HEAD", upload.as_str(), 204),
            ("GET", upload.as_str(), 204),
            ("HEAD", gone, 404),
            ("PUT", upload.as_str(), 405),
            ("DELETE", gone, 404),
        ] {
            let answer = send(&mut client, method, path, &[version(number)], b"").await;
            assert_eq!(answer.status, status, "{number} {method} {path}");
            assert_eq!(answer.header("upload-draft-interop-version"), Some(number), "ietf 4: {method} {path}");
            assert!(client.interim.is_empty(), "ietf 21: 104 is for creations and appends");
        }
    }
}
