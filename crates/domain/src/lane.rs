//! The life of deliveries: which wait for which, which are sent next, and what becomes of each.
//!
//! A lane is everything that one endpoint is notified of about one upload. In a lane, first attempts go out
//! in the order of the events, one at a time (webhooks G6): a later delivery waits until the first attempt
//! of every earlier one is over. A delivery that backs off after its first attempt blocks nothing. An
//! endpoint can ask for more order than that, or for none (webhooks G7). Progress that later news has
//! overtaken is dropped (webhooks C3, C4). Whoever ends or adds a delivery asks afterwards whether the
//! lane [may go on](may_release_next), so that nothing waits for what never comes. Whether the endpoint is
//! stopped changes nothing in a lane.
//!
//! Every rule takes a small view of a lane and gives what follows. A store loads the view, calls the rule,
//! and writes the difference. Claims are one statement in a database; [`is_due`] and [`ClaimOrder`] say what
//! that statement must find.

use crate::delivery::{DeliveryClass, DeliveryState, Disposition, ReplayOutcome, ReplaySelection};
use crate::endpoint::Ordering;
use crate::time::Timestamp;

/// What some deliveries of a lane, taken together, make others wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LaneLoad {
    /// There are none.
    #[default]
    Empty,
    /// All of them have had their first attempt.
    Retries,
    /// At least one has not had its first attempt.
    FirstAttempts,
}

impl LaneLoad {
    /// Returns the load of one delivery with so many counted attempts.
    pub const fn of(attempts: u32) -> Self {
        if attempts == 0 { Self::FirstAttempts } else { Self::Retries }
    }
}

/// Returns the state of a delivery that is added to the end of a lane with these unfinished deliveries:
/// ready, or waiting for its turn. News that is not of an upload is in no lane, and so in an empty one.
pub fn join(ordering: Ordering, unfinished: LaneLoad) -> DeliveryState {
    let waits = match ordering {
        Ordering::None => false,
        Ordering::PerUpload => unfinished == LaneLoad::FirstAttempts,
        Ordering::Strict => unfinished > LaneLoad::Empty,
    };
    if waits { DeliveryState::Waiting } else { DeliveryState::Ready }
}

/// Returns whether the first waiting delivery of a lane becomes ready, given those that are ready or leased.
///
/// An endpoint that has given up its order still has waiting deliveries until all of them are released. They
/// go in turn.
pub fn may_release_next(ordering: Ordering, under_way: LaneLoad) -> bool {
    match ordering {
        Ordering::PerUpload | Ordering::None => under_way < LaneLoad::FirstAttempts,
        Ordering::Strict => under_way == LaneLoad::Empty,
    }
}

/// Returns when a delivery that becomes ready is due: with its own age, so that it does not pass through the
/// whole backlog once more.
pub fn due_when_released(next_at: Timestamp, now: Timestamp) -> Timestamp {
    next_at.min(now)
}

/// Returns the state of a delivery that is sent again, before its lane goes
/// on. It takes its place by its sequence.
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
    /// Counted before this attempt.
    pub attempts: u32,
    /// Whether the upload has had a later event.
    pub is_overtaken: bool,
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledDelivery {
    pub state: DeliveryState,
    pub attempts: u32,
    /// When it is due again, if it is.
    pub next_at: Option<Timestamp>,
    /// Whether the operator is notified that it was given up (webhooks R14).
    pub is_exhausted: bool,
}

/// Settles a delivery. Progress that failed is never a dead letter (webhooks C5), and is not sent again
/// once there is later news (webhooks C4). An aborted attempt does not count.
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

/// Gives up a delivery that has waited too long. Old progress is of no use to anybody,
/// and never a dead letter (webhooks C5).
pub fn expire(class: DeliveryClass, attempts: u32) -> SettledDelivery {
    let state = match class {
        DeliveryClass::Progress => DeliveryState::Superseded,
        DeliveryClass::Normal | DeliveryClass::Test | DeliveryClass::Notice => DeliveryState::Dead,
    };
    SettledDelivery { state, attempts, next_at: None, is_exhausted: class == DeliveryClass::Normal }
}

/// Returns whether later news of its upload drops a delivery (webhooks C3,
/// C4). What is being sent is left to end.
pub fn is_superseded(class: DeliveryClass, state: DeliveryState) -> bool {
    class == DeliveryClass::Progress && is_pending(state)
}

/// Returns whether a delivery is unfinished and nobody is sending it.
pub fn is_pending(state: DeliveryState) -> bool {
    match state {
        DeliveryState::Waiting | DeliveryState::Ready | DeliveryState::Paused => true,
        DeliveryState::Leased => false,
        DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded | DeliveryState::Cancelled => false,
    }
}

/// Takes back a delivery whose sender has died: it is ready as it was. Nobody
/// waits for the result of a test any more.
pub fn reclaim(class: DeliveryClass) -> DeliveryState {
    match class {
        DeliveryClass::Test => DeliveryState::Cancelled,
        DeliveryClass::Normal | DeliveryClass::Progress | DeliveryClass::Notice => DeliveryState::Ready,
    }
}

/// Returns whether a delivery can be claimed: it is due, or whoever has claimed it has let the claim run out.
pub fn is_due(state: DeliveryState, next_at: Timestamp, lease_until: Option<Timestamp>, now: Timestamp) -> bool {
    match state {
        DeliveryState::Ready => next_at <= now,
        DeliveryState::Leased => lease_until.is_none_or(|until| until <= now),
        DeliveryState::Waiting | DeliveryState::Paused => false,
        DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded | DeliveryState::Cancelled => false,
    }
}

/// The order in which the due deliveries of an endpoint are claimed: by how
/// long they have been due, then by sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimOrder {
    pub next_at: Timestamp,
    pub sequence: u64,
}

/// What was decided about an endpoint, as far as it concerns its deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointAvailability {
    /// Not one that the configuration has ceased to name.
    pub is_present: bool,
    pub is_enabled: bool,
    /// Its backlog is being cancelled.
    pub is_cancelling: bool,
    /// Since when it has been sent to; the beginning of time, if it was never stopped.
    pub resumed_at: Timestamp,
}

impl EndpointAvailability {
    /// Returns whether anything may be claimed for it.
    pub const fn takes_claims(&self) -> bool {
        self.is_present && self.is_enabled && !self.is_cancelling
    }

    /// Returns since when a delivery is under way: what an endpoint has kept while it was stopped has all its
    /// time from when it was resumed (webhooks E6).
    pub fn begun_at(&self, begun_at: Timestamp) -> Timestamp {
        begun_at.max(self.resumed_at)
    }

    /// Returns whether what began before then, and has waited ever since, is given up.
    pub fn expires_deliveries(&self, begun_before: Timestamp) -> bool {
        self.takes_claims() && self.resumed_at < begun_before
    }

    /// Returns whether it has been at rest for so long that the age of its backlog counts.
    pub fn is_stopped_since(&self, begun_before: Timestamp) -> bool {
        !(self.is_present && self.is_enabled) && self.resumed_at < begun_before
    }

    /// Returns whether a delivery joins its lane again when somebody asks for it to be sent again; else the
    /// answer. `force` sends again what has succeeded. A delivery that is being cancelled is as good as
    /// cancelled.
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
            // It is sent anyway, in its order or with its endpoint.
            DeliveryState::Waiting | DeliveryState::Paused if !is_being_cancelled => Err(ReplayOutcome::Queued),
            DeliveryState::Ready if !is_being_cancelled && !self.is_enabled => Err(ReplayOutcome::Queued),
            DeliveryState::Waiting | DeliveryState::Paused | DeliveryState::Ready => Ok(()),
            DeliveryState::Succeeded | DeliveryState::Dead | DeliveryState::Superseded | DeliveryState::Cancelled => {
                Ok(())
            }
        }
    }
}

/// What a replay of a range of events does about one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayAction {
    /// Its delivery joins its lane again.
    Rejoin,
    /// There is no delivery of it; one is added if the endpoint wants the event.
    Join,
    Nothing,
}

/// Returns what a replay does about an event whose delivery is in this state; `None` if there is no
/// delivery. What is unfinished is never touched.
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

/// Returns whether a wait was planned by a clock that was ahead, when the clock was set: what began after now
/// began now. A first attempt waits for nothing else; a retry waits since its latest attempt.
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
