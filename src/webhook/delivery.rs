//! The loop: claim what is due and start sending it.
//!
//! Each endpoint has a number of slots of its own inside those of all, so that a receiver that hangs holds up nobody
//! else. A claim is asked only for endpoints with a free slot. Whatever fails, the loop goes on; it ends by its stop
//! signal alone.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::futures::Notified;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::domain::endpoint::EndpointId;
use crate::domain::time::Timestamp;
use crate::state;
use crate::state::Claim;
use crate::state::Outbox;
use crate::webhook::courier::Clock;
use crate::webhook::courier::Courier;
use crate::webhook::courier::Lane;
use crate::webhook::egress::Egress;
use crate::webhook::endpoint::Endpoint;
use crate::webhook::endpoint::InvalidSettings;
use crate::webhook::endpoint::Settings;
use crate::webhook::metrics::Metrics;
use crate::webhook::outage::Outage;
use crate::webhook::outage::around;
use crate::webhook::record::LAST_TRIES;
use crate::webhook::record::Recorder;
use crate::webhook::record::Recording;

/// How often to look for due deliveries when nothing rings. The bell makes it fast, looking makes it right.
const POLL: Duration = Duration::from_secs(1);

/// The shortest sleep, so that a delivery which is due but cannot be claimed does not keep the loop spinning.
const SHORTEST_NAP: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    #[error("two endpoints are called {0}")]
    TwoOfOneName(EndpointId),
    #[error("could not set up the client for webhooks")]
    Client(#[source] reqwest::Error),
}

/// Sends deliveries until told to stop. Before it runs, [`Outbox::open_for`] must have been told of its endpoints.
pub struct Sender {
    outbox: Arc<dyn Outbox>,
    lanes: Vec<Arc<Lane>>,
    slots: Arc<Semaphore>,
    settings: Settings,
    clock: Clock,
    egress: Egress,
    metrics: Metrics,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<&Endpoint> = self.lanes.iter().map(|lane| &lane.endpoint).collect();
        f.debug_struct("Sender")
            .field("endpoints", &endpoints)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Sender {
    pub fn new(
        outbox: Arc<dyn Outbox>,
        endpoints: Vec<Endpoint>,
        settings: Settings,
        clock: Clock,
    ) -> Result<Self, Error> {
        settings.check()?;
        for (index, endpoint) in endpoints.iter().enumerate() {
            if endpoints[..index].iter().any(|other| other.id() == endpoint.id()) {
                return Err(Error::TwoOfOneName(endpoint.id().clone()));
            }
        }
        let egress = Egress::new(&settings, endpoints.iter().any(Endpoint::is_https)).map_err(Error::Client)?;
        let lane = |endpoint| Arc::new(Lane::new(endpoint, semaphore(settings.max_in_flight_per_endpoint)));
        Ok(Self {
            outbox,
            lanes: endpoints.into_iter().map(lane).collect(),
            slots: semaphore(settings.max_in_flight),
            settings,
            clock,
            egress,
            metrics: Metrics::default(),
        })
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Sends until `stop`. Then claims nothing more, gives what is in flight the drain timeout, and returns once every
    /// result is written.
    pub async fn run(self, stop: CancellationToken) {
        if self.lanes.is_empty() {
            return stop.cancelled().await;
        }
        let (results, incoming) = mpsc::channel(self.settings.max_in_flight.min(Semaphore::MAX_PERMITS));
        let (state, recording) = watch::channel(Recording::Works);
        let abort = CancellationToken::new();
        let recorder = Recorder {
            outbox: Arc::clone(&self.outbox),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            state,
            closing: abort.clone(),
            last_tries: LAST_TRIES,
        };
        let dispatcher = Dispatcher {
            outbox: self.outbox,
            lanes: self.lanes,
            slots: self.slots,
            turn: 0,
            hungry: Vec::new(),
            recording,
            tasks: JoinSet::new(),
            courier: Arc::new(Courier {
                egress: self.egress,
                settings: self.settings,
                clock: self.clock,
                metrics: self.metrics,
                abort,
                results,
            }),
        };
        // The recorder ends when the dispatcher and its tasks have dropped the last sender of results.
        tokio::join!(dispatcher.run(stop), recorder.run(incoming));
    }
}

fn semaphore(slots: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS)))
}

struct Dispatcher {
    outbox: Arc<dyn Outbox>,
    lanes: Vec<Arc<Lane>>,
    slots: Arc<Semaphore>,
    /// Whose turn it is to be served first, should there not be enough slots for all.
    turn: usize,
    /// Those that had no slot left when deliveries were last claimed.
    hungry: Vec<Arc<Lane>>,
    recording: watch::Receiver<Recording>,
    tasks: JoinSet<()>,
    courier: Arc<Courier>,
}

impl Dispatcher {
    async fn run(mut self, stop: CancellationToken) {
        let mut outage = Outage::none("claim deliveries");
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                works = self.recording.wait_for(|recording| *recording == Recording::Works) => {
                    if works.is_err() { break }
                }
            }
            let bell = self.outbox.bell();
            let mut rung = std::pin::pin!(bell.notified());
            // Armed before looking: what becomes ready from here on wakes us.
            rung.as_mut().enable();
            let pause = match self.claim_due().await {
                Ok(nap) => {
                    outage.over();
                    self.wait(nap, rung, &stop).await;
                    continue;
                }
                Err(error) => outage.failed(&error, rand::random()),
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(pause) => {}
            }
        }
        self.drain().await;
    }

    /// Claims as much as there are slots for and starts sending it. Says how long to wait before looking again.
    async fn claim_due(&mut self) -> state::Result<Duration> {
        let slots = self.free_slots();
        // Those that were not asked for this time come first the next time.
        self.turn = (self.turn + slots.len()) % self.lanes.len();
        if !slots.is_empty() {
            let lease = self.courier.settings.lease;
            for claim in self.outbox.claim_due(&slots, self.now(), lease).await? {
                self.start(claim);
            }
        }
        self.note_hungry_lanes();
        let poll = around(POLL, rand::random());
        let idle: Vec<EndpointId> = self.lanes_with_room().map(|lane| lane.endpoint.id().clone()).collect();
        if idle.is_empty() || self.slots.available_permits() == 0 {
            return Ok(poll);
        }
        let next = self.outbox.next_due(&idle).await?.map(|due| due.since(self.now()));
        Ok(next.unwrap_or(poll).clamp(SHORTEST_NAP, poll))
    }

    /// How many deliveries to ask for, for each endpoint with room, together no more than there are slots in all.
    fn free_slots(&self) -> Vec<(EndpointId, u32)> {
        let lanes: Vec<&Arc<Lane>> = self.lanes_with_room().collect();
        let mut left = self.slots.available_permits();
        let mut slots = Vec::new();
        for (index, lane) in lanes.iter().enumerate() {
            if left == 0 {
                break;
            }
            let share = left.div_ceil(lanes.len() - index).min(lane.slots.available_permits());
            slots.push((lane.endpoint.id().clone(), u32::try_from(share).unwrap_or(u32::MAX)));
            left -= share;
        }
        slots
    }

    /// The endpoints that could take a delivery if there are slots in all, the one whose turn it is first.
    fn lanes_with_room(&self) -> impl Iterator<Item = &Arc<Lane>> {
        let (later, first) = self.lanes.split_at(self.turn);
        let has_room = |lane: &&Arc<Lane>| !lane.is_stopped() && lane.slots.available_permits() > 0;
        first.iter().chain(later).filter(has_room)
    }

    /// Notes the endpoints for which more could be due than there was room for.
    fn note_hungry_lanes(&mut self) {
        let exhausted = self.slots.available_permits() == 0;
        let hungry = |lane: &&Arc<Lane>| !lane.is_stopped() && (exhausted || lane.slots.available_permits() == 0);
        self.hungry = self.lanes.iter().filter(hungry).cloned().collect();
    }

    /// Sleeps until there may be something to claim: the bell rang, something is due, or a slot came free where more
    /// was waiting for one.
    async fn wait(&mut self, nap: Duration, mut rung: Pin<&mut Notified<'_>>, stop: &CancellationToken) {
        let until = Instant::now() + nap;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = rung.as_mut() => return,
                () = sleep_until(until) => return,
                Some(ended) = self.tasks.join_next() => {
                    noted(ended);
                    let has_room = |lane: &Arc<Lane>| lane.slots.available_permits() > 0;
                    if self.slots.available_permits() > 0 && self.hungry.iter().any(has_room) {
                        return;
                    }
                }
            }
        }
    }

    fn start(&mut self, claim: Claim) {
        let Some(lane) = self.lanes.iter().find(|lane| *lane.endpoint.id() == claim.endpoint) else {
            let (delivery, endpoint) = (claim.delivery, claim.endpoint);
            tracing::error!(%delivery, %endpoint, "was given a delivery to an endpoint that is not configured");
            return;
        };
        // Only this loop takes permits, and it asked for no more claims than there were.
        let permits = (Arc::clone(&self.slots).try_acquire_owned(), Arc::clone(&lane.slots).try_acquire_owned());
        let (Ok(slot), Ok(own_slot)) = permits else {
            tracing::error!(delivery = %claim.delivery, "was given more deliveries than asked for");
            return;
        };
        let (courier, lane) = (Arc::clone(&self.courier), Arc::clone(lane));
        self.tasks.spawn(async move { courier.deliver(&lane, claim, [slot, own_slot]).await });
    }

    /// Waits for what is in flight, then gives it up; every task hands over a result either way.
    async fn drain(mut self) {
        let drain_timeout = self.courier.settings.drain_timeout;
        let tasks = &mut self.tasks;
        let finished = async {
            while let Some(ended) = tasks.join_next().await {
                noted(ended);
            }
        };
        if timeout(drain_timeout, finished).await.is_err() {
            let deliveries = self.tasks.len();
            tracing::warn!(deliveries, "gave up deliveries that were still being sent; they are sent again later");
        }
        self.courier.abort.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            noted(ended);
        }
    }

    fn now(&self) -> Timestamp {
        (self.courier.clock)()
    }
}

fn noted(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "sending a delivery ended abnormally; it is sent again when its lease has run out");
    }
}
