//! Bytes in any order, in parallel, cut anywhere: the engine alone. The dialect on top is tested in
//! `ranged/`.

use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::principal::Principal;
use domain::rejection::Rejection;
use domain::size::Length;
use domain::stage::Ended;
use domain::upload::{Role, Upload};
use engine::command::{Append, BodyEnd, CompletesUpload, Create, EngineError, Unavailable, WritePosition};
use engine::feed::Feed;
use engine::{EngineSettings, RangeSettings};
use storage::faults::{Calls, Cause, Effect, Operation};

use crate::support::patience::until;
use crate::support::seeded::Seeded;
use crate::support::world::{Life, Medium, Trouble, World, cancelling, feed_all, new_upload_of, offset};

const KIB: usize = 1024;

async fn create(life: &Life, length: usize) -> UploadId {
    let command = new_upload_of(Dialect::named("ranged"), Role::Single, length);
    life.engine.create(command).await.unwrap().id()
}

fn range(id: UploadId, start: usize, count: usize) -> Append {
    Append {
        dialect: Dialect::named("ranged"),
        position: WritePosition::Anywhere(offset(start)),
        ..Append::at(Principal::server(), id, offset(start), Some(count as u64))
    }
}

fn checked(id: UploadId, start: usize, count: usize, promised: &[u8]) -> Append {
    Append { checksum: Some(digest(Algorithm::Crc32c, promised)), ..range(id, start, count) }
}

fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    assert_eq!(algorithm, Algorithm::Crc32c);
    Digest::new(algorithm, crc32c::crc32c(bytes).to_be_bytes().to_vec()).unwrap()
}

async fn send(life: &Life, command: Append, bytes: &[u8]) -> Result<Upload, EngineError> {
    let mut feed = life.engine.append(command).await?;
    feed_all(&mut feed, bytes).await;
    feed.finish(BodyEnd::Complete).await
}

async fn put(life: &Life, id: UploadId, start: usize, bytes: &[u8]) -> Result<Upload, EngineError> {
    send(life, range(id, start, bytes.len()), bytes).await
}

/// Sends some of a range and disconnects.
async fn cut(life: &Life, command: Append, bytes: &[u8]) {
    let Ok(mut feed) = life.engine.append(command).await else { return };
    feed_all(&mut feed, bytes).await;
}

fn rejected(outcome: Result<Upload, EngineError>) -> Rejection {
    match outcome {
        Err(EngineError::Rejected(rejection)) => rejection,
        other => panic!("{other:?}"),
    }
}

async fn pairs(life: &Life, id: UploadId) -> Vec<(u64, u64)> {
    life.find(id).await.record().received.pairs().to_vec()
}

/// Sends the missing bytes, as a client that knows only the URL does, and checks everything about the result.
async fn completes(life: &Life, id: UploadId, source: &[u8]) {
    life.at_rest(id).await;
    for (start, end) in life.find(id).await.record().received.missing(source.len() as u64) {
        let (start, end) = (usize::try_from(start).unwrap(), usize::try_from(end).unwrap());
        put(life, id, start, &source[start..end]).await.unwrap();
    }
    is_complete(life, id, source).await;
}

async fn is_complete(life: &Life, id: UploadId, source: &[u8]) {
    let upload = life.find(id).await;
    assert_eq!(upload.stage().name(), "completed");
    assert!(life.read(id).await == source, "the bytes are the source's");
    assert_eq!(upload.record().digests, [digest(Algorithm::Crc32c, source)]);
    assert_eq!(life.events(id).await, ["created", "receiving", "received", "verified", "stored", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_from_many_requests_at_once_make_one_file() {
    for medium in Medium::both() {
        let world = World::on(medium);
        let life = world.live().await;
        let source = Seeded::new(1).bytes(3 << 20);
        let id = create(&life, source.len()).await;
        let mut order: Vec<usize> = (0..source.len()).step_by(100_000).collect();
        let mut random = Seeded::new(2);
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last + 1));
        }
        // Six at a time, each with its share of the ranges.
        let shares: Vec<Vec<usize>> =
            (0..6).map(|share| order.iter().copied().skip(share).step_by(6).collect()).collect();
        let sending = shares.into_iter().map(async |starts| {
            for start in starts {
                let end = (start + 100_000).min(source.len());
                put(&life, id, start, &source[start..end]).await.unwrap();
            }
        });
        futures::future::join_all(sending).await;
        is_complete(&life, id, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_there_are_taken_again_only_if_they_are_the_same() {
    for medium in Medium::both() {
        let world = World::on(medium);
        let life = world.live().await;
        let source = Seeded::new(3).bytes(200 * KIB);
        let id = create(&life, source.len()).await;
        put(&life, id, 50 * KIB, &source[50 * KIB..100 * KIB]).await.unwrap();
        // The same range, a larger one, a smaller one.
        for (start, end) in [(50, 100), (40, 110), (60, 90)] {
            put(&life, id, start * KIB, &source[start * KIB..end * KIB]).await.unwrap();
        }
        assert_eq!(pairs(&life, id).await, [(40 * 1024, 110 * 1024)]);
        let mut other = source[30 * KIB..120 * KIB].to_vec();
        other[70 * KIB] ^= 1;
        let outcome = put(&life, id, 30 * KIB, &other).await;
        assert_eq!(rejected(outcome), Rejection::DifferentBytes { at: 100 * 1024 });
        life.at_rest(id).await;
        // The bytes before the difference were accepted; nothing after it was.
        assert_eq!(pairs(&life, id).await, [(30 * 1024, 110 * 1024)]);
        completes(&life, id, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_with_a_checksum_counts_all_at_once_or_not_at_all() {
    for medium in Medium::both() {
        let world = World::on(medium);
        let life = world.live().await;
        let source = Seeded::new(4).bytes(200 * KIB);
        let id = create(&life, source.len()).await;
        let part = &source[50 * KIB..150 * KIB];
        // A different checksum, and a cut.
        let outcome = send(&life, checked(id, 50 * KIB, part.len(), b"other"), part).await;
        assert_eq!(rejected(outcome), Rejection::ChecksumMismatch(Algorithm::Crc32c));
        cut(&life, checked(id, 50 * KIB, part.len(), part), &part[..part.len() - 1]).await;
        life.at_rest(id).await;
        assert_eq!(pairs(&life, id).await, []);
        // Half of it is stored when the rest arrives.
        put(&life, id, 100 * KIB, &source[100 * KIB..120 * KIB]).await.unwrap();
        send(&life, checked(id, 50 * KIB, part.len(), part), part).await.unwrap();
        assert_eq!(pairs(&life, id).await, [(50 * 1024, 150 * 1024)]);
        completes(&life, id, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_with_a_checksum_win_over_bytes_without() {
    for medium in Medium::both() {
        let world = World::on(medium);
        let life = world.live().await;
        let source = Seeded::new(5).bytes(200 * KIB);
        let id = create(&life, source.len()).await;
        let wrong = Seeded::new(6).bytes(60 * KIB);
        put(&life, id, 40 * KIB, &wrong).await.unwrap();
        let part = &source[20 * KIB..180 * KIB];
        // A checksum that does not match replaces nothing.
        let outcome = send(&life, checked(id, 20 * KIB, part.len(), b"other"), part).await;
        assert_eq!(rejected(outcome), Rejection::ChecksumMismatch(Algorithm::Crc32c));
        put(&life, id, 40 * KIB, &wrong).await.unwrap();
        send(&life, checked(id, 20 * KIB, part.len(), part), part).await.unwrap();
        assert_eq!(pairs(&life, id).await, [(20 * 1024, 180 * 1024)]);
        // Now the other bytes are the ones that differ.
        let outcome = put(&life, id, 40 * KIB, &wrong).await;
        assert_eq!(rejected(outcome), Rejection::DifferentBytes { at: 40 * 1024 });
        completes(&life, id, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_with_a_checksum_win_also_while_the_last_ones_arrive() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(7).bytes(64 * KIB);
    let id = create(&life, source.len()).await;
    put(&life, id, 0, &vec![0; 32 * KIB]).await.unwrap();
    let mut winning = life.engine.append(checked(id, 0, 32 * KIB, &source[..32 * KIB])).await.unwrap();
    feed_all(&mut winning, &source[..16 * KIB]).await;
    // With this range every byte is stored, and one request is not verified yet.
    let last = put(&life, id, 32 * KIB, &source[32 * KIB..]);
    let winning = async {
        feed_all(&mut winning, &source[16 * KIB..32 * KIB]).await;
        winning.finish(BodyEnd::Complete).await
    };
    let (last, winning) = tokio::join!(last, winning);
    for outcome in [last, winning] {
        assert_eq!(outcome.unwrap().stage().name(), "completed");
    }
    is_complete(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_wait_for_their_checksum_are_not_written_over_unseen() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(16).bytes(128 * KIB);
    let id = create(&life, source.len()).await;
    // A range without an end runs into the bytes of one whose checksum has not been verified yet.
    let mut endless = life.engine.append(Append { count: None, ..range(id, 0, 0) }).await.unwrap();
    let part = &source[32 * KIB..96 * KIB];
    let mut waiting = life.engine.append(checked(id, 32 * KIB, part.len(), part)).await.unwrap();
    feed_all(&mut waiting, &part[..48 * KIB]).await;
    until("it is written", async || (life.faults.calls(Operation::Write) > 0).then_some(())).await;
    feed_all(&mut endless, &vec![0; 64 * KIB]).await;
    until("it is taken", async || (life.engine.received_bytes(id).await >= Some(64 * 1024)).then_some(())).await;
    feed_all(&mut waiting, &part[48 * KIB..]).await;
    let ended = waiting.finish(BodyEnd::Complete).await;
    assert!(matches!(ended, Err(EngineError::Unavailable(Unavailable::Superseded))), "{ended:?}");
    drop(endless);
    life.at_rest(id).await;
    send(&life, checked(id, 0, source.len(), &source), &source).await.unwrap();
    is_complete(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_is_not_replaced_than_the_limit_says() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.ranges.max_replaced_bytes = 32 * KIB as u64).await;
    let source = Seeded::new(8).bytes(100 * KIB);
    let id = create(&life, source.len()).await;
    put(&life, id, 0, &vec![0; 64 * KIB]).await.unwrap();
    let outcome = send(&life, checked(id, 0, source.len(), &source), &source).await;
    assert_eq!(rejected(outcome), Rejection::TooMuchToReplace(32 * 1024));
    for start in [0, 32] {
        let part = &source[start * KIB..(start + 32) * KIB];
        send(&life, checked(id, start * KIB, part.len(), part), part).await.unwrap();
    }
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_request_for_the_same_places_ends_the_older() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(9).bytes(300 * KIB);
    let id = create(&life, source.len()).await;
    let beside = life.engine.append(range(id, 200 * KIB, 100 * KIB)).await.unwrap();
    let mut older = life.engine.append(range(id, 0, 200 * KIB)).await.unwrap();
    feed_all(&mut older, &source[..64 * KIB]).await;
    let newer = put(&life, id, 0, &source[..200 * KIB]).await;
    assert_eq!(newer.unwrap().offset(), offset(200 * KIB));
    let ended = older.finish(BodyEnd::Complete).await;
    assert!(matches!(ended, Err(EngineError::Unavailable(Unavailable::Superseded))), "{ended:?}");
    let mut beside = beside;
    feed_all(&mut beside, &source[200 * KIB..]).await;
    assert_eq!(beside.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed", "it was not disturbed");
    is_complete(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_order_is_refused_and_changes_nothing() {
    let world = World::on_disk();
    let narrow = |settings: &mut EngineSettings| {
        settings.ranges =
            RangeSettings { alignment_bytes: 4096, max_ranges: 3, max_parallel: 2, max_replaced_bytes: 0 };
    };
    let life = world.live_with(narrow).await;
    let id = create(&life, 100_000).await;
    let refused = async |start, count| rejected(send(&life, range(id, start, count), &[]).await);
    let misaligned = Rejection::Misaligned { alignment: 4096 };
    assert_eq!(refused(1, 4095).await, misaligned);
    assert_eq!(refused(0, 4095).await, misaligned);
    assert_eq!(refused(4096, 95_903).await, misaligned);
    let length = Length::new(100_000).unwrap();
    assert_eq!(refused(98_304, 4096).await, Rejection::BeyondLength(length));
    assert_eq!(refused(204_800, 1).await, Rejection::BeyondLength(length));
    // The end of the upload is a boundary, and so are the ends of the stored ranges.
    put(&life, id, 98_304, &[1; 1_696]).await.unwrap();
    cut(&life, range(id, 0, 8192), &[2; 1000]).await;
    life.at_rest(id).await;
    // A client that requested the ranges before the last commit continues at an offset inside a stored range.
    put(&life, id, 500, &[&[2; 500][..], &[3; 3096]].concat()).await.unwrap();
    put(&life, id, 40_960, &[4; 4096]).await.unwrap();
    assert_eq!(pairs(&life, id).await, [(0, 4096), (40_960, 45_056), (98_304, 100_000)]);
    assert_eq!(refused(61_440, 4096).await, Rejection::TooManyRanges(3));
    put(&life, id, 45_056, &[5; 4096]).await.unwrap();
    // The body is longer than announced: the bytes that fit the range are accepted.
    let outcome = send(&life, range(id, 4096, 4096), &[6; 5000]).await;
    assert_eq!(rejected(outcome), Rejection::BeyondRange { end: 8192 });
    life.at_rest(id).await;
    let other = Append { dialect: Dialect::named("tus"), ..range(id, 8192, 4096) };
    assert_eq!(rejected(send(&life, other, &[]).await), Rejection::OtherDialect(Dialect::named("ranged")));
    let other_length = Append { length: Length::new(99_999), ..range(id, 8192, 4096) };
    assert!(matches!(rejected(send(&life, other_length, &[]).await), Rejection::LengthChanged { .. }));
    let _first = life.engine.append(range(id, 8192, 4096)).await.unwrap();
    let _second = life.engine.append(range(id, 49_152, 4096)).await.unwrap();
    let third = life.engine.append(range(id, 94_208, 4096)).await;
    assert!(matches!(third, Err(EngineError::Unavailable(Unavailable::Busy))));
    assert_eq!(pairs(&life, id).await, [(0, 8192), (40_960, 49_152), (98_304, 100_000)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_may_come_at_the_end() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(10).bytes(90_000);
    let command = Create { length: None, ..new_upload_of(Dialect::named("ranged"), Role::Single, 0) };
    let id = life.engine.create(command).await.unwrap().id();
    put(&life, id, 50_000, &source[50_000..]).await.unwrap();
    put(&life, id, 0, &source[..50_000]).await.unwrap();
    let too_short = Append { length: Length::new(80_000), ..range(id, 0, 0) };
    assert!(matches!(rejected(send(&life, too_short, &[]).await), Rejection::LengthBelowOffset { .. }));
    let last = Append { length: Length::new(90_000), ..range(id, 0, 0) };
    assert_eq!(send(&life, last, &[]).await.unwrap().stage().name(), "completed");
    is_complete(&life, id, &source).await;

    // Or with a request that declares itself complete.
    let command = Create { length: None, ..new_upload_of(Dialect::named("ranged"), Role::Single, 0) };
    let id = life.engine.create(command).await.unwrap().id();
    let all = Append { ends: CompletesUpload::Here, count: None, ..range(id, 0, 0) };
    assert_eq!(send(&life, all, &source).await.unwrap().stage().name(), "completed");
    is_complete(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_comes_while_a_commit_is_on_its_way_is_kept() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(17).bytes(50_000);
    let command = Create { length: None, ..new_upload_of(Dialect::named("ranged"), Role::Single, 0) };
    let id = life.engine.create(command).await.unwrap().id();
    let mut open = life.engine.append(range(id, 40_000, 10_000)).await.unwrap();
    life.records.hold(Effect::Nothing);
    let first = put(&life, id, 0, &source[..20_000]);
    let second = async {
        life.records.reached().await;
        let telling = Append { length: Length::new(50_000), ..range(id, 20_000, 20_000) };
        let telling = tokio::spawn({
            let engine = life.engine.clone();
            async move { engine.append(telling).await }
        });
        // The request may be answered before the commit is done, or after.
        tokio::task::yield_now().await;
        life.records.release();
        let mut feed = telling.await.unwrap().unwrap();
        feed_all(&mut feed, &source[20_000..40_000]).await;
        feed.finish(BodyEnd::Complete).await
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    second.unwrap();
    feed_all(&mut open, &source[40_000..]).await;
    assert_eq!(open.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    is_complete(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_that_need_the_bytes_in_order_are_computed_in_the_end() {
    for right in [true, false] {
        let world = World::on_disk();
        let life = world.live().await;
        let source = Seeded::new(11).bytes(100_000);
        let promised: Vec<u8> =
            sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(&source)).to_vec();
        let promised = if right { promised } else { vec![7; 32] };
        let promised = Digest::new(Algorithm::Sha256, promised).unwrap();
        let command = Create {
            promised_digests: vec![promised.clone()],
            ..new_upload_of(Dialect::named("ranged"), Role::Single, source.len())
        };
        let id = life.engine.create(command).await.unwrap().id();
        put(&life, id, 60_000, &source[60_000..]).await.unwrap();
        let last = put(&life, id, 0, &source[..60_000]).await;
        if right {
            assert_eq!(last.unwrap().record().digests, [digest(Algorithm::Crc32c, &source), promised]);
            assert!(life.read(id).await == source);
        } else {
            assert_eq!(rejected(last), Rejection::BrokenPromise(Algorithm::Sha256));
            assert!(world.files().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_request_learns_that_all_is_there() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = create(&life, 1000).await;
    put(&life, id, 0, &[1; 1000]).await.unwrap();
    assert_eq!(put(&life, id, 0, &[1; 10]).await.unwrap().stage().name(), "completed");
    assert_eq!(rejected(put(&life, id, 500, &[2; 10]).await), Rejection::DifferentBytes { at: 500 });
    let beyond = put(&life, id, 995, &[1; 10]).await;
    assert_eq!(rejected(beyond), Rejection::BeyondLength(Length::new(1000).unwrap()));
    let asking = send(&life, Append { length: Length::new(1000), ..range(id, 0, 0) }, &[]).await;
    assert_eq!(asking.unwrap().stage().name(), "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_ended_ends_its_requests() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = create(&life, 1000).await;
    let mut feeds = Vec::new();
    for start in [0, 300, 600] {
        let mut feed = life.engine.append(range(id, start, 300)).await.unwrap();
        feed_all(&mut feed, &[1; 100]).await;
        feeds.push(feed);
    }
    life.engine.cancel(cancelling(id)).await.unwrap();
    for feed in feeds {
        let ended = feed.finish(BodyEnd::Complete).await;
        let gone = Rejection::Gone(Ended::Terminated);
        assert!(matches!(&ended, Err(EngineError::Rejected(why)) if *why == gone), "{ended:?}");
    }
    assert!(world.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_not_committed_is_a_takeover_to_every_range() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = create(&life, 900).await;
    let mut feeds: Vec<Feed> = Vec::new();
    for start in [0, 300] {
        feeds.push(life.engine.append(range(id, start, 300)).await.unwrap());
    }
    life.records.fail_next(Effect::Nothing, Trouble::Broken);
    life.engine.cancel(cancelling(id)).await.expect_err("it could not be committed");
    for feed in feeds {
        let ended = feed.finish(BodyEnd::Complete).await;
        assert!(matches!(ended, Err(EngineError::Unavailable(Unavailable::Superseded))), "{ended:?}");
    }
    put(&life, id, 0, &[1; 900]).await.expect("the upload lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_keeps_what_arrived_of_every_range() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(12).bytes(90_000);
    let id = create(&life, source.len()).await;
    let mut feeds: Vec<Feed> = Vec::new();
    for start in [0, 30_000, 60_000] {
        let mut feed = life.engine.append(range(id, start, 30_000)).await.unwrap();
        feed_all(&mut feed, &source[start..start + 10_000]).await;
        feeds.push(feed);
    }
    until("the bytes are taken", async || (life.engine.received_bytes(id).await == Some(30_000)).then_some(())).await;
    assert!(life.engine.shut_down(std::time::Duration::from_secs(10)).await);
    for feed in feeds {
        let ended = feed.finish(BodyEnd::Complete).await;
        assert!(matches!(ended, Err(EngineError::Unavailable(Unavailable::ShuttingDown))), "{ended:?}");
    }
    life.die();
    let life = world.live().await;
    assert_eq!(pairs(&life, id).await, [(0, 10_000), (30_000, 40_000), (60_000, 70_000)]);
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_committed_ranges_stand() {
    for (operation, cause) in [
        (Operation::Open, Cause::BROKEN_DISK),
        (Operation::Write, Cause::NO_SPACE),
        (Operation::Checkpoint, Cause::BROKEN_DISK),
        (Operation::Sync, Cause::BROKEN_DISK),
    ] {
        for medium in Medium::both() {
            let world = World::on(medium);
            let life = world.live().await;
            let source = Seeded::new(13).bytes(300 * KIB);
            let id = create(&life, source.len()).await;
            put(&life, id, 100 * KIB, &source[100 * KIB..200 * KIB]).await.unwrap();
            life.at_rest(id).await;
            life.faults.fail(operation, Calls::Nth(life.faults.calls(operation) + 1), cause);
            // Both requests report the failure: the second one while it is being sent, or because it arrived
            // after the first one had failed.
            let (first, second) = tokio::join!(
                put(&life, id, 0, &source[..50 * KIB]),
                put(&life, id, 200 * KIB, &source[200 * KIB..250 * KIB]),
            );
            assert!(first.is_err() || second.is_err(), "{operation:?}");
            life.at_rest(id).await;
            let found = life.find(id).await;
            assert!(
                found.record().received.pairs().iter().any(|(start, end)| *start <= 100 * 1024 && *end >= 200 * 1024)
            );
            completes(&life, id, &source).await;
        }
    }
    for trouble in [Trouble::Conflict, Trouble::NoSpace, Trouble::Broken] {
        for effect in [Effect::Nothing, Effect::Done] {
            let world = World::on_disk();
            let life = world.live().await;
            let source = Seeded::new(14).bytes(300 * KIB);
            let id = create(&life, source.len()).await;
            put(&life, id, 100 * KIB, &source[100 * KIB..200 * KIB]).await.unwrap();
            life.at_rest(id).await;
            life.records.fail_next(effect, trouble);
            put(&life, id, 250 * KIB, &source[250 * KIB..]).await.expect_err("the commit failed");
            completes(&life, id, &source).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_while_bytes_are_replaced_leaves_a_digest_of_what_is_there() {
    for operation in [Operation::Write, Operation::Sync] {
        let world = World::on_disk();
        let life = world.live().await;
        let source = Seeded::new(15).bytes(100 * KIB);
        let id = create(&life, source.len()).await;
        put(&life, id, 0, &vec![0; 64 * KIB]).await.unwrap();
        life.at_rest(id).await;
        let hold = life.faults.hold(operation);
        let replacing = checked(id, 0, 64 * KIB, &source[..64 * KIB]);
        tokio::select! {
            outcome = send(&life, replacing, &source[..64 * KIB]) => panic!("{operation:?} was passed: {outcome:?}"),
            () = hold.reached() => {}
        }
        life.die();
        let life = world.live().await;
        put(&life, id, 64 * KIB, &source[64 * KIB..]).await.unwrap();
        let upload = life.find(id).await;
        assert_eq!(upload.stage().name(), "completed");
        let bytes = life.read(id).await;
        assert_eq!(upload.record().digests, [digest(Algorithm::Crc32c, &bytes)], "{operation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_range_finds_the_upload_open() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.writer.keep_open = std::time::Duration::from_secs(60)).await;
    let source = Seeded::new(18).bytes(90_000);
    let id = create(&life, source.len()).await;
    for start in [60_000, 0] {
        put(&life, id, start, &source[start..start + 30_000]).await.unwrap();
        assert!(life.engine.is_live(id).await, "it is kept");
        assert_eq!(life.engine.inspect(&Principal::server(), id).await.unwrap().upload.received_bytes() % 30_000, 0);
    }
    put(&life, id, 30_000, &source[30_000..60_000]).await.unwrap();
    assert_eq!(life.faults.calls(Operation::Open), 1);
    is_complete(&life, id, &source).await;
}

/// Concurrent requests of every kind, cut anywhere, and the program killed from time to time: every range is
/// answered, and in the end the file equals the source.
#[tokio::test(flavor = "multi_thread")]
async fn any_mixture_of_ranges_and_breaks_gives_the_right_bytes() {
    for seed in 0..24 {
        let medium = if seed % 2 == 0 { Medium::Disk } else { Medium::both()[0].clone() };
        let world = World::on(medium);
        let mut random = Seeded::new(1_000 + seed);
        let source = random.bytes(20 * KIB + random.clone().below(300 * KIB));
        // Other tests may keep the disk busy.
        let patient = |settings: &mut EngineSettings| {
            settings.takeover_timeout = std::time::Duration::from_secs(60);
            settings.cross_dialects = true;
        };
        let mut life = world.live_with(patient).await;
        let id = create(&life, source.len()).await;
        let mut promised: Vec<(u64, u64)> = Vec::new();
        for _ in 0..6 {
            let requests: Vec<(usize, usize, usize)> = (0..6)
                .map(|_| {
                    let start = random.below(source.len());
                    let end = start + 1 + random.below((source.len() - start).min(80 * KIB));
                    (start, end, random.below(7))
                })
                .collect();
            let sending = requests.iter().map(async |(start, end, kind)| {
                let part = &source[*start..*end];
                let outcome = match kind {
                    0 => {
                        cut(&life, range(id, *start, part.len()), &part[..part.len() / 2]).await;
                        return None;
                    }
                    1 => {
                        cut(&life, checked(id, *start, part.len(), part), &part[..part.len() / 2]).await;
                        return None;
                    }
                    2 => {
                        // The declared bytes differ from those that are sent.
                        let mut wrong = part.to_vec();
                        wrong[part.len() / 2] ^= 1;
                        let outcome = send(&life, checked(id, *start, part.len(), part), &wrong).await;
                        assert!(!matches!(&outcome, Ok(upload) if upload.stage().takes_bytes()), "seed {seed}");
                        return None;
                    }
                    3 => send(&life, checked(id, *start, part.len(), part), part).await,
                    4 => {
                        // Another dialect continues where the upload has no gap before.
                        let at = life.committed(id).await;
                        let end = source.len().min(at + 30 * KIB);
                        match life.append(id, at, &source[at..end]).await {
                            Ok(_) => return Some((at as u64, end as u64)),
                            Err(EngineError::Rejected(Rejection::WrongOffset { .. })) => return None,
                            outcome => outcome,
                        }
                    }
                    _ => put(&life, id, *start, part).await,
                };
                match outcome {
                    Ok(_) => Some((*start as u64, *end as u64)),
                    Err(EngineError::Unavailable(_)) => None,
                    Err(EngineError::Rejected(Rejection::AlreadyComplete(_))) => None,
                    Err(error) => panic!("seed {seed}: {error:?}"),
                }
            });
            promised.extend(futures::future::join_all(sending).await.into_iter().flatten());
            let received = life.find(id).await.record().received.clone();
            for (start, end) in &promised {
                assert!(received.spans(*start, *end).iter().all(|stretch| stretch.there), "seed {seed}: taken back");
            }
            if random.below(3) == 0 {
                life.die();
                life = world.live_with(patient).await;
                life.engine.recover().await;
            }
        }
        completes(&life, id, &source).await;
    }
}

async fn create_endless(life: &Life) -> UploadId {
    let command = Create { length: None, ..new_upload_of(Dialect::named("ranged"), Role::Single, 0) };
    life.engine.create(command).await.unwrap().id()
}

/// Waits until this many bytes of an upload are received, committed or not.
async fn taken(life: &Life, id: UploadId, bytes: usize) {
    until(&format!("{bytes} bytes are taken"), async || {
        (life.engine.received_bytes(id).await == Some(bytes as u64)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_ends_every_request_that_stood_on_it() {
    for trouble in [Trouble::Conflict, Trouble::NoSpace, Trouble::Broken] {
        for medium in Medium::both() {
            let world = World::on(medium);
            let life = world.live().await;
            let source = Seeded::new(31).bytes(60_000);
            let id = create_endless(&life).await;
            life.records.hold(Effect::Nothing);
            life.records.fail_next(Effect::Nothing, trouble);
            let first = put(&life, id, 0, &source[..30_000]);
            let second = async {
                life.records.reached().await;
                // The second request joins, and declares the length of the upload, while the first one's
                // commit is on its way.
                let telling = Append { length: Length::new(60_000), ..range(id, 30_000, 30_000) };
                let mut feed = life.engine.append(telling).await.unwrap();
                feed_all(&mut feed, &source[30_000..]).await;
                life.records.release();
                feed.finish(BodyEnd::Complete).await
            };
            let (first, second) = tokio::join!(first, second);
            assert!(first.is_err() && second.is_err(), "{trouble:?}: {first:?} {second:?}");
            life.at_rest(id).await;
            assert_eq!(pairs(&life, id).await, [], "{trouble:?}");
            let again = Append { length: Length::new(60_000), ..range(id, 30_000, 30_000) };
            let upload = send(&life, again, &source[30_000..]).await.unwrap();
            assert_eq!((upload.stage().name(), upload.received_bytes()), ("receiving", 30_000));
            completes(&life, id, &source).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_before_bytes_are_replaced_ends_every_request() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(32).bytes(96 * KIB);
    let id = create(&life, source.len()).await;
    put(&life, id, 0, &vec![0; 32 * KIB]).await.unwrap();
    life.records.hold(Effect::Nothing);
    life.records.fail_next(Effect::Nothing, Trouble::Broken);
    let first = put(&life, id, 32 * KIB, &source[32 * KIB..64 * KIB]);
    let replacing = async {
        life.records.reached().await;
        let mut feed = life.engine.append(checked(id, 0, 32 * KIB, &source[..32 * KIB])).await.unwrap();
        feed_all(&mut feed, &source[..32 * KIB]).await;
        life.records.release();
        feed.finish(BodyEnd::Complete).await
    };
    let (first, replacing) = tokio::join!(first, replacing);
    assert!(first.is_err(), "{first:?}");
    life.at_rest(id).await;
    if replacing.is_err() {
        send(&life, checked(id, 0, 32 * KIB, &source[..32 * KIB]), &source[..32 * KIB]).await.unwrap();
    }
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_commit_leaves_every_byte_there_and_nobody_to_complete_it() {
    for replaces in [false, true] {
        let world = World::on_disk();
        let life = world.live().await;
        let source = Seeded::new(33).bytes(64 * KIB);
        let id = create(&life, source.len()).await;
        let first = if replaces { vec![0; 32 * KIB] } else { source[..32 * KIB].to_vec() };
        put(&life, id, 0, &first).await.unwrap();
        let part = &source[31 * KIB..48 * KIB];
        // It declares no end, so it does not collide with the others.
        let unsure = Append { count: None, ..checked(id, 31 * KIB, part.len(), part) };
        let mut unsure = life.engine.append(unsure).await.unwrap();
        feed_all(&mut unsure, &part[..100]).await;
        let mut last = life.engine.append(range(id, 32 * KIB, 32 * KIB)).await.unwrap();
        feed_all(&mut last, &source[32 * KIB..]).await;
        taken(&life, id, 64 * KIB).await;
        // Now every byte is stored, one request may still replace some of them, and it is compared with bytes
        // that are not committed.
        let reads = life.faults.calls(Operation::Read);
        feed_all(&mut unsure, &part[100..part.len() - 1]).await;
        until("they are compared", async || (life.faults.calls(Operation::Read) > reads).then_some(())).await;
        assert!(!life.find(id).await.is_full(), "replaces: {replaces}");
        life.die();

        let life = world.live().await;
        life.engine.recover().await;
        if replaces {
            send(&life, checked(id, 0, 32 * KIB, &source[..32 * KIB]), &source[..32 * KIB]).await.unwrap();
        }
        completes(&life, id, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_replaced_also_when_all_the_others_are_there() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(34).bytes(64 * KIB);
    let id = create(&life, source.len()).await;
    put(&life, id, 0, &vec![0; 32 * KIB]).await.unwrap();
    let mut winning = life.engine.append(checked(id, 0, 32 * KIB, &source[..32 * KIB])).await.unwrap();
    feed_all(&mut winning, &source[..16 * KIB]).await;
    let mut last = life.engine.append(range(id, 32 * KIB, 32 * KIB)).await.unwrap();
    feed_all(&mut last, &source[32 * KIB..]).await;
    taken(&life, id, 64 * KIB).await;
    // The next commit marks the digests as unknown. The upload is not full with it; then the engine dies.
    life.records.hold(Effect::Done);
    feed_all(&mut winning, &source[16 * KIB..32 * KIB]).await;
    let ending = winning.finish(BodyEnd::Complete);
    tokio::select! {
        outcome = ending => panic!("{outcome:?}"),
        () = life.records.reached() => {}
    }
    assert!(!life.find(id).await.is_full());
    life.die();

    let life = world.live().await;
    life.engine.recover().await;
    send(&life, checked(id, 0, 32 * KIB, &source[..32 * KIB]), &source[..32 * KIB]).await.unwrap();
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_below_bytes_that_no_commit_has_yet_is_refused() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(35).bytes(8 * KIB);
    for unsure in [false, true] {
        let id = create_endless(&life).await;
        let beginning = Append { count: None, ..range(id, 0, 0) };
        let beginning = if unsure { checked(id, 0, source.len(), &source) } else { beginning };
        let mut open = life.engine.append(beginning).await.unwrap();
        let writes = life.faults.calls(Operation::Write);
        feed_all(&mut open, &source[..8000]).await;
        until("they are written", async || (life.faults.calls(Operation::Write) > writes).then_some(())).await;
        let length = Length::new(4096).unwrap();
        let short = Append { length: Some(length), ..range(id, 0, 0) };
        let refusal = Rejection::LengthBelowOffset { offset: offset(8000), length };
        assert_eq!(rejected(send(&life, short, &[]).await), refusal);
        let whole = Append { ends: CompletesUpload::Here, ..range(id, 5000, 100) };
        let refusal = Rejection::LengthBelowOffset { offset: offset(8000), length: Length::new(5100).unwrap() };
        assert_eq!(rejected(send(&life, whole, &source[5000..5100]).await), refusal);
        feed_all(&mut open, &source[8000..]).await;
        let upload = open.finish(BodyEnd::Complete).await.unwrap();
        assert_eq!((upload.stage().name(), upload.offset()), ("receiving", offset(8192)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_comes_before_bytes_that_no_commit_has_yet_is_refused() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(36).bytes(8 * KIB);
    let id = create_endless(&life).await;
    let mut open = life.engine.append(Append { count: None, ..range(id, 4 * KIB, 0) }).await.unwrap();
    // It does not declare its size, only that its last byte is the last of the upload.
    let mut whole =
        life.engine.append(Append { ends: CompletesUpload::Here, count: None, ..range(id, 0, 0) }).await.unwrap();
    feed_all(&mut open, &source[4 * KIB..]).await;
    taken(&life, id, 4 * KIB).await;
    feed_all(&mut whole, &source[..KIB]).await;
    let refusal = Rejection::LengthBelowOffset { offset: offset(8192), length: Length::new(1024).unwrap() };
    assert_eq!(rejected(whole.finish(BodyEnd::Complete).await), refusal);
    open.finish(BodyEnd::Complete).await.unwrap();
    assert_eq!(life.find(id).await.length(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_never_counted_are_no_part_of_the_file() {
    for medium in Medium::both() {
        let world = World::on(medium);
        let life = world.live().await;
        let source = Seeded::new(37).bytes(50_000);
        let id = create_endless(&life).await;
        let longer = Seeded::new(38).bytes(100_000);
        // It keeps the writer, which has written more than will ever count.
        let mut last = life.engine.append(range(id, 20_000, 30_000)).await.unwrap();
        let outcome = send(&life, checked(id, 50_000, longer.len(), b"other"), &longer).await;
        assert_eq!(rejected(outcome), Rejection::ChecksumMismatch(Algorithm::Crc32c));
        put(&life, id, 0, &source[..20_000]).await.unwrap();
        feed_all(&mut last, &source[20_000..]).await;
        let end = Append { ends: CompletesUpload::Here, ..range(id, 50_000, 0) };
        let (ended, last) = tokio::join!(send(&life, end, &[]), last.finish(BodyEnd::Complete));
        assert_eq!([ended, last].map(|upload| upload.unwrap().stage().name()), ["completed", "completed"]);
        is_complete(&life, id, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_just_replaced_are_the_ones_that_others_are_compared_with() {
    // In memory, bytes can be read back only when they are durable.
    let world = World::on(Medium::both()[0].clone());
    let life = world.live().await;
    let source = Seeded::new(39).bytes(64 * KIB);
    let id = create(&life, source.len()).await;
    put(&life, id, 0, &vec![0; 32 * KIB]).await.unwrap();
    let hold = life.faults.hold_calls(Operation::Sync, Calls::Nth(life.faults.calls(Operation::Sync) + 1));
    let replacing = send(&life, checked(id, 0, 32 * KIB, &source[..32 * KIB]), &source[..32 * KIB]);
    let repeating = async {
        hold.reached().await;
        let reads = life.faults.calls(Operation::Read);
        let mut feed = life.engine.append(range(id, 0, 32 * KIB)).await.unwrap();
        feed_all(&mut feed, &source[..32 * KIB]).await;
        until("they are compared", async || (life.faults.calls(Operation::Read) > reads).then_some(())).await;
        hold.release();
        feed.finish(BodyEnd::Complete).await
    };
    let (replacing, repeating) = tokio::join!(replacing, repeating);
    replacing.unwrap();
    repeating.unwrap();
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_given_up_ends_no_other() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.takeover_timeout = std::time::Duration::from_millis(50)).await;
    let source = Seeded::new(40).bytes(64 * KIB);
    let id = create(&life, source.len()).await;
    let mut first = life.engine.append(range(id, 0, source.len())).await.unwrap();
    let hold = life.faults.hold(Operation::Write);
    feed_all(&mut first, &source[..KIB]).await;
    hold.reached().await;
    let second = life.engine.append(range(id, 0, source.len())).await;
    assert!(matches!(second, Err(EngineError::Unavailable(Unavailable::Held))), "{second:?}");
    hold.release();
    feed_all(&mut first, &source[KIB..]).await;
    assert_eq!(first.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    is_complete(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_repeated_while_the_upload_is_being_finished_is_answered_like_one_afterwards() {
    for operation in [Operation::Sync, Operation::Finish] {
        let world = World::on_disk();
        let life = world.live().await;
        let source = Seeded::new(41).bytes(200 * KIB);
        let id = create(&life, source.len()).await;
        put(&life, id, 0, &source[..100 * KIB]).await.unwrap();
        life.at_rest(id).await;
        let hold = life.faults.hold(operation);
        let first = put(&life, id, 100 * KIB, &source[100 * KIB..]);
        let repeating = async {
            hold.reached().await;
            let mut other = source[100 * KIB..].to_vec();
            other[50 * KIB] ^= 1;
            let (same, other, wrong, ()) = tokio::join!(
                put(&life, id, 100 * KIB, &source[100 * KIB..]),
                put(&life, id, 100 * KIB, &other),
                send(&life, checked(id, 0, 10, b"other"), &source[..10]),
                async {
                    tokio::task::yield_now().await;
                    hold.release();
                },
            );
            assert_eq!(same.unwrap().stage().name(), "completed", "{operation:?}");
            assert_eq!(rejected(other), Rejection::DifferentBytes { at: 150 * 1024 }, "{operation:?}");
            assert_eq!(rejected(wrong), Rejection::ChecksumMismatch(Algorithm::Crc32c), "{operation:?}");
        };
        let (first, ()) = tokio::join!(first, repeating);
        assert_eq!(first.unwrap().stage().name(), "completed");
        is_complete(&life, id, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_still_sending_when_others_complete_the_upload_is_compared_to_its_end() {
    for right in [true, false] {
        let world = World::on_disk();
        let life = world.live().await;
        let source = Seeded::new(42).bytes(64 * KIB);
        let id = create(&life, source.len()).await;
        put(&life, id, 0, &source[..32 * KIB]).await.unwrap();
        let mut slow = life.engine.append(Append { count: None, ..range(id, 0, 0) }).await.unwrap();
        feed_all(&mut slow, &source[..KIB]).await;
        assert_eq!(put(&life, id, 32 * KIB, &source[32 * KIB..]).await.unwrap().stage().name(), "completed");
        let mut rest = source[KIB..].to_vec();
        if !right {
            rest[5000] ^= 1;
        }
        feed_all(&mut slow, &rest).await;
        let outcome = slow.finish(BodyEnd::Complete).await;
        if right {
            assert_eq!(outcome.unwrap().stage().name(), "completed");
        } else {
            assert_eq!(rejected(outcome), Rejection::DifferentBytes { at: 1024 + 5000 });
        }
        is_complete(&life, id, &source).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_removed_while_a_range_is_repeated_is_gone_for_it() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(43).bytes(64 * KIB);
    let id = create(&life, source.len()).await;
    put(&life, id, 0, &source).await.unwrap();
    let mut repeating = life.engine.append(range(id, 0, source.len())).await.unwrap();
    life.engine.cancel(cancelling(id)).await.unwrap();
    feed_all(&mut repeating, &source).await;
    let outcome = rejected(repeating.finish(BodyEnd::Complete).await);
    assert!(matches!(outcome, Rejection::Gone(_)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_wait_to_replace_others_have_half_of_the_memory() {
    let world = World::on_disk();
    // The minimum: 4 MiB.
    let life = world.live_with(|settings| settings.writer.buffer_bytes = 0).await;
    let source = Seeded::new(44).bytes(960 * KIB);
    let most = source.len() - 4;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let id = create(&life, source.len() + 1).await;
        put(&life, id, 0, &vec![0; source.len()]).await.unwrap();
        let mut feed = life.engine.append(checked(id, 0, source.len(), &source)).await.unwrap();
        feed_all(&mut feed, &source[..most]).await;
        // When there is memory for the last of these, all earlier bytes were received.
        for byte in &source[most..most + 3] {
            feed_all(&mut feed, &[*byte]).await;
        }
        waiting.push((id, feed));
    }
    let (last, feed) = waiting.pop().unwrap();
    let refused = feed.finish(BodyEnd::Complete).await;
    assert!(matches!(refused, Err(EngineError::Unavailable(Unavailable::Full))), "{refused:?}");
    for (id, mut feed) in waiting {
        feed_all(&mut feed, &source[most + 3..]).await;
        feed.finish(BodyEnd::Complete).await.unwrap();
        put(&life, id, source.len(), b"!").await.unwrap();
        assert!(life.read(id).await == [&source[..], b"!"].concat());
    }
    send(&life, checked(last, 0, source.len(), &source), &source).await.expect("it comes again and there is room");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_is_not_replaced_than_there_is_ever_memory_for() {
    let world = World::on_disk();
    let small = |settings: &mut EngineSettings| {
        settings.writer.buffer_bytes = 0;
        settings.ranges.max_replaced_bytes = 16 << 20;
    };
    let life = world.live_with(small).await;
    let source = Seeded::new(45).bytes(3 << 20);
    let id = create(&life, source.len()).await;
    put(&life, id, 0, &vec![0; source.len() - 1]).await.unwrap();
    let outcome = send(&life, checked(id, 0, source.len(), &source), &source).await;
    assert_eq!(rejected(outcome), Rejection::TooMuchToReplace(2 << 20), "to come again would not help");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_with_a_checksum_that_is_cut_is_not_refused() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = create(&life, 5).await;
    let whole = Append { checksum: Some(digest(Algorithm::Crc32c, b"hello")), ..range(id, 0, 5) };
    let mut feed = life.engine.append(whole.clone()).await.unwrap();
    feed_all(&mut feed, b"hello").await;
    assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    let mut again = life.engine.append(whole).await.unwrap();
    feed_all(&mut again, b"he").await;
    let upload = again.finish(BodyEnd::Cut).await.unwrap();
    assert_eq!(upload.stage().name(), "completed");
}
