//! Rules of the writer that hold for bytes in order and in any order. Rules of one of the two are tested in
//! `engine` and in `ranges`.

use std::time::Duration;

use domain::dialect::Dialect;
use domain::id::UploadId;
use domain::principal::Principal;
use domain::rejection::Rejection;
use domain::size::Length;
use domain::stage::Ended;
use domain::upload::{Role, Upload};
use engine::command::{Append, BodyEnd, Create, EngineError, Unavailable, WritePosition};
use storage::faults::{Effect, Operation};

use crate::support::seeded::Seeded;
use crate::support::world::{Life, World, cancelling, feed_all, new_upload_of, offset};

const ORDERS: [Dialect; 2] = [Dialect::named("tus"), Dialect::named("ranged")];

async fn create(life: &Life, dialect: Dialect, size: usize) -> UploadId {
    life.engine.create(new_upload_of(dialect, Role::Single, size)).await.unwrap().id()
}

/// Returns an append at the end of the stored bytes, in the form of each order.
fn appending(id: UploadId, dialect: Dialect, start: usize, count: usize) -> Append {
    let start = offset(start);
    let position =
        if dialect == Dialect::named("ranged") { WritePosition::Anywhere(start) } else { WritePosition::At(start) };
    Append { dialect, position, ..Append::at(Principal::server(), id, start, Some(count as u64)) }
}

async fn send(life: &Life, command: Append, bytes: &[u8]) -> Result<Upload, EngineError> {
    let mut feed = life.engine.append(command).await?;
    feed_all(&mut feed, bytes).await;
    feed.finish(BodyEnd::Complete).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_sent_everything_is_answered_before_its_upload_is_ended() {
    for dialect in ORDERS {
        let world = World::on_disk();
        let life = world.live().await;
        let source = Seeded::new(71).bytes(60_000);
        let id = create(&life, dialect, source.len()).await;
        let hold = life.faults.hold(Operation::Sync);
        let sending = send(&life, appending(id, dialect, 0, 30_000), &source[..30_000]);
        let ending = async {
            hold.reached().await;
            // The cancellation waits for the writer, and the writer for the disk.
            let (ended, ()) = tokio::join!(life.engine.cancel(cancelling(id)), async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                hold.release();
            });
            ended
        };
        let (sent, ended) = tokio::join!(sending, ending);
        let upload = sent.unwrap_or_else(|error| panic!("{dialect:?}: {error:?}"));
        assert_eq!(upload.offset(), offset(30_000), "{dialect:?}");
        ended.unwrap();
        let gone = life.engine.append(appending(id, dialect, 30_000, 10)).await.expect_err("it has ended");
        assert!(matches!(gone, EngineError::Rejected(Rejection::Gone(Ended::Terminated))), "{dialect:?}: {gone:?}");
        assert!(world.files().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_may_repeat_is_passed_over() {
    for dialect in ORDERS {
        let world = World::on_disk();
        let life = world.live_with(|settings| settings.cross_dialects = true).await;
        let source = Seeded::new(72).bytes(50_000);
        let id = create(&life, dialect, source.len()).await;
        send(&life, appending(id, dialect, 0, 20_000), &source[..20_000]).await.unwrap();
        let from = Append {
            position: WritePosition::From(offset(5_000)),
            ..appending(id, Dialect::named("google"), 5_000, 25_000)
        };
        let upload = send(&life, from, &source[5_000..30_000]).await.unwrap();
        assert_eq!(upload.record().received.pairs(), [(0, 30_000)], "{dialect:?}");
        send(&life, appending(id, dialect, 30_000, 20_000), &source[30_000..]).await.unwrap();
        assert!(life.read(id).await == source, "{dialect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_kept_open_takes_the_next_request_however_it_names_its_place() {
    for dialect in ORDERS {
        let world = World::on_disk();
        let life = world
            .live_with(|settings| {
                settings.cross_dialects = true;
                settings.writer.keep_open = std::time::Duration::from_secs(60);
            })
            .await;
        let source = Seeded::new(73).bytes(40_000);
        let id = create(&life, dialect, source.len()).await;
        for (position, start) in [
            (WritePosition::Anywhere(offset(0)), 0),
            (WritePosition::At(offset(10_000)), 10_000),
            (WritePosition::From(offset(20_000)), 20_000),
            (WritePosition::Anywhere(offset(30_000)), 30_000),
        ] {
            let command = Append { position, ..appending(id, dialect, start, 10_000) };
            let upload = send(&life, command, &source[start..start + 10_000]).await.unwrap();
            assert_eq!(upload.offset(), offset(start + 10_000), "{dialect:?}");
        }
        assert_eq!(life.faults.calls(Operation::Open), 1, "{dialect:?}");
        assert!(life.read(id).await == source, "{dialect:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_any_place_takes_over_an_upload_in_order() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.cross_dialects = true).await;
    let source = Seeded::new(74).bytes(20_000);
    let id = create(&life, Dialect::named("tus"), source.len()).await;
    let mut first = life.engine.append(appending(id, Dialect::named("tus"), 0, 20_000)).await.unwrap();
    feed_all(&mut first, b"stale").await;
    let newer =
        Append { position: WritePosition::Anywhere(offset(0)), ..appending(id, Dialect::named("ranged"), 0, 20_000) };
    let upload = send(&life, newer, &source).await.unwrap();
    assert_eq!(upload.stage().name(), "completed");
    let ended = first.finish(BodyEnd::Cut).await;
    assert!(matches!(ended, Err(EngineError::Unavailable(Unavailable::Superseded))), "{ended:?}");
    assert!(life.read(id).await == source);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_request_has_declared_is_forgotten_with_it() {
    let world = World::on_disk();
    let life = world.live_with(|settings| settings.writer.keep_open = std::time::Duration::from_secs(60)).await;
    let endless = Create { length: None, ..new_upload_of(Dialect::named("tus"), Role::Single, 0) };
    let id = life.engine.create(endless).await.unwrap().id();
    send(&life, appending(id, Dialect::named("tus"), 0, 5), b"hello").await.unwrap();
    let declaring = |length| Append { length: Length::new(length), ..appending(id, Dialect::named("tus"), 5, 3) };
    let cut = life.engine.append(declaring(10)).await.unwrap();
    assert_eq!(cut.finish(BodyEnd::Cut).await.unwrap().length(), None);
    let upload = send(&life, declaring(8), b" it").await.unwrap();
    assert_eq!(upload.stage().name(), "completed");
    assert!(life.read(id).await == b"hello it");
}

/// The committed offset grows between the query for it and the end of the previous writer.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_begins_below_what_is_there_goes_on_wherever_that_ends() {
    let world = World::on_disk();
    let life = world.live().await;
    let source = Seeded::new(4).bytes(300_000);
    let google = Dialect::named("google");
    let id = create(&life, google, source.len()).await;
    let from_the_start =
        || Append { position: WritePosition::From(offset(0)), ..appending(id, google, 0, source.len()) };
    let mut cut = life.engine.append(from_the_start()).await.unwrap();
    life.records.hold(Effect::Nothing);
    feed_all(&mut cut, &source[..100_000]).await;
    life.records.reached().await;

    let engine = life.engine.clone();
    let command = from_the_start();
    let again = tokio::spawn(async move { engine.append(command).await });
    // This ensures that it has queried the state, and waits for the commit.
    tokio::time::sleep(Duration::from_millis(200)).await;
    life.records.release();
    let mut again = again.await.unwrap().unwrap();
    feed_all(&mut again, &source).await;
    assert_eq!(again.finish(BodyEnd::Complete).await.unwrap().stage().name(), "completed");
    assert!(life.read(id).await == source);
    drop(cut);
}
