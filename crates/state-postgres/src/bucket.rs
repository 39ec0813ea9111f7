//! The location of an upload's rows: the bucket, the day, and how other identifiers encode both.
//!
//! All rows of an upload have the same bucket, and identifiers created here encode it: the last two bytes of
//! a delivery's identifier are those of its upload. The lease of a delivery also encodes the time of the
//! upload's identifier, so that a settlement finds its row in one partition.

use std::time::Duration;

use domain::id::{DeliveryId, UploadId};
use domain::time::Timestamp;

/// The number of buckets.
const BUCKETS: u16 = 64;

/// The identifier that places a row: that of its upload, or that of its event if the event is not about an
/// upload.
pub(crate) type SourceId = [u8; 16];

/// Returns the bucket of an identifier: its last two bytes modulo 64.
pub(crate) fn bucket_of(id: &[u8; 16]) -> i64 {
    i64::from(u16::from_be_bytes([id[14], id[15]]) % BUCKETS)
}

/// Returns all buckets. A node that serves only some buckets would name those instead.
pub(crate) fn all_buckets() -> Vec<i64> {
    (0..i64::from(BUCKETS)).collect()
}

/// Creates the identifier of a delivery in the bucket of its source.
pub(crate) fn delivery_id(at: Timestamp, mut random: [u8; 10], source: &SourceId) -> DeliveryId {
    random[8..].copy_from_slice(&source[14..]);
    DeliveryId::new(at, random)
}

/// The SQL expression for a new lease of a delivery: the time and the last two bytes of the source, with
/// random bits between them.
pub(crate) const NEW_LEASE: &str = "(left(source_id::text, 13) || substr(gen_random_uuid()::text, 14, 19)
     || right(source_id::text, 4))::uuid";

/// Returns the smallest and the largest possible source of a delivery with this lease, and its bucket.
pub(crate) fn source_of_lease(lease: &[u8; 16]) -> (SourceId, SourceId, i64) {
    let (mut least, mut most) = ([0; 16], [u8::MAX; 16]);
    least[..6].copy_from_slice(&lease[..6]);
    most[..6].copy_from_slice(&lease[..6]);
    (least, most, bucket_of(lease))
}

/// Returns the smallest identifier of an instant: no identifier created at that time or later sorts before
/// it.
pub(crate) fn first_id_of(at: Timestamp) -> [u8; 16] {
    let mut id = [0; 16];
    let unix_ms = at.unix_ms().clamp(0, (1 << 48) - 1);
    id[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
    id
}

/// Returns the bounds of the days that some uploads lie in: the first identifier of the first day, and the
/// first identifier after the last day. A statement with these bounds is planned for those partitions only.
pub(crate) fn days_of<'id>(ids: impl Iterator<Item = &'id UploadId> + Clone) -> Option<([u8; 16], [u8; 16])> {
    let first = ids.clone().map(UploadId::made_at).min()?;
    let last = ids.map(UploadId::made_at).max()?;
    Some((first_id_of(day_of(first)), first_id_of(day_of(last).plus(DAY))))
}

pub(crate) const DAY: Duration = Duration::from_hours(24);

/// Returns the start of the UTC day that contains an instant.
pub(crate) fn day_of(at: Timestamp) -> Timestamp {
    let day_ms = 86_400_000;
    Timestamp::from_unix_ms(at.unix_ms().div_euclid(day_ms) * day_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_lead_to_their_bucket_and_day() {
        let at = Timestamp::from_unix_ms(1_795_300_290_123);
        let upload = UploadId::new(at, [1, 2, 3, 4, 5, 6, 7, 8, 9, 200]);
        let delivery = delivery_id(at.plus(DAY * 3), [7; 10], upload.as_bytes());
        assert_eq!(bucket_of(upload.as_bytes()), bucket_of(delivery.as_bytes()));
        let mut lease = [9; 16];
        lease[..6].copy_from_slice(&upload.as_bytes()[..6]);
        lease[14..].copy_from_slice(&upload.as_bytes()[14..]);
        let (least, most, bucket) = source_of_lease(&lease);
        assert!(least <= *upload.as_bytes() && *upload.as_bytes() <= most);
        assert_eq!(bucket, bucket_of(upload.as_bytes()));
        let (first, end) = days_of([upload].iter()).unwrap();
        assert!(first <= *upload.as_bytes() && *upload.as_bytes() < end);
        assert_eq!(day_of(Timestamp::from_unix_ms(-1)).unix_ms(), -86_400_000);
    }
}
