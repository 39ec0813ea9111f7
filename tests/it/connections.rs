//! Limits on connections, and the responses to connections above the limit.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;

use crate::support::app::TestApp;
use crate::support::client::{Client, TUS};
use crate::support::moving::is_whole;
use crate::support::patience::until;
use crate::support::process::Process;

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_told_to_come_back() {
    let app = TestApp::with(|config| config.limits.max_connections = 2).await;
    let (mut first, mut second) = (app.client().await, app.client().await);
    let path = first.create(4).await;
    assert_eq!(second.offset(&path).await, 0);
    for sent in [&b""[..], b"GET /files HTTP/1.1\r\n\r\n", &[b'x'; 64 * 1024]] {
        let mut third = app.client().await;
        third.send(sent).await;
        let answer = third.answer("GET").await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "too-many-connections"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(third.read_until(b"HTTP").await.is_none(), "the connection ends");
    }
    // After a 503 a tus client would start its upload from the beginning; and a response to HEAD has no body.
    let mut third = app.client().await;
    third.send_head("HEAD", &path, &[TUS]).await;
    let answer = third.answer("HEAD").await;
    assert_eq!((answer.status, answer.header("retry-after")), (423, Some("5")), "{answer:?}");
    assert!(third.read_until(b"{").await.is_none(), "nothing comes behind it");
    // Clients that hold a slot keep it.
    assert_eq!(first.patch(&path, 0, b"data").await.status, 204);
    drop(second);
    // The server may not have noticed yet that a slot is free.
    let answer = until("a place is free", async || {
        let mut again = app.client().await;
        again.send_head("HEAD", &path, &[TUS]).await;
        Some(again.answer("HEAD").await).filter(|answer| answer.status != 423)
    });
    assert_eq!(answer.await.header("upload-offset"), Some("4"));
}

/// However many clients connect at once, and whether they send anything or not, clients that hold a slot are
/// served.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_silent_connections_is_turned_away() {
    let app = TestApp::with(|config| {
        config.limits.max_connections = 10;
        config.limits.timeouts.header = Duration::from_secs(10);
    })
    .await;
    let mut first = app.client().await;
    let path = first.create(4).await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(app.client().await);
    }
    assert_eq!(first.patch(&path, 0, b"data").await.status, 204);
    // Nine of these clients hold slots and may stay silent; the others are answered and disconnected, one
    // batch after the other.
    let told = futures::future::join_all(crowd.iter_mut().map(async |client| {
        let wait = tokio::time::timeout(Duration::from_secs(20), client.raw_answer("GET"));
        matches!(wait.await, Ok(Some(answer)) if answer.status == 503)
    }));
    let told = told.await.into_iter().filter(|told| *told).count();
    assert_eq!(told, 200 - 9);
}

/// Starts the real program with a limit of open files; its log goes to a file.
fn start_with_descriptors(folder: &TempDir, limit: u64, flags: &[&str]) -> Process {
    let mut command = Process::command(&folder.path().join("data"), flags);
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={limit}:{limit}")).arg(command.get_program()).args(command.get_args());
    command = limited;
    Process::spawn(command.stderr(Stdio::from(log)))
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_connections_meet_a_limit_of_1024_files() {
    let folder = TempDir::new().unwrap();
    let process = start_with_descriptors(&folder, 1024, &["--limits-header-timeout", "5m"]);
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("the limit of open files (1024) is too low for the configuration"), "{log}");
    assert!(log.contains("limits.max_connections to ") && log.contains(" from 20000"), "{log}");
    assert!(log.contains("ulimit -n") && log.contains("LimitNOFILE="), "{log}");

    let address = process.address();
    let mut first = process.client().await;
    let path = first.create(4).await;
    let crowd = (0..200).map(async |_| {
        let (mut held, mut told) = (Vec::new(), 0);
        for _ in 0..100 {
            let mut client = Client::connect(address).await;
            client.send_head("HEAD", &path, &[TUS]).await;
            match client.raw_answer("HEAD").await.expect("no connection is left without a word").status {
                200 => held.push(client),
                // A client whose request took a moment to arrive was answered all the same.
                423 | 503 => told += 1,
                other => panic!("{other}"),
            }
        }
        (held, told)
    });
    let crowd = futures::future::join_all(crowd).await;
    let held: usize = crowd.iter().map(|(held, _)| held.len()).sum();
    let told: usize = crowd.iter().map(|(_, told)| told).sum();
    assert_eq!(held + told, 20_000);
    assert!(held > 150 && told > 18_000, "{held} were served and {told} told to come back");
    // Clients that hold a slot are served, and a descriptor is free for the file of an upload.
    assert_eq!(first.patch(&path, 0, b"data").await.status, 204);
    drop(crowd);
    until("places are free", async || {
        let mut again = process.client().await;
        again.send_head("GET", "/readyz", &[]).await;
        again.raw_answer("GET").await.filter(|answer| answer.status == 200)
    })
    .await;
    is_whole(address, &path, b"data").await;
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
}

/// Processor time used by a process so far, in ticks.
fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// Descriptors can also be missing for another reason, such as a limit that was lowered under the running
/// server.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_descriptors_waits_for_some() {
    let folder = TempDir::new().unwrap();
    let process = start_with_descriptors(&folder, 1024, &[]);
    let mut first = process.client().await;
    let path = first.create(4).await;
    let pid = Pid::from_raw(process.id().try_into().unwrap());
    let limit_to = |files| {
        let limit = Rlimit { current: Some(files), maximum: Some(1024) };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    };
    limit_to(4);
    let mut waiting = process.client().await;
    waiting.send_head("HEAD", &path, &[TUS]).await;
    assert_eq!(first.offset(&path).await, 0, "those it has are served");
    let before = ticks(process.id());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = ticks(process.id()) - before;
    assert!(used < 50, "it is busy waiting: {used} ticks of 200");
    limit_to(1024);
    assert_eq!(waiting.answer("HEAD").await.header("upload-offset"), Some("0"));
    assert_eq!(first.patch(&path, 0, b"data").await.status, 204);
}
