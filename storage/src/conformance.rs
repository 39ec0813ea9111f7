//! The contract of every store, as one suite: [`all`] runs against each backend and against the fault
//! wrapper.
//!
//! Each test gets a new store. The numbers are close to sizes at which a backend may split. Operations that
//! only some stores support are tested on those whose [`Abilities`] say so; the others have to reject them.
#![expect(clippy::unwrap_used, reason = "this is test code, in the library so that every backend can use it")]

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};

use crate::{Abilities, BlobKey, BlobPart, BlobStore, BlobWriter, Epoch, ErrorKind, OpenBlob, Resume};
use pool::BLOCK_BYTES;

/// The epoch of a blob that was never taken over.
pub const EPOCH: Epoch = Epoch::FIRST;

const LATER: Epoch = Epoch::new(2);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

type Store = Arc<dyn BlobStore>;

/// Runs the whole suite; panics where a store violates the contract. `make` returns a new, empty store at
/// each call.
pub async fn all(make: impl AsyncFn() -> Store) {
    a_new_blob_is_empty_and_durable_with_its_first_checkpoint(make().await).await;
    writing_goes_on_after_each_checkpoint(make().await).await;
    a_blob_of_known_size_resumes_anywhere(make().await).await;
    room_set_aside_counts_for_its_own_blob(make().await).await;
    large_and_small_chunks_arrive_in_order(make().await).await;
    bytes_past_the_token_are_dropped(make().await).await;
    an_older_token_takes_the_blob_back(make().await).await;
    opening_without_a_token_starts_over(make().await).await;
    let abilities = make().await.abilities();
    if abilities.any_order {
        places_may_come_in_any_order(make().await).await;
        a_checkpoint_covers_bytes_up_to_its_end(make().await).await;
    } else {
        places_come_in_order(make().await).await;
    }
    if abilities.any_order && abilities.overwrites {
        the_later_of_two_writes_to_a_place_wins(make().await).await;
    } else if abilities.any_order {
        what_is_durable_is_not_written_again(make().await).await;
    }
    if abilities.reads_open {
        open_blobs_can_be_read(make().await).await;
    } else {
        only_sealed_blobs_can_be_read(make().await).await;
    }
    if abilities.takes_over {
        a_newer_epoch_takes_a_blob_over(make().await).await;
    } else {
        a_newer_epoch_goes_on_in_another_blob(make().await).await;
    }
    a_newer_epoch_resumes_a_closed_blob(make().await).await;
    an_older_epoch_changes_nothing(make().await).await;
    a_sealed_blob_takes_no_more(make().await).await;
    sealing_twice_ends_the_same(make().await).await;
    tokens_are_as_short_as_promised(make().await).await;
    a_checkpoint_covers_what_was_written_before_it(make().await).await;
    promises_may_be_kept_in_any_order(make().await).await;
    a_dropped_promise_harms_nothing(make().await).await;
    a_dropped_writer_harms_nothing(make().await).await;
    a_token_without_its_blob_is_an_error(make().await).await;
    garbage_is_no_token(make().await).await;
    finishing_twice_ends_the_same(make().await).await;
    finishing_works_after_reopening(make().await).await;
    finishing_at_another_size_is_an_error(make().await).await;
    finishing_too_little_is_an_error(make().await).await;
    an_empty_blob_is_a_blob(make().await).await;
    a_finished_blob_does_not_change(make().await).await;
    discarding_twice_is_fine(make().await).await;
    a_discarded_key_can_be_used_again(make().await).await;
    parts_are_joined_in_order(make().await).await;
    joining_again_starts_over(make().await).await;
    a_part_must_be_whole(make().await).await;
    any_range_can_be_read(make().await).await;
    reading_beyond_the_end_is_an_error(make().await).await;
    a_reader_outlives_the_blob(make().await).await;
    what_is_stored_is_listed(make().await).await;
    a_healthy_store_says_so(make().await).await;
}

async fn what_is_stored_is_listed(store: Store) {
    let listed = async || {
        let mut keys: Vec<BlobKey> = store.keys().await.unwrap().try_collect().await.unwrap();
        keys.sort();
        keys
    };
    assert_eq!(listed().await, []);
    let (open, finished) = (named("2026/11/22/open"), named("2026/11/23/finished"));
    for blob in [&open, &finished] {
        assert_eq!(store.size(blob).await.unwrap(), None);
        let mut writer = store.open(blob, EPOCH, None, None).await.unwrap();
        writer.write(0, bytes(0..10)).await.unwrap();
        let token = sync(&mut *writer, 10).await;
        writer.close().await;
        assert!(store.size(blob).await.unwrap() >= Some(10));
        if *blob == finished {
            store.finish(blob, EPOCH, Some(&token), 10).await.unwrap();
        }
    }
    assert_eq!(listed().await, [open.clone(), finished.clone()]);
    assert_eq!(store.size(&finished).await.unwrap(), Some(10));
    assert!(store.path(&finished).is_none_or(|path| std::fs::read(path).unwrap() == bytes(0..10)));
    store.discard(&open, EPOCH, None).await.unwrap();
    assert_eq!(listed().await, [finished]);
    assert_eq!(store.size(&open).await.unwrap(), None);
}

async fn a_new_blob_is_empty_and_durable_with_its_first_checkpoint(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, Some(10)).await.unwrap();
    let token = sync(&mut *writer, 0).await;
    writer.close().await;
    let mut writer = store.open(&key(), EPOCH, Some(&token), Some(10)).await.unwrap();
    writer.write(0, bytes(0..10)).await.unwrap();
    let token = sync(&mut *writer, 10).await;
    writer.close().await;
    assert_open(&store, 0..10).await;
    assert_finishes(&store, &token, 10).await;
}

async fn writing_goes_on_after_each_checkpoint(store: Store) {
    let mut token: Option<Resume> = None;
    let mut at = 0;
    for size in [1, 4095, 1, 0, 64 * KIB, MIB + 1, 3] {
        let mut writer = store.open(&key(), EPOCH, token.as_ref(), None).await.unwrap();
        writer.write(at, bytes(at..at + size)).await.unwrap();
        at += size;
        token = Some(sync(&mut *writer, at).await);
        writer.close().await;
        assert_open(&store, 0..at).await;
    }
    store.finish(&key(), EPOCH, token.as_ref(), at).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..at).await, &bytes(0..at));
}

async fn a_blob_of_known_size_resumes_anywhere(store: Store) {
    let ends = [1, 4097, 100_000, 3 * MIB + 17, 3 * MIB + 18, 5 * MIB + 1];
    let size = Some(5 * MIB + 1);
    let (mut token, mut at): (Option<Resume>, u64) = (None, 0);
    for end in ends {
        // First a writer that got further without an acknowledgment, and then the one that counts.
        for covered in [false, true] {
            let mut writer = store.open(&key(), EPOCH, token.as_ref(), size).await.unwrap();
            while covered && at < end {
                let next = end.min((at + MIB) / MIB * MIB);
                writer.write(at, bytes(at..next)).await.unwrap();
                at = next;
            }
            if covered {
                token = Some(sync(&mut *writer, at).await);
            } else {
                writer.write(at, laid_out(at, &vec![0xee; usize::try_from(end - at).unwrap()])).await.unwrap();
            }
            writer.close().await;
        }
        assert_open(&store, 0..at).await;
    }
    store.finish(&key(), EPOCH, token.as_ref(), at).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..at).await, &bytes(0..at));
    assert_ends_at(&store, at).await;
}

async fn room_set_aside_counts_for_its_own_blob(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, Some(8 * MIB)).await.unwrap();
    writer.write(0, bytes(0..MIB)).await.unwrap();
    sync(&mut *writer, MIB).await;
    writer.close().await;
    let holding = OpenBlob { key: &key(), received_bytes: MIB };
    let (own, others) = (store.available(Some(holding)).await.unwrap(), store.available(None).await.unwrap());
    assert_eq!(own.is_some(), others.is_some());
    // Other users of the same disk may take or free space in between.
    let slack = 64 * MIB;
    assert!(own.unwrap_or(0) + slack >= others.unwrap_or(0), "{own:?} is less than {others:?}");
    let nothing = OpenBlob { key: &named("not/there"), received_bytes: 0 };
    assert_eq!(store.available(Some(nothing)).await.unwrap().is_some(), others.is_some());
}

async fn large_and_small_chunks_arrive_in_order(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    let mut at = 0;
    let few_large = [3 * MIB, 5, 256 * KIB, 700 * KIB, MIB - 1, 2];
    for size in few_large.into_iter().chain(std::iter::repeat_n(7, 2500)) {
        writer.write(at, bytes(at..at + size)).await.unwrap();
        at += size;
    }
    let token = sync(&mut *writer, at).await;
    writer.close().await;
    assert_open(&store, 0..at).await;
    assert_finishes(&store, &token, at).await;
}

async fn bytes_past_the_token_are_dropped(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..100)).await.unwrap();
    let token = sync(&mut *writer, 100).await;
    writer.write(100, laid_out(100, &[0xee; 2 << 20])).await.unwrap();
    writer.close().await;

    let mut writer = store.open(&key(), EPOCH, Some(&token), None).await.unwrap();
    writer.write(100, bytes(100..150)).await.unwrap();
    let token = sync(&mut *writer, 150).await;
    writer.close().await;
    assert_open(&store, 0..150).await;
    assert_ends_at(&store, 150).await;
    store.finish(&key(), EPOCH, Some(&token), 150).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..150).await, &bytes(0..150));
    assert_ends_at(&store, 150).await;
}

async fn an_older_token_takes_the_blob_back(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..10)).await.unwrap();
    let older = sync(&mut *writer, 10).await;
    writer.write(10, bytes(50..90)).await.unwrap();
    sync(&mut *writer, 50).await;
    writer.close().await;

    let mut writer = store.open(&key(), EPOCH, Some(&older), None).await.unwrap();
    writer.write(10, bytes(10..12)).await.unwrap();
    let token = sync(&mut *writer, 12).await;
    writer.close().await;
    assert_open(&store, 0..12).await;
    assert_ends_at(&store, 12).await;
    assert_finishes(&store, &token, 12).await;
}

async fn opening_without_a_token_starts_over(store: Store) {
    write_blob(&store, &key(), 1000).await;
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..5)).await.unwrap();
    let token = sync(&mut *writer, 5).await;
    writer.close().await;
    assert_ends_at(&store, 5).await;
    assert_finishes(&store, &token, 5).await;
}

async fn places_may_come_in_any_order(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    for range in [MIB..2 * MIB, 10..20, 3 * MIB..3 * MIB + 1, 0..10, 2 * MIB..3 * MIB, 20..MIB] {
        writer.write(range.start, bytes(range)).await.unwrap();
    }
    let token = sync(&mut *writer, 3 * MIB + 1).await;
    writer.close().await;
    let size = 3 * MIB + 1;
    assert_open(&store, 0..size).await;
    store.finish(&key(), EPOCH, Some(&token), size).await.unwrap();
}

async fn the_later_of_two_writes_to_a_place_wins(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    for _ in 0..20 {
        writer.write(0, laid_out(0, &[0xee; 1 << 20])).await.unwrap();
        writer.write(1000, bytes(1000..MIB)).await.unwrap();
        writer.write(0, bytes(0..1000)).await.unwrap();
    }
    sync(&mut *writer, MIB).await;
    writer.close().await;
    assert_open(&store, 0..MIB).await;
}

async fn places_come_in_order(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..10)).await.unwrap();
    for elsewhere in [0, 9, 11, MIB] {
        assert!(writer.write(elsewhere, bytes(0..1)).await.is_err(), "at {elsewhere}");
    }
}

async fn what_is_durable_is_not_written_again(store: Store) {
    let part = store.abilities().part_bytes;
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(part, bytes(part..2 * part)).await.unwrap();
    sync(&mut *writer, 2 * part).await;
    writer.write(0, bytes(0..part)).await.unwrap();
    let token = sync(&mut *writer, 2 * part).await;
    assert!(writer.write(part, bytes(0..part)).await.is_err());
    writer.close().await;
    assert_finishes(&store, &token, 2 * part).await;
}

async fn open_blobs_can_be_read(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..1000)).await.unwrap();
    sync(&mut *writer, 1000).await;
    assert_bytes(&read(&store, &key(), 0..1000).await, &bytes(0..1000));
    writer.write(1000, bytes(1000..2000)).await.unwrap();
    sync(&mut *writer, 2000).await;
    assert_bytes(&read(&store, &key(), 500..2000).await, &bytes(500..2000));
}

async fn only_sealed_blobs_can_be_read(store: Store) {
    let token = write_blob(&store, &key(), 1000).await;
    assert_eq!(try_read(&store, &key(), 0..1000).await.unwrap_err().kind, ErrorKind::Unsealed);
    let part = BlobPart { key: key(), size_bytes: 1000 };
    assert_eq!(store.concatenate(&[part], &named("a/b"), EPOCH).await.unwrap_err().kind, ErrorKind::Unsealed);
    store.seal(&key(), EPOCH, Some(&token), 1000).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..1000).await, &bytes(0..1000));
}

async fn a_newer_epoch_takes_a_blob_over(store: Store) {
    let mut old = store.open(&key(), EPOCH, None, None).await.unwrap();
    old.write(0, bytes(0..10)).await.unwrap();
    let token = sync(&mut *old, 10).await;
    old.write(10, laid_out(10, &[0xee; 100])).await.unwrap();
    let mut new = store.open(&key(), LATER, Some(&token), None).await.unwrap();
    assert!(old.write(110, bytes(0..1)).await.is_err());
    assert!(old.checkpoint(110).await.is_err());
    let refused = store.open(&key(), EPOCH, Some(&token), None).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Fenced, "{refused:?}");
    old.close().await;
    // The attempt has not ended the newer writer.
    new.write(10, bytes(10..20)).await.unwrap();
    let token = sync(&mut *new, 20).await;
    new.close().await;
    store.finish(&key(), LATER, Some(&token), 20).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..20).await, &bytes(0..20));
}

async fn a_newer_epoch_goes_on_in_another_blob(store: Store) {
    let mut old = store.open(&key(), EPOCH, None, None).await.unwrap();
    old.write(0, bytes(0..MIB)).await.unwrap();
    let token = sync(&mut *old, MIB).await;
    store.seal(&key(), LATER, Some(&token), MIB).await.unwrap();
    assert!(old.write(MIB, bytes(0..1)).await.is_err(), "its bytes can no longer be a part of it");
    old.close().await;

    let (next, joined) = (named("2026/11/21/0193-conformance~2"), named("2026/11/21/0193-conformance~all"));
    let mut new = store.open(&next, LATER, None, None).await.unwrap();
    new.write(0, bytes(MIB..MIB + 20)).await.unwrap();
    let token = sync(&mut *new, 20).await;
    new.close().await;
    store.seal(&next, LATER, Some(&token), 20).await.unwrap();
    let parts = [BlobPart { key: key(), size_bytes: MIB }, BlobPart { key: next, size_bytes: 20 }];
    let token = store.concatenate(&parts, &joined, LATER).await.unwrap();
    store.finish(&joined, LATER, Some(&token), MIB + 20).await.unwrap();
    assert_bytes(&read(&store, &joined, 0..MIB + 20).await, &bytes(0..MIB + 20));
}

async fn a_newer_epoch_resumes_a_closed_blob(store: Store) {
    let mut old = store.open(&key(), EPOCH, None, None).await.unwrap();
    old.write(0, bytes(0..MIB)).await.unwrap();
    let token = sync(&mut *old, MIB).await;
    old.close().await;
    let mut new = store.open(&key(), LATER, Some(&token), None).await.unwrap();
    new.write(MIB, bytes(MIB..MIB + 20)).await.unwrap();
    let token = sync(&mut *new, MIB + 20).await;
    new.close().await;
    store.finish(&key(), LATER, Some(&token), MIB + 20).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..MIB + 20).await, &bytes(0..MIB + 20));
}

async fn an_older_epoch_changes_nothing(store: Store) {
    let mut writer = store.open(&key(), LATER, None, None).await.unwrap();
    writer.write(0, bytes(0..10)).await.unwrap();
    let token = sync(&mut *writer, 10).await;
    let errors = [
        store.open(&key(), EPOCH, Some(&token), None).await.err().unwrap(),
        store.concatenate(&[], &key(), EPOCH).await.unwrap_err(),
        store.seal(&key(), EPOCH, Some(&token), 10).await.unwrap_err(),
        store.finish(&key(), EPOCH, Some(&token), 10).await.unwrap_err(),
        store.discard(&key(), EPOCH, Some(&token)).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, ErrorKind::Fenced, "{error:?}");
    }
    writer.write(10, bytes(10..20)).await.unwrap();
    let token = sync(&mut *writer, 20).await;
    writer.close().await;
    store.finish(&key(), LATER, Some(&token), 20).await.unwrap();
    let refused = store.discard(&key(), EPOCH, Some(&token)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Fenced, "it is finished: {refused:?}");
    assert_bytes(&read(&store, &key(), 0..20).await, &bytes(0..20));
    store.discard(&key(), LATER, Some(&token)).await.unwrap();
    let refused = store.open(&key(), EPOCH, None, None).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Fenced, "it is discarded: {refused:?}");
    assert_eq!(store.size(&key()).await.unwrap(), None);
}

async fn a_sealed_blob_takes_no_more(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..1000)).await.unwrap();
    let token = sync(&mut *writer, 1000).await;
    for wrong in [0, 999, 1001] {
        assert_eq!(store.seal(&key(), EPOCH, Some(&token), wrong).await.unwrap_err().kind, ErrorKind::Other, "{wrong}");
    }
    store.seal(&key(), EPOCH, Some(&token), 1000).await.unwrap();
    assert!(writer.write(1000, bytes(0..1)).await.is_err());
    writer.close().await;
    assert_bytes(&read(&store, &key(), 0..1000).await, &bytes(0..1000));
    assert_finishes(&store, &token, 1000).await;
}

async fn sealing_twice_ends_the_same(store: Store) {
    let gone = store.seal(&key(), EPOCH, Some(&write_blob(&store, &named("a/b"), 10).await), 10).await;
    assert_eq!(gone.unwrap_err().kind, ErrorKind::NotFound);
    let token = write_blob(&store, &key(), 3000).await;
    for _ in 0..2 {
        store.seal(&key(), EPOCH, Some(&token), 3000).await.unwrap();
        assert_bytes(&read(&store, &key(), 0..3000).await, &bytes(0..3000));
    }
    store.finish(&key(), EPOCH, Some(&token), 3000).await.unwrap();
    store.seal(&key(), EPOCH, Some(&token), 3000).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..3000).await, &bytes(0..3000));
    store.seal(&named("a/empty"), EPOCH, None, 0).await.unwrap();
}

async fn tokens_are_as_short_as_promised(store: Store) {
    let Abilities { max_resume_bytes, .. } = store.abilities();
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    let mut at = 0;
    for size in [1, 4095, 64 * KIB, 3 * MIB] {
        writer.write(at, bytes(at..at + size)).await.unwrap();
        at += size;
        let token = sync(&mut *writer, at).await;
        assert!((1..=max_resume_bytes).contains(&token.as_bytes().len()), "{token:?} at {at}");
    }
}

async fn a_checkpoint_covers_what_was_written_before_it(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..2 * MIB)).await.unwrap();
    let first = writer.checkpoint(2 * MIB).await.unwrap();
    writer.write(2 * MIB, bytes(2 * MIB..4 * MIB)).await.unwrap();
    let second = writer.checkpoint(4 * MIB).await.unwrap();
    writer.write(4 * MIB, bytes(4 * MIB..5 * MIB)).await.unwrap();

    let first = first.await.unwrap();
    assert_open(&store, 0..2 * MIB).await;
    let second = second.await.unwrap();
    assert_open(&store, 0..4 * MIB).await;
    assert_ne!(first, second);
    writer.close().await;

    drop(store.open(&key(), EPOCH, Some(&first), None).await.unwrap());
    assert_ends_at(&store, 2 * MIB).await;
    assert_finishes(&store, &first, 2 * MIB).await;
}

async fn promises_may_be_kept_in_any_order(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..10)).await.unwrap();
    let first = writer.checkpoint(10).await.unwrap();
    writer.write(10, bytes(10..20)).await.unwrap();
    let second = writer.checkpoint(20).await.unwrap();
    writer.close().await;
    let second = second.await.unwrap();
    assert_open(&store, 0..20).await;
    first.await.unwrap();
    assert_open(&store, 0..20).await;
    assert_finishes(&store, &second, 20).await;
}

async fn a_dropped_promise_harms_nothing(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..2 * MIB)).await.unwrap();
    drop(writer.checkpoint(2 * MIB).await.unwrap());
    writer.write(2 * MIB, bytes(2 * MIB..3 * MIB)).await.unwrap();
    // This promise is dropped while it is pending.
    let _ = writer.checkpoint(3 * MIB).await.unwrap().now_or_never();
    writer.write(3 * MIB, bytes(3 * MIB..3 * MIB + 5)).await.unwrap();
    let token = sync(&mut *writer, 3 * MIB + 5).await;
    writer.close().await;
    assert_open(&store, 0..3 * MIB + 5).await;
    assert_finishes(&store, &token, 3 * MIB + 5).await;
}

async fn a_dropped_writer_harms_nothing(store: Store) {
    let mut token = None;
    for at in 0..20 {
        let mut writer = store.open(&key(), EPOCH, token.as_ref(), None).await.unwrap();
        writer.write(at, bytes(at..at + 1)).await.unwrap();
        token = Some(sync(&mut *writer, at + 1).await);
        for place in (0..3).map(|step| at + 1 + step * MIB) {
            writer.write(place, laid_out(place, &[0xee; 1 << 20])).await.unwrap();
        }
    }
    assert_open(&store, 0..20).await;
    store.finish(&key(), EPOCH, token.as_ref(), 20).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..20).await, &bytes(0..20));
}

async fn a_token_without_its_blob_is_an_error(store: Store) {
    let token = write_blob(&store, &key(), 10).await;
    store.discard(&key(), EPOCH, Some(&token)).await.unwrap();
    let error = store.open(&key(), EPOCH, Some(&token), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error:?}");
    let error = store.finish(&key(), EPOCH, Some(&token), 10).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error:?}");
    assert_eq!(missing(&store, &key()).await, ErrorKind::NotFound);
}

async fn garbage_is_no_token(store: Store) {
    write_blob(&store, &key(), 10).await;
    for wrong in [vec![], vec![0xff; 9], b"not a token of anyone".to_vec()] {
        let wrong = Resume::from_bytes(wrong);
        assert_eq!(store.open(&key(), EPOCH, Some(&wrong), None).await.unwrap_err().kind, ErrorKind::Other);
        assert_eq!(store.finish(&key(), EPOCH, Some(&wrong), 10).await.unwrap_err().kind, ErrorKind::Other);
    }
    assert_open(&store, 0..10).await;
}

async fn finishing_twice_ends_the_same(store: Store) {
    let token = write_blob(&store, &key(), 3000).await;
    for _ in 0..3 {
        store.finish(&key(), EPOCH, Some(&token), 3000).await.unwrap();
        assert_bytes(&read(&store, &key(), 0..3000).await, &bytes(0..3000));
    }
    assert_eq!(store.finish(&key(), EPOCH, Some(&token), 2999).await.unwrap_err().kind, ErrorKind::Other);
    assert_ends_at(&store, 3000).await;
}

async fn finishing_works_after_reopening(store: Store) {
    let token = write_blob(&store, &key(), 3000).await;
    let mut writer = store.open(&key(), EPOCH, Some(&token), None).await.unwrap();
    writer.write(3000, bytes(0..10)).await.unwrap();
    writer.close().await;
    store.finish(&key(), EPOCH, Some(&token), 3000).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..3000).await, &bytes(0..3000));
    assert_ends_at(&store, 3000).await;
}

async fn finishing_at_another_size_is_an_error(store: Store) {
    let token = write_blob(&store, &key(), 3000).await;
    for wrong in [0, 2999, 3001] {
        assert_eq!(
            store.finish(&key(), EPOCH, Some(&token), wrong).await.unwrap_err().kind,
            ErrorKind::Other,
            "{wrong}"
        );
        assert_open(&store, 0..3000).await;
    }
    store.finish(&key(), EPOCH, Some(&token), 3000).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..3000).await, &bytes(0..3000));
}

async fn a_checkpoint_covers_bytes_up_to_its_end(store: Store) {
    let mut writer = store.open(&key(), EPOCH, None, None).await.unwrap();
    writer.write(0, bytes(0..MIB + 10)).await.unwrap();
    let shorter = sync(&mut *writer, MIB).await;
    // Bytes behind the end of one checkpoint may still count in a later one.
    let longer = sync(&mut *writer, MIB + 10).await;
    assert_ne!(shorter, longer);
    let shorter = sync(&mut *writer, MIB).await;
    let beyond = writer.checkpoint(MIB + 11).await;
    assert_eq!(beyond.err().map(|error| error.kind), Some(ErrorKind::Other), "nothing was written there");
    writer.close().await;
    assert!(store.finish(&key(), EPOCH, Some(&shorter), MIB + 10).await.is_err());
    store.finish(&key(), EPOCH, Some(&shorter), MIB).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..MIB).await, &bytes(0..MIB));
    assert_ends_at(&store, MIB).await;
}

async fn finishing_too_little_is_an_error(store: Store) {
    let token = write_blob(&store, &key(), 100).await;
    assert_eq!(store.finish(&key(), EPOCH, Some(&token), 101).await.unwrap_err().kind, ErrorKind::Other);
    assert!(store.finish(&key(), EPOCH, None, 100).await.is_err(), "without a token nothing is durable");
    assert_open(&store, 0..100).await;
    store.finish(&key(), EPOCH, Some(&token), 100).await.unwrap();
}

async fn an_empty_blob_is_a_blob(store: Store) {
    store.finish(&key(), EPOCH, None, 0).await.unwrap();
    store.finish(&key(), EPOCH, None, 0).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..0).await, &Bytes::new());

    let opened = named("2026/11/22/opened");
    let mut writer = store.open(&opened, EPOCH, None, Some(0)).await.unwrap();
    let token = sync(&mut *writer, 0).await;
    writer.close().await;
    store.finish(&opened, EPOCH, Some(&token), 0).await.unwrap();
    assert_bytes(&read(&store, &opened, 0..0).await, &Bytes::new());
    store.discard(&opened, EPOCH, Some(&token)).await.unwrap();
    assert_eq!(missing(&store, &opened).await, ErrorKind::NotFound);
}

async fn a_finished_blob_does_not_change(store: Store) {
    let token = write_blob(&store, &key(), 100).await;
    store.finish(&key(), EPOCH, Some(&token), 100).await.unwrap();
    assert!(store.open(&key(), EPOCH, None, None).await.is_err());
    assert!(store.open(&key(), EPOCH, Some(&token), None).await.is_err());
    assert!(store.concatenate(&[], &key(), EPOCH).await.is_err());
    assert_bytes(&read(&store, &key(), 0..100).await, &bytes(0..100));
}

async fn discarding_twice_is_fine(store: Store) {
    store.discard(&key(), EPOCH, None).await.unwrap();
    let token = write_blob(&store, &key(), 100).await;
    for _ in 0..2 {
        store.discard(&key(), EPOCH, Some(&token)).await.unwrap();
        assert_eq!(missing(&store, &key()).await, ErrorKind::NotFound);
    }
    let token = write_blob(&store, &key(), 100).await;
    store.finish(&key(), EPOCH, Some(&token), 100).await.unwrap();
    for _ in 0..2 {
        store.discard(&key(), EPOCH, Some(&token)).await.unwrap();
        assert_eq!(missing(&store, &key()).await, ErrorKind::NotFound);
    }
}

async fn a_discarded_key_can_be_used_again(store: Store) {
    let neighbour = named("2026/11/21/neighbour");
    let token = write_blob(&store, &neighbour, 7).await;
    for size in [100, 50] {
        let token = write_blob(&store, &key(), size).await;
        store.seal(&key(), EPOCH, Some(&token), size).await.unwrap();
        assert_ends_at(&store, size).await;
        store.discard(&key(), EPOCH, Some(&token)).await.unwrap();
    }
    store.seal(&neighbour, EPOCH, Some(&token), 7).await.unwrap();
    assert_bytes(&read(&store, &neighbour, 0..7).await, &bytes(0..7));
}

async fn parts_are_joined_in_order(store: Store) {
    let (open, finished, empty) = (named("parts/open"), named("parts/finished"), named("parts/empty"));
    write_readable(&store, &open, MIB + 10).await;
    let token = write_blob(&store, &finished, 4096).await;
    store.finish(&finished, EPOCH, Some(&token), 4096).await.unwrap();
    store.finish(&empty, EPOCH, None, 0).await.unwrap();
    let part = |key: &BlobKey, size_bytes| BlobPart { key: key.clone(), size_bytes };
    let parts = [part(&empty, 0), part(&finished, 4096), part(&open, MIB), part(&finished, 4096), part(&finished, 3)];

    let token = store.concatenate(&parts, &key(), EPOCH).await.unwrap();
    let size = 4096 + MIB + 4096 + 3;
    let joined: Vec<u8> = [bytes(0..4096), bytes(0..MIB), bytes(0..4096), bytes(0..3)].concat();
    if store.abilities().reads_open {
        assert_bytes(&read(&store, &key(), 0..size).await, &joined);
    }
    store.finish(&key(), EPOCH, Some(&token), size).await.unwrap();
    assert_bytes(&read(&store, &key(), 0..size).await, &joined);
    assert_bytes(&read(&store, &open, 0..MIB + 10).await, &bytes(0..MIB + 10));
    assert_bytes(&read(&store, &finished, 0..4096).await, &bytes(0..4096));

    let nothing = named("parts/nothing");
    let token = store.concatenate(&[], &nothing, EPOCH).await.unwrap();
    store.finish(&nothing, EPOCH, Some(&token), 0).await.unwrap();
}

async fn joining_again_starts_over(store: Store) {
    let (one, two) = (named("parts/one"), named("parts/two"));
    write_readable(&store, &one, 5000).await;
    write_readable(&store, &two, 3000).await;
    let part = |key: &BlobKey, size_bytes| BlobPart { key: key.clone(), size_bytes };
    store.concatenate(&[part(&one, 5000), part(&two, 3000)], &key(), EPOCH).await.unwrap();
    let token = store.concatenate(&[part(&two, 3000)], &key(), EPOCH).await.unwrap();
    assert_ends_at(&store, 3000).await;
    // The joined blob is an open blob like any other.
    let mut writer = store.open(&key(), EPOCH, Some(&token), None).await.unwrap();
    writer.write(3000, bytes(3000..3001)).await.unwrap();
    let token = sync(&mut *writer, 3001).await;
    writer.close().await;
    assert_open(&store, 0..3001).await;
    assert_finishes(&store, &token, 3001).await;
}

async fn a_part_must_be_whole(store: Store) {
    let (there, gone) = (named("parts/there"), named("parts/gone"));
    write_readable(&store, &there, 100).await;
    let part = |key: &BlobKey, size_bytes| BlobPart { key: key.clone(), size_bytes };
    let error = store.concatenate(&[part(&there, 100), part(&gone, 1)], &key(), EPOCH).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error:?}");
    let error = store.concatenate(&[part(&there, 100), part(&there, 101)], &key(), EPOCH).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Incomplete, "{error:?}");
    assert_eq!(missing(&store, &key()).await, ErrorKind::NotFound, "nothing half-made is left");
    assert!(store.concatenate(&[part(&there, 100)], &there, EPOCH).await.is_err(), "a blob cannot be a part of itself");
    assert!(
        store.concatenate(&[part(&gone, 0), part(&there, 100)], &key(), EPOCH).await.is_ok(),
        "no bytes need no blob"
    );
    assert_bytes(&read(&store, &there, 0..100).await, &bytes(0..100));
}

async fn any_range_can_be_read(store: Store) {
    let size = 600 * KIB + 1;
    let token = write_blob(&store, &key(), size).await;
    let border = 256 * KIB;
    let reads_open = store.abilities().reads_open;
    let ranges = [
        0..0,
        size..size,
        0..1,
        size - 1..size,
        border - 1..border + 1,
        border..2 * border,
        1..border + 1,
        1..size,
        0..size,
    ];
    for range in ranges.clone().into_iter().filter(|_| reads_open) {
        assert_bytes(&read(&store, &key(), range.clone()).await, &bytes(range.clone()));
    }
    store.finish(&key(), EPOCH, Some(&token), size).await.unwrap();
    for range in ranges {
        assert_bytes(&read(&store, &key(), range.clone()).await, &bytes(range.clone()));
    }
}

async fn reading_beyond_the_end_is_an_error(store: Store) {
    let token = write_blob(&store, &key(), 1000).await;
    for range in [0..1001, 1000..1001, 5000..6000] {
        assert!(try_read(&store, &key(), range.clone()).await.is_err(), "{range:?} while open");
    }
    store.finish(&key(), EPOCH, Some(&token), 1000).await.unwrap();
    assert!(try_read(&store, &key(), 999..1001).await.is_err());
}

async fn a_reader_outlives_the_blob(store: Store) {
    let size = 3 * MIB;
    let token = write_blob(&store, &key(), size).await;
    if !store.abilities().reads_open {
        store.seal(&key(), EPOCH, Some(&token), size).await.unwrap();
    }
    let while_open = store.read(&key(), 0..size).await.unwrap();
    store.finish(&key(), EPOCH, Some(&token), size).await.unwrap();
    let mut when_finished = store.read(&key(), 0..size).await.unwrap();
    let first = when_finished.try_next().await.unwrap().unwrap();
    store.discard(&key(), EPOCH, Some(&token)).await.unwrap();
    let rest: Vec<Bytes> = when_finished.try_collect().await.unwrap();
    assert_bytes(&[first].into_iter().chain(rest).collect::<Vec<_>>().concat(), &bytes(0..size));
    let all: Vec<Bytes> = while_open.try_collect().await.unwrap();
    assert_bytes(&all.concat(), &bytes(0..size));
}

async fn a_healthy_store_says_so(store: Store) {
    for _ in 0..2 {
        store.check().await.unwrap();
        let (available, capacity) = (store.available(None).await.unwrap(), store.capacity().unwrap());
        let knows_free_space = store.abilities().knows_free_space;
        assert_eq!((available.is_some(), capacity.is_some()), (knows_free_space, knows_free_space));
        assert!(available.is_none_or(|bytes| bytes > 0));
        assert!(capacity.is_none_or(|capacity| (1..=capacity.size_bytes).contains(&capacity.free_bytes)));
    }
}

/// Returns the bytes that the suite writes to this range of a blob.
pub fn bytes(range: Range<u64>) -> Bytes {
    let place = range.start;
    let bytes: Vec<u8> = range.map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) % 251).unwrap()).collect();
    laid_out(place, &bytes)
}

/// Returns a chunk that is aligned in memory as it will be in the file, like those from a pool.
pub fn laid_out(place: u64, bytes: &[u8]) -> Bytes {
    let mut memory = vec![0; bytes.len() + 2 * BLOCK_BYTES];
    let lead = usize::try_from(place % BLOCK_BYTES as u64).unwrap();
    let start = memory.as_ptr().align_offset(BLOCK_BYTES) + lead;
    memory[start..start + bytes.len()].copy_from_slice(bytes);
    Bytes::from(memory).slice(start..start + bytes.len())
}

/// Writes a blob of this size durably, and leaves it open.
pub async fn write_blob(store: &Store, key: &BlobKey, size: u64) -> Resume {
    let mut writer = store.open(key, EPOCH, None, Some(size)).await.unwrap();
    writer.write(0, bytes(0..size)).await.unwrap();
    let token = sync(&mut *writer, size).await;
    writer.close().await;
    token
}

/// Writes a blob of this size durably, and seals it if the store reads only sealed blobs.
async fn write_readable(store: &Store, key: &BlobKey, size: u64) {
    let token = write_blob(store, key, size).await;
    if !store.abilities().reads_open {
        store.seal(key, EPOCH, Some(&token), size).await.unwrap();
    }
}

/// Reads a range of a blob.
pub async fn read(store: &Store, key: &BlobKey, range: Range<u64>) -> Bytes {
    try_read(store, key, range).await.unwrap()
}

async fn try_read(store: &Store, key: &BlobKey, range: Range<u64>) -> crate::Result<Bytes> {
    let chunks: Vec<Bytes> = store.read(key, range).await?.try_collect().await?;
    assert!(chunks.iter().all(|chunk| !chunk.is_empty()), "a stream has no empty items");
    Ok(chunks.concat().into())
}

/// Compares without printing megabytes.
#[track_caller]
pub fn assert_bytes(found: &[u8], expected: &[u8]) {
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!((found.len(), differs), (expected.len(), None), "the lengths, and where the bytes differ first");
}

async fn sync(writer: &mut dyn BlobWriter, end: u64) -> Resume {
    writer.checkpoint(end).await.unwrap().await.unwrap()
}

/// Compares the readable bytes of the open blob.
async fn assert_open(store: &Store, range: Range<u64>) {
    if store.abilities().reads_open {
        assert_bytes(&read(store, &key(), range.clone()).await, &bytes(range));
    }
}

/// Finishes the blob, and checks that it has exactly these bytes.
async fn assert_finishes(store: &Store, token: &Resume, size: u64) {
    store.finish(&key(), EPOCH, Some(token), size).await.unwrap();
    assert_bytes(&read(store, &key(), 0..size).await, &bytes(0..size));
    assert_ends_at(store, size).await;
}

async fn assert_ends_at(store: &Store, end: u64) {
    let is_hidden = async || try_read(store, &key(), 0..0).await.is_err_and(|error| error.kind == ErrorKind::Unsealed);
    if !store.abilities().reads_open && is_hidden().await {
        return;
    }
    assert!(try_read(store, &key(), 0..end).await.is_ok());
    assert!(try_read(store, &key(), 0..end + 1).await.is_err());
}

async fn missing(store: &Store, key: &BlobKey) -> ErrorKind {
    match store.read(key, 0..1).await {
        Ok(_) => panic!("{key} is there"),
        Err(error) => error.kind,
    }
}

fn key() -> BlobKey {
    named("2026/11/21/0193-conformance")
}

fn named(name: &str) -> BlobKey {
    BlobKey::new(name).unwrap()
}
