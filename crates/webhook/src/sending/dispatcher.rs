//! The dispatch loop: claims due deliveries and starts sending them.
//!
//! Each endpoint has a number of slots within the total, so that a receiver that hangs delays no other.
//! Deliveries are claimed only for endpoints with a free slot, a closed breaker and a rate token: a delivery
//! that is not claimed uses up no attempt. The loop survives every error and ends only by its stop signal.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::parts::SenderCount;
use crate::sending::courier::Courier;
use crate::sending::follower::EndpointFollower;
use crate::sending::liveness::Liveness;
use crate::sending::recorder::RecorderState;
use crate::sending::registry::{EndpointEntry, EndpointRegistry, SendCapacity};
use crate::sending::store_outage::{StoreOutage, around};
use domain::delivery::Attempt;
use domain::endpoint::EndpointId;
use domain::id::InstanceId;
use domain::lane::ClaimLimits;
use domain::time::Timestamp;
use state::{Claim, Dispatch};

/// Interval at which the loop polls for due deliveries without a bell. The bell makes it fast, and polling
/// makes it correct.
const POLL: Duration = Duration::from_secs(1);

/// Minimum sleep, so that a delivery that is due but cannot be claimed does not make the loop spin.
const MIN_SLEEP: Duration = Duration::from_millis(10);

/// A delivery that is already leased, and the channel to the caller that waits for its one attempt.
#[derive(Debug)]
pub(crate) struct TestRequest {
    pub(crate) claim: Claim,
    pub(crate) waiting: oneshot::Sender<Attempt>,
}

pub(crate) struct Dispatcher {
    pub(crate) node: InstanceId,
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) registry: Arc<EndpointRegistry>,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) recording: watch::Receiver<RecorderState>,
    pub(crate) tests: mpsc::Receiver<TestRequest>,
    pub(crate) courier: Arc<Courier>,
    pub(crate) liveness: Liveness,
    pub(crate) follower: Arc<EndpointFollower>,
    pub(crate) senders: SenderCount,
}

impl Dispatcher {
    /// Runs until `stop`, then gives deliveries in flight the drain timeout.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let steps = self.courier.clock.steps();
        let (starved, tasks) = (Vec::new(), JoinSet::new());
        DispatchLoop { shared: self, steps, turn: 0, held_back: 0, starved, tasks }.run(stop).await;
    }
}

struct DispatchLoop {
    shared: Dispatcher,
    /// Number of clock steps that the leases have been adjusted to.
    steps: u64,
    /// Index of the endpoint that is served first if there are not enough slots for all.
    turn: usize,
    /// Number of polls in a row in which deliveries were due and none could be claimed, because other nodes
    /// use the slots of their endpoints.
    held_back: u32,
    /// Endpoints that had no free slot when deliveries were last claimed.
    starved: Vec<Arc<EndpointEntry>>,
    tasks: JoinSet<()>,
}

/// The capacity for claims at one moment.
struct ClaimPlan {
    /// Maximum number of deliveries to claim for each endpoint with capacity, in total no more than there are
    /// free slots.
    limits: Vec<(EndpointId, ClaimLimits)>,
    /// Time until the first of the waiting endpoints has capacity.
    next: Option<Duration>,
    /// Index of the endpoint that comes first after these.
    turn: usize,
}

impl DispatchLoop {
    async fn run(mut self, stop: CancellationToken) {
        let mut outage = StoreOutage::none("claim deliveries");
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                works = self.shared.recording.wait_for(|recording| *recording == RecorderState::Works) => {
                    if works.is_err() { break }
                }
            }
            let bell = self.shared.dispatch.bell();
            let mut rung = std::pin::pin!(bell.notified());
            // Enabled before the poll, so that deliveries that become ready from here on wake the loop.
            rung.as_mut().enable();
            self.shared.liveness.note_poll();
            let pause = match self.claim_due().await {
                Ok(sleep_for) => {
                    outage.over();
                    self.wait(sleep_for, rung, &stop).await;
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

    /// Claims as many deliveries as there are free slots, and starts sending them. Returns the time to wait
    /// before the next poll.
    async fn claim_due(&mut self) -> state::Result<Duration> {
        self.reap_tasks_and_start_tests();
        self.follow_clock().await?;
        let claim_plan = self.claim_plan();
        // Endpoints that were left out this time come first the next time.
        self.turn = claim_plan.turn;
        let mut claims = Vec::new();
        if !claim_plan.limits.is_empty() {
            let lease = self.shared.courier.settings.lease;
            claims = self.shared.dispatch.claim_due(self.shared.node, &claim_plan.limits, self.now(), lease).await?;
        }
        let has_claimed = !claims.is_empty();
        self.start_current(claims).await?;
        self.note_starved_endpoints();
        let poll = around(POLL, rand::random());
        let left = self.claim_plan();
        let sleep_for = left.next.unwrap_or(poll).clamp(MIN_SLEEP, poll);
        let idle: Vec<EndpointId> = left.limits.into_iter().map(|(id, _)| id).collect();
        if idle.is_empty() {
            return Ok(sleep_for);
        }
        let next = self.shared.dispatch.next_due(&idle).await?.map(|due| due.since(self.now()));
        let is_held_back = !has_claimed && next.is_some_and(|next| next.is_zero());
        self.held_back = if is_held_back { self.held_back.saturating_add(1) } else { 0 };
        let at_least = MIN_SLEEP.saturating_mul(1 << self.held_back.min(7)).min(sleep_for);
        Ok(next.unwrap_or(sleep_for).clamp(at_least, sleep_for))
    }

    /// Starts sending. An endpoint that was changed through another node since this one has read it is read
    /// again first, so that no message goes to a former URL.
    async fn start_current(&mut self, claims: Vec<Claim>) -> state::Result<()> {
        let is_current = |claim: &Claim| {
            let entry = self.shared.registry.find(&claim.endpoint);
            entry.is_none_or(|entry| entry.endpoint().stored().version == claim.endpoint_version)
        };
        let (current, outdated): (Vec<_>, Vec<_>) = claims.into_iter().partition(is_current);
        for claim in current {
            self.start(claim, None);
        }
        if !outdated.is_empty() {
            self.shared.follower.read_endpoints().await?;
        }
        for claim in outdated {
            self.start(claim, None);
        }
        Ok(())
    }

    /// Renews leases after the clock was set, so that deliveries in flight are not claimed again.
    async fn follow_clock(&mut self) -> state::Result<()> {
        let steps = self.shared.courier.clock.steps();
        if steps != self.steps {
            let until = self.now().plus(self.shared.courier.settings.lease);
            self.shared.dispatch.renew_leases(self.shared.node, until).await?;
            self.steps = steps;
        }
        Ok(())
    }

    /// Reaps finished tasks and starts waiting tests. Under load the bell rings at every poll, so there is no
    /// wait during which this could be done.
    fn reap_tasks_and_start_tests(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            log_if_abnormal(ended);
        }
        while let Ok(test) = self.shared.tests.try_recv() {
            self.start(test.claim, Some(test.waiting));
        }
    }

    /// Distributes the free slots among the endpoints with capacity, in turn.
    fn claim_plan(&self) -> ClaimPlan {
        let entries = self.shared.registry.all();
        let (mut with_capacity, mut next) = (Vec::new(), None::<Duration>);
        for place in 0..entries.len() {
            let at = (self.turn + place) % entries.len();
            match self.capacity(&entries[at]) {
                SendCapacity::Slots(capacity) => with_capacity.push((at, &entries[at], capacity)),
                SendCapacity::After(wait) => next = Some(next.map_or(wait, |next| next.min(wait))),
                SendCapacity::None => {}
            }
        }
        let mut left = self.shared.slots.available_permits();
        let (mut limits, mut turn) = (Vec::new(), self.turn);
        for (index, (at, entry, capacity)) in with_capacity.iter().enumerate() {
            if left == 0 {
                break;
            }
            let fair = left.div_ceil(with_capacity.len() - index);
            let share = u32::try_from(fair).unwrap_or(u32::MAX).min(*capacity);
            limits.push((entry.id().clone(), entry.claim_limits(share, &self.shared.courier.settings)));
            left -= usize::try_from(share).unwrap_or(left).min(left);
            turn = at + 1;
        }
        ClaimPlan { limits, next, turn }
    }

    fn capacity(&self, entry: &EndpointEntry) -> SendCapacity {
        entry.capacity(&self.shared.courier.settings, (self.shared.senders)(), self.now(), Instant::now())
    }

    /// Remembers the endpoints for which more deliveries could be due than there was capacity for.
    fn note_starved_endpoints(&mut self) {
        let exhausted = self.shared.slots.available_permits() == 0;
        let starved = |entry: &&Arc<EndpointEntry>| {
            entry.is_enabled() && (exhausted || self.capacity(entry) == SendCapacity::None)
        };
        let starved = self.shared.registry.all().iter().filter(starved).cloned().collect();
        self.starved = starved;
    }

    /// Sleeps until there may be something to claim: the bell rings, a delivery becomes due, an endpoint is
    /// changed, or a slot becomes free that a starved endpoint can use. Starts tests meanwhile.
    async fn wait(&mut self, sleep_for: Duration, mut rung: Pin<&mut Notified<'_>>, stop: &CancellationToken) {
        let until = Instant::now() + sleep_for;
        loop {
            let registry = Arc::clone(&self.shared.registry);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = rung.as_mut() => return,
                () = sleep_until(until) => return,
                () = registry.changed() => return,
                Some(test) = self.shared.tests.recv() => self.start(test.claim, Some(test.waiting)),
                Some(ended) = self.tasks.join_next() => {
                    log_if_abnormal(ended);
                    if self.shared.slots.available_permits() > 0 && self.has_capacity_for_starved() {
                        return;
                    }
                }
            }
        }
    }

    fn has_capacity_for_starved(&self) -> bool {
        self.starved.iter().any(|entry| matches!(self.capacity(entry), SendCapacity::Slots(_)))
    }

    fn start(&mut self, claim: Claim, waiting: Option<oneshot::Sender<Attempt>>) {
        let Some(entry) = self.shared.registry.find(&claim.endpoint) else {
            // The endpoint was removed a moment ago, and its deliveries with it.
            let (delivery, endpoint) = (claim.delivery, claim.endpoint);
            tracing::debug!(%delivery, %endpoint, "claimed a delivery whose endpoint was removed");
            return;
        };
        // A test may exceed the total number of slots: a caller waits for it, and there is only one.
        let slot: Option<OwnedSemaphorePermit> = Arc::clone(&self.shared.slots).try_acquire_owned().ok();
        if slot.is_none() && waiting.is_none() {
            tracing::error!(delivery = %claim.delivery, "claimed more deliveries than requested");
            return;
        }
        let courier = Arc::clone(&self.shared.courier);
        if claim.is_taken_over {
            courier.metrics.leases_expired.inc();
        }
        let slots = (slot, entry.take_slot());
        self.tasks.spawn(async move { courier.deliver(&entry, claim, slots, waiting).await });
    }

    /// Waits for deliveries in flight, then aborts them. Every task hands over a result either way.
    async fn drain(mut self) {
        let drain_timeout = self.shared.courier.settings.drain_timeout;
        let tasks = &mut self.tasks;
        let finished = async {
            while let Some(ended) = tasks.join_next().await {
                log_if_abnormal(ended);
            }
        };
        if timeout(drain_timeout, finished).await.is_err() {
            let deliveries = self.tasks.len();
            tracing::warn!(deliveries, "aborted deliveries that were still being sent; they will be sent again");
        }
        self.shared.courier.abort.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            log_if_abnormal(ended);
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.courier.clock.now()
    }
}

fn log_if_abnormal(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "sending a delivery failed unexpectedly; it will be sent again when its lease expires");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::sending::egress::Egress;
    use crate::sending::recorder::DeliveryResult;
    use crate::testing::{Receiver, Script, TestClock, TestOutbox, endpoint, node, vault};
    use crate::{WebhookMetrics, WebhookSettings};
    use outbound::address::EgressRules;
    use outbound::resolver::system_lookup;

    /// Returns a dispatch loop with one endpoint, to be driven by the test, and the channel of its results.
    fn begun(outbox: &Arc<TestOutbox>, receiver: &Receiver) -> (DispatchLoop, mpsc::Receiver<DeliveryResult>) {
        let settings = WebhookSettings::default();
        let egress = Egress::new(settings.clone(), Arc::new(EgressRules::default()), system_lookup()).unwrap();
        let (results, outcomes) = mpsc::channel(8);
        let courier = Courier {
            egress,
            clock: TestClock::default().clock(),
            stage_tokens: None,
            metrics: WebhookMetrics::default(),
            abort: CancellationToken::new(),
            results,
            settings,
        };
        let app = endpoint("app", &receiver.url());
        outbox.configure_now(vec![app.stored().clone()]);
        let app = app.with(outbox.stored("app")).unwrap();
        let registry = Arc::new(EndpointRegistry::new([app]));
        let follower = EndpointFollower {
            outbox: Arc::clone(outbox) as _,
            registry: Arc::clone(&registry),
            vault: vault(),
            configured: vec![endpoint("app", &receiver.url())],
        };
        let shared = Dispatcher {
            node: node(),
            dispatch: Arc::clone(outbox) as _,
            registry,
            follower: Arc::new(follower),
            senders: Arc::new(|| 1),
            slots: Arc::new(Semaphore::new(512)),
            recording: watch::channel(RecorderState::Works).1,
            tests: mpsc::channel(1).1,
            courier: Arc::new(courier),
            liveness: Liveness::new(Duration::ZERO),
        };
        let (starved, tasks) = (Vec::new(), JoinSet::new());
        (DispatchLoop { shared, steps: 0, turn: 0, held_back: 0, starved, tasks }, outcomes)
    }

    /// Under load the loop polls without pause, and never waits for a task to end.
    #[tokio::test]
    async fn what_has_ended_is_not_kept() {
        let receiver = Receiver::start([Script::Status(200)]).await;
        let outbox = Arc::new(TestOutbox::default());
        let (mut sending, mut outcomes) = begun(&outbox, &receiver);
        for _ in 0..200 {
            outbox.add_for("app");
        }
        let mut most = 0;
        for _ in 0..200 {
            sending.claim_due().await.unwrap();
            most = most.max(sending.tasks.len());
            outcomes.recv().await.unwrap();
        }
        assert!((16..=32).contains(&most), "of 16 slots {most} were kept");
    }
}
