//! The start of Google's sessions.

use longshore::config::SecretText;

use crate::ranged::{JSON, START, is_incomplete, is_object, known, path_of, put, sent};
use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::tls::{Certificate, unwrapped};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_started_with_json_and_lives_at_an_absolute_address() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let kind = ("X-Upload-Content-Type", "video/mp4");
    let length = ("X-Upload-Content-Length", "11");
    let json = br#"{"name": "a.mp4", "metadata": {"user": "7"}, "storageClass": "STANDARD"}"#;
    let answer = client.request("POST", START, &[JSON, kind, length], json).await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b""[..]), "ranged 1");
    let address = app.address();
    let location = answer.location_as_sent.as_deref().unwrap();
    assert!(location.starts_with(&format!("http://{address}/files/")), "ranged 2: {location}");
    let path = path_of(&answer);
    let status = client.status(&path).await;
    let told = (&status["filename"], &status["content_type"], &status["length"], &status["metadata"]["user"]);
    assert_eq!(told, (&"a.mp4".into(), &"video/mp4".into(), &11.into(), &"7".into()), "ranged 1 and 3");
    // The URL alone is enough: no header of the first request has to be repeated.
    let done = put(&mut client, &path, "bytes 0-10/11", b"hello world").await;
    let object = is_object(&done, b"hello world", "ranged 2");
    assert_eq!((&object["name"], &object["contentType"]), (&"a.mp4".into(), &"video/mp4".into()), "ranged 14");
    assert_eq!(object["metadata"], serde_json::json!({"user": "7"}));
    assert_eq!(object["generation"].as_str().map(|text| text.parse::<u64>().is_ok()), Some(true), "ranged 14");
    assert!(object["timeCreated"].is_string(), "ranged 14");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_begin_without_a_body() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let named = "/files?uploadType=resumable&name=a%20b.mp4";
    let answer = client.request("POST", named, &[], b"").await;
    assert_eq!(answer.status, 200, "ranged 4: the body may be absent");
    let status = client.status(&path_of(&answer)).await;
    assert_eq!((&status["filename"], &status["length"]), (&"a b.mp4".into(), &serde_json::Value::Null));
    let answer = client.request("POST", named, &[JSON], br#"{"name": "a b.mp4"}"#).await;
    assert_eq!(answer.status, 200, "ranged 4: the same name twice");
    let answer = client.request("POST", named, &[JSON], br#"{"name": "c.mp4"}"#).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-session"), "ranged 4: two names");
    for mark in [("X-Upload-Content-Type", "a/b"), ("X-Upload-Content-Length", "5")] {
        let answer = client.request("POST", "/files", &[mark], b"").await;
        assert_eq!(answer.status, 200, "dialects 2.3: {mark:?}");
    }
    assert_eq!(known(&app).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_flavour_answers_201() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let headers = [("x-goog-resumable", "start"), ("Content-Type", "video/mp4")];
    // A library for signed URLs sends JSON nevertheless, with the media type of the file.
    for body in [&b""[..], br#"{"name": "a.mp4"}"#] {
        let answer = client.request("POST", "/files", &headers, body).await;
        assert_eq!(answer.status, 201, "ranged 5");
        let path = path_of(&answer);
        assert_eq!(client.status(&path).await["content_type"], "video/mp4", "ranged 5");
        is_object(&put(&mut client, &path, "bytes 0-4/5", b"hello").await, b"hello", "ranged 5");
    }
    let answer = client.request("POST", "/files", &[("x-goog-resumable", "stop")], b"").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_session_is_the_operators_or_the_one_used_and_no_forwarded_one() {
    let forged = [("X-Forwarded-Host", "evil.example"), ("Forwarded", "host=evil.example;proto=https")];
    let app = TestApp::start().await;
    let answer = app.client().await.request("POST", START, &forged, b"").await;
    let address = format!("http://{}/", app.address());
    assert!(answer.location_as_sent.as_ref().unwrap().starts_with(&address), "{answer:?}");
    let public = "https://up.example.com/base";
    let app = TestApp::with(|config| config.server.public_url = Some(public.to_owned())).await;
    let answer = app.client().await.request("POST", START, &forged, b"").await;
    assert!(answer.header("location").unwrap().starts_with(&format!("{public}/files/")), "ranged 2");

    let token = "correct-horse-battery-staple";
    let app = TestApp::with(|config| config.auth.token = Some(SecretText::new(token.to_owned()))).await;
    for host in ["", "Host: \r\n", "Host: a/b\r\n", "Host: a@b\r\n", "Host: <script>\r\n"] {
        let mut client = app.client().await;
        let request =
            format!("POST {START} HTTP/1.1\r\n{host}Authorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n");
        client.send(request.as_bytes()).await;
        let answer = client.raw_answer("POST").await.expect("an answer");
        assert_eq!((answer.status, answer.header("location")), (400, None), "{host:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_tls_the_address_of_a_session_says_so() {
    let certificate = Certificate::new();
    let app = TestApp::with(|config| certificate.configure(config)).await;
    let address = unwrapped(certificate.connector(&[]), app.address()).await;
    let answer = Client::connect(address).await.request("POST", START, &[], b"").await;
    let location = answer.header("location").unwrap();
    assert!(location.starts_with(&format!("https://{address}/files/")), "ranged 2: {location}");
}

#[tokio::test(flavor = "multi_thread")]
async fn googles_libraries_make_addresses_of_their_own() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let bucket = "/upload/storage/v1/b/my-films/o?uploadType=resumable&name=a.mp4";
    let answer = client.request("POST", bucket, &[JSON], b"{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let path = path_of(&answer);
    assert_eq!(client.status(&path).await["metadata"]["bucket"], "my-films");
    let done = put(&mut client, &path, "bytes 0-4/5", b"hello").await;
    assert_eq!(is_object(&done, b"hello", "in a bucket")["bucket"], "my-films", "ranged 14");
    for other in ["", "?uploadType=multipart", "?uploadType=media&name=a"] {
        let path = format!("/upload/storage/v1/b/my-films/o{other}");
        let answer = client.request("POST", &path, &[], b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "unsupported-upload-type"), "{other}");
    }
    let answer = client.request("GET", "/upload/storage/v1/b/my-films/o", &[], b"").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("OPTIONS, POST, PUT")));
    let answer = client.request("OPTIONS", "/upload/storage/v1/b/my-films/o", &[], b"").await;
    assert_eq!(answer.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upload_commands_are_another_protocol() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let upload = crate::ranged::session(&mut client, &[]).await;
    let start = ("X-Goog-Upload-Protocol", "resumable");
    let command = ("X-Goog-Upload-Command", "upload, finalize");
    for (method, path, headers) in [
        ("POST", "/files", &[start][..]),
        ("POST", "/files", &[start, JSON]),
        ("POST", START, &[("X-Goog-Upload-Command", "start")]),
        ("POST", upload.as_str(), &[command, ("X-Goog-Upload-Offset", "0")]),
        ("PUT", upload.as_str(), &[command]),
    ] {
        let answer = client.request(method, path, headers, b"hello").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "upload-commands"), "ranged 36: {path}");
    }
    is_incomplete(&put(&mut client, &upload, "bytes */*", b"").await, 0, "nothing was stored");
    assert_eq!(known(&app).await, 1, "ranged 36");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_not_replace_the_token() {
    let token = "correct-horse-battery-staple";
    let app = TestApp::with(|config| config.auth.token = Some(SecretText::new(token.to_owned()))).await;
    let mut client = app.client().await;
    let bearer = format!("Bearer {token}");
    let given = ("Authorization", bearer.as_str());
    let answer = client.request("POST", START, &[], b"").await;
    assert_eq!(answer.status, 401);
    let path = path_of(&client.request("POST", START, &[given], b"").await);
    let range = ("Content-Range", "bytes 0-4/5");
    assert_eq!(client.request("PUT", &path, &[range], b"hello").await.status, 401);
    assert_eq!(sent(&mut client, "PUT", &path, &[range, given], b"hello").await.status, 200);
    // ranged 7: and it cannot be guessed.
    let id = path.trim_start_matches("/files/");
    assert_eq!(id.len(), 36, "74 random bits: {id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_too_large_or_badly_described_is_refused_and_nothing_is_there() {
    let app = TestApp::with(|config| config.engine.max_upload_bytes = 100).await;
    let mut client = app.client().await;
    let large = format!("{{\"name\": \"{}\"}}", "a".repeat(10_000));
    let length = |value| ("X-Upload-Content-Length", value);
    for (headers, body, status, problem) in [
        (&[length("101")][..], &b""[..], 413, "over-limit"),
        (&[length("-1")], b"", 400, "bad-header"),
        (&[length("+1")], b"", 400, "bad-header"),
        (&[length("9223372036854775808")], b"", 400, "bad-header"),
        (&[length("1"), length("1")], b"", 400, "bad-header"),
        (&[JSON], b"{\"name\": ", 400, "bad-session"),
        (&[JSON], b"[]", 400, "bad-session"),
        (&[JSON], b"{\"md5Hash\": \"x\"}", 400, "bad-digest"),
        (&[JSON], large.as_bytes(), 413, "metadata-too-large"),
        (&[("Content-Range", "bytes 0-4/5")], b"hello", 400, "range-of-nothing"),
    ] {
        let answer = client.request("POST", START, headers, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, problem), "{headers:?}");
    }
    assert_eq!(known(&app).await, 0);
}
