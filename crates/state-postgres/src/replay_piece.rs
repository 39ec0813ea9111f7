//! A batch of a replay: events from the log, and the replay of their deliveries.
//!
//! A batch needs a fixed number of statements. Deliveries that must wait for their turn are first stored as
//! waiting, and then each lane is released once. The first event of a lane therefore goes first, whether its
//! delivery is new or returns to the lane.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;

use crate::bucket::{SourceId, all_buckets, bucket_of, days_of, delivery_id};
use crate::fault::Fault;
use crate::lanes::{ChangedLanes, DeliveryKey, EventPlace, NewDelivery, Returning, has_order};
use crate::params::{Param, params};
use crate::past_days;
use crate::rows::Columns;
use crate::subscribers::Subscriber;
use crate::transaction::Transaction;
use domain::delivery::{AttemptTrigger, DeliveryState, ReplaySelection};
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, UploadId, in_order};
use domain::lane::{self, ReplayAction};
use domain::log::EventPosition;
use domain::metadata::Metadata;
use domain::principal::TenantId;
use domain::replay::ReplayJob;
use domain::time::Timestamp;

pub(crate) const MOST_LOOKED_AT: usize = ReplayJob::MOST_LOOKED_AT as usize;

/// The data of an event that a job needs.
pub(crate) struct PastEvent {
    pub(crate) position: EventPosition,
    id: EventId,
    pub(crate) tenant: TenantId,
    upload: UploadId,
    sequence: u64,
    pub(crate) kind: EventKind,
    pub(crate) occurred_at: Timestamp,
}

const PIECE: &str = "SELECT position, id, tenant, upload_id, sequence, kind, occurred_at_ms FROM events
     WHERE position > $1 AND position <= $2 AND upload_id IS NOT NULL AND bucket = ANY($4::bigint[])
         AND source_id >= $5 AND source_id < $6
     ORDER BY position LIMIT $3";

/// Locks the deliveries of some events to one endpoint.
const DELIVERIES: &str = "SELECT deliveries.source_id, deliveries.sequence, deliveries.id, state, attempts
     FROM unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS event (bucket, source_id, sequence)
     JOIN deliveries ON deliveries.bucket = event.bucket AND deliveries.source_id = event.source_id
         AND deliveries.sequence = event.sequence
     WHERE endpoint = $4 AND deliveries.source_id >= $5 AND deliveries.source_id < $6
     FOR UPDATE OF deliveries";

/// The events among some that the log still contains.
const LOGGED: &str = "SELECT events.source_id, events.sequence
     FROM unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS event (bucket, source_id, sequence)
     JOIN events ON events.bucket = event.bucket AND events.source_id = event.source_id
         AND events.sequence = event.sequence
     WHERE events.source_id >= $4 AND events.source_id < $5";

const METADATA: &str = "SELECT uploads.id, metadata FROM unnest($1::bigint[], $2::uuid[]) AS wanted (bucket, id)
     JOIN uploads ON uploads.bucket = wanted.bucket AND uploads.id = wanted.id
     WHERE uploads.id >= $3 AND uploads.id < $4";

/// Returns the values that name events: their buckets, sources and sequences; and the bounds of their
/// sources. Returns `None` without events.
fn event_keys(events: &[PastEvent]) -> Option<([Param; 3], [SourceId; 2])> {
    let (first, end) = days_of(events.iter().map(|event| &event.upload))?;
    let sequence = |event: &PastEvent| i64::try_from(event.sequence).unwrap_or(i64::MAX);
    let keys = [
        Param::from(events.iter().map(|event| bucket_of(event.upload.as_bytes())).collect::<Vec<i64>>()),
        Param::from(events.iter().map(|event| event.upload).collect::<Vec<UploadId>>()),
        Param::from(events.iter().map(sequence).collect::<Vec<i64>>()),
    ];
    Some((keys, [first, end]))
}

impl Transaction<'_> {
    /// Reads events of uploads between two positions.
    pub(crate) async fn piece_of_log(
        &self,
        after: EventPosition,
        last: EventPosition,
    ) -> Result<Vec<PastEvent>, Fault> {
        let past = |row: &Row| {
            let mut columns = Columns::of(row);
            Ok(PastEvent {
                position: columns.next()?,
                id: columns.next()?,
                tenant: columns.next()?,
                upload: columns.next()?,
                sequence: columns.next()?,
                kind: columns.next()?,
                occurred_at: columns.next()?,
            })
        };
        let (mut found, mut last) = (Vec::<PastEvent>::new(), last);
        for days in self.days_with_events(after.0).await? {
            if days.oldest_position > last.0 {
                break;
            }
            let [from, end] = past_days::bounds(&days);
            let values = params![after, last, ReplayJob::MOST_LOOKED_AT, all_buckets(), from, end];
            let read: Result<Vec<PastEvent>, Fault> = self.query(PIECE, values).await?.iter().map(past).collect();
            found.extend(read?);
            found.sort_by_key(|event| event.position);
            found.truncate(MOST_LOOKED_AT);
            last = found.last().filter(|_| found.len() == MOST_LOOKED_AT).map_or(last, |event| event.position);
        }
        Ok(found)
    }

    /// Queues the events that the replay selects for an endpoint, and returns their number. Events that were
    /// removed since they were read are skipped.
    pub(crate) async fn queue_again(
        &mut self,
        subscriber: &Subscriber,
        mut events: Vec<PastEvent>,
        what: ReplaySelection,
        now: Timestamp,
    ) -> Result<u64, Fault> {
        self.lock_lanes(events.iter().map(|event| event.upload)).await?;
        let (logged, found) = futures::try_join!(self.logged(&events), self.deliveries_of(subscriber, &events))?;
        events.retain(|event| logged.contains(&(event.upload, event.sequence)));
        let (mut returning, mut missing) = (Vec::new(), Vec::new());
        for event in &events {
            let delivery = found.get(&(event.upload, event.sequence));
            match lane::replay(delivery.map(|(_, state, _)| *state), what) {
                ReplayAction::Rejoin => returning.extend(delivery.map(|(id, _, attempts)| {
                    let key = DeliveryKey { source: *event.upload.as_bytes(), id: *id };
                    Returning { key, upload: Some(event.upload), attempts: *attempts }
                })),
                ReplayAction::Join => missing.push(event),
                ReplayAction::Nothing => {}
            }
        }
        let missing = self.wanted(subscriber, missing).await?;
        let state = if has_order(subscriber) { DeliveryState::Waiting } else { DeliveryState::Ready };
        let joining: Vec<NewDelivery<'_>> = missing
            .into_iter()
            .map(|event| NewDelivery {
                key: DeliveryKey {
                    source: *event.upload.as_bytes(),
                    id: delivery_id(now, in_order(event.sequence, rand::random()), event.upload.as_bytes()),
                },
                event_place: EventPlace::Logged(event.position),
                event: event.id,
                kind: event.kind,
                endpoint: subscriber,
                upload: Some(event.upload),
                sequence: event.sequence,
                trigger: AttemptTrigger::Manual,
                now,
                state,
                finished_at: None,
            })
            .collect();
        let mut lanes = self.rejoin(&returning, subscriber, now).await?;
        self.deliver(&joining).await?;
        let lane = |upload| ((upload, subscriber.id.as_str().to_owned()), now);
        lanes.extend(joining.iter().filter_map(|delivery| delivery.upload).map(lane).collect::<ChangedLanes>());
        self.release_next(&lanes).await?;
        Ok(u64::try_from(returning.len() + joining.len()).unwrap_or(u64::MAX))
    }

    /// Returns the events among some that the log still contains.
    async fn logged(&self, events: &[PastEvent]) -> Result<BTreeSet<(UploadId, u64)>, Fault> {
        let Some((keys, [first, end])) = event_keys(events) else { return Ok(BTreeSet::new()) };
        let values: Vec<Param> = keys.into_iter().chain([Param::from(first), Param::from(end)]).collect();
        let event = |row: &Row| {
            let mut columns = Columns::of(row);
            Ok((columns.next()?, columns.next()?))
        };
        self.query(LOGGED, &values).await?.iter().map(event).collect()
    }

    /// Returns the deliveries of some events to an endpoint, with their states and attempts.
    async fn deliveries_of(
        &self,
        subscriber: &Subscriber,
        events: &[PastEvent],
    ) -> Result<BTreeMap<(UploadId, u64), (DeliveryId, DeliveryState, u32)>, Fault> {
        let Some((keys, [first, end])) = event_keys(events) else { return Ok(BTreeMap::new()) };
        let values: Vec<Param> = keys.into_iter().chain(params![&subscriber.id, first, end].iter().cloned()).collect();
        let delivery = |row: &Row| {
            let mut columns = Columns::of(row);
            let event = (columns.next()?, columns.next()?);
            Ok((event, (columns.next()?, columns.next()?, columns.next()?)))
        };
        self.query(DELIVERIES, &values).await?.iter().map(delivery).collect()
    }

    /// Returns the events that an endpoint subscribes to.
    async fn wanted<'e>(
        &self,
        subscriber: &Subscriber,
        events: Vec<&'e PastEvent>,
    ) -> Result<Vec<&'e PastEvent>, Fault> {
        let mut wanted = events;
        wanted.retain(|event| subscriber.terms.filter.wants(event.kind));
        if subscriber.terms.metadata.is_empty() {
            return Ok(wanted);
        }
        let Some((first, end)) = days_of(wanted.iter().map(|event| &event.upload)) else { return Ok(wanted) };
        let mut uploads: Vec<UploadId> = wanted.iter().map(|event| event.upload).collect();
        uploads.sort_unstable();
        uploads.dedup();
        let buckets: Vec<i64> = uploads.iter().map(|upload| bucket_of(upload.as_bytes())).collect();
        let values = [Param::from(buckets), Param::from(uploads), Param::from(first), Param::from(end)];
        let metadata = |row: &Row| {
            let mut columns = Columns::of(row);
            Ok((columns.next()?, columns.next()?))
        };
        let found = self.query(METADATA, &values).await?;
        let known: BTreeMap<UploadId, Metadata> = found.iter().map(metadata).collect::<Result<_, Fault>>()?;
        wanted.retain(|event| known.get(&event.upload).is_some_and(|found| subscriber.terms.wants_upload(found)));
        Ok(wanted)
    }
}
