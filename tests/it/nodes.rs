//! Two nodes on one state and one storage: a running node loses nothing, and a node that lost its lease adds
//! nothing more.

use std::time::Duration;

use domain::id::UploadId;
use domain::node::Epoch;
use domain::principal::{Principal, TenantId, TenantScope};
use domain::query::UploadQuery;
use domain::rejection::Rejection;
use domain::stage::Ended;
use domain::upload::Role;
use engine::command::{Append, BodyEnd, Create, EngineError, Unavailable};
use futures::future::join_all;
use state::{Change, LocalBells, Uploads};
use storage::BlobStore;
use storage::faults::{Effect, Operation};
use storage::memory::MemoryStore;

use crate::support::patience::until;
use crate::support::seeded::Seeded;
use crate::support::world::{Life, Medium, Trouble, World, cancelling, feed_all, new_upload, offset, system_time};

const WHOLE_WAY: [&str; 6] = ["created", "receiving", "received", "verified", "stored", "completed"];

fn shared_world() -> World {
    World::on(Medium::Memory(MemoryStore::new()))
}

fn source() -> Vec<u8> {
    Seeded::new(1).bytes(300_000)
}

async fn epoch(life: &Life, id: UploadId) -> Epoch {
    life.find(id).await.record().lease.epoch
}

fn is_held(outcome: &Result<domain::upload::Upload, EngineError>) -> bool {
    matches!(outcome, Err(EngineError::Unavailable(Unavailable::Held)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_beside_a_running_node_takes_nothing() {
    let world = shared_world();
    let first = world.live().await;
    let source = source();
    let [moving, silent] = [first.create(source.len()).await, first.create(source.len()).await];
    first.append(silent, 0, &source[..100_000]).await.unwrap();
    let mut feed = first.begin(moving, 0).await.unwrap();
    feed_all(&mut feed, &source[..200_000]).await;
    first.wait_for_stage(moving, "receiving").await;

    let second = world.live_beside().await;
    second.engine.recover().await;
    world.pass(Duration::from_secs(3_600));
    second.engine.start_sweeping();
    let own = second.create(5).await;
    second.append(own, 0, b"h").await.unwrap();
    world.pass(Duration::from_secs(3_600));
    second.wait_for_stage(own, "stalled").await;
    for id in [moving, silent] {
        assert_eq!(
            second.find(id).await.stage().name(),
            "receiving",
            "it is the first node's to say that it is silent"
        );
        assert!(is_held(&second.append(id, 100_000, b"x").await));
        assert!(matches!(second.engine.cancel(cancelling(id)).await, Err(EngineError::Unavailable(Unavailable::Held))));
    }
    feed_all(&mut feed, &source[200_000..]).await;
    assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    first.engine.start_sweeping();
    first.wait_for_stage(silent, "stalled").await;
    assert_eq!(second.events(silent).await, ["created", "receiving", "stalled"]);
    assert_eq!(second.events(moving).await, WHOLE_WAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_an_upload_adds_nothing_and_cuts_nothing() {
    for medium in [Medium::Memory(MemoryStore::new()), Medium::sealing()] {
        let world = World::on(medium);
        let first = world.live().await;
        let source = source();
        let id = first.create(source.len()).await;
        first.append(id, 0, &source[..100_000]).await.unwrap();
        let mut late = first.begin(id, 100_000).await.unwrap();
        feed_all(&mut late, &[0; 1_000]).await;

        let second = world.live_beside().await;
        first.counts_as_dead().await;
        second.append(id, 100_000, &source[100_000..200_000]).await.unwrap();
        assert_eq!(epoch(&second, id).await, Epoch::new(2));

        let lost = late.finish(BodyEnd::Complete).await;
        assert!(lost.is_err(), "{lost:?}");
        first.at_rest(id).await;
        let refused = first.append(id, 200_000, &[0; 1_000]).await;
        assert!(is_held(&refused), "{refused:?}");
        assert_eq!(second.committed(id).await, 200_000);
        let upload = second.append(id, 200_000, &source[200_000..]).await.unwrap();
        assert_eq!(upload.stage().name(), "completed");
        assert!(second.read(id).await == source, "the bytes are the second node's");
        assert_eq!(second.events(id).await, WHOLE_WAY);
    }
}

/// The state rejects the node's commit, but only the storage can keep it from truncating the bytes that the
/// newer node has written.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_opens_late_what_it_lost_cuts_nothing() {
    let world = shared_world();
    let first = world.live().await;
    let source = source();
    let id = first.create(source.len()).await;
    first.append(id, 0, &source[..100_000]).await.unwrap();
    let mut late = first.begin(id, 100_000).await.unwrap();

    let second = world.live_beside().await;
    first.counts_as_dead().await;
    second.append(id, 100_000, &source[100_000..200_000]).await.unwrap();
    feed_all(&mut late, &[0; 1_000]).await;
    let lost = late.finish(BodyEnd::Complete).await;
    assert!(matches!(lost, Err(EngineError::Unavailable(Unavailable::Superseded))), "{lost:?}");
    first.at_rest(id).await;
    let upload = second.append(id, 200_000, &source[200_000..]).await.unwrap();
    assert_eq!(upload.stage().name(), "completed");
    assert!(second.read(id).await == source, "the bytes are the second node's");
}

/// The result of its commit is lost, and before it has queried the state again another node continues the
/// upload. No identifier was used twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_was_taken_over_is_told_as_that() {
    let world = shared_world();
    let first = world.live().await;
    first.records.hold(Effect::Done);
    first.records.fail_next(Effect::Done, Trouble::Unanswered);
    let (created, ()) = tokio::join!(first.engine.create(new_upload(Role::Single, 10)), async {
        first.records.reached().await;
        let second = world.live_beside().await;
        first.counts_as_dead().await;
        let query = UploadQuery { limit: 1, ..UploadQuery::default() };
        let found = first.records.list(TenantScope::All, &query).await.unwrap().found;
        second.append(found[0].id(), 0, &[7; 5]).await.unwrap();
        first.records.release();
    });
    assert!(matches!(created, Err(EngineError::Unavailable(Unavailable::Superseded))), "{created:?}");
}

/// The version is unchanged, so only the epoch rejects the commit.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_late_is_lost_though_nothing_else_was_committed() {
    let world = shared_world();
    let first = world.live().await;
    let source = source();
    let id = first.create(source.len()).await;
    let mut late = first.begin(id, 0).await.unwrap();

    let second = world.live_beside().await;
    first.counts_as_dead().await;
    let _taken = second.begin(id, 0).await.unwrap();
    // Not earlier, because the first bytes of an upload are committed at once.
    feed_all(&mut late, &source[..1_000]).await;
    let lost = late.finish(BodyEnd::Complete).await;
    assert!(matches!(lost, Err(EngineError::Unavailable(Unavailable::Superseded))), "{lost:?}");
    assert_eq!(second.committed(id).await, 0);
    assert_eq!(second.events(id).await, ["created"]);
}

/// The answer to a commit is lost, and the commit is not found. It may still take effect, so the
/// upload continues in a new epoch, which excludes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_doubt_cannot_take_effect_once_the_upload_continues() {
    for medium in [Medium::Memory(MemoryStore::new()), Medium::sealing()] {
        let world = World::on(medium);
        let life = world.live().await;
        let source = source();
        let id = life.create(source.len()).await;
        life.append(id, 0, &source[..100_000]).await.unwrap();
        let mut late = life.find(id).await;

        life.records.fail_next(Effect::Nothing, Trouble::Unanswered);
        assert!(life.append(id, 100_000, &source[100_000..200_000]).await.is_err());
        life.at_rest(id).await;
        let mut feed = life.begin(id, 100_000).await.unwrap();
        assert_eq!(epoch(&life, id).await, Epoch::new(2));
        late.stall(system_time());
        let late = life.records.commit(Change::new(late, |_, _| String::new(), || [9; 10])).await;
        assert!(matches!(&late, Err(state::Error::Conflict(_))), "{late:?}");
        feed_all(&mut feed, &source[100_000..]).await;
        assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
        assert!(life.read(id).await == source);
    }

    let world = shared_world();
    let life = world.live().await;
    let id = life.create(10).await;
    life.records.fail_next(Effect::Done, Trouble::Unanswered);
    life.append(id, 0, b"hello").await.unwrap();
    life.append(id, 5, b"world").await.unwrap();
    assert_eq!(epoch(&life, id).await, Epoch::new(1), "a commit that is found is not in doubt");
}

/// A writer whose commit is in doubt begins a new epoch before it ends, so that doubts do not add up against
/// the limit of active uploads.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_in_doubt_begins_a_new_epoch_before_it_ends() {
    let world = shared_world();
    let life = world.live_with(|settings| settings.max_active_uploads = 1).await;
    for _ in 0..3 {
        let id = life.create(10).await;
        life.append(id, 0, b"he").await.unwrap();
        life.records.fail_next(Effect::Nothing, Trouble::Unanswered);
        assert!(life.append(id, 2, b"llo").await.is_err());
        life.at_rest(id).await;
        assert_eq!(epoch(&life, id).await, Epoch::new(2), "the commit in doubt is excluded");
        assert_eq!(life.committed(id).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_changes_hands_once_for_each_node() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = source();
    let id = life.create(source.len()).await;
    for at in [0, 1_000, 2_000] {
        life.append(id, at, &source[at..at + 1_000]).await.unwrap();
        assert_eq!(epoch(&life, id).await, Epoch::new(1), "a node resumes its own upload in the same epoch");
    }
    life.die();
    let life = world.live().await;
    for at in [3_000, 4_000] {
        life.append(id, at, &source[at..at + 1_000]).await.unwrap();
        assert_eq!(epoch(&life, id).await, Epoch::new(2));
    }
    life.engine.cancel(cancelling(id)).await.unwrap();
    until("its bytes are gone", async || world.files().is_empty().then_some(())).await;
}

/// Here no ring of one node reaches the other, so a task that waits at the other node polls.
#[tokio::test(flavor = "multi_thread")]
async fn a_ring_that_is_lost_only_makes_news_slow() {
    let world = shared_world();
    let first = world.live().await;
    let second = world.live_beside_with(LocalBells::with_poll_interval(Duration::from_millis(50))).await;
    let id = first.create(5).await;
    let mut all = second.engine.bell_for_all();
    let mut feed = first.begin(id, 0).await.unwrap();
    feed_all(&mut feed, b"hello").await;
    first.records.hold(Effect::Done);
    let finishing = tokio::spawn(feed.finish(BodyEnd::Complete));
    first.records.reached().await;
    assert!(second.find(id).await.is_settling());

    let waiting = second.engine.clone();
    let inspecting = tokio::spawn(async move { waiting.inspect(&Principal::server(), id).await });
    // This ensures that it waits before there is any change to see.
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.records.release();
    finishing.await.unwrap().unwrap();
    assert_eq!(inspecting.await.unwrap().unwrap().upload.stage().name(), "completed");
    tokio::time::timeout(Duration::from_secs(5), all.rung()).await.expect("it looks again");
}

/// The behavior of an adapter whose rings reach other nodes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_how_far_the_writer_of_another_is() {
    let world = shared_world();
    let first = world.live().await;
    let [seeing, blind] = [world.live_beside_seeing(&first).await, world.live_beside().await];
    let id = first.create(300_000).await;
    let mut feed = first.begin(id, 0).await.unwrap();
    feed_all(&mut feed, &source()[..10_000]).await;
    until("the bytes are taken", async || (first.engine.received_bytes(id).await == Some(10_000)).then_some(())).await;
    let principal = Principal::server();
    let received = async |life: &Life| {
        let one = life.engine.status(&principal, id).await.unwrap();
        let query = UploadQuery { limit: 1, ..UploadQuery::default() };
        let listed = life.engine.list(&principal, &query).await.unwrap().found.remove(0);
        assert_eq!(one.live.map(|live| live.received_bytes), listed.live.map(|live| live.received_bytes));
        one.live.map(|live| live.received_bytes)
    };
    assert_eq!((received(&first).await, received(&seeing).await), (Some(10_000), Some(10_000)));
    assert_eq!(received(&blind).await, None, "only the committed bytes are known there");
    drop(feed);
    first.at_rest(id).await;
    assert_eq!(received(&seeing).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_writes_is_not_the_inventorys_to_mark() {
    let store = MemoryStore::new();
    let world = World::on(Medium::Memory(store.clone()));
    let first = world.live().await;
    // Older ones, which follow it in the list.
    for _ in 0..2 {
        let id = first.create(5).await;
        first.append(id, 0, b"hello").await.unwrap();
    }
    let id = first.create(10).await;
    first.append(id, 0, b"hello").await.unwrap();
    let written = first.find(id).await.record().version;
    let keys = first.stored_keys();
    let key = keys.iter().find(|key| key.as_str().ends_with(&id.to_string())).unwrap();
    store.discard(key, storage::Epoch::FIRST, None).await.unwrap();

    let second = world.live_beside_scanning(10_000).await;
    second.engine.start_inventory();
    until("the others are looked for", async || (second.faults.calls(Operation::Size) >= 3).then_some(())).await;
    assert_eq!(second.find(id).await.record().version, written, "the first node may be about to write it");
}

/// The inventory finds the blobs of an upload that continues on another node, and does not decide about them.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_an_upload_calls_none_of_its_bytes_missing() {
    for world in [shared_world(), World::on(Medium::sealing())] {
        let first = world.live().await;
        let source = source();
        let id = first.create(source.len()).await;
        let mut late = first.begin(id, 0).await.unwrap();

        let second = world.live_beside().await;
        first.counts_as_dead().await;
        assert_eq!(second.append(id, 0, &source).await.unwrap().stage().name(), "completed");
        feed_all(&mut late, &source[..1_000]).await;
        let lost = late.finish(BodyEnd::Complete).await;
        assert!(matches!(lost, Err(EngineError::Unavailable(Unavailable::Superseded))), "{lost:?}");
        first.at_rest(id).await;
        assert_eq!(second.find(id).await.record().missing_since, None);
        assert!(second.read(id).await == source);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_node_would_take_is_refused_by_all() {
    let world = shared_world();
    let first = world.live().await;
    let [ended, completed, open] = [first.create(5).await, first.create(5).await, first.create(5).await];
    first.engine.cancel(cancelling(ended)).await.unwrap();
    first.append(completed, 0, b"hello").await.unwrap();

    let second = world.live_beside().await;
    let gone = Rejection::Gone(Ended::Terminated);
    let refused = second.append(ended, 0, b"x").await;
    assert!(matches!(&refused, Err(EngineError::Rejected(why)) if *why == gone), "{refused:?}");
    let refused = second.engine.cancel(cancelling(ended)).await;
    assert!(matches!(&refused, Err(EngineError::Rejected(why)) if *why == gone), "{refused:?}");
    let refused = second.append(completed, 0, b"x").await;
    assert!(matches!(&refused, Err(EngineError::Rejected(_))), "{refused:?}");
    assert!(is_held(&second.append(open, 3, b"x").await), "where it ends is for the other node to say");

    first.counts_as_dead().await;
    let refused = second.append(open, 0, &[0; 9]).await;
    assert!(matches!(&refused, Err(EngineError::Rejected(Rejection::BeyondLength(_)))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_neither_disturbs_a_writer_nor_learns_of_it() {
    let world = shared_world();
    let life = world.live().await;
    let id = life.create(5).await;
    let mut feed = life.begin(id, 0).await.unwrap();
    feed_all(&mut feed, b"h").await;
    life.wait_for_stage(id, "receiving").await;
    feed_all(&mut feed, b"e").await;
    until("it is taken", async || (life.engine.received_bytes(id).await == Some(2)).then_some(())).await;

    let stranger = Principal { tenant: TenantId::from_number(7), ..Principal::server() };
    let synced = life.faults.calls(Operation::Sync);
    let inspected = life.engine.inspect(&stranger, id).await;
    assert!(matches!(&inspected, Err(EngineError::Rejected(Rejection::NotFound))), "{inspected:?}");
    let discarded = life.engine.discard(&stranger, id).await;
    assert!(matches!(&discarded, Err(EngineError::Rejected(Rejection::NotFound))), "{discarded:?}");
    assert_eq!(life.faults.calls(Operation::Sync), synced, "nothing was committed for it");
    feed_all(&mut feed, b"llo").await;
    assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
}

/// The minimum of free disk space is checked for bytes to come. Received bytes, and a request without a byte,
/// need none.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_brings_nothing_ends_well_on_a_disk_that_has_become_full() {
    let world = World::on_disk();
    let life = world.live().await;
    let endless = Create { length: None, ..new_upload(Role::Single, 0) };
    let id = life.engine.create(endless).await.unwrap().id();
    life.append(id, 0, b"hello").await.unwrap();
    life.die();
    let life = world.live_with(|settings| settings.space.min_free_bytes = u64::MAX / 2).await;
    let command = Append::at(Principal::server(), id, offset(5), Some(0));
    let feed = life.engine.append(command).await.unwrap();
    let upload = feed.finish(BodyEnd::Complete).await.unwrap();
    assert_eq!(upload.offset(), offset(5));
}

/// scale-out C8: several sweepers share the uploads that no node holds, and leave those of the others alone.
#[tokio::test(flavor = "multi_thread")]
async fn three_sweepers_expire_every_upload_once_and_no_live_one() {
    const EXPIRING: usize = 300;
    const LIVE: usize = 50;
    let world = shared_world();
    let gone = world.live().await;
    let expiring = join_all((0..EXPIRING).map(|_| gone.create(1_000))).await;
    gone.counts_as_dead().await;
    gone.die();
    world.pass(Duration::from_hours(20));
    let lives = [world.live_beside().await, world.live_beside().await, world.live_beside().await];
    let mut feeds = Vec::new();
    for life in lives.iter().cycle().take(LIVE) {
        let id = life.create(1_000).await;
        let mut feed = life.begin(id, 0).await.unwrap();
        feed_all(&mut feed, &[7; 10]).await;
        life.wait_for_stage(id, "receiving").await;
        feeds.push((life, id, feed));
    }
    world.pass(Duration::from_hours(20));
    for life in &lives {
        life.engine.start_sweeping();
    }
    for id in &expiring {
        lives[0].wait_for_stage(*id, "expired").await;
        assert_eq!(lives[1].events(*id).await, ["created", "expired"]);
    }
    for (life, id, mut feed) in feeds {
        feed_all(&mut feed, &[7; 990]).await;
        assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
        assert_eq!(life.events(id).await, WHOLE_WAY);
    }
}

/// scale-out C8: the sweeper of another node takes over when the one with the duty has died.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweeper_takes_over_the_duty_of_a_dead_node() {
    let world = shared_world();
    let first = world.live().await;
    first.engine.start_sweeping();
    let id = first.create(1_000).await;
    world.pass(Duration::from_hours(40));
    first.wait_for_stage(id, "expired").await;
    let second = world.live_beside().await;
    let orphan = first.create(1_000).await;
    first.counts_as_dead().await;
    first.die();
    world.pass(Duration::from_hours(40));
    second.engine.start_sweeping();
    second.wait_for_stage(orphan, "expired").await;
}
