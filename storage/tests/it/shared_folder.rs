//! Several processes that use one folder: what a writer that was not closed does later changes no byte that
//! counts.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use storage::conformance::bytes;
use storage::local::{FolderAccess, LocalStore, LocalStoreResources, LocalStoreSettings};
use storage::{BlobKey, BlobPart, BlobStore, BlobWriter, Epoch, Resume, conformance};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const EPOCH: Epoch = conformance::EPOCH;
const LATER: Epoch = Epoch::new(2);

/// The folder of a process that is started to be frozen.
const ZOMBIE: &str = "LONGSHORE_TEST_ZOMBIE";

fn open(root: &Path) -> LocalStore {
    let settings = LocalStoreSettings { access: FolderAccess::Shared, ..LocalStoreSettings::default() };
    LocalStore::open(root.to_owned(), settings, LocalStoreResources::default()).unwrap()
}

fn two(root: &TempDir) -> [LocalStore; 2] {
    [open(root.path()), open(root.path())]
}

fn named(name: &str) -> BlobKey {
    BlobKey::new(format!("2026/11/30/{name}")).unwrap()
}

async fn sync(writer: &mut dyn BlobWriter, end: u64) -> Resume {
    writer.checkpoint(end).await.unwrap().await.unwrap()
}

async fn write(writer: &mut dyn BlobWriter, from: u64, to: u64) {
    for at in (from..to).step_by(1 << 20) {
        writer.write(at, bytes(at..(at + MIB).min(to))).await.unwrap();
    }
}

/// Returns the files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_folder_keeps_the_contract() {
    let root = TempDir::new().unwrap();
    let count = std::sync::atomic::AtomicU64::new(0);
    let make = async || {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store = open(&root.path().join(number.to_string()));
        assert!(!store.abilities().takes_over);
        Arc::new(store) as Arc<dyn BlobStore>
    };
    conformance::all(make).await;
}

/// Each step is done by another process.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_closes_another_continues() {
    let root = TempDir::new().unwrap();
    let stores = two(&root);
    let (blob, size) = (named("clean"), 6 * MIB);
    let mut token = None;
    for step in 0..6 {
        let (store, at) = (&stores[usize::from(step % 2 == 1)], step * MIB);
        let mut writer = store.open(&blob, Epoch::new(step + 1), token.as_ref(), Some(size)).await.unwrap();
        write(&mut *writer, at, at + MIB).await;
        token = Some(sync(&mut *writer, at + MIB).await);
        writer.close().await;
    }
    stores[1].finish(&blob, Epoch::new(6), token.as_ref(), size).await.unwrap();
    stores[0].finish(&blob, Epoch::new(6), token.as_ref(), size).await.unwrap();
    let found = std::fs::read(stores[0].path(&blob).unwrap()).unwrap();
    assert!(found == bytes(0..size));
    stores[0].discard(&blob, Epoch::new(6), None).await.unwrap();
    stores[1].discard(&blob, Epoch::new(6), None).await.unwrap();
    assert!(files(root.path()).is_empty());
}

/// Joins the first two megabytes of an abandoned blob with two more, and finishes the result.
async fn continue_and_finish(store: &LocalStore, old: &BlobKey, token: &Resume) -> BlobKey {
    let (next, joined) = (named("old~2"), named("old~joined-2"));
    store.seal(old, LATER, Some(token), 2 * MIB).await.unwrap();
    let mut new = store.open(&next, LATER, None, Some(2 * MIB)).await.unwrap();
    for at in [0, MIB] {
        new.write(at, bytes(2 * MIB + at..3 * MIB + at)).await.unwrap();
    }
    let end = sync(&mut *new, 2 * MIB).await;
    new.close().await;
    store.seal(&next, LATER, Some(&end), 2 * MIB).await.unwrap();
    let parts = [old, &next].map(|key| BlobPart { key: key.clone(), size_bytes: 2 * MIB });
    let whole = store.concatenate(&parts, &joined, LATER).await.unwrap();
    store.finish(&joined, LATER, Some(&whole), 4 * MIB).await.unwrap();
    joined
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_lost_writer_are_not_a_part_of_the_blob() {
    let root = TempDir::new().unwrap();
    let [first, second] = two(&root);
    let old = named("old");
    let mut zombie = first.open(&old, EPOCH, None, Some(64 * MIB)).await.unwrap();
    write(&mut *zombie, 0, 2 * MIB).await;
    let token = sync(&mut *zombie, 2 * MIB).await;
    let garbage = |at: u64| bytes(at + 1..at + 1 + MIB);
    zombie.write(2 * MIB, garbage(0)).await.unwrap();

    let joined = continue_and_finish(&second, &old, &token).await;
    for at in [2, 3, 40] {
        zombie.write(at * MIB, garbage(at)).await.unwrap();
    }
    sync(&mut *zombie, 41 * MIB).await;
    second.discard(&old, LATER, None).await.unwrap();
    second.discard(&named("old~2"), LATER, None).await.unwrap();
    zombie.write(41 * MIB, garbage(0)).await.unwrap();
    zombie.close().await;
    assert!(first.open(&old, EPOCH, Some(&token), None).await.is_err(), "it does not come back");
    assert!(std::fs::read(first.path(&joined).unwrap()).unwrap() == bytes(0..4 * MIB));
    assert_eq!(files(root.path()), [first.path(&joined).unwrap()]);
}

/// Writes until it is killed, and reports each write. Does nothing unless another test starts it as a
/// process.
#[tokio::test(flavor = "multi_thread")]
async fn zombie_process() {
    let Some(root) = std::env::var_os(ZOMBIE) else { return };
    let store = open(Path::new(&root));
    let mut writer = store.open(&named("old"), EPOCH, None, Some(1 << 30)).await.unwrap();
    write(&mut *writer, 0, 2 * MIB).await;
    let token = sync(&mut *writer, 2 * MIB).await;
    report(&format!("token {}", token.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()));
    for number in 0_u64.. {
        let at = 2 + number % 500;
        writer.write(at * MIB, bytes(7..7 + MIB)).await.unwrap();
        report(&format!("write {number}"));
    }
}

fn report(line: &str) {
    use std::io::Write;
    // Not captured by the test harness, unlike println.
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_frozen_changes_nothing() {
    let root = TempDir::new().unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "shared_folder::zombie_process", "--nocapture"])
        .env(ZOMBIE, root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reports = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let token = reports.find_map(|line| Some(line.split_once("token ")?.1.to_owned())).unwrap();
    let token: Vec<u8> =
        (0..token.len()).step_by(2).map(|at| u8::from_str_radix(&token[at..at + 2], 16).unwrap()).collect();
    reports.find(|line| line == "write 3").unwrap();

    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let store = open(root.path());
    let joined = continue_and_finish(&store, &named("old"), &Resume::from_bytes(token)).await;
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    for _ in 0..100 {
        assert!(reports.next().unwrap().starts_with("write"), "it is at work again");
    }
    store.discard(&named("old"), LATER, None).await.unwrap();
    for _ in 0..100 {
        reports.next().unwrap();
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(std::fs::read(store.path(&joined).unwrap()).unwrap() == bytes(0..4 * MIB));
    store.discard(&named("old~2"), LATER, None).await.unwrap();
    assert_eq!(files(root.path()), [store.path(&joined).unwrap()]);
}

/// Every blob is the first and the last one in its folder, which each process removes when it is empty.
#[tokio::test(flavor = "multi_thread")]
async fn processes_may_remove_and_make_a_folder_at_the_same_time() {
    let root = TempDir::new().unwrap();
    let stores = two(&root).map(Arc::new);
    let tasks = (0..8_usize).map(|task| {
        let store = Arc::clone(&stores[task % 2]);
        tokio::spawn(async move {
            for number in 0..40 {
                let blob = named(&format!("{task}-{number}"));
                let mut writer = store.open(&blob, EPOCH, None, None).await.unwrap();
                writer.write(0, bytes(0..10)).await.unwrap();
                let token = sync(&mut *writer, 10).await;
                writer.close().await;
                if number % 2 == 0 {
                    store.finish(&blob, EPOCH, Some(&token), 10).await.unwrap();
                }
                store.discard(&blob, EPOCH, Some(&token)).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(files(root.path()).is_empty());
}
