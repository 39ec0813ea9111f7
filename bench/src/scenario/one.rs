//! Scenarios 1 and 2: one upload, in one request and in many.

use std::time::Instant;

use anyhow::ensure;

use crate::lab::{Lab, Notebook, mb_per_second, mib};
use crate::process;
use crate::results::{Metric, Values};
use crate::server::{Running, Setup};
use crate::subject::Subject;

const EVERYBODY: [Subject; 6] =
    [Subject::Longshore, Subject::Tusd, Subject::TusNode, Subject::Rustus, Subject::Bare, Subject::Sink];

const SERVERS: [Subject; 5] =
    [Subject::Longshore, Subject::LongshoreRelaxed, Subject::Tusd, Subject::TusNode, Subject::Rustus];

const CHUNKS: [(&str, u64); 2] = [("8 MiB", 8 << 20), ("1 MiB", 1 << 20)];

pub(crate) fn in_one_request(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    lab.take_turns(&EVERYBODY, u32::MAX, book, |subject, round, book| {
        let outcome = lab.start(subject, &Setup::default(), book).and_then(|server| upload(lab, &server, lab.plan.big));
        book.keep(subject, "", round, outcome);
    });
    Ok(())
}

pub(crate) fn in_chunks(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    for (name, chunk) in CHUNKS {
        lab.take_turns(&SERVERS, u32::MAX, book, |subject, round, book| {
            let outcome = lab.start(subject, &Setup::default(), book).and_then(|server| upload(lab, &server, chunk));
            book.keep(subject, name, round, outcome);
        });
    }
    Ok(())
}

/// Uploads `plan.big` bytes in chunks and measures it.
pub(super) fn upload(lab: &Lab, server: &Running, chunk: u64) -> anyhow::Result<Values> {
    let size = lab.plan.big;
    let mut client = server.client();
    let path = client.create(size)?;
    process::forget_peak(server.pid())?;
    let (cpu, database) = (process::cpu_seconds(server.pid())?, server.database_cpu_seconds()?);
    let began = Instant::now();
    let mut offset = 0;
    while offset < size {
        offset = client.append(&path, offset, &lab.payload, chunk.min(size - offset))?;
    }
    let rate = mb_per_second(size, began);
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    let database = database.zip(server.database_cpu_seconds()?).map(|(before, after)| after - before);
    rustix::fs::sync();
    let synced = mb_per_second(size, began);
    if !matches!(server.subject, Subject::Sink | Subject::Bare) {
        let told = client.offset(&path)?;
        ensure!(told == size, "the server says {told} after {size} bytes were accepted");
    }
    let gigabytes = size as f64 / 1e9;
    let mut values = Values::from([
        (Metric::MbPerSecond, rate),
        (Metric::MbPerSecondSynced, synced),
        (Metric::CpuSecondsPerGb, cpu / gigabytes),
        (Metric::PeakMib, mib(process::peak(server.pid())?)),
    ]);
    if let Some(database) = database {
        values.insert(Metric::DatabaseCpuSecondsPerGb, database / gigabytes);
        values.insert(Metric::AllCpuSecondsPerGb, (cpu + database) / gigabytes);
    }
    Ok(values)
}
