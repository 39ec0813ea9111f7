//! Sends requests at a fixed rate and records the delay of each response.
//!
//! The rate does not wait for responses: each request has a scheduled time, and its delay counts from then.
//! Otherwise a stalled server would get fewer requests, and its stall would count once instead of for every
//! request that would have been sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::process;
use crate::stats::Times;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) connections: usize,
    pub(crate) per_second: u32,
}

impl Pace {
    /// Sends requests on connections made by `connect` until `stop` is set. `ask` receives the number of the
    /// request.
    pub(crate) fn ask<C>(
        self,
        stop: &AtomicBool,
        connect: impl Fn(usize) -> C + Sync,
        ask: impl Fn(&mut C, u64) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<Times> {
        let one = |number: usize| {
            process::nice(process::URGENT);
            let mut connection = connect(number);
            let mut times = Times::default();
            let began = Instant::now();
            // The connections are staggered, so that they do not all send at the same instant.
            let shift = self.gap() / u32::try_from(self.connections).unwrap_or(1) * u32::try_from(number).unwrap_or(0);
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) {
                let due = began + shift + self.gap() * asked;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                ask(&mut connection, u64::from(asked) * self.connections as u64 + number as u64)?;
                times.add(due.elapsed());
                asked += 1;
            }
            anyhow::Ok(times)
        };
        thread::scope(|scope| {
            let one = &one;
            let threads: Vec<_> = (0..self.connections).map(|number| scope.spawn(move || one(number))).collect();
            let mut all = Times::default();
            for thread in threads {
                all.extend(thread.join().expect("asking does not panic")?);
            }
            Ok(all)
        })
    }

    /// Does the same for a fixed time.
    pub(crate) fn ask_for<C>(
        self,
        how_long: Duration,
        connect: impl Fn(usize) -> C + Sync,
        ask: impl Fn(&mut C, u64) -> anyhow::Result<()> + Sync,
    ) -> anyhow::Result<Times> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(how_long);
                stop.store(true, Ordering::Relaxed);
            });
            self.ask(&stop, connect, ask)
        })
    }

    fn gap(self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }
}
