//! Nodes that keep uploads in one folder: a node that was taken over keeps writing, and changes nothing.

use std::sync::Arc;
use std::time::Duration;

use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::node::Epoch;
use domain::principal::Principal;
use domain::upload::{Role, Upload};
use engine::command::{Append, BodyEnd, EngineError, WritePosition};
use storage::faults::{Calls, Operation};

use crate::support::patience::until;
use crate::support::peers::{Line, TestPeers};
use crate::support::seeded::Seeded;
use crate::support::world::{Life, Medium, World, feed_all, new_upload_of, offset};

const SIZE: usize = 300_000;

async fn two_nodes(world: &World) -> (Arc<TestPeers>, Life, Life) {
    let peers = TestPeers::new();
    let (first, second) = (world.live_among(&peers).await, world.live_among(&peers).await);
    (peers, first, second)
}

/// Appends until a node accepts it: the upload may be on its way from one node to another.
async fn append_rest(life: &Life, id: UploadId, source: &[u8]) -> Upload {
    until("the rest is accepted", async || {
        let upload = life.find(id).await;
        if !upload.stage().takes_bytes() {
            return upload.is_settled().then_some(upload);
        }
        let at = usize::try_from(upload.offset().get()).unwrap();
        life.append(id, at, &source[at..]).await.ok()
    })
    .await
}

async fn put(life: &Life, id: UploadId, at: usize, bytes: &[u8]) -> Result<Upload, EngineError> {
    let command = Append {
        dialect: Dialect::named("ranged"),
        position: WritePosition::Anywhere(offset(at)),
        ..Append::at(Principal::server(), id, offset(at), Some(bytes.len() as u64))
    };
    let mut feed = life.engine.append(command).await?;
    feed_all(&mut feed, bytes).await;
    feed.finish(BodyEnd::Complete).await
}

/// scale-out C3: as long as the holder answers, the upload stays in one file, which is moved and not copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_takeover_stays_in_the_file() {
    for medium in [Medium::SharedFolder, Medium::sealing()] {
        let world = World::on(medium);
        let (_peers, first, second) = two_nodes(&world).await;
        let source = Seeded::new(1).bytes(SIZE);
        let id = first.create(SIZE).await;
        for (turn, at) in (0..SIZE).step_by(50_000).enumerate() {
            let node = [&first, &second][turn % 2];
            let upload = node.append(id, at, &source[at..at + 50_000]).await.unwrap();
            assert_eq!(upload.record().lease.epoch, Epoch::new(turn as u64 + 1));
            assert!(upload.generations().is_single() && upload.has_sole_writer(), "{:?}", upload.generations());
        }
        assert!(first.read(id).await == source);
        assert!(world.files().len() <= 1, "{:?}", world.files());
    }
}

/// scale-out C3: the same for a node that has left, which no call reaches any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_left_hands_its_uploads_over() {
    let world = World::on(Medium::SharedFolder);
    let (peers, first, second) = two_nodes(&world).await;
    let source = Seeded::new(2).bytes(SIZE);
    let id = first.create(SIZE).await;
    first.append(id, 0, &source[..100_000]).await.unwrap();
    assert!(first.engine.shut_down(Duration::from_secs(10)).await);
    first.leaves().await;
    peers.set(first.node(), Line::Silent);
    let upload = second.append(id, 100_000, &source[100_000..]).await.unwrap();
    assert!(upload.generations().is_single() && upload.has_sole_writer(), "{:?}", upload.generations());
    assert!(second.read(id).await == source);
}

/// Rows F2 and F8 of the fault table, in every state that the frozen node can be in: it stops before an
/// operation of its storage, is taken over, and does the operation after that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_node_does_later_changes_nothing() {
    let operations = [Operation::Open, Operation::Write, Operation::Checkpoint, Operation::Sync, Operation::Finish];
    for operation in operations {
        for nth in 1..4 {
            let world = World::on(Medium::SharedFolder);
            let (peers, first, second) = two_nodes(&world).await;
            let case = format!("{operation:?} {nth}");
            let mut seeded = Seeded::new(nth);
            let source = seeded.bytes(SIZE);
            let id = first.create(SIZE).await;
            let hold = first.faults.hold_calls(operation, Calls::Nth(nth));
            let frozen = async {
                for at in (0..SIZE).step_by(100_000) {
                    // A frozen node may lose the upload at any of them.
                    if first.append(id, at, &source[at..at + 100_000]).await.is_err() {
                        return;
                    }
                }
            };
            let taking_over = async {
                let is_done = async || second.find(id).await.stage().name() == "completed";
                tokio::select! {
                    () = hold.reached() => {}
                    () = async { while !is_done().await { tokio::task::yield_now().await } } => return,
                }
                peers.set(first.node(), Line::Silent);
                first.counts_as_dead().await;
                second.engine.recover().await;
                let upload = append_rest(&second, id, &source).await;
                assert_eq!(upload.stage().name(), "completed", "{case}");
                assert!(second.read(id).await == source, "{case}");
                drop(hold);
            };
            tokio::join!(frozen, taking_over);
            first.at_rest(id).await;
            let upload = second.find(id).await;
            assert_eq!((upload.stage().name(), upload.record().missing_since), ("completed", None), "{case}");
            assert!(second.read(id).await == source, "{case}");
            until(&format!("{case}: one file is left"), async || (world.files().len() == 1).then_some(())).await;
            let length = std::fs::metadata(&world.files()[0]).unwrap().len();
            assert_eq!(length, SIZE as u64, "{case}");
        }
    }
}

/// The same while the bytes of several generations are joined: two nodes join into two files.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_join_harms_no_other() {
    for nth in 1..3 {
        let world = World::on(Medium::SharedFolder);
        let (peers, first, second) = two_nodes(&world).await;
        let source = Seeded::new(nth).bytes(SIZE);
        let id = first.create(SIZE).await;
        first.append(id, 0, &source[..100_000]).await.unwrap();
        peers.set(first.node(), Line::Refused);
        second.append(id, 100_000, &source[100_000..200_000]).await.unwrap();
        peers.set(second.node(), Line::Refused);
        let operation = if nth == 1 { Operation::Concatenate } else { Operation::Finish };
        let hold = first.faults.hold(operation);
        let joining = async { drop(first.append(id, 200_000, &source[200_000..]).await) };
        let taking_over = async {
            hold.reached().await;
            first.counts_as_dead().await;
            second.engine.recover().await;
            let upload = append_rest(&second, id, &source).await;
            assert_eq!(upload.stage().name(), "completed");
            drop(hold);
        };
        tokio::join!(joining, taking_over);
        first.at_rest(id).await;
        assert!(second.read(id).await == source);
        until("one file is left", async || (world.files().len() == 1).then_some(())).await;
    }
}

/// Bytes behind a gap have been acknowledged. The gap is filled in a file that the former holder does not
/// write to.
#[tokio::test(flavor = "multi_thread")]
async fn gaps_are_filled_after_an_unclean_takeover() {
    let world = World::on(Medium::SharedFolder);
    let (peers, first, second) = two_nodes(&world).await;
    let source = Seeded::new(3).bytes(SIZE);
    let command = new_upload_of(Dialect::named("ranged"), Role::Single, SIZE);
    let id = first.engine.create(command).await.unwrap().id();
    put(&first, id, 0, &source[..50_000]).await.unwrap();
    put(&first, id, 200_000, &source[200_000..]).await.unwrap();
    let hold = first.faults.hold(Operation::Write);
    let frozen = async { drop(put(&first, id, 50_000, &[0; 150_000]).await) };
    let taking_over = async {
        hold.reached().await;
        peers.set(first.node(), Line::Silent);
        put(&second, id, 100_000, &source[100_000..200_000]).await.unwrap();
        drop(hold);
    };
    tokio::join!(frozen, taking_over);
    first.at_rest(id).await;
    let upload = put(&second, id, 50_000, &source[50_000..100_000]).await.unwrap();
    assert_eq!(upload.stage().name(), "completed");
    assert!(second.read(id).await == source);
    assert_eq!(world.files().len(), 1, "{:?}", world.files());
}
