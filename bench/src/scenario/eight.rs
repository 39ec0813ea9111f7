//! Scenario 3: eight uploads at once.

use std::time::Instant;

use crate::lab::{Lab, Notebook, mb_per_second, mib};
use crate::process;
use crate::results::{Metric, Values};
use crate::scenario::load;
use crate::server::{Running, Setup};
use crate::subject::Subject;

pub(crate) const UPLOADS: usize = 8;

const SUBJECTS: [Subject; 5] = [Subject::Longshore, Subject::Tusd, Subject::TusNode, Subject::Rustus, Subject::Bare];

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    lab.take_turns(&SUBJECTS, u32::MAX, book, |subject, round, book| {
        let outcome = lab.start(subject, &Setup::default(), book).and_then(|server| measure(lab, &server));
        book.keep(subject, "", round, outcome);
    });
    Ok(())
}

fn measure(lab: &Lab, server: &Running) -> anyhow::Result<Values> {
    let size = lab.plan.each_of_eight;
    let total = size * UPLOADS as u64;
    process::forget_peak(server.pid())?;
    let cpu = process::cpu_seconds(server.pid())?;
    let began = Instant::now();
    let times = load::at_once(server, &lab.payload, UPLOADS, size, 0)?;
    let rate = mb_per_second(total, began);
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    let slowest = times.iter().max().copied().unwrap_or_default();
    let fastest = times.iter().min().copied().unwrap_or_default();
    Ok(Values::from([
        (Metric::MbPerSecond, rate),
        (Metric::SpreadRatio, slowest.as_secs_f64() / fastest.as_secs_f64()),
        (Metric::CpuSecondsPerGb, cpu / (total as f64 / 1e9)),
        (Metric::PeakMib, mib(process::peak(server.pid())?)),
    ]))
}
