//! The number of requests with parts that are under way at once: fewer while the store is overloaded
//! (scale-out O7).

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::lock::lock;

/// Successes after which one more request is allowed.
const SUCCESSES_FOR_MORE: u32 = 32;

/// The shortest time between two reductions. The failures of one moment are one sign.
const REDUCE_EVERY: Duration = Duration::from_secs(1);

/// A limit that is halved by failures and grows again with successes. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    permits: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    most: usize,
    limit: usize,
    /// Permits in use that are not given out again, because the limit was reduced.
    owed: usize,
    successes: u32,
    reduced_at: Option<Instant>,
}

/// The right to make one request.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    of: InFlight,
}

impl InFlight {
    pub(crate) fn new(most: usize) -> Self {
        let state = State { most, limit: most, owed: 0, successes: 0, reduced_at: None };
        Self { permits: Arc::new(Semaphore::new(most)), state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) async fn permit(&self) -> Permit {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        Permit { permit, of: self.clone() }
    }

    pub(crate) fn note_success(&self) {
        let mut state = self.state();
        state.successes += 1;
        if state.successes < SUCCESSES_FOR_MORE || state.limit >= state.most {
            return;
        }
        state.successes = 0;
        state.limit += 1;
        match state.owed {
            0 => self.permits.add_permits(1),
            _ => state.owed -= 1,
        }
    }

    pub(crate) fn note_overload(&self) {
        let mut state = self.state();
        state.successes = 0;
        if state.reduced_at.is_some_and(|at| at.elapsed() < REDUCE_EVERY) {
            return;
        }
        state.reduced_at = Some(Instant::now());
        let less = state.limit / 2;
        state.limit -= less;
        let taken = self.permits.forget_permits(less);
        state.owed += less - taken;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.of.state();
        if state.owed > 0
            && let Some(permit) = self.permit.take()
        {
            state.owed -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(of: &InFlight) -> usize {
        of.permits.available_permits()
    }

    #[tokio::test(start_paused = true)]
    async fn overload_halves_the_limit_and_successes_restore_it() {
        let limit = InFlight::new(8);
        let held = [
            limit.permit().await,
            limit.permit().await,
            limit.permit().await,
            limit.permit().await,
            limit.permit().await,
        ];
        limit.note_overload();
        limit.note_overload();
        assert_eq!((limit.state().limit, free(&limit)), (4, 0), "the second is a sign of the same moment");
        drop(held);
        assert_eq!(free(&limit), 4, "one that was in use too many is not given out again");
        for expected in [2, 1, 1] {
            tokio::time::advance(REDUCE_EVERY).await;
            limit.note_overload();
            assert_eq!(free(&limit), expected);
        }
        for _ in 0..7 * SUCCESSES_FOR_MORE {
            limit.note_success();
        }
        assert_eq!(free(&limit), 8);
        for _ in 0..2 * SUCCESSES_FOR_MORE {
            limit.note_success();
        }
        assert_eq!(free(&limit), 8, "never more than allowed");
    }
}
