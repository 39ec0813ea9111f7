//! Several nodes that reach each other: any of them continues any upload.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::node::Epoch;
use domain::principal::Principal;
use domain::query::UploadQuery;
use domain::rejection::Rejection;
use domain::stage::Ended;
use domain::upload::{Role, Upload};
use engine::Fence;
use engine::command::{Append, BodyEnd, EngineError, Unavailable, WritePosition};
use engine::feed::Feed;
use futures::future::join_all;
use storage::memory::MemoryStore;

use crate::support::patience::{PATIENCE, until};
use crate::support::peers::{Line, TestPeers};
use crate::support::seeded::Seeded;
use crate::support::world::{Life, Medium, World, cancelling, feed_all, new_upload_of, offset};

/// A store that ends an older writer, one that cannot, and a folder that nodes share.
fn worlds() -> [World; 3] {
    [Medium::Memory(MemoryStore::new()), Medium::sealing(), Medium::SharedFolder].map(World::on)
}

async fn two_nodes(world: &World) -> (Arc<TestPeers>, Life, Life) {
    let peers = TestPeers::new();
    let (first, second) = (world.live_among(&peers).await, world.live_among(&peers).await);
    (peers, first, second)
}

fn source() -> Vec<u8> {
    Seeded::new(1).bytes(300_000)
}

async fn epoch(life: &Life, id: UploadId) -> Epoch {
    life.find(id).await.record().lease.epoch
}

fn is_superseded(outcome: &Result<Upload, EngineError>) -> bool {
    matches!(outcome, Err(EngineError::Unavailable(Unavailable::Superseded)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_append_may_go_to_any_node() {
    for world in worlds() {
        let peers = TestPeers::new();
        let nodes = [world.live_among(&peers).await, world.live_among(&peers).await, world.live_among(&peers).await];
        let uploads = (0..20_u64).map(async |number| {
            let mut seeded = Seeded::new(number);
            let source = seeded.bytes(200_000);
            let choices = seeded.bytes(16);
            let mut choices = choices.iter().map(|choice| &nodes[usize::from(*choice) % nodes.len()]);
            let mut node = || choices.next().unwrap();
            let id = node().create(source.len()).await;
            for at in (0..source.len()).step_by(25_000) {
                let appended = node().append(id, at, &source[at..at + 25_000]).await.unwrap();
                assert_eq!(appended.offset(), offset(at + 25_000));
            }
            assert_eq!(node().find(id).await.stage().name(), "completed");
            assert!(node().read(id).await == source);
        });
        join_all(uploads).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_writer_of_another_node_yields_to_the_newest_request() {
    for world in worlds() {
        let (_peers, first, second) = two_nodes(&world).await;
        let source = source();
        let id = first.create(source.len()).await;
        first.append(id, 0, &source[..100_000]).await.unwrap();
        let mut old = first.begin(id, 100_000).await.unwrap();
        feed_all(&mut old, &source[100_000..100_500]).await;

        let began = Instant::now();
        let upload = second.append(id, 100_000, &source[100_000..]).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(upload.stage().name(), "completed");
        assert!(is_superseded(&old.finish(BodyEnd::Complete).await));
        assert_eq!(epoch(&second, id).await, Epoch::new(2));
        assert!(second.read(id).await == source);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_a_wrong_offset_disturbs_no_writer_of_another_node() {
    let [world, ..] = worlds();
    let (peers, first, second) = two_nodes(&world).await;
    let source = source();
    let id = first.create(source.len()).await;
    first.append(id, 0, &source[..100_000]).await.unwrap();
    let mut feed = first.begin(id, 100_000).await.unwrap();
    feed_all(&mut feed, &source[100_000..100_500]).await;
    for line in [Line::Open, Line::Refused, Line::Silent] {
        peers.set(first.node(), line);
        let rejected = second.append(id, 50_000, &source[50_000..]).await;
        let expected = Rejection::WrongOffset { ours: offset(100_000), theirs: offset(50_000) };
        assert!(matches!(&rejected, Err(EngineError::Rejected(why)) if *why == expected), "{line:?} {rejected:?}");
    }
    feed_all(&mut feed, &source[100_500..]).await;
    assert_eq!(feed.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    assert_eq!(epoch(&first, id).await, Epoch::new(1));
}

/// Rows F2 and F8 of the fault table: the holder runs, but no call reaches it. Its later bytes do not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_answer_loses_its_uploads() {
    for line in [Line::Silent, Line::Refused] {
        for world in worlds() {
            let (peers, first, second) = two_nodes(&world).await;
            let source = source();
            let id = first.create(source.len()).await;
            first.append(id, 0, &source[..100_000]).await.unwrap();
            let mut zombie = first.begin(id, 100_000).await.unwrap();
            feed_all(&mut zombie, &[0; 1_000]).await;

            peers.set(first.node(), line);
            let began = Instant::now();
            second.append(id, 100_000, &source[100_000..200_000]).await.unwrap();
            let bound = Duration::from_millis(if line == Line::Silent { 2_500 } else { 900 });
            assert!(began.elapsed() < bound, "{:?}", began.elapsed());
            assert_eq!(epoch(&second, id).await, Epoch::new(2));

            feed_all(&mut zombie, &[0; 100_000]).await;
            let lost = zombie.finish(BodyEnd::Complete).await;
            assert!(is_superseded(&lost), "{line:?} {lost:?}");
            first.at_rest(id).await;
            let upload = first.append(id, 200_000, &source[200_000..]).await.unwrap();
            assert_eq!(upload.stage().name(), "completed", "the former holder requests the upload in turn");
            assert!(second.read(id).await == source);
        }
    }
}

/// The holder may have released the lease or not; the lease in the state decides.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_yield_loses_nothing() {
    for world in worlds() {
        let (peers, first, second) = two_nodes(&world).await;
        peers.set(first.node(), Line::AnswersLost);
        let source = source();
        let id = first.create(source.len()).await;
        first.append(id, 0, &source[..1_000]).await.unwrap();
        let mut old = first.begin(id, 1_000).await.unwrap();
        feed_all(&mut old, &source[1_000..2_000]).await;
        let upload = second.append(id, 1_000, &source[1_000..]).await.unwrap();
        assert_eq!(upload.stage().name(), "completed");
        assert_eq!(epoch(&second, id).await, Epoch::new(2));
        assert!(is_superseded(&old.finish(BodyEnd::Complete).await));
        assert!(first.read(id).await == source);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_has_the_holder_commit_what_it_has() {
    let [world, ..] = worlds();
    let (peers, first, second) = two_nodes(&world).await;
    let source = source();
    for line in [Line::Open, Line::AnswersLost] {
        peers.set(first.node(), line);
        let id = first.create(source.len()).await;
        let mut feed = first.begin(id, 0).await.unwrap();
        feed_all(&mut feed, &source[..5_000]).await;
        let taken = async || (first.engine.received_bytes(id).await == Some(5_000)).then_some(());
        until("the bytes are accepted", taken).await;
        let inspected = second.engine.inspect(&Principal::server(), id).await.unwrap();
        assert_eq!(inspected.upload.offset(), offset(5_000));
        // Bytes that the old connection still delivers do not move the offset that was reported.
        feed_all(&mut feed, &source[5_000..9_000]).await;
        let upload = second.append(id, 5_000, &source[5_000..]).await.unwrap();
        assert_eq!(upload.stage().name(), "completed");
        assert!(first.read(id).await == source);
    }
}

/// scale-out C3: a client that resumes begins with this request, and a frozen node must not delay it.
#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_does_not_wait_for_a_silent_holder() {
    for line in [Line::Silent, Line::Stopped] {
        let [world, ..] = worlds();
        let (peers, first, second) = two_nodes(&world).await;
        let id = first.create(10_000).await;
        first.append(id, 0, &source()[..5_000]).await.unwrap();
        peers.set(first.node(), line);
        let began = Instant::now();
        let inspected = second.engine.inspect(&Principal::server(), id).await.unwrap();
        assert_eq!(inspected.upload.offset(), offset(5_000));
        assert!(began.elapsed() < Duration::from_millis(2_500), "{line:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_ends_an_upload() {
    let [world, ..] = worlds();
    let (peers, first, second) = two_nodes(&world).await;
    for line in [Line::Open, Line::Refused] {
        peers.set(first.node(), line);
        let [cancelled, deleted] = [first.create(10).await, first.create(10).await];
        let mut feeds = [first.begin(cancelled, 0).await.unwrap(), first.begin(deleted, 0).await.unwrap()];
        for feed in &mut feeds {
            feed_all(feed, b"hello").await;
        }
        second.engine.cancel(cancelling(cancelled)).await.unwrap();
        second.engine.delete(&Principal::server(), deleted).await.unwrap();
        for (id, feed) in [cancelled, deleted].into_iter().zip(feeds) {
            assert_eq!(first.find(id).await.ended(), Some(Rejection::Gone(Ended::Terminated)));
            let ended = feed.finish(BodyEnd::Complete).await;
            assert!(ended.is_err(), "{ended:?}");
        }
    }
}

/// The size of the ranges in the tests below.
const PART: usize = 20_000;

/// Sends one range of an upload that takes them in any order.
async fn send_range(node: &Life, id: UploadId, start: usize, bytes: &[u8]) -> Result<Upload, EngineError> {
    let mut feed = begin_range(node, id, start).await?;
    feed_all(&mut feed, bytes).await;
    feed.finish(BodyEnd::Complete).await
}

async fn begin_range(node: &Life, id: UploadId, start: usize) -> Result<Feed, EngineError> {
    let command = Append {
        dialect: Dialect::named("ranged"),
        position: WritePosition::Anywhere(offset(start)),
        ..Append::at(Principal::server(), id, offset(start), Some(PART as u64))
    };
    node.engine.append(command).await
}

async fn create_ranged(node: &Life, length: usize) -> UploadId {
    let command = new_upload_of(Dialect::named("ranged"), Role::Single, length);
    node.engine.create(command).await.unwrap().id()
}

/// scale-out C7: while one node receives a range, it receives those that reach other nodes, too.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_one_upload_may_go_to_several_nodes() {
    for world in [World::on(Medium::Memory(MemoryStore::new())), World::on(Medium::SharedFolder)] {
        fill_through_two_nodes(&world).await;
    }
}

async fn fill_through_two_nodes(world: &World) {
    let (_peers, first, second) = two_nodes(world).await;
    let source = source();
    let id = create_ranged(&first, source.len()).await;
    let mut open = begin_range(&first, id, 0).await.unwrap();
    feed_all(&mut open, &source[..1_000]).await;
    let nodes = [&first, &second];
    let send = async |number: usize| {
        let start = number * PART;
        let committed = send_range(nodes[number % 2], id, start, &source[start..start + PART]).await.unwrap();
        let own = |range: &(u64, u64)| range.0 <= start as u64 && range.1 >= (start + PART) as u64;
        assert!(committed.record().received.pairs().iter().any(own), "an acknowledged range is committed");
    };
    // Fewer than one upload may receive at once.
    for numbers in (1..source.len() / PART).collect::<Vec<_>>().chunks(6) {
        join_all(numbers.iter().map(|number| send(*number))).await;
    }
    feed_all(&mut open, &source[1_000..PART]).await;
    assert_eq!(open.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    assert_eq!(epoch(&second, id).await, Epoch::new(1));
    assert!(first.read(id).await == source);
}

/// scale-out C7: a holder that no call reaches loses the upload, as for a request in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_on_its_way_to_a_node_that_is_gone_is_sent_again() {
    for line in [Line::Silent, Line::Stopped, Line::Refused] {
        let [world, ..] = worlds();
        let (peers, first, second) = two_nodes(&world).await;
        let source = source();
        let id = create_ranged(&first, source.len()).await;
        let mut zombie = begin_range(&first, id, 0).await.unwrap();
        feed_all(&mut zombie, &source[..1_000]).await;
        let mut passed_on = begin_range(&second, id, PART).await.unwrap();
        feed_all(&mut passed_on, &source[PART..PART + 1_000]).await;
        let arrived = async || (first.engine.received_bytes(id).await == Some(2_000)).then_some(());
        until("the bytes arrive at the holder", arrived).await;

        peers.set(first.node(), line);
        tokio::time::timeout(PATIENCE, passed_on.ended()).await.expect("the client is notified");
        let lost = passed_on.finish(BodyEnd::Cut).await;
        assert!(matches!(lost, Err(EngineError::Unavailable(Unavailable::Held))), "{line:?} {lost:?}");
        send_range(&second, id, PART, &source[PART..2 * PART]).await.unwrap();
        assert_eq!(epoch(&second, id).await, Epoch::new(2));
        peers.set(first.node(), Line::Open);
        // Without new bytes there would be nothing to commit.
        feed_all(&mut zombie, &source[1_000..2_000]).await;
        assert!(zombie.finish(BodyEnd::Complete).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_progress_of_another_node_is_read_from_it() {
    let [world, ..] = worlds();
    let (peers, first, second) = two_nodes(&world).await;
    let source = source();
    let id = first.create(source.len()).await;
    let mut feed = first.begin(id, 0).await.unwrap();
    feed_all(&mut feed, &source[..10_000]).await;
    let principal = Principal::server();
    let received = async || second.engine.status(&principal, id).await.unwrap().live.map(|live| live.received_bytes);
    until("the bytes are seen", async || (received().await == Some(10_000)).then_some(())).await;
    let before = peers.progress_calls.load(Ordering::Relaxed);
    let listed = second.engine.list(&principal, &UploadQuery { limit: 1, ..UploadQuery::default() }).await.unwrap();
    assert_eq!(listed.found[0].live.map(|live| live.received_bytes), Some(10_000));
    assert_eq!(second.engine.received_bytes(id).await, Some(10_000));
    assert!(peers.progress_calls.load(Ordering::Relaxed) <= before + 1, "a reading is reused");
    assert!(second.engine.is_live(id).await && second.engine.readings_may_lag());

    feed_all(&mut feed, &source[10_000..20_000]).await;
    until("the reading follows", async || (second.engine.received_bytes(id).await == Some(20_000)).then_some(())).await;
    peers.set(first.node(), Line::Silent);
    let began = Instant::now();
    until("the reading is dropped", async || received().await.is_none().then_some(())).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// A node without contact to the state reports no offset for clients, and resumes with the next contact.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_node_reports_no_offset() {
    let [world, ..] = worlds();
    let fence = Fence::new(Duration::from_secs(2));
    let life = world.live_behind(fence.clone()).await;
    let id = life.create(10).await;
    let mut feed = life.begin(id, 0).await.unwrap();
    feed_all(&mut feed, b"hello").await;
    fence.closed().await;
    let fenced = |error: &EngineError| matches!(error, EngineError::Unavailable(Unavailable::Fenced));
    let appended = feed.finish(BodyEnd::Complete).await;
    assert!(appended.as_ref().is_err_and(fenced), "{appended:?}");
    let inspected = life.engine.inspect(&Principal::server(), id).await;
    assert!(inspected.as_ref().is_err_and(fenced), "{inspected:?}");
    let begun = life.begin(id, 0).await.map(drop);
    assert!(begun.as_ref().is_err_and(fenced), "{begun:?}");

    fence.renew(tokio::time::Instant::now() + Duration::from_secs(60));
    let at = life.engine.inspect(&Principal::server(), id).await.unwrap().upload.offset();
    let at = usize::try_from(at.get()).unwrap();
    let upload = life.append(id, at, &b"helloworld"[at..]).await.unwrap();
    assert_eq!(upload.stage().name(), "completed");
}
