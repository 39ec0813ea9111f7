//! Properties of files: the data folder, the traces of a crash, a disk that fills up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::conformance::{EPOCH, assert_bytes, bytes, read, write_blob};
use storage::local::{LocalStore, LocalStoreResources, LocalStoreSettings, OpenError};
use storage::{BlobKey, BlobPart, BlobStore, ErrorKind, Resume};
use tempfile::TempDir;

fn key() -> BlobKey {
    BlobKey::new("2026/11/21/a").unwrap()
}

/// A store and its folder, with the paths of the one blob that most tests need.
struct Fixture {
    store: Arc<dyn BlobStore>,
    guard: Arc<()>,
    root: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let guard = Arc::new(());
        Self { store: Arc::new(guarded(root.path(), &guard).unwrap()), guard, root }
    }

    /// Opens another store on the same folder, as after a crash.
    fn restart(self) -> Self {
        drop(self.store);
        let deadline = Instant::now() + Duration::from_secs(30);
        while Arc::strong_count(&self.guard) > 1 {
            assert!(Instant::now() < deadline, "something still uses the folder");
            std::thread::yield_now();
        }
        Self { store: Arc::new(guarded(self.root.path(), &self.guard).unwrap()), ..self }
    }

    fn part(&self) -> PathBuf {
        self.root.path().join("incoming/2026/11/21/a.part")
    }

    fn file(&self) -> PathBuf {
        self.root.path().join("files/2026/11/21/a")
    }
}

fn open(root: &Path) -> Result<LocalStore, OpenError> {
    LocalStore::open(root.to_owned(), LocalStoreSettings::default(), LocalStoreResources::default())
}

fn guarded(root: &Path, guard: &Arc<()>) -> Result<LocalStore, OpenError> {
    let resources = LocalStoreResources { guard: Some(Arc::<()>::clone(guard)), ..LocalStoreResources::default() };
    LocalStore::open(root.to_owned(), LocalStoreSettings::default(), resources)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_folder_is_in_use_until_the_last_writer_is_gone() {
    let root = TempDir::new().unwrap();
    let guard = Arc::new(());
    let store = guarded(root.path(), &guard).unwrap();
    let writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    drop(store);
    assert!(Arc::strong_count(&guard) > 1, "a writer may still write");
    writer.close().await;
    assert_eq!(Arc::strong_count(&guard), 1);
}

#[test]
fn a_folder_that_is_not_there_is_made_with_those_above_it() {
    let root = TempDir::new().unwrap();
    let deep = root.path().join("a/b/data");
    drop(open(&deep).unwrap());
    assert_eq!(names(&deep), ["files", "incoming"], "no probe is left");
    drop(open(&deep).unwrap());
}

#[test]
fn a_folder_that_cannot_be_used_is_refused_with_a_reason() {
    let root = TempDir::new().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(open(&file), Err(OpenError::NotAFolder { path }) if path == file));
    assert!(matches!(open(&file.join("data")), Err(OpenError::NotMade { .. })));
    // Not even root can create files in these.
    assert!(matches!(open(Path::new("/proc/longshore-data")), Err(OpenError::NotMade { .. })));
    assert!(matches!(open(Path::new("/proc")), Err(OpenError::NotWritable { .. })));

    let no_folder = root.path().join("no-folder");
    fs::create_dir(&no_folder).unwrap();
    fs::write(no_folder.join("incoming"), "x").unwrap();
    let divided = root.path().join("divided");
    fs::create_dir(&divided).unwrap();
    std::os::unix::fs::symlink("/proc", divided.join("files")).unwrap();
    assert!(matches!(open(&no_folder), Err(OpenError::NotAFolder { path }) if path == no_folder.join("incoming")));
    assert!(matches!(open(&divided), Err(OpenError::Divided { .. })));
    assert_eq!(fs::read(&file).unwrap(), b"x", "an existing file is not changed");
}

#[tokio::test]
async fn a_blob_goes_on_after_a_restart_without_what_was_not_durable() {
    let mut it = Fixture::new();
    let token = write_blob(&it.store, &key(), 5000).await;
    let mut junk = fs::read(it.part()).unwrap();
    junk.extend_from_slice(&[0xee; 9999]);
    fs::write(it.part(), junk).unwrap();
    it = it.restart();

    let mut writer = it.store.open(&key(), EPOCH, Some(&token), None).await.unwrap();
    assert_eq!(fs::metadata(it.part()).unwrap().len(), 5000);
    writer.write(5000, bytes(5000..6000)).await.unwrap();
    let token = writer.checkpoint(6000).await.unwrap().await.unwrap();
    writer.close().await;
    it = it.restart();
    it.store.finish(&key(), EPOCH, Some(&token), 6000).await.unwrap();
    it = it.restart();
    assert_bytes(&read(&it.store, &key(), 0..6000).await, &bytes(0..6000));
    assert!(!it.part().exists());
}

#[tokio::test]
async fn room_is_set_aside_whatever_was_there_before() {
    let it = Fixture::new();
    let size = 4 << 20;
    for before in [0, 100, size - 1, size, size + 1] {
        fs::create_dir_all(it.part().parent().unwrap()).unwrap();
        fs::write(it.part(), vec![0xee; usize::try_from(before).unwrap()]).unwrap();
        it.store.open(&key(), EPOCH, None, Some(size)).await.unwrap().close().await;
        assert_eq!(fs::metadata(it.part()).unwrap().len(), size, "after {before} bytes");
    }
}

#[tokio::test]
async fn lost_bytes_are_never_replaced_by_a_hole() {
    let it = Fixture::new();
    let token = write_blob(&it.store, &key(), 5000).await;
    fs::File::options().write(true).open(it.part()).unwrap().set_len(4999).unwrap();
    let error = it.store.open(&key(), EPOCH, Some(&token), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Incomplete);
    assert!(error.source.to_string().contains("4999 bytes, but 5000 were durable"), "{}", error.source);
    assert_eq!(it.store.finish(&key(), EPOCH, Some(&token), 5000).await.unwrap_err().kind, ErrorKind::Incomplete);
    let read = it.store.read(&key(), 0..5000).await;
    assert_eq!(read.err().map(|error| error.kind), Some(ErrorKind::Incomplete), "the error comes before any byte");

    fs::remove_file(it.part()).unwrap();
    let error = it.store.open(&key(), EPOCH, Some(&token), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.source.to_string().ends_with("with 5000 durable bytes is missing"), "{}", error.source);
    assert!(!it.part().exists());
}

#[tokio::test]
async fn finishing_ends_the_same_wherever_a_crash_stopped_it() {
    type Crash = fn(&Fixture);
    let crashes: [(&str, Crash); 4] = [
        ("before anything", |_| {}),
        ("with the size set", |it| {
            fs::File::options().write(true).open(it.part()).unwrap().set_len(4000).unwrap();
        }),
        ("with the final folder made", |it| fs::create_dir_all(it.file().parent().unwrap()).unwrap()),
        ("with the file moved", |it| {
            fs::File::options().write(true).open(it.part()).unwrap().set_len(4000).unwrap();
            fs::create_dir_all(it.file().parent().unwrap()).unwrap();
            fs::rename(it.part(), it.file()).unwrap();
        }),
    ];
    for (when, crash) in crashes {
        let it = Fixture::new();
        let mut writer = it.store.open(&key(), EPOCH, None, None).await.unwrap();
        writer.write(0, bytes(0..5000)).await.unwrap();
        // Bytes written behind the end did not count.
        let token = writer.checkpoint(4000).await.unwrap().await.unwrap();
        writer.close().await;
        crash(&it);
        let it = it.restart();
        it.store.finish(&key(), EPOCH, Some(&token), 4000).await.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert_bytes(&read(&it.store, &key(), 0..4000).await, &bytes(0..4000));
        assert_eq!(fs::metadata(it.file()).unwrap().len(), 4000, "{when}");
        assert!(!it.part().exists(), "{when}");
    }
}

#[tokio::test]
async fn finishing_at_the_same_time_ends_the_same() {
    for _ in 0..20 {
        let it = Fixture::new();
        let token = write_blob(&it.store, &key(), 100).await;
        let key = key();
        let finish = || it.store.finish(&key, EPOCH, Some(&token), 100);
        let (a, b, c) = tokio::join!(finish(), finish(), finish());
        a.and(b).and(c).unwrap();
        assert_bytes(&read(&it.store, &key, 0..100).await, &bytes(0..100));
    }
}

#[tokio::test]
async fn a_half_made_concatenation_is_made_anew() {
    let it = Fixture::new();
    let part = BlobKey::new("2026/11/20/part").unwrap();
    write_blob(&it.store, &part, 3_000_000).await;
    fs::create_dir_all(it.part().parent().unwrap()).unwrap();
    fs::write(it.part(), vec![0xee; 9_000_000]).unwrap();
    let it = it.restart();
    let parts = vec![BlobPart { key: part, size_bytes: 3_000_000 }; 2];

    // Cancelled half-way, and started again while the first may still be copying.
    for _ in 0..5 {
        let key = key();
        let given_up = it.store.concatenate(&parts, &key, EPOCH);
        tokio::select! {
            biased;
            _ = given_up => {}
            () = tokio::task::yield_now() => {}
        }
    }
    let token = it.store.concatenate(&parts, &key(), EPOCH).await.unwrap();
    it.store.finish(&key(), EPOCH, Some(&token), 6_000_000).await.unwrap();
    assert_eq!(fs::metadata(it.file()).unwrap().len(), 6_000_000);
    let twice = [bytes(0..3_000_000), bytes(0..3_000_000)].concat();
    assert_bytes(&read(&it.store, &key(), 0..6_000_000).await, &twice);
}

#[tokio::test]
async fn a_writer_that_lost_its_blob_can_do_no_harm() {
    let it = Fixture::new();
    let mut old = it.store.open(&key(), EPOCH, None, None).await.unwrap();
    old.write(0, Bytes::from(vec![0xee; 5 << 20])).await.unwrap();
    let promise = old.checkpoint(5 << 20).await.unwrap();
    old.write(5 << 20, Bytes::from(vec![0xee; 5 << 20])).await.unwrap();

    let mut new = it.store.open(&key(), EPOCH, None, None).await.unwrap();
    assert!(old.write(10 << 20, Bytes::from_static(b"x")).await.is_err());
    assert!(promise.await.is_err(), "it would promise bytes that no longer exist");
    assert!(old.checkpoint(5 << 20).await.is_err());
    old.close().await;
    new.write(0, bytes(0..10)).await.unwrap();
    let token = new.checkpoint(10).await.unwrap().await.unwrap();
    new.close().await;
    assert_bytes(&fs::read(it.part()).unwrap(), &bytes(0..10));
    it.store.finish(&key(), EPOCH, Some(&token), 10).await.unwrap();
}

#[tokio::test]
async fn closing_waits_for_what_has_begun() {
    let it = Fixture::new();
    for _ in 0..5 {
        let mut writer = it.store.open(&key(), EPOCH, None, None).await.unwrap();
        writer.write(0, bytes(0..4 << 20)).await.unwrap();
        writer.write(4 << 20, bytes(4 << 20..8 << 20)).await.unwrap();
        writer.write(8 << 20, bytes(8 << 20..9 << 20)).await.unwrap();
        writer.close().await;
        assert_bytes(&fs::read(it.part()).unwrap(), &bytes(0..9 << 20));
    }
}

#[tokio::test]
async fn empty_day_folders_are_removed_and_no_others() {
    let it = Fixture::new();
    let neighbour = BlobKey::new("2026/11/20/b").unwrap();
    write_blob(&it.store, &key(), 1).await;
    write_blob(&it.store, &neighbour, 1).await;
    it.store.discard(&key(), EPOCH, None).await.unwrap();
    assert_eq!(names(&it.root.path().join("incoming/2026/11")), ["20"]);
    it.store.discard(&neighbour, EPOCH, None).await.unwrap();
    assert_eq!(names(&it.root.path().join("incoming")), Vec::<String>::new());
    assert!(it.root.path().join("files").exists());
    write_blob(&it.store, &key(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_removed_as_empty_does_not_fail_a_new_blob() {
    let it = Fixture::new();
    let tasks = (0..8).map(|task| {
        let (store, key) = (Arc::clone(&it.store), BlobKey::new(format!("2026/11/21/{task}")).unwrap());
        tokio::spawn(async move {
            for _ in 0..40 {
                store.open(&key, EPOCH, None, None).await.unwrap().close().await;
                store.discard(&key, EPOCH, None).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // Nor does one that was removed meanwhile.
    let token = write_blob(&it.store, &key(), 1).await;
    it.store.discard(&key(), EPOCH, None).await.unwrap();
    write_blob(&it.store, &key(), 1).await;
    fs::remove_dir_all(it.root.path().join("incoming/2026")).unwrap();
    fs::remove_dir(it.root.path().join("files/2026")).unwrap_or_default();
    write_blob(&it.store, &key(), 1).await;
    it.store.finish(&key(), EPOCH, Some(&token), 1).await.unwrap();
}

#[tokio::test]
async fn a_check_leaves_nothing() {
    let it = Fixture::new();
    let (first, second) = tokio::join!(it.store.check(), it.store.check());
    first.unwrap();
    second.unwrap();
    assert!(it.store.available(None).await.unwrap().unwrap() > 0);
    assert_eq!(names(it.root.path()), ["files", "incoming"]);
    fs::remove_dir_all(it.root.path()).unwrap();
    let error = it.store.check().await.unwrap_err();
    assert_eq!(error.to_string(), "could not write to the data folder");
}

/// A small disk that is unmounted when it is dropped.
struct SmallDisk {
    at: TempDir,
}

impl SmallDisk {
    /// Mounts it, or returns `None` where that is not permitted.
    fn mount() -> Option<Self> {
        let at = TempDir::new().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(at.path()).output();
        mounted.is_ok_and(|ran| ran.status.success()).then_some(Self { at })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.at.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_durable() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a small tmpfs is not permitted here");
        return;
    };
    let store: Arc<dyn BlobStore> = Arc::new(open(disk.at.path()).unwrap());
    let ballast = disk.at.path().join("ballast");
    fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let room = store.available(None).await.unwrap().unwrap();
    assert!((7 << 20..9 << 20).contains(&room), "{room}");

    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..4 << 20)).await.unwrap();
    let promise = writer.checkpoint(4 << 20).await.unwrap();
    let mut at = 4 << 20;
    let error = loop {
        assert!(at < 16 << 20, "the disk is full by now");
        if let Err(error) = writer.write(at, bytes(at..at + (1 << 20))).await {
            break error;
        }
        at += 1 << 20;
    };
    assert_eq!(error.kind, ErrorKind::NoSpace);
    let token = promise.await.expect("bytes written before the disk was full are safe");
    assert_eq!(writer.write(at, bytes(0..1)).await.unwrap_err().kind, ErrorKind::NoSpace, "a failure stays");
    assert_eq!(writer.checkpoint(4 << 20).await.err().unwrap().kind, ErrorKind::NoSpace);
    writer.close().await;

    let mut fill = vec![1; 1 << 20];
    while !fill.is_empty() && fs::write(disk.at.path().join("rest"), &fill).is_err() {
        fill.truncate(fill.len() / 2);
    }
    fs::remove_file(&ballast).unwrap();
    let mut writer = store.open(&key(), EPOCH, Some(&token), None).await.unwrap();
    writer.write(4 << 20, bytes(4 << 20..6 << 20)).await.unwrap();
    let token: Resume = writer.checkpoint(6 << 20).await.unwrap().await.unwrap();
    writer.close().await;
    store.finish(&key(), EPOCH, Some(&token), 6 << 20).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..6 << 20).await, &bytes(0..6 << 20));
}
