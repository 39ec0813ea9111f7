//! The endpoints in memory: the current settings of each, its health, and its deliveries in flight.
//!
//! The dispatch loop and the administration share one registry: a change takes effect with the next attempt
//! (webhooks A4). State that must survive a crash is in the outbox.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify};
use tokio::time::Instant;

use crate::endpoints::endpoint::SendableEndpoint;
use crate::lock::{lock, read, write};
use crate::sending::health::{HealthConsequence, HealthRules, HealthSignal, HealthTracker};
use crate::sending::throttle::{Throttle, TokenBucket};
use crate::settings::WebhookSettings;
use domain::endpoint::{Endpoint as Stored, EndpointId, EndpointState, Health};
use domain::event::EventKind;
use domain::health::{BreakerState, HealthChange};
use domain::lane::ClaimLimits;
use domain::time::Timestamp;
use state::clock::Clock;

/// An endpoint with its health and its sending state.
#[derive(Debug)]
pub(crate) struct EndpointEntry {
    id: EndpointId,
    endpoint: RwLock<Arc<SendableEndpoint>>,
    send_state: Mutex<SendState>,
    /// Set if the last attempt failed. The next failure is then logged only at debug level.
    pub(crate) is_failing: AtomicBool,
}

#[derive(Debug, Default)]
struct SendState {
    in_flight: u32,
    bucket: TokenBucket,
    throttle: Throttle,
    tracker: HealthTracker,
}

/// Number of deliveries that an endpoint can accept now, or the time to check again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendCapacity {
    Slots(u32),
    /// All slots are taken, or the endpoint is stopped. Waiting alone does not change that.
    None,
    /// There will be capacity after this time.
    After(Duration),
}

impl EndpointEntry {
    pub(crate) fn new(endpoint: SendableEndpoint) -> Self {
        let health = endpoint.stored().health;
        Self {
            id: endpoint.id().clone(),
            endpoint: RwLock::new(Arc::new(endpoint)),
            send_state: Mutex::new(SendState { tracker: HealthTracker::of(health), ..SendState::default() }),
            is_failing: AtomicBool::new(health.consecutive_failures > 0),
        }
    }

    pub(crate) fn id(&self) -> &EndpointId {
        &self.id
    }

    /// Returns the current settings of the endpoint.
    pub(crate) fn endpoint(&self) -> Arc<SendableEndpoint> {
        Arc::clone(&read(&self.endpoint))
    }

    /// Applies a change, unless a later one came first. When a stopped endpoint is enabled, its health and
    /// throttle are reset.
    fn change(&self, changed: SendableEndpoint) {
        let mut endpoint = write(&self.endpoint);
        if changed.stored().version < endpoint.stored().version {
            return;
        }
        if !endpoint.stored().state.is_enabled() && changed.stored().state.is_enabled() {
            let health = changed.stored().health;
            let mut send_state = self.send_state();
            send_state.tracker = HealthTracker::of(health);
            send_state.throttle.release();
            self.is_failing.store(false, Ordering::Relaxed);
        }
        *endpoint = Arc::new(changed);
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.endpoint().stored().state.is_enabled()
    }

    /// Reports whether this is the endpoint as stored, apart from its health.
    pub(crate) fn is_current(&self, stored: &Stored) -> bool {
        let endpoint = self.endpoint();
        let known = endpoint.stored();
        (known.version, known.created_at) == (stored.version, stored.created_at)
    }

    /// Adopts the health that the attempts of all nodes have resulted in.
    pub(crate) fn follow(&self, stored: Health) {
        self.send_state().tracker.follow(stored);
    }

    /// Returns the number of deliveries that this node may send now, as one of `senders` nodes that share the
    /// rate of the endpoint.
    pub(crate) fn capacity(
        &self,
        settings: &WebhookSettings,
        senders: usize,
        now: Timestamp,
        instant: Instant,
    ) -> SendCapacity {
        let endpoint = self.endpoint();
        if !endpoint.stored().state.is_enabled() {
            return SendCapacity::None;
        }
        let mut send_state = self.send_state();
        match send_state.tracker.breaker_state(&settings.health, now) {
            BreakerState::Open { until } => return SendCapacity::After(until.since(now)),
            BreakerState::HalfOpen => {
                return if send_state.in_flight == 0 { SendCapacity::Slots(1) } else { SendCapacity::None };
            }
            BreakerState::Closed => {}
        }
        let free = send_state.slots(&endpoint, settings).saturating_sub(send_state.in_flight);
        if free == 0 {
            return SendCapacity::None;
        }
        let Some(rate) = endpoint.terms().max_per_second else { return SendCapacity::Slots(free) };
        let rate = share_of_rate(rate, senders);
        match send_state.bucket.tokens(rate, instant).min(free) {
            0 => SendCapacity::After(send_state.bucket.until_next(rate)),
            capacity => SendCapacity::Slots(capacity),
        }
    }

    /// Returns the limits for a claim of at most `slots` deliveries.
    pub(crate) fn claim_limits(&self, slots: u32, settings: &WebhookSettings) -> ClaimLimits {
        let endpoint = self.endpoint();
        let send_state = self.send_state();
        ClaimLimits {
            slots,
            in_flight: send_state.in_flight,
            max_in_flight: send_state.slots(&endpoint, settings),
            longest_pause: settings.health.longest_pause(),
        }
    }

    /// Takes a slot until the returned value is dropped.
    pub(crate) fn take_slot(self: &Arc<Self>) -> Slot {
        let mut send_state = self.send_state();
        send_state.in_flight += 1;
        send_state.bucket.take();
        Slot(Arc::clone(self))
    }

    /// Records the health signal of an attempt.
    pub(crate) fn note(
        &self,
        sign: HealthSignal,
        rules: &HealthRules,
        clock: &Clock,
        chance: f64,
    ) -> HealthConsequence {
        let may_disable = self.endpoint().terms().auto_disable;
        let mut send_state = self.send_state();
        if sign == HealthSignal::Good {
            send_state.throttle.release();
        }
        let failing_for = send_state.tracker.health.failing_since.map_or(Duration::ZERO, |since| clock.elapsed(since));
        send_state.tracker.note(sign, rules, may_disable, clock.now(), failing_for, chance)
    }

    /// Reduces the slots, because the endpoint's proxy cannot reach it.
    pub(crate) fn tighten(&self) {
        self.send_state().throttle.tighten();
    }

    pub(crate) fn health(&self) -> Health {
        self.send_state().tracker.health
    }

    /// Returns the change of health to write now, if there is one.
    pub(crate) fn begin_writing_health(&self) -> Option<HealthChange> {
        self.send_state().tracker.begin_writing()
    }

    pub(crate) fn end_writing_health(&self) {
        self.send_state().tracker.end_writing();
    }

    /// Permits one delivery as a probe from now on, if the breaker is open.
    fn probe(&self, now: Timestamp) {
        let mut send_state = self.send_state();
        send_state.tracker.health = send_state.tracker.health.after(&HealthChange::probe(now));
    }

    /// Reports whether the breaker is open or half open.
    pub(crate) fn is_breaker_open(&self) -> bool {
        self.send_state().tracker.health.open_until.is_some()
    }

    fn send_state(&self) -> MutexGuard<'_, SendState> {
        lock(&self.send_state)
    }
}

impl SendState {
    /// Returns the number of deliveries to the endpoint that may be in flight at once.
    fn slots(&self, endpoint: &SendableEndpoint, settings: &WebhookSettings) -> u32 {
        self.throttle.of(endpoint.terms().max_in_flight.unwrap_or(settings.max_in_flight_per_endpoint))
    }
}

/// Returns the share of an endpoint's rate that one of several nodes uses.
fn share_of_rate(per_second: u32, senders: usize) -> f64 {
    f64::from(per_second) / f64::from(u32::try_from(senders.max(1)).unwrap_or(u32::MAX))
}

/// A slot of an endpoint, held by a delivery in flight.
#[derive(Debug)]
pub(crate) struct Slot(Arc<EndpointEntry>);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut send_state = self.0.send_state();
        send_state.in_flight = send_state.in_flight.saturating_sub(1);
    }
}

/// All endpoints.
#[derive(Debug, Default)]
pub(crate) struct EndpointRegistry {
    entries: RwLock<Arc<[Arc<EndpointEntry>]>>,
    /// Held from the write of an endpoint until the registry has applied it, so that changes are applied in
    /// the order of the writes.
    writing: AsyncMutex<()>,
    changed: Notify,
    /// Set while an enabled endpoint subscribes to progress (webhooks C1).
    progress_wanted: Arc<AtomicBool>,
}

impl EndpointRegistry {
    pub(crate) fn new(endpoints: impl IntoIterator<Item = SendableEndpoint>) -> Self {
        let entries: Arc<[Arc<EndpointEntry>]> =
            endpoints.into_iter().map(|endpoint| Arc::new(EndpointEntry::new(endpoint))).collect();
        let progress_wanted = Arc::new(AtomicBool::new(wants_progress(&entries)));
        Self { entries: RwLock::new(entries), writing: AsyncMutex::default(), changed: Notify::new(), progress_wanted }
    }

    pub(crate) fn progress_wanted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.progress_wanted)
    }

    /// Returns a guard to hold over a write of an endpoint and [`Self::put`] or [`Self::remove`].
    pub(crate) async fn write(&self) -> AsyncMutexGuard<'_, ()> {
        self.writing.lock().await
    }

    pub(crate) fn all(&self) -> Arc<[Arc<EndpointEntry>]> {
        Arc::clone(&read(&self.entries))
    }

    pub(crate) fn find(&self, id: &EndpointId) -> Option<Arc<EndpointEntry>> {
        self.all().iter().find(|entry| entry.id() == id).cloned()
    }

    /// Adds a new endpoint, or applies a change of one.
    pub(crate) fn put(&self, endpoint: SendableEndpoint) {
        let mut entries = write(&self.entries);
        match entries.iter().find(|entry| entry.id() == endpoint.id()) {
            Some(entry) => entry.change(endpoint),
            None => *entries = entries.iter().cloned().chain([Arc::new(EndpointEntry::new(endpoint))]).collect(),
        }
        self.progress_wanted.store(wants_progress(&entries), Ordering::Relaxed);
        drop(entries);
        self.changed.notify_one();
    }

    pub(crate) fn remove(&self, id: &EndpointId) {
        let mut entries = write(&self.entries);
        *entries = entries.iter().filter(|entry| entry.id() != id).cloned().collect();
        self.progress_wanted.store(wants_progress(&entries), Ordering::Relaxed);
    }

    /// Probes an endpoint whose breaker is open at once, instead of after its pause.
    pub(crate) fn probe(&self, id: &EndpointId, now: Timestamp) {
        if let Some(entry) = self.find(id) {
            entry.probe(now);
            self.changed.notify_one();
        }
    }

    /// Waits until an endpoint is put, or is to be probed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Counts the endpoints by state. Enabled endpoints with an open breaker are counted separately.
    pub(crate) fn count_states(&self) -> [(&'static str, i64); 4] {
        let all = self.all();
        let count = |wanted: &str| {
            let entries = all.iter().filter(|entry| state_of(entry) == wanted);
            i64::try_from(entries.count()).unwrap_or(i64::MAX)
        };
        ["enabled", "open", "paused", "disabled"].map(|state| (state, count(state)))
    }
}

fn wants_progress(entries: &[Arc<EndpointEntry>]) -> bool {
    entries.iter().any(|entry| {
        let endpoint = entry.endpoint();
        endpoint.stored().state.is_enabled() && endpoint.terms().filter.wants(EventKind::Progress)
    })
}

fn state_of(entry: &EndpointEntry) -> &'static str {
    match entry.endpoint().stored().state {
        EndpointState::Enabled if entry.is_breaker_open() => "open",
        state => state.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing::{TestClock, endpoint, endpoint_with, wall_clock};
    use domain::endpoint::EndpointTerms;
    use domain::event::EventFilter;

    fn entry(change: impl FnOnce(&mut EndpointTerms)) -> Arc<EndpointEntry> {
        let mut made = endpoint("app", "http://localhost/");
        change(&mut made.stored.terms);
        Arc::new(EndpointEntry::new(made))
    }

    fn capacity(entry: &EndpointEntry) -> SendCapacity {
        entry.capacity(&WebhookSettings::default(), 1, wall_clock(), Instant::now())
    }

    fn bad(entry: &EndpointEntry, count: u32) {
        for _ in 0..count {
            entry.note(
                HealthSignal::Bad { exhausted: false },
                &HealthRules::default(),
                &TestClock::default().clock(),
                0.5,
            );
        }
    }

    fn stored(entry: &EndpointEntry, state: EndpointState, version: u64) -> SendableEndpoint {
        let endpoint = entry.endpoint();
        let changed = Stored { state, version, ..endpoint.stored().clone() };
        endpoint.with(changed).unwrap()
    }

    #[test]
    fn a_lane_takes_as_many_as_it_has_slots() {
        let entry = entry(|terms| terms.max_in_flight = Some(3));
        let held = [entry.take_slot(), entry.take_slot()];
        assert_eq!(capacity(&entry), SendCapacity::Slots(1));
        let third = entry.take_slot();
        assert_eq!(capacity(&entry), SendCapacity::None);
        drop((held, third));
        assert_eq!(capacity(&entry), SendCapacity::Slots(3));
        entry.tighten();
        assert_eq!(capacity(&entry), SendCapacity::Slots(1), "webhooks R5");
        entry.note(HealthSignal::Good, &HealthRules::default(), &TestClock::default().clock(), 0.5);
        assert_eq!(capacity(&entry), SendCapacity::Slots(3));
    }

    #[test]
    fn an_open_breaker_lets_one_probe_out_after_its_pause() {
        let entry = entry(|_| {});
        bad(&entry, 10);
        assert!(matches!(capacity(&entry), SendCapacity::After(wait) if wait > Duration::from_secs(25)));
        let later = wall_clock().plus(Duration::from_mins(2));
        let probing = |entry: &EndpointEntry| entry.capacity(&WebhookSettings::default(), 1, later, Instant::now());
        assert_eq!(probing(&entry), SendCapacity::Slots(1));
        let probe = entry.take_slot();
        assert_eq!(probing(&entry), SendCapacity::None, "one at a time");
        drop(probe);
        entry.note(HealthSignal::Good, &HealthRules::default(), &TestClock::default().clock(), 0.5);
        assert_eq!(probing(&entry), SendCapacity::Slots(16));
    }

    #[test]
    fn an_open_breaker_can_be_tried_at_once() {
        let registry = EndpointRegistry::new([endpoint("app", "http://localhost/")]);
        let entry = registry.find(&EndpointId::new("app").unwrap()).unwrap();
        registry.probe(entry.id(), wall_clock());
        assert_eq!(capacity(&entry), SendCapacity::Slots(16), "one that is closed stays so");
        bad(&entry, 10);
        assert!(matches!(capacity(&entry), SendCapacity::After(_)));
        registry.probe(entry.id(), wall_clock());
        assert_eq!(capacity(&entry), SendCapacity::Slots(1));
        let probe = entry.take_slot();
        bad(&entry, 1);
        drop(probe);
        assert!(matches!(capacity(&entry), SendCapacity::After(_)), "it has failed again");
    }

    #[test]
    fn a_rate_leaves_no_room_until_there_is_a_token() {
        let entry = entry(|terms| terms.max_per_second = Some(5));
        assert_eq!(capacity(&entry), SendCapacity::Slots(1));
        let _slot = entry.take_slot();
        assert!(matches!(capacity(&entry), SendCapacity::After(wait) if wait <= Duration::from_millis(200)));
    }

    #[test]
    fn who_comes_back_begins_anew() {
        let registry = EndpointRegistry::new([endpoint("app", "http://localhost/")]);
        let entry = registry.find(&EndpointId::new("app").unwrap()).unwrap();
        bad(&entry, 10);
        let since = wall_clock();
        registry.put(stored(&entry, EndpointState::Paused { since }, 7));
        assert_eq!(capacity(&entry), SendCapacity::None);
        registry.put(stored(&entry, EndpointState::Enabled, 6));
        assert_eq!(capacity(&entry), SendCapacity::None, "an older change came late");
        assert_eq!(registry.count_states().map(|(_, count)| count), [0, 0, 1, 0]);
        registry.put(stored(&entry, EndpointState::Enabled, 8));
        assert_eq!(capacity(&entry), SendCapacity::Slots(16));
        registry.remove(entry.id());
        assert_eq!(registry.all().len(), 0);
    }

    /// webhooks C1.
    #[test]
    fn progress_is_wanted_while_somebody_who_wants_it_is_sent_to() {
        let registry = EndpointRegistry::new([endpoint("app", "http://localhost/")]);
        let wanted = registry.progress_wanted();
        assert!(!wanted.load(Ordering::Relaxed));
        let other = endpoint_with("page", "http://localhost/", |terms| {
            terms.filter = EventFilter::new(vec!["upload.progress".to_owned()]).unwrap();
        });
        registry.put(other);
        assert!(wanted.load(Ordering::Relaxed));
        let entry = registry.find(&EndpointId::new("page").unwrap()).unwrap();
        registry.put(stored(&entry, EndpointState::Paused { since: wall_clock() }, 2));
        assert!(!wanted.load(Ordering::Relaxed));
        registry.put(stored(&entry, EndpointState::Enabled, 3));
        assert!(wanted.load(Ordering::Relaxed));
        registry.remove(entry.id());
        assert!(!wanted.load(Ordering::Relaxed));
    }

    #[test]
    fn health_is_written_when_it_has_changed() {
        let entry = entry(|_| {});
        assert_eq!(entry.begin_writing_health(), None);
        entry.note(HealthSignal::Good, &HealthRules::default(), &TestClock::default().clock(), 0.5);
        assert_eq!(entry.begin_writing_health(), None, "a healthy endpoint costs no write");
        bad(&entry, 1);
        assert_eq!(entry.begin_writing_health().unwrap().failures, 1);
        bad(&entry, 2);
        entry.end_writing_health();
        assert_eq!(entry.begin_writing_health().unwrap().failures, 2, "an attempt made meanwhile is not lost");
        entry.end_writing_health();
        assert_eq!(entry.begin_writing_health(), None);
    }
}
