//! Scenario 5: ten thousand uploads that send 1 KiB per second each, driven by one thread.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::lab::{Lab, Notebook, mib};
use crate::process;
use crate::results::{Metric, Values};
use crate::server::{Running, Setup};
use crate::subject::Subject;
use crate::wire::Wire;

const SUBJECTS: [Subject; 4] = [Subject::Longshore, Subject::Tusd, Subject::TusNode, Subject::Rustus];

/// The bytes that each connection sends every second.
const DRIP: usize = 1 << 10;

/// The declared length of each upload; more than it will send.
const ANNOUNCED: u64 = 1 << 20;

/// Each round takes more than a minute per server, and the numbers hardly differ between rounds.
const MOST_ROUNDS: u32 = 1;

/// Open files besides those of the uploads: those of the threads, the database, and of direct writes.
const OTHER_FILES: u64 = 2_000;

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    // A server needs a socket and an open file for each upload.
    let possible = usize::try_from(lab.files_allowed.saturating_sub(OTHER_FILES) / 2)?;
    let uploads = lab.plan.trickling.min(possible);
    if uploads < lab.plan.trickling {
        book.note(format!(
            "With {uploads} uploads instead of {}: this machine allows a process {} open files, and a server needs two \
         for each upload.",
            lab.plan.trickling, lab.files_allowed
        ));
    }
    book.note("Measured once: it takes more than a minute for each server, and its numbers hardly vary.");
    let setup = Setup { uploads_at_once: Some(uploads), ..Setup::default() };
    lab.take_turns(&SUBJECTS, MOST_ROUNDS, book, |subject, round, book| {
        let outcome = lab.start(subject, &setup, book).and_then(|server| measure(lab, &server, uploads));
        book.keep(subject, "", round, outcome);
    });
    Ok(())
}

fn measure(lab: &Lab, server: &Running, uploads: usize) -> anyhow::Result<Values> {
    process::forget_peak(server.pid())?;
    // All uploads are created before any of them begins: a connection that waits long for its first byte
    // might be cut as idle.
    let mut creator = server.client();
    let paths = (0..uploads).map(|_| creator.create(ANNOUNCED)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut drips = Vec::with_capacity(uploads);
    for path in &paths {
        let mut client = server.client();
        client.begin(path, 0, ANNOUNCED)?;
        let wire = client.detach().expect("it has begun a request");
        wire.socket().set_nonblocking(true)?;
        drips.push(Drip { wire, alive: true });
    }
    let cpu = process::cpu_seconds(server.pid())?;
    let began = Instant::now();
    let drip = lab.payload.head(DRIP);
    for second in 0..u32::try_from(lab.plan.trickle.as_secs())? {
        let due = began + Duration::from_secs(1) * second;
        let_drip(&mut drips, drip, due);
    }
    thread::sleep((began + lab.plan.trickle).saturating_duration_since(Instant::now()));
    let resident = process::resident(server.pid())?;
    let peak = process::peak(server.pid())?;
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    drips.iter_mut().for_each(Drip::look);
    let alive = drips.iter().filter(|drip| drip.alive).count();
    ensure!(alive > 0, "no connection was left");
    let above_idle = resident.saturating_sub(server.idle) as f64 / 1024.0;
    Ok(Values::from([
        (Metric::Alive, alive as f64),
        (Metric::Connections, drips.len() as f64),
        (Metric::KibPerUpload, above_idle / uploads as f64),
        (Metric::IdleMib, mib(server.idle)),
        (Metric::PeakMib, mib(peak)),
        (Metric::CpuPercent, cpu * 100.0 / lab.plan.trickle.as_secs_f64()),
    ]))
}

/// Sends one drop on every connection, spread evenly over the second that begins at `due`.
fn let_drip(drips: &mut [Drip], drop: &[u8], due: Instant) {
    const STEPS: u32 = 50;
    let group = drips.len().div_ceil(STEPS as usize);
    for (step, group) in drips.chunks_mut(group).enumerate() {
        let at = due + Duration::from_millis(1000 / u64::from(STEPS) * step as u64);
        thread::sleep(at.saturating_duration_since(Instant::now()));
        for drip in group {
            drip.send(drop);
            drip.look();
        }
    }
}

struct Drip {
    wire: Wire,
    alive: bool,
}

impl Drip {
    fn send(&mut self, bytes: &[u8]) {
        if !self.alive {
            return;
        }
        match self.wire.socket().write(bytes) {
            // A server that accepts nothing for now is slow, not gone; the rest of the drop does not count.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.alive = false,
        }
    }

    /// Checks for an early end: anything to read is a response or the end of the connection, and both are too
    /// early.
    fn look(&mut self) {
        let mut byte = [0];
        let silent = matches!(self.wire.socket().read(&mut byte), Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.alive &= silent;
    }
}
