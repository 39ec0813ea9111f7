//! Partial uploads, and final uploads that consist of them.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client, OCTETS};
use crate::support::receiver::Receiver;
use crate::tus::{base64, create_with, known_uploads, wait_until_nothing_is_stored_of};

/// Creates a partial upload with these bytes.
async fn part(client: &mut Client, bytes: &[u8]) -> String {
    let length = bytes.len().to_string();
    let upload = create_with(client, &[("Upload-Length", &length), ("Upload-Concat", "partial")]).await;
    if !bytes.is_empty() {
        assert_eq!(client.patch(&upload, 0, bytes).await.status, 204);
    }
    upload
}

async fn join(client: &mut Client, list: &str, headers: &[(&str, &str)]) -> Answer {
    let concat = format!("final;{list}");
    let mut all = vec![("Upload-Concat", concat.as_str())];
    all.extend_from_slice(headers);
    client.tus("POST", "/files", &all, b"").await
}

fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.header("location").expect("tus 86: a Location").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_joined_in_the_order_listed() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (hello, world) = (part(&mut client, b"hello ").await, part(&mut client, b"world").await);
    for (list, whole) in [(format!("{hello} {world}"), "hello world"), (format!("{world} {hello}"), "worldhello ")] {
        let upload = location(&join(&mut client, &list, &[]).await);
        assert_eq!(client.get(&upload).await.body, whole.as_bytes(), "tus 86");
        let status = client.status(&upload).await;
        assert_eq!((&status["stage"], &status["role"]), (&"completed".into(), &"final".into()));
        assert_eq!(status["length"], 11, "tus 86: its length is the sum");
        let crc = format!("{:08x}", crc32c::crc32c(whole.as_bytes()));
        assert_eq!(status["digests"]["crc32c"], crc.as_str(), "the digest is that of the whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_may_be_named_in_every_usual_way() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (a, b) = (part(&mut client, b"hello ").await, part(&mut client, b"world").await);
    let absolute = format!("http://{}", app.address());
    for list in [
        format!("{a} {b}"),
        format!(" {a} {b}"),
        format!("{a}/ {b}/"),
        format!("{absolute}{a} {absolute}{b}"),
        format!("{absolute}{a}/ {b}"),
        // A proxy may serve the server under another name and below another path. Nothing is fetched from
        // there.
        format!("https://uploads.example.com{a} https://example.com/some/where{b}"),
        format!("{a}   {b}"),
    ] {
        let answer = join(&mut client, &list, &[]).await;
        let upload = location(&answer);
        assert_eq!(client.get(&upload).await.body, b"hello world", "tus 87: {list}");
        let head = client.head(&upload).await;
        assert_eq!(head.header("upload-concat"), Some(format!("final;{list}").as_str()), "tus 96: as it was received");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_list_of_finished_parts_is_refused() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 20).await;
    let mut client = app.client().await;
    let good = part(&mut client, b"0123456789").await;
    let (other, little) = (part(&mut client, b"0123456789").await, part(&mut client, b"x").await);
    let unfinished = create_with(&mut client, &[("Upload-Length", "5"), ("Upload-Concat", "partial")]).await;
    assert_eq!(client.patch(&unfinished, 0, b"abc").await.status, 204);
    let deferred = create_with(&mut client, &[("Upload-Defer-Length", "1"), ("Upload-Concat", "partial")]).await;
    assert_eq!(client.patch(&deferred, 0, b"abc").await.status, 204);
    let single = client.create(0).await;
    let ended = part(&mut client, b"x").await;
    assert_eq!(client.tus("DELETE", &ended, &[], b"").await.status, 204);
    let joined = location(&join(&mut client, &good, &[]).await);
    let before = known_uploads(&mut client).await;
    let unknown = "/files/0197b6a1-0000-7000-8000-000000000000";

    for (list, status, why) in [
        (String::new(), 400, "tus 89: an empty list"),
        (" ".to_owned(), 400, "tus 89"),
        ("nonsense".to_owned(), 400, "tus 87: not an upload of ours"),
        ("/files/nonsense".to_owned(), 400, "tus 87"),
        ("/files/../files".to_owned(), 400, "tus 87"),
        ("http://".to_owned(), 400, "tus 87"),
        (format!("ftp://example.com{good}"), 400, "tus 87"),
        (format!("/elsewhere{}", good.trim_start_matches("/files")), 400, "tus 87"),
        (format!("{good}?x=1"), 400, "tus 87"),
        (format!("{good},{good}"), 400, "tus 87: blanks separate, not commas"),
        (unknown.to_owned(), 404, "tus 90: unknown"),
        (format!("{good} {unknown}"), 404, "tus 90: the second unknown"),
        (ended.clone(), 404, "tus 90: terminated"),
        (single.clone(), 400, "tus 90: not a partial"),
        (joined.clone(), 400, "tus 90: a final is no partial"),
        (format!("{good} {unfinished}"), 400, "tus 91: unfinished"),
        (deferred.clone(), 400, "tus 91: of unknown length"),
        (format!("{good} {other} {little}"), 413, "tus 92: the sum is over the limit"),
        (format!("{good} {good}"), 409, "a part named twice"),
        (format!("{good} {little} {good}"), 409, "a part named twice, not in a row"),
    ] {
        let answer = join(&mut client, &list, &[]).await;
        assert_eq!(answer.status, status, "{why}: {answer:?}");
        assert_eq!(answer.header("location"), None, "{why}");
    }
    for concat in ["", "Partial", "partial;", "final", "finally;", "FINAL;x", "partial,final", "whole"] {
        let headers = [("Upload-Concat", concat), ("Upload-Length", "5")];
        assert_eq!(client.tus("POST", "/files", &headers, b"").await.status, 400, "tus 89: {concat:?}");
    }
    for length in [("Upload-Length", "10"), ("Upload-Length", "0"), ("Upload-Defer-Length", "1")] {
        assert_eq!(join(&mut client, &good, &[length]).await.status, 400, "tus 88: {length:?} on a final");
    }
    let concat = format!("final;{good}");
    let answer = client.tus("POST", "/files", &[("Upload-Concat", &concat), OCTETS], b"hello").await;
    assert_eq!((answer.status, answer.problem().as_str()), (403, "final-upload"), "tus 42: a final takes no bytes");
    let twice = [("Upload-Concat", concat.as_str()), ("Upload-Concat", "partial")];
    assert_eq!(client.tus("POST", "/files", &twice, b"").await.status, 400);
    assert_eq!(known_uploads(&mut client).await, before, "nothing was created or changed");
    let twice = join(&mut client, &format!("{little} {good} {other} {good}"), &[]).await;
    assert_eq!(twice.problem(), "part-twice");
    assert!(String::from_utf8_lossy(&twice.body).contains("upload 4 in the list is the same as upload 2"), "{twice:?}");
    assert_eq!(
        location(&join(&mut client, &format!("{good} {other}"), &[]).await).len(),
        good.len(),
        "the limit itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_can_be_used_again_and_again() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (a, b) = (part(&mut client, b"ab").await, part(&mut client, b"c").await);
    for (list, whole) in [(format!("{a} {b}"), "abc"), (format!("{b} {a}"), "cab"), (a.clone(), "ab")] {
        let upload = location(&join(&mut client, &list, &[]).await);
        assert_eq!(client.get(&upload).await.body, whole.as_bytes(), "tus 93: {list}");
        let crc = format!("{:08x}", crc32c::crc32c(whole.as_bytes()));
        assert_eq!(client.status(&upload).await["digests"]["crc32c"], crc.as_str());
    }
    for upload in [&a, &b] {
        assert_eq!(client.head(upload).await.status, 200, "tus 97: parts are kept");
    }
    let kept = location(&join(&mut client, &format!("{a} {b}"), &[]).await);
    for upload in [&a, &b] {
        assert_eq!(client.tus("DELETE", upload, &[], b"").await.status, 204);
        wait_until_nothing_is_stored_of(&app, upload).await;
    }
    assert_eq!(client.get(&kept).await.body, b"abc", "tus 97: the final does not need its parts any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_nothing_make_a_final_of_nothing() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (empty, some) = (part(&mut client, b"").await, part(&mut client, b"x").await);
    let as_empty = part(&mut client, b"").await;
    let upload = location(&join(&mut client, &format!("{empty} {as_empty}"), &[]).await);
    let head = client.head(&upload).await;
    assert_eq!((head.header("upload-offset"), head.header("upload-length")), (Some("0"), Some("0")));
    let answer = client.get(&upload).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let upload = location(&join(&mut client, &format!("{empty} {some} {as_empty}"), &[]).await);
    assert_eq!(client.get(&upload).await.body, b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_parts_make_one() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let mut list = Vec::new();
    let mut whole = Vec::new();
    for index in 0_u8..40 {
        let bytes = vec![index; 1_000 * usize::from(index % 7) + 1];
        list.push(part(&mut client, &bytes).await);
        whole.extend(bytes);
    }
    let answer = join(&mut client, &list.join(" "), &[("Want-Repr-Digest", "sha-256=5, md5=0")]).await;
    let upload = location(&answer);
    assert_eq!(client.get(&upload).await.body, whole);
    let digests = client.status(&upload).await["digests"].clone();
    assert_eq!(digests["crc32c"], format!("{:08x}", crc32c::crc32c(&whole)).as_str());
    let sha256 = <sha2::Sha256 as sha2::Digest>::digest(&whole);
    let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digests["sha256"], hex.as_str(), "a requested digest covers the whole");
    assert_eq!(digests["md5"], json!(null), "RFC 9530: weight 0 asks for none");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_tells_parts_and_finals_apart() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let open = create_with(&mut client, &[("Upload-Length", "5"), ("Upload-Concat", "partial")]).await;
    for (upload, offset, length) in [(open.clone(), "0", "5"), (part(&mut client, b"hello").await, "5", "5")] {
        let head = client.head(&upload).await;
        assert_eq!(head.header("upload-concat"), Some("partial"), "tus 95");
        assert_eq!(head.header("upload-offset"), Some(offset), "tus 95");
        assert_eq!(head.header("upload-length"), Some(length));
    }
    let hello = part(&mut client, b"hello").await;
    let answer = join(&mut client, &hello, &[]).await;
    assert_eq!(answer.header("upload-offset"), Some("5"));
    assert_eq!(answer.header("upload-expires"), None, "tus 71: a whole final does not expire");
    let upload = location(&answer);
    let head = client.head(&upload).await;
    assert_eq!(head.header("upload-concat"), Some(format!("final;{hello}").as_str()), "tus 96");
    assert_eq!(head.header("upload-length"), Some("5"), "tus 96");
    assert_eq!(head.header("upload-offset"), Some("5"), "tus 96: once it is whole, equal to the length");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_takes_no_bytes_and_its_parts_stay_as_they_are() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let hello = part(&mut client, b"hello").await;
    let upload = location(&join(&mut client, &hello, &[]).await);
    for (at, body) in [(5, &b"!"[..]), (5, b""), (0, b"HELLO")] {
        let answer = client.patch(&upload, at, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, "final-upload"), "tus 65: at {at}");
    }
    assert_eq!(client.get(&upload).await.body, b"hello", "tus 65");
    assert_eq!(client.offset(&hello).await, 5, "tus 65");
    let refused = client.get(&hello).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (409, "not-complete"),
        "a part is material, not a download"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_has_its_own_metadata() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let named = [("Upload-Length", "0"), ("Upload-Concat", "partial"), ("Upload-Metadata", "filename cGFydA==")];
    let named = create_with(&mut client, &named).await;
    let plain = location(&join(&mut client, &named, &[]).await);
    assert_eq!(client.head(&plain).await.header("upload-metadata"), None, "tus 94: nothing is inherited");
    assert_eq!(client.status(&plain).await["metadata"], json!({}), "tus 94");
    let own = location(&join(&mut client, &named, &[("Upload-Metadata", "filename d2hvbGU=")]).await);
    assert_eq!(client.head(&own).await.header("upload-metadata"), Some("filename d2hvbGU="));
    assert_eq!(client.status(&own).await["filename"], "whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_final_is_announced_as_complete() {
    let receiver = Receiver::start().await;
    let app = TestApp::from_file(&receiver.endpoint("['*']"), |_| {}).await;
    let mut client = app.client().await;
    let hello = part(&mut client, b"hello").await;
    let upload = location(&join(&mut client, &hello, &[]).await);
    let heard = receiver.wait_for_kind("upload.completed").await;
    let of = |upload: &str| {
        let id = upload.trim_start_matches("/files/").to_owned();
        let own = heard.iter().filter(move |one| one.body["data"]["upload_id"] == id.as_str());
        own.map(|one| (one.kind().to_owned(), one.body["data"]["role"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let partial = |kind: &str| (kind.to_owned(), "partial".to_owned());
    let told = [partial("upload.created"), partial("upload.receiving"), partial("upload.received")];
    assert_eq!(of(&hello), told, "tus 85: a part is received and goes no further");
    assert!(of(&upload).contains(&("upload.completed".to_owned(), "final".to_owned())), "tus 85, 86");
    assert_eq!(client.status(&hello).await["stage"], "received", "tus 85");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joining_that_breaks_leaves_no_final_and_its_parts() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (a, b) = (part(&mut client, &[b'a'; 100_000]).await, part(&mut client, b"b").await);
    let id = b.trim_start_matches("/files/");
    let file = app.stored_files().into_iter().find(|file| file.to_string_lossy().contains(id)).unwrap();
    let aside = app.folder().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    let answer = join(&mut client, &format!("{a} {b}"), &[]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "no-such-part"), "tus 98: {answer:?}");
    assert_eq!(answer.header("location"), None, "tus 98: no final is shown");
    let broken = known_uploads(&mut client).await.remove(0);
    assert_eq!(broken["stage"], "terminated");
    let broken = broken["links"]["upload"].as_str().unwrap().to_owned();
    assert_eq!(client.get(&broken).await.status, 410, "tus 98: nothing half-written can be read");
    wait_until_nothing_is_stored_of(&app, &broken).await;
    assert_eq!(client.head(&b).await.status, 410, "its bytes are missing");
    std::fs::rename(&aside, &file).unwrap();
    for (upload, offset) in [(&a, 100_000), (&b, 1)] {
        assert_eq!(client.offset(upload).await, offset, "tus 98: the parts are as they were");
    }
    let upload = location(&join(&mut client, &format!("{a} {b}"), &[]).await);
    assert_eq!(client.get(&upload).await.body.len(), 100_001, "tus 98: and it can be asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_about_a_final_is_checked() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (a, b) = (part(&mut client, b"hello ").await, part(&mut client, b"world").await);
    let list = format!("{a} {b}");
    let promise = |bytes: &[u8]| format!("crc32c=:{}:", base64(crc32c::crc32c(bytes).to_be_bytes()));
    let sha256 = |bytes: &[u8]| format!("sha-256=:{}:", base64(<sha2::Sha256 as sha2::Digest>::digest(bytes)));
    for kept in [promise(b"hello world"), sha256(b"hello world")] {
        let upload = location(&join(&mut client, &list, &[("Repr-Digest", &kept)]).await);
        assert_eq!(client.status(&upload).await["stage"], "completed", "{kept}");
    }
    for broken in [promise(b"hello World"), sha256(b"hello World")] {
        let answer = join(&mut client, &list, &[("Repr-Digest", &broken)]).await;
        assert!(answer.status >= 400, "{broken} is not taken for success: {answer:?}");
        let failed = known_uploads(&mut client).await.remove(0);
        assert_eq!((&failed["stage"], &failed["error"]["code"]), (&"failed".into(), &"digest-mismatch".into()));
        wait_until_nothing_is_stored_of(&app, failed["links"]["upload"].as_str().unwrap()).await;
    }
    for (upload, offset) in [(&a, 6), (&b, 5)] {
        assert_eq!(client.offset(upload).await, offset, "tus 98: the parts are as they were");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_final_leaves_its_parts() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let hello = part(&mut client, b"hello").await;
    let upload = location(&join(&mut client, &hello, &[]).await);
    assert_eq!(client.tus("DELETE", &upload, &[], b"").await.status, 204);
    wait_until_nothing_is_stored_of(&app, &upload).await;
    assert_eq!(client.offset(&hello).await, 5, "tus 97");
    let again = location(&join(&mut client, &hello, &[]).await);
    assert_eq!(client.get(&again).await.body, b"hello", "tus 93");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_may_be_empty() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let (one, nothing) = (part(&mut client, b"one").await, part(&mut client, b"").await);
    let whole = location(&join(&mut client, &format!("{nothing} {one}"), &[]).await);
    assert_eq!(client.get(&whole).await.body, b"one");
    let empty = location(&join(&mut client, &nothing, &[]).await);
    assert_eq!(client.get(&empty).await.body, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_must_keep_its_promise() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let promise = format!("crc32c=:{}:", base64([0; 4]));
    let headers = [("Upload-Length", "3"), ("Upload-Concat", "partial"), ("Repr-Digest", promise.as_str())];
    let broken = create_with(&mut client, &headers).await;
    let answer = client.patch(&broken, 0, b"one").await;
    assert_eq!((answer.status, answer.problem().as_str()), (422, "digest-mismatch"));
    assert_eq!(client.status(&broken).await["stage"], "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_parts_has_a_limit() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let one = part(&mut client, b"one").await;
    let answer = join(&mut client, &vec![one.as_str(); 1_000].join(" "), &[]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (431, "header-too-large"));
}
