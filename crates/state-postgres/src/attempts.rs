//! Attempts: recorded when they end, together with the new states of their deliveries.
//!
//! A batch is settled in a fixed number of statements. The lanes of its uploads are locked before their
//! deliveries are read. A commit that adds a delivery to one of these lanes at the same time either sees the
//! settled delivery, or the release of the lane finds the added one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use state_rows::{AttemptRow, Cell, Row as _, sql};
use tokio_postgres::Row;

use crate::bucket::{SourceId, bucket_of, source_of_lease};
use crate::fault::Fault;
use crate::lanes::{ChangedLanes, DeliveryKey, keys};
use crate::log::array_of;
use crate::params::{Kind, Param, params};
use crate::rows::Columns;
use crate::subscribers::Subscriber;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::delivery::{Attempt, AttemptOutcome, DeliveryClass, DeliveryState};
use domain::endpoint::{EndpointId, Health};
use domain::health::HealthChange;
use domain::id::{DeliveryId, EventId, UploadId};
use domain::lane::{self, SettledDelivery};
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;
use state::{Settlement, SettlementBatch};

/// The beginning of the note of an attempt whose lease had passed to another claim.
const LATE: &str = "late";

pub(crate) struct Settle {
    pub(crate) settled: SettlementBatch,
    pub(crate) now: Timestamp,
}

impl Work for Settle {
    const OPERATION: &'static str = "record delivery attempts";
    /// A settlement is bound to its lease, and an attempt to its number; repeating them changes nothing.
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Repeat;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> Result<(), Fault> {
        if !self.settled.settlements.is_empty() {
            self.settle(tx).await?;
        }
        // A fixed order, so that the updates of two nodes do not deadlock.
        let changes: BTreeMap<&EndpointId, &HealthChange> =
            self.settled.health.iter().map(|(endpoint, change)| (endpoint, change)).collect();
        for (endpoint, change) in changes {
            note_health(tx, endpoint, change).await?;
        }
        Ok(())
    }
}

impl Settle {
    async fn settle(&self, tx: &mut Transaction<'_>) -> Result<(), Fault> {
        let subscribers = tx.subscribers().await?;
        let settlements = &self.settled.settlements;
        let places = find_rows(tx, settlements).await?;
        tx.lock_lanes(places.values().filter_map(|place| place.upload)).await?;
        let mut claimed = read_claimed(tx, settlements, &places, &subscribers).await?;
        let (mut attempts, mut written, mut exhausted) = (Vec::new(), Vec::new(), Vec::new());
        let mut lanes = ChangedLanes::new();
        for (number, settlement) in settlements.iter().enumerate() {
            // A missing delivery has been removed with its attempts.
            let Some(place) = places.get(&number) else { continue };
            let key = DeliveryKey { source: place.source, id: settlement.delivery };
            let Some(row) = claimed.remove(&number) else {
                attempts.push(NewAttempt::of(key, settlement, Some(&late_note(&settlement.attempt)), None));
                continue;
            };
            let counts = settlement.attempt.outcome != AttemptOutcome::Aborted;
            let settled = lane::settle(row.delivery, settlement.disposition, counts);
            // The time at which a stopped endpoint is resumed is unknown.
            let planned = settlement.attempt.next_attempt_at;
            let planned = planned.filter(|_| settled.state == DeliveryState::Ready && !row.endpoint_is_stopped);
            attempts.push(NewAttempt::of(key, settlement, settlement.attempt.note.as_deref(), planned));
            tx.made_ready |= settled.state == DeliveryState::Ready;
            tx.superseded += u64::from(settled.state == DeliveryState::Superseded);
            if settled.is_exhausted {
                exhausted.push((row.tenant, row.exhausted(settlement)));
            }
            if let Some(upload) = row.upload {
                lanes.insert((upload, row.endpoint.as_str().to_owned()), self.now);
            }
            written.push((key, settled, row.generation));
        }
        record(tx, &attempts).await?;
        write(tx, &written, self.now).await?;
        for (tenant, notice) in &exhausted {
            tx.log_notice(*tenant, notice, self.now).await?;
        }
        tx.release_next(&lanes).await
    }
}

/// The location of a settled delivery's row.
#[derive(Debug, Clone, Copy)]
struct Place {
    source: SourceId,
    upload: Option<UploadId>,
}

/// Finds deliveries in the partitions that their leases encode.
const FIND: &str = "SELECT settled.number, deliveries.source_id, deliveries.upload_id
     FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::uuid[], $5::uuid[])
         AS settled (number, bucket, id, least, most)
     JOIN deliveries ON deliveries.bucket = settled.bucket AND deliveries.id = settled.id
         AND deliveries.source_id BETWEEN settled.least AND settled.most
     /*days*/ WHERE deliveries.source_id BETWEEN $6 AND $7/*end*/";

/// Returns the locations of the settled deliveries, by the number of the settlement in the batch. The rows
/// are not locked yet.
async fn find_rows(tx: &Transaction<'_>, settlements: &[Settlement]) -> Result<BTreeMap<usize, Place>, Fault> {
    let leases = settlements.iter().map(|settlement| source_of_lease(&settlement.lease));
    let (mut least, mut most, mut buckets) = (Vec::new(), Vec::new(), Vec::new());
    for (from, to, bucket) in leases {
        least.push(from);
        most.push(to);
        buckets.push(bucket);
    }
    let first = least.iter().min().copied().unwrap_or_default();
    let last = most.iter().max().copied().unwrap_or_default();
    let numbers: Vec<i64> = (0..).take(settlements.len()).collect();
    let ids: Vec<DeliveryId> = settlements.iter().map(|settlement| settlement.delivery).collect();
    let values = params![numbers, buckets, ids, least, most, first, last];
    let place = |row: &Row| {
        let mut columns = Columns::of(row);
        let number = usize::try_from(columns.next::<u32>()?).unwrap_or(usize::MAX);
        Ok((number, Place { source: columns.next()?, upload: columns.next()? }))
    };
    tx.query_of([first, last].iter(), FIND, values).await?.iter().map(place).collect()
}

/// A delivery whose lease the settlement still holds.
struct ClaimedRow {
    tenant: TenantId,
    endpoint: EndpointId,
    endpoint_is_stopped: bool,
    /// The current generation of the endpoint; `None` if the endpoint is not present.
    generation: Option<i64>,
    event: EventId,
    upload: Option<UploadId>,
    delivery: lane::ClaimedDelivery,
}

impl ClaimedRow {
    fn exhausted(&self, settlement: &Settlement) -> Notice {
        Notice::Exhausted {
            delivery: settlement.delivery,
            endpoint: self.endpoint.clone(),
            event: self.event,
            upload: self.upload,
            attempts: settlement.attempt.number,
        }
    }
}

/// Locks and reads the deliveries whose leases are still held; the keys come first.
const CLAIMED: &str = "SELECT settled.number, tenant, endpoint, event_id, upload_id, kind, attempts,
         EXISTS (SELECT 1 FROM events WHERE events.bucket = deliveries.bucket
             AND events.source_id = deliveries.source_id/*days*/ AND events.source_id BETWEEN $4 AND $5/*end*/
             AND events.sequence > deliveries.sequence)
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $6::uuid[], $7::bigint[])
         AS settled (bucket, source_id, id, lease, number)
     JOIN deliveries ON deliveries.bucket = settled.bucket AND deliveries.source_id = settled.source_id
         AND deliveries.id = settled.id AND deliveries.lease = settled.lease
     /*days*/ WHERE deliveries.source_id BETWEEN $4 AND $5/*end*/
     FOR UPDATE OF deliveries";

async fn read_claimed(
    tx: &Transaction<'_>,
    settlements: &[Settlement],
    places: &BTreeMap<usize, Place>,
    subscribers: &[Subscriber],
) -> Result<BTreeMap<usize, ClaimedRow>, Fault> {
    // A lease is settled once, even if the batch names it twice.
    let mut leases = BTreeSet::new();
    let wanted: Vec<(usize, &Settlement, SourceId)> = settlements
        .iter()
        .enumerate()
        .filter_map(|(number, settlement)| Some((number, settlement, places.get(&number)?.source)))
        .filter(|(_, settlement, _)| leases.insert((settlement.delivery, settlement.lease)))
        .collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let key = |(_, settlement, source): &(usize, &Settlement, SourceId)| DeliveryKey {
        source: *source,
        id: settlement.delivery,
    };
    let mut values = keys(&wanted.iter().map(key).collect::<Vec<_>>());
    values.push(Param::from(wanted.iter().map(|(_, settlement, _)| settlement.lease).collect::<Vec<[u8; 16]>>()));
    let numbers = wanted.iter().map(|(number, ..)| i64::try_from(*number).unwrap_or(i64::MAX));
    values.push(Param::from(numbers.collect::<Vec<i64>>()));
    let claimed = |row: &Row| {
        let mut columns = Columns::of(row);
        let number = usize::try_from(columns.next::<u32>()?).unwrap_or(usize::MAX);
        let (tenant, endpoint) = (columns.next()?, columns.next()?);
        let subscriber = subscribers.iter().find(|one| one.id == endpoint);
        let row = ClaimedRow {
            tenant,
            // An absent endpoint is not stopped: its remaining deliveries are kept unchanged until it is
            // present again.
            endpoint_is_stopped: subscriber.is_some_and(|one| !one.is_enabled),
            generation: subscriber.map(|one| one.generation),
            endpoint,
            event: columns.next()?,
            upload: columns.next()?,
            delivery: lane::ClaimedDelivery {
                class: DeliveryClass::of(columns.next()?),
                attempts: columns.next()?,
                is_overtaken: columns.next()?,
            },
        };
        Ok((number, row))
    };
    let sources = wanted.iter().map(|(.., source)| source);
    tx.query_of(sources, CLAIMED, &values).await?.iter().map(claimed).collect()
}

/// Writes the new states of deliveries; the keys come first.
const WRITE: &str = "UPDATE deliveries SET state = settled.state, attempts = settled.attempts,
         next_at_ms = coalesce(settled.next_at_ms, deliveries.next_at_ms), finished_at_ms = settled.finished_at_ms,
         lease = NULL, lease_until_ms = NULL, claimed_by = NULL,
         generation = coalesce(settled.generation, deliveries.generation)
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
             $10::bigint[])
         AS settled (bucket, source_id, id, state, attempts, next_at_ms, finished_at_ms, generation)
     WHERE deliveries.bucket = settled.bucket AND deliveries.source_id = settled.source_id
         AND deliveries.id = settled.id/*days*/ AND deliveries.source_id BETWEEN $4 AND $5/*end*/";

async fn write(
    tx: &Transaction<'_>,
    written: &[(DeliveryKey, SettledDelivery, Option<i64>)],
    now: Timestamp,
) -> Result<(), Fault> {
    if written.is_empty() {
        return Ok(());
    }
    let settled = || written.iter().map(|(_, settled, _)| settled);
    let mut values = keys(&written.iter().map(|(key, ..)| *key).collect::<Vec<_>>());
    values.extend([
        Param::from(settled().map(|it| it.state.name().to_owned()).collect::<Vec<String>>()),
        Param::from(settled().map(|it| i64::from(it.attempts)).collect::<Vec<i64>>()),
        Param::Integers(settled().map(|it| it.next_at.map(Timestamp::unix_ms)).collect()),
        Param::Integers(settled().map(|it| it.state.is_finished().then_some(now.unix_ms())).collect()),
        Param::Integers(written.iter().map(|(.., generation)| *generation).collect()),
    ]);
    tx.execute_of(written.iter().map(|(key, ..)| &key.source), WRITE, &values).await.map(drop)
}

fn late_note(attempt: &Attempt) -> String {
    match &attempt.note {
        Some(note) => format!("{LATE}; {note}"),
        None => LATE.to_owned(),
    }
}

/// The row of an attempt.
struct NewAttempt {
    source: SourceId,
    cells: [Cell; AttemptRow::COUNT],
}

impl NewAttempt {
    fn of(key: DeliveryKey, settlement: &Settlement, note: Option<&str>, next_at: Option<Timestamp>) -> Self {
        Self { source: key.source, cells: AttemptRow::cells(key.id, &settlement.attempt, note, next_at) }
    }
}

/// Inserts attempts. Recording the same attempt again changes nothing.
static RECORD: LazyLock<String> = LazyLock::new(|| {
    let columns = sql::columns::<AttemptRow>();
    let arrays: Vec<String> = AttemptRow::COLUMNS
        .iter()
        .enumerate()
        .map(|(place, column)| array_of(AttemptRow::TABLE, column, place + 3))
        .collect();
    format!(
        "INSERT INTO attempts (bucket, source_id, {columns})
         SELECT * FROM unnest($1::bigint[], $2::uuid[], {}) ON CONFLICT DO NOTHING",
        arrays.join(", ")
    )
});

async fn record(tx: &Transaction<'_>, attempts: &[NewAttempt]) -> Result<(), Fault> {
    if attempts.is_empty() {
        return Ok(());
    }
    let mut values = vec![
        Param::from(attempts.iter().map(|attempt| bucket_of(&attempt.source)).collect::<Vec<i64>>()),
        Param::from(attempts.iter().map(|attempt| attempt.source).collect::<Vec<SourceId>>()),
    ];
    for (place, column) in AttemptRow::COLUMNS.iter().enumerate() {
        let cells = attempts.iter().map(|attempt| &attempt.cells[place]);
        values.push(Kind::of(AttemptRow::TABLE, column).array(cells));
    }
    tx.execute_of(attempts.iter().map(|attempt| &attempt.source), &RECORD, &values).await.map(drop)
}

const HEALTH: &str = "SELECT consecutive_failures, failing_since_ms, exhausted, open_until_ms, warned_percent
     FROM endpoints WHERE id = $1 FOR UPDATE";

/// Applies a change to the health of an endpoint, which other nodes change too. Commits and claims do not
/// cache it, so their endpoints stay valid.
async fn note_health(tx: &Transaction<'_>, id: &EndpointId, change: &HealthChange) -> Result<(), Fault> {
    let Some(row) = tx.query_opt(HEALTH, params![id]).await? else { return Ok(()) };
    let mut columns = Columns::of(&row);
    let stored = Health {
        consecutive_failures: columns.next()?,
        failing_since: columns.next()?,
        exhausted: columns.next()?,
        open_until: columns.next()?,
        warned_percent: u8::try_from(columns.next::<u32>()?).unwrap_or(u8::MAX),
    };
    let health = stored.after(change);
    tx.execute(
        "UPDATE endpoints SET consecutive_failures = $2, failing_since_ms = $3, exhausted = $4, open_until_ms = $5,
             warned_percent = $6
         WHERE id = $1",
        params![
            id,
            health.consecutive_failures,
            health.failing_since,
            health.exhausted,
            health.open_until,
            u32::from(health.warned_percent),
        ],
    )
    .await
    .map(drop)
}
