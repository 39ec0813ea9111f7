//! HEAD and GET of any HTTP client: complete uploads are described as they are served, and incomplete ones
//! are reported as incomplete.

use crate::edge::{PROTOCOLS, begun, fill};
use crate::ietf;
use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, TUS};
use crate::support::http2;
use crate::support::tls::Certificate;

/// Returns the headers that describe the bytes, without those that differ between responses.
fn said(answer: &Answer) -> Vec<(String, String)> {
    let own = ["x-request-id", "date"];
    let mut fields: Vec<_> = answer.headers.iter().filter(|(name, _)| !own.contains(&name.as_str())).cloned().collect();
    fields.sort();
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_says_what_a_get_would() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for protocol in PROTOCOLS {
        let path = begun(&mut client, protocol).await;
        fill(&mut client, protocol, &path).await;
        let (get, head) = (client.get(&path).await, client.request("HEAD", &path, &[], b"").await);
        assert_eq!((get.status, head.status), (200, 200), "{protocol}");
        assert_eq!(said(&head), said(&get), "{protocol}");
        for (name, value) in
            [("content-length", "10"), ("accept-ranges", "bytes"), ("content-disposition", "attachment")]
        {
            assert_eq!(head.header(name), Some(value), "{protocol}");
        }
        for name in ["etag", "last-modified", "content-type"] {
            assert!(head.header(name).is_some(), "{protocol}: {name}");
        }
        let tag = head.header("etag").unwrap();
        for (headers, status) in [
            ([("If-None-Match", tag)], 304),
            ([("If-Match", "\"another\"")], 412),
            ([("Range", "bytes=2-3")], 200),
            ([("Range", "bytes=99-")], 200),
        ] {
            let answer = client.request("HEAD", &path, &headers, b"").await;
            assert_eq!(answer.status, status, "{protocol}: {headers:?}");
            assert_eq!(answer.header("content-range"), None, "RFC 9110, 14.2: {headers:?}");
        }
        assert_eq!(client.get(&path).await.body, b"0123456789", "{protocol}: the connection is as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_may_stand_in_several_lines() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = begun(&mut client, "tus").await;
    fill(&mut client, "tus", &path).await;
    let tag = client.get(&path).await.header("etag").unwrap().to_owned();
    let other = "\"another\"";
    for (headers, status) in [
        ([("If-None-Match", other), ("If-None-Match", tag.as_str())], 304),
        ([("If-Match", other), ("If-Match", tag.as_str())], 200),
        ([("If-Match", other), ("If-Match", other)], 412),
        ([("Range", "Bytes=2-3"), ("If-Range", tag.as_str())], 206),
        ([("Range", "bytes=2-3"), ("Range", "bytes=5-6")], 200),
    ] {
        let answer = client.request("GET", &path, &headers, b"").await;
        assert_eq!(answer.status, status, "RFC 9110, 5.3 and 14.1: {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_over_http2_says_it_too() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| certificate.configure(config)).await;
    let mut client = http2::Client::connect(app.address(), &certificate).await;
    let path = client.create(0).await;
    let head = client.begin("HEAD", &path, &[], true).await.answer("HEAD").await;
    assert_eq!(
        (head.status, head.header("content-length"), head.header("accept-ranges")),
        (200, Some("0"), Some("bytes"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_head_is_answered_in_its_protocol() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for protocol in PROTOCOLS {
        let path = begun(&mut client, protocol).await;
        fill(&mut client, protocol, &path).await;
        let of_tus = client.request("HEAD", &path, &[TUS], b"").await;
        let told = (of_tus.status, of_tus.header("upload-offset"), of_tus.header("cache-control"));
        assert_eq!(told, (200, Some("10"), Some("no-store")), "{protocol}");
        let of_ietf = client.request("HEAD", &path, &[ietf::version("8")], b"").await;
        assert_eq!((of_ietf.status, of_ietf.header("upload-complete")), (204, Some("?1")), "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_complete_tells_its_offset_to_head_and_is_no_download() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for protocol in PROTOCOLS {
        let path = begun(&mut client, protocol).await;
        let head = client.request("HEAD", &path, &[], b"").await;
        assert_eq!((head.status / 100, head.header("upload-offset")), (2, Some("0")), "{protocol}: {head:?}");
        let get = client.get(&path).await;
        if protocol == "ietf" {
            // Draft, 4.3.2: GET reports the same as HEAD.
            assert_eq!((get.status, get.header("upload-complete")), (204, Some("?0")), "{get:?}");
            continue;
        }
        assert_eq!((get.status, get.problem().as_str()), (409, "not-complete"), "{protocol}");
        assert_eq!(get.json()["detail"], "the upload is not complete: 0 of 10 bytes are received", "{protocol}");
        assert_eq!((get.header("upload-offset"), get.header("upload-length")), (Some("0"), Some("10")), "{protocol}");
    }
    let of_unknown_length = deferred(&mut client).await;
    let get = client.get(&of_unknown_length).await;
    assert_eq!((get.status, get.header("upload-length")), (409, None), "{get:?}");
}

async fn deferred(client: &mut Client) -> String {
    crate::tus::create_with(client, &[("Upload-Defer-Length", "1")]).await
}
