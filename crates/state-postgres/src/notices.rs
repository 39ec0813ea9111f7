//! Notices: events about delivery itself, which belong to no upload. The source of a notice is its own event.

use async_trait::async_trait;
use bytes::Bytes;

use crate::PostgresStore;
use crate::bucket::delivery_id;
use crate::fault::Fault;
use crate::lanes::{DeliveryKey, EventPlace, NewDelivery};
use crate::log::NewLogEntry;
use crate::subscribers::Subscriber;
use crate::transaction::{AfterLostAnswer, Transaction, Work};
use domain::delivery::{AttemptTrigger, DeliveryState};
use domain::event::EventKind;
use domain::id::EventId;
use domain::notice::Notice;
use domain::principal::TenantId;
use domain::time::Timestamp;
use state::{Notices, Result};

#[async_trait]
impl Notices for PostgresStore {
    async fn announce(&self, tenant: TenantId, notice: Notice, now: Timestamp) -> Result<()> {
        self.write(Announce { tenant, notice, now }).await
    }
}

struct Announce {
    tenant: TenantId,
    notice: Notice,
    now: Timestamp,
}

impl Work for Announce {
    const OPERATION: &'static str = "record a notice";
    const AFTER_LOST_ANSWER: AfterLostAnswer = AfterLostAnswer::Report;
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_>) -> std::result::Result<(), Fault> {
        tx.log_notice(self.tenant, &self.notice, self.now).await
    }
}

/// The values of the event of a notice or a test.
struct NewNotice {
    tenant: TenantId,
    kind: EventKind,
    trigger: AttemptTrigger,
    body: String,
    now: Timestamp,
}

impl Transaction<'_> {
    /// Writes a notice with a delivery for every endpoint of the tenant that subscribes to it; nothing if
    /// none does.
    pub(crate) async fn log_notice(
        &mut self,
        tenant: TenantId,
        notice: &Notice,
        now: Timestamp,
    ) -> std::result::Result<(), Fault> {
        let kind = notice.kind();
        let subscribers = self.subscribers().await?;
        let wants = |one: &&Subscriber| one.tenant == tenant && one.terms.filter.wants(kind) && notice.is_for(&one.id);
        let interested: Vec<&Subscriber> = subscribers.iter().filter(wants).collect();
        if interested.is_empty() {
            return Ok(());
        }
        let body = (self.shared.bodies.notice)(notice, now);
        let new = NewNotice { tenant, kind, trigger: AttemptTrigger::Auto, body, now };
        self.log_to(&interested, new).await.map(drop)
    }

    /// Writes a test event with a delivery to one endpoint.
    pub(crate) async fn log_ping(
        &mut self,
        to: &Subscriber,
        now: Timestamp,
    ) -> std::result::Result<DeliveryKey, Fault> {
        let body = (self.shared.bodies.ping)(&to.id, now);
        let new = NewNotice { tenant: to.tenant, kind: EventKind::Ping, trigger: AttemptTrigger::Test, body, now };
        self.log_to(&[to], new).await
    }

    /// Writes an event with a delivery to each of some endpoints. Returns the key of the first delivery.
    async fn log_to(&mut self, endpoints: &[&Subscriber], new: NewNotice) -> std::result::Result<DeliveryKey, Fault> {
        let NewNotice { tenant, kind, trigger, body, now } = new;
        let id = EventId::new(now, rand::random());
        let (source, place) = (*id.as_bytes(), self.next_event());
        let body = Bytes::from(body);
        let entry = NewLogEntry { source, id, tenant, upload: None, sequence: 0, kind, at: now, body: &body, place };
        self.log(&[entry]).await?;
        let delivery = |endpoint| NewDelivery {
            key: DeliveryKey { source, id: delivery_id(now, rand::random(), &source) },
            event_place: EventPlace::New(place),
            event: id,
            kind,
            endpoint,
            upload: None,
            sequence: 0,
            trigger,
            now,
            // The delivery belongs to no lane.
            state: DeliveryState::Ready,
            finished_at: None,
        };
        let deliveries: Vec<_> = endpoints.iter().copied().map(delivery).collect();
        self.deliver(&deliveries).await?;
        deliveries.first().map(|first| first.key).ok_or_else(|| Fault::Unreadable("endpoint".to_owned()))
    }
}
