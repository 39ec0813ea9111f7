//! The report of a matrix.

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use crate::faults::{Call, Fault, Tally};
use crate::model::Broken;
use crate::script::Script;
use crate::world::Outcome;

/// Counts of many runs.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub runs: u64,
    pub calls: u64,
    pub happened: Tally,
}

impl Report {
    pub fn count(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.calls += outcome.calls.values().sum::<u64>();
        for (fault, count) in &outcome.happened {
            *self.happened.entry(*fault).or_insert(0) += count;
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.calls += other.calls;
        for (fault, count) in &other.happened {
            *self.happened.entry(*fault).or_insert(0) += count;
        }
    }

    /// Returns the faults that have never happened to a call.
    pub fn never(&self) -> Vec<(Call, Fault)> {
        let all = Call::ALL.into_iter().flat_map(|call| Fault::ALL.map(|fault| (call, fault)));
        all.filter(|(call, fault)| call.can(*fault) && !self.happened.contains_key(&(*call, *fault))).collect()
    }

    pub fn line(&self, took: Duration) -> String {
        let faults: u64 = self.happened.values().sum();
        let a_second = self.runs as f64 / took.as_secs_f64().max(0.001);
        format!("{} runs ({a_second:.0} per second), {} calls, {faults} faults", self.runs, self.calls)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = ["fails", "fails late", "no space", "done, fails", "unanswered", "hangs", "dies", "done, dies"];
        write!(f, "{:<20}", "")?;
        titles.iter().try_for_each(|title| write!(f, "{title:>12}"))?;
        for call in Call::ALL {
            write!(f, "\n{:<20}", call.name())?;
            for fault in Fault::ALL {
                match self.happened.get(&(call, fault)) {
                    Some(count) => write!(f, "{count:>12}")?,
                    None => write!(f, "{:>12}", if call.can(fault) { "never" } else { "-" })?,
                }
            }
        }
        Ok(())
    }
}

/// Describes a failed run, so that it can be read and repeated.
pub fn failure(what: &str, script: &Script, broken: &[Broken]) -> String {
    let broken: Vec<String> = broken.iter().map(|broken| format!("  {broken}\n")).collect();
    format!("{what} breaks a promise:\n{}with this script (seed {}):\n{script}", broken.concat(), script.seed)
}

/// Prints at once, even if the test runner captures the output of tests.
pub fn say(text: &str) {
    // A failure to print does not matter.
    let _ = writeln!(std::io::stderr(), "matrix: {text}");
}
