//! The endpoints there are, each in a lane of its own: who it is now, how
//! it is doing, and how much is on its way.
//!
//! One registry for the loop that sends and for who changes endpoints: a change counts from the next attempt
//! on (webhooks A4). What must survive a crash is in the outbox.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify};
use tokio::time::Instant;

use crate::endpoints::endpoint::Endpoint;
use crate::lock::{lock, read, write};
use crate::sending::health::{BreakerState, Consequence, HealthRules, HealthSign, Pulse};
use crate::sending::throttle::{Bucket, Throttle};
use crate::settings::Settings;
use domain::endpoint::{EndpointId, EndpointState, Health};
use domain::event::EventKind;
use domain::time::Timestamp;
use state::clock::Clock;

/// An endpoint and how it is doing.
#[derive(Debug)]
pub(crate) struct Lane {
    id: EndpointId,
    endpoint: RwLock<Arc<Endpoint>>,
    pace: Mutex<Pace>,
    /// The last attempt failed; the next failure is no news.
    pub(crate) is_failing: AtomicBool,
}

#[derive(Debug, Default)]
struct Pace {
    in_flight: u32,
    bucket: Bucket,
    throttle: Throttle,
    pulse: Pulse,
    /// As it was last written down.
    written: Health,
}

/// How many deliveries a lane can take now, and if none, when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    For(u32),
    /// All slots are taken, or the endpoint is stopped: something must happen first.
    None,
    /// There will be room after this time.
    In(Duration),
}

impl Lane {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        let health = endpoint.stored().health;
        Self {
            id: endpoint.id().clone(),
            endpoint: RwLock::new(Arc::new(endpoint)),
            pace: Mutex::new(Pace { pulse: Pulse::of(health), written: health, ..Pace::default() }),
            is_failing: AtomicBool::new(health.consecutive_failures > 0),
        }
    }

    pub(crate) fn id(&self) -> &EndpointId {
        &self.id
    }

    /// The endpoint as it is now.
    pub(crate) fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&read(&self.endpoint))
    }

    /// Takes a change over, unless a later one was faster. An endpoint that
    /// begins to be sent to again, begins anew.
    fn change(&self, changed: Endpoint) {
        let mut endpoint = write(&self.endpoint);
        if changed.stored().version < endpoint.stored().version {
            return;
        }
        if !endpoint.stored().state.is_enabled() && changed.stored().state.is_enabled() {
            let health = changed.stored().health;
            let mut pace = self.pace();
            pace.pulse = Pulse::of(health);
            pace.written = health;
            pace.throttle.release();
            self.is_failing.store(false, Ordering::Relaxed);
        }
        *endpoint = Arc::new(changed);
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.endpoint().stored().state.is_enabled()
    }

    pub(crate) fn room(&self, settings: &Settings, now: Timestamp, instant: Instant) -> Room {
        let endpoint = self.endpoint();
        if !endpoint.stored().state.is_enabled() {
            return Room::None;
        }
        let mut pace = self.pace();
        match pace.pulse.breaker_state(&settings.health, now) {
            BreakerState::Open { until } => return Room::In(until.since(now)),
            BreakerState::HalfOpen => return if pace.in_flight == 0 { Room::For(1) } else { Room::None },
            BreakerState::Closed => {}
        }
        let terms = endpoint.terms();
        let slots = pace.throttle.of(terms.max_in_flight.unwrap_or(settings.max_in_flight_per_endpoint));
        let free = slots.saturating_sub(pace.in_flight);
        if free == 0 {
            return Room::None;
        }
        let Some(rate) = terms.max_per_second else { return Room::For(free) };
        match pace.bucket.tokens(rate, instant).min(free) {
            0 => Room::In(pace.bucket.until_next(rate)),
            room => Room::For(room),
        }
    }

    /// Takes a slot until what this gives is dropped.
    pub(crate) fn take(self: &Arc<Self>) -> Slot {
        let mut pace = self.pace();
        pace.in_flight += 1;
        pace.bucket.take();
        Slot(Arc::clone(self))
    }

    /// Takes note of what an attempt says of the endpoint.
    pub(crate) fn note(&self, sign: HealthSign, rules: &HealthRules, clock: &Clock, chance: f64) -> Consequence {
        let may_disable = self.endpoint().terms().auto_disable;
        let mut pace = self.pace();
        if sign == HealthSign::Good {
            pace.throttle.release();
        }
        let failing_for = pace.pulse.health.failing_since.map_or(Duration::ZERO, |since| clock.elapsed(since));
        pace.pulse.note(sign, rules, may_disable, clock.now(), failing_for, chance)
    }

    /// Its proxy cannot reach it.
    pub(crate) fn tighten(&self) {
        self.pace().throttle.tighten();
    }

    pub(crate) fn health(&self) -> Health {
        self.pace().pulse.health
    }

    /// How it is doing, if that is not written down yet.
    pub(crate) fn unwritten_health(&self) -> Option<Health> {
        let pace = self.pace();
        (pace.pulse.health != pace.written).then_some(pace.pulse.health)
    }

    pub(crate) fn has_written(&self, health: Health) {
        self.pace().written = health;
    }

    /// Lets one delivery out as a probe from now on, if its breaker is open.
    fn probe(&self, now: Timestamp) {
        let until = &mut self.pace().pulse.health.open_until;
        *until = until.map(|until| until.min(now));
    }

    /// Whether its breaker is open, be it by half.
    pub(crate) fn is_spared(&self) -> bool {
        self.pace().pulse.health.open_until.is_some()
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        lock(&self.pace)
    }
}

/// A delivery on its way to an endpoint.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Lane>);

impl Drop for Slot {
    fn drop(&mut self) {
        let mut pace = self.0.pace();
        pace.in_flight = pace.in_flight.saturating_sub(1);
    }
}

/// All lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: RwLock<Arc<[Arc<Lane>]>>,
    /// Held by whoever writes an endpoint until the lanes know of it, so that
    /// they follow in the order of the writes.
    writing: AsyncMutex<()>,
    changed: Notify,
    /// Whether one of them is sent to and wants progress (webhooks C1).
    progress_wanted: Arc<AtomicBool>,
}

impl Lanes {
    pub(crate) fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let lanes: Arc<[Arc<Lane>]> = endpoints.into_iter().map(|endpoint| Arc::new(Lane::new(endpoint))).collect();
        let progress_wanted = Arc::new(AtomicBool::new(wants_progress(&lanes)));
        Self { lanes: RwLock::new(lanes), writing: AsyncMutex::default(), changed: Notify::new(), progress_wanted }
    }

    pub(crate) fn progress_wanted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.progress_wanted)
    }

    /// To be held over a write of an endpoint and [`Self::put`] or [`Self::remove`].
    pub(crate) async fn write(&self) -> AsyncMutexGuard<'_, ()> {
        self.writing.lock().await
    }

    pub(crate) fn all(&self) -> Arc<[Arc<Lane>]> {
        Arc::clone(&read(&self.lanes))
    }

    pub(crate) fn find(&self, id: &EndpointId) -> Option<Arc<Lane>> {
        self.all().iter().find(|lane| lane.id() == id).cloned()
    }

    /// Takes over a new endpoint, or a change of one.
    pub(crate) fn put(&self, endpoint: Endpoint) {
        let mut lanes = write(&self.lanes);
        match lanes.iter().find(|lane| lane.id() == endpoint.id()) {
            Some(lane) => lane.change(endpoint),
            None => *lanes = lanes.iter().cloned().chain([Arc::new(Lane::new(endpoint))]).collect(),
        }
        self.progress_wanted.store(wants_progress(&lanes), Ordering::Relaxed);
        drop(lanes);
        self.changed.notify_one();
    }

    pub(crate) fn remove(&self, id: &EndpointId) {
        let mut lanes = write(&self.lanes);
        *lanes = lanes.iter().filter(|lane| lane.id() != id).cloned().collect();
        self.progress_wanted.store(wants_progress(&lanes), Ordering::Relaxed);
    }

    /// Tries an endpoint at once whose breaker is open, instead of when its pause is over.
    pub(crate) fn probe(&self, id: &EndpointId, now: Timestamp) {
        if let Some(lane) = self.find(id) {
            lane.probe(now);
            self.changed.notify_one();
        }
    }

    /// Waits until an endpoint was put, or is to be tried.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many endpoints are in which state, with those that are spared apart.
    pub(crate) fn count_states(&self) -> [(&'static str, i64); 4] {
        let all = self.all();
        let count = |wanted: &str| {
            let lanes = all.iter().filter(|lane| state_of(lane) == wanted);
            i64::try_from(lanes.count()).unwrap_or(i64::MAX)
        };
        ["enabled", "open", "paused", "disabled"].map(|state| (state, count(state)))
    }
}

fn wants_progress(lanes: &[Arc<Lane>]) -> bool {
    lanes.iter().any(|lane| {
        let endpoint = lane.endpoint();
        endpoint.stored().state.is_enabled() && endpoint.terms().filter.wants(EventKind::Progress)
    })
}

fn state_of(lane: &Lane) -> &'static str {
    match lane.endpoint().stored().state {
        EndpointState::Enabled if lane.is_spared() => "open",
        state => state.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing::{TestClock, endpoint, endpoint_with, wall_clock};
    use domain::endpoint::{Endpoint as Stored, EndpointTerms};
    use domain::event::EventFilter;

    fn lane(change: impl FnOnce(&mut EndpointTerms)) -> Arc<Lane> {
        let mut made = endpoint("app", "http://localhost/");
        change(&mut made.stored.terms);
        Arc::new(Lane::new(made))
    }

    fn room(lane: &Lane) -> Room {
        lane.room(&Settings::default(), wall_clock(), Instant::now())
    }

    fn bad(lane: &Lane, count: u32) {
        for _ in 0..count {
            lane.note(
                HealthSign::Bad { exhausted: false },
                &HealthRules::default(),
                &TestClock::default().clock(),
                0.5,
            );
        }
    }

    fn stored(lane: &Lane, state: EndpointState, version: u64) -> Endpoint {
        let endpoint = lane.endpoint();
        let changed = Stored { state, version, ..endpoint.stored().clone() };
        endpoint.with(changed).unwrap()
    }

    #[test]
    fn a_lane_takes_as_many_as_it_has_slots() {
        let lane = lane(|terms| terms.max_in_flight = Some(3));
        let held = [lane.take(), lane.take()];
        assert_eq!(room(&lane), Room::For(1));
        let third = lane.take();
        assert_eq!(room(&lane), Room::None);
        drop((held, third));
        assert_eq!(room(&lane), Room::For(3));
        lane.tighten();
        assert_eq!(room(&lane), Room::For(1), "webhooks R5");
        lane.note(HealthSign::Good, &HealthRules::default(), &TestClock::default().clock(), 0.5);
        assert_eq!(room(&lane), Room::For(3));
    }

    #[test]
    fn an_open_breaker_lets_one_probe_out_after_its_pause() {
        let lane = lane(|_| {});
        bad(&lane, 10);
        assert!(matches!(room(&lane), Room::In(wait) if wait > Duration::from_secs(25)));
        let later = wall_clock().plus(Duration::from_mins(2));
        let probing = |lane: &Lane| lane.room(&Settings::default(), later, Instant::now());
        assert_eq!(probing(&lane), Room::For(1));
        let probe = lane.take();
        assert_eq!(probing(&lane), Room::None, "one at a time");
        drop(probe);
        lane.note(HealthSign::Good, &HealthRules::default(), &TestClock::default().clock(), 0.5);
        assert_eq!(probing(&lane), Room::For(16));
    }

    #[test]
    fn an_open_breaker_can_be_tried_at_once() {
        let lanes = Lanes::new([endpoint("app", "http://localhost/")]);
        let lane = lanes.find(&EndpointId::new("app").unwrap()).unwrap();
        lanes.probe(lane.id(), wall_clock());
        assert_eq!(room(&lane), Room::For(16), "one that is closed stays so");
        bad(&lane, 10);
        assert!(matches!(room(&lane), Room::In(_)));
        lanes.probe(lane.id(), wall_clock());
        assert_eq!(room(&lane), Room::For(1));
        let probe = lane.take();
        bad(&lane, 1);
        drop(probe);
        assert!(matches!(room(&lane), Room::In(_)), "it has failed again");
    }

    #[test]
    fn a_rate_leaves_no_room_until_there_is_a_token() {
        let lane = lane(|terms| terms.max_per_second = Some(5));
        assert_eq!(room(&lane), Room::For(1));
        let _slot = lane.take();
        assert!(matches!(room(&lane), Room::In(wait) if wait <= Duration::from_millis(200)));
    }

    #[test]
    fn who_comes_back_begins_anew() {
        let lanes = Lanes::new([endpoint("app", "http://localhost/")]);
        let lane = lanes.find(&EndpointId::new("app").unwrap()).unwrap();
        bad(&lane, 10);
        let since = wall_clock();
        lanes.put(stored(&lane, EndpointState::Paused { since }, 7));
        assert_eq!(room(&lane), Room::None);
        lanes.put(stored(&lane, EndpointState::Enabled, 6));
        assert_eq!(room(&lane), Room::None, "an older change came late");
        assert_eq!(lanes.count_states().map(|(_, count)| count), [0, 0, 1, 0]);
        lanes.put(stored(&lane, EndpointState::Enabled, 8));
        assert_eq!(room(&lane), Room::For(16));
        lanes.remove(lane.id());
        assert_eq!(lanes.all().len(), 0);
    }

    /// webhooks C1.
    #[test]
    fn progress_is_wanted_while_somebody_who_wants_it_is_sent_to() {
        let lanes = Lanes::new([endpoint("app", "http://localhost/")]);
        let wanted = lanes.progress_wanted();
        assert!(!wanted.load(Ordering::Relaxed));
        let other = endpoint_with("page", "http://localhost/", |terms| {
            terms.filter = EventFilter::new(vec!["upload.progress".to_owned()]).unwrap();
        });
        lanes.put(other);
        assert!(wanted.load(Ordering::Relaxed));
        let lane = lanes.find(&EndpointId::new("page").unwrap()).unwrap();
        lanes.put(stored(&lane, EndpointState::Paused { since: wall_clock() }, 2));
        assert!(!wanted.load(Ordering::Relaxed));
        lanes.put(stored(&lane, EndpointState::Enabled, 3));
        assert!(wanted.load(Ordering::Relaxed));
        lanes.remove(lane.id());
        assert!(!wanted.load(Ordering::Relaxed));
    }

    #[test]
    fn health_is_written_when_it_has_changed() {
        let lane = lane(|_| {});
        assert_eq!(lane.unwritten_health(), None);
        lane.note(HealthSign::Good, &HealthRules::default(), &TestClock::default().clock(), 0.5);
        assert_eq!(lane.unwritten_health(), None, "a healthy endpoint costs no write");
        bad(&lane, 1);
        let health = lane.unwritten_health().unwrap();
        lane.has_written(health);
        assert_eq!(lane.unwritten_health(), None);
    }
}
