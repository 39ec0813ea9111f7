use crate::principal::TenantId;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::failure::RejectionKind;
use crate::removal::{DeletedBy, Removal};
use crate::report::{MAX_STAGES, NewReport, ReportRejected};
use crate::write_rules::WriteRules;

const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);
const LATER: Timestamp = Timestamp::from_unix_ms(9_000_000);
const LIMIT: u64 = 1_000;

fn asked(length: Option<u64>, role: Role) -> NewUpload {
    NewUpload {
        id: UploadId::new(NOW, [0; 10]),
        tenant: TenantId::DEFAULT,
        dialect: Dialect::named("tus"),
        write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
        role,
        length: length.and_then(Length::new),
        metadata: Metadata::default(),
        metadata_as_sent: None,
        terms: UploadTerms::default(),
        wanted_digests: vec![],
        promised_digests: vec![],
        expires_at: LATER,
    }
}

fn new_upload(length: Option<u64>, role: Role) -> Upload {
    Upload::create(asked(length, role), NOW)
}

fn offset(bytes: u64) -> Offset {
    Offset::new(bytes).unwrap()
}

fn durable(start: u64, end: u64) -> DurableBytes {
    DurableBytes { ranges: vec![(start, end)], running_digests: vec![], resume: vec![], expires_at: LATER }
}

fn kinds(upload: &Upload) -> Vec<EventKind> {
    upload.events().iter().map(|event| event.kind).collect()
}

#[test]
fn an_upload_that_was_refused_says_why_for_good() {
    let failure = |rejection| Failure { code: "type-not-allowed".to_owned(), message: "no".to_owned(), rejection };
    let mut refused = new_upload(Some(10), Role::Single);
    assert_eq!(refused.gone(NOW), None);
    refused.fail(failure(Some(RejectionKind::WrongType)), NOW);
    assert_eq!(refused.ended(), Some(Rejection::Refused(failure(Some(RejectionKind::WrongType)))));
    assert_eq!(refused.gone(LATER), refused.ended());
    assert_eq!(
        refused.check_append(Offset::ZERO, Some(1), LIMIT, NOW),
        Err(Rejection::Refused(failure(Some(RejectionKind::WrongType))))
    );

    let mut broken = new_upload(Some(10), Role::Single);
    assert_eq!(broken.gone(LATER), Some(Rejection::Gone(Ended::Expired)));
    broken.fail(failure(None), NOW);
    assert_eq!(broken.ended(), Some(Rejection::Gone(Ended::Failed)));
}

#[test]
fn the_straight_way_tells_every_stage_once() {
    let mut upload = new_upload(Some(10), Role::Single);
    upload.receive(durable(0, 4), None, NOW).unwrap();
    upload.receive(durable(4, 10), None, NOW).unwrap();
    upload.seal(vec![], NOW).unwrap();
    upload.verify(NOW);
    upload.store(NOW);
    upload.complete(NOW);
    use EventKind::*;
    assert_eq!(kinds(&upload), [Created, Receiving, Received, Verified, Stored, Completed]);
    assert!(upload.events().iter().map(|event| event.sequence).eq(1..=6));
    assert_eq!(upload.record().expires_at, None);
    assert!(upload.is_settled());
}

#[test]
fn a_stall_is_told_and_so_is_the_return() {
    let mut upload = new_upload(Some(10), Role::Single);
    upload.stall(NOW);
    assert_eq!(upload.stage(), Stage::Created, "an upload that never began cannot stall");
    upload.receive(durable(0, 4), None, NOW).unwrap();
    upload.stall(NOW);
    upload.stall(NOW);
    upload.receive(durable(4, 5), None, NOW).unwrap();
    use EventKind::*;
    assert_eq!(kinds(&upload), [Created, Receiving, Stalled, Resumed]);
}

#[test]
fn stalling_for_ever_keeps_the_timeline_bounded() {
    let mut upload = new_upload(None, Role::Single);
    for byte in 0..1_000 {
        upload.receive(durable(byte, byte + 1), None, NOW).unwrap();
        upload.stall(NOW);
    }
    assert_eq!(upload.record().timeline.len(), MAX_TIMELINE);
    assert_eq!(upload.record().timeline[0].0, Stage::Created);
}

#[test]
fn a_broken_promise_fails_the_upload() {
    let mut upload = new_upload(Some(0), Role::Single);
    let promised = Digest::new(Algorithm::Crc32, vec![1; 4]).unwrap();
    upload.record.promised_digests = vec![promised.clone()];
    upload.seal(vec![Digest::new(Algorithm::Crc32, vec![2; 4]).unwrap()], NOW).unwrap();
    upload.verify(NOW);
    assert_eq!(upload.stage(), Stage::Ended(Ended::Failed));
    assert_eq!(upload.record().failure.as_ref().unwrap().code, "digest-mismatch");
    assert_eq!(upload.check_append(Offset::ZERO, None, LIMIT, NOW), Err(Rejection::Gone(Ended::Failed)));
}

#[test]
fn an_append_must_fit() {
    let mut upload = new_upload(Some(10), Role::Single);
    upload.receive(durable(0, 4), None, NOW).unwrap();
    let length = Length::new(10).unwrap();
    let wrong = |theirs| Err(Rejection::WrongOffset { ours: offset(4), theirs: offset(theirs) });
    for (at, count, expected) in [
        (4, Some(6), Ok(())),
        (4, Some(0), Ok(())),
        (4, None, Ok(())),
        (4, Some(7), Err(Rejection::BeyondLength(length))),
        (4, Some(u64::MAX), Err(Rejection::BeyondLength(length))),
        (3, Some(1), wrong(3)),
        (5, Some(1), wrong(5)),
    ] {
        assert_eq!(upload.check_append(offset(at), count, LIMIT, NOW), expected, "{at} {count:?}");
    }
    assert_eq!(upload.check_append(offset(4), None, LIMIT, LATER), Err(Rejection::Gone(Ended::Expired)));

    upload.receive(durable(4, 10), None, NOW).unwrap();
    upload.seal(vec![], NOW).unwrap();
    assert_eq!(upload.check_append(offset(10), Some(0), LIMIT, NOW), Ok(()));
    assert_eq!(upload.check_append(offset(10), Some(1), LIMIT, NOW), Err(Rejection::AlreadyComplete(length)));

    let deferred = new_upload(None, Role::Single);
    assert_eq!(deferred.check_append(Offset::ZERO, Some(LIMIT), LIMIT, NOW), Ok(()));
    assert_eq!(deferred.check_append(Offset::ZERO, Some(LIMIT + 1), LIMIT, NOW), Err(Rejection::OverLimit(LIMIT)));
}

#[test]
fn a_length_is_declared_once() {
    let mut upload = new_upload(None, Role::Single);
    upload.receive(durable(0, 4), None, NOW).unwrap();
    let length = |bytes| Length::new(bytes).unwrap();
    assert!(matches!(upload.declare_length(length(3), LIMIT, Offset::ZERO), Err(Rejection::LengthBelowOffset { .. })));
    assert_eq!(upload.declare_length(length(LIMIT + 1), LIMIT, Offset::ZERO), Err(Rejection::OverLimit(LIMIT)));
    assert_eq!(upload.declare_length(length(4), LIMIT, Offset::ZERO), Ok(()));
    assert_eq!(upload.declare_length(length(4), LIMIT, Offset::ZERO), Ok(()));
    assert!(matches!(upload.declare_length(length(5), LIMIT, Offset::ZERO), Err(Rejection::LengthChanged { .. })));
    assert!(upload.is_full());
}

#[test]
fn a_length_admits_what_was_taken_and_is_not_committed() {
    let length = Length::new(4).unwrap();
    let mut upload = new_upload(None, Role::Single);
    let expected = Rejection::LengthBelowOffset { offset: offset(5), length };
    assert_eq!(upload.declare_length(length, LIMIT, offset(5)), Err(expected));
    assert_eq!(upload.length(), None);
    assert_eq!(upload.declare_length(length, LIMIT, offset(4)), Ok(()));
}

#[test]
fn what_is_not_whole_is_not_sealed_and_what_does_not_fit_is_not_received() {
    let mut upload = new_upload(Some(10), Role::Single);
    upload.receive(durable(0, 4), None, NOW).unwrap();
    let before = upload.clone();
    assert!(matches!(upload.seal(vec![], NOW), Err(InconsistentChange::NotWhole { .. })));
    assert!(matches!(upload.receive(durable(4, 11), None, NOW), Err(InconsistentChange::BeyondLength { end: 11, .. })));
    assert_eq!(upload, before);
    assert!(!upload.awaits_seal());
    upload.receive(durable(4, 10), None, NOW).unwrap();
    assert!(upload.awaits_seal());
    upload.seal(vec![], NOW).unwrap();
    assert!(!upload.awaits_seal());
    let before = upload.clone();
    assert_eq!(upload.seal(vec![], NOW), Err(InconsistentChange::Closed(Stage::Received)));
    assert_eq!(upload.receive(durable(0, 1), None, NOW), Err(InconsistentChange::Closed(Stage::Received)));
    assert_eq!(upload, before);
    let mut endless = new_upload(None, Role::Single);
    assert!(matches!(endless.seal(vec![], NOW), Err(InconsistentChange::NotWhole { .. })));
}

#[test]
fn what_was_declared_is_taken_over_once() {
    let digest = |byte| Digest::new(Algorithm::Crc32, vec![byte; 4]).unwrap();
    let mut committed = new_upload(None, Role::Single);
    committed.declare_digests(&[digest(1)]);
    let mut view = committed.clone();
    view.declare_length(Length::new(9).unwrap(), LIMIT, Offset::ZERO).unwrap();
    view.declare_digests(&[digest(1), digest(2)]);
    let mut declared = view.declared_since(&committed);
    assert_eq!(declared, PendingDeclarations { length: Length::new(9), promised_digests: vec![digest(2)] });
    committed.apply_declarations(&declared);
    assert_eq!(committed, view);
    declared.drop_recorded(&committed);
    assert!(declared.is_empty());
}

#[test]
fn what_the_application_has_set_holds_for_bytes_and_time() {
    let terms = UploadTerms { max_bytes: Some(100), expires_by: Some(Timestamp::from_unix_ms(2_000_000)) };
    let new = NewUpload { terms: terms.clone(), ..asked(None, Role::Single) };
    let mut upload = Upload::create(new, NOW);
    assert_eq!(upload.record().expires_at, terms.expires_by);
    assert_eq!(upload.check_append(Offset::ZERO, Some(101), LIMIT, NOW), Err(Rejection::OverLimit(100)));
    assert_eq!(upload.declare_length(Length::new(101).unwrap(), LIMIT, Offset::ZERO), Err(Rejection::OverLimit(100)));
    assert_eq!(upload.declare_length(Length::new(51).unwrap(), 50, Offset::ZERO), Err(Rejection::OverLimit(50)));
    upload.receive(durable(0, 4), None, NOW).unwrap();
    upload.touch(Vec::new(), LATER, NOW);
    assert_eq!(upload.record().expires_at, terms.expires_by, "bytes do not put it off");
    assert!(!upload.is_past_set_expiry(NOW) && upload.is_past_set_expiry(LATER));
}

#[test]
fn terminating_works_until_it_has_ended() {
    let mut upload = new_upload(Some(0), Role::Single);
    upload.seal(vec![], NOW).unwrap();
    upload.verify(NOW);
    upload.store(NOW);
    upload.complete(NOW);
    assert_eq!(upload.terminate(DeletedBy::Client, NOW), Ok(()));
    assert_eq!(upload.terminate(DeletedBy::Client, NOW), Err(Rejection::Gone(Ended::Terminated)));
}

fn completed() -> Upload {
    let mut upload = new_upload(Some(0), Role::Single);
    upload.seal(vec![], NOW).unwrap();
    upload.verify(NOW);
    upload.store(NOW);
    upload.complete(NOW);
    upload
}

#[test]
fn a_file_is_removed_once_and_its_upload_stays_completed() {
    for by in [DeletedBy::Operator, DeletedBy::Retention] {
        let mut upload = completed();
        let published = upload.events().len();
        assert_eq!(upload.remove(by, LATER), Ok(()));
        assert_eq!(upload.record().removed, Some(Removal { at: LATER, by }));
        assert_eq!((upload.stage(), upload.completed_at()), (Stage::Completed, Some(NOW)));
        assert_eq!(upload.gone(LATER), Some(Rejection::Removed));
        let last = &upload.events()[published..];
        assert!(matches!(last, [Event { kind: EventKind::Removed, .. }]), "{last:?}");
        assert_eq!((last[0].details.by, last[0].stage), (Some(by), Stage::Completed));

        let after = upload.clone();
        assert_eq!(upload.remove(by, LATER), Err(Rejection::Removed));
        assert_eq!(upload.delete_for_operator(LATER), Err(Rejection::Removed));
        assert_eq!(upload.terminate(DeletedBy::Client, LATER), Err(Rejection::Removed));
        assert_eq!(upload, after);
        assert_eq!(
            upload.report(report("hls", 50), LATER),
            Ok(ReportOutcome::Changed),
            "a backend may not be done yet"
        );
    }
}

#[test]
fn an_operator_deletes_whatever_the_stage() {
    let mut open = new_upload(Some(10), Role::Single);
    assert_eq!(open.delete_for_operator(NOW), Ok(()));
    assert_eq!(open.stage(), Stage::Ended(Ended::Terminated));
    assert_eq!(open.events().last().unwrap().details.by, Some(DeletedBy::Operator));
    assert_eq!(open.delete_for_operator(NOW), Err(Rejection::Gone(Ended::Terminated)));

    let mut late = new_upload(Some(10), Role::Single);
    assert_eq!(late.terminate(DeletedBy::Client, LATER), Err(Rejection::Gone(Ended::Expired)));
    assert_eq!(late.delete_for_operator(LATER), Ok(()));
    assert_eq!(late.stage(), Stage::Ended(Ended::Expired));

    let mut resting = new_upload(Some(0), Role::Partial);
    resting.seal(vec![], NOW).unwrap();
    assert_eq!(resting.delete_for_operator(NOW), Ok(()));
    assert_eq!(resting.stage(), Stage::Ended(Ended::Terminated));

    let mut done = completed();
    assert_eq!(done.delete_for_operator(NOW), Ok(()));
    assert_eq!(done.record().removed, Some(Removal { at: NOW, by: DeletedBy::Operator }));
}

#[test]
fn missing_bytes_are_noted_until_they_are_back_or_nobody_needs_them() {
    let mut upload = completed().committed();
    assert!(upload.mark_bytes_missing(LATER) && !upload.mark_bytes_missing(LATER));
    assert_eq!((upload.gone(LATER), upload.missing_change()), (Some(Rejection::BytesMissing), 1));
    assert_eq!((upload.stage(), upload.events().len()), (Stage::Completed, 0));
    let mut upload = upload.committed();
    assert_eq!(upload.missing_change(), 0);
    let mut back = upload.clone();
    assert!(back.clear_bytes_missing(LATER) && !back.clear_bytes_missing(LATER));
    assert_eq!((back.gone(LATER), back.missing_change()), (None, -1));

    upload.remove(DeletedBy::Operator, LATER).unwrap();
    assert_eq!((upload.record().missing_since, upload.missing_change()), (None, -1));
    assert!(!upload.mark_bytes_missing(LATER), "they are not needed any more");
}

fn report(name: &str, percent: u64) -> NewReport {
    NewReport::new(name.to_owned(), Some(percent), None).unwrap()
}

#[test]
fn reports_are_told_and_kept_in_the_order_they_first_came() {
    let mut upload = new_upload(Some(0), Role::Single);
    upload.seal(vec![], NOW).unwrap();
    assert_eq!(upload.report(report("b", 1), NOW), Ok(ReportOutcome::Changed));
    upload.verify(NOW);
    upload.store(NOW);
    upload.complete(NOW);
    let soon = Timestamp::from_unix_ms(NOW.unix_ms() + 10);
    assert_eq!(upload.report(report("a", 2), soon), Ok(ReportOutcome::Changed));
    assert_eq!(upload.report(report("b", 3), soon), Ok(ReportOutcome::Changed));
    assert_eq!(upload.report(report("b", 3), LATER), Ok(ReportOutcome::Unchanged));

    let kept = upload.record().reports.iter().map(|report| (report.name.as_str(), report.percent, report.at));
    assert_eq!(kept.collect::<Vec<_>>(), [("b", Some(3), soon), ("a", Some(2), soon)]);
    assert_eq!((upload.stage(), upload.record().updated_at), (Stage::Completed, soon));
    use EventKind::*;
    assert_eq!(kinds(&upload), [Created, Received, Processing, Verified, Stored, Completed, Processing]);
    let published =
        upload.events().iter().filter_map(|event| event.details.report.as_ref().map(|report| report.name.as_str()));
    assert_eq!(published.collect::<Vec<_>>(), ["b", "a"], "the second report on b came too soon after the first");
    assert!(upload.events().iter().map(|event| event.sequence).eq(1..=7));

    assert_eq!(upload.report(report("b", 4), LATER), Ok(ReportOutcome::Changed));
    assert_eq!(kinds(&upload).len(), 8);
}

#[test]
fn reports_are_taken_from_the_last_byte_until_the_end() {
    let refused = |upload: &Upload, now| upload.clone().report(report("a", 1), now).err();
    let mut upload = new_upload(Some(10), Role::Partial);
    assert_eq!(refused(&upload, NOW), Some(ReportRejected::TooEarly(Stage::Created)));
    upload.receive(durable(0, 4), None, NOW).unwrap();
    assert_eq!(refused(&upload, NOW), Some(ReportRejected::TooEarly(Stage::Receiving)));
    upload.stall(NOW);
    assert_eq!(refused(&upload, NOW), Some(ReportRejected::TooEarly(Stage::Stalled)));
    upload.receive(durable(4, 10), None, NOW).unwrap();
    upload.seal(vec![], NOW).unwrap();
    assert_eq!(refused(&upload, NOW), None);
    assert_eq!(refused(&upload, LATER), Some(ReportRejected::Ended(Ended::Expired)));
    upload.terminate(DeletedBy::Client, NOW).unwrap();
    let before = upload.clone();
    assert_eq!(upload.report(report("a", 1), NOW), Err(ReportRejected::Ended(Ended::Terminated)));
    assert_eq!(upload, before);
}

#[test]
fn an_upload_has_a_bounded_number_of_reported_stages() {
    let mut upload = new_upload(Some(0), Role::Single);
    upload.seal(vec![], NOW).unwrap();
    for number in 0..MAX_STAGES {
        assert_eq!(upload.report(report(&format!("stage-{number}"), 1), NOW), Ok(ReportOutcome::Changed));
    }
    assert_eq!(upload.report(report("another", 1), NOW), Err(ReportRejected::TooMany));
    assert_eq!(upload.report(report("stage-0", 100), NOW), Ok(ReportOutcome::Changed), "those that are there go on");
}

#[test]
fn a_partial_rests_at_received_and_expires() {
    let mut upload = new_upload(Some(0), Role::Partial);
    upload.seal(vec![], NOW).unwrap();
    assert!(upload.is_settled());
    assert!(!upload.is_expired(NOW));
    assert!(upload.is_expired(LATER));
}

#[test]
fn progress_is_told_seldom() {
    let policy = Some(ProgressPolicy { every: Duration::from_secs(5), min_bytes: 8 << 20 });
    let at = |s: i64| Timestamp::from_unix_ms(NOW.unix_ms() + s * 1_000);
    let mut upload = new_upload(Some(1_000), Role::Single);
    upload.receive(durable(0, 1), policy, at(0)).unwrap();
    upload.receive(durable(1, 500), policy, at(4)).unwrap();
    upload.receive(durable(500, 501), policy, at(5)).unwrap();
    upload.receive(durable(501, 505), policy, at(11)).unwrap();
    upload.receive(durable(505, 511), policy, at(12)).unwrap();
    let progress: Vec<_> = upload.events().iter().filter(|e| e.kind == EventKind::Progress).collect();
    assert_eq!(progress.iter().map(|event| event.offset.get()).collect::<Vec<_>>(), [501, 511]);
}

/// Makes one move in the life of an upload. Most moves may be requested at any time; the others are made only
/// in the stage that permits them.
fn live(upload: &mut Upload, choice: u8, now: Timestamp) {
    match (choice, upload.stage()) {
        (0, _) => {
            let at = upload.offset();
            if upload.check_append(at, Some(3), LIMIT, now).is_ok() {
                upload.receive(durable(at.get(), at.get() + 3), None, now).unwrap();
            }
            if upload.is_full() && upload.stage().takes_bytes() {
                upload.seal(vec![], now).unwrap();
            }
        }
        (1, _) => upload.stall(now),
        (2, _) => {
            let _ = upload.terminate(DeletedBy::Client, now);
        }
        (3, _) => {
            let _ = upload.report(report("hls", now.unix_ms().unsigned_abs() % 101), now);
        }
        (4, _) if upload.is_expired(now) => upload.expire(now),
        (5, _) if !upload.owns_bytes() => upload.bytes_removed(now),
        (7, _) => {
            let _ = upload.delete_for_operator(now);
        }
        (8, Stage::Completed) => {
            let _ = upload.remove(DeletedBy::Retention, now);
        }
        (6, Stage::Received | Stage::Verified | Stage::Stored) => {
            upload.fail(Failure { code: "broken".to_owned(), message: "it broke".to_owned(), rejection: None }, now);
        }
        (_, Stage::Received) if !upload.is_partial() => upload.verify(now),
        (_, Stage::Verified) => upload.store(now),
        (_, Stage::Stored) => upload.complete(now),
        _ => {}
    }
}

/// No event follows a terminal one, whatever is requested and however often (webhooks G8).
#[test]
fn nothing_follows_an_end() {
    use EventKind::*;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let moves = prop::collection::vec((0_u8..16, 1_i64..1_500_000), 1..60);
    let (mut lasts, mut behind_completed) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for life in 0..2_000 {
        let role = if life % 4 == 0 { Role::Partial } else { Role::Single };
        let mut upload = new_upload(Some(6), role);
        let mut now = NOW;
        let moves = moves.new_tree(&mut runner).unwrap().current();
        for (choice, ms) in &moves {
            now = Timestamp::from_unix_ms(now.unix_ms() + ms);
            live(&mut upload, *choice, now);
        }
        let kinds = kinds(&upload);
        let is_end = |kind: &EventKind| matches!(kind, Failed | Expired | Terminated);
        let end = kinds.iter().position(is_end);
        assert!(end.is_none_or(|end| end + 1 == kinds.len()), "{kinds:?} after {moves:?}");
        assert_eq!(end.is_some(), matches!(upload.stage(), Stage::Ended(_)));
        let behind: Vec<_> = kinds.iter().skip_while(|kind| **kind != Completed).skip(1).copied().collect();
        assert!(
            behind.iter().all(|kind| matches!(kind, Processing | Terminated | Removed)),
            "{kinds:?} after {moves:?}"
        );
        let behind_removed: Vec<_> = kinds.iter().skip_while(|kind| **kind != Removed).skip(1).collect();
        assert!(behind_removed.iter().all(|kind| **kind == Processing), "{kinds:?} after {moves:?}");
        assert_eq!(kinds.contains(&Removed), upload.record().removed.is_some());
        lasts.extend(kinds.last().copied());
        behind_completed.extend(behind);
    }
    assert!([Failed, Expired, Terminated, Completed].iter().all(|kind| lasts.contains(kind)), "{lasts:?}");
    assert_eq!(behind_completed.len(), 3, "the lives were too short: {behind_completed:?}");
}

proptest! {
    #[test]
    fn any_split_into_appends_gives_the_same_upload(cuts in prop::collection::vec(1_u64..100, 1..20)) {
        let total: u64 = cuts.iter().sum();
        let mut whole = new_upload(Some(total), Role::Single);
        whole.receive(durable(0, total), None, NOW).unwrap();
        let mut split = new_upload(Some(total), Role::Single);
        let mut at = 0;
        for count in cuts {
            prop_assert_eq!(split.check_append(offset(at), Some(count), LIMIT, NOW), Ok(()));
            split.receive(durable(at, at + count), None, NOW).unwrap();
            at += count;
            prop_assert_eq!(split.offset().get(), at);
        }
        prop_assert_eq!(&split.record().received, &whole.record().received);
        prop_assert_eq!(&split.record().timeline, &whole.record().timeline);
        prop_assert_eq!(kinds(&split), kinds(&whole));
    }
}
