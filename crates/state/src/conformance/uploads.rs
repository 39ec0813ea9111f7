//! Uploads: every field, and the check of versions.

use domain::log::EventPosition;
use futures::future::join_all;

use super::*;
use crate::{CommitIdentity, Error, resolve_lost_answer};
use domain::checksum::{Algorithm, Digest};
use domain::facts::{Content, Facts, Image, Media, Track, TrackKind};
use domain::failure::{Failure, RejectionKind};
use domain::generation::{Generation, Generations, Sealed};
use domain::id::CommitId;
use domain::node::{Epoch, Lease};
use domain::principal::TenantScope;
use domain::ranges::ReceivedRanges;
use domain::removal::Removal;
use domain::report::Report;
use domain::size::MAX_BYTES;
use domain::stage::Stage;
use domain::upload::{Record, StoredBytes};
use domain::write_rules::{Completion, WriteOrder, WriteRules};

/// Text and bytes that a careless encoding would change.
fn odd_metadata() -> Metadata {
    let every_byte: Vec<u8> = (0..=255).collect();
    let pairs: [(&str, &[u8]); 7] = [
        ("z", b"first, though last in the alphabet"),
        ("every byte", &every_byte),
        ("empty", b""),
        ("nul", b"a\0b"),
        ("looks like ours", br#"{"base64":"AAAA"}"#),
        ("quotes ' \" and \u{1F3AC}", "Grüße \u{202E}".as_bytes()),
        ("long", &[b'x'; 5_000]),
    ];
    Metadata::new(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect()).unwrap()
}

fn odd_facts(number: u8) -> Facts {
    if number % 2 == 1 {
        let frames = (!number.is_multiple_of(3)).then_some(u32::MAX);
        let duration_ms = frames.map(|_| u64::MAX);
        let image = Image { width: u32::MAX, height: u32::from(number), frames, duration_ms };
        return Facts { content_type: "image/gif".to_owned(), content: Some(Content::Image(image)) };
    }
    let video = Track {
        kind: TrackKind::Video,
        codec: "avc1.640028".to_owned(),
        width: Some(1920),
        height: Some(u32::MAX),
        frames_per_1000_s: Some(29_970),
        channels: None,
        sample_rate_hz: None,
    };
    let bare = Track { kind: TrackKind::Other, width: None, height: None, frames_per_1000_s: None, ..video.clone() };
    let media = Media { duration_ms: Some(u64::MAX), tracks: vec![bare, video] };
    Facts { content_type: "video/mp4".to_owned(), content: Some(Content::Media(media)) }
}

fn odd_generations(number: u8) -> Generations {
    let begun = |epoch| Generation::Begun(Epoch::new(epoch));
    let first = Sealed { generation: Generation::FIRST, end: u64::from(number) + 1 };
    let last = Sealed { generation: begun(u64::from(u32::MAX)), end: MAX_BYTES };
    let epoch = Epoch::new(u64::from(number) + 1);
    let current = if number.is_multiple_of(2) { Generation::Joined(epoch) } else { Generation::Begun(epoch) };
    let joining = number.is_multiple_of(3).then_some(epoch);
    Generations::from_parts(vec![first, last], current, joining).unwrap()
}

fn odd_record(number: u8, role: Role, stage: Stage) -> Record {
    let digest = |algorithm: Algorithm| Digest::new(algorithm, vec![0xa0 ^ number; algorithm.digest_bytes()]).unwrap();
    Record {
        version: 0,
        commit_id: Some(CommitId::new(NOW, [number; 10])),
        lease: Lease {
            holder: Some(leases::node(number).instance),
            epoch: Epoch::new(u64::from(number)),
            generation: Epoch::new(u64::from(number / 2)),
        },
        // A combination that no dialect uses today.
        write_rules: WriteRules { order: WriteOrder::Any, completion: Completion::WhenSaid },
        role,
        stage,
        received: ReceivedRanges::from_pairs([(0, 5), (9, 12), (100, MAX_BYTES)]),
        length: Length::new(MAX_BYTES),
        metadata: odd_metadata(),
        metadata_as_sent: Some("name dmlkZW8=,,  odd".to_owned()),
        wanted_digests: vec![Algorithm::Sha256, Algorithm::Md5],
        promised_digests: vec![digest(Algorithm::Sha512)],
        running_digests: vec![0, 255, 1],
        digests: Algorithm::ALL.into_iter().map(digest).collect(),
        resume: Some(vec![]),
        generations: odd_generations(number),
        terms: UploadTerms { max_bytes: Some(MAX_BYTES), expires_by: Some(at(9)) },
        facts: Some(odd_facts(number)),
        accepted_at: Some(at(2)),
        reports: vec![
            Report {
                name: "transcoding".to_owned(),
                percent: Some(40),
                message: Some("\0 \"so\"".to_owned()),
                at: at(3),
                published_at: at(2),
            },
            Report { name: "x".to_owned(), percent: None, message: None, at: at(4), published_at: at(4) },
        ],
        bytes: StoredBytes::Removed,
        removed: Some(Removal { at: at(7), by: DeletedBy::Retention }),
        missing_since: Some(at(8)),
        timeline: vec![(Stage::Created, at(-5)), (Stage::Receiving, at(-4)), (stage, NOW)],
        failure: Some(Failure {
            code: "broken".to_owned(),
            message: "a \"sentence\"\0".to_owned(),
            rejection: Some(RejectionKind::Unprocessable),
        }),
        created_at: at(-5),
        updated_at: at(3),
        expires_at: None,
        next_sequence: u64::from(u32::MAX) + 7,
        last_progress: (offset(MAX_BYTES), at(-1)),
        ..new_upload(number).record().clone()
    }
}

fn plain_record(number: u8) -> Record {
    Record { length: None, ..new_upload(number).record().clone() }
}

pub async fn every_field_survives<P: StateFixture>(place: P) {
    let parts = vec![new_upload(200).id(), new_upload(201).id(), new_upload(200).id()];
    let list = Role::Final { parts, as_sent: "final;/files/a /files/b".to_owned() };
    let mut records = vec![plain_record(1)];
    for (number, stage) in (2..).zip(Stage::ALL) {
        for (step, role) in (0..).zip([Role::Single, Role::Partial, list.clone()]) {
            records.push(odd_record(number + 20 * step, role, stage));
        }
    }
    let store = place.open().await;
    for record in &records {
        store.insert(change_of(Upload::from_record(record.clone()))).await.unwrap();
    }
    store.close().await;

    let store = place.open().await;
    for record in records {
        let found = store.find(TenantScope::All, record.id).await.unwrap().unwrap();
        let expected = Record { version: 1, ..record };
        assert_eq!(found.record(), &expected);

        // The reverse: every value that the commit overwrites is stored too.
        let other =
            if expected.length.is_none() { odd_record(0, Role::Single, Stage::Stored) } else { plain_record(0) };
        let changed = Record {
            id: expected.id,
            version: 1,
            lease: expected.lease,
            dialect: expected.dialect,
            write_rules: expected.write_rules,
            role: expected.role.clone(),
            metadata: expected.metadata.clone(),
            metadata_as_sent: expected.metadata_as_sent.clone(),
            terms: expected.terms.clone(),
            created_at: expected.created_at,
            ..other
        };
        let committed = store.commit(change_of(Upload::from_record(changed.clone()))).await.unwrap();
        assert_eq!(committed.record(), &Record { version: 2, ..changed });
        assert_eq!(store.find(TenantScope::All, expected.id).await.unwrap().unwrap(), committed);
    }
    assert_eq!(store.find(TenantScope::All, new_upload(250).id()).await.unwrap(), None);
}

pub async fn a_stale_commit_changes_nothing<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let read = store.insert(change_of(new_upload(1))).await.unwrap();
    let mut winner = read.clone();
    receive(&mut winner, 1, at(1));
    let winner = store.commit(change_of(winner)).await.unwrap();
    let deliveries = deliveries_to(&*store, "a").await;

    let mut stale = read;
    receive(&mut stale, 2, at(2));
    let id = stale.id();
    assert!(matches!(store.commit(change_of(stale)).await, Err(Error::Conflict(conflicted)) if conflicted == id));
    assert_eq!(store.find(TenantScope::All, id).await.unwrap(), Some(winner));
    assert_eq!(store.events_of(TenantScope::All, id, 0, 10).await.unwrap().len(), 2);
    assert_eq!(deliveries_to(&*store, "a").await, deliveries);

    let missing = new_upload(2);
    assert!(matches!(store.commit(change_of(missing)).await, Err(Error::Conflict(_))));
    assert_eq!(
        store.newest_event().await.unwrap(),
        store.events_since(TenantScope::All, EventPosition(0), 9).await.unwrap().found[1].position
    );
}

/// Replies are lost before and after the work is done, and each commit that was made is recognized exactly
/// once.
pub async fn a_commit_whose_answer_was_lost_is_recognised<P: StateFixture>(place: P) {
    let (store, other) = (place.open().await, place.open().await);
    let lost = || Err(Error::Unanswered { operation: "commit an upload" });
    let name = |number: u8| CommitId::new(NOW, [number; 10]);
    let mut upload = new_upload(1);
    upload.set_commit_id(name(0));
    let signed = CommitIdentity::of(&upload);
    let unknown = resolve_lost_answer(&*store, signed, lost()).await;
    assert!(matches!(unknown, Err(Error::Unanswered { .. })), "there is no such upload yet: {unknown:?}");
    let inserted = store.insert(change_of(upload)).await.unwrap();
    let mut upload = resolve_lost_answer(&*store, signed, lost()).await.unwrap();
    assert_eq!(upload, inserted);

    for number in 1..=200_u8 {
        let mut next = upload.clone();
        receive(&mut next, 10, at(i64::from(number)));
        next.set_commit_id(name(number));
        let signed = CommitIdentity::of(&next);
        upload = match number % 3 {
            0 => store.commit(change_of(next)).await.unwrap(),
            // The commit is made, and the reply is lost.
            1 => {
                let committed = store.commit(change_of(next)).await.unwrap();
                let recognised = resolve_lost_answer(&*other, signed, lost()).await.unwrap();
                assert_eq!(recognised, committed, "{number}");
                recognised
            }
            // The request is lost; another commit is made first, or none.
            _ => {
                let undone = resolve_lost_answer(&*store, signed, lost()).await;
                assert!(matches!(undone, Err(Error::Unanswered { .. })), "{number}: {undone:?}");
                let mut theirs = upload;
                receive(&mut theirs, 10, at(i64::from(number)));
                theirs.set_commit_id(name(number.wrapping_add(100)));
                let theirs = other.commit(change_of(theirs)).await.unwrap();
                let conflict = resolve_lost_answer(&*store, signed, lost()).await;
                assert!(matches!(conflict, Err(Error::Conflict(_))), "{number}: {conflict:?}");
                theirs
            }
        };
    }
    assert_eq!(store.find(TenantScope::All, upload.id()).await.unwrap(), Some(upload.clone()));
    let events = store.events_of(TenantScope::All, upload.id(), 0, 1_000).await.unwrap();
    assert!(events.iter().map(|event| event.sequence).eq(1..=events.len() as u64), "a gap or a double");
}

pub async fn of_two_commits_of_one_version_one_wins<P: StateFixture>(place: P) {
    let store = place.open().await;
    let read = store.insert(change_of(new_upload(1))).await.unwrap();
    let rivals = (1..=8_u64).map(|bytes| {
        let (store, mut rival) = (Arc::clone(&store), read.clone());
        receive(&mut rival, bytes, at(1));
        tokio::spawn(async move { store.commit(change_of(rival)).await })
    });
    let outcomes: Vec<_> = join_all(rivals).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<_> = outcomes.iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(store.find(TenantScope::All, read.id()).await.unwrap().as_ref(), Some(winners[0]));
    assert_eq!(store.events_of(TenantScope::All, read.id(), 0, 100).await.unwrap().len(), 2);
}

pub async fn an_upload_is_inserted_once<P: StateFixture>(place: P) {
    let store = place.open().await;
    let first = store.insert(change_of(new_upload(1))).await.unwrap();
    assert_eq!((first.record().version, first.events().len()), (1, 0));
    assert!(matches!(store.insert(change_of(new_upload(1))).await, Err(Error::Conflict(id)) if id == first.id()));
    assert_eq!(store.find(TenantScope::All, first.id()).await.unwrap(), Some(first));
}

pub async fn many_commits_share_transactions<P: GathersCommits>(place: P) {
    let store = place.open().await;
    let ids = (0..1_000_u16).map(|number| {
        let [high, low] = number.to_be_bytes();
        UploadId::new(NOW, [high, low, 0, 0, 0, 0, 0, 0, 0, 0])
    });
    let before = P::transactions(&store);
    let inserts = ids.map(|id| store.insert(change_of(Upload::create(NewUpload { id, ..asked(1) }, NOW))));
    let inserted = join_all(inserts).await;
    assert!(inserted.iter().all(Result::is_ok));
    let transactions = P::transactions(&store) - before;
    assert!(transactions <= 100, "1,000 commits took {transactions} transactions");
    let log = store.events_since(TenantScope::All, EventPosition::default(), 2_000).await.unwrap();
    assert_eq!(log.found.len(), 1_000);
}

pub async fn a_conflict_spares_the_rest_of_its_batch<P: GathersCommits>(place: P) {
    let store = place.open().await;
    let mut uploads = Vec::new();
    for number in 0..10 {
        uploads.push(store.insert(change_of(new_upload(number))).await.unwrap());
    }
    uploads[4] = new_upload(4);
    for upload in &mut uploads {
        receive(upload, 100, at(20));
    }
    let held = P::hold(&store).await;
    let before = P::transactions(&store);
    let mut commits = Box::pin(join_all(uploads.into_iter().map(|upload| store.commit(change_of(upload)))));
    assert!(futures::poll!(&mut commits).is_pending());
    drop(held);
    let outcomes = commits.await;
    assert_eq!(P::transactions(&store) - before, 1, "they were meant to share a transaction");
    for (number, outcome) in (0..).zip(outcomes) {
        let found = store.find(TenantScope::All, new_upload(number).id()).await.unwrap().unwrap();
        match number {
            4 => assert!(matches!(outcome, Err(Error::Conflict(_))) && found.stage() == Stage::Created),
            _ => assert!(outcome.is_ok() && found.offset() == offset(100)),
        }
    }
}

pub async fn reopening_keeps_everything<P: StateFixture>(place: P) {
    let store = place.open().await;
    store.open_for(own(), vec![subscribed("a", &["upload.*"])], NOW).await.unwrap();
    let mut upload = store.insert(change_of(new_upload(1))).await.unwrap();
    complete(&mut upload, at(1));
    let upload = store.commit(change_of(upload)).await.unwrap();
    let first = claim(&*store, "a", at(2)).await.remove(0);
    succeed(&*store, &first, at(2)).await;
    let events = store.events_since(TenantScope::All, EventPosition(0), 100).await.unwrap();
    let deliveries = deliveries_to(&*store, "a").await;
    assert_eq!((events.found.len(), deliveries.len()), (6, 6));
    store.close().await;

    let store = place.open().await;
    assert_eq!(store.find(TenantScope::All, upload.id()).await.unwrap(), Some(upload));
    assert_eq!(store.events_since(TenantScope::All, EventPosition(0), 100).await.unwrap(), events);
    assert_eq!(deliveries_to(&*store, "a").await, deliveries);
}

pub async fn a_closed_store_refuses<P: StateFixture>(place: P) {
    let store = place.open().await;
    let queued: Vec<_> = (0..50).map(|number| store.insert(change_of(new_upload(number)))).collect();
    let (written, ()) = tokio::join!(join_all(queued), store.close());
    assert!(written.iter().all(Result::is_ok), "queued changes are written");
    store.close().await;
    assert!(matches!(store.insert(change_of(new_upload(60))).await, Err(Error::Failed { .. })));
    assert!(matches!(store.find(TenantScope::All, new_upload(1).id()).await, Err(Error::Failed { .. })));
    assert!(matches!(store.check().await, Err(Error::Failed { .. })));
    let log = place.open().await.events_since(TenantScope::All, EventPosition::default(), 100).await.unwrap();
    assert_eq!(log.found.len(), 50);
}

pub async fn a_check_reads_and_writes<P: StateFixture>(place: P) {
    let store = place.open().await;
    let before = P::transactions(&store);
    store.check().await.unwrap();
    assert_eq!(P::transactions(&store) - before, 1);
}
