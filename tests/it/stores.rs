//! Uploads on stores with fewer abilities than files: the engine uses only the abilities that a store
//! declares, and chooses the order in which a blob is sealed, read, checked and stored by them.

use domain::checksum::{Algorithm, Digest};
use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::metadata::Metadata;
use domain::policy::{ContentPolicy, TypePattern};
use domain::principal::{Principal, TenantId};
use domain::rejection::Rejection;
use domain::size::Length;
use domain::stage::Stage;
use domain::upload::{Role, Upload};
use engine::MediaSettings;
use engine::command::{Append, BodyEnd, Create, EngineError, WritePosition};
use engine::concatenate::Concatenate;
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use storage::faults::{Calls, Cause, Effect, Faults, Operation};
use storage::memory::MemoryStore;
use storage::{Abilities, memory};

use crate::support::patience::until;
use crate::support::seeded::Seeded;
use crate::support::world::{
    Life, Medium, PART_BYTES, Trouble, World, cancelling, feed_all, new_upload, new_upload_of, offset,
};

const KIB: usize = 1024;
const WHOLE_WAY: [&str; 6] = ["created", "receiving", "received", "verified", "stored", "completed"];

fn source(size: usize) -> Vec<u8> {
    Seeded::new(size as u64).bytes(size)
}

fn sha256_of(bytes: &[u8]) -> Digest {
    Digest::new(Algorithm::Sha256, Sha256::digest(bytes).to_vec()).unwrap()
}

/// Appends the rest of an upload, and declares a digest of the whole that no earlier request has declared.
async fn append_promising(
    life: &Life,
    id: UploadId,
    at: usize,
    rest: &[u8],
    promised: Digest,
) -> Result<Upload, EngineError> {
    let promised_digests = vec![promised];
    let command =
        Append { promised_digests, ..Append::at(Principal::server(), id, offset(at), Some(rest.len() as u64)) };
    let mut feed = life.engine.append(command).await.unwrap();
    feed_all(&mut feed, rest).await;
    feed.finish(BodyEnd::Complete).await
}

async fn concatenate(life: &Life, parts: &[UploadId], promised: Vec<Digest>) -> Result<Upload, EngineError> {
    let command = Concatenate {
        principal: Principal::server(),
        dialect: Dialect::named("tus"),
        parts: parts.to_vec(),
        as_sent: "final;…".to_owned(),
        metadata: Metadata::default(),
        metadata_as_sent: None,
        wanted_digests: Vec::new(),
        promised_digests: promised,
        caller: None,
    };
    life.engine.concatenate(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_decides_whether_bytes_are_judged_before_they_are_sealed() {
    for (medium, held_at, left_at, seals) in
        [(Medium::Disk, Operation::Finish, "verified", 0), (Medium::sealing(), Operation::Seal, "received", 1)]
    {
        let world = World::on(medium);
        let life = world.live().await;
        let source = source(100 * KIB + 7);
        let id = life.create(source.len()).await;
        life.append(id, 0, &source[..50_000]).await.unwrap();
        let hold = life.faults.hold(held_at);
        let (appended, ()) = tokio::join!(life.append(id, 50_000, &source[50_000..]), async {
            hold.reached().await;
            assert_eq!(life.find(id).await.stage().name(), left_at, "{held_at:?}");
            hold.release();
        });
        assert_eq!(appended.unwrap().stage(), Stage::Completed);
        assert!(life.read(id).await == source);
        assert_eq!(life.events(id).await, WHOLE_WAY);
        assert_eq!(life.faults.calls(Operation::Seal), seals);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_around_the_seal_is_made_good_at_the_next_start() {
    for is_done in [false, true] {
        let world = World::on(Medium::sealing());
        let life = world.live().await;
        let source = source(100_000);
        let id = life.create(source.len()).await;
        match is_done {
            true => life.faults.fail_when_done(Operation::Seal, Calls::Nth(1), Cause::BROKEN_DISK),
            false => life.faults.fail(Operation::Seal, Calls::Nth(1), Cause::BROKEN_DISK),
        }
        assert!(life.append(id, 0, &source).await.is_err());
        life.die();
        let life = world.live().await;
        assert_eq!(life.find(id).await.stage().name(), "received");
        life.engine.recover().await;
        assert_eq!(life.find(id).await.stage().name(), "completed");
        assert!(life.read(id).await == source);
        assert_eq!(life.events(id).await, WHOLE_WAY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_computed_on_the_way_is_computed_once_it_can_be_read() {
    for medium in Medium::all() {
        let world = World::on(medium);
        let life = world.live().await;
        let source = source(70 * KIB);
        for (promised, stage) in [(sha256_of(&source), "completed"), (sha256_of(b"other"), "failed")] {
            let id = life.create(source.len()).await;
            life.append(id, 0, &source[..KIB]).await.unwrap();
            let ended = append_promising(&life, id, KIB, &source[KIB..], promised).await;
            assert_eq!(ended.is_ok(), stage == "completed", "{ended:?}");
            let upload = life.find(id).await;
            assert_eq!(upload.stage().name(), stage);
            let algorithms: Vec<_> = upload.record().digests.iter().map(Digest::algorithm).collect();
            assert_eq!(algorithms, [Algorithm::Crc32c, Algorithm::Sha256]);
            assert!(upload.record().digests.contains(&sha256_of(&source)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_after_the_seal_is_removed() {
    let world = World::on(Medium::sealing());
    let policy =
        ContentPolicy { allowed_types: vec![TypePattern::new("image/*").unwrap()], ..ContentPolicy::default() };
    let life = world
        .live_with(|settings| {
            let timeout = Duration::from_secs(60);
            settings.media = Some(MediaSettings { read_limit_bytes: 1 << 20, timeout, max_at_once: 1, policy });
        })
        .await;
    let id = life.create(5).await;
    assert!(life.append(id, 0, b"hello").await.is_err());
    assert_eq!(life.events(id).await, ["created", "receiving", "received", "failed"]);
    assert_eq!(life.faults.calls(Operation::Seal), 1);
    assert!(life.stored_keys().is_empty(), "{:?}", life.stored_keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_uploads_are_sealed_before_they_are_joined() {
    let world = World::on(Medium::sealing());
    let life = world.live().await;
    let pieces = [source(100_000), source(1), source(70_000)];
    let whole = pieces.concat();
    let mut parts = Vec::new();
    for piece in &pieces {
        let part = life.engine.create(new_upload(Role::Partial, piece.len())).await.unwrap().id();
        life.append(part, 0, piece).await.unwrap();
        parts.push(part);
    }
    // The last one is left between its record and its seal.
    let late = life.engine.create(new_upload(Role::Partial, 5)).await.unwrap().id();
    life.faults.fail(Operation::Seal, Calls::Nth(life.faults.calls(Operation::Seal) + 1), Cause::BROKEN_DISK);
    assert!(append_promising(&life, late, 0, b"hello", sha256_of(b"hello")).await.is_err());
    assert_eq!(life.find(late).await.stage().name(), "received");

    let joined = concatenate(&life, &parts, vec![sha256_of(&whole)]).await.unwrap();
    assert_eq!(joined.stage().name(), "completed");
    assert!(life.read(joined.id()).await == whole);
    assert_eq!(life.events(joined.id()).await, WHOLE_WAY);

    let joined = concatenate(&life, &[late, parts[1]], vec![]).await.unwrap();
    assert!(life.read(joined.id()).await == [b"hello".to_vec(), pieces[1].clone()].concat());
    assert!(life.find(late).await.record().digests.contains(&sha256_of(b"hello")), "it was made up for");
    assert_eq!(life.find(late).await.length(), Length::new(5));
}

fn any_order(length: usize) -> Create {
    new_upload_of(Dialect::named("ranged"), Role::Single, length)
}

async fn put(life: &Life, id: UploadId, at: usize, bytes: &[u8]) -> Result<Upload, EngineError> {
    let position = WritePosition::Anywhere(offset(at));
    let command = Append {
        dialect: Dialect::named("ranged"),
        position,
        ..Append::at(Principal::server(), id, offset(at), Some(bytes.len() as u64))
    };
    let mut feed = life.engine.append(command).await?;
    feed_all(&mut feed, bytes).await;
    feed.finish(BodyEnd::Complete).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_any_order_is_refused_where_the_store_cannot_take_it() {
    for missing in [
        |abilities: &mut Abilities| abilities.any_order = false,
        |abilities: &mut Abilities| abilities.overwrites = false,
        |abilities: &mut Abilities| abilities.reads_open = false,
    ] {
        let mut abilities = memory::ABILITIES;
        missing(&mut abilities);
        let world = World::on(Medium::Memory(MemoryStore::with_abilities(abilities)));
        let life = world.live().await;
        let refused = life.engine.create(any_order(10)).await;
        assert!(matches!(refused, Err(EngineError::Rejected(Rejection::InOrderOnly))), "{abilities:?}: {refused:?}");
        life.create(10).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_begin_at_parts_where_the_store_has_some() {
    let part = usize::try_from(PART_BYTES).unwrap();
    let abilities = Abilities { part_bytes: PART_BYTES, ..memory::ABILITIES };
    let world = World::on(Medium::Memory(MemoryStore::with_abilities(abilities)));
    // The configured alignment is not a multiple of a part.
    let life = world.live_with(|settings| settings.ranges.alignment_bytes = 1000).await;
    assert_eq!(life.engine.settings().ranges.alignment_bytes, PART_BYTES);
    let source = source(3 * part + 5);
    let id = life.engine.create(any_order(source.len())).await.unwrap().id();
    for wrong in [1000, part - 1, part + 1] {
        let refused = put(&life, id, wrong, &source[wrong..]).await;
        let misaligned = Rejection::Misaligned { alignment: PART_BYTES };
        assert!(matches!(&refused, Err(EngineError::Rejected(why)) if *why == misaligned), "{wrong}: {refused:?}");
    }
    put(&life, id, 2 * part, &source[2 * part..]).await.unwrap();
    put(&life, id, 0, &source[..part]).await.unwrap();
    let upload = put(&life, id, part, &source[part..2 * part]).await.unwrap();
    assert_eq!(upload.stage(), Stage::Completed);
    assert!(life.read(id).await == source);
}

/// Creates an upload of these bytes, of which two earlier lives and a third one have written a part each.
async fn of_two_lives(world: &World, source: &[u8], role: Role) -> (Life, UploadId) {
    let life = world.live().await;
    let id = life.engine.create(new_upload(role, source.len())).await.unwrap().id();
    life.append(id, 0, &source[..50_000]).await.unwrap();
    life.die();
    let life = world.live().await;
    life.append(id, 50_000, &source[50_000..70_000]).await.unwrap();
    assert_eq!(life.stored_names(id), ["", "~2"]);
    life.die();
    (world.live().await, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_life_writes_a_blob_of_its_own_and_they_are_joined_at_stored() {
    let world = World::on(Medium::sealing());
    let source = source(100_000);
    let (life, id) = of_two_lives(&world, &source, Role::Single).await;
    assert_eq!(life.committed(id).await, 70_000);
    let hold = life.faults.hold(Operation::Concatenate);
    let promised = sha256_of(&source);
    let (appended, ()) = tokio::join!(append_promising(&life, id, 70_000, &source[70_000..], promised), async {
        hold.reached().await;
        // The bytes that are read to examine an upload may lie in several blobs.
        assert_eq!(life.find(id).await.stage().name(), "verified");
        assert_eq!(life.stored_names(id), ["", "~2", "~3"]);
        hold.release();
    });
    assert_eq!(appended.unwrap().stage(), Stage::Completed);
    assert!(life.read(id).await == source);
    assert_eq!(life.stored_names(id), ["~joined-3"]);
    assert_eq!(life.events(id).await, WHOLE_WAY);
    life.engine.cancel(cancelling(id)).await.unwrap();
    assert!(life.stored_keys().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_ends_the_same_wherever_it_breaks() {
    type Break = fn(&Faults);
    // A join that was committed is not done again.
    let breaks: [(Break, &str); 4] = [
        (|faults| faults.fail(Operation::Concatenate, Calls::Nth(1), Cause::BROKEN_DISK), "~joined-4"),
        (|faults| faults.fail_when_done(Operation::Concatenate, Calls::Nth(1), Cause::BROKEN_DISK), "~joined-4"),
        (|faults| faults.fail_when_done(Operation::Finish, Calls::Nth(1), Cause::BROKEN_DISK), "~joined-3"),
        (|faults| faults.fail_when_done(Operation::Discard, Calls::Nth(2), Cause::BROKEN_DISK), "~joined-3"),
    ];
    for (nth, (breaks, name)) in breaks.into_iter().enumerate() {
        let world = World::on(Medium::sealing());
        let source = source(100_000);
        let (life, id) = of_two_lives(&world, &source, Role::Single).await;
        breaks(&life.faults);
        assert!(life.append(id, 70_000, &source[70_000..]).await.is_err(), "{nth}");
        life.die();
        let life = world.live().await;
        life.engine.recover().await;
        assert_eq!(life.find(id).await.stage().name(), "completed", "{nth}");
        assert!(life.read(id).await == source);
        assert_eq!(life.stored_names(id), [name], "{nth}");
        assert_eq!(life.events(id).await, WHOLE_WAY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_begun_in_vain_does_not_keep_the_others_from_being_joined() {
    let world = World::on(Medium::sealing());
    let source = source(50_000);
    let life = world.live().await;
    let endless = Create { length: None, ..new_upload(Role::Single, 0) };
    let id = life.engine.create(endless).await.unwrap().id();
    life.append(id, 0, &source).await.unwrap();
    life.die();
    let life = world.live().await;
    life.faults.fail(Operation::Sync, Calls::Nth(1), Cause::BROKEN_DISK);
    let mut feed = life.begin(id, source.len()).await.unwrap();
    feed_all(&mut feed, &source).await;
    assert!(feed.finish(BodyEnd::Complete).await.is_err());
    assert_eq!(life.stored_names(id), ["", "~2"]);
    life.die();
    let life = world.live().await;
    life.faults.fail_when_done(Operation::Finish, Calls::Nth(1), Cause::BROKEN_DISK);
    let length = Length::new(source.len() as u64);
    let command = Append { length, ..Append::at(Principal::server(), id, offset(source.len()), Some(0)) };
    let ended = life.engine.append(command).await.unwrap().finish(BodyEnd::Complete).await;
    assert!(ended.is_err(), "{ended:?}");
    life.die();
    let life = world.live().await;
    life.engine.recover().await;
    assert_eq!(life.find(id).await.stage().name(), "completed");
    assert!(life.read(id).await == source);
    assert_eq!(life.stored_names(id), ["~joined-3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_joined_without_a_record_goes_with_the_upload() {
    let world = World::on(Medium::sealing());
    let source = source(100_000);
    let (life, id) = of_two_lives(&world, &source, Role::Single).await;
    let hold = life.faults.hold(Operation::Concatenate);
    let (appended, ()) = tokio::join!(life.append(id, 70_000, &source[70_000..]), async {
        hold.reached().await;
        life.records.fail_next(Effect::Nothing, Trouble::Broken);
        hold.release();
    });
    assert!(appended.is_err(), "{appended:?}");
    assert_eq!(life.stored_names(id), ["", "~2", "~3", "~joined-3"]);
    life.engine.delete(&Principal::server(), id).await.unwrap();
    assert!(life.stored_names(id).is_empty(), "{:?}", life.stored_names(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_nobody_has_written_to_are_not_kept() {
    let world = World::on(Medium::sealing());
    let source = source(100_000);
    let (mut life, id) = of_two_lives(&world, &source, Role::Single).await;
    for epoch in 3..5 {
        // Begun, but no byte is committed.
        life.faults.fail(Operation::Sync, Calls::Nth(1), Cause::BROKEN_DISK);
        assert!(life.append(id, 70_000, &source[70_000..71_000]).await.is_err());
        assert_eq!(life.stored_names(id), ["".to_owned(), "~2".to_owned(), format!("~{epoch}")]);
        life.die();
        life = world.live().await;
    }
    life.append(id, 70_000, &source[70_000..]).await.unwrap();
    assert!(life.read(id).await == source);
    assert_eq!(life.stored_names(id), ["~joined-5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_uploads_of_several_lives_are_joined_like_others() {
    let world = World::on(Medium::sealing());
    let source = source(100_000);
    let (life, id) = of_two_lives(&world, &source, Role::Partial).await;
    life.append(id, 70_000, &source[70_000..]).await.unwrap();
    let other = life.engine.create(new_upload(Role::Partial, 5)).await.unwrap().id();
    life.append(other, 0, b"hello").await.unwrap();
    let joined = concatenate(&life, &[other, id], vec![]).await.unwrap();
    assert!(life.read(joined.id()).await == [b"hello".as_slice(), &source].concat());
    life.engine.cancel(cancelling(id)).await.unwrap();
    assert!(life.stored_names(id).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_sends_after_it_was_taken_for_dead_is_nobodys() {
    let world = World::on(Medium::sealing());
    let first = world.live().await;
    let source = source(100_000);
    let id = first.create(source.len()).await;
    first.append(id, 0, &source[..50_000]).await.unwrap();
    let mut late = first.begin(id, 50_000).await.unwrap();
    feed_all(&mut late, &[0; 1_000]).await;

    let second = world.live_beside().await;
    first.counts_as_dead().await;
    second.append(id, 50_000, &source[50_000..60_000]).await.unwrap();
    let lost = late.finish(BodyEnd::Complete).await;
    assert!(lost.is_err(), "{lost:?}");
    assert_eq!(second.stored_names(id), ["", "~2"]);
    second.append(id, 60_000, &source[60_000..]).await.unwrap();
    assert!(second.read(id).await == source);
    assert_eq!(second.stored_names(id), ["~joined-2"]);
    assert_eq!(second.events(id).await, WHOLE_WAY);
}

/// access T9: the keys of a tenant's blobs begin with its number, and those of the default tenant have no
/// prefix.
#[tokio::test(flavor = "multi_thread")]
async fn each_tenant_has_its_own_keys() {
    let world = World::on(Medium::sealing());
    let source = source(1_000);
    let life = world.live().await;
    let mut keys = Vec::new();
    for number in [0, 7] {
        let principal = Principal { tenant: TenantId::from_number(number), ..Principal::server() };
        let wanted = Create { principal, ..new_upload(Role::Single, source.len()) };
        let upload = life.engine.create(wanted).await.unwrap();
        let append = Append::at(principal, upload.id(), offset(0), Some(source.len() as u64));
        let mut feed = life.engine.append(append).await.unwrap();
        feed_all(&mut feed, &source).await;
        assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage(), Stage::Completed);
        keys.push((upload.id().made_at().day_path(), upload.id()));
    }
    let [(first_day, first), (second_day, second)] = &keys[..] else { panic!("there are two uploads") };
    let mut stored: Vec<String> = life.stored_keys().iter().map(ToString::to_string).collect();
    stored.sort();
    assert_eq!(stored, [format!("{first_day}/{first}"), format!("t7/{second_day}/{second}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_joined_during_the_inventory_is_not_missing() {
    let world = World::on(Medium::sealing());
    let source = source(100_000);
    let life = world.live().await;
    // Older ones, which follow it in the list.
    for _ in 0..2 {
        let id = life.create(5).await;
        life.append(id, 0, b"hello").await.unwrap();
    }
    life.die();
    let (life, id) = of_two_lives(&world, &source, Role::Single).await;
    life.die();
    let life = world.live_with(|settings| settings.scan_rate = 10_000).await;
    let before = life.faults.calls(Operation::Size);
    let hold = life.faults.hold_calls(Operation::Size, Calls::Nth(before + 1));
    life.engine.start_inventory();
    hold.reached().await;
    let completed = life.append(id, 70_000, &source[70_000..]).await.unwrap();
    assert_eq!(life.stored_names(id), ["~joined-3"]);
    hold.release();
    until("the others are looked for", async || (life.faults.calls(Operation::Size) >= before + 3).then_some(())).await;
    let version = life.find(id).await.record().version;
    assert_eq!(version, completed.record().version, "it is not marked");
}
