//! What operators and their machines rely on: health, readiness, counters, logs.

use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use longshore::config::Secret;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::Answer;
use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::program::Program;
use crate::support::receiver::SECRET;
use crate::support::scripted::Scripted;
use crate::support::world::until;

async fn upload(client: &mut Client) -> String {
    let path = client.create(11).await;
    assert_eq!(client.patch(&path, 0, b"hello world").await.status, 204);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_well_is_alive_and_ready() {
    let app = TestApp::start().await;
    let mut client = app.client().await;
    for (path, status) in [("/healthz", "alive"), ("/readyz", "ready")] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, &answer.json()["status"]), (200, &status.into()), "{path}");
        assert_eq!(client.request("HEAD", path, &[], b"").await.status, 200, "{path}");
        assert_eq!(client.request("POST", path, &[], b"").await.status, 405, "{path}");
    }
    assert!(!app.data_dir().join("longshore.probe").exists(), "trying leaves nothing behind");
}

/// What `/readyz` says once it is looked again: the outcome of a look is good for a second.
async fn readiness(client: &mut Client, status: u16) -> Answer {
    let look = until("readiness is looked at again", async || {
        Some(client.get("/readyz").await).filter(|answer| answer.status == status)
    });
    look.await
}

/// Not ready says why, is still alive, and is ready again once the trouble is over.
async fn check_trouble(app: &TestApp, cause: impl FnOnce(&Path), end: impl FnOnce(&Path)) {
    let mut client = app.client().await;
    assert_eq!(client.get("/readyz").await.status, 200);
    cause(app.data_dir());
    let answer = readiness(&mut client, 503).await;
    assert_eq!(answer.problem(), "not-ready");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    let said =
        ["uploads cannot be taken now: could not ", "uploads cannot be taken now: the database of the server is gone"];
    assert!(said.iter().any(|said| detail.starts_with(said)), "{detail}");
    assert_eq!(client.get("/healthz").await.status, 200, "a restart would not help");
    end(app.data_dir());
    readiness(&mut client, 200).await;
    upload(&mut client).await;
}

fn aside(path: &Path) -> std::path::PathBuf {
    path.with_extension("aside")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_data_folder_it_is_not_ready() {
    let app = TestApp::start().await;
    check_trouble(
        &app,
        |folder| fs::rename(folder, aside(folder)).unwrap(),
        |folder| fs::rename(aside(folder), folder).unwrap(),
    )
    .await;
}

/// As when a disk is mounted over it.
#[tokio::test(flavor = "multi_thread")]
async fn with_another_folder_in_place_of_its_own_it_is_not_ready() {
    let app = TestApp::start().await;
    check_trouble(
        &app,
        |folder| {
            fs::rename(folder, aside(folder)).unwrap();
            fs::create_dir(folder).unwrap();
        },
        |folder| {
            fs::remove_dir_all(folder).unwrap();
            fs::rename(aside(folder), folder).unwrap();
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_data_folder_that_takes_no_files_it_is_not_ready() {
    let app = TestApp::start().await;
    // Permissions do not stop every user; a folder where the probe wants its file does.
    check_trouble(
        &app,
        |folder| fs::create_dir(folder.join("longshore.probe")).unwrap(),
        |folder| fs::remove_dir(folder.join("longshore.probe")).unwrap(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_it_is_not_ready_is_for_those_with_a_credential() {
    let app = TestApp::with(|config| config.auth.token = Some(Secret::new("the-shared-token".to_owned()))).await;
    fs::create_dir(app.data_dir().join("longshore.probe")).unwrap();
    let mut client = app.client().await;
    let bare = readiness(&mut client, 503).await;
    assert_eq!(bare.json()["detail"], "not ready");
    let told = client.request("GET", "/readyz", &[("Authorization", "Bearer the-shared-token")], b"").await;
    assert!(told.json()["detail"].as_str().unwrap().starts_with("uploads cannot be taken now: "), "{told:?}");
}

/// What would be committed to a database without a name is lost at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_it_is_not_ready() {
    let app = TestApp::start().await;
    check_trouble(
        &app,
        |folder| fs::rename(folder.join("longshore.db"), folder.join("aside.db")).unwrap(),
        |folder| fs::rename(folder.join("aside.db"), folder.join("longshore.db")).unwrap(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_database_taken_away_nothing_is_promised_any_more() {
    for lost in [&["longshore.db", "longshore.db-wal", "longshore.db-shm"][..], &["longshore.db-wal"]] {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        let mut program = Program::serve(&data, &["--log-level", "error"]);
        let mut client = Client::connect(program.address()).await;
        let path = client.create(10).await;
        assert_eq!(client.patch(&path, 0, b"hello").await.status, 204);
        for name in lost {
            fs::remove_file(data.join(name)).unwrap();
        }
        let created = client.tus("POST", "/files", &[("Upload-Length", "5")], b"").await;
        assert_eq!((created.status, created.problem().as_str()), (503, "database-gone"), "{created:?}");
        let appended = Client::connect(program.address()).await.patch(&path, 5, b"world").await;
        assert_eq!((appended.status, appended.problem().as_str()), (503, "database-gone"), "{appended:?}");
        let offset = client.head(&path).await;
        assert!(matches!(offset.status, 423 | 503), "an offset is a promise too: {offset:?}");
        assert_eq!(client.get("/readyz").await.status, 503);
        let log = program.stderr();
        let told: Vec<_> = log.lines().filter(|line| line.contains("was removed or replaced")).collect();
        assert_eq!(told.len(), 1, "{log}");
        assert!(
            told[0].contains("ERROR") && told[0].contains("Restore the files") && told[0].contains(lost[0]),
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_without_records_and_records_without_files_are_found_after_a_start() {
    let mut app = TestApp::start().await;
    let mut client = app.client().await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let path = client.create(5).await;
        assert_eq!(client.patch(&path, 0, b"hello").await.status, 204);
        kept.push(path);
    }
    let unfinished = client.create(5).await;
    assert_eq!(client.patch(&unfinished, 0, b"he").await.status, 204);
    client.create(5).await;
    let ended = client.create(5).await;
    assert_eq!(client.tus("DELETE", &ended, &[], b"").await.status, 204);
    app.stop().await;
    let id = kept[0].trim_start_matches("/files/");
    let lost = app.stored_files().into_iter().find(|file| file.to_string_lossy().contains(id)).unwrap();
    fs::remove_file(&lost).unwrap();
    for stray in ["files/2026/11/22/stray", "incoming/2026/11/22/0197b6a1-0000-7000-8000-000000000000.part"] {
        let stray = app.data_dir().join(stray);
        fs::create_dir_all(stray.parent().unwrap()).unwrap();
        fs::write(stray, "stray").unwrap();
    }
    let before = app.stored_files();
    app.start_again().await;
    let found = until("both are counted", async || {
        let metrics = app.client().await.get("/metrics").await;
        let metrics = parse_metrics(std::str::from_utf8(&metrics.body).unwrap());
        let value = |name: &str| metrics.get(&format!("longshore_{name}")).copied().unwrap_or_default();
        let found = (value("storage_files_without_record"), value("upload_records_without_file"));
        (found != (0.0, 0.0)).then_some(found)
    })
    .await;
    assert_eq!(found, (2.0, 1.0));
    assert_eq!(app.stored_files(), before, "nothing is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_and_the_group_read_what_the_server_makes() {
    for (flags, files, folders) in [(&[][..], 0o640, 0o750), (&["--storage-file-mode", "0600"], 0o600, 0o700)] {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        let mut program = Program::serve(&data, flags);
        let mut client = Client::connect(program.address()).await;
        for (length, body) in [(5, &b"hello"[..]), (9, b"hello")] {
            let path = client.create(length).await;
            assert_eq!(client.patch(&path, 0, body).await.status, 204);
        }
        let mut left = vec![data.clone()];
        let mut seen = Vec::new();
        while let Some(path) = left.pop() {
            let found = path.metadata().unwrap();
            let expected = match path.file_name().unwrap().to_str() {
                Some("longshore.key") => 0o600,
                _ if found.is_dir() => folders,
                _ => files,
            };
            assert_eq!(found.permissions().mode() & 0o7777, expected, "{}", path.display());
            if found.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                seen.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
        for name in ["longshore.db", "longshore.db-wal", "longshore.db-shm", "longshore.lock"] {
            assert!(seen.iter().any(|file| file == name), "{name} is not among {seen:?}");
        }
        assert!(seen.len() >= 7, "the two uploads are there too: {seen:?}");
    }
}

/// The samples of a text in the OpenMetrics format, by name and labels. Fails where the text is not in it.
fn parse_metrics(text: &str) -> HashMap<String, f64> {
    let body = text.strip_suffix("# EOF\n").expect("OpenMetrics: it ends with EOF");
    let mut kinds: HashMap<&str, &str> = HashMap::new();
    let mut samples = HashMap::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, value) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            assert!(matches!(what, "HELP" | "TYPE" | "UNIT"), "{line}");
            if what == "TYPE" {
                assert!(matches!(value, "counter" | "gauge" | "histogram"), "{line}");
                assert_eq!(kinds.insert(name, value), None, "OpenMetrics: a family stands there once: {line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
        let name = series.split('{').next().unwrap();
        assert!(name.starts_with("longshore_"), "{line}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{line}");
        let described = kinds.iter().any(|(family, kind)| {
            let suffixes: &[&str] = match *kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            name.strip_prefix(family).is_some_and(|suffix| suffixes.contains(&suffix))
        });
        assert!(described, "OpenMetrics: a sample belongs to a family above it: {line}");
        assert_eq!(samples.insert(series.to_owned(), value.parse().unwrap()), None, "{line}");
    }
    samples
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_count_in_the_open_metrics_format() {
    let receiver = Scripted::start(SECRET).await;
    let app = TestApp::from_file(&receiver.endpoint("backend", "['upload.completed']"), |_| {}).await;
    let mut client = app.client().await;
    assert!(parse_metrics(std::str::from_utf8(&client.get("/metrics").await.body).unwrap()).len() > 5);
    for _ in 0..3 {
        upload(&mut client).await;
    }
    let deleted = client.create(5).await;
    client.tus("DELETE", &deleted, &[], b"").await;
    receiver.wait_for_count(3).await;

    let began = Instant::now();
    let samples = loop {
        let answer = client.get("/metrics").await;
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(kind));
        let samples = parse_metrics(std::str::from_utf8(&answer.body).unwrap());
        if samples.get(r#"longshore_webhook_deliveries_settled_total{verdict="succeeded"}"#) == Some(&3.0) {
            break samples;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{samples:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    for (series, expected) in [
        ("longshore_upload_bytes_received_total", 33.0),
        (r#"longshore_upload_events_total{type="upload.created"}"#, 4.0),
        (r#"longshore_upload_events_total{type="upload.completed"}"#, 3.0),
        (r#"longshore_upload_events_total{type="upload.terminated"}"#, 1.0),
        (r#"longshore_webhook_attempts_total{outcome="2xx"}"#, 3.0),
        ("longshore_webhook_attempt_duration_seconds_count", 3.0),
        ("longshore_webhook_in_flight", 0.0),
        ("longshore_webhook_first_attempt_delay_seconds_count", 3.0),
        ("longshore_webhook_end_to_end_seconds_count", 3.0),
        ("longshore_webhook_breakers_opened_total", 0.0),
    ] {
        assert_eq!(samples.get(series), Some(&expected), "{series}: {samples:#?}");
    }
}

/// A real program that logs to a file, as JSON.
fn start_logging(folder: &Path, level: &str, flags: &[&str]) -> Process {
    let log = File::create(folder.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--log-level", level]);
    command.args(["--storage-min-free-space", "0", "--data-dir"]).arg(folder.join("data")).args(flags);
    Process::spawn(command.stderr(Stdio::from(log)))
}

fn logged(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("log")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line} is not JSON")));
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_tell_which_request_and_which_upload() {
    let folder = TempDir::new().unwrap();
    let process = start_logging(folder.path(), "debug", &[]);
    let mut client = process.client().await;
    let metadata = ("Upload-Metadata", "filename c2VzYW1lLm1wNA==");
    let headers = [("Upload-Length", "11"), metadata, ("X-Request-ID", "request-of-a-test")];
    let created = client.tus("POST", "/files", &headers, b"").await;
    assert_eq!(created.header("x-request-id"), Some("request-of-a-test"));
    let path = created.header("location").unwrap().to_owned();
    let patched = client.patch(&path, 0, b"hello world").await;
    let refused = client.patch(&path, 5, b"hello world").await;
    assert_eq!(refused.status, 409);
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));

    let lines = logged(folder.path());
    for line in &lines {
        assert!(line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
        assert!(!line.to_string().contains("sesame"), "names of files are not for the log: {line}");
    }
    let id = path.rsplit('/').next().unwrap();
    for message in ["upload created", "upload completed"] {
        let line = lines.iter().find(|line| line["message"] == message).unwrap();
        assert_eq!((&line["upload"], &line["level"]), (&id.into(), &"INFO".into()), "{line}");
    }
    for (answer, method, status) in [(&created, "POST", 201), (&patched, "PATCH", 204), (&refused, "PATCH", 409)] {
        let request = answer.header("x-request-id").unwrap();
        let of_it: Vec<_> = lines.iter().filter(|line| line["request"] == request).collect();
        let line = of_it.iter().find(|line| line["message"] == "answered").unwrap();
        assert_eq!((&line["method"], &line["status"]), (&method.into(), &status.into()), "{line}");
        assert!(line["path"].as_str().unwrap().starts_with("/files"), "{line}");
    }
}

/// Trouble of the server's own is told to the client by an id alone, and the log has the rest under it.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_the_reason_behind_a_500() {
    let folder = TempDir::new().unwrap();
    let process = start_logging(folder.path(), "info", &[]);
    let mut client = process.client().await;
    let path = client.create(11).await;
    let incoming = folder.path().join("data/incoming");
    fs::remove_dir_all(&incoming).unwrap();
    fs::write(&incoming, "a file where a folder should be").unwrap();
    let answer = client.patch(&path, 0, b"hello world").await;
    assert_eq!(answer.status, 500, "{answer:?}");
    let told = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(!told.contains("incoming") && told.contains("request id"), "{told}");
    process.signal("TERM");
    process.wait();
    let lines = logged(folder.path());
    let request = answer.header("x-request-id").unwrap();
    let line = lines.iter().find(|line| line["request"] == request).unwrap();
    assert_eq!(line["level"], "ERROR", "{line}");
    assert!(line.to_string().contains("Not a directory"), "with its cause: {line}");
}

fn health(listen: SocketAddr) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longshore")).args(["health", "--listen", &listen.to_string()]).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_command_asks_a_running_server() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let process = Process::start(&data, &["--auth-token", "correct-horse-battery-staple"]);
    let well = health(process.address());
    assert_eq!((well.status.code(), well.stdout.as_slice()), (Some(0), b"ready\n".as_slice()), "{well:?}");

    fs::create_dir(data.join("longshore.probe")).unwrap();
    let unwell = until("it looks again", async || {
        Some(health(process.address())).filter(|health| health.status.code() == Some(1))
    })
    .await;
    assert!(String::from_utf8_lossy(&unwell.stderr).contains("503"), "{unwell:?}");

    let address = process.address();
    process.kill();
    let dead = health(address);
    assert_eq!(dead.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&dead.stderr).contains(&address.to_string()), "it says whom it asked: {dead:?}");
}
