//! Stored lanes. [`domain::lane`] defines the rules; this module loads a view of a lane, calls the rule, and
//! writes the difference.
//!
//! A transaction that works on lanes has [locked](Transaction::lock_lanes) them before it reads them. Only
//! then do its statements see all earlier changes; otherwise a delivery could wait for one that has already
//! been settled.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use state_rows::{DeliveryRow, Row as _, sql};

use crate::bucket::{SourceId, bucket_of, days_of};
use crate::fault::Fault;
use crate::log::{array_of, position};
use crate::params::{Kind, Param, params};
use crate::rows::Columns;
use crate::subscribers::Subscriber;
use crate::transaction::Transaction;
use domain::delivery::{AttemptTrigger, DeliveryState};
use domain::endpoint::{EndpointId, Ordering};
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId, UploadId};
use domain::lane::{self, LaneLoad};
use domain::log::EventPosition;
use domain::time::Timestamp;

/// The identifier of a delivery and the location of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeliveryKey {
    pub(crate) source: SourceId,
    pub(crate) id: DeliveryId,
}

/// The position in the log of a new delivery's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventPlace {
    /// This transaction has written the event at this place, see [`Transaction::next_event`].
    New(i64),
    Logged(EventPosition),
}

/// The values of a new delivery.
#[derive(Debug)]
pub(crate) struct NewDelivery<'a> {
    pub(crate) key: DeliveryKey,
    pub(crate) event_place: EventPlace,
    pub(crate) event: EventId,
    pub(crate) kind: EventKind,
    pub(crate) endpoint: &'a Subscriber,
    /// `None` for a notice, which belongs to no lane.
    pub(crate) upload: Option<UploadId>,
    pub(crate) sequence: u64,
    pub(crate) trigger: AttemptTrigger,
    pub(crate) now: Timestamp,
    /// The state according to [`lane::join`].
    pub(crate) state: DeliveryState,
    pub(crate) finished_at: Option<Timestamp>,
}

impl NewDelivery<'_> {
    fn row(&self) -> DeliveryRow {
        DeliveryRow {
            id: self.key.id,
            tenant: self.endpoint.tenant,
            event_position: match self.event_place {
                EventPlace::New(_) => EventPosition::default(),
                EventPlace::Logged(position) => position,
            },
            event_id: self.event,
            kind: self.kind,
            endpoint: self.endpoint.id.clone(),
            upload_id: self.upload,
            sequence: self.sequence,
            state: self.state,
            trigger: self.trigger,
            attempts: 0,
            attempts_before: 0,
            begun_at_ms: self.now,
            next_at_ms: self.now,
            lease: None,
            lease_until_ms: None,
            claimed_by: None,
            created_at_ms: self.now,
            finished_at_ms: self.finished_at,
            generation: self.endpoint.generation,
        }
    }
}

/// Inserts deliveries from arrays; the first value is the base of positions.
static INSERT: LazyLock<String> = LazyLock::new(|| {
    let columns = sql::columns::<DeliveryRow>();
    let arrays: Vec<String> = DeliveryRow::COLUMNS
        .iter()
        .enumerate()
        .map(|(place, column)| array_of(DeliveryRow::TABLE, column, place + 5))
        .collect();
    let new = DeliveryRow::COLUMNS.iter().map(|column| match *column {
        "event_position" => {
            format!("CASE WHEN new.place IS NULL THEN new.event_position ELSE {} END", position("$1", "new.place"))
        }
        other => format!("new.{other}"),
    });
    format!(
        "INSERT INTO deliveries (bucket, source_id, {columns})
         SELECT new.bucket, new.source_id, {}
         FROM unnest($2::bigint[], $3::bigint[], $4::uuid[], {}) AS new (place, bucket, source_id, {columns})",
        new.collect::<Vec<_>>().join(", "),
        arrays.join(", "),
    )
});

/// Computes the load of some deliveries: 2 if any has not had its first attempt, 1 if there are others, 0 if
/// there are none.
macro_rules! load {
    () => {
        "CASE WHEN count(*) FILTER (WHERE attempts = 0) > 0 THEN 2 WHEN count(*) > 0 THEN 1 ELSE 0 END"
    };
}

pub(crate) fn read_load(columns: &mut Columns<'_>) -> Result<LaneLoad, Fault> {
    Ok(match columns.next::<u8>()? {
        0 => LaneLoad::Empty,
        1 => LaneLoad::Retries,
        _ => LaneLoad::FirstAttempts,
    })
}

/// The load of the unfinished deliveries in several lanes.
const UNFINISHED: &str = concat!(
    "SELECT deliveries.source_id, deliveries.endpoint, ",
    load!(),
    " FROM unnest($1::bigint[], $2::uuid[], $3::text[]) AS lane (bucket, source_id, endpoint)
     JOIN deliveries ON deliveries.bucket = lane.bucket AND deliveries.source_id = lane.source_id
         AND deliveries.endpoint = lane.endpoint
     WHERE finished_at_ms IS NULL/*days*/ AND deliveries.source_id >= $4 AND deliveries.source_id < $5/*end*/
     GROUP BY deliveries.source_id, deliveries.endpoint"
);

/// The first waiting delivery of each of several lanes that have one, and the load of the deliveries that are
/// ready or leased there.
const FIRST_WAITING: &str = concat!(
    "SELECT lane.source_id, lane.endpoint, first.id, first.next_at_ms, (SELECT ",
    load!(),
    " FROM deliveries WHERE bucket = lane.bucket AND source_id = lane.source_id AND endpoint = lane.endpoint
             /*days*/ AND source_id BETWEEN $4 AND $5/*end*/
             AND finished_at_ms IS NULL AND state IN ('ready', 'leased'))
     FROM unnest($1::bigint[], $2::uuid[], $3::text[]) AS lane (bucket, source_id, endpoint)
     CROSS JOIN LATERAL (SELECT id, next_at_ms FROM deliveries
         WHERE bucket = lane.bucket AND source_id = lane.source_id AND endpoint = lane.endpoint
             /*days*/ AND source_id BETWEEN $4 AND $5/*end*/
             AND finished_at_ms IS NULL AND state = 'waiting'
         ORDER BY sequence LIMIT 1) AS first"
);

/// Makes waiting deliveries ready; the keys come first.
const RELEASE: &str = "UPDATE deliveries SET state = 'ready', next_at_ms = released.next_at_ms
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $6::bigint[]) AS released (bucket, source_id, id, next_at_ms)
     WHERE deliveries.bucket = released.bucket AND deliveries.source_id = released.source_id
         AND deliveries.id = released.id/*days*/ AND deliveries.source_id BETWEEN $4 AND $5/*end*/ AND state = 'waiting'";

/// Ends deliveries that are not being sent; the keys come first.
const END: &str = "UPDATE deliveries SET state = ended.state, finished_at_ms = $7
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $6::text[]) AS ended (bucket, source_id, id, state)
     WHERE deliveries.bucket = ended.bucket AND deliveries.source_id = ended.source_id AND deliveries.id = ended.id
         AND deliveries.source_id BETWEEN $4 AND $5 AND finished_at_ms IS NULL AND deliveries.state <> 'leased'
     RETURNING deliveries.state";

/// Returns finished deliveries to their lanes; the keys come first.
const REJOIN: &str = "UPDATE deliveries SET state = again.state, trigger = $7, attempts_before = attempts,
         begun_at_ms = $8, next_at_ms = $8, finished_at_ms = NULL, generation = $9
     FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $6::text[]) AS again (bucket, source_id, id, state)
     WHERE deliveries.bucket = again.bucket AND deliveries.source_id = again.source_id AND deliveries.id = again.id
         AND deliveries.source_id BETWEEN $4 AND $5";

/// Returns the first five values of a statement about some deliveries: their buckets, sources and
/// identifiers, and the smallest and the largest source, so that the statement is planned for their
/// partitions only.
pub(crate) fn keys(deliveries: &[DeliveryKey]) -> Vec<Param> {
    let sources = || deliveries.iter().map(|key| key.source);
    vec![
        Param::from(sources().map(|source| bucket_of(&source)).collect::<Vec<i64>>()),
        Param::from(sources().collect::<Vec<SourceId>>()),
        Param::from(deliveries.iter().map(|key| key.id).collect::<Vec<DeliveryId>>()),
        Param::from(sources().min().unwrap_or_default()),
        Param::from(sources().max().unwrap_or_default()),
    ]
}

/// Lanes whose next delivery may have become ready, with the time of the change. The key is the upload and
/// the name of the endpoint.
pub(crate) type ChangedLanes = BTreeMap<(UploadId, String), Timestamp>;

/// A finished delivery that is sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Returning {
    pub(crate) key: DeliveryKey,
    pub(crate) upload: Option<UploadId>,
    pub(crate) attempts: u32,
}

/// Pending progress deliveries of some uploads. The kind is literal text and not a bound value.
static SUPERSEDE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE deliveries SET state = '{}', finished_at_ms = later.at_ms
         FROM unnest($1::bigint[], $2::uuid[], $3::bigint[]) AS later (bucket, source_id, at_ms)
         WHERE deliveries.bucket = later.bucket AND deliveries.source_id = later.source_id
             /*days*/ AND deliveries.source_id >= $4 AND deliveries.source_id < $5/*end*/
             AND kind = '{}' AND finished_at_ms IS NULL AND state IN ('ready', 'waiting')
         RETURNING deliveries.source_id, endpoint",
        DeliveryState::Superseded.name(),
        EventKind::Progress.name()
    )
});

impl Transaction<'_> {
    /// Adds deliveries.
    pub(crate) async fn deliver(&mut self, new: &[NewDelivery<'_>]) -> Result<(), Fault> {
        if new.is_empty() {
            return Ok(());
        }
        let cells: Vec<_> = new.iter().map(|delivery| DeliveryRow::cells(&delivery.row())).collect();
        let place = |delivery: &NewDelivery<'_>| match delivery.event_place {
            EventPlace::New(place) => Some(place),
            EventPlace::Logged(_) => None,
        };
        let mut values = vec![
            Param::from(self.shared.position_base()),
            Param::Integers(new.iter().map(place).collect()),
            Param::from(new.iter().map(|delivery| bucket_of(&delivery.key.source)).collect::<Vec<i64>>()),
            Param::from(new.iter().map(|delivery| delivery.key.source).collect::<Vec<[u8; 16]>>()),
        ];
        for (place, column) in DeliveryRow::COLUMNS.iter().enumerate() {
            values.push(Kind::of(DeliveryRow::TABLE, column).array(cells.iter().map(|row| &row[place])));
        }
        self.execute_of(new.iter().map(|delivery| &delivery.key.source), &INSERT, &values).await?;
        for delivery in new {
            self.touched.note(&delivery.key.source, Some(delivery.key.id));
        }
        for delivery in new.iter().filter(|delivery| delivery.finished_at.is_none()) {
            self.adds_delivery(delivery.key.source);
        }
        self.made_ready |=
            new.iter().any(|delivery| delivery.state == DeliveryState::Ready && delivery.endpoint.is_enabled);
        self.superseded +=
            u64::try_from(new.iter().filter(|delivery| delivery.state == DeliveryState::Superseded).count())
                .unwrap_or_default();
        Ok(())
    }

    /// Reads the load of some lanes. Empty lanes are not in the result.
    pub(crate) async fn unfinished(
        &self,
        lanes: &[(UploadId, &EndpointId)],
    ) -> Result<BTreeMap<(UploadId, String), LaneLoad>, Fault> {
        let Some((first, end)) = days_of(lanes.iter().map(|(upload, _)| upload)) else { return Ok(BTreeMap::new()) };
        let values = params![
            lanes.iter().map(|(upload, _)| bucket_of(upload.as_bytes())).collect::<Vec<i64>>(),
            lanes.iter().map(|(upload, _)| *upload).collect::<Vec<UploadId>>(),
            lanes.iter().map(|(_, endpoint)| endpoint.as_str().to_owned()).collect::<Vec<String>>(),
            first,
            end,
        ];
        let rows = self.query_of(lanes.iter().map(|(upload, _)| upload.as_bytes()), UNFINISHED, values).await?;
        let load = |row| {
            let mut columns = Columns::of(row);
            Ok(((columns.next()?, columns.next()?), read_load(&mut columns)?))
        };
        rows.iter().map(load).collect()
    }

    /// Drops the pending progress deliveries of some uploads at all endpoints because of later events, and
    /// releases their lanes. Those being sent are kept.
    pub(crate) async fn supersede_progress(&mut self, later: &[(UploadId, Timestamp)]) -> Result<(), Fault> {
        let Some((first, end)) = days_of(later.iter().map(|(upload, _)| upload)) else { return Ok(()) };
        let values = params![
            later.iter().map(|(upload, _)| bucket_of(upload.as_bytes())).collect::<Vec<i64>>(),
            later.iter().map(|(upload, _)| *upload).collect::<Vec<UploadId>>(),
            later.iter().map(|(_, at)| at.unix_ms()).collect::<Vec<i64>>(),
            first,
            end,
        ];
        let ended = self.query_of(later.iter().map(|(upload, _)| upload.as_bytes()), &SUPERSEDE, values).await?;
        self.superseded += u64::try_from(ended.len()).unwrap_or_default();
        let mut lanes = ChangedLanes::new();
        for row in &ended {
            let mut columns = Columns::of(row);
            let (upload, endpoint): (UploadId, String) = (columns.next()?, columns.next()?);
            let now = later.iter().find(|(of, _)| *of == upload).map_or(Timestamp::from_unix_ms(0), |(_, at)| *at);
            lanes.insert((upload, endpoint), now);
        }
        self.release_next(&lanes).await
    }

    /// Makes the first waiting delivery of each lane ready, unless an earlier one still blocks it.
    pub(crate) async fn release_next(&mut self, lanes: &ChangedLanes) -> Result<(), Fault> {
        let uploads = || lanes.keys().map(|(upload, _)| upload);
        let (Some(least), Some(most)) = (uploads().min(), uploads().max()) else { return Ok(()) };
        let values = params![
            uploads().map(|upload| bucket_of(upload.as_bytes())).collect::<Vec<i64>>(),
            uploads().copied().collect::<Vec<UploadId>>(),
            lanes.keys().map(|(_, endpoint)| endpoint.clone()).collect::<Vec<String>>(),
            least,
            most,
        ];
        let (mut released, mut due_at) = (Vec::new(), Vec::new());
        for row in self.query_of(uploads().map(UploadId::as_bytes), FIRST_WAITING, values).await? {
            let mut columns = Columns::of(&row);
            let lane: (UploadId, String) = (columns.next()?, columns.next()?);
            let (id, next_at): (DeliveryId, Timestamp) = (columns.next()?, columns.next()?);
            let under_way = read_load(&mut columns)?;
            let now = lanes.get(&lane).copied().unwrap_or(next_at);
            if lane::may_release_next(self.ordering_of(&lane.1).await?, under_way) {
                released.push(DeliveryKey { source: *lane.0.as_bytes(), id });
                due_at.push(lane::due_when_released(next_at, now).unix_ms());
            }
        }
        if released.is_empty() {
            return Ok(());
        }
        let mut values = keys(&released);
        values.push(Param::from(due_at));
        self.execute_of(released.iter().map(|key| &key.source), RELEASE, &values).await?;
        self.made_ready = true;
        Ok(())
    }

    /// Ends deliveries that are not being sent, and returns their number. The caller then releases their
    /// lanes.
    pub(crate) async fn end(&mut self, ended: &[(DeliveryKey, DeliveryState)], now: Timestamp) -> Result<u64, Fault> {
        if ended.is_empty() {
            return Ok(0);
        }
        let mut values = keys(&ended.iter().map(|(key, _)| *key).collect::<Vec<_>>());
        values.push(Param::from(ended.iter().map(|(_, state)| state.name().to_owned()).collect::<Vec<String>>()));
        values.push(Param::from(now));
        let mut count = 0;
        for row in self.query(END, &values).await? {
            let state: DeliveryState = Columns::of(&row).next()?;
            self.superseded += u64::from(state == DeliveryState::Superseded);
            count += 1;
        }
        Ok(count)
    }

    /// Makes finished deliveries due now, or as soon as their lanes release them. Their full retry schedules
    /// start over. The caller has locked the lanes and the rows, and then releases the returned lanes.
    pub(crate) async fn rejoin(
        &mut self,
        returning: &[Returning],
        endpoint: &Subscriber,
        now: Timestamp,
    ) -> Result<ChangedLanes, Fault> {
        if returning.is_empty() {
            return Ok(ChangedLanes::new());
        }
        let ordering = endpoint.terms.ordering;
        let state = |it: &Returning| lane::rejoin(ordering, it.upload.is_some(), it.attempts).name().to_owned();
        let mut values = keys(&returning.iter().map(|it| it.key).collect::<Vec<_>>());
        values.push(Param::from(returning.iter().map(state).collect::<Vec<String>>()));
        values.push(Param::from(AttemptTrigger::Manual.name()));
        values.push(Param::from(now));
        values.push(Param::from(endpoint.generation));
        self.execute(REJOIN, &values).await?;
        returning.iter().for_each(|it| self.adds_delivery(it.key.source));
        self.made_ready |= endpoint.is_enabled;
        let lane = |upload| ((upload, endpoint.id.as_str().to_owned()), now);
        Ok(returning.iter().filter_map(|it| it.upload).map(lane).collect())
    }
}

/// Reports whether the state of a new delivery depends on the load of its lane.
pub(crate) fn has_order(endpoint: &Subscriber) -> bool {
    endpoint.terms.ordering != Ordering::None
}
