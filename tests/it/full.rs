//! A full disk: operators can see it coming, it is logged once, and deletion through the API frees it again.

use std::fs::File;
use std::io::Write;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::disk::SmallDisk;
use crate::support::patience::until;
use crate::support::program::Program;

const MIB: u64 = 1 << 20;

/// Starts a server that keeps its data on this disk.
fn serve(disk: &SmallDisk, flags: &[&str]) -> Program {
    let data = disk.path().join("data");
    let own =
        ["serve", "--listen", "127.0.0.1:0", "--limits-sweep-every", "100ms", "--data-dir", data.to_str().unwrap()];
    Program::start(&[&own, flags].concat())
}

async fn disk_state(client: &mut Client) -> String {
    let answer = client.get("/readyz").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["disk"].as_str().expect("it says how full the disk is").to_owned()
}

async fn metric(client: &mut Client, name: &str) -> u64 {
    let text = String::from_utf8(client.get("/metrics").await.body).unwrap();
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect("there is such a metric");
    value.parse().unwrap()
}

/// Takes or gives back disk space until this many bytes are free. Meanwhile the free space moves in one
/// direction only.
fn leave(disk: &SmallDisk, free_bytes: u64) {
    let found = rustix::fs::statvfs(disk.path()).unwrap();
    let free = found.f_bavail * found.f_frsize;
    let mut others = File::options().create(true).append(true).open(disk.path().join("others")).unwrap();
    match free.checked_sub(free_bytes) {
        Some(too_many) => others.write_all(&vec![1; usize::try_from(too_many).unwrap()]).unwrap(),
        None => others.set_len(others.metadata().unwrap().len() - (free_bytes - free)).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_seen_told_once_and_left_by_deleting() {
    let Some(disk) = SmallDisk::mount("64m") else { return };
    let flags = ["--storage-min-free-space", "16MiB", "--storage-low-space", "16MiB", "--database-reserve", "1MiB"];
    let mut program = serve(&disk, &flags);
    let mut client = Client::connect(program.address()).await;
    assert_eq!(disk_state(&mut client).await, "ok");
    assert_eq!(metric(&mut client, "longshore_storage_size_bytes").await, 64 * MIB);
    let free = metric(&mut client, "longshore_storage_free_bytes").await;
    assert!((32 * MIB..64 * MIB).contains(&free), "{free}");
    assert_eq!(client.get("/readyz?role=upload").await.status, 200);

    let path = client.create(8 * MIB).await;
    let source = vec![7; usize::try_from(8 * MIB).unwrap()];
    assert_eq!(client.patch(&path, 0, &source).await.status, 204);
    leave(&disk, 24 * MIB);
    assert_eq!(disk_state(&mut client).await, "low");
    leave(&disk, 12 * MIB);
    assert_eq!(disk_state(&mut client).await, "full");
    let not_ready = client.get("/readyz?role=upload").await;
    assert_eq!((not_ready.status, not_ready.problem().as_str()), (503, "disk-full"));
    assert!(not_ready.header("retry-after").is_some());

    let refused = client.tus("POST", "/files", &[("Upload-Length", "5")], b"").await;
    assert_eq!((refused.status, refused.problem().as_str()), (507, "no-space"));
    assert_eq!(metric(&mut client, "longshore_storage_no_space_total").await, 1);
    // A small gain changes nothing, so that a disk near the limit is not reported repeatedly.
    leave(&disk, 16 * MIB + MIB / 2);
    assert_eq!(disk_state(&mut client).await, "full");

    let status = path.replace("/files/", "/api/v1/uploads/");
    assert_eq!(client.request("DELETE", &status, &[], b"").await.status, 204);
    assert_eq!(disk_state(&mut client).await, "low", "the space of deleted files is free");
    assert_eq!(client.get("/readyz?role=upload").await.status, 200);
    client.create(5).await;
    std::fs::remove_file(disk.path().join("others")).unwrap();
    assert_eq!(disk_state(&mut client).await, "ok");
    let log = program.stderr();
    for told in
        ["disk space is low", "the disk is full", "uploads are accepted again", "there is enough disk space again"]
    {
        let times = log.lines().filter(|line| line.contains(told)).count();
        // On the way back the level in between is logged a second time.
        let expected = if told == "disk space is low" { 2 } else { 1 };
        assert_eq!(times, expected, "{told}: {log}");
    }
}

/// The state of the disk is logged without a request.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_of_a_full_disk_by_itself() {
    let Some(disk) = SmallDisk::mount("64m") else { return };
    let mut program = serve(&disk, &["--storage-min-free-space", "16MiB"]);
    program.address();
    leave(&disk, 12 * MIB);
    until("the log says so", async || program.stderr().contains("the disk is full").then_some(())).await;
    assert!(program.stderr().contains("min_free_bytes"), "{}", program.stderr());
}

/// With no free byte the reserve of the database still permits uploads to be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_deletes_on_a_disk_without_a_free_byte() {
    let Some(disk) = SmallDisk::mount("64m") else { return };
    let mut program = serve(&disk, &["--database-reserve", "4MiB", "--storage-min-free-space", "0"]);
    let mut client = Client::connect(program.address()).await;
    let path = client.create(8 * MIB).await;
    assert_eq!(client.patch(&path, 0, &vec![7; usize::try_from(8 * MIB).unwrap()]).await.status, 204);
    let ballast = disk.fill();
    let status = path.replace("/files/", "/api/v1/uploads/");
    assert_eq!(client.request("DELETE", &status, &[], b"").await.status, 204);
    let told = client.status(&path).await;
    assert_eq!((&told["stage"], &told["removed_by"]), (&"completed".into(), &"operator".into()));
    until("uploads are accepted again", async || {
        let answer = client.tus("POST", "/files", &[("Upload-Length", "5")], b"").await;
        (answer.status == 201).then_some(())
    })
    .await;
    assert_ne!(told["removed_at"], Value::Null);
    drop(ballast);
}
