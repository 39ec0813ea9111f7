//! Lists of uploads, and the selections of the sweeper.

use super::*;
use crate::SweepSelection;
use domain::facts::{Content, Facts, Image, Media, Track, TrackKind};
use domain::failure::Failure;
use domain::policy::TypePattern;
use domain::principal::TenantScope;
use domain::query::{NumberBounds, UploadQuery};
use domain::ranges::ReceivedRanges;
use domain::report::NewReport;
use domain::stage::{Ended, Stage};

async fn listed<S: UploadStore>(store: &S, query: &UploadQuery) -> Vec<u8> {
    store.list(TenantScope::All, query).await.unwrap().found.iter().map(number_of).collect()
}

fn number_of(upload: &Upload) -> u8 {
    upload.id().as_bytes()[15]
}

fn pair(name: &str, value: &[u8]) -> (String, Vec<u8>) {
    (name.to_owned(), value.to_vec())
}

pub async fn every_filter_holds<P: StateFixture>(place: P) {
    let store = place.open().await;
    for number in 0..12_u8 {
        let pairs = vec![
            pair("parity", if number % 2 == 0 { b"even" } else { b"odd" }),
            pair("third", &[0xff, number % 3]),
            pair("odd \0 ' \" name", number.to_string().as_bytes()),
            pair("long", &[b'x'; 1_025]),
        ];
        let asked = NewUpload { metadata: Metadata::new(pairs).unwrap(), ..asked(number) };
        let mut upload = store.insert(change_of(Upload::create(asked, at(i64::from(number))))).await.unwrap();
        match number {
            0..4 => continue,
            4..8 => receive(&mut upload, 5, at(100)),
            8..10 => complete(&mut upload, at(100)),
            _ => upload.expire(at(100)),
        }
        store.commit(change_of(upload)).await.unwrap();
    }
    let all = UploadQuery { limit: 100, ..UploadQuery::default() };
    let expired = Stage::Ended(Ended::Expired);
    let stages = |stages: &[Stage]| UploadQuery { stages: stages.to_vec(), ..all.clone() };
    let with = |pairs: &[(String, Vec<u8>)]| UploadQuery { metadata: pairs.to_vec(), ..all.clone() };
    for (query, expected) in [
        (all.clone(), vec![11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        (UploadQuery { limit: 2, ..all.clone() }, vec![11, 10]),
        (UploadQuery { limit: 0, ..all.clone() }, vec![]),
        (stages(&[Stage::Receiving]), vec![7, 6, 5, 4]),
        (stages(&[expired, Stage::Created, expired]), vec![11, 10, 3, 2, 1, 0]),
        (UploadQuery { limit: 3, ..stages(&[expired, Stage::Created]) }, vec![11, 10, 3]),
        (stages(&[Stage::Stored]), vec![]),
        (with(&[pair("parity", b"even")]), vec![10, 8, 6, 4, 2, 0]),
        (with(&[pair("parity", b"even"), pair("third", &[0xff, 0])]), vec![6, 0]),
        (with(&[pair("parity", b"eve")]), vec![]),
        (with(&[pair("even", b"parity")]), vec![]),
        (with(&[pair("odd \0 ' \" name", b"7")]), vec![7]),
        (with(&[pair("long", &[b'x'; 1_025])]), vec![]),
        (
            UploadQuery { stages: vec![Stage::Receiving, Stage::Completed], ..with(&[pair("parity", b"odd")]) },
            vec![9, 7, 5],
        ),
        (UploadQuery { created_from: Some(at(9)), ..all.clone() }, vec![11, 10, 9]),
        (UploadQuery { created_before: Some(at(2)), ..all.clone() }, vec![1, 0]),
        (
            UploadQuery { created_from: Some(at(3)), created_before: Some(at(6)), ..with(&[pair("parity", b"odd")]) },
            vec![5, 3],
        ),
        (UploadQuery { created_before: Some(Timestamp::from_unix_ms(i64::MAX)), limit: 1, ..all.clone() }, vec![11]),
        (UploadQuery { created_from: Some(Timestamp::from_unix_ms(i64::MIN)), limit: 1, ..all.clone() }, vec![11]),
        (
            UploadQuery { before: Some(new_upload(6).id()), ..stages(&[Stage::Receiving, Stage::Created]) },
            vec![5, 4, 3, 2, 1, 0],
        ),
        (UploadQuery { before: Some(new_upload(6).id()), ..with(&[pair("third", &[0xff, 2])]) }, vec![5, 2]),
    ] {
        assert_eq!(listed(&*store, &query).await, expected, "{query:?}");
    }
}

fn image(content_type: &str, width: u32, height: u32) -> Facts {
    let image = Image { width, height, frames: Some(1), duration_ms: None };
    Facts { content_type: content_type.to_owned(), content: Some(Content::Image(image)) }
}

fn film(content_type: &str, duration_ms: Option<u64>) -> Facts {
    let track = Track {
        kind: TrackKind::Video,
        codec: "vp9".to_owned(),
        width: Some(640),
        height: Some(360),
        frames_per_1000_s: None,
        channels: None,
        sample_rate_hz: None,
    };
    let media = Media { duration_ms, tracks: vec![track] };
    Facts { content_type: content_type.to_owned(), content: Some(Content::Media(media)) }
}

pub async fn uploads_are_found_by_what_they_are<P: StateFixture>(place: P) {
    let store = place.open().await;
    for (number, facts) in (0..).zip([
        None,
        Some(Facts { content_type: "text/plain".to_owned(), content: None }),
        Some(image("image/png", 640, 480)),
        Some(image("image/heic", 4_032, 3_024)),
        Some(film("video/webm", None)),
        Some(film("video/webm", Some(90_000))),
        Some(film("video/mp4", Some(7_200_000))),
        Some(film("videogame/x-rom", Some(1))),
        Some(film("video/mp4", Some(u64::MAX))),
    ]) {
        let parity = Metadata::new(vec![pair("parity", if number % 2 == 0 { b"even" } else { b"odd" })]).unwrap();
        let upload = Upload::create(NewUpload { metadata: parity, ..asked(number) }, at(i64::from(number)));
        let mut upload = store.insert(change_of(upload)).await.unwrap();
        receive(&mut upload, 10_000, at(100));
        upload.seal(vec![], at(100)).unwrap();
        if let Some(facts) = facts {
            upload.set_facts(facts);
        }
        if number > 2 {
            upload.verify(at(100));
        }
        store.commit(change_of(upload)).await.unwrap();
    }
    let all = UploadQuery { limit: 100, ..UploadQuery::default() };
    let types = |names: &[&str]| UploadQuery {
        types: names.iter().map(|name| TypePattern::new(name).unwrap()).collect(),
        ..all.clone()
    };
    let between = |least, most| NumberBounds { least, most };
    for (query, expected) in [
        (types(&["video/mp4"]), vec![8, 6]),
        (types(&["VIDEO/*"]), vec![8, 6, 5, 4]),
        (types(&["video/*", "image/png", "video/mp4"]), vec![8, 6, 5, 4, 2]),
        (types(&["image/*", "video/*"]), vec![8, 6, 5, 4, 3, 2]),
        (types(&["audio/*"]), vec![]),
        (types(&["audio/mpeg"]), vec![]),
        (UploadQuery { limit: 2, ..types(&["video/*"]) }, vec![8, 6]),
        (UploadQuery { before: Some(new_upload(6).id()), ..types(&["video/*"]) }, vec![5, 4]),
        (UploadQuery { stages: vec![Stage::Received], ..types(&["image/*"]) }, vec![2]),
        (UploadQuery { metadata: vec![pair("parity", b"odd")], ..types(&["image/*", "video/*"]) }, vec![5, 3]),
        (UploadQuery { created_from: Some(at(5)), ..types(&["video/webm"]) }, vec![5]),
        (UploadQuery { width: between(Some(640), None), ..all.clone() }, vec![8, 7, 6, 5, 4, 3, 2]),
        (UploadQuery { width: between(None, Some(640)), ..types(&["image/*"]) }, vec![2]),
        (UploadQuery { height: between(Some(361), Some(3_024)), ..all.clone() }, vec![3, 2]),
        (UploadQuery { duration_ms: between(Some(90_000), Some(7_200_000)), ..all.clone() }, vec![6, 5]),
        (UploadQuery { duration_ms: between(Some(7_200_001), None), ..all.clone() }, vec![8]),
        (
            UploadQuery { duration_ms: between(None, Some(90_000)), stages: vec![Stage::Verified], ..all.clone() },
            vec![7, 5],
        ),
    ] {
        assert_eq!(listed(&*store, &query).await, expected, "{query:?}");
    }
}

pub async fn a_cursor_is_stable_while_uploads_are_added<P: StateFixture>(place: P) {
    let store = place.open().await;
    for number in 0..20 {
        store.insert(change_of(new_upload(number))).await.unwrap();
    }
    let mut query = UploadQuery { limit: 3, stages: vec![Stage::Created, Stage::Receiving], ..UploadQuery::default() };
    let mut seen = Vec::new();
    for added in 100.. {
        let page = store.list(TenantScope::All, &query).await.unwrap();
        seen.extend(page.found.iter().map(number_of));
        let Some(next) = page.next else { break };
        query.before = Some(next);
        store.insert(change_of(new_upload(added))).await.unwrap();
    }
    assert!(seen.iter().copied().eq((0..20).rev()), "{seen:?}");
}

/// Files are selected by the time of completion, whatever has changed since, and then until their bytes are
/// deleted.
pub async fn the_sweeper_finds_files_to_remove<P: StateFixture>(place: P) {
    let store = place.open().await;
    for number in 0..4 {
        let mut upload = store.insert(change_of(new_upload(number))).await.unwrap();
        complete(&mut upload, at(100 - i64::from(number)));
        upload.report(NewReport::new("hls".to_owned(), None, None).unwrap(), at(200)).unwrap();
        store.commit(change_of(upload)).await.unwrap();
    }
    let due = async |question| {
        let due = store.due(question, crate::SweepShare::OwnAndFree(leases::node(1).instance), 0, 100).await.unwrap();
        due.iter().map(number_of).collect::<Vec<u8>>()
    };
    let outdated = |seconds| SweepSelection::Outdated { completed_before: at(seconds) };
    assert_eq!(due(outdated(97)).await, [0_u8; 0]);
    assert_eq!(due(outdated(100)).await, [3, 2, 1], "oldest first");
    assert_eq!(due(outdated(101)).await, [3, 2, 1, 0]);
    assert_eq!(store.count_missing().await.unwrap(), 0);

    let mut upload = store.find(TenantScope::All, asked(2).id).await.unwrap().unwrap();
    upload.remove(DeletedBy::Retention, at(300)).unwrap();
    let mut upload = store.commit(change_of(upload)).await.unwrap();
    let mut lost = store.find(TenantScope::All, asked(1).id).await.unwrap().unwrap();
    lost.mark_bytes_missing(at(300));
    store.commit(change_of(lost)).await.unwrap();
    assert_eq!(due(outdated(101)).await, [3, 1, 0]);
    assert_eq!((due(SweepSelection::Removable).await, store.count_missing().await.unwrap()), (vec![2], 1));
    upload.bytes_removed(at(301));
    store.commit(change_of(upload)).await.unwrap();
    assert_eq!(due(SweepSelection::Removable).await, [0_u8; 0]);
}

/// Each selection finds its uploads among one upload for each role and step, identified by number.
pub async fn the_sweeper_finds_what_is_due<P: StateFixture>(place: P) {
    let store = place.open().await;
    let list = Role::Final { parts: vec![], as_sent: String::new() };
    let roles = [Role::Single, Role::Partial, list];
    for (number, role) in (0..).step_by(20).zip(roles) {
        for step in 0..10 {
            let asked = NewUpload { role: role.clone(), ..asked(number + step) };
            let mut upload = store.insert(change_of(Upload::create(asked, at(i64::from(step))))).await.unwrap();
            let now = at(100 + i64::from(step));
            if step >= 1 {
                receive(&mut upload, if step >= 3 { 10_000 } else { 1 }, now);
            }
            match step {
                0 | 1 => {}
                2 => upload.stall(now),
                3 => upload.seal(vec![], now).unwrap(),
                4.. => {
                    upload.seal(vec![], now).unwrap();
                    upload.verify(now);
                }
            }
            if (5..=6).contains(&step) {
                upload.store(now);
            }
            match step {
                6 => upload.complete(now),
                7 => upload.fail(Failure { code: "x".to_owned(), message: "y".to_owned(), rejection: None }, now),
                8 | 9 => upload.terminate(DeletedBy::Client, now).unwrap(),
                _ => {}
            }
            if step == 9 {
                upload.bytes_removed(now);
            }
            store.commit(change_of(upload)).await.unwrap();
        }
    }
    // Full and open uploads, and similar ones: a dialect that waits for its client to complete the upload, a
    // gap, a missing byte, and no bytes at all.
    for (number, dialect, length, ranges) in [
        (60, Dialect::named("tus"), Some(10_000), vec![(0, 10_000)]),
        (61, Dialect::named("ranged"), Some(10_000), vec![(5_000, 10_000), (0, 5_000)]),
        (62, Dialect::named("ranged"), Some(0), vec![]),
        (63, Dialect::named("ietf"), Some(10_000), vec![(0, 10_000)]),
        (64, Dialect::named("google"), Some(10_000), vec![(0, 10_000)]),
        (65, Dialect::named("ranged"), Some(10_000), vec![(1, 10_000)]),
        (66, Dialect::named("ranged"), Some(10_000), vec![(0, 9_999)]),
        (67, Dialect::named("tus"), None, vec![(0, 10_000)]),
        (68, Dialect::named("tus"), Some(10_000), vec![]),
    ] {
        let length = length.and_then(Length::new);
        let completion = match dialect.name() {
            "ietf" | "google" => Completion::WhenSaid,
            _ => Completion::WhenFull,
        };
        let write_rules = WriteRules { order: WriteOrder::InOrder, completion };
        let new = NewUpload { dialect, write_rules, length, ..asked(number) };
        let mut record = Upload::create(new, at(1_000_000)).record().clone();
        record.received = ReceivedRanges::from_pairs(ranges);
        record.expires_at = None;
        let upload = Upload::from_record(record);
        assert_eq!(upload.awaits_seal(), number <= 62, "{number}");
        store.insert(change_of(upload)).await.unwrap();
    }
    let far = at(1_000_000);
    for (question, expected) in [
        // Received, verified and stored; a partial upload is not selected at `received`; a final upload is,
        // while still created.
        (SweepSelection::Unsettled, vec![3, 4, 5, 24, 25, 40, 43, 44, 45]),
        (SweepSelection::Unsealed, vec![60, 61, 62]),
        (SweepSelection::Silent { since: at(101) }, vec![]),
        (SweepSelection::Silent { since: at(102) }, vec![1, 21, 41]),
        (SweepSelection::Expired { now: at(3_599) }, vec![]),
        (SweepSelection::Expired { now: at(3_600) }, vec![0]),
        (SweepSelection::Expired { now: far }, vec![0, 1, 2, 20, 21, 22, 23, 40, 41, 42]),
        (SweepSelection::Overlong { now: at(-1), latest: at(3_599) }, vec![0, 1, 2, 20, 21, 22, 23, 40, 41, 42]),
        (SweepSelection::Overlong { now: at(-1), latest: far }, vec![]),
        (SweepSelection::Overlong { now: far, latest: at(0) }, vec![]),
        (SweepSelection::ChangedAfter { now: at(100) }, vec![1, 21, 41]),
        (SweepSelection::ChangedAfter { now: far }, vec![]),
        (SweepSelection::Removable, vec![7, 8, 27, 28, 47, 48]),
    ] {
        let mut due: Vec<u8> = store
            .due(question, crate::SweepShare::OwnAndFree(leases::node(1).instance), 0, 100)
            .await
            .unwrap()
            .iter()
            .map(number_of)
            .collect();
        due.sort_unstable();
        assert_eq!(due, expected, "{question:?}");
    }
    for question in [
        SweepSelection::Unsettled,
        SweepSelection::Unsealed,
        SweepSelection::Silent { since: far },
        SweepSelection::Expired { now: far },
        SweepSelection::Removable,
    ] {
        let two = store.due(question, crate::SweepShare::OwnAndFree(leases::node(1).instance), 0, 2).await.unwrap();
        let all = store.due(question, crate::SweepShare::OwnAndFree(leases::node(1).instance), 0, 100).await.unwrap();
        assert_eq!(two, all[..2], "the oldest come first: {question:?}");
    }
    let expiring = store
        .due(SweepSelection::Expired { now: far }, crate::SweepShare::OwnAndFree(leases::node(1).instance), 0, 100)
        .await
        .unwrap();
    assert!(expiring.is_sorted_by_key(|upload| upload.record().expires_at));
    assert!(expiring.iter().all(|upload| upload.is_expired(far)));
}
