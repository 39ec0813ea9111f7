//! The real program, stopped or killed, and its state after the next start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::principal::TenantScope;
use domain::stage::Stage;
use state::{EventLog, Store, Uploads};
use state_sqlite::{SqliteSettings, SqliteStore};
use tempfile::TempDir;

use crate::support::app::collect_files;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::disk::SmallDisk;
use crate::support::moving::{is_whole, resume, wait_until_taken};
use crate::support::patience::until;
use crate::support::process::Process;
use crate::support::program::{Program, Ran, run};
use crate::support::seeded::Seeded;
use domain::query::UploadQuery;

const QUICK: [&str; 4] = ["--storage-checkpoint-every", "50ms", "--storage-checkpoint-size", "64KiB"];

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_kill_9_at_random_moments() {
    survives_kill_9(&QUICK, 6_000_000, 400_000).await;
}

/// Pieces that are written directly into preallocated space, from offsets in the middle of a block.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_survives_kill_9_in_the_middle_of_direct_writes() {
    survives_kill_9(&QUICK, 40_000_000, 12_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_durability_survives_kill_9() {
    let flags = [&QUICK[..], &["--storage-durability", "relaxed"]].concat();
    survives_kill_9(&flags, 40_000_000, 12_000_000).await;
}

/// Kills the server repeatedly in the middle of an upload that is sent in pieces of up to `longest` bytes.
async fn survives_kill_9(flags: &[&str], size: usize, longest: usize) {
    let folder = TempDir::new().unwrap();
    let mut random = Seeded::new(17);
    let source = random.bytes(size);
    let mut process = Process::start(folder.path(), flags);
    let path = process.client().await.create(source.len() as u64).await;
    let mut acknowledged = 0;
    for round in 0..12 {
        let moment = Duration::from_micros(random.next() % 100_000);
        let address = process.address();
        tokio::select! {
            () = push_on(address, &path, &source[..source.len() - 1], longest, &mut acknowledged, &mut random) => {}
            () = tokio::time::sleep(moment) => {}
        }
        process.kill();
        process = Process::start(folder.path(), flags);
        let told = process.client().await.offset(&path).await;
        eprintln!("round {round}: killed after {moment:?}; {acknowledged} acknowledged, {told} told");
        assert!(told >= acknowledged, "an acknowledged byte is lost: {told} of {acknowledged}");
        acknowledged = told;
    }
    assert!(acknowledged > 0, "every kill came before the first byte: it shows nothing");
    resume(process.address(), &path, &source).await;
    is_whole(process.address(), &path, &source).await;
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    nothing_is_missing_or_left(folder.path(), &BTreeMap::from([(path, source)])).await;
}

/// Appends short and long pieces, and records the acknowledged offsets.
async fn push_on(
    address: SocketAddr,
    path: &str,
    source: &[u8],
    longest: usize,
    acknowledged: &mut u64,
    random: &mut Seeded,
) {
    let mut client = Client::connect(address).await;
    let mut at = client.offset(path).await;
    *acknowledged = at;
    while at < source.len() as u64 {
        let start = usize::try_from(at).unwrap();
        let end = (start + 1 + random.below(longest)).min(source.len());
        let answer = client.patch(path, at, &source[start..end]).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        at = end as u64;
        *acknowledged = at;
        if random.below(3) == 0 {
            assert_eq!(client.offset(path).await, at);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_right_after_an_answer_takes_nothing_back() {
    let folder = TempDir::new().unwrap();
    let source = Seeded::new(4).bytes(100_000);
    let mut path = String::new();
    for (round, end) in [0, 1, 50_000, 99_999, 100_000].into_iter().enumerate() {
        let process = Process::start(folder.path(), &[]);
        let mut client = process.client().await;
        let mut told = 0;
        match round {
            0 => path = client.create(source.len() as u64).await,
            _ => {
                told = client.offset(&path).await;
                let answer = client.patch(&path, told, &source[usize::try_from(told).unwrap()..end]).await;
                assert_eq!(answer.status, 204);
            }
        }
        process.kill();
        let process = Process::start(folder.path(), &[]);
        let after = process.client().await.offset(&path).await;
        assert_eq!(after, end as u64, "after {told}");
        if end == source.len() {
            is_whole(process.address(), &path, &source).await;
            // The response to the deletion is an acknowledgment too.
            let deleted = process.client().await.tus("DELETE", &path, &[], b"").await;
            assert_eq!(deleted.status, 204);
            process.kill();
            let process = Process::start(folder.path(), &[]);
            assert_eq!(process.client().await.head(&path).await.status, 410);
            assert!(stored_files(folder.path()).is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_uploads_killed_on_their_last_steps_are_completed_or_can_go_on() {
    let folder = TempDir::new().unwrap();
    let mut random = Seeded::new(23);
    // Uploads that were acknowledged as complete, with their bytes.
    let complete: Arc<Mutex<BTreeMap<String, Vec<u8>>>> = Arc::default();
    for round in 0..10 {
        let process = Process::start(folder.path(), &QUICK);
        let address = process.address();
        everything_is_settled(address).await;
        let clients = (0..6).map(|client| {
            let complete = Arc::clone(&complete);
            tokio::spawn(upload_small_ones(address, Seeded::new(round * 100 + client), complete))
        });
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(Duration::from_micros(10_000 + random.next() % 400_000)).await;
        process.kill();
        for client in clients {
            client.await.unwrap();
        }
    }
    let process = Process::start(folder.path(), &QUICK);
    everything_is_settled(process.address()).await;
    let complete = complete.lock().unwrap().clone();
    eprintln!("{} uploads were acknowledged as complete", complete.len());
    assert!(!complete.is_empty());
    for (path, bytes) in &complete {
        is_whole(process.address(), path, bytes).await;
    }
    // Unfinished uploads can be resumed.
    let mut client = process.client().await;
    let open = client.get("/api/v1/uploads?stage=created,receiving,stalled&limit=1000").await.json();
    for upload in open["uploads"].as_array().unwrap() {
        let path = upload["links"]["upload"].as_str().unwrap();
        let (at, length) = (upload["offset"].as_u64().unwrap(), upload["length"].as_u64().unwrap());
        let rest = vec![1; usize::try_from(length - at).unwrap()];
        let answer = client.patch(path, at, &rest).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        assert_eq!(client.status(path).await["stage"], "completed");
    }
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    nothing_is_missing_or_left(folder.path(), &complete).await;
}

/// Sends one upload after the other until the server is gone.
async fn upload_small_ones(address: SocketAddr, mut random: Seeded, complete: Arc<Mutex<BTreeMap<String, Vec<u8>>>>) {
    loop {
        let size = random.below(4_000);
        let bytes = random.bytes(size);
        let Some(mut client) = Client::try_connect(address).await else { return };
        let length = size.to_string();
        let split = if size == 0 { 0 } else { random.below(size + 1) };
        let first = split.to_string();
        let headers = [TUS, OCTETS, ("Upload-Length", &length), ("Content-Length", &first)];
        client.send_head("POST", "/files", &headers).await;
        client.send(&bytes[..split]).await;
        let Some(created) = client.raw_answer("POST").await else { return };
        assert_eq!(created.status, 201, "{created:?}");
        let path = created.header("location").unwrap().to_owned();
        if split < size {
            client.begin_patch(&path, split as u64, (size - split) as u64).await;
            client.send(&bytes[split..]).await;
            let Some(answer) = client.raw_answer("PATCH").await else { return };
            assert_eq!(answer.status, 204, "{answer:?}");
        }
        complete.lock().unwrap().insert(path, bytes);
    }
}

/// Asserts that no upload is between two stages once the server listens.
async fn everything_is_settled(address: SocketAddr) {
    let mut client = Client::connect(address).await;
    let between = client.get("/api/v1/uploads?stage=received,verified,stored&limit=1000").await.json();
    assert_eq!(between["uploads"], serde_json::json!([]));
}

/// Checks a stopped server's folder: the events of each upload have no gap, and each file belongs to an
/// upload.
async fn nothing_is_missing_or_left(data_dir: &Path, complete: &BTreeMap<String, Vec<u8>>) {
    let store =
        SqliteStore::open(&data_dir.join("longshore.db"), SqliteSettings::default(), webhook::bodies()).await.unwrap();
    let uploads =
        store.list(TenantScope::All, &UploadQuery { limit: 100_000, ..UploadQuery::default() }).await.unwrap().found;
    let mut expected = BTreeSet::new();
    for upload in &uploads {
        let events = store.events_of(TenantScope::All, upload.id(), 0, 100_000).await.unwrap();
        assert!(events.iter().map(|event| event.sequence).eq(1..=events.len() as u64), "{events:?}");
        let told: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
        let once = |name: &str| told.iter().filter(|known| **known == name).count();
        assert_eq!(upload.stage(), Stage::Completed, "{told:?}");
        for name in ["upload.created", "upload.received", "upload.verified", "upload.stored", "upload.completed"] {
            assert_eq!(once(name), 1, "{name} in {told:?}");
        }
        assert_eq!(told.last(), Some(&"upload.completed"));
        expected.insert(data_dir.join(format!("files/{}/{}", upload.record().created_at.day_path(), upload.id())));
    }
    store.close().await;
    for path in complete.keys() {
        assert!(uploads.iter().any(|upload| path.ends_with(&upload.id().to_string())), "{path} is gone");
    }
    assert_eq!(stored_files(data_dir), expected, "each file belongs to a completed upload");
}

fn stored_files(data_dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = Vec::new();
    for place in ["incoming", "files"] {
        collect_files(&data_dir.join(place), &mut found);
    }
    found.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_keeps_every_byte_answers_the_client_and_exits_with_0() {
    let folder = TempDir::new().unwrap();
    let source = Seeded::new(8).bytes(300_000);
    let flags = ["--limits-drain-timeout", "100ms", "--shutdown-timeout", "20s"];
    for signal in ["TERM", "INT"] {
        let mut program = Program::serve(folder.path(), &flags);
        let address = program.address();
        let path = Client::connect(address).await.create(source.len() as u64).await;
        let mut live = Client::connect(address).await;
        live.begin_patch(&path, 0, source.len() as u64).await;
        live.send(&source[..123_456]).await;
        wait_until_taken(address, &path, 123_456).await;
        // Clients that only follow events must not keep the server from stopping.
        let mut stream = Client::connect(address).await;
        stream.send_head("GET", "/api/v1/events", &[]).await;
        stream.read_until(b"\r\n\r\n").await.unwrap();
        let mut polling = Client::connect(address).await;
        let tag = polling.get(&path.replace("/files/", "/api/v1/uploads/")).await;
        let tag = tag.header("etag").unwrap().to_owned();
        let waiting = format!("{}?wait=60s", path.replace("/files/", "/api/v1/uploads/"));
        polling.send_head("GET", &waiting, &[("If-None-Match", &tag)]).await;
        let _idle = Client::connect(address).await;

        let began = Instant::now();
        program.signal(signal);
        let answer = live.answer("PATCH").await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "shutting-down"), "{answer:?}");
        assert!(answer.header("retry-after").is_some());
        let ran = program.ran();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "within its limit: {:?}", began.elapsed());
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "no process listens any more");

        let process = Process::start(folder.path(), &[]);
        assert_eq!(process.client().await.offset(&path).await, 123_456, "all that was sent is kept");
        resume(process.address(), &path, &source).await;
        is_whole(process.address(), &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_let_go_does_not_stretch_the_limit() {
    let folder = TempDir::new().unwrap();
    let flags = ["--limits-drain-timeout", "60s", "--shutdown-timeout", "1s"];
    let mut program = Program::serve(folder.path(), &flags);
    let address = program.address();
    let path = Client::connect(address).await.create(1_000).await;
    let mut live = Client::connect(address).await;
    live.begin_patch(&path, 0, 1_000).await;
    live.send(b"silent from here on").await;
    wait_until_taken(address, &path, 19).await;
    let began = Instant::now();
    program.signal("TERM");
    let ran = program.ran();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let process = Process::start(folder.path(), &[]);
    assert_eq!(process.client().await.offset(&path).await, 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let folder = TempDir::new().unwrap();
    let flags = ["--limits-drain-timeout", "60s", "--shutdown-timeout", "1h"];
    let mut program = Program::serve(folder.path(), &flags);
    let address = program.address();
    let path = Client::connect(address).await.create(1_000).await;
    let mut live = Client::connect(address).await;
    live.begin_patch(&path, 0, 1_000).await;
    live.send(b"holds it up").await;
    wait_until_taken(address, &path, 11).await;
    program.signal("TERM");
    // The response shows that stopping has begun; the open body keeps it from finishing.
    assert_eq!(live.answer("PATCH").await.status, 503);
    // Two signals within a moment are one request to stop.
    tokio::time::sleep(Duration::from_millis(150)).await;
    program.signal("TERM");
    let ran = program.ran();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("stopped immediately"), "{ran:?}");
    let process = Process::start(folder.path(), &[]);
    assert_eq!(process.client().await.offset(&path).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_folder_is_refused() {
    let folder = TempDir::new().unwrap();
    let first = Process::start(folder.path(), &[]);
    let path = first.client().await.create(4).await;
    let before = fs::read(folder.path().join("longshore.db")).unwrap();
    let second = Program::serve(folder.path(), &[]).ran();
    refused(&second, &["in use by another running server", folder.path().to_str().unwrap()]);
    assert_eq!(fs::read(folder.path().join("longshore.db")).unwrap(), before, "the database was not touched");
    assert_eq!(first.client().await.patch(&path, 0, b"data").await.status, 204, "the first one goes on");
    // However the first one ends, its lock ends with it.
    first.kill();
    assert_eq!(Process::start(folder.path(), &[]).client().await.get(&path).await.body, b"data");
}

fn refused(ran: &Ran, reasons: &[&str]) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.stdout, "", "a server that does not listen does not say so");
    for reason in reasons {
        assert!(ran.stderr.contains(reason), "{reason:?} is not in {}", ran.stderr);
    }
}

#[test]
fn a_data_folder_that_is_a_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("data");
    fs::write(&file, "precious").unwrap();
    let ran = Program::serve(&file, &[]).ran();
    refused(&ran, &["is not a folder", file.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let below = Program::serve(&file.join("deeper"), &[]).ran();
    refused(&below, &["could not create the data folder", file.to_str().unwrap()]);
}

#[test]
fn a_data_folder_that_cannot_be_written_is_refused() {
    let Some(disk) = SmallDisk::mount("4m") else { return };
    let data_dir = disk.path().join("data");
    fs::create_dir(&data_dir).unwrap();
    disk.remount("ro");
    refused(&Program::serve(&data_dir, &[]).ran(), &["is not writable", data_dir.to_str().unwrap()]);
    disk.remount("rw");
    let full = disk.fill();
    refused(&Program::serve(&data_dir, &[]).ran(), &["is not writable", data_dir.to_str().unwrap()]);
    drop(full);
    let mut program = Program::serve(&data_dir, &[]);
    program.address();
    program.signal("TERM");
    assert_eq!(program.ran().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_version_is_refused_and_not_touched() {
    let folder = TempDir::new().unwrap();
    let process = Process::start(folder.path(), &[]);
    process.client().await.create(4).await;
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    // SQLite, database header: the user version is the big-endian number at byte 60.
    let database = folder.path().join("longshore.db");
    let mut bytes = fs::read(&database).unwrap();
    bytes[60..64].copy_from_slice(&999_u32.to_be_bytes());
    fs::write(&database, &bytes).unwrap();
    let ran = Program::serve(folder.path(), &[]).ran();
    refused(&ran, &["newer version", "999", database.to_str().unwrap()]);
    assert!(fs::read(&database).unwrap() == bytes, "not a byte has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_on_standard_output_says_where_it_listens() {
    let folder = TempDir::new().unwrap();
    let mut program = Program::serve(folder.path(), &[]);
    let address = program.address();
    assert_ne!(address.port(), 0, "port 0 picks a free one");
    let mut client = Client::connect(address).await;
    client.create(4).await;
    program.signal("TERM");
    let ran = program.ran();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), format!("listening on http://{address}\n").as_str()));
    assert!(ran.stderr.contains("storing data in"), "logs go to standard error: {ran:?}");
}

#[test]
fn listening_to_everyone_without_a_token_is_warned_of_loudly() {
    let loud = "ANYONE WHO REACHES";
    for (listen, token, open, warned) in [
        ("0.0.0.0:0", None, true, true),
        ("0.0.0.0:0", Some("a-token-that-is-long-enough-0123456789"), false, false),
        ("127.0.0.1:0", None, false, false),
    ] {
        let folder = TempDir::new().unwrap();
        let data_dir = folder.path().to_str().unwrap();
        let mut args = vec!["serve", "--listen", listen, "--data-dir", data_dir, "--storage-min-free-space", "0"];
        let file = folder.path().join("token");
        if let Some(token) = token {
            fs::write(&file, token).unwrap();
            args.extend(["--auth-token-file", file.to_str().unwrap()]);
        }
        if open {
            args.extend(["--auth-open", "true", "--auth-hosts", "localhost"]);
        }
        let mut program = Program::start(&args);
        program.address();
        program.signal("TERM");
        let ran = program.ran();
        assert_eq!(ran.code, Some(0));
        assert_eq!(ran.stderr.contains(loud), warned, "{listen} {token:?}: {}", ran.stderr);
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_told_with_exit_code_2() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("longshore.toml");
    for (toml, told) in [
        ("[limits]\nmax_upload_size = \"lots\"\n", ["limits.max_upload_size", "lots"]),
        ("[limits]\nmax_upload_sise = \"1GiB\"\n", ["max_upload_sise", "limits.max_upload_size"]),
        ("listen = \"everywhere\"\n", ["listen", "everywhere"]),
        ("[limits\n", ["longshore.toml", "line 1"]),
    ] {
        fs::write(&file, toml).unwrap();
        for subcommand in ["serve", "config"] {
            let ran = run(&[subcommand, "--config", file.to_str().unwrap()]);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{subcommand} {toml:?}: {ran:?}");
            for word in told {
                assert!(ran.stderr.contains(word), "{word:?} is not in {}", ran.stderr);
            }
        }
    }
    assert_eq!(run(&["config", "--config", "/nowhere/longshore.toml"]).code, Some(2));
    assert_eq!(run(&["serve", "--no-such-flag"]).code, Some(2));
    assert_eq!(run(&[]).code, Some(2));
}

/// The check changes nothing, and its exit code tells a script whether there is something to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_migrated_by_command_while_no_server_uses_it() {
    let folder = TempDir::new().unwrap();
    let data_dir = folder.path().join("data");
    let migrate = |flags: &[&str]| run(&[&["migrate", "--data-dir", data_dir.to_str().unwrap()], flags].concat());
    let check = migrate(&["--check"]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stdout.contains("is empty") && check.stdout.contains("\npending: 1 0001_"), "{}", check.stdout);
    assert!(!data_dir.exists());
    let applied = migrate(&[]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert!(applied.stdout.contains("\napplied: 1 0001_"), "{}", applied.stdout);
    let mut server = Program::serve(&data_dir, &[]);
    server.address();
    let check = migrate(&["--check"]);
    assert_eq!((check.code, check.stdout.ends_with("nothing to migrate\n")), (Some(0), true), "{check:?}");
    let refused = migrate(&[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("in use by another running server"), "{}", refused.stderr);
}

#[test]
fn the_configuration_in_force_is_printed_with_secrets_hidden() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("longshore.toml");
    let token = "a-token-that-is-long-enough-0123456789";
    fs::write(&file, format!("[auth]\ntoken = \"{token}\"\n[limits]\nidle_timeout = \"7s\"\n")).unwrap();
    let ran = run(&["config", "--config", file.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("idle_timeout = \"7s\""), "{}", ran.stdout);
    assert!(!ran.stdout.contains(token), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_check_knows_a_server_that_is_ready() {
    let folder = TempDir::new().unwrap();
    let mut program = Program::serve(folder.path(), &[]);
    let address = program.address().to_string();
    assert_eq!(run(&["health", "--listen", &address]).code, Some(0));
    program.signal("TERM");
    assert_eq!(program.ran().code, Some(0));
    until("the health check fails", async || (run(&["health", "--listen", &address]).code == Some(1)).then_some(()))
        .await;
}
