//! Rules for the life of deliveries: their order, their claims and their ends.
//!
//! A lane consists of all deliveries to one endpoint about one upload. First attempts in a lane are made in
//! the order of the events, one at a time (webhooks G6): a later delivery waits until the first attempt of
//! every earlier one is over. A delivery that backs off after its first attempt blocks nothing. An endpoint
//! can require a stricter order or none (webhooks G7). Progress deliveries that a later event has overtaken
//! are dropped (webhooks C3, C4). A caller that ends or adds a delivery then checks whether the lane [may
//! release its next one](may_release_next), so that no delivery waits for one that never comes. The state of
//! the endpoint does not affect the order in a lane.
//!
//! Every rule takes a small view of a lane and returns the consequence. A store loads the view, calls the
//! rule, and writes the difference. Claims are one statement in a database; [`is_due`] and [`ClaimOrder`]
//! define the rows that the statement must find.

use std::time::Duration;

use crate::delivery::{DeliveryClass, DeliveryState, Disposition, ReplayOutcome, ReplaySelection};
use crate::endpoint::Ordering;
use crate::health::BreakerState;
use crate::time::Timestamp;

/// The degree to which a set of deliveries of a lane blocks others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneLoad {
    /// The set is empty.
    #[default]
    Empty,
    /// All deliveries have had their first attempt.
    Retries,
    /// At least one delivery has not had its first attempt.
    FirstAttempts,
}

impl LaneLoad {
    /// Returns the load of one delivery with this number of counted attempts.
    pub const fn of(attempts: u32) -> Self {
        if attempts == 0 { Self::FirstAttempts } else { Self::Retries }
    }
}

/// Returns the initial state of a delivery that is added to the end of a lane with these unfinished
/// deliveries: ready, or waiting. Events that are not about an upload belong to no lane; callers pass an
/// empty one.
pub fn join(ordering: Ordering, unfinished: LaneLoad) -> DeliveryState {
    let waits = match ordering {
        Ordering::None => false,
        Ordering::PerUpload => unfinished == LaneLoad::FirstAttempts,
        Ordering::Strict => unfinished > LaneLoad::Empty,
    };
    if waits { DeliveryState::Waiting } else { DeliveryState::Ready }
}

/// Reports whether the first waiting delivery of a lane becomes ready, given the load of the ready and leased
/// ones.
///
/// After an endpoint's ordering was switched off, deliveries that were already waiting are still released one
/// at a time.
pub fn may_release_next(ordering: Ordering, under_way: LaneLoad) -> bool {
    match ordering {
        Ordering::PerUpload | Ordering::None => under_way < LaneLoad::FirstAttempts,
        Ordering::Strict => under_way == LaneLoad::Empty,
    }
}

/// Returns the due time of a delivery that becomes ready. It keeps its age, so that it does not queue behind
/// the whole backlog again.
pub fn due_when_released(next_at: Timestamp, now: Timestamp) -> Timestamp {
    next_at.min(now)
}

/// Returns the state of a delivery that is sent again, before its lane releases the next one. The delivery is
/// ordered by its sequence.
pub fn rejoin(ordering: Ordering, is_in_lane: bool, attempts: u32) -> DeliveryState {
    let waits = match ordering {
        Ordering::None => false,
        Ordering::PerUpload => attempts == 0,
        Ordering::Strict => true,
    };
    if is_in_lane && waits { DeliveryState::Waiting } else { DeliveryState::Ready }
}

/// A delivery whose claim a settlement still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimedDelivery {
    pub class: DeliveryClass,
    /// The number of counted attempts before this one.
    pub attempts: u32,
    /// True if the upload has had a later event.
    pub is_overtaken: bool,
}

/// The new state of a delivery after an attempt or at its expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledDelivery {
    pub state: DeliveryState,
    pub attempts: u32,
    /// The time at which the delivery is due again, if it is.
    pub next_at: Option<Timestamp>,
    /// True if the operator is notified that the delivery failed for good (webhooks R14).
    pub is_exhausted: bool,
}

/// Settles a delivery after an attempt. A progress delivery that failed never becomes a dead letter (webhooks
/// C5), and is not sent again once there is a later event (webhooks C4). An aborted attempt does not count.
pub fn settle(held: ClaimedDelivery, disposition: Disposition, counts: bool) -> SettledDelivery {
    let (state, next_at) = match (disposition, held.class) {
        (Disposition::Succeeded, _) => (DeliveryState::Succeeded, None),
        (Disposition::Cancelled, _) => (DeliveryState::Cancelled, None),
        (Disposition::Dead, DeliveryClass::Progress) => (DeliveryState::Superseded, None),
        (Disposition::RetryAt(_), DeliveryClass::Progress) if held.is_overtaken => (DeliveryState::Superseded, None),
        (Disposition::Dead, DeliveryClass::Normal | DeliveryClass::Test | DeliveryClass::Notice) => {
            (DeliveryState::Dead, None)
        }
        (Disposition::RetryAt(at), _) => (DeliveryState::Ready, Some(at)),
    };
    let is_exhausted = state == DeliveryState::Dead && held.class == DeliveryClass::Normal;
    SettledDelivery { state, attempts: held.attempts + u32::from(counts), next_at, is_exhausted }
}

/// Expires a delivery that has waited too long. A progress delivery is then obsolete and never becomes a dead
/// letter (webhooks C5).
pub fn expire(class: DeliveryClass, attempts: u32) -> SettledDelivery {
    let state = match class {
        DeliveryClass::Progress => DeliveryState::Superseded,
        DeliveryClass::Normal | DeliveryClass::Test | DeliveryClass::Notice => DeliveryState::Dead,
    };
    SettledDelivery { state, attempts, next_at: None, is_exhausted: class == DeliveryClass::Normal }
}

/// Reports whether a later event of the upload drops a delivery (webhooks C3, C4). A delivery that is being
/// sent is not dropped.
pub fn is_superseded(class: DeliveryClass, state: DeliveryState) -> bool {
    class == DeliveryClass::Progress && is_pending(state)
}

/// Reports whether a delivery is unfinished and not being sent.
pub fn is_pending(state: DeliveryState) -> bool {
    match state {
        DeliveryState::Waiting | DeliveryState::Ready | DeliveryState::Paused => true,
        DeliveryState::Leased => false,
        DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded | DeliveryState::Cancelled => false,
    }
}

/// Returns the state of a delivery whose sender has died: ready again. A test is cancelled, because its
/// caller no longer waits for the result.
pub fn reclaim(class: DeliveryClass) -> DeliveryState {
    match class {
        DeliveryClass::Test => DeliveryState::Cancelled,
        DeliveryClass::Normal | DeliveryClass::Progress | DeliveryClass::Notice => DeliveryState::Ready,
    }
}

/// Reports whether a delivery can be claimed: it is due, or its claim has lapsed.
pub fn is_due(state: DeliveryState, next_at: Timestamp, lease_until: Option<Timestamp>, now: Timestamp) -> bool {
    match state {
        DeliveryState::Ready => next_at <= now,
        DeliveryState::Leased => lease_until.is_none_or(|until| until <= now),
        DeliveryState::Waiting | DeliveryState::Paused => false,
        DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded | DeliveryState::Cancelled => false,
    }
}

/// The order in which the due deliveries of an endpoint are claimed: by the time they became due, then by
/// sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimOrder {
    pub next_at: Timestamp,
    pub sequence: u64,
}

/// Limits on the deliveries that a node claims for one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimLimits {
    /// The number of deliveries to claim at most.
    pub slots: u32,
    /// The number of deliveries that the node is sending to the endpoint already.
    pub in_flight: u32,
    /// The number of deliveries that all nodes may send to the endpoint at once.
    pub max_in_flight: u32,
    /// The longest time for which the breaker stays open.
    pub longest_pause: Duration,
}

impl ClaimLimits {
    /// Returns the number of deliveries that the node may claim, given the number that other nodes have
    /// leased and the end of the pause of the breaker. Of all nodes, one sends the probe of a breaker.
    pub fn claimable(&self, leased_elsewhere: u32, open_until: Option<Timestamp>, now: Timestamp) -> u32 {
        let sending = self.in_flight.saturating_add(leased_elsewhere);
        match BreakerState::of(open_until, self.longest_pause, now) {
            BreakerState::Open { .. } => 0,
            BreakerState::HalfOpen => self.slots.min(u32::from(sending == 0)),
            BreakerState::Closed => self.slots.min(self.max_in_flight.saturating_sub(sending)),
        }
    }
}

/// The state of an endpoint as far as it affects its deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointAvailability {
    /// False for an endpoint that was removed from the configuration.
    pub is_present: bool,
    pub is_enabled: bool,
    /// True while the backlog of the endpoint is being cancelled.
    pub is_cancelling: bool,
    /// The time of the last resumption; the beginning of time if the endpoint was never stopped.
    pub resumed_at: Timestamp,
}

impl EndpointAvailability {
    /// Reports whether deliveries of the endpoint may be claimed.
    pub const fn takes_claims(&self) -> bool {
        self.is_present && self.is_enabled && !self.is_cancelling
    }

    /// Returns the time from which the age of a delivery counts. Deliveries kept while the endpoint was
    /// stopped get their full time again after it is resumed (webhooks E6).
    pub fn begun_at(&self, begun_at: Timestamp) -> Timestamp {
        begun_at.max(self.resumed_at)
    }

    /// Reports whether deliveries that began before `begun_before`, and have waited since, expire.
    pub fn expires_deliveries(&self, begun_before: Timestamp) -> bool {
        self.takes_claims() && self.resumed_at < begun_before
    }

    /// Reports whether the endpoint stopped long enough ago for the age of its backlog to count.
    pub fn is_stopped_since(&self, begun_before: Timestamp) -> bool {
        !(self.is_present && self.is_enabled) && self.resumed_at < begun_before
    }

    /// Reports whether a delivery rejoins its lane when it is sent again; otherwise the error is the outcome
    /// of the request. `force` also sends deliveries that succeeded. A delivery that is being cancelled
    /// counts as cancelled.
    pub fn check_replay(
        &self,
        state: DeliveryState,
        force: bool,
        is_being_cancelled: bool,
    ) -> Result<(), ReplayOutcome> {
        if !self.is_present {
            return Err(ReplayOutcome::NoEndpoint);
        }
        match state {
            DeliveryState::Leased => Err(ReplayOutcome::UnderWay),
            DeliveryState::Succeeded if !force => Err(ReplayOutcome::HasSucceeded),
            // These are sent without a replay: after earlier ones of the lane, or once their endpoint is
            // resumed.
            DeliveryState::Waiting | DeliveryState::Paused if !is_being_cancelled => Err(ReplayOutcome::Queued),
            DeliveryState::Ready if !is_being_cancelled && !self.is_enabled => Err(ReplayOutcome::Queued),
            DeliveryState::Waiting | DeliveryState::Paused | DeliveryState::Ready => Ok(()),
            DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded | DeliveryState::Cancelled => {
                Ok(())
            }
        }
    }
}

/// The action of a replay for one event of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayAction {
    /// The existing delivery rejoins its lane.
    Rejoin,
    /// The event has no delivery; one is added if the endpoint subscribes to the event.
    Join,
    Nothing,
}

/// Returns the action of a replay for an event whose delivery is in this state; `None` means that there is no
/// delivery. A replay never touches unfinished deliveries.
pub fn replay(found: Option<DeliveryState>, what: ReplaySelection) -> ReplayAction {
    let (dead, missed, succeeded) = match what {
        ReplaySelection::Pending => (false, false, false),
        ReplaySelection::Dead => (true, false, false),
        ReplaySelection::Missed => (true, true, false),
        ReplaySelection::Everything => (true, true, true),
    };
    let (rejoins, joins) = match found {
        Some(DeliveryState::Dead) => (dead, false),
        Some(DeliveryState::Cancelled) => (missed, false),
        Some(DeliveryState::Succeeded) => (succeeded, false),
        Some(DeliveryState::Waiting | DeliveryState::Ready | DeliveryState::Leased) => (false, false),
        Some(DeliveryState::Paused | DeliveryState::Superseded) => (false, false),
        None => (false, missed),
    };
    match (rejoins, joins) {
        (true, _) => ReplayAction::Rejoin,
        (false, true) => ReplayAction::Join,
        (false, false) => ReplayAction::Nothing,
    }
}

/// Reports whether the wait of a delivery was planned by a clock that was ahead and has been set back. A
/// first attempt waits for nothing else. A retry was planned by such a clock if the delivery or its latest
/// attempt began after `now`.
pub fn was_planned_by_fast_clock(
    attempts: u32,
    begun_at: Timestamp,
    latest_attempt: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    attempts == 0 || begun_at > now || latest_attempt.is_some_and(|started_at| started_at > now)
}

#[cfg(test)]
mod tests;
