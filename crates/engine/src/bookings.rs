//! Disk space that unfinished uploads of known length have yet to fill.
//!
//! A booking is a number, not an allocation: the bytes that an upload has declared and not received. It is
//! made at creation, or when the length becomes known, and shrinks with each commit. Every committed upload
//! passes through [`Bookings::note`], so the booking ends with the upload, however that ends. After a start,
//! bookings are counted again; in a cluster also later, because other nodes commit uploads as well.
//!
//! An upload yields to bookings that are older than its own. So of two uploads that do not both fit, one
//! completes; otherwise each could fill half of the disk and stop. Bookings cost a client nothing, so all of
//! them can reserve only a share of the free space; the rest is used by the bytes that arrive first.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::lock::lock;
use domain::id::UploadId;
use domain::time::Timestamp;
use domain::upload::Upload;

#[derive(Debug, Default)]
pub(super) struct Bookings(Mutex<Booked>);

#[derive(Debug, Default)]
struct Booked {
    by_age: BTreeMap<Age, u64>,
    total_bytes: u64,
}

type Age = (Timestamp, UploadId);

/// The booking of an upload that is about to be inserted.
#[derive(Debug)]
pub(super) struct Booking(Age);

/// Free disk space for an upload, before the bookings of others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// Free space, plus the upload's own blocks, minus the reserve that must stay free.
    pub(super) spare_bytes: u64,
    /// The share of it that bookings may keep from others, in percent.
    pub(super) booked_percent: u64,
}

impl Space {
    /// Returns the maximum that others may have booked if `bytes` are to fit; `None` if they do not fit in
    /// any case.
    fn most_booked(self, bytes: u64) -> Option<u64> {
        let left = self.spare_bytes.checked_sub(bytes)?;
        let share = u128::from(self.spare_bytes) * u128::from(self.booked_percent.min(100)) / 100;
        Some(if u128::from(left) >= share { u64::MAX } else { left })
    }
}

impl Bookings {
    /// Reports whether `bytes` more fit for an upload that has booked nothing.
    pub(super) fn admit(&self, bytes: u64, space: Space) -> bool {
        space.most_booked(bytes).is_some_and(|most| self.lock().total_bytes <= most)
    }

    /// Reports whether `bytes` more of an upload fit. Bookings made after its own do not count.
    pub(super) fn admit_for(&self, upload: &Upload, bytes: u64, space: Space) -> bool {
        space.most_booked(bytes).is_some_and(|most| !self.lock().exceed(&age(upload), most))
    }

    /// Books the rest of a new upload, if it fits. The check and the booking are one step: of many
    /// simultaneous creations, no more are admitted than fit.
    pub(super) fn book(&self, upload: &Upload, space: Space) -> Option<Booking> {
        let mut booked = self.lock();
        let bytes = outstanding(upload).unwrap_or(0);
        space.most_booked(bytes).filter(|most| booked.total_bytes <= *most)?;
        booked.set(age(upload), bytes);
        Some(Booking(age(upload)))
    }

    /// Updates the booking of an upload as it was committed, or as it is found at the start. Returns the
    /// total of all bookings.
    pub(super) fn note(&self, upload: &Upload) -> u64 {
        let mut booked = self.lock();
        booked.set(age(upload), outstanding(upload).unwrap_or(0));
        booked.total_bytes
    }

    /// Cancels the bookings of uploads that are not known any more. Returns the total of all others.
    pub(super) fn keep(&self, is_known: impl Fn(UploadId) -> bool) -> u64 {
        let mut booked = self.lock();
        let gone: Vec<Age> = booked.by_age.keys().filter(|(_, id)| !is_known(*id)).copied().collect();
        for age in gone {
            booked.set(age, 0);
        }
        booked.total_bytes
    }

    /// Cancels the booking of an upload that was not inserted.
    pub(super) fn cancel(&self, Booking(age): Booking) {
        self.lock().set(age, 0);
    }

    fn lock(&self) -> MutexGuard<'_, Booked> {
        lock(&self.0)
    }
}

impl Booked {
    fn set(&mut self, age: Age, bytes: u64) {
        let before = if bytes == 0 { self.by_age.remove(&age) } else { self.by_age.insert(age, bytes) };
        self.total_bytes = self.total_bytes.saturating_sub(before.unwrap_or(0)).saturating_add(bytes);
    }

    /// Reports whether older bookings exceed `most`. Usually the total of all bookings does not, and no
    /// booking is counted individually.
    fn exceed(&self, age: &Age, most: u64) -> bool {
        let own_bytes = self.by_age.get(age).copied().unwrap_or(0);
        if self.total_bytes.saturating_sub(own_bytes) <= most {
            return false;
        }
        if own_bytes == 0 {
            return true;
        }
        let mut older_bytes: u64 = 0;
        self.by_age.range(..age).any(|(_, bytes)| {
            older_bytes = older_bytes.saturating_add(*bytes);
            older_bytes > most
        })
    }
}

fn age(upload: &Upload) -> Age {
    (upload.record().created_at, upload.id())
}

/// Returns the bytes that an unfinished upload has declared and not received; `None` if they are unknown or
/// zero.
fn outstanding(upload: &Upload) -> Option<u64> {
    let length = upload.length().filter(|_| upload.stage().takes_bytes())?;
    length.get().checked_sub(upload.received_bytes()).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::dialect::Dialect;
    use domain::metadata::Metadata;
    use domain::principal::TenantId;
    use domain::removal::DeletedBy;
    use domain::size::Length;
    use domain::upload::{DurableBytes, NewUpload, Role, UploadTerms};
    use domain::write_rules::{Completion, WriteOrder, WriteRules};

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000);
    const LATER: Timestamp = Timestamp::from_unix_ms(1 << 40);

    fn upload(at: i64, length: Option<u64>) -> Upload {
        let now = Timestamp::from_unix_ms(at);
        let new = NewUpload {
            id: UploadId::new(now, [7; 10]),
            tenant: TenantId::DEFAULT,
            dialect: Dialect::named("tus"),
            write_rules: WriteRules { order: WriteOrder::InOrder, completion: Completion::WhenFull },
            role: Role::Single,
            length: length.and_then(Length::new),
            metadata: Metadata::default(),
            metadata_as_sent: None,
            terms: UploadTerms::default(),
            wanted_digests: Vec::new(),
            promised_digests: Vec::new(),
            expires_at: LATER,
        };
        Upload::create(new, now)
    }

    fn receive(upload: &mut Upload, start: u64, end: u64) {
        let ranges = vec![(start, end)];
        let durable = DurableBytes { ranges, running_digests: Vec::new(), resume: Vec::new(), expires_at: LATER };
        upload.receive(durable, None, LATER).unwrap();
    }

    fn space(spare_bytes: u64) -> Space {
        Space { spare_bytes, booked_percent: 50 }
    }

    #[test]
    fn a_booking_follows_its_upload_and_ends_with_it_however_that_ends() {
        let ends: [fn(&mut Upload); 4] = [
            |upload| receive(upload, 0, 100),
            |upload| upload.terminate(DeletedBy::Client, NOW).unwrap(),
            |upload| upload.expire(NOW),
            |upload| {
                let failure =
                    domain::failure::Failure { code: "too-long".to_owned(), message: String::new(), rejection: None };
                upload.fail(failure, NOW);
            },
        ];
        for end in ends {
            let bookings = Bookings::default();
            let mut upload = upload(1, Some(100));
            assert!(bookings.book(&upload, space(100)).is_some());
            assert_eq!(bookings.lock().total_bytes, 100);
            receive(&mut upload, 60, 90);
            bookings.note(&upload);
            bookings.note(&upload);
            assert_eq!(bookings.lock().total_bytes, 70, "counted once, and bytes after a gap are received");
            end(&mut upload);
            bookings.note(&upload);
            assert_eq!(bookings.lock().total_bytes, 0);
            assert!(bookings.lock().by_age.is_empty());
        }
    }

    #[test]
    fn one_that_was_not_inserted_has_booked_nothing() {
        let bookings = Bookings::default();
        let upload = upload(1, Some(100));
        bookings.cancel(bookings.book(&upload, space(100)).unwrap());
        assert_eq!(bookings.lock().total_bytes, 0);
    }

    #[test]
    fn uploads_that_ended_on_another_node_have_booked_nothing() {
        let bookings = Bookings::default();
        let [ended, going_on] = [upload(1, Some(30)), upload(2, Some(50))];
        for upload in [&ended, &going_on] {
            bookings.note(upload);
        }
        assert_eq!(bookings.keep(|id| id == going_on.id()), 50);
        assert_eq!(bookings.keep(|_| true), 50);
        assert!(bookings.book(&upload(3, Some(50)), space(100)).is_some());
    }

    #[test]
    fn what_is_booked_is_not_given_to_others_but_only_up_to_its_share() {
        let bookings = Bookings::default();
        assert!(bookings.book(&upload(1, Some(30)), space(100)).is_some());
        assert!(bookings.book(&upload(2, Some(71)), space(100)).is_none(), "71 and 30 are more than 100");
        assert!(bookings.book(&upload(3, Some(70)), space(100)).is_some());
        // All is booked, but half of it stays open to uploads that send bytes.
        assert!(bookings.admit(50, space(100)));
        assert!(!bookings.admit(51, space(100)));
        assert!(bookings.book(&upload(4, Some(50)), space(100)).is_some());
        assert!(bookings.book(&upload(5, Some(51)), space(100)).is_none());
        assert!(!bookings.admit(1, space(0)));
        assert!(bookings.admit(0, space(0)), "an upload without bytes always fits");
    }

    #[test]
    fn of_two_that_do_not_both_fit_the_older_goes_on() {
        let bookings = Bookings::default();
        let (older, younger) = (upload(1, Some(30)), upload(2, Some(30)));
        let booking = bookings.book(&older, space(60)).unwrap();
        assert!(bookings.book(&younger, space(60)).is_some());
        // Another program has filled the disk meanwhile.
        assert!(bookings.admit_for(&older, 30, space(40)));
        assert!(!bookings.admit_for(&younger, 30, space(40)));
        let unknown = upload(0, None);
        assert!(!bookings.admit_for(&unknown, 30, space(40)), "an upload without a booking yields to all");
        bookings.cancel(booking);
        assert!(bookings.admit_for(&younger, 30, space(40)));
    }
}
