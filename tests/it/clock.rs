//! Uploads while the clock is set forward and back, also across a restart.

use std::time::Duration;

use domain::id::UploadId;
use domain::principal::Principal;
use domain::time::Timestamp;
use domain::upload::Upload;
use engine::EngineSettings;
use storage::faults::{Calls, Cause, Operation};

use crate::support::patience::until;
use crate::support::world::{Life, World, cancelling};

const HOUR: Duration = Duration::from_hours(1);
const EXPIRY: Duration = Duration::from_hours(24);

/// Waits for this many more sweeps.
async fn sweeps(life: &Life, more: u64) {
    // A removal that keeps failing is retried at every sweep, and so counts the sweeps.
    let counter = life.create(2).await;
    life.faults.fail(Operation::Discard, Calls::From(1), Cause::BROKEN_DISK);
    life.engine.cancel(cancelling(counter)).await.unwrap();
    let enough = life.faults.calls(Operation::Discard) + more;
    until("it sweeps", async || (life.faults.calls(Operation::Discard) >= enough).then_some(())).await;
}

async fn expires_at(life: &Life, id: UploadId) -> Timestamp {
    let found = life.engine.inspect(&Principal::server(), id).await.unwrap();
    assert!(found.gone.is_none(), "{:?}", found.gone);
    found.upload.record().expires_at.unwrap()
}

/// Reports whether an upload is gone for the dialects, after checking that the status agrees.
async fn is_gone(life: &Life, id: UploadId) -> bool {
    let inspected = life.engine.inspect(&Principal::server(), id).await.unwrap().gone.is_some();
    let status = life.engine.status(&Principal::server(), id).await.unwrap();
    assert_eq!(status.expired || matches!(status.upload.stage().name(), "expired"), inspected);
    inspected
}

fn stage(upload: &Upload) -> &'static str {
    upload.stage().name()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_ahead_expires_and_stalls_nothing_that_was_there() {
    let world = World::on_disk();
    let life = world.live().await;
    let (resumed, stopped, left) = (life.create(2).await, life.create(2).await, life.create(2).await);
    life.append(resumed, 0, b"x").await.unwrap();
    let told = expires_at(&life, left).await;
    life.engine.start_sweeping();
    sweeps(&life, 1).await;
    world.step_ahead(2 * EXPIRY);
    sweeps(&life, 3).await;
    let added = expires_at(&life, left).await.since(told);
    assert!(added.abs_diff(2 * EXPIRY) < Duration::from_secs(20), "{added:?} more, by its own status");
    assert_eq!(life.events(resumed).await, ["created", "receiving"]);
    assert_eq!(stage(&life.append(resumed, 1, b"y").await.unwrap()), "completed");
    life.engine.cancel(cancelling(stopped)).await.unwrap();
    // All of its time has passed.
    world.pass(EXPIRY + HOUR);
    life.wait_for_stage(left, "expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_created_after_a_step_lives_exactly_as_long_as_it_says() {
    for ahead in [true, false] {
        let world = World::on_disk();
        let life = world.live_with(|settings| settings.lifetimes.unfinished_expiry = HOUR).await;
        life.create(2).await;
        if ahead {
            world.step_ahead(10 * HOUR)
        } else {
            world.step_back(10 * HOUR)
        }
        let id = life.create(2).await;
        let before = expires_at(&life, id).await;
        world.pass(HOUR - Duration::from_mins(1));
        assert_eq!(expires_at(&life, id).await, before);
        world.pass(Duration::from_mins(2));
        assert!(is_gone(&life, id).await, "ahead: {ahead}");
        assert!(life.engine.cancel(cancelling(id)).await.is_err(), "every caller gets the same answer");
        life.engine.start_sweeping();
        life.wait_for_stage(id, "expired").await;
    }
}

/// The extension is stored when the earlier expiry is reached.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_takes_no_time_back_that_was_needed() {
    let world = World::on_disk();
    let life = world.live().await;
    let id = life.create(2).await;
    life.engine.start_sweeping();
    sweeps(&life, 1).await;
    world.step_ahead(2 * EXPIRY);
    sweeps(&life, 3).await;
    let told = expires_at(&life, id).await;
    life.die();
    let life = world.live().await;
    life.engine.recover().await;
    life.engine.start_sweeping();
    sweeps(&life, 2).await;
    assert_eq!(expires_at(&life, id).await, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_a_clock_that_was_ahead_begins_its_time_when_that_is_set_back() {
    for restarts in [false, true] {
        let world = World::on_disk();
        world.step_ahead(1_000 * HOUR);
        let mut life = world.live_with(quick_to_stall).await;
        let id = life.create(2).await;
        life.append(id, 0, b"x").await.unwrap();
        if restarts {
            life.die();
            world.step_back(1_000 * HOUR);
            life = world.live_with(quick_to_stall).await;
            life.engine.recover().await;
        } else {
            life.engine.start_sweeping();
            sweeps(&life, 1).await;
            world.step_back(1_000 * HOUR);
        }
        let new = life.create(2).await;
        until("its time begins", async || {
            let (old, new) = (expires_at(&life, id).await, expires_at(&life, new).await);
            (old.since(new) < Duration::from_mins(1)).then_some(())
        })
        .await;
        life.engine.start_sweeping();
        world.pass(Duration::from_mins(1));
        life.wait_for_stage(id, "stalled").await;
        world.pass(EXPIRY);
        life.wait_for_stage(id, "expired").await;
    }
}

fn quick_to_stall(settings: &mut EngineSettings) {
    settings.lifetimes.stall_after = Duration::from_secs(30);
    settings.lifetimes.unfinished_expiry = EXPIRY;
}
