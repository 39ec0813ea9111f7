//! Records the results of deliveries, and the health of their endpoints.
//!
//! Results that arrive while a write is in progress go into the next write together. While writing fails,
//! nothing is dropped: the same results are retried until they are written. No deliveries are claimed
//! meanwhile, since a lease could expire and a message that was received could be sent again.
//!
//! An endpoint that is to be stopped is stopped before the attempt that caused it is written: if the process
//! dies in between, the delivery is attempted again when the endpoint is resumed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::metrics::WebhookMetrics;
use crate::sending::registry::{EndpointEntry, EndpointRegistry};
use crate::sending::store_outage::StoreOutage;
use domain::delivery::{Attempt, DeliveryClass};
use domain::endpoint::{DisabledBecause, Endpoint as Stored, EndpointId, EndpointState};
use domain::health::HealthChange;
use domain::notice::Notice;
use domain::principal::TenantScope;
use state::clock::Clock;
use state::{Endpoints, Outbox, Settlement, SettlementBatch};

/// Maximum number of results in one write.
const BATCH: usize = 256;

/// Time for which failing writes are retried once the process is to end. Deliveries whose results are lost
/// then are sent again after the next start, when their leases have expired.
pub(crate) const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of one claim.
#[derive(Debug)]
pub(crate) struct DeliveryResult {
    pub(crate) settlement: Settlement,
    pub(crate) class: DeliveryClass,
    pub(crate) entry: Arc<EndpointEntry>,
    /// A resulting notice for operators.
    pub(crate) notice: Option<Notice>,
    /// Set if the endpoint is to be stopped too.
    pub(crate) stop: Option<EndpointStop>,
    /// The caller that waits for the attempt.
    pub(crate) waiting: Option<oneshot::Sender<Attempt>>,
}

/// A decision to disable an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct EndpointStop {
    pub(crate) because: DisabledBecause,
    /// URL of the attempt that caused the decision. An endpoint that has another URL by now is not disabled.
    pub(crate) url: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecorderState {
    Works,
    Stalled,
}

pub(crate) struct Recorder {
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) registry: Arc<EndpointRegistry>,
    pub(crate) clock: Clock,
    pub(crate) metrics: WebhookMetrics,
    pub(crate) state: watch::Sender<RecorderState>,
    /// Cancelled when nothing is being sent any more.
    pub(crate) closing: CancellationToken,
    /// Time for which writes are retried from then on.
    pub(crate) final_write_timeout: Duration,
}

impl Recorder {
    /// Runs until every sender of results is dropped and all results are written.
    pub(crate) async fn run(self, mut results: mpsc::Receiver<DeliveryResult>) {
        let mut attempts = WriteAttempts { outage: StoreOutage::none("record delivery attempts"), last: None };
        let mut batch = Vec::new();
        while results.recv_many(&mut batch, BATCH).await > 0 {
            self.record(std::mem::take(&mut batch), &mut attempts).await;
        }
    }

    async fn record(&self, batch: Vec<DeliveryResult>, attempts: &mut WriteAttempts) {
        // A notice is written before the attempt that caused it: written twice is better than never.
        for (entry, notice) in batch.iter().filter_map(|outcome| Some((&outcome.entry, outcome.notice.as_ref()?))) {
            let tenant = entry.endpoint().stored().tenant;
            self.until_written(|| self.outbox.announce(tenant, notice.clone(), self.clock.now()), attempts).await;
        }
        for (entry, stop) in batch.iter().filter_map(|outcome| Some((&outcome.entry, outcome.stop.as_ref()?))) {
            self.until_written(|| self.stop_endpoint(entry, stop), attempts).await;
        }
        let health = health_changes(&batch);
        let settled = SettlementBatch {
            settlements: batch.iter().map(|outcome| outcome.settlement.clone()).collect(),
            health: health.iter().map(|(entry, change)| (entry.id().clone(), *change)).collect(),
        };
        let began = Instant::now();
        if !self.until_written(|| self.outbox.settle(settled.clone(), self.clock.now()), attempts).await {
            let deliveries = batch.len();
            tracing::error!(deliveries, "stopped without recording attempts; the deliveries will be sent again");
            return;
        }
        self.metrics.outbox_write.observe(began.elapsed().as_secs_f64());
        for (entry, _) in health {
            entry.end_writing_health();
        }
        for outcome in batch {
            self.metrics.count_settled(outcome.settlement.disposition, outcome.class);
            if let Some(waiting) = outcome.waiting {
                // The caller may have gone away.
                let _ = waiting.send(outcome.settlement.attempt);
            }
        }
    }

    /// Disables an endpoint, unless it was stopped or given another URL meanwhile.
    async fn stop_endpoint(&self, entry: &EndpointEntry, stop: &EndpointStop) -> state::Result<()> {
        loop {
            let _writing = self.registry.write().await;
            let stored = find(&*self.outbox, entry.id()).await?;
            let is_meant = |stored: &Stored| stored.state.is_enabled() && stored.terms.url == stop.url;
            let Some(stored) = stored.filter(is_meant) else { return Ok(()) };
            let now = self.clock.now();
            let state = EndpointState::Disabled { since: now, because: stop.because };
            let disabled = Stored { state, updated_at: now, ..stored };
            match self.outbox.put_endpoint(disabled, now).await {
                Ok(written) => {
                    let (endpoint, reason) = (entry.id(), stop.because.name());
                    tracing::warn!(%endpoint, reason, "the endpoint was disabled; its deliveries wait until it is resumed");
                    if let Ok(changed) = entry.endpoint().with(written) {
                        self.registry.put(changed);
                    }
                    return Ok(());
                }
                // Another writer was faster: check the endpoint again.
                Err(state::Error::EndpointConflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Retries until the write succeeds, or until the process ends. Returns whether it succeeded.
    async fn until_written<F>(&self, mut write: impl FnMut() -> F, attempts: &mut WriteAttempts) -> bool
    where
        F: Future<Output = state::Result<()>>,
    {
        loop {
            let error = match write().await {
                Ok(()) => {
                    attempts.outage.over();
                    self.state.send_replace(RecorderState::Works);
                    return true;
                }
                Err(error) => error,
            };
            self.state.send_replace(RecorderState::Stalled);
            let pause = attempts.outage.failed(&error, rand::random());
            if self.closing.is_cancelled() {
                let end = *attempts.last.get_or_insert_with(|| Instant::now() + self.final_write_timeout);
                if Instant::now() >= end {
                    return false;
                }
                sleep(pause.min(self.final_write_timeout / 10)).await;
            } else {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = self.closing.cancelled() => {}
                }
            }
        }
    }
}

async fn find(outbox: &dyn Endpoints, id: &EndpointId) -> state::Result<Option<Stored>> {
    Ok(outbox.endpoints(TenantScope::All).await?.into_iter().find(|stored| stored.id == *id))
}

/// Returns each endpoint of the batch once, with the change of its health, if there is one.
fn health_changes(batch: &[DeliveryResult]) -> Vec<(Arc<EndpointEntry>, HealthChange)> {
    let mut changes: Vec<(Arc<EndpointEntry>, HealthChange)> = Vec::new();
    for entry in batch.iter().map(|outcome| &outcome.entry) {
        if changes.iter().any(|(known, _)| known.id() == entry.id()) {
            continue;
        }
        changes.extend(entry.begin_writing_health().map(|change| (Arc::clone(entry), change)));
    }
    changes
}

struct WriteAttempts {
    outage: StoreOutage,
    /// Time of the last attempt, set once the process is to end.
    last: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::Ordering;

    use crate::testing::{TestClock, TestOutbox, endpoint, sample};
    use domain::delivery::Disposition;
    use domain::delivery::{AttemptOutcome, AttemptTrigger, Timings};

    fn success(outbox: &TestOutbox) -> DeliveryResult {
        let (delivery, lease) = (outbox.add(sample()), [0; 16]);
        let outcome = AttemptOutcome::Status(200);
        let (started_at, took) = (TestClock::default().now(), Duration::ZERO);
        let attempt = Attempt {
            number: 1,
            trigger: AttemptTrigger::Auto,
            started_at,
            took,
            timings: Timings::default(),
            remote: None,
            outcome,
            response_headers: Vec::new(),
            response_body: Vec::new(),
            note: None,
            next_attempt_at: None,
        };
        let settlement = Settlement { delivery, lease, attempt, disposition: Disposition::Succeeded };
        let entry = Arc::new(EndpointEntry::new(endpoint("app", "http://localhost/")));
        DeliveryResult { settlement, class: DeliveryClass::Normal, entry, notice: None, stop: None, waiting: None }
    }

    fn recorder(outbox: &Arc<TestOutbox>) -> (Recorder, watch::Receiver<RecorderState>) {
        let (state, recording) = watch::channel(RecorderState::Works);
        let recorder = Recorder {
            outbox: Arc::clone(outbox) as _,
            registry: Arc::default(),
            clock: TestClock::default().clock(),
            metrics: WebhookMetrics::default(),
            state,
            closing: CancellationToken::new(),
            final_write_timeout: Duration::from_millis(50),
        };
        (recorder, recording)
    }

    #[tokio::test]
    async fn results_are_kept_until_they_can_be_written() {
        let outbox = Arc::new(TestOutbox::default());
        let (recorder, mut recording) = recorder(&outbox);
        outbox.writes_fail.store(true, Ordering::SeqCst);
        let (results, incoming) = mpsc::channel(8);
        let running = tokio::spawn(recorder.run(incoming));
        let kept = [success(&outbox), success(&outbox)];
        let ids = [kept[0].settlement.delivery, kept[1].settlement.delivery];
        for outcome in kept {
            results.send(outcome).await.unwrap();
        }
        recording.wait_for(|recording| *recording == RecorderState::Stalled).await.unwrap();
        drop(results);
        assert!(ids.iter().all(|id| outbox.row(*id).attempts.is_empty()));

        outbox.writes_fail.store(false, Ordering::SeqCst);
        running.await.unwrap();
        assert!(ids.iter().all(|id| outbox.row(*id).attempts.len() == 1));
        assert_eq!(*recording.borrow(), RecorderState::Works);
    }

    /// A store that stays unavailable must not keep the process from ending.
    #[tokio::test]
    async fn closing_ends_the_tries() {
        let outbox = Arc::new(TestOutbox::default());
        let (recorder, _recording) = recorder(&outbox);
        outbox.writes_fail.store(true, Ordering::SeqCst);
        recorder.closing.cancel();
        let (results, incoming) = mpsc::channel(8);
        results.send(success(&outbox)).await.unwrap();
        drop(results);
        recorder.run(incoming).await;
        assert!(outbox.rows_for("app")[0].attempts.is_empty());
    }
}
