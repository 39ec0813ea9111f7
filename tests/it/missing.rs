//! Bytes that were removed behind the server's back, or lost in a power failure.

use std::fs;
use std::fs::File;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::app::TestApp;
use crate::support::client::Client;
use crate::support::patience::{until, until_fits};

/// The ways in which a file can be lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Removed,
    Shortened,
}

impl Loss {
    const ALL: [Self; 2] = [Self::Removed, Self::Shortened];

    /// Damages the file, and returns a function that restores it.
    fn strike(self, file: &PathBuf) -> impl Fn() + use<> {
        let (path, bytes) = (file.clone(), fs::read(file).unwrap());
        match self {
            Self::Removed => fs::remove_file(file).unwrap(),
            Self::Shortened => File::options().write(true).open(file).unwrap().set_len(1).unwrap(),
        }
        move || fs::write(&path, &bytes).unwrap()
    }
}

fn file_of(app: &TestApp, path: &str) -> PathBuf {
    let id = path.rsplit('/').next().unwrap();
    app.stored_files().into_iter().find(|file| file.to_string_lossy().contains(id)).unwrap()
}

async fn metric(client: &mut Client, name: &str) -> f64 {
    let metrics = client.get("/metrics").await;
    let text = String::from_utf8(metrics.body).unwrap();
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("there is such a metric");
    line.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_upload_without_its_bytes_is_gone_until_they_are_back() {
    for loss in Loss::ALL {
        let app = TestApp::start().await;
        let mut client = app.client().await;
        let path = client.create(5).await;
        assert_eq!(client.patch(&path, 0, b"hello").await.status, 204);
        let bring_back = loss.strike(&file_of(&app, &path));
        for _ in 0..2 {
            let answer = client.get(&path).await;
            assert_eq!((answer.status, answer.problem().as_str()), (410, "bytes-missing"), "{loss:?}");
        }
        assert_eq!(client.head(&path).await.status, 410, "{loss:?}");
        let status = client.status(&path).await;
        assert_eq!(status["stage"], "completed");
        assert!(status["bytes_missing_since"].is_string(), "{status}");
        assert_eq!((&status["links"]["download"], &status["links"]["file"]), (&Value::Null, &Value::Null));
        assert_eq!(metric(&mut client, "longshore_upload_records_without_file").await, 1.0);

        bring_back();
        assert_eq!(client.head(&path).await.status, 200, "{loss:?}");
        let answer = client.get(&path).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]), "{loss:?}");
        assert_eq!(client.status(&path).await["bytes_missing_since"], Value::Null);
        assert_eq!(metric(&mut client, "longshore_upload_records_without_file").await, 0.0);
    }
}

/// A tus client that receives 410 creates a new upload; one that receives 500 retries forever.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_upload_without_its_bytes_is_gone() {
    for loss in Loss::ALL {
        let app = TestApp::with(|config| config.engine.writer.keep_open = std::time::Duration::ZERO).await;
        let mut client = app.client().await;
        let path = client.create(9).await;
        assert_eq!(client.patch(&path, 0, b"hello").await.status, 204);
        let _ = loss.strike(&file_of(&app, &path));
        let answer = client.patch(&path, 5, b"more").await;
        assert_eq!((answer.status, answer.problem().as_str()), (410, "bytes-missing"), "{loss:?}");
        assert_eq!(client.head(&path).await.status, 410, "{loss:?}");
        let status = client.status(&path).await;
        assert_eq!((&status["stage"], &status["offset"]), (&"receiving".into(), &5.into()));
        assert!(status["bytes_missing_since"].is_string(), "{status}");
        assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 204, "it can still be deleted");
        assert_eq!(metric(&mut client, "longshore_upload_records_without_file").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_without_their_bytes_are_missing_in_a_concatenation() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    let mut parts = Vec::new();
    for _ in 0..2 {
        let headers = [("Upload-Length", "5"), ("Upload-Concat", "partial")];
        let path = client.tus("POST", "/files", &headers, b"").await.header("location").unwrap().to_owned();
        assert_eq!(client.patch(&path, 0, b"hello").await.status, 204);
        parts.push(path);
    }
    fs::remove_file(file_of(&app, &parts[1])).unwrap();
    for _ in 0..2 {
        let list = format!("final;{} {}", parts[0], parts[1]);
        let answer = client.tus("POST", "/files", &[("Upload-Concat", &list)], b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "no-such-part"));
    }
    assert!(client.status(&parts[1]).await["bytes_missing_since"].is_string());
    assert_eq!(client.status(&parts[0]).await["bytes_missing_since"], Value::Null);
}

/// Missing bytes are found in the background, without a request for them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_at_a_start_is_found_and_what_is_back_as_well() {
    let mut app = TestApp::start().await;
    let mut client = app.client().await;
    let (mut paths, mut bring_back) = (Vec::new(), Vec::new());
    for loss in Loss::ALL {
        let path = client.create(5).await;
        assert_eq!(client.patch(&path, 0, b"hello").await.status, 204);
        bring_back.push(loss.strike(&file_of(&app, &path)));
        paths.push(path);
    }
    app.restart().await;
    let mut client = app.client().await;
    for path in &paths {
        until("it is found", async || client.status(path).await["bytes_missing_since"].is_string().then_some(())).await;
    }
    app.restart().await;
    let mut client = app.client().await;
    assert_eq!(metric(&mut client, "longshore_upload_records_without_file").await, 2.0, "from the first moment on");
    app.stop().await;
    bring_back.iter().for_each(|bring_back| bring_back());
    app.start_again().await;
    let mut client = app.client().await;
    for path in &paths {
        until("it is back", async || client.status(path).await["bytes_missing_since"].is_null().then_some(())).await;
    }
    // The status changes with the commit, a moment before the metric.
    let missing = async || metric(&mut client, "longshore_upload_records_without_file").await;
    until_fits("none is counted as missing", missing, |missing| *missing == 0.0).await;
    assert_eq!(client.get(&paths[0]).await.body, b"hello");
}

/// The state after the database was restored from a backup that is older than the completion of the upload.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_file_is_newer_than_its_record_is_not_tried_again_for_ever() {
    let app = TestApp::with(|config| config.engine.writer.keep_open = std::time::Duration::ZERO).await;
    let mut client = app.client().await;
    let path = client.create(8).await;
    assert_eq!(client.patch(&path, 0, b"half").await.status, 204);
    let part = file_of(&app, &path);
    let finished = part.to_string_lossy().replace("/incoming/", "/files/").replace(".part", "");
    fs::create_dir_all(PathBuf::from(&finished).parent().unwrap()).unwrap();
    fs::rename(&part, &finished).unwrap();
    for _ in 0..2 {
        let answer = app.client().await.patch(&path, 4, b"rest").await;
        assert_eq!((answer.status, answer.problem().as_str()), (410, "bytes-missing"));
    }
    assert!(fs::read(&finished).unwrap() == b"half", "it is unchanged");
    assert_eq!(client.tus("DELETE", &path, &[], b"").await.status, 204);
}
