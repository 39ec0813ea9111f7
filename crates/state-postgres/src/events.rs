//! Events of uploads. Each event is written by the transaction of the commit that caused it, with a delivery
//! for every subscribed endpoint. Many commits need a fixed number of statements.

use std::collections::BTreeMap;

use crate::bucket::delivery_id;
use crate::fault::Fault;
use crate::lanes::{DeliveryKey, EventPlace, NewDelivery, has_order};
use crate::log::NewLogEntry;
use crate::subscribers::Subscriber;
use crate::transaction::Transaction;
use domain::delivery::{AttemptTrigger, DeliveryState};
use domain::event::EventKind;
use domain::id::{UploadId, in_order};
use domain::lane::{self, LaneLoad};
use domain::metadata::Metadata;
use domain::principal::TenantId;
use state::{Change, NewEvent};

/// The new events of an upload, ready to be written.
#[derive(Debug)]
pub(crate) struct UploadEvents {
    tenant: TenantId,
    pub(crate) upload: UploadId,
    /// The metadata, because some endpoints subscribe only to uploads with certain metadata. Empty if there
    /// are no events.
    metadata: Metadata,
    events: Vec<NewEvent>,
    /// True if the upload existed before and may have deliveries.
    was_there: bool,
}

impl UploadEvents {
    pub(crate) fn of(change: &Change, was_there: bool) -> Self {
        let (upload, events) = (change.upload(), change.events().to_vec());
        // A checkpoint without events copies nothing.
        let metadata = if events.is_empty() { Metadata::default() } else { upload.record().metadata.clone() };
        Self { tenant: upload.tenant(), upload: upload.id(), metadata, events, was_there }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn interested<'s>(&'s self, subscribers: &'s [Subscriber]) -> impl Iterator<Item = &'s Subscriber> {
        let own = subscribers.iter().filter(|one| one.tenant == self.tenant);
        own.filter(|one| one.terms.wants_upload(&self.metadata))
    }
}

impl Transaction<'_> {
    /// Writes the events of several uploads and their deliveries. The caller has locked the lanes of the
    /// uploads.
    pub(crate) async fn log_events(&mut self, all: &[&UploadEvents]) -> Result<(), Fault> {
        let subscribers = self.subscribers().await?;
        // The first event supersedes all pending progress.
        let later: Vec<_> = all
            .iter()
            .filter(|change| change.was_there && !subscribers.is_empty())
            .filter_map(|change| Some((change.upload, change.events.first()?.at)))
            .collect();
        self.supersede_progress(&later).await?;
        let mut lanes = Vec::new();
        for change in all.iter().filter(|change| change.was_there) {
            let wanting = |one: &&Subscriber| change.events.iter().any(|event| one.terms.filter.wants(event.kind));
            let in_order = change.interested(&subscribers).filter(|one| has_order(one)).filter(wanting);
            lanes.extend(in_order.map(|one| (change.upload, &one.id)));
        }
        let loads = if lanes.is_empty() { BTreeMap::new() } else { self.unfinished(&lanes).await? };
        let (mut entries, mut deliveries) = (Vec::new(), Vec::new());
        for change in all {
            self.prepare_rows(change, &subscribers, &loads, &mut entries, &mut deliveries);
        }
        self.log(&entries).await?;
        self.deliver(&deliveries).await
    }

    /// Prepares the rows for the events of one upload.
    fn prepare_rows<'n>(
        &mut self,
        change: &'n UploadEvents,
        subscribers: &'n [Subscriber],
        loads: &BTreeMap<(UploadId, String), LaneLoad>,
        entries: &mut Vec<NewLogEntry<'n>>,
        deliveries: &mut Vec<NewDelivery<'n>>,
    ) {
        let source = *change.upload.as_bytes();
        let mut interested: Vec<(&Subscriber, LaneLoad)> = change
            .interested(subscribers)
            .map(|one| (one, loads.get(&(change.upload, one.id.as_str().to_owned())).copied().unwrap_or_default()))
            .collect();
        for (number, event) in change.events.iter().enumerate() {
            let place = self.next_event();
            entries.push(NewLogEntry {
                source,
                id: event.id,
                tenant: change.tenant,
                upload: Some(change.upload),
                sequence: event.sequence,
                kind: event.kind,
                at: event.at,
                body: &event.body,
                place,
            });
            // A later event of the same commit supersedes progress before it can be sent.
            let later = change.events.get(number + 1).filter(|_| event.kind == EventKind::Progress);
            for (endpoint, load) in interested.iter_mut().filter(|(one, _)| one.terms.filter.wants(event.kind)) {
                let state = lane::join(endpoint.terms.ordering, *load);
                if later.is_none() {
                    *load = LaneLoad::FirstAttempts;
                }
                deliveries.push(NewDelivery {
                    key: DeliveryKey {
                        source,
                        id: delivery_id(event.at, in_order(event.sequence, rand::random()), &source),
                    },
                    event_place: EventPlace::New(place),
                    event: event.id,
                    kind: event.kind,
                    endpoint,
                    upload: Some(change.upload),
                    sequence: event.sequence,
                    trigger: AttemptTrigger::Auto,
                    now: event.at,
                    state: if later.is_some() { DeliveryState::Superseded } else { state },
                    finished_at: later.map(|later| later.at),
                });
            }
        }
    }
}
