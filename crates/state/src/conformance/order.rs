//! The order of deliveries in a lane, and progress that is overtaken.

use super::*;

use DeliveryState::*;

/// Returns an upload created and begun at second 0, with the endpoints `a` (everything) and `b` (progress and
/// termination).
async fn begun<P: StateFixture>(place: &P) -> (Arc<P::Store>, Upload) {
    let store = place.open().await;
    let b = subscribed("b", &["upload.progress", "upload.terminated"]);
    store.open_for(own(), vec![subscribed("a", &["upload.*"]), b], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(0))).await.unwrap();
    receive(&mut upload, 1, NOW);
    let upload = store.commit(change_of(upload)).await.unwrap();
    (store, upload)
}

async fn progressed<S: UploadStore>(store: &S, mut upload: Upload, now: Timestamp) -> Upload {
    receive(&mut upload, 1_000, now);
    store.commit(change_of(upload)).await.unwrap()
}

/// Sends due deliveries until none is left, and returns the sequences in the order they were sent.
async fn drain<S: UploadStore + Outbox>(store: &S, name: &str, now: Timestamp) -> Vec<u64> {
    let mut sent = Vec::new();
    loop {
        let claims = claim(store, name, now).await;
        if claims.is_empty() {
            return sent;
        }
        for claim in claims {
            sent.push(sequence_of(&claim));
            succeed(store, &claim, now).await;
        }
    }
}

/// First attempts are made in sequence, one at a time (webhooks G6).
pub async fn first_attempts_go_out_in_order<P: StateFixture>(place: P) {
    let (store, mut upload) = begun(&place).await;
    complete(&mut upload, at(1));
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Ready, Waiting, Waiting, Waiting, Waiting, Waiting]);
    for sequence in 1..=6 {
        let claims = claim(&*store, "a", at(3)).await;
        assert_eq!(claims.iter().map(sequence_of).collect::<Vec<_>>(), [sequence]);
        assert_eq!(claimed(&*store, "a", at(3)).await, [0_u64; 0], "one at a time");
        succeed(&*store, &claims[0], at(3)).await;
    }
    assert_eq!(states_at(&*store, "a").await, [Succeeded; 6]);
    assert!(deliveries_to(&*store, "a").await.iter().all(|delivery| delivery.finished_at == Some(at(3))));
}

pub async fn a_delivery_that_backs_off_holds_nobody_back<P: StateFixture>(place: P) {
    let (store, mut upload) = begun(&place).await;
    let first = claim(&*store, "a", at(1)).await.remove(0);
    retry(&*store, &first, at(60), at(2)).await;
    assert_eq!(states_at(&*store, "a").await, [Ready, Ready]);
    let second = claim(&*store, "a", at(2)).await.remove(0);
    assert_eq!((sequence_of(&second), second.attempts), (2, 0));

    // While the second is being sent, the third waits for the second, not for the first.
    upload.terminate(DeletedBy::Client, at(3)).unwrap();
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(states_at(&*store, "a").await, [Ready, Leased, Waiting]);
    let dead = settlement(&second, AttemptOutcome::Status(400), Disposition::Dead);
    settle(&*store, vec![dead], at(4)).await;
    assert_eq!(states_at(&*store, "a").await, [Ready, Dead, Ready]);
    let due = claim(&*store, "a", at(60)).await;
    assert_eq!(due.iter().map(|claim| (sequence_of(claim), claim.attempts)).collect::<Vec<_>>(), [(3, 0), (1, 1)]);
}

/// An attempt aborted by a shutdown does not count, so the order survives a restart (webhooks R13).
pub async fn an_aborted_attempt_does_not_count<P: StateFixture>(place: P) {
    let (store, _) = begun(&place).await;
    let first = claim(&*store, "a", at(1)).await.remove(0);
    let aborted = settlement(&first, AttemptOutcome::Aborted, Disposition::RetryAt(at(5)));
    settle(&*store, vec![aborted], at(2)).await;
    assert_eq!(states_at(&*store, "a").await, [Ready, Waiting]);
    let again = claim(&*store, "a", at(5)).await.remove(0);
    assert_eq!((sequence_of(&again), again.attempts), (1, 0));
    assert_eq!(deliveries_to(&*store, "a").await[0].attempts.len(), 1);
}

pub async fn lanes_do_not_wait_for_each_other<P: StateFixture>(place: P) {
    let (store, _) = begun(&place).await;
    store.insert(change_of(new_upload(1))).await.unwrap();
    let due = claim(&*store, "a", at(1)).await;
    assert_eq!(due.iter().map(sequence_of).collect::<Vec<_>>(), [1, 1], "one of each upload");
    assert_ne!(due[0].upload, due[1].upload);
}

/// An endpoint has at most one pending progress delivery for each upload (webhooks C3).
pub async fn newer_progress_replaces_pending_progress<P: StateFixture>(place: P) {
    let (store, mut upload) = begun(&place).await;
    for second in 1..=4 {
        upload = progressed(&*store, upload, at(second)).await;
    }
    assert_eq!(states_at(&*store, "b").await, [Superseded, Superseded, Superseded, Ready]);
    assert_eq!(states_at(&*store, "a").await, [Ready, Waiting, Superseded, Superseded, Superseded, Waiting]);
    assert_eq!(store.superseded(), 6, "webhooks O1");
    assert_eq!(drain(&*store, "a", at(9)).await, [1, 2, 6]);

    // A delivery that is being sent is not dropped; the newest waits behind it.
    let sent = claim(&*store, "b", at(10)).await.remove(0);
    upload = progressed(&*store, upload, at(11)).await;
    progressed(&*store, upload, at(12)).await;
    assert_eq!(states_at(&*store, "b").await[3..], [Leased, Superseded, Waiting]);
    succeed(&*store, &sent, at(13)).await;
    assert_eq!(drain(&*store, "b", at(14)).await, [8]);
}

/// Any later event, whether or not an endpoint subscribes to it, ends progress that is pending or backs off
/// (webhooks C4).
pub async fn later_events_supersede_pending_progress_everywhere<P: StateFixture>(place: P) {
    let (store, upload) = begun(&place).await;
    let mut upload = progressed(&*store, upload, at(1)).await;
    let sent = claim(&*store, "b", at(2)).await.remove(0);
    retry(&*store, &sent, at(60), at(2)).await;
    assert_eq!(states_at(&*store, "b").await, [Ready], "backing off");
    upload.stall(at(3));
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(states_at(&*store, "b").await, [Superseded], "though it does not hear of stalls");
    assert_eq!(states_at(&*store, "a").await, [Ready, Waiting, Superseded, Waiting]);
    assert_eq!(claimed(&*store, "b", at(100)).await, [0_u64; 0]);
    assert_eq!(drain(&*store, "a", at(100)).await, [1, 2, 4]);
}

pub async fn nothing_waits_for_superseded_progress<P: StateFixture>(place: P) {
    let (store, upload) = begun(&place).await;
    let upload = progressed(&*store, upload, at(1)).await;
    let sent = claim(&*store, "b", at(2)).await.remove(0);
    let upload = progressed(&*store, upload, at(3)).await;
    assert_eq!(states_at(&*store, "b").await, [Leased, Waiting]);

    // The first delivery was never settled, because its process died. A new process makes it ready again,
    // with another behind it.
    store.close().await;
    drop(sent);
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("b", &["upload.progress", "upload.terminated"])], at(4)).await.unwrap();
    assert_eq!(states_at(&*store, "b").await, [Ready, Waiting]);
    let mut upload = upload;
    upload.terminate(DeletedBy::Client, at(5)).unwrap();
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(states_at(&*store, "b").await, [Superseded, Superseded, Ready]);
    assert_eq!(drain(&*store, "b", at(6)).await, [5]);
}

/// A receiver is slower than the arrival of events: each delivery passes through the queue once,
/// `upload.completed` included, and none starves, whether it is a first attempt, a retry or a replay.
pub async fn a_lane_keeps_its_age_under_a_backlog<P: StateFixture>(place: P) {
    const UPLOADS: usize = 4_400;
    const SLOTS: u32 = 16;
    let store = place.open().await;
    store
        .open_for(own(), vec![subscribed("a", &["upload.*"]), subscribed("quiet", &["upload.failed"])], NOW)
        .await
        .unwrap();
    // One upload is created every 10 ms, with all six events within that time: 26,400 events before the first
    // delivery is sent.
    let moment = |number: usize, of_event: i64| {
        Timestamp::from_unix_ms(NOW.unix_ms() + i64::try_from(number).unwrap() * 10 + of_event)
    };
    for first in (0..UPLOADS).step_by(400) {
        futures::future::join_all((first..first + 400).map(|number| {
            let store = &store;
            async move {
                let asked = NewUpload { id: UploadId::new(moment(number, 0), rand::random()), ..asked(0) };
                let mut upload = store.insert(change_of(Upload::create(asked, moment(number, 0)))).await.unwrap();
                receive(&mut upload, 1, moment(number, 1));
                complete(&mut upload, moment(number, 2));
                store.commit(change_of(upload)).await.unwrap();
            }
        }))
        .await;
    }
    // A slow receiver takes sixteen deliveries at a time; each round takes 40 ms.
    let (mut now, mut place_in_queue, mut failed, mut claimed) = (moment(UPLOADS, 0), 0_u64, Vec::new(), 0);
    let mut last_age = NOW;
    let mut retried = 0;
    loop {
        let claims = store.claim_due(own(), &[up_to("a", SLOTS)], now, LEASE).await.unwrap();
        if claims.is_empty() {
            break;
        }
        let mut settled = Vec::new();
        for sent in &claims {
            claimed += 1;
            if sent.attempts > 0 {
                retried += 1;
            } else {
                // Deliveries are sent in the order of their creation, except for the steps within a lane,
                // each of which takes a round.
                let behind = last_age.since(sent.occurred_at);
                assert!(behind <= Duration::from_millis(1_000), "{:?} came {behind:?} late", sent.kind);
                last_age = last_age.max(sent.occurred_at);
            }
            place_in_queue += 1;
            // One in five hundred fails and is retried a while later.
            let disposition = if sent.attempts == 0 && place_in_queue % 500 == 0 {
                let again = now.plus(Duration::from_secs(5));
                failed.push((sent.delivery, again));
                Disposition::RetryAt(again)
            } else {
                if sent.attempts > 0 {
                    let (_, due) = failed.iter().find(|(delivery, _)| *delivery == sent.delivery).unwrap();
                    assert!(sent.attempts == 1 && *due <= now);
                }
                Disposition::Succeeded
            };
            let outcome = match disposition {
                Disposition::Succeeded => AttemptOutcome::Status(204),
                _ => AttemptOutcome::Timeout,
            };
            settled.push(settlement(sent, outcome, disposition));
        }
        settle(&*store, settled, now).await;
        now = now.plus(Duration::from_millis(40));
        if store.next_due(&[endpoint("a")]).await.unwrap().is_some_and(|due| due > now) {
            now = now.plus(Duration::from_secs(5));
        }
    }
    assert_eq!((claimed, retried), (UPLOADS * 6 + failed.len(), failed.len()), "everything is sent");
}

/// Progress never becomes a dead letter (webhooks C5).
pub async fn progress_is_never_a_dead_letter<P: StateFixture>(place: P) {
    let (store, upload) = begun(&place).await;
    progressed(&*store, upload, at(1)).await;
    let sent = claim(&*store, "b", at(2)).await.remove(0);
    settle(&*store, vec![settlement(&sent, AttemptOutcome::Status(500), Disposition::Dead)], at(2)).await;
    let ended = deliveries_to(&*store, "b").await.remove(0);
    assert_eq!((ended.state, ended.finished_at, ended.attempts.len()), (Superseded, Some(at(2)), 1));
    assert_eq!(store.superseded(), 1);
}

pub async fn overtaken_progress_is_not_sent_again<P: StateFixture>(place: P) {
    let (store, upload) = begun(&place).await;
    let upload = progressed(&*store, upload, at(1)).await;
    let sent = claim(&*store, "b", at(2)).await.remove(0);
    progressed(&*store, upload, at(3)).await;
    retry(&*store, &sent, at(60), at(4)).await;
    assert_eq!(states_at(&*store, "b").await, [Superseded, Ready]);
    assert_eq!(store.superseded(), 2, "at both endpoints");
    assert_eq!(drain(&*store, "b", at(4)).await, [4]);
}
