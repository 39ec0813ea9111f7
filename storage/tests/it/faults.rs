//! Tests of the fault wrapper: it must fail exactly the planned calls.

use std::io;
use std::sync::Arc;

use storage::conformance::{EPOCH, assert_bytes, bytes, read, write_blob};
use storage::faults::{Calls, Cause, Faults, Faulty, Operation};
use storage::memory::MemoryStore;
use storage::{BlobKey, BlobStore, ErrorKind};

fn key() -> BlobKey {
    BlobKey::new("a").unwrap()
}

fn faulty() -> (Arc<dyn BlobStore>, Faults) {
    let faults = Faults::new();
    (Arc::new(Faulty::new(MemoryStore::new(), faults.clone())), faults)
}

#[tokio::test]
async fn the_nth_call_breaks_once() {
    let (store, faults) = faulty();
    faults.fail(Operation::Check, Calls::Nth(2), Cause::NO_SPACE);
    assert!(store.check().await.is_ok());
    assert_eq!(store.check().await.unwrap_err().kind, ErrorKind::NoSpace);
    assert!(store.check().await.is_ok());
    assert_eq!(faults.calls(Operation::Check), 3);
    assert_eq!(faults.calls(Operation::Read), 0);
}

#[tokio::test]
async fn calls_break_for_ever_until_mended() {
    let (store, faults) = faulty();
    faults.fail(Operation::Discard, Calls::From(2), Cause::Kind(io::ErrorKind::PermissionDenied));
    assert!(store.discard(&key(), EPOCH, None).await.is_ok());
    for _ in 0..3 {
        let error = store.discard(&key(), EPOCH, None).await.unwrap_err();
        assert_eq!((error.kind, error.source.kind()), (ErrorKind::Other, io::ErrorKind::PermissionDenied));
        assert_eq!(error.to_string(), "could not discard a");
    }
    faults.mend(Operation::Discard);
    assert!(store.discard(&key(), EPOCH, None).await.is_ok());
}

#[tokio::test]
async fn every_operation_can_break() {
    let (store, faults) = faulty();
    let token = write_blob(&store, &key(), 10).await;
    for operation in [Operation::Open, Operation::Concatenate, Operation::Finish, Operation::Read] {
        faults.fail(operation, Calls::From(1), Cause::BROKEN_DISK);
    }
    let into = BlobKey::new("b").unwrap();
    let errors = [
        store.open(&key(), EPOCH, None, None).await.err().unwrap(),
        store.concatenate(&[], &into, EPOCH).await.unwrap_err(),
        store.finish(&key(), EPOCH, Some(&token), 10).await.unwrap_err(),
        store.read(&key(), 0..10).await.err().unwrap(),
    ];
    for error in errors {
        assert_eq!(error.source.raw_os_error(), Some(5), "{error}");
    }
    faults.mend(Operation::Read);
    assert_bytes(&read(&store, &key(), 0..10).await, &bytes(0..10));
}

#[tokio::test]
async fn a_broken_writer_stays_broken() {
    for operation in [Operation::Write, Operation::Checkpoint, Operation::Sync] {
        let (store, faults) = faulty();
        let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
        writer.write(0, bytes(0..10)).await.unwrap();
        let token = writer.checkpoint(10).await.unwrap().await.unwrap();
        faults.fail(operation, Calls::Nth(2), Cause::BROKEN_DISK);
        let attempt = async {
            writer.write(10, bytes(10..20)).await?;
            writer.checkpoint(20).await?.await
        };
        let error = attempt.await.unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(5), "{operation:?}");
        assert_eq!(writer.write(10, bytes(10..20)).await.unwrap_err().source.raw_os_error(), Some(5), "{operation:?}");
        assert!(writer.checkpoint(20).await.is_err(), "{operation:?}");
        writer.close().await;

        let mut writer = store.open(&key(), EPOCH, Some(&token), None).await.unwrap();
        writer.write(10, bytes(10..20)).await.unwrap();
        writer.checkpoint(20).await.unwrap().await.unwrap();
        assert_bytes(&read(&store, &key(), 0..20).await, &bytes(0..20));
    }
}

#[tokio::test]
async fn a_call_may_do_its_work_and_fail_all_the_same() {
    let (store, faults) = faulty();
    let token = write_blob(&store, &key(), 10).await;
    faults.fail_when_done(Operation::Finish, Calls::Nth(1), Cause::BROKEN_DISK);
    assert!(store.finish(&key(), EPOCH, Some(&token), 10).await.is_err());
    assert!(store.open(&key(), EPOCH, Some(&token), None).await.is_err(), "it is finished all the same");
    store.finish(&key(), EPOCH, Some(&token), 10).await.unwrap();
}

#[tokio::test]
async fn a_held_call_waits_until_it_is_let_go() {
    let (store, faults) = faulty();
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..10)).await.unwrap();
    let promise = writer.checkpoint(10).await.unwrap();

    let hold = faults.hold(Operation::Sync);
    let promise = tokio::spawn(promise);
    hold.reached().await;
    assert_eq!(faults.calls(Operation::Sync), 1);
    assert!(!promise.is_finished());
    assert!(store.read(&key(), 0..10).await.is_ok_and(|_| true));
    hold.release();
    promise.await.unwrap().unwrap();
    assert_bytes(&read(&store, &key(), 0..10).await, &bytes(0..10));

    let hold = faults.hold(Operation::Close);
    let closing = tokio::spawn(writer.close());
    hold.reached().await;
    drop(hold);
    closing.await.unwrap();
}

#[tokio::test]
async fn a_crash_of_the_memory_store_ends_its_writers() {
    let memory = MemoryStore::new();
    let store: Arc<dyn BlobStore> = Arc::new(memory.clone());
    let token = write_blob(&store, &key(), 10).await;
    let mut writer = store.open(&key(), EPOCH, Some(&token), None).await.unwrap();
    writer.write(10, bytes(10..20)).await.unwrap();
    let promise = writer.checkpoint(20).await.unwrap();
    memory.crash();
    assert!(promise.await.is_err());
    assert!(writer.write(20, bytes(20..21)).await.is_err());
    assert!(writer.checkpoint(20).await.is_err());
    store.finish(&key(), EPOCH, Some(&token), 10).await.unwrap();
    memory.crash();
    assert_bytes(&read(&store, &key(), 0..10).await, &bytes(0..10));
}
