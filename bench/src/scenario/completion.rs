//! Scenario 10: the time from the last byte of an upload to the arrival of the message that it is complete.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::lab::{Lab, Notebook};
use crate::receiver::{Mood, Receiver};
use crate::results::{Metric, Values};
use crate::server::{Hook, Running, Setup};
use crate::subject::Subject;

const SUBJECTS: [Subject; 2] = [Subject::Longshore, Subject::Tusd];

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    book.note(
        "tusd's post-finish hook is shown for comparison; it computes no digest, syncs nothing and stores no \
         message. @tus/server sends no messages; rustus as published on crates.io is built without them.",
    );
    lab.take_turns(&SUBJECTS, u32::MAX, book, |subject, round, book| {
        let outcome = measure(lab, subject, book);
        book.keep(subject, "", round, outcome);
    });
    Ok(())
}

fn measure(lab: &Lab, subject: Subject, book: &mut Notebook) -> anyhow::Result<Values> {
    let receiver = Receiver::start(Mood::Well)?;
    let hook = Hook { name: "bench", address: receiver.address, events: &["upload.completed"] };
    let server = lab.start(subject, &Setup { hooks: vec![hook], sha256: true, ..Setup::default() }, book)?;
    let sent = upload(lab, &server)?;
    ensure!(receiver.wait_for(1, Instant::now() + PATIENCE), "no message came");
    let arrived = receiver.arrivals()?[0].at;
    Ok(Values::from([(Metric::MessageMs, arrived.saturating_duration_since(sent).as_secs_f64() * 1000.0)]))
}

/// Uploads, and returns the moment at which the kernel had accepted the last byte.
fn upload(lab: &Lab, server: &Running) -> anyhow::Result<Instant> {
    let size = lab.plan.big;
    let mut client = server.client();
    let path = client.create(size)?;
    let wire = client.begin(&path, 0, size)?;
    wire.send_payload(&lab.payload, size)?;
    let sent = Instant::now();
    wire.answer("PATCH")?.expect(&[200, 204])?;
    Ok(sent)
}
