//! The local store on various disks: sectors of 512 and of 4096 bytes, another file system, one without
//! direct writes, and one whose `incoming` is on another disk than its root.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::conformance::{EPOCH, assert_bytes, bytes, read};
use storage::disks::{FileSystem, TestDisk, cached_bytes};
use storage::local::{LocalStore, LocalStoreResources, LocalStoreSettings};
use storage::{BlobKey, BlobStore, BlobWriter, ErrorKind, OpenBlob, Resume, conformance};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn key() -> BlobKey {
    BlobKey::new("2026/11/22/a").unwrap()
}

/// Returns the disk, or `None` with the reason printed.
fn mounted(disk: Result<TestDisk, String>) -> Option<TestDisk> {
    disk.inspect_err(|reason| eprintln!("skipped: a disk cannot be made here: {reason}")).ok()
}

fn open(root: &Path, settings: LocalStoreSettings) -> Arc<dyn BlobStore> {
    Arc::new(LocalStore::open(root.to_owned(), settings, LocalStoreResources::default()).unwrap())
}

fn open_with(root: &Path, resources: LocalStoreResources) -> Arc<dyn BlobStore> {
    Arc::new(LocalStore::open(root.to_owned(), LocalStoreSettings::default(), resources).unwrap())
}

/// Runs the conformance suite, with each store in a separate folder.
async fn keeps_the_contract(root: &Path) {
    let count = AtomicU64::new(0);
    let fresh = || root.join(count.fetch_add(1, Ordering::Relaxed).to_string());
    conformance::all(async || open(&fresh(), LocalStoreSettings::default())).await;
}

/// Returns the bytes of a blob in the page cache after 8 MiB of it were written and made durable, in large
/// pieces that begin in the middle of a block.
async fn cached_after_writing(root: &Path, settings: LocalStoreSettings) -> u64 {
    let store = open(root, settings);
    let size = 8 * MIB + 100;
    let mut writer = store.open(&key(), EPOCH, None, Some(size)).await.unwrap();
    let mut at = 0;
    for end in (0..8).map(|piece| piece * MIB + 100).chain([size]) {
        writer.write(at, bytes(at..end)).await.unwrap();
        at = end;
    }
    let token = writer.checkpoint(size).await.unwrap().await.unwrap();
    writer.close().await;
    let cached = cached_bytes(&root.join(format!("incoming/{}.part", key()))).unwrap();
    store.finish(&key(), EPOCH, Some(&token), size).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..size).await, &bytes(0..size));
    cached
}

async fn writes_directly_on(format: FileSystem, sector_bytes: u32) {
    let folder = TempDir::new().unwrap();
    let Some(disk) = mounted(TestDisk::make(folder.path(), format, sector_bytes, 512 * MIB)) else { return };
    keeps_the_contract(disk.path()).await;
    let direct = cached_after_writing(&disk.path().join("direct"), LocalStoreSettings::default()).await;
    assert!(direct < MIB / 4, "{direct} bytes of it went through the page cache");
    let settings = LocalStoreSettings { direct_io: false, ..LocalStoreSettings::default() };
    let buffered = cached_after_writing(&disk.path().join("buffered"), settings).await;
    assert!(buffered > 7 * MIB, "only {buffered} bytes are seen: then it is not seen either how few there are");
}

#[tokio::test(flavor = "multi_thread")]
async fn ext4_with_sectors_of_512_bytes() {
    writes_directly_on(FileSystem::Ext4, 512).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ext4_with_sectors_of_4096_bytes() {
    writes_directly_on(FileSystem::Ext4, 4096).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn xfs_with_sectors_of_4096_bytes() {
    writes_directly_on(FileSystem::Xfs, 4096).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_without_direct_writes() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = mounted(TestDisk::without_direct_writes(folder.path())) else { return };
    let refused = fs::write(disk.path().join("x"), "x").and_then(|()| open_directly(&disk.path().join("x")));
    assert!(refused.is_err(), "this file system takes direct writes: another is needed for this test");
    keeps_the_contract(disk.path()).await;
    let store = open(&disk.path().join("own"), LocalStoreSettings::default());
    assert_eq!(store.available(None).await.unwrap(), None, "a file system without a size is not full");
}

fn open_directly(path: &Path) -> std::io::Result<()> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::DIRECT;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_that_counts_is_the_one_the_blobs_are_on() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = mounted(TestDisk::without_direct_writes(folder.path())) else { return };
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    for place in ["incoming", "files"] {
        fs::create_dir(disk.path().join(place)).unwrap();
        symlink(disk.path().join(place), root.join(place)).unwrap();
    }
    let store = open(&root, LocalStoreSettings::default());
    let mut writer = store.open(&key(), EPOCH, None, Some(2 * MIB)).await.unwrap();
    writer.write(0, bytes(0..2 * MIB)).await.unwrap();
    let token = writer.checkpoint(2 * MIB).await.unwrap().await.unwrap();
    writer.close().await;
    store.finish(&key(), EPOCH, Some(&token), 2 * MIB).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..2 * MIB).await, &bytes(0..2 * MIB));
}

/// Writes a part of a blob in pieces of 1 MiB, and makes it durable.
async fn write(writer: &mut dyn BlobWriter, part: Range<u64>) -> storage::Result<Resume> {
    for at in part.clone().step_by(1 << 20) {
        writer.write(at, bytes(at..(at + MIB).min(part.end))).await?;
    }
    writer.checkpoint(part.end).await?.await
}

fn occupied(root: &Path) -> u64 {
    fs::metadata(root.join(format!("incoming/{}.part", key()))).unwrap().blocks() * 512
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_occupies_what_was_written_and_at_most_as_much_again() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = mounted(TestDisk::make(folder.path(), FileSystem::Ext4, 512, 128 * MIB)) else { return };
    let store = open(disk.path(), LocalStoreSettings::default());
    let size = 64 << 30;
    // One byte at the start, one at the very end, and large pieces at the end: each occupies only its own
    // size.
    let mut writer = store.open(&key(), EPOCH, None, Some(size)).await.unwrap();
    writer.write(0, bytes(0..1)).await.unwrap();
    writer.write(size - 1, bytes(size - 1..size)).await.unwrap();
    writer.checkpoint(1).await.unwrap().await.unwrap();
    assert!(occupied(disk.path()) <= 64 << 10, "{}", occupied(disk.path()));
    write(&mut *writer, size - 4 * MIB..size).await.unwrap();
    assert!(occupied(disk.path()) <= 4 * MIB + (64 << 10), "nothing beyond the end: {}", occupied(disk.path()));
    let token = write(&mut *writer, 0..8 * MIB).await.unwrap();
    let taken = occupied(disk.path());
    assert!((13 * MIB..=21 * MIB).contains(&taken), "{taken}");
    writer.close().await;

    // Blocks allocated ahead count as its own, whatever the end of its highest byte.
    let (own, others) = (OpenBlob { key: &key(), received_bytes: 12 * MIB }, store.available(None).await.unwrap());
    let own = store.available(Some(own)).await.unwrap().unwrap() - others.unwrap();
    assert!(own.abs_diff(taken - 12 * MIB) <= MIB / 4, "{own}");
    store.open(&key(), EPOCH, Some(&token), Some(size)).await.unwrap().close().await;
    assert_bytes(&read(&store, &key(), 0..8 * MIB).await, &bytes(0..8 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_get_no_second_descriptor_are_written_through_the_page_cache() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = mounted(TestDisk::make(folder.path(), FileSystem::Ext4, 512, 128 * MIB)) else { return };
    let store = open_with(disk.path(), LocalStoreResources { direct_files: 1, ..LocalStoreResources::default() });
    let keys = ["first", "second", "third"].map(|name| BlobKey::new(name).unwrap());
    let begin = async |key| {
        let mut writer = store.open(key, EPOCH, None, Some(8 * MIB)).await.unwrap();
        write(&mut *writer, 0..4 * MIB).await.unwrap();
        writer
    };
    let cached = |key| cached_bytes(&disk.path().join(format!("incoming/{key}.part"))).unwrap();
    let (first, second) = (begin(&keys[0]).await, begin(&keys[1]).await);
    assert!(cached(&keys[0]) < MIB / 4 && cached(&keys[1]) > 3 * MIB, "{} {}", cached(&keys[0]), cached(&keys[1]));
    first.close().await;
    let third = begin(&keys[2]).await;
    assert!(cached(&keys[2]) < MIB / 4, "the descriptor is given back: {}", cached(&keys[2]));
    for (mut writer, key) in [(second, &keys[1]), (third, &keys[2])] {
        let token = write(&mut *writer, 4 * MIB..8 * MIB).await.unwrap();
        writer.close().await;
        store.finish(key, EPOCH, Some(&token), 8 * MIB).await.unwrap();
        let read = read(&store, key, 0..8 * MIB).await;
        for start in [0, 4 * MIB] {
            let range = usize::try_from(start).unwrap()..usize::try_from(start + 4 * MIB).unwrap();
            assert_bytes(&read[range], &bytes(start..start + 4 * MIB));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_allocated_ahead_leaves_free_what_is_to_be_kept() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = mounted(TestDisk::make(folder.path(), FileSystem::Ext4, 512, 64 * MIB)) else { return };
    let elsewhere = open(&disk.path().join("elsewhere"), LocalStoreSettings::default());
    let room = elsewhere.available(None).await.unwrap().unwrap();
    let store = open_with(
        disk.path(),
        LocalStoreResources { keep_free_bytes: room - 4 * MIB, ..LocalStoreResources::default() },
    );
    let mut writer = store.open(&key(), EPOCH, None, Some(32 * MIB)).await.unwrap();
    for at in (0..8 * MIB).step_by(1 << 20) {
        write(&mut *writer, at..at + MIB).await.unwrap();
    }
    writer.close().await;
    let ahead = occupied(disk.path()) - 8 * MIB;
    assert!(ahead < MIB, "{ahead} bytes are allocated ahead, although the disk is nearly full");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_allocated_ahead_are_there_when_others_have_filled_the_disk() {
    let folder = TempDir::new().unwrap();
    let Some(disk) = mounted(TestDisk::make(folder.path(), FileSystem::Ext4, 512, 64 * MIB)) else { return };
    let size = 16 * MIB;
    for (preallocate, expected) in [(true, Ok(())), (false, Err(ErrorKind::NoSpace))] {
        let store = open(
            &disk.path().join(preallocate.to_string()),
            LocalStoreSettings { preallocate, ..LocalStoreSettings::default() },
        );
        let mut writer = store.open(&key(), EPOCH, None, Some(size)).await.unwrap();
        let token = write(&mut *writer, 0..8 * MIB).await.unwrap();
        let ballast = disk.path().join("ballast");
        assert!(fs::write(&ballast, vec![1; 64 << 20]).is_err(), "it is full now");
        let written = write(&mut *writer, 8 * MIB..12 * MIB).await.map(drop).map_err(|error| error.kind);
        assert_eq!(written, expected, "preallocate = {preallocate}");
        writer.close().await;
        fs::remove_file(ballast).unwrap();
        assert_bytes(&read(&store, &key(), 0..8 * MIB).await, &bytes(0..8 * MIB));
        store.discard(&key(), EPOCH, Some(&token)).await.unwrap();
    }
}
