//! The number of messages per second, during uploads and after them.

use std::time::Instant;

use anyhow::ensure;

use crate::lab::{Lab, Notebook, mib};
use crate::receiver::{Mood, Receiver};
use crate::results::{Metric, Values};
use crate::scenario::storm;
use crate::scenario::webhooks::{SMALL, endpoint, messages_of_one};
use crate::server::Setup;
use crate::subject::Subject;
use crate::{process, tus};

pub(crate) const UPLOADING: &str = "sustained, uploads go on";
pub(crate) const DRAINING: &str = "sustained, queue drains";

const MOST_ROUNDS: u32 = 3;

/// A rate over a shorter time is meaningless.
const SHORTEST: f64 = 0.5;

pub(super) fn run(lab: &Lab, book: &mut Notebook) {
    book.note(format!(
        "Sustained: one endpoint for every event, uploads of {} KiB from {} connections as fast as they are \
         accepted. For {} s the receiver withholds its responses, so that a queue forms; the next {} s are counted; \
         then the uploads end, and at most {} s more are counted. Messages are counted at the receiver.",
        SMALL >> 10,
        storm::CONNECTIONS,
        lab.plan.filling.as_secs(),
        lab.plan.sustained.as_secs(),
        lab.plan.draining.as_secs()
    ));
    lab.take_turns(&[Subject::Longshore], MOST_ROUNDS, book, |subject, round, book| {
        match measure(lab, subject, book) {
            Ok((uploading, draining)) => {
                book.keep(subject, UPLOADING, round, Ok(uploading));
                book.keep(subject, DRAINING, round, draining);
            }
            Err(error) => book.keep(subject, UPLOADING, round, Err(error)),
        }
    });
}

fn measure(lab: &Lab, subject: Subject, book: &mut Notebook) -> anyhow::Result<(Values, anyhow::Result<Values>)> {
    let receiver = Receiver::start(Mood::Well)?;
    let setup = Setup { hooks: vec![endpoint(&receiver)], ..Setup::default() };
    let server = lab.start(subject, &setup, book)?;
    let each = messages_of_one(lab, &server, &receiver)?;
    let before = receiver.count();
    let mut request = tus::creation_head(&server.target, SMALL as u64, SMALL as u64).into_bytes();
    request.extend_from_slice(lab.payload.head(SMALL));
    receiver.feel(Mood::Slow(lab.plan.filling));
    let earlier = storm::run_for(&server, request.clone(), SMALL, lab.plan.filling)?.count();
    receiver.feel(Mood::Well);
    let steady = Instant::now();
    let uploads = storm::run_for(&server, request, SMALL, lab.plan.sustained)?.count();
    let ended = Instant::now();
    let total = before + (earlier + uploads) * each;
    let left = total - receiver.count().min(total);
    let arrived = receiver.arrivals()?.iter().filter(|arrival| (steady..ended).contains(&arrival.at)).count();
    let seconds = (ended - steady).as_secs_f64();
    let rate = arrived as f64 / seconds;
    if (left as f64) < rate {
        book.note(
            "The queue was empty before the uploads ended: the rate beside them is the rate of the uploads, not of the \
         sender.",
        );
    }
    let uploading = Values::from([
        (Metric::DeliveriesPerSecond, rate),
        (Metric::UploadsPerSecond, uploads as f64 / seconds),
        (Metric::Backlog, left as f64),
    ]);

    let cpu = process::cpu_seconds(server.pid())?;
    let began = receiver.count();
    receiver.wait_for(total, ended + lab.plan.draining);
    let seconds = ended.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    let delivered = (receiver.count() - began) as f64;
    let peak = mib(process::peak(server.pid())?);
    let draining = move || {
        ensure!(seconds >= SHORTEST, "the queue was empty after {seconds:.1} s");
        Ok(Values::from([
            (Metric::DeliveriesPerSecond, delivered / seconds),
            (Metric::CpuSecondsPerThousand, cpu / (delivered / 1000.0)),
            (Metric::PeakMib, peak),
        ]))
    };
    Ok((uploading, draining()))
}
