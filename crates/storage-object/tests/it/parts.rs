//! Blobs of many parts, and many tails.

use std::sync::Arc;

use futures::TryStreamExt;

use crate::bucket::{self, PART_BYTES};
use storage::conformance::{EPOCH, assert_bytes, bytes, read};
use storage::{BlobKey, BlobPart, BlobStore, Resume};

fn store() -> Arc<dyn BlobStore> {
    Arc::new(bucket::store())
}

fn named(name: &str) -> BlobKey {
    BlobKey::new(name).unwrap()
}

/// More parts than fit into a token: it names a list of them, and any process continues from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_many_parts_is_continued_from_its_token() {
    const PARTS: u64 = 70;
    let (store, key) = (store(), named("2026/12/01/many"));
    let most = store.abilities().max_resume_bytes;
    let mut token: Option<Resume> = None;
    let mut at = 0;
    while at < PARTS * PART_BYTES {
        let mut writer = store.open(&key, EPOCH, token.as_ref(), None).await.unwrap();
        for _ in 0..7 {
            writer.write(at, bytes(at..at + PART_BYTES)).await.unwrap();
            at += PART_BYTES;
            token = Some(writer.checkpoint(at).await.unwrap().await.unwrap());
            assert!(token.as_ref().unwrap().as_bytes().len() <= most);
        }
        writer.close().await;
    }
    store.finish(&key, EPOCH, token.as_ref(), at).await.unwrap();
    let mut place = 0;
    let mut stream = store.read(&key, 0..at).await.unwrap();
    while let Some(chunk) = stream.try_next().await.unwrap() {
        let end = place + chunk.len() as u64;
        assert_bytes(&chunk, &bytes(place..end));
        place = end;
    }
    assert_eq!(place, at);
    assert_eq!(store.keys().await.unwrap().try_collect::<Vec<_>>().await.unwrap(), [key]);
}

/// scale-out O5b: many checkpoints inside one part.
#[tokio::test(flavor = "multi_thread")]
async fn many_checkpoints_in_one_part_are_merged() {
    let (store, key) = (store(), named("2026/12/01/tails"));
    let (step, steps) = (9_999, 50);
    let size = PART_BYTES + 3 * step;
    let mut token: Option<Resume> = None;
    let mut at = 0;
    for number in 0..steps {
        // A new writer has nothing in memory, and reads the tails back for the merged one.
        let mut writer = store.open(&key, EPOCH, token.as_ref(), Some(size)).await.unwrap();
        for _ in 0..=number % 3 {
            writer.write(at, bytes(at..at + step)).await.unwrap();
            at += step;
            token = Some(writer.checkpoint(at).await.unwrap().await.unwrap());
        }
        writer.close().await;
    }
    let mut writer = store.open(&key, EPOCH, token.as_ref(), Some(size)).await.unwrap();
    writer.write(at, bytes(at..size)).await.unwrap();
    token = Some(writer.checkpoint(size).await.unwrap().await.unwrap());
    writer.close().await;
    store.finish(&key, EPOCH, token.as_ref(), size).await.unwrap();
    assert_bytes(&read(&store, &key, 0..size).await, &bytes(0..size));
}

/// scale-out O22: odd sizes, mostly copied inside the store.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_odd_sizes_are_joined() {
    let store = store();
    for (count, largest) in [(2, 3 * PART_BYTES), (3, PART_BYTES), (60, 400_000)] {
        let (mut parts, mut expected) = (Vec::new(), Vec::new());
        for number in 0..count {
            let key = named(&format!("parts-{count}/{number}"));
            let size_bytes = largest * (number * 7 % 10 + 1) / 10 + number;
            let mut writer = store.open(&key, EPOCH, None, Some(size_bytes)).await.unwrap();
            writer.write(0, bytes(0..size_bytes)).await.unwrap();
            let token = writer.checkpoint(size_bytes).await.unwrap().await.unwrap();
            writer.close().await;
            store.finish(&key, EPOCH, Some(&token), size_bytes).await.unwrap();
            expected.extend_from_slice(&bytes(0..size_bytes));
            parts.push(BlobPart { key, size_bytes });
        }
        let (joined, size) = (named(&format!("joined-{count}")), expected.len() as u64);
        let token = store.concatenate(&parts, &joined, EPOCH).await.unwrap();
        store.finish(&joined, EPOCH, Some(&token), size).await.unwrap();
        assert_bytes(&read(&store, &joined, 0..size).await, &expected);
    }
}
