//! The limits on clients that wait for events, on a stream or a long poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::HttpRequest;

use crate::EdgeMetrics;
use crate::address_limits::{AddressLimit, AddressSlot, LimitReached};
use crate::clients::client_of;
use crate::problem::Problem;
use crate::refusals::{Reason, Refusals};

/// The `Retry-After` of a shed request.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// All slots for waiting clients.
#[derive(Debug)]
pub struct StreamSlots {
    limit: usize,
    of_address: AddressLimit,
    taken: Arc<AtomicUsize>,
    refusals: Refusals,
}

/// A slot, released when dropped.
#[derive(Debug)]
pub struct StreamSlot {
    taken: Arc<AtomicUsize>,
    _of_address: AddressSlot,
}

impl StreamSlots {
    /// Creates `limit` slots in total, of which each address can take as many as `of_address` allows.
    pub fn new(limit: usize, of_address: AddressLimit, metrics: &EdgeMetrics, refusals: Refusals) -> Self {
        Self { limit, of_address, taken: Arc::clone(metrics.streams()), refusals }
    }

    pub fn take(&self, request: &HttpRequest) -> Result<StreamSlot, Problem> {
        let client = client_of(request);
        let of_address = self.of_address.take(client).map_err(|LimitReached| {
            self.refusals.note(Reason::Streams, client, request.path());
            let most = self.of_address.limit().unwrap_or_default();
            let detail = format!(
                "the limit of {most} event streams and long polls from this client address is reached \
                 (status.max_streams_per_address)"
            );
            Problem::try_again("too-many-streams", detail, TRY_AGAIN)
        })?;
        let slot = StreamSlot { taken: Arc::clone(&self.taken), _of_address: of_address };
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.limit {
            let detail =
                format!("the limit of {} event streams and long polls is reached (status.max_streams)", self.limit);
            return Err(Problem::try_again("too-many-streams", detail, TRY_AGAIN));
        }
        Ok(slot)
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
