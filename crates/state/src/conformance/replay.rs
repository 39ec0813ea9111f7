//! Replays, and the removal of old data.

use super::leases::two_nodes;
use super::*;
use domain::delivery::{AttemptTrigger, ReplayOutcome, ReplaySelection};
use domain::id::{DeliveryId, ReplayId};
use domain::log::EventPosition;
use domain::query::UploadQuery;
use domain::replay::{ReplayJob, ReplayState};

use DeliveryState::*;

use crate::Error;
use domain::endpoint::Ordering;
use domain::failure::{Failure, RejectionKind};
use domain::principal::TenantScope;
use domain::report::NewReport;

async fn give_up<S: Outbox>(store: &S, claim: &Claim, now: Timestamp) {
    settle(store, vec![settlement(claim, AttemptOutcome::Status(500), Disposition::Dead)], now).await;
}

/// A single delivery is replayed (webhooks L3, L4, L5).
pub async fn one_delivery_is_sent_again<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.created"])], NOW).await.unwrap();
    store.insert(change_of(new_upload(0))).await.unwrap();
    let first = claim(&*store, "a", at(1)).await.remove(0);
    let id = first.delivery;
    let replay = async |force, now| store.replay(TenantScope::All, id, force, now).await.unwrap();
    assert_eq!(replay(true, at(1)).await, ReplayOutcome::UnderWay);
    retry(&*store, &first, at(500), at(2)).await;

    // The automatic retry and the replay are the same delivery.
    assert_eq!(replay(false, at(3)).await, ReplayOutcome::Queued);
    let second = claim(&*store, "a", at(3)).await.remove(0);
    let expected = Claim {
        lease: second.lease,
        trigger: AttemptTrigger::Manual,
        begun_at: at(3),
        attempts: 1,
        attempts_before: 1,
        ..first
    };
    assert_eq!(second, expected);
    give_up(&*store, &second, at(4)).await;
    assert_eq!(replay(false, at(5)).await, ReplayOutcome::Queued);
    let third = claim(&*store, "a", at(5)).await.remove(0);
    assert_eq!((third.attempts, third.attempts_before), (2, 2));
    succeed(&*store, &third, at(6)).await;

    assert_eq!(replay(false, at(7)).await, ReplayOutcome::HasSucceeded);
    assert_eq!(states_at(&*store, "a").await, [Succeeded]);
    assert_eq!(replay(true, at(7)).await, ReplayOutcome::Queued);
    assert_eq!(states_at(&*store, "a").await, [Ready]);
    pause(&*store, "a", at(8)).await;
    assert_eq!(replay(false, at(9)).await, ReplayOutcome::Queued);
    assert_eq!(states_at(&*store, "a").await, [Paused], "with its endpoint");
    assert_eq!(store.delivery(TenantScope::All, id).await.unwrap().unwrap().finished_at, None);
    store.open_for(own(), vec![], at(10)).await.unwrap();
    assert_eq!(replay(true, at(10)).await, ReplayOutcome::NoEndpoint);
    let unknown = DeliveryId::new(NOW, [3; 10]);
    assert_eq!(store.replay(TenantScope::All, unknown, true, at(10)).await.unwrap(), ReplayOutcome::NoDelivery);
}

/// A waiting delivery is sent without a replay, and a replay does not move it ahead of others.
pub async fn what_waits_is_not_sent_before_its_turn<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    complete(&mut upload, NOW);
    store.commit(change_of(upload)).await.unwrap();
    let second = deliveries_to(&*store, "a").await.remove(1);
    assert_eq!(store.replay(TenantScope::All, second.id, true, at(1)).await.unwrap(), ReplayOutcome::Queued);
    assert_eq!(claimed(&*store, "a", at(1)).await, [1]);
}

/// Strict order also holds for replayed deliveries and for those that a pause delayed (webhooks G7).
pub async fn strict_order_outlives_replays_and_pauses<P: StateFixture>(place: P) {
    let store = place.open().await;
    let plain = subscribed("a", &["upload.*"]);
    let terms = EndpointTerms { ordering: Ordering::Strict, ..plain.terms.clone() };
    store.open_for(own(), vec![Endpoint { terms, ..plain }], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    complete(&mut upload, NOW);
    store.commit(change_of(upload)).await.unwrap();
    for second in 1..=6 {
        let due = claim(&*store, "a", at(second)).await;
        give_up(&*store, &due[0], at(second)).await;
    }
    assert_eq!(states_at(&*store, "a").await, [Dead; 6]);
    let dead = job(ReplaySelection::Dead, NOW, at(100));
    store.begin_replay(dead.clone()).await.unwrap();
    assert_eq!(run(&*store, &dead).await.queued, 6);
    assert_eq!(states_at(&*store, "a").await, [Ready, Waiting, Waiting, Waiting, Waiting, Waiting]);
    pause(&*store, "a", at(70)).await;
    put_state(&*store, "a", EndpointState::Enabled, at(71)).await;
    for sequence in 1..=6 {
        let due = claim(&*store, "a", at(72)).await;
        assert_eq!(due.iter().map(sequence_of).collect::<Vec<_>>(), [sequence]);
        succeed(&*store, &due[0], at(72)).await;
    }
}

/// Retries become due at once, in order, and keep the attempts they had left. A delivery that fails again
/// waits by its schedule again.
pub async fn what_is_pending_is_due_at_once<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    complete(&mut upload, NOW);
    store.commit(change_of(upload)).await.unwrap();
    for _ in 0..3 {
        let due = claim(&*store, "a", at(2)).await;
        retry(&*store, &due[0], at(500), at(2)).await;
    }
    let other = claim(&*store, "b", at(2)).await.remove(0);
    retry(&*store, &other, at(500), at(2)).await;
    let begun = store.begin_replay(job(ReplaySelection::Pending, Timestamp::from_unix_ms(0), at(50))).await.unwrap();
    assert_eq!((begun.state, begun.queued, begun.finished_at), (ReplayState::Done, 6, Some(at(50))));
    assert_eq!(store.replay_jobs(TenantScope::All).await.unwrap(), [begun]);
    let due = claim(&*store, "a", at(50)).await;
    assert_eq!(due.iter().map(sequence_of).collect::<Vec<_>>(), [4, 1, 2, 3], "by how long they have been due");
    assert_eq!((due[1].attempts, due[1].attempts_before, due[1].begun_at), (1, 0, NOW), "its schedule goes on");
    retry(&*store, &due[1], at(900), at(51)).await;
    while store.advance_backlog(100, at(52)).await.unwrap() {}
    assert_eq!(claimed(&*store, "a", at(52)).await, [0_u64; 0]);
    let planned = deliveries_to(&*store, "b").await[0].next_attempt_at;
    assert_eq!(planned, Some(at(500)), "another endpoint's wait as they did");
}

/// A replay sends nothing to a stopped endpoint; its pending deliveries are due when it is resumed.
pub async fn what_is_pending_waits_with_its_endpoint<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.created"])], NOW).await.unwrap();
    store.insert(change_of(new_upload(0))).await.unwrap();
    let due = claim(&*store, "a", at(2)).await;
    retry(&*store, &due[0], at(500), at(2)).await;
    pause(&*store, "a", at(3)).await;
    let begun = store.begin_replay(job(ReplaySelection::Pending, Timestamp::from_unix_ms(0), at(50))).await.unwrap();
    assert_eq!(begun.queued, 1);
    assert_eq!(claimed(&*store, "a", at(51)).await, [0_u64; 0]);
    put_state(&*store, "a", EndpointState::Enabled, at(52)).await;
    assert_eq!(claimed(&*store, "a", at(52)).await, [1]);
}

pub async fn a_running_job_is_never_out_of_sight<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let first = ReplayJob { id: ReplayId::new(NOW, [0; 10]), ..job(ReplaySelection::Dead, NOW, at(100)) };
    store.begin_replay(first.clone()).await.unwrap();
    for _ in 0..101 {
        let done = ReplayJob { state: ReplayState::Done, ..job(ReplaySelection::Dead, NOW, at(100)) };
        store.begin_replay(done).await.unwrap();
    }
    let shown = store.replay_jobs(TenantScope::All).await.unwrap();
    assert_eq!((shown.len(), shown.last()), (101, Some(&first)));
}

fn job(what: ReplaySelection, from: Timestamp, before: Timestamp) -> ReplayJob {
    ReplayJob {
        id: ReplayId::new(at(50), rand::random()),
        tenant: TenantId::DEFAULT,
        endpoint: endpoint("a"),
        what,
        from,
        before,
        state: ReplayState::Running,
        cursor: EventPosition(0),
        queued: 0,
        created_at: at(50),
        finished_at: None,
    }
}

/// Creates six uploads, one per second, whose first events have had different outcomes at `a`.
async fn fared<P: StateFixture>(place: &P) -> Arc<P::Store> {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("b", &["upload.*"])], NOW).await.unwrap();
    store.insert(change_of(new_upload(0))).await.unwrap();
    store.open_for(own(), vec![subscribed("a", &["upload.*"]), subscribed("b", &["upload.*"])], NOW).await.unwrap();
    for number in 1..=5 {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    let claims = claim(&*store, "a", at(5)).await;
    succeed(&*store, &claims[0], at(5)).await;
    give_up(&*store, &claims[1], at(5)).await;
    give_up(&*store, &claims[2], at(5)).await;
    retry(&*store, &claims[3], at(500), at(5)).await;
    assert_eq!(states_at(&*store, "a").await, [Succeeded, Dead, Dead, Ready, Leased]);
    store
}

async fn run<S: Outbox>(store: &S, job: &ReplayJob) -> ReplayJob {
    loop {
        let now = store.advance_replay(job.id, 2, at(60)).await.unwrap().unwrap();
        if now.state != ReplayState::Running {
            return now;
        }
    }
}

pub async fn a_job_sends_the_dead_again<P: StateFixture>(place: P) {
    let store = fared(&place).await;
    let dead = job(ReplaySelection::Dead, at(3), at(100));
    store.begin_replay(dead.clone()).await.unwrap();
    assert_eq!(store.replay_jobs(TenantScope::All).await.unwrap(), std::slice::from_ref(&dead));
    let done = run(&*store, &dead).await;
    assert_eq!((done.state, done.queued, done.finished_at), (ReplayState::Done, 1, Some(at(60))));
    assert_eq!(store.replay_jobs(TenantScope::All).await.unwrap(), [done]);
    assert_eq!(states_at(&*store, "a").await, [Succeeded, Dead, Ready, Ready, Leased], "the second was before");
    let due = claim(&*store, "a", at(60)).await;
    assert_eq!(due.iter().map(|claim| claim.trigger).collect::<Vec<_>>(), [AttemptTrigger::Manual]);
}

pub async fn a_job_sends_what_was_missed<P: StateFixture>(place: P) {
    let store = fared(&place).await;
    let missed = job(ReplaySelection::Missed, NOW, at(100));
    store.begin_replay(missed.clone()).await.unwrap();
    assert_eq!(run(&*store, &missed).await.queued, 3, "two that died and one from before the endpoint was there");
    assert_eq!(states_at(&*store, "a").await, [Ready, Succeeded, Ready, Ready, Ready, Leased]);
    let again = job(ReplaySelection::Missed, NOW, at(100));
    store.begin_replay(again.clone()).await.unwrap();
    assert_eq!(run(&*store, &again).await.queued, 0, "nothing is queued twice");
}

pub async fn a_job_sends_everything<P: StateFixture>(place: P) {
    let store = fared(&place).await;
    let everything = job(ReplaySelection::Everything, NOW, at(3));
    store.begin_replay(everything.clone()).await.unwrap();
    assert_eq!(run(&*store, &everything).await.queued, 3);
    assert_eq!(states_at(&*store, "a").await, [Ready, Ready, Ready, Dead, Ready, Leased], "the fourth is too late");
}

pub async fn a_job_resumes_where_it_was<P: StateFixture>(place: P) {
    let store = fared(&place).await;
    let dead = job(ReplaySelection::Dead, NOW, at(100));
    store.begin_replay(dead.clone()).await.unwrap();
    let begun = store.advance_replay(dead.id, 3, at(60)).await.unwrap().unwrap();
    assert_eq!((begun.state, begun.queued), (ReplayState::Running, 1), "three were looked up");
    store.close().await;
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], at(61)).await.unwrap();
    assert_eq!(store.replay_jobs(TenantScope::All).await.unwrap(), [begun]);
    assert_eq!(run(&*store, &dead).await.queued, 2);
    assert_eq!(states_at(&*store, "a").await, [Succeeded, Ready, Ready, Ready, Ready]);

    let other = job(ReplaySelection::Dead, NOW, at(100));
    store.begin_replay(other.clone()).await.unwrap();
    assert!(store.cancel_replay(TenantScope::All, other.id, at(62)).await.unwrap());
    assert!(!store.cancel_replay(TenantScope::All, other.id, at(63)).await.unwrap());
    let stopped = store.advance_replay(other.id, 3, at(64)).await.unwrap().unwrap();
    assert_eq!((stopped.state, stopped.finished_at), (ReplayState::Cancelled, Some(at(62))));
    assert_eq!(store.advance_replay(ReplayId::new(NOW, [0; 10]), 3, at(64)).await.unwrap(), None);
}

/// Nodes that continue one job do its batches one after the other: none is repeated, and none is omitted.
pub async fn two_nodes_carry_on_one_job<P: StateFixture>(place: P) {
    const UPLOADS: u8 = 40;
    let nodes = two_nodes(&place).await;
    let (store, node) = &nodes[0];
    store.open_for(*node, vec![subscribed("a", &["upload.created"])], NOW).await.unwrap();
    for number in 0..UPLOADS {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    for claim in claim(&**store, "a", at(100)).await {
        succeed(&**store, &claim, at(100)).await;
    }
    let everything = job(ReplaySelection::Everything, NOW, at(100));
    store.begin_replay(everything.clone()).await.unwrap();
    let carrying_on = nodes.map(|(store, _)| {
        tokio::spawn(async move {
            loop {
                let job = store.advance_replay(everything.id, 3, at(200)).await.unwrap().unwrap();
                if job.state != ReplayState::Running {
                    return (store, job.queued);
                }
                tokio::task::yield_now().await;
            }
        })
    });
    for carrying_on in carrying_on {
        let (store, queued) = carrying_on.await.unwrap();
        assert_eq!(queued, u64::from(UPLOADS));
        assert_eq!(states_at(&*store, "a").await, vec![Ready; usize::from(UPLOADS)]);
    }
}

/// Events far outside of the range are not examined, and a range with few matching events takes few batches
/// (webhooks L3).
pub async fn a_job_goes_straight_to_its_range<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    let day = |number: i64| at(number * 86_400);
    for number in 0..60_i64 {
        let made = day(number);
        let asked = NewUpload { id: UploadId::new(made, rand::random()), ..asked(0) };
        let mut upload = Upload::create(asked, made);
        for _ in 0..19 {
            receive(&mut upload, 100, made);
        }
        store.insert(change_of(upload)).await.unwrap();
    }
    let all = store.events_since(TenantScope::All, EventPosition(0), 10_000).await.unwrap().found;
    let each_day = all.len() / 60;
    assert!(each_day >= 19);
    store.open_for(own(), vec![subscribed("a", &["upload.created"])], day(60)).await.unwrap();
    // Returns the start and end positions, the number of batches, and the number of queued deliveries.
    let walk = async |from, before| {
        let missed = job(ReplaySelection::Missed, from, before);
        store.begin_replay(missed.clone()).await.unwrap();
        let begun =
            store.replay_jobs(TenantScope::All).await.unwrap().into_iter().find(|job| job.id == missed.id).unwrap();
        let (mut now, mut pieces) = (begun.clone(), 0);
        while now.state == ReplayState::Running {
            now = store.advance_replay(missed.id, 1_000, day(61)).await.unwrap().unwrap();
            pieces += 1;
        }
        // How many events lie before each place: what the positions are is the store's own matter.
        let before = |place: EventPosition| all.iter().filter(|event| event.position <= place).count();
        (before(begun.cursor), before(now.cursor), pieces, now.queued)
    };
    let end = 60 * each_day;
    assert_eq!(
        walk(day(58), day(100)).await,
        (57 * each_day, end, 1, 2),
        "from a day before, for clocks that were off"
    );
    assert_eq!(walk(day(3), day(5)).await, (2 * each_day, 2 * each_day + 1_000, 2, 2), "not far behind its range");
    assert_eq!(walk(day(200), day(300)).await, (end, end, 1, 0), "nothing is as new");
    assert_eq!(walk(day(-9), day(1)).await, (0, 1_000, 2, 1), "nothing is as old");
}

/// A job omits no event, even if the clock was ahead for some hours.
pub async fn a_job_gets_over_a_clock_that_was_ahead<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![], NOW).await.unwrap();
    for (number, seconds) in [(0, 10), (1, 4 * 3_600), (2, 20)] {
        let made = at(seconds);
        let asked = NewUpload { id: UploadId::new(made, [number; 10]), ..asked(0) };
        store.insert(change_of(Upload::create(asked, made))).await.unwrap();
    }
    store.open_for(own(), vec![subscribed("a", &["upload.created"])], at(30)).await.unwrap();
    let missed = job(ReplaySelection::Missed, at(15), at(30));
    store.begin_replay(missed.clone()).await.unwrap();
    assert_eq!(run(&*store, &missed).await.queued, 1);
    assert_eq!(deliveries_to(&*store, "a").await[0].upload.unwrap().as_bytes()[15], 2);
}

/// Deliveries that expired unsent are sent in order when they are replayed (webhooks G6).
pub async fn what_was_never_sent_is_sent_again_in_order<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    receive(&mut upload, 10_000, at(1));
    store.commit(change_of(upload)).await.unwrap();
    while store.expire(at(50), 10, at(50)).await.unwrap() > 0 {}
    assert!(states_at(&*store, "a").await.iter().all(|state| *state != Ready && *state != Waiting));
    let dead = job(ReplaySelection::Dead, NOW, at(100));
    store.begin_replay(dead.clone()).await.unwrap();
    assert!(run(&*store, &dead).await.queued >= 2);
    let (mut sent, mut at_once) = (Vec::new(), Vec::new());
    loop {
        let due = claim(&*store, "a", at(60)).await;
        let Some(first) = due.first() else { break };
        at_once.push(due.len());
        sent.push(first.delivery);
        succeed(&*store, first, at(60)).await;
    }
    assert!(at_once.iter().all(|count| *count == 1), "{at_once:?}");
    let in_order: Vec<_> = deliveries_to(&*store, "a").await.into_iter().filter(|it| it.state == Succeeded).collect();
    assert_eq!(sent, in_order.iter().map(|delivery| delivery.id).collect::<Vec<_>>());
}

/// Free text can be removed (webhooks L7).
pub async fn words_can_be_taken_out<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let secret = vec![("name".to_owned(), b"private".to_vec())];
    let asked = NewUpload { metadata: Metadata::new(secret).unwrap(), ..asked(0) };
    let mut upload = store.insert(change_of(Upload::create(asked, NOW))).await.unwrap();
    receive(&mut upload, 1, NOW);
    store.commit(change_of(upload)).await.unwrap();
    let other = store.insert(change_of(new_upload(1))).await.unwrap();
    assert_eq!(store.expunge(TenantScope::All, new_upload(0).id()).await.unwrap(), 2);
    for event in store.events_of(TenantScope::All, new_upload(0).id(), 0, 10).await.unwrap() {
        let body: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
        let id = new_upload(0).id().to_string();
        let (stage, offset) = if event.sequence == 1 { ("created", 0) } else { ("receiving", 1) };
        let left = serde_json::json!({
            "upload_id": id,
            "sequence": event.sequence,
            "stage": stage,
            "offset": offset,
            "length": 10_000,
            "url": format!("/api/v1/uploads/{id}"),
            "expunged": true,
        });
        assert_eq!((&body["type"], &body["data"]), (&event.kind.name().into(), &left));
    }
    let untouched = store.events_of(TenantScope::All, other.id(), 0, 10).await.unwrap();
    assert!(std::str::from_utf8(&untouched[0].body).unwrap().contains("\"metadata\""));
}

/// Only the record of a settled upload loses its text; an upload in progress still needs the metadata.
pub async fn a_record_loses_its_words_once_it_is_over<P: StateFixture>(place: P) {
    let store = place.open().await;
    let words = || Metadata::new(vec![("name".to_owned(), b"private".to_vec())]).unwrap();
    for number in 0..3 {
        let as_sent = Some("name cHJpdmF0ZQ==".to_owned());
        let asked = NewUpload { metadata: words(), metadata_as_sent: as_sent, ..asked(number) };
        let mut upload = store.insert(change_of(Upload::create(asked, NOW))).await.unwrap();
        match number {
            0 => receive(&mut upload, 1, NOW),
            1 => {
                let message = "private was refused".to_owned();
                upload.fail(Failure { code: "x".to_owned(), message, rejection: Some(RejectionKind::Forbidden) }, NOW);
            }
            _ => {
                complete(&mut upload, NOW);
                let message = Some("private is ready".to_owned());
                upload.report(NewReport::new("hls".to_owned(), Some(1), message).unwrap(), NOW).unwrap();
            }
        }
        let upload = store.commit(change_of(upload)).await.unwrap();
        store.expunge(TenantScope::All, upload.id()).await.unwrap();
        let left = store.find(TenantScope::All, upload.id()).await.unwrap().unwrap();
        if number == 0 {
            assert_eq!(left, upload, "it is under way");
            continue;
        }
        assert!(!format!("{:?}", left.record()).contains("private"), "{:?}", left.record());
        assert!(left.record().version > upload.record().version);
        assert_eq!((left.stage(), left.offset()), (upload.stage(), upload.offset()));
        assert_eq!(left.record().timeline, upload.record().timeline);
        assert!(
            matches!(store.commit(change_of(upload)).await, Err(Error::Conflict(_))),
            "a commit based on an earlier read is a conflict"
        );
    }
    let by_name = UploadQuery { metadata: words().pairs().to_vec(), limit: 10, ..UploadQuery::default() };
    assert_eq!(store.list(TenantScope::All, &by_name).await.unwrap().found.len(), 1);
}

/// Old data is removed (webhooks L6).
pub async fn what_is_old_goes<P: StateFixture>(place: P) {
    let store = fared(&place).await;
    let count = async || (deliveries_to(&*store, "a").await.len(), deliveries_to(&*store, "b").await.len());
    for sent in claim(&*store, "b", at(5)).await {
        succeed(&*store, &sent, at(5)).await;
    }
    let all = async |horizon| while store.prune(horizon, 2).await.unwrap() > 0 {};
    all(horizon(at(5))).await;
    assert_eq!(count().await, (5, 6), "nothing ended before then");
    all(RetentionHorizon { dead: at(5), ..horizon(at(6)) }).await;
    // Dead letters are kept longer, and unfinished deliveries are kept; so are the deliveries of the same
    // events to other endpoints.
    assert_eq!(states_at(&*store, "a").await, [Dead, Dead, Ready, Leased]);
    assert_eq!(states_at(&*store, "b").await, [Succeeded; 4]);
    let numbers = async || {
        let left = store.events_since(TenantScope::All, EventPosition(0), 100).await.unwrap().found;
        left.iter().map(|event| event.upload.as_bytes()[15]).collect::<Vec<_>>()
    };
    assert_eq!(numbers().await, [2, 3, 4, 5], "events that a delivery needs stay");
    let mut missed = job(ReplaySelection::Missed, NOW, at(100));
    missed.endpoint = endpoint("b");
    store.begin_replay(missed.clone()).await.unwrap();
    assert_eq!(run(&*store, &missed).await.queued, 0, "delivered events are not mistaken for missed ones");
    all(horizon(at(6))).await;
    assert_eq!(states_at(&*store, "a").await, [Ready, Leased]);
    assert_eq!(states_at(&*store, "b").await, [Succeeded; 2]);
    assert_eq!(numbers().await, [4, 5]);
    assert_eq!(claim(&*store, "a", at(500)).await.len(), 2);
    // A bookmark in the log stays valid.
    let left = store.events_since(TenantScope::All, EventPosition(0), 100).await.unwrap().found;
    assert_eq!(store.newest_event().await.unwrap(), left.last().unwrap().position);
}
