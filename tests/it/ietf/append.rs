//! Appends: their offset, the end of the upload, and the rejection of appends that do not fit.

use crate::ietf::{
    COMPLETED, END, INCONSISTENT_LENGTH, MISMATCHING_OFFSET, MORE, NUMBERS, PARTIAL, append, begin, begin_chunked,
    create, download, end_in, kind, limit, location, offset, send, version,
};
use crate::support::app::TestApp;
use crate::tus::wait_for_status;

#[tokio::test(flavor = "multi_thread")]
async fn appends_of_every_version() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for number in NUMBERS {
        let headers = |end| [version(number), end_in(number, end), PARTIAL];
        let told = end_in(number, false).0.to_ascii_lowercase();
        let upload = location(&create(&mut client, &headers(false)[..2], b"").await);
        for (at, end, body) in [("0", false, &b"hello"[..]), ("5", false, b" "), ("6", true, b"world")] {
            let mut headers = headers(end).to_vec();
            headers.push(("Upload-Offset", at));
            let answer = send(&mut client, "PATCH", &upload, &headers, body).await;
            assert_eq!(answer.status, if end { 201 } else { 204 }, "ietf 47, 48: {number}: {answer:?}");
            assert_eq!(answer.header(&told), Some(end_in(number, end).1), "ietf 47, 48: {number}");
            let offset = (at.parse::<usize>().unwrap() + body.len()).to_string();
            assert_eq!(answer.header("upload-offset"), Some(offset.as_str()), "ietf 47: {number}");
            assert_eq!(answer.header("location").is_some(), end, "ietf 59: only with the last answer: {number}");
            assert!(limit(&answer, "max-size").is_some());
        }
        assert_eq!(download(&mut client, &upload).await, b"hello world", "ietf 48: {number}");
        assert_eq!(client.status(&upload).await["length"], 11, "ietf 48: {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_append_ends_an_upload_and_a_full_one_is_not_ended_by_its_length() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for length in [None, Some(5)] {
        let upload = begin(&mut client, length).await;
        let answer = append(&mut client, &upload, 0, false, b"hello").await;
        assert_eq!(answer.header("upload-complete"), Some("?0"), "ietf 49: {length:?}");
        assert_eq!(offset(&mut client, &upload).await, (5, false), "ietf 49: off == len does not complete");
        assert_eq!(client.status(&upload).await["stage"], "receiving", "ietf 49");
        let answer = append(&mut client, &upload, 5, true, b"").await;
        assert_eq!((answer.status, answer.header("upload-complete")), (201, Some("?1")), "ietf 49: {length:?}");
        assert_eq!(download(&mut client, &upload).await, b"hello", "ietf 49: {length:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_upload_that_was_not_ended_outlives_a_restart() {
    let mut app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(5)).await;
    append(&mut client, &upload, 0, false, b"hello").await;
    app.restart().await;
    let mut client = app.client().await;
    assert_eq!(offset(&mut client, &upload).await, (5, false), "ietf 49");
    assert_eq!(append(&mut client, &upload, 5, true, b"").await.status, 201, "ietf 49");
    assert_eq!(download(&mut client, &upload).await, b"hello", "ietf 49");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_offset_is_told_the_right_one() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let open = begin(&mut client, Some(9)).await;
    append(&mut client, &open, 0, false, b"hello").await;
    let full = begin(&mut client, Some(5)).await;
    append(&mut client, &full, 0, false, b"hello").await;
    let complete = location(&create(&mut client, &[END], b"hello").await);
    for upload in [&open, &full, &complete] {
        for at in [0_u64, 4, 6, 999_999_999_999_999] {
            for end in [true, false] {
                let text = at.to_string();
                let headers = [PARTIAL, ("Upload-Offset", &text), end_in("", end)];
                let answer = send(&mut client, "PATCH", upload, &headers, b"xy").await;
                assert_eq!((answer.status, kind(&answer).as_str()), (409, MISMATCHING_OFFSET), "ietf 50: {at}");
                assert_eq!(answer.header("upload-offset"), Some("5"), "ietf 50: {at}");
                assert_eq!(answer.header("upload-complete"), Some("?0"), "ietf 50: {at}");
                let problem = answer.json();
                assert_eq!(problem["expected-offset"], 5, "ietf 50, 79: a number");
                assert_eq!(problem["provided-offset"], at, "ietf 50, 79: a number");
                assert!(problem["title"].is_string(), "ietf 79");
            }
        }
    }
    assert_eq!(offset(&mut client, &open).await, (5, false), "ietf 50: nothing has changed");
    assert_eq!(download(&mut client, &complete).await, b"hello", "ietf 50: nothing has changed");
    let headers = [version("3"), ("Upload-Offset", "7"), end_in("3", true)];
    let answer = send(&mut client, "PATCH", &open, &headers, b"xy").await;
    assert_eq!((answer.status, answer.header("upload-incomplete")), (409, Some("?1")), "ietf 50: in version 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_has_the_media_type_where_the_version_knows_it() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for number in NUMBERS {
        let exempt = ["3", "5"].contains(&number);
        for kind in [None, Some("application/octet-stream"), Some("application/offset+octet-stream")] {
            let upload = begin(&mut client, Some(5)).await;
            let mut headers = vec![version(number), ("Upload-Offset", "0"), end_in(number, true)];
            headers.extend(kind.map(|kind| ("Content-Type", kind)));
            let answer = send(&mut client, "PATCH", &upload, &headers, b"hello").await;
            assert_eq!(answer.status, if exempt { 201 } else { 415 }, "ietf 51: {number} {kind:?}");
            if !exempt {
                let accepted = "application/partial-upload, application/offset+octet-stream";
                assert_eq!(answer.header("accept-patch"), Some(accepted), "ietf 51: {number}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_lacks_what_it_must_say_is_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(5)).await;
    for headers in [
        vec![PARTIAL, END],
        vec![PARTIAL, ("Upload-Offset", "0")],
        vec![PARTIAL, ("Upload-Offset", "-1"), END],
        vec![PARTIAL, ("Upload-Offset", "0"), ("Upload-Offset", "0"), END],
        vec![PARTIAL, ("Upload-Offset", "0"), END, END],
        vec![PARTIAL, ("Upload-Offset", "0"), ("Upload-Complete", "1")],
        vec![PARTIAL],
    ] {
        let answer = send(&mut client, "PATCH", &upload, &headers, b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-header"), "ietf 52, 53, 78: {headers:?}");
        assert_eq!(answer.header("upload-complete"), Some("?0"), "ietf 47: errors included");
    }
    assert_eq!(offset(&mut client, &upload).await, (0, false), "nothing was appended");
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_contradict_each_other_are_refused_and_append_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(9)).await;
    append(&mut client, &upload, 0, false, b"hello").await;
    for (headers, body) in [
        // ietf 54: the end would be at another offset.
        (vec![END], &b"wor"[..]),
        (vec![END], b"world"),
        (vec![END], b""),
        // ietf 55: a different length.
        (vec![MORE, ("Upload-Length", "10")], b"wo"),
        (vec![END, ("Upload-Length", "8")], b"wor"),
        // Beyond the announced end.
        (vec![MORE], b"world"),
    ] {
        let mut all = vec![PARTIAL, ("Upload-Offset", "5")];
        all.extend_from_slice(&headers);
        let answer = send(&mut client, "PATCH", &upload, &all, body).await;
        assert_eq!((answer.status, kind(&answer).as_str()), (400, INCONSISTENT_LENGTH), "ietf 54, 55: {headers:?}");
        assert_eq!(answer.header("upload-complete"), Some("?0"), "ietf 54, 55: {headers:?}");
        assert_eq!(offset(&mut client, &upload).await, (5, false), "ietf 54: nothing appended: {headers:?}");
    }
    let headers = [PARTIAL, ("Upload-Offset", "5"), ("Upload-Length", "9"), END];
    assert_eq!(send(&mut client, "PATCH", &upload, &headers, b"worl").await.status, 201, "ietf 55: equal is fine");

    let late = begin(&mut client, None).await;
    append(&mut client, &late, 0, false, b"hello").await;
    for (length, status) in [("4", 400), ("9", 204), ("10", 400)] {
        let headers = [PARTIAL, ("Upload-Offset", "5"), ("Upload-Length", length), MORE];
        assert_eq!(send(&mut client, "PATCH", &late, &headers, b"").await.status, status, "ietf 55: {length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_end_before_the_length_keeps_the_bytes_and_completes_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(9)).await;
    begin_chunked(&mut client, &upload, &[("Upload-Offset", "0"), END]).await;
    client.send_chunk(b"hello").await;
    client.send_chunk(b"").await;
    let answer = client.answer("PATCH").await;
    assert_eq!((answer.status, kind(&answer).as_str()), (400, INCONSISTENT_LENGTH), "ietf 56");
    assert_eq!(answer.header("upload-complete"), Some("?0"), "ietf 56");
    assert_eq!(offset(&mut client, &upload).await, (5, false), "ietf 56, 58: received bytes are kept");
    assert_eq!(append(&mut client, &upload, 5, true, b"worl").await.status, 201);
    assert_eq!(download(&mut client, &upload).await, b"helloworl");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_length_ends_the_upload_for_good_from_version_8_on() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for number in NUMBERS.into_iter().map(Some).chain([None]) {
        let fatal = !["3", "5", "6", "7"].contains(&number.unwrap_or_default());
        for end in [true, false] {
            let upload = begin(&mut client, Some(9)).await;
            append(&mut client, &upload, 0, false, b"hel").await;
            let mut headers = vec![("Upload-Offset", "3"), end_in(number.unwrap_or_default(), end)];
            headers.extend(number.map(version));
            begin_chunked(&mut client, &upload, &headers).await;
            client.send_chunk(b"lo world").await;
            client.send_chunk(b"").await;
            let answer = client.answer("PATCH").await;
            assert_eq!((answer.status, kind(&answer).as_str()), (400, INCONSISTENT_LENGTH), "ietf 57: {number:?}");
            if answer.header("connection") == Some("close") {
                client = app.client().await;
            }
            let after = send(&mut client, "HEAD", &upload, &[version("8")], b"").await;
            if fatal {
                assert_eq!(after.status, 410, "ietf 57: {number:?} {end}");
                let retried = append(&mut client, &upload, 3, true, b"lo wor").await;
                assert_eq!(retried.status, 410, "ietf 57: permanently: {number:?} {end}");
                let stage = client.status(&upload).await["stage"].clone();
                assert_eq!(stage, "failed", "ietf 57: {number:?} {end}");
            } else {
                assert_eq!((after.status, after.header("upload-offset")), (204, Some("3")), "ietf 57, corrected");
                assert_eq!(append(&mut client, &upload, 3, true, b"lo wor").await.status, 201, "it lives on");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_brings_more_than_its_length_is_not_gone_on_with() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (number, fatal) in [("6", false), ("8", true)] {
        let headers = [version(number), MORE, ("Upload-Length", "3"), ("Transfer-Encoding", "chunked")];
        client.send_head("POST", "/files", &headers).await;
        let upload = location(&client.next_interim().await);
        client.send_chunk(b"hello").await;
        client.send_chunk(b"").await;
        let answer = client.answer("POST").await;
        assert_eq!(answer.status, 400, "ietf 57: {number}");
        assert_eq!(answer.header("location").is_some(), !fatal, "ietf 33, 57: {number}");
        let mut other = app.client().await;
        let status = send(&mut other, "HEAD", &upload, &[version("8")], b"").await.status;
        assert_eq!(status, if fatal { 410 } else { 204 }, "ietf 57: {number}");
        client = other;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_append_keeps_what_arrived() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (reset, chunked) in [(false, false), (true, false), (false, true), (true, true)] {
        let upload = begin(&mut client, Some(103)).await;
        append(&mut client, &upload, 0, false, b"abc").await;
        let mut cut = app.client().await;
        let headers = [PARTIAL, ("Upload-Offset", "3"), END];
        if chunked {
            begin_chunked(&mut cut, &upload, &headers[1..]).await;
            cut.send_chunk(&[b'x'; 40]).await;
        } else {
            cut.send_head("PATCH", &upload, &[headers.as_slice(), &[("Content-Length", "100")]].concat()).await;
            cut.send(&[b'x'; 40]).await;
        }
        wait_for_status(&mut client, &upload, |status| status["received"] == 43).await;
        if reset {
            cut.rst()
        } else {
            cut.fin().await
        }
        wait_for_status(&mut client, &upload, |status| status["bytes_per_second"].is_null()).await;
        assert_eq!(offset(&mut client, &upload).await, (43, false), "ietf 58: reset {reset}, chunked {chunked}");
        assert_eq!(append(&mut client, &upload, 43, true, &[b'y'; 60]).await.status, 201, "ietf 58");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_answer_is_given_again() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, None).await;
    let first = append(&mut client, &upload, 0, true, b"hello").await;
    let stable = |answer: &crate::support::client::Answer| {
        let headers = answer.headers.iter().filter(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id"));
        (answer.status, headers.cloned().collect::<Vec<_>>())
    };
    for end in [true, false] {
        let again = append(&mut client, &upload, 5, end, b"").await;
        assert_eq!(stable(&again), stable(&first), "ietf 60: a valid request to a complete upload: {end}");
    }
    let headers = [PARTIAL, ("Upload-Offset", "5"), ("Upload-Length", "5"), END];
    let again = send(&mut client, "PATCH", &upload, &headers, b"").await;
    assert_eq!(stable(&again), stable(&first), "ietf 60");
    let events = client.status(&upload).await["stages"].as_array().unwrap().len();
    for number in ["6", "7", "8", "9", "10"] {
        for end in [true, false] {
            let headers = [PARTIAL, version(number), ("Upload-Offset", "5"), end_in(number, end)];
            let answer = send(&mut client, "PATCH", &upload, &headers, b"!").await;
            let named = ["6", "7", "8"].contains(&number);
            let expected = if named { COMPLETED } else { INCONSISTENT_LENGTH };
            assert_eq!((answer.status, kind(&answer).as_str()), (400, expected), "ietf 60: {number} {end}");
            assert_eq!(answer.header("upload-complete"), Some("?0"), "ietf 60: {number}");
        }
    }
    assert_eq!(download(&mut client, &upload).await, b"hello", "ietf 60: nothing was added");
    assert_eq!(client.status(&upload).await["stages"].as_array().unwrap().len(), events, "ietf 60");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_tus_js_client_that_ends_where_a_chunk_does_ends_the_upload() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for number in ["5", "6", "8"] {
        let upload = begin(&mut client, None).await;
        append(&mut client, &upload, 0, false, b"hello").await;
        let headers = [PARTIAL, version(number), ("Upload-Offset", "5"), ("Upload-Length", "5")];
        let answer = send(&mut client, "PATCH", &upload, &headers, b"").await;
        assert_eq!(answer.status, if number == "8" { 400 } else { 201 }, "ietf 53: {number}");
        assert_eq!(offset(&mut client, &upload).await, (5, number != "8"), "ietf 53: {number}");
    }
}
