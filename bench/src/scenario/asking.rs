//! Asks at a fixed pace and notes how late each answer is.
//!
//! The pace does not wait for answers: a question is due when it is due, and its time counts from then.
//! Otherwise a server that stalls would be asked less, and its stall would count once instead of for
//! everybody who would have asked.

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
    /// Asks on connections made by `connect` until `stop` is set. `ask` is given the number of the question.
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
            // Connections take turns instead of all asking at the same instant.
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

    /// The same for a fixed time.
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
