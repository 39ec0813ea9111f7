//! Background work of the sender: replays, changes of whole backlogs, expiry and removal of old deliveries,
//! and measuring the queue.
//!
//! All work is done in small batches with pauses, so that no delivery waits for it. After a crash it resumes
//! at the position stored in the outbox. Of several nodes, the one with the duty does it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::WebhookMetrics;
use crate::sending::liveness::Liveness;
use crate::sending::registry::EndpointRegistry;
use crate::sending::store_outage::StoreOutage;
use crate::settings::WebhookSettings;
use domain::duty::Duty;
use domain::endpoint::EndpointId;
use domain::id::InstanceId;
use domain::principal::TenantScope;
use domain::replay::{ReplayJob, ReplayState};
use state::clock::Clock;
use state::{BacklogLimits, Outbox, RetentionHorizon};

/// Interval of polling for replays without a bell, such as those from before the start.
const POLL_REPLAYS_EVERY: Duration = Duration::from_secs(5);

/// Pause between two batches of a replay, of expiry or of removal.
const PIECE_PAUSE: Duration = Duration::from_millis(20);

/// Maximum number of deliveries that a batch of a replay queues.
const REPLAY_PIECE: u32 = 500;

/// Interval of polling for backlogs to be changed.
const POLL_BACKLOGS_EVERY: Duration = Duration::from_secs(1);

/// Number of deliveries of a backlog that are changed in one transaction, and the pause before the next.
const BACKLOG_PIECE: u32 = 500;
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// Interval of removing old rows. The first time comes this long after the start, which has other work.
const PRUNE_EVERY: Duration = Duration::from_hours(1);
const PRUNE_FIRST: Duration = Duration::from_mins(1);

/// Interval of expiring deliveries that have waited too long. The first time comes a while after the start,
/// so that deliveries that waited only for the start are sent.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);
const EXPIRE_FIRST: Duration = Duration::from_mins(10);

/// Maximum number of deliveries that expire in one transaction: each may cause an event.
const EXPIRE_PIECE: u32 = 100;

/// Maximum number of rows that are removed in one transaction.
const PRUNE_PIECE: u32 = 500;

/// Interval of checking whether the clock was set.
const CHECK_CLOCK_EVERY: Duration = Duration::from_secs(1);

/// Interval of measuring the queue.
const MEASURE_QUEUE_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Maintenance {
    pub(crate) node: InstanceId,
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) registry: Arc<EndpointRegistry>,
    pub(crate) settings: WebhookSettings,
    pub(crate) clock: Clock,
    pub(crate) metrics: WebhookMetrics,
    pub(crate) liveness: Liveness,
    /// Notified when a replay begins.
    pub(crate) replays: Arc<Notify>,
}

impl Maintenance {
    /// Does a step of work if this node has the duty to; otherwise there is nothing to do.
    async fn on_duty<T: Default>(
        &self,
        duty: Duty,
        work: impl Future<Output = state::Result<T>> + Send,
    ) -> state::Result<T> {
        if state::has_duty(&*self.outbox, duty, self.node).await { work.await } else { Ok(T::default()) }
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow_clock() => {}
            () = self.replay() => {}
            () = self.change_backlogs() => {}
            () = self.expire_deliveries() => {}
            () = self.limit_backlogs() => {}
            () = self.prune() => {}
            () = self.watch_queue() => {}
        }
    }

    /// Makes deliveries due that wait by a clock that was ahead: that of an earlier process, or that of this
    /// one before it was set back.
    async fn follow_clock(&self) {
        let mut outage = StoreOutage::none("make deliveries due after the clock was set back");
        let mut followed = None;
        loop {
            let steps = self.clock.steps();
            let pause = if followed == Some(steps) {
                CHECK_CLOCK_EVERY
            } else {
                match self.restart_waits().await {
                    Ok(None) => CHECK_CLOCK_EVERY,
                    Ok(Some(count)) => {
                        outage.over();
                        followed = Some(steps);
                        if count > 0 {
                            tracing::info!(
                                deliveries = count,
                                "the clock was ahead; deliveries that waited by it are due now"
                            );
                        }
                        CHECK_CLOCK_EVERY
                    }
                    Err(error) => outage.failed(&error, rand::random()),
                }
            };
            sleep(pause).await;
        }
    }

    /// Returns `None` while another node does the same.
    async fn restart_waits(&self) -> state::Result<Option<u64>> {
        if !self.outbox.claim_duty(Duty::RestartWaits, self.node, CHECK_CLOCK_EVERY).await? {
            return Ok(None);
        }
        self.outbox.restart_waits(self.clock.now()).await.map(Some)
    }

    async fn replay(&self) {
        let mut outage = StoreOutage::none("continue a replay");
        let mut last = None;
        loop {
            let pause = match self.on_duty(Duty::Replays, self.replay_piece(&mut last)).await {
                Ok(Some(pause)) => {
                    outage.over();
                    pause
                }
                Ok(None) => {
                    outage.over();
                    // Poll even without a bell.
                    let _ = timeout(POLL_REPLAYS_EVERY, self.replays.notified()).await;
                    continue;
                }
                Err(error) => outage.failed(&error, rand::random()),
            };
            sleep(pause).await;
        }
    }

    /// Advances the replay whose turn it is, after one for the endpoint `last`. Returns the time to wait
    /// before the next batch, or `None` if there is no replay.
    async fn replay_piece(&self, last: &mut Option<EndpointId>) -> state::Result<Option<Duration>> {
        let jobs = self.outbox.replay_jobs(TenantScope::All).await?;
        let Some(before) = next_in_turn(jobs, last.as_ref()) else { return Ok(None) };
        *last = Some(before.endpoint.clone());
        let rate = self.settings.replay_rate.max(1);
        let limit = rate.div_ceil(4).min(REPLAY_PIECE);
        let after = self.outbox.advance_replay(before.id, limit, self.clock.now()).await?;
        if let Some(job) = after.as_ref().filter(|job| job.state != ReplayState::Running) {
            tracing::info!(replay = %job.id, endpoint = %job.endpoint, deliveries = job.queued, "a replay finished");
        }
        Ok(Some(pause_after(&before, after.as_ref(), rate)))
    }

    /// Continues changes that apply to all deliveries of an endpoint.
    async fn change_backlogs(&self) {
        let mut outage = StoreOutage::none("process a backlog of deliveries");
        loop {
            let piece = self.outbox.advance_backlog(BACKLOG_PIECE, self.clock.now());
            let pause = match self.on_duty(Duty::Backlogs, piece).await {
                Ok(had_work) => {
                    outage.over();
                    if had_work { BACKLOG_PAUSE } else { POLL_BACKLOGS_EVERY }
                }
                Err(error) => outage.failed(&error, rand::random()),
            };
            sleep(pause).await;
        }
    }

    /// Expires deliveries that have waited too long, for whatever reason (webhooks R13).
    async fn expire_deliveries(&self) {
        let mut outage = StoreOutage::none("expire old deliveries");
        let mut deliveries = 0;
        sleep(EXPIRE_FIRST).await;
        loop {
            let begun_before = self.clock.ago(self.settings.delivery_expiry);
            let piece = self.outbox.expire(begun_before, EXPIRE_PIECE, self.clock.now());
            let pause = match self.on_duty(Duty::ExpireDeliveries, piece).await {
                Ok(0) => {
                    outage.over();
                    if deliveries > 0 {
                        tracing::warn!(deliveries, "deliveries expired after webhooks.delivery_expiry");
                    }
                    deliveries = 0;
                    EXPIRE_EVERY
                }
                Ok(count) => {
                    deliveries += count;
                    self.metrics.expired.inc_by(count);
                    PIECE_PAUSE
                }
                Err(error) => outage.failed(&error, rand::random()),
            };
            sleep(pause).await;
        }
    }

    /// Cancels waiting deliveries beyond the limits of a backlog, oldest first.
    async fn limit_backlogs(&self) {
        let mut outage = StoreOutage::none("cancel deliveries beyond the backlog limits");
        let mut dropped = BTreeMap::<EndpointId, u64>::new();
        sleep(PRUNE_FIRST).await;
        loop {
            let now = self.clock.now();
            let begun_before = self.clock.ago(self.settings.max_backlog_age);
            let limits = BacklogLimits { begun_before, most: self.settings.max_backlog };
            let piece = self.outbox.drop_excess(limits, PRUNE_PIECE, now);
            let pause = match self.on_duty(Duty::LimitBacklogs, piece).await {
                Ok(piece) if piece.is_empty() => {
                    outage.over();
                    for (endpoint, deliveries) in std::mem::take(&mut dropped) {
                        tracing::warn!(
                            %endpoint,
                            deliveries,
                            "cancelled the oldest waiting deliveries of an endpoint, beyond webhooks.max_backlog or \
                             webhooks.max_backlog_age"
                        );
                    }
                    EXPIRE_EVERY
                }
                Ok(piece) => {
                    for (endpoint, count) in piece {
                        self.metrics.dropped.inc_by(count);
                        *dropped.entry(endpoint).or_default() += count;
                    }
                    PIECE_PAUSE
                }
                Err(error) => outage.failed(&error, rand::random()),
            };
            sleep(pause).await;
        }
    }

    async fn prune(&self) {
        let mut outage = StoreOutage::none("remove old deliveries");
        sleep(PRUNE_FIRST).await;
        loop {
            let horizon = RetentionHorizon {
                finished: self.clock.ago(self.settings.keep_finished),
                dead: self.clock.ago(self.settings.keep_dead),
                ended_uploads: self.clock.ago(self.settings.keep_ended_uploads),
                abandoned: self.clock.ago(self.settings.delivery_expiry),
                most_hook_calls: self.settings.keep_hook_calls,
                now: self.clock.now(),
            };
            let piece = self.outbox.prune(horizon, PRUNE_PIECE);
            let pause = match self.on_duty(Duty::Prune, piece).await {
                Ok(0) => {
                    outage.over();
                    PRUNE_EVERY
                }
                Ok(_) => PIECE_PAUSE,
                Err(error) => outage.failed(&error, rand::random()),
            };
            sleep(pause).await;
        }
    }

    /// Measures the queue for the metrics, and detects deliveries that are not sent although they could be.
    async fn watch_queue(&self) {
        let mut outage = StoreOutage::none("measure the delivery queue");
        loop {
            let pause = match self.measure_queue().await {
                Ok(()) => {
                    outage.over();
                    MEASURE_QUEUE_EVERY
                }
                Err(error) => outage.failed(&error, rand::random()),
            };
            sleep(pause).await;
        }
    }

    async fn measure_queue(&self) -> state::Result<()> {
        self.metrics.show_endpoints(self.registry.count_states());
        let entries = self.registry.all();
        let sent_to = entries.iter().filter(|entry| entry.is_enabled() && !entry.is_breaker_open());
        let sent_to: Vec<EndpointId> = sent_to.map(|entry| entry.id().clone()).collect();
        let oldest = self.outbox.next_due(&sent_to).await?.map_or(Duration::ZERO, |due| self.clock.elapsed(due));
        self.liveness.set_oldest_due(oldest);
        self.metrics.oldest_due.set(oldest.as_secs_f64());
        self.metrics.show_superseded(self.outbox.superseded());
        self.metrics.show_queue(&self.outbox.backlog(TenantScope::All, None).await?);
        Ok(())
    }
}

/// Returns the oldest running replay of the endpoint whose turn it is. Endpoints take turns by name, so that
/// none waits for all replays of another.
fn next_in_turn(jobs: Vec<ReplayJob>, last: Option<&EndpointId>) -> Option<ReplayJob> {
    let running = jobs.into_iter().filter(|job| job.state == ReplayState::Running);
    running.min_by_key(|job| {
        let had_its_turn = last.is_some_and(|last| job.endpoint <= *last);
        (had_its_turn, job.endpoint.clone(), job.created_at, job.id)
    })
}

/// Returns the time that the queued deliveries take at the rate. Events that were only examined cost next to
/// nothing.
fn pause_after(before: &ReplayJob, after: Option<&ReplayJob>, rate: u32) -> Duration {
    let queued = after.map_or(0, |after| after.queued.saturating_sub(before.queued));
    let queued = u32::try_from(queued).unwrap_or(u32::MAX);
    Duration::from_secs_f64(f64::from(queued) / f64::from(rate)).max(PIECE_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::delivery::ReplaySelection;
    use domain::log::EventPosition;
    use domain::principal::TenantId;

    use crate::testing::{Sample, TestClock, TestOutbox, node, sample, wall_clock};
    use domain::delivery::DeliveryState;
    use domain::id::{DeliveryId, ReplayId};

    fn job(queued: u64) -> ReplayJob {
        let now = wall_clock();
        ReplayJob {
            id: ReplayId::new(now, rand::random()),
            tenant: TenantId::DEFAULT,
            endpoint: EndpointId::new("app").unwrap(),
            what: ReplaySelection::Dead,
            from: now,
            before: now,
            state: ReplayState::Running,
            cursor: EventPosition(0),
            queued,
            created_at: now,
            finished_at: None,
        }
    }

    fn maintenance(outbox: &Arc<TestOutbox>) -> Maintenance {
        Maintenance {
            node: node(),
            outbox: Arc::clone(outbox) as _,
            registry: Arc::default(),
            settings: WebhookSettings::default(),
            clock: TestClock::default().clock(),
            metrics: WebhookMetrics::default(),
            liveness: Liveness::new(Duration::ZERO),
            replays: Arc::default(),
        }
    }

    /// webhooks L3: replays are rate-limited.
    #[test]
    fn a_replay_rests_for_what_it_has_queued() {
        assert_eq!(pause_after(&job(10), Some(&job(60)), 200), Duration::from_millis(250));
        assert_eq!(pause_after(&job(10), Some(&job(10)), 200), PIECE_PAUSE, "nothing was queued");
        assert_eq!(pause_after(&job(10), None, 200), PIECE_PAUSE, "it is gone");
    }

    /// webhooks L3: the replays of one endpoint run oldest first, and those of other endpoints do not wait
    /// for all of them.
    #[tokio::test(start_paused = true)]
    async fn replays_are_carried_on_in_turn_until_they_end() {
        let outbox = Arc::new(TestOutbox::default());
        let of = |endpoint: &str, second: u64| ReplayJob {
            endpoint: EndpointId::new(endpoint).unwrap(),
            created_at: wall_clock().plus(Duration::from_secs(second)),
            ..job(0)
        };
        let jobs = [of("a", 2), of("b", 3), of("a", 1), of("c", 0), of("c", 4)];
        for job in &jobs {
            state::Replays::begin_replay(&*outbox, job.clone()).await.unwrap();
        }
        let stop = CancellationToken::new();
        let running = tokio::spawn(maintenance(&outbox).run(stop.clone()));
        let in_turn = [2, 1, 3, 0, 4].map(|at: usize| jobs[at].id);
        outbox.until(|| outbox.jobs_done().len() == jobs.len()).await;
        assert_eq!(outbox.jobs_done(), in_turn);
        stop.cancel();
        running.await.unwrap();
    }

    /// webhooks R13: deliveries expire in batches, and not by time that has not passed.
    #[tokio::test(start_paused = true)]
    async fn what_has_waited_too_long_is_given_up() {
        let (outbox, clock) = (Arc::new(TestOutbox::default()), TestClock::default());
        let stop = CancellationToken::new();
        let old: Vec<_> = (0..250).map(|_| outbox.add_for("app")).collect();
        let expiry = WebhookSettings::default().delivery_expiry;
        clock.put_forward(expiry + Duration::from_secs(1));
        let maintenance = Maintenance { clock: clock.clock(), ..maintenance(&outbox) };
        let expired = maintenance.metrics.expired.clone();
        let young = outbox.add(Sample { at: clock.now(), ..sample() });
        let running = tokio::spawn(maintenance.run(stop.clone()));
        let is_dead = |id: &DeliveryId| outbox.row(*id).state == DeliveryState::Dead;
        sleep(EXPIRE_FIRST).await;
        outbox.until(|| old.iter().all(is_dead)).await;
        clock.step_ahead(expiry + Duration::from_secs(1));
        sleep(3 * EXPIRE_EVERY).await;
        assert_eq!((is_dead(&young), expired.get()), (false, 250), "the clock was set");
        stop.cancel();
        running.await.unwrap();
    }

    /// webhooks L6: rows are removed in batches until none is left, and again an hour later.
    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_removed_in_pieces() {
        let outbox = Arc::new(TestOutbox::default());
        outbox.add_old_rows(1_200);
        let stop = CancellationToken::new();
        let running = tokio::spawn(maintenance(&outbox).run(stop.clone()));
        sleep(PRUNE_FIRST).await;
        outbox.until(|| outbox.prunes() == [500, 500, 200, 0]).await;
        outbox.add_old_rows(1);
        sleep(PRUNE_EVERY).await;
        outbox.until(|| outbox.prunes() == [500, 500, 200, 0, 1, 0]).await;
        stop.cancel();
        running.await.unwrap();
    }
}
