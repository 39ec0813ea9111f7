//! DELETE, and requests that collide with others on the same upload.

use crate::ietf::{END, NUMBERS, PARTIAL, append, begin, create, download, end_in, location, offset, send, version};
use crate::support::app::TestApp;
use crate::tus::{wait_for_status, wait_until_nothing_is_stored_of};

#[tokio::test(flavor = "multi_thread")]
async fn delete_ends_an_upload_in_every_version() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for number in NUMBERS.into_iter().map(Some).chain([None]) {
        let headers: Vec<_> = number.map(version).into_iter().collect();
        let open = begin(&mut client, Some(9)).await;
        append(&mut client, &open, 0, false, b"hello").await;
        let complete = location(&create(&mut client, &[END], b"hello").await);
        for upload in [open, complete] {
            let answer = send(&mut client, "DELETE", &upload, &headers, b"").await;
            assert_eq!((answer.status, answer.body.len()), (204, 0), "ietf 63: {number:?}");
            wait_until_nothing_is_stored_of(&app, &upload).await;
            for method in ["HEAD", "GET", "DELETE"] {
                let status = send(&mut client, method, &upload, &headers, b"").await.status;
                assert!([404, 410].contains(&status), "ietf 63: {method} {number:?}: {status}");
            }
            let status = append(&mut client, &upload, 5, true, b"").await.status;
            assert_eq!(status, 410, "ietf 63: {number:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_cuts_a_running_append() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(100)).await;
    let mut sending = app.client().await;
    sending.send_head("PATCH", &upload, &[PARTIAL, ("Upload-Offset", "0"), END, ("Content-Length", "100")]).await;
    sending.send(&[b'x'; 40]).await;
    wait_for_status(&mut client, &upload, |status| status["received"] == 40).await;
    assert_eq!(send(&mut client, "DELETE", &upload, &[], b"").await.status, 204, "ietf 64");
    let cut = sending.answer("PATCH").await;
    assert_eq!((cut.status, cut.problem().as_str()), (410, "upload-gone"), "ietf 64: there is nothing to resume");
    assert_eq!(client.status(&upload).await["stage"], "terminated", "ietf 64: nothing brings it back");
    wait_until_nothing_is_stored_of(&app, &upload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_append_ends_the_old_one_and_a_wrong_one_does_not() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for number in ["3", "6", "8"] {
        let mut old = app.client().await;
        let headers = [version(number), end_in(number, true), ("Content-Length", "100")];
        old.send_head("POST", "/files", &headers).await;
        let upload = location(&old.next_interim().await);
        old.send(&[b'x'; 40]).await;
        wait_for_status(&mut client, &upload, |status| status["received"] == 40).await;
        assert_eq!(append(&mut client, &upload, 7, true, b"wrong").await.status, 409, "ietf 66: {number}");
        assert_eq!(offset(&mut client, &upload).await, (40, false), "ietf 65: {number}");
        let answer = append(&mut client, &upload, 40, true, &[b'y'; 60]).await;
        assert_eq!(answer.status, 201, "ietf 65: {number}: {answer:?}");
        let ended = old.answer("POST").await;
        assert_eq!(ended.status, 503, "ietf 65, 67: a 5xx, never a 4xx: {number}");
        assert_eq!(ended.header(&end_in(number, false).0.to_ascii_lowercase()), Some(end_in(number, false).1));
        let expected = [[b'x'; 40].as_slice(), &[b'y'; 60]].concat();
        assert_eq!(download(&mut client, &upload).await, expected, "ietf 66: {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_are_refused() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = begin(&mut client, Some(9)).await;
    for method in ["POST", "PUT"] {
        let answer = send(&mut client, method, &upload, &[version("8"), END], b"hello").await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains("PATCH")), "{method}");
    }
}
