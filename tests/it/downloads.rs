//! GET: the bytes of a completed upload, ranges of them, and conditional requests.

use tokio::io::AsyncReadExt;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::patience::until;
use crate::tus::{base64, completed, create_with};

const BYTES: &[u8] = b"0123456789";

async fn get(client: &mut Client, upload: &str, headers: &[(&str, &str)]) -> Answer {
    client.request("GET", upload, headers, b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_the_upload_and_cannot_act() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let metadata = format!("filename {},filetype {}", base64("page.html"), base64("text/html"));
    let page = b"<script>alert(1)</script>";
    let upload = completed(&mut client, &[("Upload-Metadata", &metadata)], page).await;
    let answer = get(&mut client, &upload, &[]).await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &page[..]));
    assert_eq!(answer.header("content-length"), Some("25"));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"page.html\""));
    assert_eq!(answer.header("content-security-policy"), Some("sandbox; default-src 'none'"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-site"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
    let etag = answer.header("etag").expect("a strong tag");
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2);
    assert!(httpdate::parse_http_date(answer.header("last-modified").unwrap()).is_ok());

    let plain = completed(&mut client, &[], BYTES).await;
    let answer = get(&mut client, &plain, &[]).await;
    assert_eq!(answer.header("content-type"), Some("text/plain"), "the detected type");
    assert_eq!(answer.header("content-disposition"), Some("attachment"));
    assert_ne!(answer.header("etag"), Some(etag), "each upload has its own tag");
}

/// No page, of this server or of another one, can use uploaded bytes as a script, a style sheet or a
/// document.
#[tokio::test(flavor = "multi_thread")]
async fn no_upload_is_served_as_what_browsers_run() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for named in
        ["text/javascript", "Application/ECMAScript", "application/wasm", "image/svg+xml", "text/xml", "text/css"]
    {
        let metadata = format!("filetype {},contentEncoding {}", base64(named), base64("gzip"));
        let upload = completed(&mut client, &[("Upload-Metadata", &metadata)], BYTES).await;
        for range in [&[][..], &[("Range", "bytes=0-0")]] {
            let answer = get(&mut client, &upload, range).await;
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"), "{named}");
            assert_eq!(answer.header("content-encoding"), None, "{named}: a client's word");
            assert!(answer.header("content-disposition").unwrap().starts_with("attachment"), "{named}");
        }
        let status = client.status(&upload).await;
        assert_eq!((&status["content_type"], &status["metadata"]["contentEncoding"]), (&named.into(), &"gzip".into()));
    }
}

/// A response can be used by the pages that may read it, and by no other.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_for_pages_that_may_read_them() {
    let open = TestApp::with(|config| {
        config.auth.token = Some(longshore::config::SecretText::new("correct-horse-battery-staple".to_owned()));
    })
    .await;
    let refused = open.client().await.get("/api/v1/uploads").await;
    assert_eq!(refused.header("cross-origin-resource-policy"), Some("cross-origin"), "with a token, all pages may");
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = completed(&mut client, &[], BYTES).await;
    for path in [upload.as_str(), "/api/v1/uploads", "/metrics", "/healthz"] {
        for (origin, reach) in [
            (None, "same-site"),
            (Some("https://evil.example"), "same-site"),
            (Some("http://localhost:3000"), "cross-origin"),
        ] {
            let headers: Vec<_> = origin.map(|origin| ("Origin", origin)).into_iter().collect();
            let answer = get(&mut client, path, &headers).await;
            assert_eq!(answer.header("cross-origin-resource-policy"), Some(reach), "{path} {origin:?}");
            assert_eq!(answer.header("vary"), Some("Origin"), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_download_comes_whole() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes: Vec<u8> = (0_u32..1_500_000).flat_map(|word| word.to_le_bytes()).collect();
    let upload = completed(&mut client, &[], &bytes).await;
    assert!(get(&mut client, &upload, &[]).await.body == bytes, "all of it, in order");
    let answer = get(&mut client, &upload, &[("Range", "bytes=3000001-4999999")]).await;
    assert_eq!(answer.status, 206);
    assert!(answer.body == bytes[3_000_001..5_000_000], "and any part of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_download_too_many_is_told_to_come_back_and_disturbs_nothing() {
    let app = TestApp::with(|config| config.engine.max_downloads = 1).await;
    let mut client = app.client().await;
    let upload = completed(&mut client, &[], &vec![b'x'; 8_000_000]).await;
    let mut reading = app.client().await;
    reading.send_head("GET", &upload, &[]).await;
    reading.read_until(b"\r\n\r\n").await.expect("the download begins");
    let refused = get(&mut client, &upload, &[]).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.json()["type"], "urn:longshore:problem:busy");
    let other = client.create(4).await;
    assert_eq!(client.patch(&other, 0, b"data").await.status, 204, "uploads go on");
    drop(reading);
    until("the place is free", async || (get(&mut client, &upload, &[]).await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = completed(&mut client, &[], BYTES).await;
    for (range, answered) in [
        ("bytes=0-0", Some((&b"0"[..], "bytes 0-0/10"))),
        ("bytes=0-4", Some((b"01234", "bytes 0-4/10"))),
        ("bytes=5-", Some((b"56789", "bytes 5-9/10"))),
        ("bytes=9-9", Some((b"9", "bytes 9-9/10"))),
        ("bytes=9-", Some((b"9", "bytes 9-9/10"))),
        ("bytes=5-999", Some((b"56789", "bytes 5-9/10"))),
        ("bytes=5-9223372036854775807", Some((b"56789", "bytes 5-9/10"))),
        ("bytes=-3", Some((b"789", "bytes 7-9/10"))),
        ("bytes=-10", Some((BYTES, "bytes 0-9/10"))),
        ("bytes=-999", Some((BYTES, "bytes 0-9/10"))),
        ("bytes=0-", Some((BYTES, "bytes 0-9/10"))),
        // A field that is not exactly one range of bytes is ignored (RFC 9110, 14.2).
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("bytes=+1-2", None),
        ("bytes=a-b", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes 0-4", None),
        ("pages=1-2", None),
        ("bytes=18446744073709551616-", None),
        ("", None),
    ] {
        let answer = get(&mut client, &upload, &[("Range", range)]).await;
        let (status, body, told) = match answered {
            Some((body, told)) => (206, body, Some(told)),
            None => (200, BYTES, None),
        };
        assert_eq!((answer.status, answer.body.as_slice()), (status, body), "{range:?}");
        assert_eq!(answer.header("content-range"), told, "{range:?}");
        assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()), "{range:?}");
        assert_eq!(answer.header("content-security-policy"), Some("sandbox; default-src 'none'"), "{range:?}");
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=9223372036854775807-"] {
        let answer = get(&mut client, &upload, &[("Range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */10")), "{range:?}");
    }
    let nothing = client.create(0).await;
    for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
        let answer = get(&mut client, &nothing, &[("Range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */0")), "{range:?} of nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = completed(&mut client, &[], BYTES).await;
    let answer = get(&mut client, &upload, &[]).await;
    let tag = answer.header("etag").unwrap().to_owned();
    let modified = answer.header("last-modified").unwrap().to_owned();
    let weak = format!("W/{tag}");
    let list = format!("\"other\", {tag}");
    let (before, after) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 06 Nov 2093 08:49:37 GMT");
    let range = ("Range", "bytes=0-4");
    for (headers, status) in [
        (&[("If-None-Match", tag.as_str())][..], 304),
        (&[("If-None-Match", &weak)], 304),
        (&[("If-None-Match", &list)], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", "\"other\"")], 200),
        (&[("If-None-Match", "\"other\""), ("If-Modified-Since", after)], 200),
        (&[("If-Modified-Since", &modified)], 304),
        (&[("If-Modified-Since", after)], 304),
        (&[("If-Modified-Since", before)], 200),
        (&[("If-Modified-Since", "yesterday")], 200),
        (&[("If-Match", &tag)], 200),
        (&[("If-Match", &list)], 200),
        (&[("If-Match", "*")], 200),
        (&[("If-Match", "\"other\"")], 412),
        // RFC 9110, 13.1.1: a weak tag does not identify the same bytes.
        (&[("If-Match", &weak)], 412),
        (&[("If-Match", "\"other\""), ("If-None-Match", &tag)], 412),
        (&[("If-Match", &tag), ("If-None-Match", &tag)], 304),
        (&[("If-Unmodified-Since", &modified)], 200),
        (&[("If-Unmodified-Since", after)], 200),
        (&[("If-Unmodified-Since", before)], 412),
        (&[("If-Unmodified-Since", "yesterday")], 200),
        (&[("If-Match", &tag), ("If-Unmodified-Since", before)], 200),
        (&[range, ("If-Range", &tag)], 206),
        (&[range, ("If-Range", &modified)], 206),
        (&[range, ("If-Range", &weak)], 200),
        (&[range, ("If-Range", "\"other\"")], 200),
        (&[range, ("If-Range", before)], 200),
        (&[("Range", "bytes=99-"), ("If-Range", "\"other\"")], 200),
        (&[range, ("If-None-Match", &tag)], 304),
        (&[range, ("If-Match", "\"other\"")], 412),
    ] {
        let answer = get(&mut client, &upload, headers).await;
        assert_eq!(answer.status, status, "{headers:?}");
        match status {
            200 => assert_eq!(answer.body, BYTES, "{headers:?}"),
            206 => assert_eq!(answer.body, &BYTES[..5], "{headers:?}"),
            304 => {
                assert_eq!(answer.header("etag"), Some(tag.as_str()), "{headers:?}");
                let kept = answer.header("cache-control");
                assert_eq!(kept, Some("private, no-cache"), "RFC 9110, 15.4.5: as with the whole answer");
            }
            _ => assert_eq!(answer.problem(), "changed", "{headers:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_upload_shows_how_far_it_is_and_no_byte() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let fresh = client.create(10).await;
    let begun = client.create(10).await;
    assert_eq!(client.patch(&begun, 0, b"01234").await.status, 204);
    let deferred = create_with(&mut client, &[("Upload-Defer-Length", "1")]).await;
    assert_eq!(client.patch(&deferred, 0, b"012").await.status, 204);
    for (upload, offset, length) in [(&fresh, "0", Some("10")), (&begun, "5", Some("10")), (&deferred, "3", None)] {
        for headers in [&[][..], &[("Range", "bytes=0-1")], &[("If-None-Match", "*")]] {
            let answer = get(&mut client, upload, headers).await;
            assert_eq!((answer.status, answer.header("upload-offset")), (409, Some(offset)), "{headers:?}");
            assert_eq!(answer.header("upload-length"), length);
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert!(answer.header("upload-expires").is_some());
            assert_eq!((answer.header("etag"), answer.header("content-range")), (None, None));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_is_gone_and_what_never_was_is_not_found() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = completed(&mut client, &[], BYTES).await;
    assert_eq!(client.tus("DELETE", &upload, &[], b"").await.status, 204);
    for (path, status) in [(upload.as_str(), 410), ("/files/0197b6a1-0000-7000-8000-000000000000", 404)] {
        for headers in [&[][..], &[("Range", "bytes=0-1")], &[("If-None-Match", "*")], &[("If-Match", "\"x\"")]] {
            let answer = get(&mut client, path, headers).await;
            assert_eq!(answer.status, status, "{path} {headers:?}");
            assert_eq!((answer.header("etag"), answer.header("content-disposition")), (None, None));
            assert_eq!(answer.header("cache-control"), Some("no-store"), "an error is not kept by caches");
            let body = String::from_utf8(answer.body).unwrap();
            assert!(!body.contains("0123") && !body.contains(app.folder().to_str().unwrap()), "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_needs_the_token_where_there_is_one() {
    let app = TestApp::from_file("[auth]\ntoken = \"a-token-of-many-letters\"\n", |_| {}).await;
    let mut client = app.client().await;
    let token = ("Authorization", "Bearer a-token-of-many-letters");
    let headers = [("Upload-Length", "10"), crate::support::client::OCTETS, token];
    let answer = client.tus("POST", "/files", &headers, BYTES).await;
    let upload = answer.header("location").unwrap().to_owned();
    assert_eq!(get(&mut client, &upload, &[token]).await.body, BYTES);
    for wrong in [
        &[][..],
        &[("Authorization", "Bearer a-token-of-many-letterz")],
        &[("Authorization", "Bearer a-token-of-many-letters-and-more")],
        &[("Authorization", "Bearer a-token")],
        &[("Authorization", "Bearer ")],
        &[("Authorization", "Basic a-token-of-many-letters")],
        &[("Authorization", "a-token-of-many-letters")],
    ] {
        let answer = get(&mut client, &upload, wrong).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{wrong:?}");
        assert_eq!(answer.header("etag"), None, "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_whose_upload_is_terminated_goes_on_or_ends_but_never_lies() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = vec![b'x'; 4_000_000];
    let upload = completed(&mut client, &[], &bytes).await;
    let mut reading = app.client().await;
    reading.send_head("GET", &upload, &[("Connection", "close")]).await;
    reading.read_until(b"\r\n\r\n").await.expect("the download begins");
    assert_eq!(client.tus("DELETE", &upload, &[], b"").await.status, 204);
    let mut rest = Vec::new();
    // A reset also ends the connection.
    let _ = reading.stream.read_to_end(&mut rest).await;
    assert!(rest.iter().all(|byte| *byte == b'x') && rest.len() <= bytes.len(), "its own bytes and no others");
    assert_eq!(client.get(&upload).await.status, 410);
}
