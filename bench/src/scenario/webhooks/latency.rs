//! The delay of a message, alone and beside an endpoint with a long queue that cannot be sent.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, ensure};

use crate::lab::{Lab, Notebook};
use crate::receiver::{Mood, Receiver};
use crate::results::{Metric, Values};
use crate::scenario::asking::Pace;
use crate::scenario::webhooks::{PATIENCE, SMALL, endpoint, messages_of_one};
use crate::server::{Hook, Running, Setup};
use crate::stats::Times;
use crate::subject::Subject;
use crate::{process, words};

pub(crate) const PACED: &str = "200 events/s";
pub(crate) const OVERDUE: &str = "200 events/s, beside a long queue";

const EVENTS_PER_SECOND: usize = 200;
const CONNECTIONS: usize = 2;
const MOST_ROUNDS: u32 = 3;

/// An unreachable endpoint. It subscribes to events that do not occur here, so all it has is its queue.
const DEAD: &str = "dead";
const NOTHING_HERE: &[&str] = &["upload.expired"];

/// The time until the server has scanned the queue that it finds.
const SETTLING: Duration = Duration::from_secs(3);

pub(super) fn run(lab: &Lab, book: &mut Notebook) {
    book.note(format!(
        "Latency: {EVENTS_PER_SECOND} events a second, of small uploads started at a fixed pace, regardless of \
         responses. The time is from the event's `timestamp`, which is set before its commit, to the arrival of the \
         whole message, by the same clock, in milliseconds. The messages of an upload are sent one after the other, \
         and the wait for earlier ones is included. The long queue: {} overdue deliveries, written into the \
         database, to another endpoint, at a port where nothing listens.",
        words::figure(lab.plan.overdue as f64)
    ));
    lab.take_turns(&[Subject::Longshore], MOST_ROUNDS, book, |subject, round, book| {
        let outcome = alone(lab, subject, book);
        book.keep(subject, PACED, round, outcome);
        let outcome = beside_a_queue(lab, subject, book);
        book.keep(subject, OVERDUE, round, outcome);
    });
}

fn alone(lab: &Lab, subject: Subject, book: &mut Notebook) -> anyhow::Result<Values> {
    let receiver = Receiver::start(Mood::Well)?;
    let setup = Setup { hooks: vec![endpoint(&receiver)], ..Setup::default() };
    let server = lab.start(subject, &setup, book)?;
    thread::sleep(SETTLING);
    measure(lab, &server, &receiver)
}

fn beside_a_queue(lab: &Lab, subject: Subject, book: &mut Notebook) -> anyhow::Result<Values> {
    let folder = lab.kit.empty_folder(subject)?;
    let outcome = beside_a_queue_in(lab, subject, &folder, book);
    fs::remove_dir_all(&folder)?;
    outcome
}

fn beside_a_queue_in(lab: &Lab, subject: Subject, folder: &Path, book: &mut Notebook) -> anyhow::Result<Values> {
    let receiver = Receiver::start(Mood::Well)?;
    let nobody = Receiver::start(Mood::Dead)?;
    let dead = Hook { name: DEAD, address: nobody.address, events: NOTHING_HERE };
    let hooks = vec![endpoint(&receiver), dead];
    let setup = Setup { hooks, data: Some(folder.to_owned()), ..Setup::default() };
    let server = lab.start(subject, &setup, book)?;
    messages_of_one(lab, &server, &receiver)?;
    server.stop_gently()?;
    fill_queue(lab, folder)?;
    let server = lab.start(subject, &setup, book)?;
    thread::sleep(SETTLING);
    measure(lab, &server, &receiver)
}

fn fill_queue(lab: &Lab, folder: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let output = Command::new("python3")
        .args(["bench/webhook_rows.py", "queue"])
        .arg(folder.join("longshore.db"))
        .args([DEAD, &lab.plan.overdue.to_string()])
        .output()
        .context("could not run python3")?;
    ensure!(output.status.success(), "could not fill the queue: {}", String::from_utf8_lossy(&output.stderr));
    eprintln!("  {} deliveries written in {:.0} s", lab.plan.overdue, began.elapsed().as_secs_f64());
    Ok(())
}

/// Causes events at a fixed pace and measures the delays of their messages.
pub(in crate::scenario) fn measure(lab: &Lab, server: &Running, receiver: &Receiver) -> anyhow::Result<Values> {
    let each = messages_of_one(lab, server, receiver)?;
    let before = receiver.count();
    let per_connection = EVENTS_PER_SECOND.div_ceil(each * CONNECTIONS);
    let pace = Pace { connections: CONNECTIONS, per_second: u32::try_from(per_connection)? };
    let cpu = process::cpu_seconds(server.pid())?;
    let began = Instant::now();
    let uploads = pace.ask_for(
        lab.plan.paced,
        |_| server.client(),
        |client, _| client.create_whole(&lab.payload, SMALL).map(drop),
    )?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    let all = before + uploads.count() * each;
    ensure!(receiver.wait_for(all, Instant::now() + PATIENCE), "only {} of {all} messages came", receiver.count());
    let mut times = Times::default();
    for arrival in receiver.arrivals()?.iter().skip(before) {
        times.add(arrival.age.context("a message has no timestamp")?);
    }
    Ok(Values::from([
        (Metric::DeliveriesPerSecond, times.count() as f64 / seconds),
        (Metric::P50Ms, times.quantile_ms(500)),
        (Metric::P95Ms, times.quantile_ms(950)),
        (Metric::P99Ms, times.quantile_ms(990)),
        (Metric::CpuPercent, cpu * 100.0 / seconds),
    ]))
}
