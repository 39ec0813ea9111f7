//! Runs the conformance suite against every backend and the fault wrapper.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use storage::faults::{Faults, Faulty};
use storage::local::{BlobDurability, LocalStore, LocalStoreResources, LocalStoreSettings};
use storage::memory::MemoryStore;
use storage::{Abilities, BlobKey, BlobStore, conformance, memory};
use tempfile::TempDir;

/// Stores in separate folders, which are removed with this value.
struct Folders {
    root: TempDir,
    count: AtomicU64,
}

impl Folders {
    fn new() -> Self {
        Self { root: TempDir::new().unwrap(), count: AtomicU64::new(0) }
    }

    fn store(&self, settings: LocalStoreSettings) -> LocalStore {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        LocalStore::open(self.root.path().join(number.to_string()), settings, LocalStoreResources::default()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store() {
    let folders = Folders::new();
    conformance::all(async || Arc::new(folders.store(LocalStoreSettings::default())) as Arc<dyn BlobStore>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store_through_the_page_cache() {
    let folders = Folders::new();
    let settings = LocalStoreSettings {
        direct_io: false,
        preallocate: false,
        writes_in_flight: 5,
        ..LocalStoreSettings::default()
    };
    conformance::all(async || Arc::new(folders.store(settings.clone())) as Arc<dyn BlobStore>).await;
}

#[tokio::test]
async fn local_store_with_relaxed_durability_on_one_thread() {
    let folders = Folders::new();
    let settings = LocalStoreSettings {
        durability: BlobDurability::Relaxed,
        writes_in_flight: 1,
        ..LocalStoreSettings::default()
    };
    conformance::all(async || Arc::new(folders.store(settings.clone())) as Arc<dyn BlobStore>).await;
}

#[tokio::test]
async fn memory_store() {
    conformance::all(async || Arc::new(MemoryStore::new()) as Arc<dyn BlobStore>).await;
}

#[tokio::test]
async fn memory_store_like_an_object_store() {
    conformance::all(async || Arc::new(MemoryStore::like_an_object_store(64 << 10)) as Arc<dyn BlobStore>).await;
}

#[tokio::test]
async fn memory_store_that_lacks_one_ability() {
    let without: [fn(&mut Abilities); 4] = [
        |abilities| abilities.any_order = false,
        |abilities| abilities.overwrites = false,
        |abilities| abilities.reads_open = false,
        |abilities| abilities.takes_over = false,
    ];
    for take_away in without {
        let mut abilities = memory::ABILITIES;
        take_away(&mut abilities);
        conformance::all(async || Arc::new(MemoryStore::with_abilities(abilities)) as Arc<dyn BlobStore>).await;
    }
}

#[tokio::test]
async fn memory_store_in_parts() {
    let abilities = Abilities { part_bytes: 4096, checkpoint_bytes: 4096, ..memory::ABILITIES };
    let store = MemoryStore::with_abilities(abilities);
    let key = BlobKey::new("a").unwrap();
    let mut writer = store.open(&key, conformance::EPOCH, None, None).await.unwrap();
    assert!(writer.write(4095, conformance::bytes(0..1)).await.is_err(), "in the middle of a part");
    writer.write(8192, conformance::bytes(0..10)).await.unwrap();
    writer.write(8202, conformance::bytes(0..1)).await.unwrap();
    writer.checkpoint(8203).await.unwrap().await.unwrap();
    writer.checkpoint(8192).await.unwrap().await.unwrap();
    assert_eq!(store.small_pieces(&key), 1);
}

#[tokio::test]
async fn faulty_store_without_faults() {
    let folders = Folders::new();
    let make = async || {
        Arc::new(Faulty::new(folders.store(LocalStoreSettings::default()), Faults::new())) as Arc<dyn BlobStore>
    };
    conformance::all(make).await;
}
