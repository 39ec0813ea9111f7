//! Media types as recorders of browsers write them, uploaded in every dialect and downloaded again.

use crate::ranged::{START, path_of};
use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::tus::{base64, completed};
use crate::{ietf, ranged};

/// Stores five bytes with a media type in every dialect, and returns the paths.
async fn stored_as(client: &mut Client, kind: &str) -> Vec<(&'static str, String)> {
    let named = ("Content-Type", kind);
    let metadata = format!("filetype {}", base64(kind));
    let of_tus = completed(client, &[("Upload-Metadata", &metadata)], b"hello").await;
    let of_ietf = ietf::location(&ietf::create(client, &[ietf::END, named], b"hello").await);
    let plain = path_of(&client.request("PUT", "/files/a", &[named], b"hello").await);
    let of_google = ranged::session(client, &[("X-Upload-Content-Type", kind)]).await;
    ranged::put(client, &of_google, "bytes 0-4/5", b"hello").await;
    let json = serde_json::json!({"contentType": kind}).to_string();
    let in_json = path_of(&client.request("POST", START, &[ranged::JSON], json.as_bytes()).await);
    ranged::put(client, &in_json, "bytes 0-4/5", b"hello").await;
    let form = format!(
        "--xyz\r\nContent-Disposition: form-data; name=f; filename=a\r\nContent-Type: {kind}\r\n\r\nhello\r\n--xyz--\r\n"
    );
    let form_type = ("Content-Type", "multipart/form-data; boundary=xyz");
    let of_form = path_of(&client.request("POST", "/files", &[form_type], form.as_bytes()).await);
    vec![
        ("tus", of_tus),
        ("ietf", of_ietf),
        ("plain", plain),
        ("google", of_google),
        ("google JSON", in_json),
        ("form", of_form),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_keeps_its_codecs_through_every_way_in() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (sent, kept) in [
        ("video/webm; codecs=\"vp8, opus\"", "video/webm; codecs=\"vp8, opus\""),
        ("video/webm;codecs=vp8,opus", "video/webm;codecs=\"vp8,opus\""),
        ("video/x-matroska;codecs=avc1,opus", "video/x-matroska;codecs=\"avc1,opus\""),
        ("video/webm;codecs=vp9", "video/webm;codecs=vp9"),
        ("video/mp4;", "video/mp4"),
    ] {
        for (way, path) in stored_as(&mut client, sent).await {
            assert_eq!(client.status(&path).await["content_type"], kept, "{way}: {sent}");
            assert_eq!(client.get(&path).await.header("content-type"), Some(kept), "{way}: {sent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_type_says_nothing_the_bytes_do() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0";
    for (sent, served) in [
        (None, "image/png"),
        (Some("application/octet-stream"), "image/png"),
        (Some("binary/octet-stream"), "image/png"),
        (Some("nonsense"), "image/png"),
        (Some("image/*"), "image/png"),
        (Some("image/webp"), "image/webp"),
        (Some("text/html"), "application/octet-stream"),
    ] {
        let headers: Vec<_> = sent.map(|sent| ("Content-Type", sent)).into_iter().collect();
        let path = path_of(&client.request("PUT", "/files/a", &headers, png).await);
        assert_eq!(client.get(&path).await.header("content-type"), Some(served), "{sent:?}");
    }
    let path = path_of(&client.request("PUT", "/files/a", &[], b"<!DOCTYPE html><script>1</script>").await);
    let kind = client.get(&path).await.header("content-type").unwrap().to_owned();
    assert!(!kind.contains("html"), "active content is not served with its type: {kind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_forms_are_read_as_their_clients_write_them() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let form_type = ("Content-Type", "multipart/form-data; boundary=xyz");
    for parameters in [
        &b"name=file; filename=\"=?utf-8?B?w6QubXA0?=\"; filename*=utf-8''%C3%A4.mp4"[..],
        b"name=file; filename*=utf-8''%C3%A4.mp4",
        b"name=file; filename=\"\xe4.mp4\"",
        b"name=file; filename=\"\xc3\xa4.mp4\"",
        b"name=file; filename=\"=?utf-8?B?w6Q=?=\r\n =?utf-8?B?Lm1wNA==?=\"",
        b"name=file; filename=\"\xc3\xa4.mp4\"; filename*=utf-8''",
        b"name=file; filename=\"\xc3\xa4.mp4\"; filename*=utf-8''%zz",
    ] {
        let form = [b"--xyz\r\nContent-Disposition: form-data; ", parameters, b"\r\n\r\nhello\r\n--xyz--\r\n"].concat();
        let answer = client.request("POST", "/files", &[form_type], &form).await;
        assert_eq!((answer.status, answer.json()["filename"].as_str()), (201, Some("\u{e4}.mp4")), "{answer:?}");
    }
    let form =
        b"--xyz\r\nContent-Disposition: form-data; name=file; filename*=Shift_JIS''%83%65\r\n\r\nhello\r\n--xyz--\r\n";
    let answer = client.request("POST", "/files", &[form_type], form).await;
    let read = (answer.status, answer.json()["filename"].as_str().map(str::to_owned));
    assert_eq!(read, (201, Some("%83%65".to_owned())), "a name that cannot be read is a name: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_a_path_is_utf_8_or_latin_1() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (path, name) in [
        ("/files/%C3%A4.mp4", "\u{e4}.mp4"),
        ("/files/%E4.mp4", "\u{e4}.mp4"),
        ("/files/a%20b.mp4/", "a b.mp4"),
        ("/files/a%2Fb.mp4", "b.mp4"),
        ("/files/100%25.mp4", "100%.mp4"),
    ] {
        let answer = client.request("PUT", path, &[], b"hello").await;
        assert_eq!((answer.status, answer.json()["filename"].as_str()), (201, Some(name)), "{path}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_is_too_long_is_rejected_before_it_is_sent() {
    let app = TestApp::start().await;
    for (target, length, code) in [
        ("/files", "40000000", "metadata-too-large"),
        (ranged::START, "99000000000000", "metadata-too-large"),
        (ranged::START, "2", "over-limit"),
        ("/api/v1/webhooks/endpoints", "40000000", "body-too-large"),
    ] {
        let mut client = app.client().await;
        let of_file = if code == "over-limit" { "99000000000000" } else { "5" };
        let of_file = ("X-Upload-Content-Length", of_file);
        let headers = [ranged::JSON, ("Content-Length", length), ("Expect", "100-continue"), of_file];
        let headers = if target == "/files" { &headers[..3] } else { &headers[..] };
        client.send_head("POST", target, headers).await;
        let answer = client.answer("POST").await;
        assert_eq!((answer.status, answer.problem().as_str()), (413, code), "{target}");
        assert!(client.interim.is_empty(), "{target}: it was not requested");
    }
    assert_eq!(ranged::known(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_too_long_is_refused_before_it_is_sent() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 1 << 20).await;
    let form_type = ("Content-Type", "multipart/form-data; boundary=xyz");
    for length in ["40000000", "99000000000000"] {
        let mut client = app.client().await;
        client.send_head("POST", "/files", &[form_type, ("Content-Length", length), ("Expect", "100-continue")]).await;
        let answer = client.answer("POST").await;
        assert_eq!((answer.status, answer.problem().as_str()), (413, "over-limit"), "{length}");
        assert!(client.interim.is_empty(), "{length}: it was not requested");
    }
    assert_eq!(ranged::known(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_on_a_creation_without_bytes_is_passed_over() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    // The base64 of the digest in hexadecimal, over the whole file: the form that tus-php sends.
    let of_the_file = format!("sha256 {}", base64("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"));
    let headers = [("Upload-Length", "5"), ("Upload-Checksum", &of_the_file)];
    let answer = client.tus("POST", "/files", &headers, b"").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let with_bytes = [headers[0], headers[1], crate::support::client::OCTETS];
    assert_eq!(client.tus("POST", "/files", &with_bytes, b"hello").await.status, 400, "of bytes it counts");
}
