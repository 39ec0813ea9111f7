//! Creations: careful ones without data, optimistic ones with some of it, and whole uploads in one request.

use std::time::Duration;

use crate::ietf::{
    END, INCONSISTENT_LENGTH, MORE, NUMBERS, append, count, create, download, end_in, kind, limit, location, offset,
    send, version,
};
use crate::support::app::TestApp;
use crate::tus::wait_for_status;

#[tokio::test(flavor = "multi_thread")]
async fn every_method_with_content_creates() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for method in ["POST", "PUT", "PATCH"] {
        let answer = send(&mut client, method, "/files", &[END, ("Content-Type", "video/mp4")], b"hello").await;
        assert_eq!(answer.status, 201, "ietf 19: {method}: {answer:?}");
        assert_eq!(download(&mut client, &location(&answer)).await, b"hello", "ietf 19: {method}");
    }
    for method in ["GET", "DELETE"] {
        assert_eq!(send(&mut client, method, "/files", &[END], b"").await.status, 405, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_may_bring_nothing_some_or_all() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for number in NUMBERS {
        let more = [version(number), end_in(number, false)];
        let told = end_in(number, false).0.to_ascii_lowercase();
        let careful = create(&mut client, &more, b"").await;
        assert_eq!(careful.status, 201, "ietf 23, 24: {number}");
        assert_eq!(careful.header("upload-offset"), Some("0"), "ietf 24: {number}");
        assert_eq!(careful.header(&told), Some(end_in(number, false).1), "ietf 23: {number}");
        assert!(limit(&careful, "max-size").is_some() && limit(&careful, "max-age").is_some(), "ietf 23: {number}");
        assert_eq!(client.status(&location(&careful)).await["protocol"], "ietf");

        let some = create(&mut client, &more, b"hel").await;
        assert_eq!((some.status, some.header("upload-offset")), (201, Some("3")), "ietf 23: {number}");
        assert_eq!(some.header(&told), Some(end_in(number, false).1), "ietf 23: {number}");
        assert_eq!(offset(&mut client, &location(&some)).await, (3, false), "ietf 23: {number}");

        let all = create(&mut client, &[version(number), end_in(number, true)], b"hello").await;
        assert_eq!((all.status, all.header("upload-offset")), (201, Some("5")), "ietf 25: {number}");
        assert_eq!(all.header(&told), Some(end_in(number, true).1), "ietf 25: {number}");
        assert_eq!(offset(&mut client, &location(&all)).await, (5, true), "ietf 25, 28: {number}");
        assert_eq!(client.status(&location(&all)).await["length"], 5, "ietf 28: {number}");
        assert_eq!(download(&mut client, &location(&all)).await, b"hello", "ietf 25: {number}");

        let empty = create(&mut client, &[version(number), end_in(number, true)], b"").await;
        assert_eq!((empty.status, empty.header(&told)), (201, Some(end_in(number, true).1)), "ietf 26: {number}");
        assert_eq!(download(&mut client, &location(&empty)).await, b"", "ietf 26: {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_are_taken_from_either_indicator_and_must_agree() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (headers, body, length) in [
        (vec![MORE, ("Upload-Length", "9")], &b"hel"[..], Some("9")),
        (vec![MORE, ("Upload-Length", "9")], b"", Some("9")),
        (vec![MORE, ("Upload-Length", "3")], b"hel", Some("3")),
        (vec![MORE], b"hel", None),
        (vec![MORE], b"", None),
        (vec![END, ("Upload-Length", "3")], b"hel", Some("3")),
        (vec![END], b"hel", Some("3")),
    ] {
        let created = create(&mut client, &headers, body).await;
        assert_eq!(created.status, 201, "ietf 28, 29: {headers:?}");
        let told = send(&mut client, "HEAD", &location(&created), &[], b"").await;
        assert_eq!(told.header("upload-length"), length, "ietf 28, 29, 31: {headers:?}");
    }
    let before = count(&mut client).await;
    for (headers, body) in [
        (vec![END, ("Upload-Length", "4")], &b"hello"[..]),
        (vec![END, ("Upload-Length", "6")], b"hello"),
        (vec![END, ("Upload-Length", "6")], b""),
        (vec![MORE, ("Upload-Length", "4")], b"hello"),
    ] {
        let answer = create(&mut client, &headers, body).await;
        assert_eq!((answer.status, kind(&answer).as_str()), (400, INCONSISTENT_LENGTH), "ietf 29, 30: {headers:?}");
        assert_eq!(answer.header("upload-complete"), Some("?0"), "ietf 29: {headers:?}");
        assert_eq!(answer.header("location"), None, "nothing was created");
    }
    assert_eq!(count(&mut client).await, before, "nothing was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_creations_end_where_they_say() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (headers, chunks, status, complete, size) in [
        (vec![END], vec!["hel", "lo"], 201, true, 5),
        (vec![END], vec![], 201, true, 0),
        (vec![MORE], vec!["hel", "lo"], 201, false, 5),
        (vec![END, ("Upload-Length", "5")], vec!["hel", "lo"], 201, true, 5),
        (vec![END, ("Upload-Length", "9")], vec!["hel", "lo"], 400, false, 5),
    ] {
        let mut all = vec![("Transfer-Encoding", "chunked")];
        all.extend_from_slice(&headers);
        client.send_head("POST", "/files", &all).await;
        for chunk in &chunks {
            client.send_chunk(chunk.as_bytes()).await;
        }
        client.send_chunk(b"").await;
        let answer = client.answer("POST").await;
        assert_eq!(answer.status, status, "ietf 25, 56: {headers:?}: {answer:?}");
        assert_eq!(answer.header("upload-complete"), Some(if complete { "?1" } else { "?0" }), "{headers:?}");
        // ietf 33: the response to a rejected request also contains the location of the upload.
        assert_eq!(offset(&mut client, &location(&answer)).await, (size, complete), "ietf 33, 56: {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_upload_is_complete_only_when_its_client_says_so() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (number, leniency) in [("5", true), ("6", true), ("8", false), ("9", false), ("10", false)] {
        let nothing = [version(number), MORE, ("Upload-Length", "0")];
        let answer = create(&mut client, &nothing, b"").await;
        let complete = if leniency { "?1" } else { "?0" };
        assert_eq!(answer.header("upload-complete"), Some(complete), "dialects 3: {number}");
        let upload = location(&answer);
        assert_eq!(offset(&mut client, &upload).await, (0, leniency), "ietf 49, dialects 3: {number}");
        if !leniency {
            let stage = client.status(&upload).await["stage"].clone();
            assert_eq!(stage, "created", "ietf 49: {number}");
            assert_eq!(append(&mut client, &upload, 0, true, b"").await.status, 201, "ietf 49: {number}");
            assert_eq!(offset(&mut client, &upload).await, (0, true), "ietf 49: {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_creation_keeps_what_arrived_and_is_not_complete() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for reset in [false, true] {
        let mut cut = app.client().await;
        cut.send_head("POST", "/files", &[version("6"), END, ("Content-Length", "100")]).await;
        let upload = location(&cut.next_interim().await);
        cut.send(&[b'x'; 40]).await;
        wait_for_status(&mut client, &upload, |status| status["received"] == 40).await;
        if reset {
            cut.rst()
        } else {
            cut.fin().await
        }
        wait_for_status(&mut client, &upload, |status| status["bytes_per_second"].is_null()).await;
        assert_eq!(offset(&mut client, &upload).await, (40, false), "ietf 32: reset {reset}");
        assert_eq!(append(&mut client, &upload, 40, true, &[b'y'; 60]).await.status, 201, "ietf 48");
        let whole = [vec![b'x'; 40], vec![b'y'; 60]].concat();
        assert_eq!(download(&mut client, &upload).await, whole, "ietf 32: reset {reset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_too_large_is_refused_with_the_limit() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 10).await;
    let mut client = app.client().await;
    for (headers, body) in [
        (vec![END], &[b'x'; 11][..]),
        (vec![MORE], &[b'x'; 11]),
        (vec![MORE, ("Upload-Length", "11")], b""),
        (vec![MORE, ("Upload-Length", "999999999999999")], b"x"),
    ] {
        let answer = create(&mut client, &headers, body).await;
        assert_eq!(answer.status, 413, "ietf 10: {headers:?}");
        assert_eq!(limit(&answer, "max-size"), Some(10), "ietf 10, 17: {headers:?}");
        assert_eq!(answer.header("location"), None, "ietf 10: no resource: {headers:?}");
    }
    assert_eq!(count(&mut client).await, 0, "ietf 10: no resource");
    // Detected only while the body arrives.
    let upload = location(&create(&mut client, &[MORE], b"12345").await);
    let answer = append(&mut client, &upload, 5, false, b"678901").await;
    assert_eq!((answer.status, limit(&answer, "max-size")), (413, Some(10)), "ietf 11, 17");
    assert_eq!(answer.header("upload-complete"), Some("?0"), "ietf 47");
    assert_eq!(offset(&mut client, &upload).await, (5, false), "ietf 11");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_name_and_types_are_kept_and_given_back() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let headers = [
        END,
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Encoding", "x-own"),
        ("Content-Disposition", "inline; filename=plain.txt; filename*=UTF-8''..%2F..%2FGr%C3%BC%C3%9Fe%0D%0A.txt"),
    ];
    let upload = location(&create(&mut client, &headers, b"hello").await);
    let status = client.status(&upload).await;
    assert_eq!(status["filename"], "Grüße.txt", "ietf 36, 37");
    assert_eq!(status["metadata"]["filename"], "Grüße.txt", "ietf 37: nothing that could pass for a path is stored");
    assert_eq!(status["content_type"], "text/plain; charset=utf-8", "ietf 36");
    assert_eq!(status["metadata"]["contentEncoding"], "x-own", "ietf 36, 68");
    let answer = client.get(&upload).await;
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "ietf 36");
    assert_eq!(answer.header("content-encoding"), None, "the bytes are as they came; a client's word decodes nothing");
    let disposition = answer.header("content-disposition").unwrap();
    assert!(disposition.contains("filename*=UTF-8''Gr%C3%BC%C3%9Fe.txt"), "ietf 36: {disposition}");
    for malformed in ["inline; filename=\"x", "; filename=x", "inline; filename=a b", "=", "inline; filename=.."] {
        let answer = create(&mut client, &[END, ("Content-Disposition", malformed)], b"hello").await;
        assert_eq!(answer.status, 201, "ietf 37: not fatal: {malformed}");
        assert_eq!(client.status(&location(&answer)).await["filename"], serde_json::Value::Null, "{malformed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_whose_metadata_is_too_large_is_refused_for_good() {
    let app = TestApp::with(|config| config.limits.max_metadata_bytes = 256).await;
    let mut client = app.client().await;
    let long = format!("video/{}", "x".repeat(300));
    let answer = create(&mut client, &[version("8"), END, ("Content-Type", &long)], b"hello").await;
    assert_eq!(answer.status, 431);
    assert_eq!(answer.header("upload-complete"), Some("?1"), "ietf 34: there is nothing to resume");
    assert!(client.interim.is_empty() && count(&mut client).await == 0, "ietf 34");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_other_than_zero_is_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (offset, status) in [("0", 201), ("5", 400), ("5.0", 201), ("0, 0", 201)] {
        let answer = create(&mut client, &[MORE, ("Upload-Offset", offset)], b"").await;
        assert_eq!(answer.status, status, "ietf 39, 78: {offset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_readable_mark_is_no_resumable_upload() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for value in ["1", "true", "?2", "?1, ?1", "\"?1\""] {
        for headers in [vec![("Upload-Complete", value)], vec![("Upload-Complete", value), version("8")]] {
            let answer = send(&mut client, "POST", "/files", &headers, b"hello").await;
            let own = ["upload-complete", "upload-limit", "upload-draft-interop-version"];
            assert!(own.iter().all(|name| answer.header(name).is_none()), "ietf 20: {headers:?}: {answer:?}");
            assert!(client.interim.is_empty(), "ietf 20: {headers:?}");
        }
    }
    let answer = send(&mut client, "PATCH", "/files", &[("Upload-Complete", "yes")], b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-header"), "a PATCH has no conventional meaning");
    assert_eq!(count(&mut client).await, 0, "ietf 20");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_left_is_told_anew_and_its_end_does_not_come_closer() {
    let app = TestApp::with(|config| config.engine.lifetimes.unfinished_expiry = Duration::from_secs(3600)).await;
    let mut client = app.client().await;
    let created = create(&mut client, &[MORE, ("Upload-Length", "9")], b"").await;
    let upload = location(&created);
    let first = limit(&created, "max-age").unwrap();
    assert!((3590..=3600).contains(&first), "ietf 15: {first}");
    let answer = append(&mut client, &upload, 0, false, b"hel").await;
    let second = limit(&answer, "max-age").unwrap();
    assert!((3590..=3600).contains(&second), "ietf 15: bytes put it off: {second}");
    assert_eq!(limit(&answer, "max-size"), limit(&created, "max-size"), "ietf 16");
    let done = append(&mut client, &upload, 3, true, b"lo wor").await;
    assert_eq!(limit(&done, "max-age"), None, "a complete upload does not expire");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_uploads_share_a_connection() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let address = client.stream.local_addr().unwrap();
    for round in 0..20_u8 {
        let body = [round; 1000];
        let answer = create(&mut client, &[version("6"), END], &body).await;
        assert_eq!(answer.status, 201, "dialects 7: {round}");
        assert_eq!(download(&mut client, &location(&answer)).await, body, "{round}");
    }
    assert_eq!(client.stream.local_addr().unwrap(), address, "dialects 7: one connection for all");
}
