//! Runs servers alternately and keeps their results.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::kit::Kit;
use crate::machine::Machine;
use crate::payload::Payload;
use crate::plan::Plan;
use crate::results::{Measured, Sample, Values};
use crate::server::{Running, Setup};
use crate::subject::Subject;

/// Everything a scenario needs.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) kit: Kit,
    pub(crate) plan: Plan,
    pub(crate) payload: Payload,
    pub(crate) machine: Machine,
    /// The subjects that the command line selects.
    pub(crate) chosen: Vec<Subject>,
    pub(crate) rounds: u32,
    /// The number of upload records for the runs beside many rows (15, 16); 0 to leave these runs out.
    pub(crate) rows: u64,
    /// The number of files that this process and its servers may have open.
    pub(crate) files_allowed: u64,
}

/// The results of one scenario so far.
#[derive(Debug)]
pub(crate) struct Notebook {
    number: u8,
    rounds: u32,
    commands: BTreeMap<Subject, String>,
    notes: Vec<String>,
    samples: Vec<Sample>,
}

impl Notebook {
    pub(crate) fn new(number: u8) -> Self {
        Self { number, rounds: 0, commands: BTreeMap::new(), notes: Vec::new(), samples: Vec::new() }
    }

    /// Records a remark for the report, once.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            eprintln!("    note: {text}");
            self.notes.push(text);
        }
    }

    pub(crate) fn saw(&mut self, server: &Running) {
        self.commands.entry(server.subject).or_insert_with(|| server.command.clone());
    }

    /// Records a command line that was not started by [`Lab::start`].
    pub(crate) fn started(&mut self, subject: Subject, command: &str) {
        self.commands.entry(subject).or_insert_with(|| command.to_owned());
    }

    /// Adds the results of another process.
    pub(crate) fn absorb(&mut self, measured: Measured) {
        self.rounds = self.rounds.max(measured.rounds);
        self.commands.extend(measured.commands);
        self.notes.extend(measured.notes);
        self.samples.extend(measured.samples);
    }

    pub(crate) fn keep(&mut self, subject: Subject, variant: &str, round: u32, outcome: anyhow::Result<Values>) {
        self.rounds = self.rounds.max(round);
        let (values, failure) = match outcome {
            Ok(values) => (values, None),
            Err(error) => (Values::new(), Some(format!("{error:#}"))),
        };
        let shown: Vec<String> =
            values.iter().map(|(metric, value)| format!("{}: {value:.2}", metric.label())).collect();
        let shown = failure.as_ref().map_or(shown.join("; "), |why| format!("FAILED: {why}"));
        eprintln!("  [{}] round {round}  {:<17} {variant:<12} {shown}", self.number, subject.name());
        self.samples.push(Sample { subject, variant: variant.to_owned(), round, values, failure });
    }

    pub(crate) fn close(self, lab: &Lab) -> Measured {
        let mut versions = lab.kit.versions();
        versions.retain(|subject, _| lab.kit.lacks(*subject).is_none());
        Measured {
            at: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            rounds: self.rounds,
            quick: lab.plan.quick,
            machine: lab.machine.clone(),
            versions,
            commands: self.commands,
            notes: self.notes,
            samples: self.samples,
        }
    }
}

impl Lab {
    /// Returns the subjects of `wanted` that are selected and can be measured here; each of the others leaves
    /// a note.
    pub(crate) fn present(&self, wanted: &[Subject], book: &mut Notebook) -> Vec<Subject> {
        let mut present = Vec::new();
        for &subject in wanted.iter().filter(|subject| self.chosen.contains(subject)) {
            match self.kit.lacks(subject) {
                None => present.push(subject),
                Some(why) => book.note(format!("{} was not measured: {why}.", subject.label())),
            }
        }
        present
    }

    /// Starts the server and records its command line.
    pub(crate) fn start(&self, subject: Subject, setup: &Setup, book: &mut Notebook) -> anyhow::Result<Running> {
        let server = Running::start(&self.kit, subject, setup)?;
        book.saw(&server);
        Ok(server)
    }

    /// Calls `run` for every subject in every round. Each round begins with another subject, so that no
    /// subject always gets the disk in the state that the same predecessor left.
    pub(crate) fn take_turns(
        &self,
        wanted: &[Subject],
        most_rounds: u32,
        book: &mut Notebook,
        mut run: impl FnMut(Subject, u32, &mut Notebook),
    ) {
        let mut wanted = wanted.to_vec();
        if self.kit.has_before() && wanted.contains(&Subject::Longshore) {
            wanted.push(Subject::LongshoreBefore);
        }
        let subjects = self.present(&wanted, book);
        for round in 1..=self.rounds.min(most_rounds) {
            for turn in 0..subjects.len() {
                let subject = subjects[(turn + round as usize - 1) % subjects.len()];
                rustix::fs::sync();
                run(subject, round, book);
            }
        }
    }
}

/// Returns the rate since a moment, in units of 10^6 bytes per second.
pub(crate) fn mb_per_second(bytes: u64, since: Instant) -> f64 {
    bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
