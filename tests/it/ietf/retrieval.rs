//! The location of an upload: HEAD and GET.

use std::time::Duration;

use crate::ietf::{
    END, MORE, NUMBERS, append, begin, begin_chunked, create, end_in, limit, location, offset, send, version,
};
use crate::support::app::TestApp;
use crate::tus::wait_for_status;

#[tokio::test(flavor = "multi_thread")]
async fn head_and_get_tell_the_same_of_an_unfinished_upload() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let known = location(&create(&mut client, &[MORE, ("Upload-Length", "9")], b"hel").await);
    let unknown = location(&create(&mut client, &[MORE], b"hello").await);
    for number in NUMBERS.into_iter().map(Some).chain([None]) {
        let (name, value) = end_in(number.unwrap_or_default(), false);
        let headers: Vec<_> = number.map(version).into_iter().collect();
        for (upload, at, length) in [(&known, "3", Some("9")), (&unknown, "5", None)] {
            for method in ["HEAD", "GET"] {
                let answer = send(&mut client, method, upload, &headers, b"").await;
                assert_eq!(answer.status, 204, "ietf 40, 41: {method} {number:?}");
                assert_eq!(answer.header("upload-offset"), Some(at), "ietf 40, 41: {method} {number:?}");
                assert_eq!(answer.header("upload-length"), length, "ietf 31, 40, 41: {method} {number:?}");
                assert_eq!(answer.header(&name.to_ascii_lowercase()), Some(value), "ietf 40: {method} {number:?}");
                assert_eq!(answer.header("cache-control"), Some("no-store"), "ietf 40: {method}");
                assert!(limit(&answer, "max-size").is_some(), "ietf 40: {method}");
                assert!(limit(&answer, "max-age").is_some_and(|left| left > 86_000), "ietf 15: {method}");
                assert_eq!(limit(&answer, "expires").is_some(), number == Some("6"), "ietf 18: {method} {number:?}");
                assert!(answer.header("upload-expires").is_some(), "dialects 4: the fields of all dialects");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_upload_is_downloaded_with_its_offset_beside_it() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = location(&create(&mut client, &[END, ("Content-Type", "text/plain")], b"hello").await);
    for headers in [vec![version("8")], vec![]] {
        let head = send(&mut client, "HEAD", &upload, &headers, b"").await;
        // A client that names no version may be any HTTP client, and learns what GET would answer.
        let status = if headers.is_empty() { 200 } else { 204 };
        assert_eq!((head.status, head.header("upload-complete")), (status, Some("?1")), "ietf 40: {headers:?}");
        let get = send(&mut client, "GET", &upload, &headers, b"").await;
        assert_eq!((get.status, get.body.as_slice()), (200, &b"hello"[..]), "dialects 4: {headers:?}");
        for (name, value) in [("upload-offset", "5"), ("upload-complete", "?1"), ("upload-length", "5")] {
            assert_eq!(get.header(name), Some(value), "ietf 41, dialects 4: {headers:?}");
            assert_eq!(head.header(name), Some(value), "ietf 40: {headers:?}");
        }
        assert_eq!(limit(&get, "max-age"), None, "it does not expire");
    }
    let part = send(&mut client, "GET", &upload, &[("Range", "bytes=1-2")], b"").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"el"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_tells_no_offset() {
    let app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = Duration::from_secs(1)).await;
    let mut client = app.client().await;
    let cancelled = begin(&mut client, Some(5)).await;
    assert_eq!(client.request("DELETE", &cancelled, &[], b"").await.status, 204);
    let expired = begin(&mut client, Some(5)).await;
    wait_for_status(&mut client, &expired, |status| status["stage"] == "expired").await;
    let unknown = "/files/0197b6a1-0000-7000-8000-000000000000";
    for number in NUMBERS {
        let gone = if ["3", "5", "6"].contains(&number) { 404 } else { 410 };
        for (upload, status) in [(cancelled.as_str(), gone), (&expired, gone), (unknown, 404)] {
            for method in ["HEAD", "GET"] {
                let answer = send(&mut client, method, upload, &[version(number)], b"").await;
                assert_eq!(answer.status, status, "ietf 42: {method} {upload} {number}");
                assert_eq!(answer.header("upload-offset"), None, "ietf 42: {method} {upload} {number}");
            }
        }
    }
    assert_eq!(send(&mut client, "HEAD", &expired, &[], b"").await.status, 410, "ietf 42: and unmarked");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_carry_fields_of_an_upload_are_refused_where_the_version_says_so() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(5)).await;
    for number in NUMBERS {
        let strict = ["3", "5", "6"].contains(&number);
        for own in [("Upload-Offset", "0"), ("Upload-Complete", "?1"), ("Upload-Length", "5")] {
            let head = send(&mut client, "HEAD", &upload, &[version(number), own], b"").await;
            assert_eq!(head.status, if strict { 400 } else { 204 }, "ietf 46: HEAD {number} {own:?}");
        }
        if strict {
            let delete = send(&mut client, "DELETE", &upload, &[version(number), ("Upload-Offset", "0")], b"").await;
            assert_eq!(delete.status, 400, "ietf 46: DELETE {number}");
        }
    }
    assert_eq!(offset(&mut client, &upload).await, (0, false), "ietf 46: a refused DELETE changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_told_offset_is_what_the_next_append_may_name() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(300)).await;
    let mut sending = app.client().await;
    begin_chunked(&mut sending, &upload, &[("Upload-Offset", "0"), END]).await;
    sending.send_chunk(&[b'x'; 100]).await;
    wait_for_status(&mut client, &upload, |status| status["received"] == 100).await;
    assert_eq!(offset(&mut client, &upload).await, (100, false), "ietf 44, 65: received bytes count");
    // Bytes that the old connection still delivers.
    sending.send_chunk(&[b'z'; 100]).await;
    let answer = append(&mut client, &upload, 100, true, &[b'y'; 200]).await;
    assert_eq!(answer.status, 201, "ietf 44, 65: the newest request wins: {answer:?}");
    let body = crate::ietf::download(&mut client, &upload).await;
    assert_eq!(body, [[b'x'; 100].as_slice(), &[b'y'; 200]].concat(), "ietf 66: nothing is mixed in");
}
