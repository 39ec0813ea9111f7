//! Uploads on every kind of disk: with and without direct writes, with preallocated space and with too little
//! space, with writes and syncs that fail.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::disks::{FileSystem, TestDisk, cached_bytes};
use tempfile::TempDir;

use crate::support::app::{TestApp, collect_files};
use crate::support::client::{Answer, Client, OCTETS, TUS};
use crate::support::disk::mounted;
use crate::support::moving::{is_whole, resume, wait_until_at_rest, wait_until_committed};
use crate::support::patience::until;
use crate::support::program::Program;
use crate::support::seeded::Seeded;

const MIB: usize = 1024 * 1024;

fn ext4(folder: &TempDir, sector_bytes: u32, size: usize) -> Option<TestDisk> {
    mounted(TestDisk::make(folder.path(), FileSystem::Ext4, sector_bytes, size as u64))
}

/// Returns the only file that holds bytes of uploads.
fn the_file(data_dir: &Path) -> PathBuf {
    let mut found = Vec::new();
    collect_files(&data_dir.join("incoming"), &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn available(at: &Path) -> u64 {
    let room = rustix::fs::statvfs(at).unwrap();
    room.f_bavail * room.f_frsize
}

/// Fills a disk until only this many bytes are free.
fn leave(disk: &TestDisk, bytes: usize) -> PathBuf {
    let ballast = disk.path().join("ballast");
    let size = usize::try_from(available(disk.path())).unwrap() - bytes;
    fs::write(&ballast, vec![1; size]).unwrap();
    ballast
}

/// Sends part of an upload and waits until it is committed; the request is left open.
async fn begin(client: &mut Client, path: &str, source: &[u8], end: usize) {
    client.begin_patch(path, 0, source.len() as u64).await;
    client.send(&source[..end]).await;
    wait_until_committed(client.address, path, end as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_leave_the_page_cache_to_others() {
    for sector_bytes in [512, 4096] {
        let folder = TempDir::new().unwrap();
        let Some(disk) = ext4(&folder, sector_bytes, 256 * MIB) else { return };
        let source = Seeded::new(1).bytes(8 * MIB + 1);
        let mut cached = Vec::new();
        for direct in [true, false] {
            let app = TestApp::with(|config| {
                config.server.data_dir = disk.path().join(direct.to_string());
                config.storage.local.direct_io = direct;
            })
            .await;
            let path = app.client().await.create(source.len() as u64).await;
            let mut client = app.client().await;
            begin(&mut client, &path, &source, 8 * MIB).await;
            cached.push(cached_bytes(&the_file(app.data_dir())).unwrap());
            client.send(&source[8 * MIB..]).await;
            assert_eq!(client.answer("PATCH").await.status, 204);
            is_whole(app.address(), &path, &source).await;
        }
        eprintln!("sectors of {sector_bytes}: {} bytes cached, and {} without direct writes", cached[0], cached[1]);
        assert!(cached[0] < MIB as u64, "direct writes pass through the page cache");
        assert!(cached[1] > 7 * MIB as u64, "others do not, so that the first number says nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_without_direct_writes_is_used_all_the_same_and_told() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = mounted(TestDisk::without_direct_writes(folder.path())) else { return };
    let source = Seeded::new(2).bytes(3 * MIB + 1);
    for (place, told) in [(disk.path(), true), (folder.path(), false)] {
        let mut program = Program::serve(&place.join("data"), &["--log-level", "info"]);
        let address = program.address();
        let path = Client::connect(address).await.create(source.len() as u64).await;
        resume(address, &path, &source).await;
        is_whole(address, &path, &source).await;
        assert_eq!(program.stderr().contains("does not support direct I/O"), told, "{}", program.stderr());
        assert_eq!(program.stderr().contains("bypass the page cache"), !told, "{}", program.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_blocks_are_allocated_completes_when_others_fill_the_disk() {
    let source = Seeded::new(3).bytes(12 * MIB);
    for preallocate in [true, false] {
        let folder = TempDir::new().unwrap();
        let Some(disk) = ext4(&folder, 512, 64 * MIB) else { return };
        let app = TestApp::with(|config| {
            config.server.data_dir = disk.path().join("data");
            config.storage.local.preallocate = preallocate;
            config.engine.space.min_free_bytes = MIB as u64;
            config.engine.writer.checkpoint_bytes = MIB as u64;
        })
        .await;
        let path = app.client().await.create(source.len() as u64).await;
        let mut client = app.client().await;
        begin(&mut client, &path, &source, 8 * MIB).await;
        let ballast = leave(&disk, 3 * MIB);
        client.send(&source[8 * MIB..]).await;
        let answer = client.answer("PATCH").await;
        if preallocate {
            assert_eq!(answer.status, 204, "{answer:?}");
        } else {
            assert_eq!((answer.status, answer.problem().as_str()), (507, "no-space"), "{answer:?}");
            let kept = app.client().await.offset(&path).await;
            assert!((8 * MIB as u64..11 * MIB as u64).contains(&kept), "{kept}");
            wait_until_at_rest(app.address(), &path).await;
            assert!(available(disk.path()) >= MIB as u64, "the space to be kept free is free");
            fs::remove_file(ballast).unwrap();
            assert_eq!(resume(app.address(), &path, &source).await, kept);
        }
        is_whole(app.address(), &path, &source).await;
    }
}

/// Creates an upload of this length. Returns its path, or the status of the rejection.
async fn create(app: &TestApp, length: u64) -> Result<String, u16> {
    let length = length.to_string();
    let answer = app.client().await.tus("POST", "/files", &[("Upload-Length", &length)], b"").await;
    answer.header("location").map(str::to_owned).filter(|_| answer.status == 201).ok_or(answer.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upload_has_yet_to_receive_is_not_given_to_others() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = ext4(&folder, 512, 64 * MIB) else { return };
    let configure = |config: &mut longshore::config::Config| {
        config.server.data_dir = disk.path().join("data");
        config.engine.space.min_free_bytes = 4 * MIB as u64;
    };
    let mut app = TestApp::with(configure).await;
    let source = Seeded::new(4).bytes(30 * MIB);
    let first = create(&app, source.len() as u64).await.unwrap();
    // There was space for either upload, but not for both; a restart counts again.
    for _ in 0..2 {
        assert_eq!(create(&app, source.len() as u64).await, Err(507));
        app.restart().await;
    }
    let smaller = create(&app, 20 * MIB as u64).await.unwrap();
    // Another program takes the space that both uploads need: the older one continues, and the younger one is
    // rejected before it has sent a byte.
    leave(&disk, 38 * MIB);
    for _ in 0..3 {
        let mut refused = app.client().await;
        refused.begin_patch(&smaller, 0, 20 * MIB as u64).await;
        let answer = refused.answer("PATCH").await;
        assert_eq!((answer.status, answer.problem().as_str()), (507, "no-space"), "{answer:?}");
    }
    assert_eq!(app.client().await.offset(&smaller).await, 0);
    assert!(app.stored_files().is_empty(), "nothing is left of it");
    resume(app.address(), &first, &source).await;
    is_whole(app.address(), &first, &source).await;

    // The end of one upload makes space for the other.
    assert_eq!(app.client().await.tus("DELETE", &first, &[], b"").await.status, 204);
    assert_eq!(resume(app.address(), &smaller, &source[..20 * MIB]).await, 0);
    is_whole(app.address(), &smaller, &source[..20 * MIB]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_takes_neither_the_disk_nor_the_place_of_everybody_else() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = ext4(&folder, 512, 128 * MIB) else { return };
    let app = TestApp::with(|config| config.server.data_dir = disk.path().join("data")).await;
    let free = available(disk.path());
    let length = free - 20 * MIB as u64;
    let greedy = create(&app, length).await.unwrap();
    assert_eq!(app.client().await.patch(&greedy, 0, b"x").await.status, 204);
    // The same with a range at the very end.
    let mut client = app.client().await;
    let body = format!("{{\"size\":{length}}}");
    let headers = [("Content-Type", "application/json"), ("Content-Length", &body.len().to_string())];
    client.send_head("POST", "/files", &headers).await;
    client.send(body.as_bytes()).await;
    let created = client.answer("POST").await;
    assert_eq!(created.status, 507, "it does not fit beside the other: {created:?}");
    assert!(free - available(disk.path()) < MIB as u64, "{} bytes are taken", free - available(disk.path()));

    let source = Seeded::new(8).bytes(6 * MIB);
    for _ in 0..3 {
        let path = create(&app, source.len() as u64).await.unwrap();
        resume(app.address(), &path, &source).await;
        is_whole(app.address(), &path, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creations_at_once_no_more_are_admitted_than_fit() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = ext4(&folder, 512, 256 * MIB) else { return };
    let app = TestApp::with(|config| {
        config.server.data_dir = disk.path().join("data");
        config.engine.space.max_booked_percent = 100;
        config.engine.space.min_free_bytes = available(disk.path()) - 105 * MIB as u64;
    })
    .await;
    let creations = (0..30).map(|_| create(&app, 10 * MIB as u64));
    let created = futures::future::join_all(creations).await;
    assert_eq!(created.iter().filter(|made| made.is_ok()).count(), 10, "{created:?}");
    assert!(created.iter().all(|made| made.is_ok() || *made == Err(507)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_created_below_the_space_to_be_kept_free() {
    let app = TestApp::with(|config| config.engine.space.min_free_bytes = 1 << 60).await;
    for headers in [[("Upload-Defer-Length", "1")], [("Upload-Length", "0")], [("Upload-Length", "1")]] {
        let answer = app.client().await.tus("POST", "/files", &headers, b"").await;
        assert_eq!((answer.status, answer.problem().as_str()), (507, "no-space"), "{headers:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_unknown_length_that_fills_the_disk_keeps_what_was_committed() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = ext4(&folder, 4096, 64 * MIB) else { return };
    let app = TestApp::with(|config| {
        config.server.data_dir = disk.path().join("data");
        config.engine.space.min_free_bytes = MIB as u64;
        config.engine.writer.checkpoint_bytes = MIB as u64;
    })
    .await;
    let source = Seeded::new(5).bytes(8 * MIB);
    let created = app.client().await.tus("POST", "/files", &[("Upload-Defer-Length", "1")], b"").await;
    let path = created.header("location").unwrap().to_owned();
    let mut client = app.client().await;
    let headers = [TUS, OCTETS, ("Upload-Offset", "0"), ("Transfer-Encoding", "chunked")];
    client.send_head("PATCH", &path, &headers).await;
    client.send_chunk(&source[..MIB]).await;
    wait_until_committed(app.address(), &path, MIB as u64).await;
    let ballast = leave(&disk, 4 * MIB);
    client.send_chunk(&source[MIB..]).await;
    client.send_chunk(b"").await;
    let answer = client.answer("PATCH").await;
    assert_eq!((answer.status, answer.problem().as_str()), (507, "no-space"), "{answer:?}");
    wait_until_at_rest(app.address(), &path).await;
    let kept = app.client().await.offset(&path).await;
    assert!((MIB as u64..source.len() as u64).contains(&kept), "{kept}");
    assert_eq!(the_file(app.data_dir()).metadata().unwrap().len(), kept, "uncounted bytes take no disk space");
    fs::remove_file(ballast).unwrap();
    let (offset, length) = (kept.to_string(), source.len().to_string());
    let headers = [OCTETS, ("Upload-Offset", offset.as_str()), ("Upload-Length", &length)];
    let rest = &source[usize::try_from(kept).unwrap()..];
    assert_eq!(app.client().await.tus("PATCH", &path, &headers, rest).await.status, 204);
    is_whole(app.address(), &path, &source).await;
}

/// Asserts that an append has failed visibly: a 5xx, and one line in the log with the same request id.
fn failed_loudly(answer: &Answer, program: &Program) {
    assert_eq!((answer.status, answer.problem().as_str()), (500, "internal"), "{answer:?}");
    let id = answer.header("x-request-id").unwrap();
    let log = program.stderr();
    assert_eq!(log.lines().filter(|line| line.contains(id)).count(), 1, "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("ERROR")).count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_dies_under_an_upload_takes_back_nothing_that_was_promised() {
    // Only the bytes are on this disk, so the database stays healthy.
    let folder = TempDir::new().unwrap();
    let Some(disk) = ext4(&folder, 4096, 128 * MIB) else { return };
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    for place in ["incoming", "files"] {
        fs::create_dir(disk.path().join(place)).unwrap();
        symlink(disk.path().join(place), data.join(place)).unwrap();
    }
    let source = Seeded::new(6).bytes(8 * MIB);
    let end = 3 * MIB + 77;
    let mut program = Program::serve(&data, &["--log-level", "warn"]);
    let address = program.address();
    let path = Client::connect(address).await.create(source.len() as u64).await;
    let mut client = Client::connect(address).await;
    begin(&mut client, &path, &source, end).await;
    disk.cut_power().unwrap();
    client.send(&source[end..]).await;
    failed_loudly(&client.answer("PATCH").await, &program);
    assert_eq!(Client::connect(address).await.offset(&path).await, end as u64, "the acknowledged offset");
    drop(program);
    disk.power_on().unwrap();

    let mut program = Program::serve(&data, &[]);
    let address = program.address();
    assert_eq!(resume(address, &path, &source).await, end as u64);
    is_whole(address, &path, &source).await;
}

/// Reports whether `strace` can trace other programs and make their system calls fail here.
fn strace_works() -> bool {
    let tried = Command::new("strace").args(["-D", "-f", "-qq", "-o", "/dev/null", "true"]).output();
    let works = tried.is_ok_and(|ran| ran.status.success());
    if !works {
        eprintln!("skipped: strace is not there or not permitted");
    }
    works
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_or_sync_that_fails_is_told_and_not_tried_again() {
    if !strace_works() {
        return;
    }
    for call in ["pwrite64", "fdatasync"] {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        let source = Seeded::new(7).bytes(4 * MIB);
        let end = MIB + 77;
        let mut program = Program::serve(&data, &[]);
        let address = program.address();
        let path = Client::connect(address).await.create(source.len() as u64).await;
        assert_eq!(Client::connect(address).await.patch(&path, 0, &source[..end]).await.status, 204);
        drop(program);

        // All calls for the one file with the bytes fail; the calls for the database do not.
        let log = folder.path().join("calls");
        let (file, inject) = (the_file(&data), format!("inject={call}:error=EIO"));
        let trace = format!("trace={call}");
        let (log_name, file) = (log.to_str().unwrap(), file.to_str().unwrap());
        let strace = ["strace", "-D", "-f", "-qq", "-o", log_name, "-P", file, "-e", &trace, "-e", &inject];
        let mut program = Program::serve_under(&strace, &data, &["--log-level", "warn"]);
        let address = program.address();
        for round in 1..=2 {
            let answer = Client::connect(address).await.patch(&path, end as u64, &source[end..]).await;
            if round == 1 {
                failed_loudly(&answer, &program);
            }
            assert_eq!(answer.status, 500);
            assert_eq!(Client::connect(address).await.offset(&path).await, end as u64, "after {call} failed");
            wait_until_at_rest(address, &path).await;
            let calls = fs::read_to_string(&log).unwrap();
            let failed = calls.lines().filter(|line| line.contains("INJECTED")).count();
            // Writes that were in progress together fail together; a sync is alone.
            let expected = if call == "fdatasync" { round..=round } else { round..=3 * round };
            assert!(expected.contains(&failed), "{failed} calls failed: {calls}");
        }
        drop(program);

        let mut program = Program::serve(&data, &[]);
        let address = program.address();
        assert_eq!(resume(address, &path, &source).await, end as u64, "after {call} failed");
        is_whole(address, &path, &source).await;
    }
}

/// Whatever filled the disk, deleted and expired uploads give their space back, and then everything works
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_can_be_emptied() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = ext4(&folder, 512, 64 * MIB) else { return };
    let mut app = TestApp::with(|config| {
        config.server.data_dir = disk.path().join("data");
        config.engine.space.min_free_bytes = 0;
        config.database.reserve_bytes = 4 * MIB as u64;
    })
    .await;
    let source = Seeded::new(5).bytes(2 * MIB);
    let mut paths = Vec::new();
    for _ in 0..8 {
        let path = create(&app, source.len() as u64).await.unwrap();
        resume(app.address(), &path, &source).await;
        paths.push(path);
    }
    // With the database as compact as a start leaves it, so that a commit needs space.
    app.stop().await;
    app.start_again().await;
    let reserve = app.data_dir().join("longshore.db-reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 4 * MIB as u64);
    fill_up(&disk);
    assert_eq!(create(&app, 1).await, Err(507));
    assert_eq!(available(disk.path()), 0);
    for path in &paths {
        let answer = app.client().await.tus("DELETE", path, &[], b"").await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    assert!(available(disk.path()) >= 8 * MIB as u64, "{} bytes", available(disk.path()));
    let again = until("there is space again", async || {
        let created = create(&app, source.len() as u64).await;
        created.inspect_err(|status| assert_eq!(*status, 507)).ok()
    })
    .await;
    resume(app.address(), &again, &source).await;
    is_whole(app.address(), &again, &source).await;
    assert_eq!(fs::metadata(&reserve).unwrap().len(), 4 * MIB as u64, "it is kept again");
}

/// Fills the disk to the last block.
fn fill_up(disk: &TestDisk) {
    let mut ballast = fs::File::create(disk.path().join("ballast")).unwrap();
    for size in [64 * 1024, 512] {
        while std::io::Write::write_all(&mut ballast, &vec![1; size]).is_ok() {}
    }
    let _ = ballast.sync_all();
}
