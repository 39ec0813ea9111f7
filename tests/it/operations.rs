//! The interfaces for operators and their tools: health, readiness, counters, logs.

use std::fs;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use longshore::config::SecretText;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Client};
use crate::support::metrics::Metrics;
use crate::support::patience::until;
use crate::support::process::Process;
use crate::support::program::{Program, run};
use crate::support::receiver::SECRET;

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

/// Waits for a fresh result of `/readyz`, which is cached for a second.
async fn readiness(client: &mut Client, status: u16) -> Answer {
    let look = until("readiness is looked at again", async || {
        Some(client.get("/readyz").await).filter(|answer| answer.status == status)
    });
    look.await
}

/// Checks that a server that is not ready gives the reason, stays alive, and becomes ready when the cause is
/// gone.
async fn check_trouble(app: &TestApp, cause: impl FnOnce(&Path), end: impl FnOnce(&Path)) {
    let mut client = app.client().await;
    assert_eq!(client.get("/readyz").await.status, 200);
    cause(app.data_dir());
    let answer = readiness(&mut client, 503).await;
    assert_eq!(answer.problem(), "not-ready");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    let said = [
        "uploads cannot be accepted at the moment: could not ",
        "uploads cannot be accepted at the moment: the database files were removed or replaced",
    ];
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

/// The effect of a disk that is mounted over the folder.
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
    // Permissions do not stop every user; a folder at the path of the probe's file does.
    check_trouble(
        &app,
        |folder| fs::create_dir(folder.join("longshore.probe")).unwrap(),
        |folder| fs::remove_dir(folder.join("longshore.probe")).unwrap(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_it_is_not_ready_is_for_those_with_a_credential() {
    let app = TestApp::with(|config| config.auth.token = Some(SecretText::new("the-shared-token".to_owned()))).await;
    fs::create_dir(app.data_dir().join("longshore.probe")).unwrap();
    let mut client = app.client().await;
    let bare = readiness(&mut client, 503).await;
    assert_eq!(bare.json()["detail"], "not ready");
    let told = client.request("GET", "/readyz", &[("Authorization", "Bearer the-shared-token")], b"").await;
    assert!(
        told.json()["detail"].as_str().unwrap().starts_with("uploads cannot be accepted at the moment: "),
        "{told:?}"
    );
}

/// Commits to a database without a name would be lost at the next start.
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
    until("both are counted", async || {
        let metrics = Metrics::of(&mut app.client().await).await;
        let found = (metrics.value("storage_files_without_record"), metrics.value("upload_records_without_file"));
        (found == (2.0, 1.0)).then_some(())
    })
    .await;
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

/// Starts a real program that logs to a file, as JSON.
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

/// Each rejection is logged at `info` with its reason, path, client and request id, but never with a token, a
/// query or a file name.
#[tokio::test(flavor = "multi_thread")]
async fn rejected_requests_are_in_the_log_and_a_flood_of_them_is_summarised() {
    let folder = TempDir::new().unwrap();
    let flags = ["--auth-token", "the-shared-token", "--limits-max-upload-size", "10B"];
    let process = start_logging(folder.path(), "info", &flags);
    let mut client = process.client().await;
    let bearer = ("Authorization", "Bearer the-shared-token");
    let name = ("Upload-Metadata", "filename c2VzYW1lLm1wNA==");
    let too_large = client.tus("POST", "/files", &[bearer, name, ("Upload-Length", "11")], b"").await;
    let wrong =
        client.request("GET", "/api/v1/uploads/x?secret=sesame", &[("Authorization", "Bearer sesame")], b"").await;
    let gone = client.request("GET", "/files/x", &[bearer], b"").await;
    assert_eq!((too_large.status, wrong.status, gone.status), (413, 401, 404));
    for _ in 0..300 {
        assert_eq!(client.get("/metrics").await.status, 401);
    }
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    let lines = logged(folder.path());
    for (answer, code, method, route) in
        [(&too_large, "over-limit", "POST", "/files"), (&wrong, "unauthorized", "GET", "/api/v1/uploads/{id}")]
    {
        let request = answer.header("x-request-id").unwrap();
        let line =
            lines.iter().find(|line| line["request"] == request).unwrap_or_else(|| panic!("{code} is not logged"));
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"rejected a request".into()), "{line}");
        let said = (&line["code"], &line["status"], &line["method"], &line["route"], &line["client"]);
        let expected = (code.into(), answer.status.into(), method.into(), route.into(), "127.0.0.1".into());
        assert_eq!(said, (&expected.0, &expected.1, &expected.2, &expected.3, &expected.4), "{line}");
    }
    let of_it = |line: &&Value| line["request"] == gone.header("x-request-id").unwrap();
    assert!(!lines.iter().any(|line| of_it(&line)), "an upload that is not there is nothing to report");
    let rejected = lines.iter().filter(|line| line["code"] == "unauthorized" && line["status"] == 401).count();
    assert!((2..150).contains(&rejected), "{rejected} of 301");
    let bounded = "further rejections for this reason are counted but not logged for up to a minute";
    assert!(lines.iter().any(|line| line["message"] == bounded), "the rest is only counted");
    assert!(lines.iter().all(|line| !line.to_string().contains("sesame")), "no token, query or name of a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_what_runs_where() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("longshore.toml");
    let endpoint = |name: &str| {
        format!("[[webhooks.endpoints]]\nname = '{name}'\nurl = 'http://127.0.0.1:9/'\nsecret = '{SECRET}'\n")
    };
    fs::write(&file, endpoint("backend") + &endpoint("audit")).unwrap();
    let data = folder.path().join("data");
    let flags =
        ["--config", file.to_str().unwrap(), "--auth-token", "the-shared-token", "--read-listen", "127.0.0.1:0"];
    let mut program = Program::serve(&data, &flags);
    let address = program.address();
    program.signal("TERM");
    let log = program.ran().stderr;
    let data = data.canonicalize().unwrap();
    for said in [
        &format!("version=\"{}\"", env!("CARGO_PKG_VERSION")),
        file.to_str().unwrap(),
        data.to_str().unwrap(),
        &format!("http://{address}/files"),
        "serving reads on a separate listener at http://127.0.0.1:",
        "sending webhooks to audit, backend",
        "try: curl -i -X POST http://",
        "-H 'Authorization: Bearer TOKEN'",
    ] {
        assert!(log.contains(said), "{said} is not in\n{log}");
    }
    assert!(!log.contains("the-shared-token"), "{log}");
    let below_a_file = file.join("data");
    let ran = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", below_a_file.to_str().unwrap()]);
    assert!(ran.code == Some(1) && !ran.stderr.contains("WARN"), "nothing but the error needs attention: {ran:?}");
}

/// The response to an internal error contains only an id, and the log has the details under that id.
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
