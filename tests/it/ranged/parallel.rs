//! Ranges in any order, over a socket. The engine's part is tested in `ranges.rs`.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::ranged::{JSON, is_stored, known, path_of, put, put_chunked, put_with, ranges, source};
use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::moving::{wait_until_at_rest, wait_until_taken};
use crate::support::seeded::Seeded;

const BLOCK: usize = 4096;

/// Returns the `Content-Range` of these bytes.
fn range(first: usize, count: usize, total: usize) -> String {
    format!("bytes {first}-{}/{total}", first + count - 1)
}

fn is_progress(answer: &Answer, offset: usize, missing: &Value, why: &str) {
    assert_eq!(answer.status, 202, "{why}: {answer:?}");
    let told = answer.json();
    assert_eq!((&told["offset"], &told["missing"]), (&offset.into(), missing), "{why}");
    assert_eq!((&told["complete"], &told["missing_truncated"]), (&false.into(), &false.into()), "{why}");
    let range = offset.checked_sub(1).map(|last| format!("bytes=0-{last}"));
    assert_eq!((answer.header("range"), answer.header("location")), (range.as_deref(), None), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_says_where_ranges_go_and_what_they_are_to_be_like() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let json = br#"{"name": "a.mp4", "contentType": "video/mp4", "size": 12, "metadata": {"user": "7"}}"#;
    let answer = client.request("POST", "/files", &[JSON], json).await;
    assert_eq!(answer.status, 201);
    let path = path_of(&answer);
    let id = path.trim_start_matches("/files/");
    let told = answer.json();
    assert_eq!(told["id"], id);
    assert_eq!((&told["upload"], &told["status"]), (&path.clone().into(), &format!("/api/v1/uploads/{id}").into()));
    let terms = (&told["part_size"], &told["alignment"], &told["length"], &told["complete"]);
    assert_eq!(terms, (&(16 << 20).into(), &4096.into(), &12.into(), &false.into()));
    assert!(told["expires_at"].is_string());
    let status = client.status(&path).await;
    let told = (&status["filename"], &status["content_type"], &status["length"], &status["metadata"]["user"]);
    assert_eq!(told, (&"a.mp4".into(), &"video/mp4".into(), &12.into(), &"7".into()));
    let answer = client.request("POST", "/files", &[JSON], br#"{"size": 0}"#).await;
    assert_eq!((answer.status, &answer.json()["complete"]), (201, &true.into()), "nothing is whole at once");
    is_stored(&mut client, &path_of(&answer), b"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_described_badly_is_refused_clearly() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    for (json, status, problem, says) in [
        (&b""[..], 400, "bad-session", "JSON"),
        (b"{\"sise\": 5}", 400, "bad-session", "unknown field `sise`, expected one of `name`"),
        (b"{\"size\": 1, \"size\": 2}", 400, "bad-session", "duplicate"),
        (b"{\"size\": \"5\"}", 400, "bad-session", "u64"),
        (b"{\"size\": 101}", 413, "over-limit", "100"),
        (b"{\"digests\": {\"crc99\": \"00\"}}", 400, "bad-digest", "crc99"),
        (b"{\"metadata\": {\"name\": \"a\"}, \"name\": \"b\"}", 400, "bad-metadata", "twice"),
        (&[b' '; 10_000], 413, "metadata-too-large", "limits.max_metadata_size"),
    ] {
        let answer = client.request("POST", "/files", &[JSON], json).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, problem), "{answer:?}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(says), "{detail}");
    }
    assert_eq!(known(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_go_in_any_order_and_each_answer_tells_what_is_missing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = source(4 * BLOCK + 100);
    let total = bytes.len();
    let path = ranges(&mut client, total).await;
    let mut send = async |first: usize, count: usize| {
        put(&mut client, &path, &range(first, count, total), &bytes[first..first + count]).await
    };
    let last = total - 1;
    is_progress(&send(2 * BLOCK, BLOCK).await, 0, &json!([[0, 8191], [12288, last]]), "from the middle");
    is_progress(&send(4 * BLOCK, 100).await, 0, &json!([[0, 8191], [12288, 16383]]), "the end, not a whole block");
    is_progress(&send(0, BLOCK).await, BLOCK, &json!([[4096, 8191], [12288, 16383]]), "the beginning");
    is_progress(&send(0, 2 * BLOCK).await, 3 * BLOCK, &json!([[12288, 16383]]), "overlapping stored bytes");
    let answer = send(3 * BLOCK, BLOCK).await;
    assert_eq!(answer.status, 200, "all of it");
    let told = json!({"offset": total, "length": total, "received": total, "missing": [], "missing_truncated": false,
        "complete": true});
    assert_eq!(answer.json(), told);
    assert_eq!(send(0, BLOCK).await.json(), told, "and again, for a client that has not heard it");
    is_stored(&mut client, &path, &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lost_everything_but_the_url_can_ask_and_go_on() {
    let mut app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = source(3 * BLOCK);
    let path = path_of(&client.request("POST", "/files", &[JSON], b"{}").await);
    let answer = put(&mut client, &path, "bytes 4096-8191/*", &bytes[BLOCK..2 * BLOCK]).await;
    is_progress(&answer, 0, &json!([[0, 4095]]), "bytes after it are not known to be missing");
    assert_eq!(answer.json()["length"], Value::Null);
    drop(client);
    app.restart().await;
    let mut client = app.client().await;
    is_progress(&put(&mut client, &path, "bytes */*", b"").await, 0, &json!([[0, 4095]]), "a question");
    let answer = put(&mut client, &path, "bytes */12288", b"").await;
    is_progress(&answer, 0, &json!([[0, 4095], [8192, 12287]]), "a question that tells the length");
    assert_eq!(client.status(&path).await["length"], 12_288);
    for method in ["HEAD", "GET"] {
        let answer = client.request(method, &path, &[], b"").await;
        let told = (answer.status, answer.header("upload-offset"), answer.header("upload-length"));
        assert_eq!(told, (if method == "HEAD" { 204 } else { 409 }, Some("0"), Some("12288")), "{method}");
    }
    let status = client.status(&path).await;
    assert_eq!((&status["missing"], &status["missing_truncated"]), (&json!([[0, 4095], [8192, 12287]]), &json!(false)));
    let progress = (&status["offset"], &status["received"], &status["percent"]);
    assert_eq!(progress, (&json!(0), &json!(4096), &json!(33.33)), "bytes behind a gap count as received");
    for missing in status["missing"].as_array().unwrap() {
        let at = |index: usize| usize::try_from(missing[index].as_u64().unwrap()).unwrap();
        let (first, last) = (at(0), at(1));
        put(&mut client, &path, &range(first, last - first + 1, 12_288), &bytes[first..=last]).await;
    }
    is_stored(&mut client, &path, &bytes).await;
    assert_eq!(client.status(&path).await["missing"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_fill_one_file_while_some_of_them_break() {
    let app = TestApp::start().await;
    let address = app.address();
    let bytes = std::sync::Arc::new(source(4 << 20));
    let total = bytes.len();
    let path = ranges(&mut app.client().await, total).await;
    let part = 64 * 1024;
    let mut order: Vec<usize> = (0..total).step_by(part).collect();
    let mut random = Seeded::new(8);
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last + 1));
    }
    let shares = (0..8).map(|share| {
        let starts: Vec<usize> = order.iter().copied().skip(share).step_by(8).collect();
        let (bytes, path) = (std::sync::Arc::clone(&bytes), path.clone());
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            for (turn, first) in starts.into_iter().enumerate() {
                if (turn + share) % 3 == 0 {
                    let mut broken = Client::connect(address).await;
                    let (range, length) = (range(first, part, bytes.len()), part.to_string());
                    broken.send_head("PUT", &path, &[("Content-Range", &range), ("Content-Length", &length)]).await;
                    broken.send(&bytes[first..first + part / 2 + 77]).await;
                    if turn % 2 == 0 {
                        broken.rst()
                    } else {
                        broken.fin().await
                    }
                    continue;
                }
                let answer =
                    put(&mut client, &path, &range(first, part, bytes.len()), &bytes[first..first + part]).await;
                assert!(matches!(answer.status, 200 | 202), "{answer:?}");
            }
        })
    });
    for done in futures::future::join_all(shares).await {
        done.unwrap();
    }
    wait_until_at_rest(address, &path).await;
    let mut client = app.client().await;
    loop {
        let told = put(&mut client, &path, "bytes */*", b"").await.json();
        let Some(missing) = told["missing"].as_array().unwrap().first() else { break };
        let at = |index: usize| usize::try_from(missing[index].as_u64().unwrap()).unwrap();
        let (first, last) = (at(0), at(1));
        let answer = put(&mut client, &path, &range(first, last - first + 1, total), &bytes[first..=last]).await;
        assert!(matches!(answer.status, 200 | 202), "reported gaps are accepted: {answer:?}");
    }
    is_stored(&mut client, &path, &bytes).await;
    let digest = format!("{:08x}", crc32c::crc32c(&bytes));
    assert_eq!(client.status(&path).await["digests"]["crc32c"], digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_not_aligned_is_refused_unless_it_fits_what_is_there() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = source(3 * BLOCK + 7);
    let total = bytes.len();
    let path = ranges(&mut client, total).await;
    for (first, count) in [(1, BLOCK), (0, 100), (BLOCK, 100), (BLOCK + 1, 2 * BLOCK + 6)] {
        let answer = put(&mut client, &path, &range(first, count, total), &bytes[first..first + count]).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "misaligned-range"), "{first} {count}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("4096"), "{answer:?}");
    }
    assert_eq!(client.status(&path).await["received"], 0);
    // A cut range ends anywhere, and the next one can continue from there.
    let mut broken = app.client().await;
    broken
        .send_head("PUT", &path, &[("Content-Range", &range(0, total, total)), ("Content-Length", &total.to_string())])
        .await;
    broken.send(&bytes[..1000]).await;
    wait_until_taken(app.address(), &path, 1000).await;
    broken.fin().await;
    wait_until_at_rest(app.address(), &path).await;
    let answer = put(&mut client, &path, &range(1000, total - 1000, total), &bytes[1000..]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    is_stored(&mut client, &path, &bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_without_end_are_refused_with_the_limit_named() {
    let app = TestApp::with(|config| config.engine.ranges.max_ranges = 5).await;
    let mut client = app.client().await;
    let bytes = source(40 * BLOCK);
    let total = bytes.len();
    let path = ranges(&mut client, total).await;
    let mut send = async |block: usize| {
        let first = block * BLOCK;
        put(&mut client, &path, &range(first, BLOCK, total), &bytes[first..first + BLOCK]).await
    };
    for block in [1, 3, 5, 7, 9] {
        assert_eq!(send(block).await.status, 202);
    }
    let answer = send(11).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "too-many-ranges"));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("limits.max_ranges") && detail.contains('5'), "{detail}");
    assert_eq!(send(4).await.status, 202, "a range that fills a gap is accepted");
    assert_eq!(send(11).await.status, 202, "then another range is accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_missing_ranges_are_told_at_once() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let total = 300 * BLOCK;
    let path = ranges(&mut client, total).await;
    for block in (1..220).step_by(2) {
        let answer = put(&mut client, &path, &range(block * BLOCK, BLOCK, total), &[b'x'; BLOCK]).await;
        assert_eq!(answer.status, 202);
    }
    let told = put(&mut client, &path, "bytes */*", b"").await.json();
    let status = client.status(&path).await;
    for told in [told, status] {
        assert_eq!(told["missing"].as_array().unwrap().len(), 100);
        assert_eq!((&told["missing"][0], &told["missing_truncated"]), (&json!([0, 4095]), &json!(true)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_may_come_at_once_too() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bytes = source(10_000);
    let path = path_of(&client.request("POST", "/files", &[JSON], b"{}").await);
    let answer = put_with(&mut client, &path, &[], &bytes).await;
    assert_eq!(answer.status, 200, "ranged 17: without a range it is the whole: {answer:?}");
    is_stored(&mut client, &path, &bytes).await;
    let path = path_of(&client.request("POST", "/files", &[JSON], b"{}").await);
    let answer = put_chunked(&mut client, &path, &[], &[&bytes[..5000], &bytes[5000..]]).await;
    assert_eq!(answer.status, 200, "ranged 17: chunked: {answer:?}");
    is_stored(&mut client, &path, &bytes).await;
    let path = path_of(&client.request("POST", "/files", &[JSON], b"{}").await);
    let answer = put_with(&mut client, &path, &[], b"").await;
    assert_eq!(answer.status, 200, "ranged 17: of nothing: {answer:?}");
    is_stored(&mut client, &path, b"").await;
    let path = ranges(&mut client, 10_001).await;
    let answer = put_with(&mut client, &path, &[], &bytes).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "inconsistent-length"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_complete_upload_must_fit_it() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = ranges(&mut client, 5).await;
    assert_eq!(put(&mut client, &path, "bytes 0-4/5", b"hello").await.status, 200);
    for (range, body, problem) in [
        ("bytes 0-4/6", &b"hello"[..], "length-changed"),
        ("bytes */6", b"", "length-changed"),
        ("bytes 1-5/*", b"hello", "beyond-length"),
    ] {
        let answer = put(&mut client, &path, range, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, problem), "{range}");
    }
    assert_eq!(put(&mut client, &path, "bytes */5", b"").await.status, 200);
    // Repeated bytes must be the same, with or without a digest, in part or as a whole.
    let digest = |bytes: &[u8]| format!("sha-256=:{}:", STANDARD.encode(sha2::Sha256::digest(bytes)));
    let (right, wrong) = (digest(b"hello"), digest(b"WORLD"));
    for (range, digest, body, status) in [
        (Some("bytes 0-4/5"), None, &b"hello"[..], Ok(200)),
        (Some("bytes 1-3/*"), None, b"ell", Ok(200)),
        (None, None, b"hello", Ok(200)),
        (Some("bytes 0-4/5"), Some(&right), b"hello", Ok(200)),
        (None, Some(&right), b"hello", Ok(200)),
        (Some("bytes 0-4/5"), None, b"WORLD", Err((409, "different-bytes"))),
        (Some("bytes 2-2/*"), None, b"L", Err((409, "different-bytes"))),
        (None, None, b"hellO", Err((409, "different-bytes"))),
        (None, None, b"hell", Err((400, "inconsistent-length"))),
        (Some("bytes 0-4/5"), Some(&wrong), b"WORLD", Err((409, "different-bytes"))),
        (Some("bytes 0-4/5"), Some(&wrong), b"hello", Err((400, "digest-mismatched-values"))),
        (None, Some(&wrong), b"hello", Err((400, "digest-mismatched-values"))),
    ] {
        let range = range.map(|range| ("Content-Range", range));
        let digest = digest.map(|digest| ("Content-Digest", digest.as_str()));
        let headers: Vec<(&str, &str)> = range.into_iter().chain(digest).collect();
        let answer = put_with(&mut client, &path, &headers, body).await;
        match status {
            Ok(status) => {
                assert_eq!((answer.status, &answer.json()["complete"]), (status, &true.into()), "{headers:?}")
            }
            Err(refusal) => assert_eq!((answer.status, answer.problem().as_str()), refusal, "{headers:?} {body:?}"),
        }
    }
    let answer = put_chunked(&mut client, &path, &[], &[b"hel", b"lO"]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "different-bytes"));
    assert_eq!(put_chunked(&mut client, &path, &[], &[b"hel", b"lo"]).await.status, 200);
    is_stored(&mut client, &path, b"hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_ranges_can_be_deleted_and_expires() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let path = ranges(&mut client, 10_000).await;
    put(&mut client, &path, "bytes 4096-8191/10000", &[b'x'; BLOCK]).await;
    assert_eq!(client.request("DELETE", &path, &[], b"").await.status, 204);
    for (method, range) in
        [("PUT", Some("bytes 0-4095/10000")), ("PUT", Some("bytes */*")), ("HEAD", None), ("GET", None)]
    {
        let range = range.map(|range| ("Content-Range", range));
        let headers: Vec<_> = range.into_iter().collect();
        let body = if method == "PUT" && headers[0].1.contains('-') { vec![b'x'; BLOCK] } else { Vec::new() };
        assert_eq!(client.request(method, &path, &headers, &body).await.status, 410, "{method} {range:?}");
    }
    crate::tus::wait_until_nothing_is_stored(&app).await;
    let unknown = "/files/01a2003c-6e4b-7707-8707-070707070707";
    assert_eq!(put(&mut client, unknown, "bytes */*", b"").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_asked_to_come_back() {
    let app = TestApp::with(|config| {
        config.engine.ranges.max_parallel = 1;
        config.limits.bodies.idle_timeout = Duration::from_secs(30);
    })
    .await;
    let mut client = app.client().await;
    let path = ranges(&mut client, 3 * BLOCK).await;
    let mut first = app.client().await;
    first.send_head("PUT", &path, &[("Content-Range", "bytes 0-4095/12288"), ("Content-Length", "4096")]).await;
    first.send(b"x").await;
    wait_until_taken(app.address(), &path, 1).await;
    let answer = put(&mut client, &path, "bytes 4096-8191/12288", &[b'x'; BLOCK]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "busy"));
    first.send(&[b'x'; BLOCK - 1]).await;
    assert_eq!(first.answer("PUT").await.status, 202);
    let answer = put(&mut client, &path, "bytes 4096-8191/12288", &[b'x'; BLOCK]).await;
    assert_eq!(answer.status, 202);
}
