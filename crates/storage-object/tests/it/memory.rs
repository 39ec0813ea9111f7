//! The memory of parts that are not full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::bucket::{self, PART_BYTES, settings};
use longshore_storage_object::ObjectStoreSettings;
use storage::conformance::{EPOCH, assert_bytes, bytes, read};
use storage::{BlobKey, BlobStore};

const KIB: u64 = 1 << 10;

/// Bytes whose memory is counted until it is released.
struct Counted(Bytes, Arc<AtomicU64>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len() as u64, Ordering::Relaxed);
    }
}

fn counted(chunk: Bytes, held: &Arc<AtomicU64>) -> Bytes {
    held.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    Bytes::from_owner(Counted(chunk, Arc::clone(held)))
}

/// scale-out O6: the fullest are stored as tails, and read back once they are full.
#[tokio::test(flavor = "multi_thread")]
async fn open_parts_leave_memory_when_it_is_short() {
    const BLOBS: u64 = 12;
    let limit = 1024 * KIB;
    let settings = ObjectStoreSettings { open_parts_bytes: limit, ..settings() };
    let store: Arc<dyn BlobStore> = Arc::new(bucket::store_with(settings));
    let held = Arc::new(AtomicU64::new(0));
    let key = |number: u64| BlobKey::new(format!("blob-{number}")).unwrap();
    let size = PART_BYTES + 700 * KIB;
    let mut writers = Vec::new();
    for number in 0..BLOBS {
        writers.push(store.open(&key(number), EPOCH, None, Some(size)).await.unwrap());
    }
    let step = 100 * KIB;
    for at in (0..size).step_by(usize::try_from(step).unwrap()) {
        for writer in &mut writers {
            let chunk = bytes(at..size.min(at + step));
            writer.write(at, counted(chunk, &held)).await.unwrap();
        }
        // What is stored leaves the memory; nobody requests a checkpoint.
        if at < PART_BYTES - step {
            for _ in 0..500 {
                if held.load(Ordering::Relaxed) <= limit {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(held.load(Ordering::Relaxed) <= limit, "{} bytes are held", held.load(Ordering::Relaxed));
        }
    }
    for (number, mut writer) in (0..).zip(writers) {
        let token = writer.checkpoint(size).await.unwrap().await.unwrap();
        writer.close().await;
        store.finish(&key(number), EPOCH, Some(&token), size).await.unwrap();
        assert_bytes(&read(&store, &key(number), 0..size).await, &bytes(0..size));
    }
    assert_eq!(held.load(Ordering::Relaxed), 0);
}
