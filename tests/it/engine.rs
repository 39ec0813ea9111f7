//! The engine when the layers below it fail, or when it dies: each row of "what if it dies here?" in
//! `append.rs` and of the steps after the last byte in `completion.rs`, `concatenate.rs` and `sweep.rs`.
//!
//! After every failure the same holds: the committed offset stays valid, the upload continues from there to
//! the right bytes, no event is missing or duplicated, and no file is left that belongs to no upload.

use std::time::Duration;

use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::principal::Principal;
use domain::query::UploadQuery;
use domain::rejection::Rejection;
use domain::size::Length;
use domain::stage::Stage;
use domain::upload::{Record, Role, Upload};
use engine::command::{Append, BodyEnd, EngineError, Unavailable, WritePosition};
use engine::concatenate::Concatenate;
use state::Uploads;
use storage::faults::{Calls, Cause, Effect, Operation};

use crate::support::patience::until;
use crate::support::seeded::Seeded;
use crate::support::world::{Life, Medium, Trouble, World, cancelling, feed_all, new_upload, new_upload_of, offset};

const KIB: usize = 1024;
const WHOLE_WAY: [&str; 6] = ["created", "receiving", "received", "verified", "stored", "completed"];

fn source(size: usize) -> Vec<u8> {
    Seeded::new(size as u64).bytes(size)
}

/// Continues from the committed offset to the end, and checks everything about the result.
async fn completes(life: &Life, id: UploadId, source: &[u8]) {
    let at = life.committed(id).await;
    let upload = life.append(id, at, &source[at..]).await.unwrap();
    assert_eq!(upload.stage().name(), "completed");
    assert!(life.read(id).await == source, "the bytes are the source's");
    assert_eq!(upload.record().digests, [crc32c_of(source)], "the running digests did not count lost bytes");
    assert_eq!(life.events(id).await, WHOLE_WAY);
}

fn crc32c_of(bytes: &[u8]) -> Digest {
    Digest::new(Algorithm::Crc32c, crc32c::crc32c(bytes).to_be_bytes().to_vec()).unwrap()
}

/// Asserts that the only file has exactly the committed bytes: the space of lost bytes was given back.
fn nothing_is_left_above(world: &World, committed: usize) {
    if world.is_on_disk() {
        let sizes: Vec<u64> = world.files().iter().map(|path| path.metadata().unwrap().len()).collect();
        assert_eq!(sizes, [committed as u64]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_in_an_append_the_committed_offset_stands() {
    let troubles = [
        (Operation::Open, Cause::BROKEN_DISK),
        (Operation::Write, Cause::BROKEN_DISK),
        (Operation::Write, Cause::NO_SPACE),
        (Operation::Checkpoint, Cause::BROKEN_DISK),
        (Operation::Sync, Cause::BROKEN_DISK),
        (Operation::Sync, Cause::NO_SPACE),
    ];
    for (operation, cause) in troubles {
        for effect in [Effect::Nothing, Effect::Done] {
            for medium in Medium::all() {
                an_append_breaks(operation, cause, effect, medium).await;
            }
        }
    }
}

async fn an_append_breaks(operation: Operation, cause: Cause, effect: Effect, medium: Medium) {
    let what = format!("{operation:?} {cause:?} {effect:?} {medium:?}");
    let world = World::on(medium);
    let life = world.live().await;
    let source = source(300 * KIB);
    let id = life.create(source.len()).await;
    life.append(id, 0, &source[..70_000]).await.unwrap();

    let next = Calls::Nth(life.faults.calls(operation) + 1);
    match effect {
        Effect::Nothing => life.faults.fail(operation, next, cause),
        Effect::Done => life.faults.fail_when_done(operation, next, cause),
    }
    let failed = life.append(id, 70_000, &source[70_000..]).await.expect_err(&what);
    match cause {
        Cause::NO_SPACE => assert!(matches!(failed, EngineError::NoSpace), "{what}: {failed:?}"),
        _ => assert!(matches!(failed, EngineError::Failed { .. }), "{what}: {failed:?}"),
    }
    life.at_rest(id).await;
    let committed = life.committed(id).await;
    // Checkpoints before the one that broke may have been committed.
    assert!((70_000..source.len()).contains(&committed), "{what}: {committed}");
    nothing_is_left_above(&world, committed);
    completes(&life, id, &source).await;
}

/// The record says that the upload is complete, so no client has to see the failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_counts_if_it_was_done() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = source(100_000);
    life.records.fail_next(Effect::Done, Trouble::Unanswered);
    let id = life.create(source.len()).await;
    life.records.fail_next(Effect::Done, Trouble::Unanswered);
    let upload = life.append(id, 0, &source[..10_000]).await.unwrap();
    assert_eq!(upload.offset(), offset(10_000));
    life.records.fail_next(Effect::Nothing, Trouble::Unanswered);
    let failed = life.append(id, 10_000, &source[10_000..20_000]).await;
    assert!(matches!(failed, Err(EngineError::Failed { .. })), "{failed:?}");
    life.at_rest(id).await;
    assert_eq!(life.committed(id).await, 10_000);
    nothing_is_left_above(&world, 10_000);
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_leaves_the_offset_as_it_was() {
    for trouble in [Trouble::Conflict, Trouble::NoSpace, Trouble::Broken] {
        for medium in Medium::all() {
            let world = World::on(medium);
            let life = world.live().await;
            let source = source(100_000);
            let id = life.create(source.len()).await;
            life.append(id, 0, &source[..10_000]).await.unwrap();
            life.records.fail_next(Effect::Nothing, trouble);
            let failed = life.append(id, 10_000, &source[10_000..20_000]).await.expect_err("the commit failed");
            let as_said = match trouble {
                Trouble::Conflict => matches!(failed, EngineError::Unavailable(Unavailable::Superseded)),
                Trouble::NoSpace => matches!(failed, EngineError::NoSpace),
                Trouble::Broken | Trouble::Unanswered => matches!(failed, EngineError::Failed { .. }),
            };
            assert!(as_said, "{trouble:?}: {failed:?}");
            life.at_rest(id).await;
            assert_eq!(life.committed(id).await, 10_000);
            nothing_is_left_above(&world, 10_000);
            completes(&life, id, &source).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_learns_whether_a_deletion_was_committed() {
    let world = World::on_disk();
    let life = world.live().await;
    for is_committed in [false, true] {
        let id = life.create(100).await;
        let feed = life.engine.append(Append::at(Principal::server(), id, offset(0), Some(100))).await.unwrap();
        if !is_committed {
            life.records.fail_next(Effect::Nothing, Trouble::Broken);
        }
        assert_eq!(life.engine.cancel(cancelling(id)).await.is_ok(), is_committed);
        let told = feed.finish(BodyEnd::Complete).await.expect_err("it was ended");
        if is_committed {
            assert_eq!(told.to_string(), "this upload has been terminated");
        } else {
            assert!(matches!(told, EngineError::Unavailable(Unavailable::Superseded)), "{told:?}");
            life.append(id, 0, &[7; 100]).await.expect("the upload lives on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_takes_no_committed_byte_away() {
    for trouble in [Trouble::Conflict, Trouble::NoSpace, Trouble::Broken] {
        for medium in Medium::all() {
            let world = World::on(medium);
            let life = world.live().await;
            let source = source(100_000);
            let id = life.create(source.len()).await;
            life.append(id, 0, &source[..10_000]).await.unwrap();
            life.records.fail_next(Effect::Done, trouble);
            life.append(id, 10_000, &source[10_000..20_000]).await.expect_err("the answer was lost");
            life.at_rest(id).await;
            assert_eq!(life.committed(id).await, 20_000, "the committed record decides");
            completes(&life, id, &source).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_is_not_recorded_leaves_nothing() {
    let world = World::on_disk();
    let life = world.live().await;
    life.records.fail_next(Effect::Nothing, Trouble::NoSpace);
    let refused = life.engine.create(new_upload(Role::Single, 10)).await;
    assert!(matches!(refused, Err(EngineError::NoSpace)));
    life.records.fail_next(Effect::Nothing, Trouble::Broken);
    let refused = life.engine.create(new_upload(Role::Single, 0)).await;
    assert!(matches!(refused, Err(EngineError::Failed { .. })));
    let query = UploadQuery { limit: 10, ..UploadQuery::default() };
    assert!(life.engine.list(&Principal::server(), &query).await.unwrap().found.is_empty());
    assert!(world.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_could_not_be_put_in_its_place_is_finished_by_the_sweeper() {
    for effect in [Effect::Nothing, Effect::Done] {
        for medium in Medium::all() {
            let world = World::on(medium);
            let life = world.live().await;
            let source = source(100_000);
            let id = life.create(source.len()).await;
            match effect {
                Effect::Nothing => life.faults.fail(Operation::Finish, Calls::Nth(1), Cause::BROKEN_DISK),
                Effect::Done => life.faults.fail_when_done(Operation::Finish, Calls::Nth(1), Cause::BROKEN_DISK),
            }
            let failed = life.append(id, 0, &source).await;
            assert!(matches!(failed, Err(EngineError::Failed { .. })), "{failed:?}");
            // No one may see it as complete: neither a request for the offset nor one for the bytes.
            assert_eq!(life.find(id).await.stage().name(), "verified");
            let asked = life.engine.inspect(&Principal::server(), id).await;
            assert!(matches!(asked, Err(EngineError::Unavailable(Unavailable::Settling))), "{asked:?}");
            let wanted = life.engine.download(&Principal::server(), id).await.map(|_| ());
            assert!(matches!(wanted, Err(EngineError::Unavailable(Unavailable::Settling))), "{wanted:?}");
            life.engine.start_sweeping();
            life.wait_for_stage(id, "completed").await;
            assert!(life.read(id).await == source);
            assert_eq!(life.events(id).await, WHOLE_WAY);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_append_carries_on_an_upload_that_was_left_unfinished() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = source(1_000);
    let id = life.create(source.len()).await;
    life.faults.fail(Operation::Finish, Calls::Nth(1), Cause::BROKEN_DISK);
    life.append(id, 0, &source).await.expect_err("it was not put in its place");
    let command = Append::at(Principal::server(), id, offset(1_000), Some(0));
    let again = life.engine.append(command).await.unwrap().finish(BodyEnd::Complete).await.unwrap();
    assert_eq!(again.stage().name(), "completed");
    assert_eq!(life.events(id).await, WHOLE_WAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_could_not_be_removed_are_removed_by_the_sweeper() {
    for effect in [Effect::Nothing, Effect::Done] {
        let world = World::on_disk();
        let life = world.live().await;
        let source = source(100_000);
        let id = life.create(source.len()).await;
        life.append(id, 0, &source[..50_000]).await.unwrap();
        match effect {
            Effect::Nothing => life.faults.fail(Operation::Discard, Calls::Nth(1), Cause::BROKEN_DISK),
            Effect::Done => life.faults.fail_when_done(Operation::Discard, Calls::Nth(1), Cause::BROKEN_DISK),
        }
        life.engine.cancel(cancelling(id)).await.unwrap();
        assert_eq!(life.find(id).await.stage().name(), "terminated");
        assert_eq!(world.files().len(), usize::from(effect == Effect::Nothing));
        life.engine.start_sweeping();
        until("its bytes are noted as removed", async || {
            let kept = life.find(id).await.record().bytes;
            (kept == domain::upload::StoredBytes::Removed).then_some(())
        })
        .await;
        assert!(world.files().is_empty());
        assert_eq!(life.events(id).await, ["created", "receiving", "terminated"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_its_promise_fails_and_leaves_no_bytes() {
    let world = World::on_disk();
    let life = world.live().await;
    let promised = Digest::new(Algorithm::Sha256, vec![7; 32]).unwrap();
    let mut create = new_upload(Role::Single, 1_000);
    create.promised_digests.push(promised);
    let id = life.engine.create(create).await.unwrap().id();
    let told = life.append(id, 0, &source(1_000)).await;
    let broken = Rejection::BrokenPromise(Algorithm::Sha256);
    assert!(matches!(told, Err(EngineError::Rejected(rejection)) if rejection == broken), "never taken for success");
    let upload = life.find(id).await;
    assert_eq!(upload.stage().name(), "failed");
    assert_eq!(upload.record().failure.as_ref().unwrap().code, "digest-mismatch");
    assert_eq!(life.events(id).await, ["created", "receiving", "received", "failed"]);
    assert!(world.files().is_empty());
}

/// Finished partial uploads, each with its bytes.
async fn parts(life: &Life) -> Vec<(UploadId, Vec<u8>)> {
    let mut parts = Vec::new();
    for size in [70_000, 1, 100_000] {
        let bytes = source(size);
        let id = life.engine.create(new_upload(Role::Partial, size)).await.unwrap().id();
        life.append(id, 0, &bytes).await.unwrap();
        parts.push((id, bytes));
    }
    parts
}

async fn concatenate(
    life: &Life,
    parts: &[(UploadId, Vec<u8>)],
    wanted: Vec<Algorithm>,
) -> Result<Upload, EngineError> {
    let command = Concatenate {
        principal: Principal::server(),
        dialect: Dialect::named("tus"),
        parts: parts.iter().map(|(id, _)| *id).collect(),
        as_sent: "final;…".to_owned(),
        metadata: Metadata::default(),
        metadata_as_sent: None,
        wanted_digests: wanted,
        promised_digests: Vec::new(),
        caller: None,
    };
    life.engine.concatenate(command).await
}

/// Returns the only final upload that is not in `known`.
async fn the_final(life: &Life, known: &[(UploadId, Vec<u8>)]) -> Upload {
    let query = UploadQuery { limit: 100, ..UploadQuery::default() };
    let all = life.engine.list(&Principal::server(), &query).await.unwrap().found;
    let mut finals = all.into_iter().map(|status| status.upload).filter(Upload::is_final);
    let found = finals.next().expect("there is a final upload");
    assert!(finals.next().is_none() && known.iter().all(|(id, _)| *id != found.id()));
    found
}

async fn parts_are_intact(life: &Life, world: &World, parts: &[(UploadId, Vec<u8>)]) {
    for (id, bytes) in parts {
        let part = life.find(*id).await;
        assert_eq!((part.stage().name(), part.offset().get()), ("received", bytes.len() as u64));
        assert_eq!(life.events(*id).await, ["created", "receiving", "received"], "tus 85: a partial is not processed");
    }
    if world.is_on_disk() {
        let mut sizes: Vec<u64> = world.files().iter().map(|path| path.metadata().unwrap().len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 70_000, 100_000], "nothing but the parts is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concatenation_that_breaks_shows_no_final_and_harms_no_part() {
    // tus 98: a failure half-way leaves no visible final upload, and leaves the partial uploads unchanged.
    for (operation, effect, wanted) in [
        (Operation::Concatenate, Effect::Nothing, vec![]),
        (Operation::Concatenate, Effect::Done, vec![]),
        (Operation::Read, Effect::Nothing, vec![Algorithm::Sha256]),
    ] {
        for medium in Medium::both() {
            let world = World::on(medium);
            let life = world.live().await;
            let parts = parts(&life).await;
            match effect {
                Effect::Nothing => life.faults.fail(operation, Calls::Nth(1), Cause::NO_SPACE),
                Effect::Done => life.faults.fail_when_done(operation, Calls::Nth(1), Cause::NO_SPACE),
            }
            let failed = concatenate(&life, &parts, wanted.clone()).await;
            assert!(matches!(failed, Err(EngineError::NoSpace)), "{operation:?} {effect:?}: {failed:?}");
            let broken = the_final(&life, &parts).await;
            assert_eq!(broken.stage().name(), "failed");
            assert_eq!(broken.record().failure.as_ref().unwrap().code, "concatenation-failed");
            assert_eq!(life.events(broken.id()).await, ["created", "failed"]);
            assert!(matches!(
                life.engine.download(&Principal::server(), broken.id()).await,
                Err(EngineError::Rejected(Rejection::Gone(_)))
            ));
            parts_are_intact(&life, &world, &parts).await;

            let whole: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            let joined = concatenate(&life, &parts, wanted.clone()).await.unwrap();
            assert_eq!(joined.stage().name(), "completed");
            assert!(life.read(joined.id()).await == whole);
            assert!(joined.record().digests.contains(&crc32c_of(&whole)));
            assert_eq!(life.events(joined.id()).await, WHOLE_WAY);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_that_could_not_be_committed_is_undone() {
    let world = World::on_disk();
    let life = world.live().await;
    let parts = parts(&life).await;
    let hold = life.faults.hold(Operation::Concatenate);
    let (joined, ()) = tokio::join!(concatenate(&life, &parts, vec![]), async {
        hold.reached().await;
        life.records.fail_next(Effect::Nothing, Trouble::Broken);
        hold.release();
    });
    assert!(joined.is_err());
    assert_eq!(the_final(&life, &parts).await.stage().name(), "failed");
    parts_are_intact(&life, &world, &parts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_final_that_nobody_waits_for_is_cancelled_and_leaves_nothing() {
    for stopping in [false, true] {
        let world = World::on_disk();
        let life = world.live().await;
        let parts = parts(&life).await;
        let hold = life.faults.hold(Operation::Concatenate);
        let mut joining = Box::pin(concatenate(&life, &parts, vec![]));
        tokio::select! {
            joined = &mut joining => panic!("it was held: {joined:?}"),
            () = hold.reached() => {}
        }
        if stopping {
            let (joined, clean) = tokio::join!(joining, life.engine.shut_down(Duration::from_secs(30)));
            assert!(matches!(joined, Err(EngineError::Unavailable(Unavailable::ShuttingDown))), "{joined:?}");
            assert!(clean, "nothing is left to wait for");
        } else {
            drop(joining);
            until("it has failed", async || (the_final(&life, &parts).await.stage().name() == "failed").then_some(()))
                .await;
        }
        let broken = the_final(&life, &parts).await;
        assert_eq!(broken.record().failure.as_ref().unwrap().code, "concatenation-failed");
        until("its bytes are removed", async || (world.files().len() == 3).then_some(())).await;
        parts_are_intact(&life, &world, &parts).await;
        drop(hold);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_of_what_has_just_ended_says_so() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = life.create(5).await;
    life.append(id, 0, b"hello").await.unwrap();
    let download = life.engine.download(&Principal::server(), id).await.unwrap().unwrap();
    life.engine.cancel(cancelling(id)).await.unwrap();
    let read = download.read(0..5).await.map(drop);
    assert!(matches!(read, Err(EngineError::Rejected(Rejection::Gone(_)))), "{read:?}");

    let id = life.create(5).await;
    life.append(id, 0, b"hello").await.unwrap();
    let download = life.engine.download(&Principal::server(), id).await.unwrap().unwrap();
    std::fs::remove_file(world.files().remove(0)).unwrap();
    let read = download.read(0..5).await.map(drop);
    assert!(matches!(read, Err(EngineError::Rejected(Rejection::BytesMissing))), "{read:?}");
}

/// The point at which a life ends while an upload receives its bytes.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// During this operation of the storage.
    Below(Operation),
    /// With the commit requested, but not done.
    BeforeCommit,
    /// With the commit done, but its result not delivered.
    AfterCommit,
}

impl Death {
    /// Runs `work` in a life that ends at this point.
    async fn ends(self, life: Life, work: impl AsyncFnOnce(&Life)) {
        let hold = match self {
            Self::Below(operation) => Some(life.faults.hold(operation)),
            Self::BeforeCommit => {
                life.records.hold(Effect::Nothing);
                None
            }
            Self::AfterCommit => {
                life.records.hold(Effect::Done);
                None
            }
        };
        let reached = async {
            match &hold {
                Some(hold) => hold.reached().await,
                None => life.records.reached().await,
            }
        };
        tokio::select! {
            () = work(&life) => panic!("{self:?} was passed"),
            () = reached => {}
        }
        life.die();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_in_the_middle_of_an_append_costs_only_what_nobody_was_told_of() {
    let deaths = [
        (Death::Below(Operation::Open), 70_000),
        (Death::Below(Operation::Write), 70_000),
        (Death::Below(Operation::Checkpoint), 70_000),
        (Death::Below(Operation::Sync), 70_000),
        (Death::BeforeCommit, 70_000),
        (Death::AfterCommit, 90_000),
    ];
    for (death, expected) in deaths {
        for medium in Medium::all() {
            let world = World::on(medium);
            let life = world.live().await;
            let source = source(200_000);
            let id = life.create(source.len()).await;
            life.append(id, 0, &source[..70_000]).await.unwrap();
            death
                .ends(life, async |life| {
                    // Bytes that differ from the source's: none of them may ever become visible.
                    let bytes = if expected == 70_000 { vec![0xee; 20_000] } else { source[70_000..90_000].to_vec() };
                    let _ = life.append(id, 70_000, &bytes).await;
                })
                .await;
            let life = world.live().await;
            life.engine.recover().await;
            assert_eq!(life.committed(id).await, expected, "{death:?}");
            assert_eq!(life.engine.inspect(&Principal::server(), id).await.unwrap().upload.offset(), offset(expected));
            completes(&life, id, &source).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_between_the_last_byte_and_completion_is_made_good_at_the_next_start() {
    let deaths = [
        (Death::Below(Operation::Sync), None),
        (Death::BeforeCommit, None),
        (Death::AfterCommit, Some("verified")),
        (Death::Below(Operation::Finish), Some("verified")),
    ];
    for (death, left_at) in deaths {
        for medium in Medium::both() {
            let world = World::on(medium);
            let life = world.live().await;
            let source = source(100_000);
            let id = life.create(source.len()).await;
            life.append(id, 0, &source[..50_000]).await.unwrap();
            death
                .ends(life, async |life| {
                    let _ = life.append(id, 50_000, &source[50_000..]).await;
                })
                .await;
            let life = world.live().await;
            if let Some(stage) = left_at {
                assert_eq!(life.find(id).await.stage().name(), stage, "{death:?}");
            }
            life.engine.recover().await;
            match left_at {
                // It is completed before anything is served.
                Some(_) => assert_eq!(life.find(id).await.stage().name(), "completed", "{death:?}"),
                None => completes(&life, id, &source).await,
            }
            assert!(life.read(id).await == source);
            assert_eq!(life.events(id).await, WHOLE_WAY, "{death:?}");
            life.engine.recover().await;
            assert_eq!(life.events(id).await, WHOLE_WAY, "recovering again tells nothing again");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_the_bytes_were_put_in_their_place_is_made_good_at_the_next_start() {
    for when in [Effect::Nothing, Effect::Done] {
        for medium in Medium::all() {
            let world = World::on(medium);
            let life = world.live().await;
            let source = source(1_000);
            let id = life.create(source.len()).await;
            let hold = life.faults.hold(Operation::Finish);
            tokio::select! {
                _ = life.append(id, 0, &source) => panic!("it was held"),
                () = async {
                    hold.reached().await;
                    // The next commit is the one that enters `completed`.
                    life.records.hold(when);
                    hold.release();
                    life.records.reached().await;
                } => {}
            }
            life.die();
            let life = world.live().await;
            life.engine.recover().await;
            assert_eq!(life.find(id).await.stage().name(), "completed");
            assert!(life.read(id).await == source);
            assert_eq!(life.events(id).await, WHOLE_WAY);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_upload_that_was_interrupted_completes_at_the_next_start() {
    let world = World::on_disk();
    Death::Below(Operation::Finish)
        .ends(world.live().await, async |life| {
            let _ = life.engine.create(new_upload(Role::Single, 0)).await;
        })
        .await;
    let life = world.live().await;
    let query = UploadQuery { limit: 10, ..UploadQuery::default() };
    let id = life.engine.list(&Principal::server(), &query).await.unwrap().found[0].upload.id();
    life.engine.recover().await;
    assert_eq!(life.find(id).await.stage().name(), "completed");
    assert!(life.read(id).await.is_empty());
    assert_eq!(life.events(id).await, ["created", "received", "verified", "stored", "completed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_while_parts_are_joined_leaves_a_failed_final_and_whole_parts() {
    for death in [Death::Below(Operation::Concatenate), Death::AfterCommit, Death::BeforeCommit] {
        for medium in Medium::all() {
            let world = World::on(medium);
            let life = world.live().await;
            let parts = parts(&life).await;
            death
                .ends(life, async |life| {
                    let _ = concatenate(life, &parts, vec![]).await;
                })
                .await;
            let life = world.live().await;
            life.engine.recover().await;
            if !matches!(death, Death::BeforeCommit) {
                let undone = the_final(&life, &parts).await;
                assert_eq!(undone.stage().name(), "failed", "{death:?}");
                assert_eq!(life.events(undone.id()).await, ["created", "failed"]);
                life.engine.recover().await;
                assert_eq!(life.events(undone.id()).await, ["created", "failed"], "told once");
            }
            parts_are_intact(&life, &world, &parts).await;
            assert_eq!(concatenate(&life, &parts, vec![]).await.unwrap().stage().name(), "completed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_after_parts_were_joined_completes_the_final_at_the_next_start() {
    let world = World::on_disk();
    let life = world.live().await;
    let parts = parts(&life).await;
    Death::Below(Operation::Finish)
        .ends(life, async |life| {
            let _ = concatenate(life, &parts, vec![]).await;
        })
        .await;
    let life = world.live().await;
    life.engine.recover().await;
    let whole: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let joined = the_final(&life, &parts).await;
    assert_eq!(joined.stage().name(), "completed");
    assert!(life.read(joined.id()).await == whole);
    assert_eq!(life.events(joined.id()).await, WHOLE_WAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_while_an_upload_is_terminated_leaves_no_bytes() {
    for (death, terminated) in
        [(Death::BeforeCommit, false), (Death::AfterCommit, true), (Death::Below(Operation::Discard), true)]
    {
        let world = World::on_disk();
        let life = world.live().await;
        let source = source(50_000);
        let id = life.create(100_000).await;
        life.append(id, 0, &source).await.unwrap();
        death
            .ends(life, async |life| {
                let _ = life.engine.cancel(cancelling(id)).await;
            })
            .await;
        let life = world.live().await;
        life.engine.recover().await;
        if terminated {
            assert_eq!(life.find(id).await.stage().name(), "terminated", "{death:?}");
            assert_eq!(life.events(id).await, ["created", "receiving", "terminated"]);
            assert!(world.files().is_empty(), "{death:?}");
        } else {
            assert_eq!(life.committed(id).await, 50_000, "a deletion that was not reported did not happen");
            life.engine.cancel(cancelling(id)).await.unwrap();
            assert!(world.files().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_upload_loses_its_bytes_and_a_live_one_does_not() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.lifetimes.unfinished_expiry = Duration::from_secs(60)).await;
    let (live, abandoned) = (life.create(100).await, life.create(100).await);
    life.append(abandoned, 0, b"abandoned").await.unwrap();
    let mut feed = life.begin(live, 0).await.unwrap();
    feed_all(&mut feed, b"moving").await;
    life.wait_for_stage(live, "receiving").await;
    world.pass(Duration::from_secs(61));
    let gone = life.engine.inspect(&Principal::server(), abandoned).await.unwrap();
    assert!(gone.gone.is_some(), "tus 72: gone at once, before anybody has swept");
    life.engine.start_sweeping();
    life.wait_for_stage(abandoned, "expired").await;
    until("its bytes are removed", async || (world.files().len() == 1).then_some(())).await;
    assert_eq!(life.find(live).await.stage().name(), "receiving", "a connected client keeps its upload alive");
    feed_all(&mut feed, &[7; 94]).await;
    assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    assert_eq!(life.events(abandoned).await, ["created", "receiving", "expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_activity_nor_a_connected_client_outlasts_the_age_of_an_upload() {
    const HOUR: Duration = Duration::from_secs(3600);
    let world = World::on_disk();
    let life = world
        .live_with(|settings| {
            settings.lifetimes.unfinished_expiry = HOUR;
            settings.lifetimes.unfinished_age = 5 * HOUR / 2;
            settings.writer.checkpoint_every = Duration::from_millis(50);
        })
        .await;
    let idle = life.create(100).await;
    let last_moment = life.find(idle).await.record().created_at.plus(5 * HOUR / 2);
    for hour in 0..2 {
        let before = life.find(idle).await.record().expires_at.unwrap();
        assert!(before < last_moment);
        world.pass(HOUR * 5 / 6);
        let upload = life.append(idle, hour, b"x").await.unwrap();
        assert!(upload.record().expires_at.unwrap() > before, "activity puts the end off");
    }
    assert_eq!(life.find(idle).await.record().expires_at, Some(last_moment), "but not beyond its age");

    let busy = life.create(100).await;
    let mut feed = life.begin(busy, 0).await.unwrap();
    feed_all(&mut feed, b"moving").await;
    life.wait_for_stage(busy, "receiving").await;
    world.pass(3 * HOUR);
    feed_all(&mut feed, b"more").await;
    let ended = feed.finish(BodyEnd::Cut).await;
    assert!(matches!(ended, Err(EngineError::Rejected(Rejection::Gone(_)))), "{ended:?}");
    assert!(life.engine.inspect(&Principal::server(), idle).await.unwrap().gone.is_some());
    life.engine.start_sweeping();
    for id in [idle, busy] {
        life.wait_for_stage(id, "expired").await;
    }
    until("their bytes are removed", async || world.files().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksummed_append_is_staged_until_it_matches() {
    // tus 74, 75: bytes that do not match the checksum, or that are incomplete, leave no trace.
    let world = World::on_disk();
    let life = world.live().await;
    let source = source(300 * KIB);
    let id = life.create(source.len()).await;
    life.append(id, 0, &source[..10]).await.unwrap();
    for end in [BodyEnd::Complete, BodyEnd::Cut] {
        let wrong = if end == BodyEnd::Cut { crc32c_of(&source[10..]) } else { crc32c_of(b"else") };
        let command = Append { checksum: Some(wrong), ..Append::at(Principal::server(), id, offset(10), None) };
        let mut feed = life.engine.append(command).await.unwrap();
        feed_all(&mut feed, &source[10..]).await;
        let ended = feed.finish(end).await;
        match end {
            BodyEnd::Complete => {
                assert!(matches!(ended, Err(EngineError::Rejected(Rejection::ChecksumMismatch(Algorithm::Crc32c)))));
            }
            BodyEnd::Cut => assert_eq!(ended.unwrap().offset(), offset(10)),
        }
        assert_eq!(life.committed(id).await, 10);
        nothing_is_left_above(&world, 10);
    }
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_answers_while_the_disk_does_not() {
    for operation in [Operation::Write, Operation::Sync, Operation::Open] {
        let world = World::on_disk();
        let life = world.live_with(|settings| settings.takeover_timeout = Duration::from_millis(200)).await;
        let source = source(200_000);
        let id = life.create(source.len()).await;
        life.append(id, 0, &source[..70_000]).await.unwrap();
        let hold = life.faults.hold(operation);
        let mut feed = life.begin(id, 70_000).await.unwrap();
        let writing = async {
            feed_all(&mut feed, &source[70_000..]).await;
            feed.finish(BodyEnd::Complete).await
        };
        let asking = async {
            hold.reached().await;
            let status = life.engine.status(&Principal::server(), id).await.unwrap();
            assert_eq!(status.upload.offset(), offset(70_000));
            assert!(status.live.is_some());
            let query = UploadQuery { limit: 10, ..UploadQuery::default() };
            assert_eq!(life.engine.list(&Principal::server(), &query).await.unwrap().found.len(), 1);
            // HEAD, which queries the writer first, also falls back on the committed row.
            assert_eq!(life.engine.inspect(&Principal::server(), id).await.unwrap().upload.offset(), offset(70_000));
            hold.release();
        };
        let (written, ()) = tokio::join!(writing, asking);
        assert_eq!(written.unwrap().stage().name(), "completed", "{operation:?}");
        assert!(life.read(id).await == source);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_waits_for_the_commit_under_way_and_no_longer() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = source(200_000);
    let id = life.create(source.len()).await;
    life.append(id, 0, &source[..10_000]).await.unwrap();

    // The old writer's commit is on its way and cannot be canceled: the newer request finds it done.
    life.records.hold(Effect::Nothing);
    let mut old = life.begin(id, 10_000).await.unwrap();
    feed_all(&mut old, &source[10_000..80_000]).await;
    life.records.reached().await;
    let (newer, ()) = tokio::join!(life.begin(id, 10_000), async {
        life.records.release();
    });
    let committed = life.committed(id).await;
    match newer {
        Ok(feed) => {
            assert_eq!(committed, 10_000);
            drop(feed);
        }
        Err(EngineError::Rejected(Rejection::WrongOffset { ours, .. })) => {
            assert_eq!(ours, offset(committed));
            assert!(committed > 10_000);
            drop(old);
        }
        Err(other) => panic!("{other:?}"),
    }
    life.at_rest(id).await;
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_keeps_what_arrived_and_answers() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = source(200_000);
    let id = life.create(source.len()).await;
    let checksummed = life.create(source.len()).await;
    let mut feed = life.begin(id, 0).await.unwrap();
    feed_all(&mut feed, &source[..100_000]).await;
    let command =
        Append { checksum: Some(crc32c_of(&source)), ..Append::at(Principal::server(), checksummed, offset(0), None) };
    let mut staged = life.engine.append(command).await.unwrap();
    feed_all(&mut staged, &source[..100_000]).await;
    until("all of it was taken", async || {
        let taken = |status: engine::read::UploadStatus| status.live.is_some_and(|live| live.received_bytes == 100_000);
        let both = taken(life.engine.status(&Principal::server(), id).await.unwrap())
            && taken(life.engine.status(&Principal::server(), checksummed).await.unwrap());
        both.then_some(())
    })
    .await;
    assert!(life.engine.shut_down(Duration::from_secs(30)).await, "everything ended");
    for feed in [feed, staged] {
        let answer = feed.finish(BodyEnd::Complete).await;
        assert!(matches!(answer, Err(EngineError::Unavailable(Unavailable::ShuttingDown))), "{answer:?}");
    }
    assert_eq!(life.committed(id).await, 100_000);
    assert_eq!(life.committed(checksummed).await, 0, "tus 75: a checksummed request counts whole or not at all");
    assert!(matches!(life.begin(id, 100_000).await, Err(EngineError::Unavailable(Unavailable::ShuttingDown))));
    life.die();
    let life = world.live().await;
    completes(&life, id, &source).await;
    completes(&life, checksummed, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removals_that_keep_failing_hold_up_nothing_else() {
    let world = World::on_disk();
    let life = world.live().await;
    life.faults.fail(Operation::Discard, Calls::From(1), Cause::BROKEN_DISK);
    // More than the sweeper fetches at a time.
    for _ in 0..210 {
        let id = life.create(2).await;
        life.append(id, 0, b"x").await.unwrap();
        life.engine.cancel(cancelling(id)).await.unwrap();
    }
    assert_eq!(world.files().len(), 210);
    let asked = life.faults.calls(Operation::Discard);
    tokio::time::timeout(Duration::from_secs(30), life.engine.recover()).await.expect("the start comes to its end");
    assert_eq!(life.faults.calls(Operation::Discard) - asked, 210, "each was tried once");
    life.faults.mend(Operation::Discard);
    life.engine.start_sweeping();
    until("every file is gone", async || world.files().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_bytes_someone_took_away_fails_instead_of_hanging() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = life.create(1).await;
    life.faults.fail(Operation::Finish, Calls::Nth(1), Cause::Kind(std::io::ErrorKind::NotFound));
    let told = life.append(id, 0, b"x").await;
    assert!(matches!(told, Err(EngineError::Rejected(Rejection::Gone(_)))), "{told:?}");
    let upload = life.find(id).await;
    assert_eq!(upload.stage().name(), "failed");
    assert_eq!(upload.record().failure.as_ref().unwrap().code, "bytes-missing");
}

/// Starts an engine that keeps uploads open between requests for longer than any test takes.
async fn that_keeps_open(world: &World) -> Life {
    world.live_with(|settings| settings.writer.keep_open = Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_request_finds_the_upload_open() {
    for medium in Medium::all() {
        let world = World::on(medium);
        let life = that_keeps_open(&world).await;
        let source = source(300 * KIB);
        let id = life.create(source.len()).await;
        for (start, end) in [(0, 70_000), (70_000, 70_001), (70_001, 200_000)] {
            let upload = life.append(id, start, &source[start..end]).await.unwrap();
            assert_eq!(upload.offset(), offset(end));
            assert_eq!(life.engine.inspect(&Principal::server(), id).await.unwrap().upload.offset(), offset(end));
            // A rejected request changes nothing, and the next one finds the upload as open as before.
            let refused = life.append(id, start + 1_000_000, &[]).await;
            assert!(matches!(refused, Err(EngineError::Rejected(Rejection::WrongOffset { .. }))), "{refused:?}");
        }
        assert_eq!(life.faults.calls(Operation::Open), 1);
        completes(&life, id, &source).await;
        assert_eq!(life.faults.calls(Operation::Open), 1);
        assert!(!life.engine.is_live(id).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_kept_open_is_in_nobodys_way() {
    let world = World::on_disk();
    let life = world
        .live_with(|settings| {
            settings.writer.keep_open = Duration::from_secs(60);
            settings.max_active_uploads = 1;
        })
        .await;
    let source = source(100_000);
    let (first, second, third) = (life.create(100_000).await, life.create(100_000).await, life.create(100_000).await);
    for id in [first, second, third] {
        life.append(id, 0, &source[..50_000]).await.unwrap();
        assert!(life.engine.is_live(id).await, "it is kept");
    }
    life.engine.cancel(cancelling(first)).await.unwrap();
    assert_eq!(world.files().len(), 2);
    // Nothing is lost when the program stops or dies.
    assert!(life.engine.shut_down(Duration::from_secs(10)).await);
    life.die();
    let life = that_keeps_open(&world).await;
    completes(&life, second, &source).await;
    life.append(third, 50_000, &source[50_000..60_000]).await.unwrap();
    life.die();
    let life = world.live().await;
    completes(&life, third, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_uploads_are_kept_open_than_there_is_room_for() {
    let world = World::on_disk();
    let life = that_keeps_open(&world).await;
    let mut kept = 0;
    for _ in 0..70 {
        let id = life.create(100).await;
        life.append(id, 0, b"some").await.unwrap();
        kept += usize::from(life.engine.is_live(id).await);
    }
    assert!((1..=64).contains(&kept), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_request_has_declared_is_not_committed_without_it() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.lifetimes.stall_after = Duration::from_millis(20)).await;
    let create = engine::command::Create { length: None, ..new_upload(Role::Single, 0) };
    let id = life.engine.create(create).await.unwrap().id();
    life.append(id, 0, b"hello").await.unwrap();
    let telling = Append { length: Length::new(5), ..Append::at(Principal::server(), id, offset(5), None) };
    let silent = life.engine.append(telling.clone()).await.unwrap();
    let stalled = life.wait_for_stage(id, "stalled").await;
    assert_eq!((stalled.length(), stalled.is_full()), (None, false));
    // A cut before the crash would end the request, and thereby complete the upload.
    life.die();
    drop(silent);

    let life = world.live().await;
    let feed = life.engine.append(telling).await.unwrap();
    assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    assert!(life.read(id).await == b"hello");
}

/// Commits a change of a record that no engine would make.
async fn tamper(life: &Life, id: UploadId, change: impl FnOnce(&mut Record)) {
    let mut record = life.find(id).await.record().clone();
    change(&mut record);
    life.records.commit(state::conformance::change_of(Upload::from_record(record))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_upload_that_nobody_sealed_is_finished_by_the_start_and_by_the_sweeper() {
    for dialect in [Dialect::named("tus"), Dialect::named("ranged")] {
        for state_is_readable in [true, false] {
            for at_start in [true, false] {
                let what = format!("{dialect:?} {state_is_readable} {at_start}");
                let world = World::on_disk();
                let life = world.live().await;
                let source = source(100_000);
                let create = new_upload_of(dialect, Role::Single, 200_000);
                let id = life.engine.create(create).await.unwrap().id();
                let position = if dialect == Dialect::named("tus") {
                    WritePosition::At(offset(0))
                } else {
                    WritePosition::Anywhere(offset(0))
                };
                let command = Append { dialect, position, ..Append::at(Principal::server(), id, offset(0), None) };
                let mut feed = life.engine.append(command).await.unwrap();
                feed_all(&mut feed, &source).await;
                feed.finish(BodyEnd::Complete).await.unwrap();
                life.at_rest(id).await;
                tamper(&life, id, |record| {
                    record.length = Length::new(100_000);
                    if !state_is_readable {
                        record.running_digests = vec![7; 3];
                    }
                    // Its expiry has passed as well.
                    record.expires_at = Some(record.created_at);
                })
                .await;
                life.die();

                let life = world.live().await;
                if at_start {
                    life.engine.recover().await;
                } else {
                    life.engine.start_sweeping();
                }
                let upload = life.wait_for_stage(id, "completed").await;
                assert!(life.read(id).await == source, "{what}");
                assert_eq!(upload.record().digests, [crc32c_of(&source)], "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_never_becomes_a_file() {
    for stage in [Stage::Received, Stage::Verified, Stage::Stored] {
        let world = World::on_disk();
        let life = world.live().await;
        let id = life.create(200_000).await;
        life.append(id, 0, &source(100_000)).await.unwrap();
        life.at_rest(id).await;
        tamper(&life, id, |record| record.stage = stage).await;
        life.engine.recover().await;
        let upload = life.find(id).await;
        assert_eq!(upload.stage().name(), "failed", "{stage:?}");
        assert_eq!(upload.record().failure.as_ref().map(|failure| failure.code.as_str()), Some("bytes-missing"));
        assert!(world.files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_request_waits_for_its_commit_without_looking_again_and_again() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = source(100_000);
    let id = life.create(source.len()).await;
    life.records.hold(Effect::Nothing);
    let mut feed = life.begin(id, 0).await.unwrap();
    feed_all(&mut feed, &source[..80_000]).await;
    life.records.reached().await;
    drop(feed);
    // Each of these takes longer than one iteration of a loop that does not wait.
    for _ in 0..200 {
        assert_eq!(life.committed(id).await, 0);
    }
    let polls = life.records.polls();
    assert!(polls < 50, "it was looked {polls} times whether the commit is done");
    life.records.release();
    life.at_rest(id).await;
    assert_eq!(life.committed(id).await, 80_000);
    completes(&life, id, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_that_was_given_up_ends_no_writer() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.takeover_timeout = Duration::from_millis(50)).await;
    let source = source(50_000);
    let id = life.create(source.len()).await;
    let mut first = life.begin(id, 0).await.unwrap();
    let hold = life.faults.hold(Operation::Write);
    feed_all(&mut first, &source[..1000]).await;
    hold.reached().await;
    let second = life.begin(id, 0).await;
    assert!(matches!(second, Err(EngineError::Unavailable(Unavailable::Held))), "{second:?}");
    hold.release();
    feed_all(&mut first, &source[1000..]).await;
    assert_eq!(first.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_whose_state_cannot_be_read_are_computed_from_the_stored_bytes() {
    for dialect in [Dialect::named("tus"), Dialect::named("ranged")] {
        for state in [vec![], vec![1, 2, 3]] {
            let world = World::on_disk();
            let life = world.live().await;
            let source = source(100_000);
            let wanted_digests = vec![Algorithm::Sha256];
            let new = new_upload_of(dialect, Role::Single, source.len());
            let create = engine::command::Create { wanted_digests, ..new };
            let id = life.engine.create(create).await.unwrap().id();
            for (start, end) in [(0, 60_000), (60_000, 100_000)] {
                let position = if dialect == Dialect::named("tus") {
                    WritePosition::At(offset(start))
                } else {
                    WritePosition::Anywhere(offset(start))
                };
                let command = Append { dialect, position, ..Append::at(Principal::server(), id, offset(start), None) };
                let mut feed = life.engine.append(command).await.unwrap();
                feed_all(&mut feed, &source[start..end]).await;
                feed.finish(BodyEnd::Complete).await.unwrap();
                life.at_rest(id).await;
                if start == 0 {
                    tamper(&life, id, |record| record.running_digests = state.clone()).await;
                }
            }
            let sha256 = sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(&source)).to_vec();
            let expected = [crc32c_of(&source), Digest::new(Algorithm::Sha256, sha256).unwrap()];
            assert_eq!(life.find(id).await.record().digests, expected, "{dialect:?} {state:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_removed_before_it_is_joined_is_missing_and_nothing_has_failed() {
    let world = World::on_disk();
    let life = world.live().await;
    let parts = parts(&life).await;
    let removed = parts.iter().position(|(_, bytes)| bytes.len() == 70_000).unwrap();
    let hold = life.faults.hold(Operation::Concatenate);
    let (joined, ()) = tokio::join!(concatenate(&life, &parts, vec![]), async {
        hold.reached().await;
        life.engine.cancel(cancelling(parts[removed].0)).await.unwrap();
        hold.release();
    });
    match joined {
        Err(EngineError::Rejected(Rejection::PartMissing(number))) => assert_eq!(number, removed + 1),
        other => panic!("{other:?}"),
    }
    let withdrawn = the_final(&life, &parts).await;
    assert_eq!(life.events(withdrawn.id()).await, ["created", "terminated"]);
    assert_eq!(world.files().len(), 2, "the other parts");
}
