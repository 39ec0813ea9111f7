//! Notices: events about delivery itself, which belong to no upload.

use bytes::Bytes;
use state_rows::EventRow;

use crate::endpoints::Subscriber;
use crate::lanes::NewDelivery;
use crate::rows::bound;
use crate::writer::{Work, WriteTransaction};
use crate::{events, lanes};
use domain::delivery::AttemptTrigger;
use domain::event::EventKind;
use domain::id::{DeliveryId, EventId};
use domain::lane::LaneLoad;
use domain::log::EventPosition;
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;

pub(super) struct Announce {
    pub(super) tenant: TenantId,
    pub(super) notice: Notice,
    pub(super) now: Timestamp,
}

impl Work for Announce {
    const OPERATION: &'static str = "record a notice";
    type Output = ();

    fn run(&self, tx: &mut WriteTransaction) -> rusqlite::Result<()> {
        log(tx, self.tenant, &self.notice, self.now)
    }
}

/// Writes a notice with a delivery for every endpoint of the tenant that subscribes to it; nothing if none
/// does.
pub(super) fn log(
    tx: &mut WriteTransaction,
    tenant: TenantId,
    notice: &Notice,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let kind = notice.kind();
    let subscribers = tx.subscribers()?;
    let wants = |one: &&Subscriber| one.tenant == tenant && one.terms.filter.wants(kind) && notice.is_for(&one.id);
    let mut interested = subscribers.iter().filter(wants).peekable();
    if interested.peek().is_none() {
        return Ok(());
    }
    let event = insert_event(tx, tenant, kind, (tx.bodies.notice)(notice, now), now)?;
    for subscriber in interested {
        deliver(tx, event, kind, subscriber, AttemptTrigger::Auto, now)?;
    }
    Ok(())
}

/// Writes a test event with a delivery to one endpoint.
pub(super) fn log_ping(tx: &mut WriteTransaction, to: &Subscriber, now: Timestamp) -> rusqlite::Result<DeliveryId> {
    let event = insert_event(tx, to.tenant, EventKind::Ping, (tx.bodies.ping)(&to.id, now), now)?;
    deliver(tx, event, EventKind::Ping, to, AttemptTrigger::Test, now)
}

/// The position of an event in the log, and its id.
type Logged = (EventPosition, EventId);

fn insert_event(
    tx: &WriteTransaction,
    tenant: TenantId,
    kind: EventKind,
    body: String,
    now: Timestamp,
) -> rusqlite::Result<Logged> {
    let id = EventId::new(now, rand::random());
    tx.execute(&events::INSERT, bound(&EventRow::cells(id, tenant, None, 0, kind, now, &Bytes::from(body))))?;
    Ok((EventPosition(tx.connection.last_insert_rowid()), id))
}

fn deliver(
    tx: &mut WriteTransaction,
    (event_position, event): Logged,
    kind: EventKind,
    endpoint: &Subscriber,
    trigger: AttemptTrigger,
    now: Timestamp,
) -> rusqlite::Result<DeliveryId> {
    let id = DeliveryId::new(now, rand::random());
    lanes::join(
        tx,
        &NewDelivery {
            id,
            event_position,
            event,
            tenant: endpoint.tenant,
            kind,
            endpoint,
            upload: None,
            sequence: 0,
            trigger,
            now,
        },
        LaneLoad::Empty,
    )?;
    Ok(id)
}
