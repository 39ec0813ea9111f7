//! The clock of the database, as estimated by this node.
//!
//! The node takes the server's time as the midpoint between a request and its response, relates it to the
//! machine's monotonic clock, and repeats the measurement every few seconds. Between measurements the reading
//! advances with the monotonic clock. All nodes on one database therefore have the same time, whatever their
//! own clocks show.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::session::Session;
use crate::transaction::one;
use domain::time::Timestamp;
use state::clock::{Clock, ClockReading};

/// The interval between measurements of the server's time.
pub(crate) const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// A measurement with a longer response time is too inexact and is ignored.
const TOO_LONG: Duration = Duration::from_secs(1);

const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// The server's time according to the latest measurement.
#[derive(Debug, Clone)]
pub(crate) struct ServerTime {
    begun: Instant,
    /// The server's time at `begun`, in microseconds since 1970.
    at_begin_us: Arc<AtomicI64>,
}

impl ServerTime {
    /// Makes the first measurement.
    pub(crate) async fn measured(session: &Session) -> Result<Self, Fault> {
        let time = Self { begun: Instant::now(), at_begin_us: Arc::default() };
        while !time.measure(session).await? {}
        Ok(time)
    }

    /// Measures again. Returns true if the response came soon enough to count.
    pub(crate) async fn measure(&self, session: &Session) -> Result<bool, Fault> {
        let asked = self.begun.elapsed();
        let rows = session.query(NOW, &[]).await?;
        let took = self.begun.elapsed().saturating_sub(asked);
        let now_us: i64 = one(&rows)?.try_get(0)?;
        if took > TOO_LONG {
            return Ok(false);
        }
        let halfway_us = i64::try_from((asked + took / 2).as_micros()).unwrap_or(i64::MAX);
        self.at_begin_us.store(now_us.saturating_sub(halfway_us), Ordering::Relaxed);
        Ok(true)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.reading().time_of_day
    }

    fn reading(&self) -> ClockReading {
        let running = self.begun.elapsed();
        let running_us = i64::try_from(running.as_micros()).unwrap_or(i64::MAX);
        let now_us = self.at_begin_us.load(Ordering::Relaxed).saturating_add(running_us);
        ClockReading { time_of_day: Timestamp::from_unix_ms(now_us.div_euclid(1_000)), running }
    }

    /// Returns how far the clock of this machine is ahead of the server's; negative if it is behind.
    #[expect(clippy::disallowed_methods, reason = "this compares the machine's clock")]
    pub(crate) fn machine_is_ahead_ms(&self) -> i64 {
        let machine = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let machine_ms = i64::try_from(machine.as_millis()).unwrap_or(i64::MAX);
        machine_ms.saturating_sub(self.now().unix_ms())
    }

    /// Returns the clock for users of the store.
    pub(crate) fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::new(move || time.reading())
    }
}
