//! Power loss: bytes acknowledged under `strict` are there afterwards, byte for byte.
//!
//! The data folder is on a separate disk, whose file system is shut down in the middle of the work:
//! everything that was not on the disk is lost, as if the machine had stopped.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storage::disks::{FileSystem, TestDisk};
use tempfile::TempDir;

use crate::support::app::collect_files;
use crate::support::client::{Client, OCTETS, TUS};
use crate::support::disk::mounted;
use crate::support::moving::{is_whole, resume};
use crate::support::process::Process;
use crate::support::seeded::Seeded;

const ROUNDS: u64 = 5;
const CLIENTS: u64 = 3;

/// The state that a client keeps of its upload.
#[derive(Clone)]
struct Known {
    source: Vec<u8>,
    /// The highest offset that the server reported.
    acknowledged: u64,
}

type Uploads = Arc<Mutex<BTreeMap<String, Known>>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_power_loss_takes_back_nothing_that_was_acknowledged() {
    let flags = ["--storage-durability", "strict", "--storage-checkpoint-every", "50ms", "--storage-checkpoint-size"];
    let flags = [&flags[..], &["256KiB"]].concat();
    for (format, size) in [(FileSystem::Ext4, 512 << 20), (FileSystem::Xfs, 512 << 20)] {
        let folder = TempDir::new().unwrap();
        let Some(disk) = mounted(TestDisk::make(folder.path(), format, 4096, size)) else { return };
        let data = disk.path().join("data");
        let uploads = Uploads::default();
        for round in 0..ROUNDS {
            let seed = round + 1;
            let process = Process::start(&data, &flags);
            let clients = (0..CLIENTS).map(|client| {
                let random = Seeded::new(seed * 100 + client);
                tokio::spawn(keep_uploading(process.address(), random, Arc::clone(&uploads)))
            });
            let clients: Vec<_> = clients.collect();
            let moment = Duration::from_millis(100 + Seeded::new(seed).next() % 900);
            tokio::time::sleep(moment).await;
            // Only acknowledgments from before the cut count: unlike a machine without power, this one
            // continues to answer, and a sync that is in progress may be reported as successful because the
            // file system was shut down.
            let told = uploads.lock().unwrap().clone();
            disk.cut_power().unwrap();
            process.kill();
            for client in clients {
                client.await.unwrap();
            }
            *uploads.lock().unwrap() = told;
            disk.power_on().unwrap();
            let process = Process::start(&data, &flags);
            let lost = all_is_there(&process, &data, &uploads).await;
            eprintln!("{format:?}, seed {seed}: power cut after {moment:?}, {} uploads", uploads.lock().unwrap().len());
            assert_eq!(lost, Vec::<String>::new(), "{format:?}, seed {seed}");
        }
        let known = uploads.lock().unwrap().clone();
        assert!(known.values().any(|upload| upload.acknowledged == upload.source.len() as u64), "none was completed");
        assert!(known.values().any(|upload| upload.acknowledged < upload.source.len() as u64), "none was cut");
        let process = Process::start(&data, &flags);
        for (path, upload) in &known {
            resume_unless_complete(process.address(), path, &upload.source).await;
            is_whole(process.address(), path, &upload.source).await;
        }
    }
}

async fn resume_unless_complete(address: SocketAddr, path: &str, source: &[u8]) {
    if Client::connect(address).await.offset(path).await < source.len() as u64 {
        resume(address, path, source).await;
    }
}

/// Sends one upload after the other, in short and long pieces, until the server is gone or answers with an
/// error.
async fn keep_uploading(address: SocketAddr, mut random: Seeded, uploads: Uploads) {
    while upload(address, &mut random, &uploads).await.is_some() {}
}

/// Sends one upload. Returns `None` after a failure, as when the power is cut.
async fn upload(address: SocketAddr, random: &mut Seeded, uploads: &Uploads) -> Option<()> {
    let size = 1 + random.below(5 << 20);
    let source = random.bytes(size);
    let mut client = Client::try_connect(address).await?;
    let length = size.to_string();
    client.send_head("POST", "/files", &[TUS, ("Upload-Length", &length), ("Content-Length", "0")]).await;
    let path = client.raw_answer("POST").await.filter(|answer| answer.status == 201)?.header("location")?.to_owned();
    uploads.lock().unwrap().insert(path.clone(), Known { source: source.clone(), acknowledged: 0 });
    let acknowledge = |offset| uploads.lock().unwrap().get_mut(&path).expect("it was noted").acknowledged = offset;
    let mut at = 0;
    while at < size {
        let end = (at + 1 + random.below(2 << 20)).min(size);
        let mut client = Client::try_connect(address).await?;
        let chunked = random.below(3) == 0;
        if chunked {
            let offset = at.to_string();
            let headers = [TUS, OCTETS, ("Upload-Offset", &offset), ("Transfer-Encoding", "chunked")];
            client.send_head("PATCH", &path, &headers).await;
        } else {
            client.begin_patch(&path, at as u64, (end - at) as u64).await;
        }
        for piece in source[at..end].chunks(300_000) {
            if chunked {
                client.send_chunk(piece).await
            } else {
                client.send(piece).await
            }
            if random.below(4) == 0 {
                acknowledge(told(address, &path).await?);
            }
        }
        if chunked {
            client.send_chunk(b"").await;
        }
        client.raw_answer("PATCH").await.filter(|answer| answer.status == 204)?;
        at = end;
        acknowledge(at as u64);
    }
    Some(())
}

/// Returns the offset in the response to `HEAD` during an append.
async fn told(address: SocketAddr, path: &str) -> Option<u64> {
    let mut client = Client::try_connect(address).await?;
    client.send_head("HEAD", path, &[TUS]).await;
    let answer = client.raw_answer("HEAD").await.filter(|answer| answer.status == 200)?;
    answer.header("upload-offset")?.parse().ok()
}

/// Returns a description of everything that was acknowledged and is missing.
async fn all_is_there(process: &Process, data: &Path, uploads: &Uploads) -> Vec<String> {
    let mut stored = Vec::new();
    collect_files(data, &mut stored);
    let mut lost = Vec::new();
    let mut client = process.client().await;
    let known = uploads.lock().unwrap().clone();
    for (path, upload) in &known {
        let answer = client.head(path).await;
        if answer.status != 200 {
            lost.push(format!("{path}: {} instead of {} bytes", answer.status, upload.acknowledged));
            continue;
        }
        let offset: u64 = answer.header("upload-offset").unwrap().parse().unwrap();
        if offset < upload.acknowledged {
            lost.push(format!("{path}: {offset} of {} acknowledged bytes", upload.acknowledged));
        }
        // The bytes below the offset are on the disk, both of a completed upload and of one that can be
        // resumed.
        let id = path.trim_start_matches("/files/");
        let mut bytes = vec![0; usize::try_from(offset).unwrap()];
        let file = stored.iter().find(|file| file.to_string_lossy().contains(id));
        let read = file.map(|file| fs::File::open(file).and_then(|file| file.read_exact_at(&mut bytes, 0)));
        let is_there = offset == 0 || read.is_some_and(|read| read.is_ok());
        if !is_there || bytes != upload.source[..bytes.len()] {
            let right = bytes.iter().zip(&upload.source).take_while(|(found, sent)| found == sent).count();
            lost.push(format!("{path}: {right} right bytes of {offset}"));
        }
    }
    lost
}
