//! Scenario 9: the time until an upload resumes after its connection was cut.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::lab::{Lab, Notebook, mib};
use crate::results::{Metric, Values};
use crate::server::{Running, Setup};
use crate::stats::Times;
use crate::subject::Subject;
use crate::tus::Client;
use crate::wire::Wire;

const SUBJECTS: [Subject; 4] = [Subject::Longshore, Subject::Tusd, Subject::TusNode, Subject::Rustus];

const MOST_ROUNDS: u32 = 1;

/// The bytes sent after a cut; the upload has resumed when they are accepted.
const FIRST: usize = 4 << 10;

/// The wait of a client between a rejection and its next attempt.
const RETRY: Duration = Duration::from_millis(5);

/// The maximum time of one cut; a server that exceeds it counts as unable to resume.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of cuts for a server that resumes slowly.
const FEWEST: u32 = 3;

#[derive(Debug, Clone, Copy)]
enum Cut {
    Closed,
    Reset,
    Silent,
}

impl Cut {
    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Silent => "silent",
        }
    }
}

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    let seconds = lab.plan.cutting.as_secs();
    book.note(format!(
        "Up to {} cuts of each kind, fewer if {seconds} s had passed. A rejected client retries after {} ms. rustus \
         keeps nothing of a request that was cut, so there is little to resume.",
        lab.plan.cuts,
        RETRY.as_millis()
    ));
    lab.take_turns(&SUBJECTS, MOST_ROUNDS, book, |subject, round, book| {
        for cut in [Cut::Closed, Cut::Reset, Cut::Silent] {
            let outcome = lab.start(subject, &Setup::default(), book).and_then(|server| measure(lab, &server, cut));
            book.keep(subject, cut.name(), round, outcome);
        }
    });
    Ok(())
}

/// The measurements of all cuts of one kind.
#[derive(Default)]
struct Seen {
    told: Times,
    accepted: Times,
    refusals: u32,
    lost: u64,
}

fn measure(lab: &Lab, server: &Running, cut: Cut) -> anyhow::Result<Values> {
    let began = Instant::now();
    let mut seen = Seen::default();
    let mut silent = Vec::new();
    let path = server.client().create(lab.plan.big)?;
    let mut at = 0;
    for number in 0..lab.plan.cuts {
        if number >= FEWEST && began.elapsed() > lab.plan.cutting {
            break;
        }
        let count = if number == 0 { lab.plan.first_cut } else { lab.plan.next_cuts };
        let wire = send_and_stop(lab, server, &path, at, count)?;
        silent.extend(end(wire, cut)?);
        at = resume(lab, server, &path, at + count, &mut seen)?;
    }
    let cuts = seen.accepted.count() as f64;
    Ok(Values::from([
        (Metric::OffsetP50Ms, seen.told.quantile_ms(500)),
        (Metric::OffsetP99Ms, seen.told.quantile_ms(990)),
        (Metric::AcceptedP50Ms, seen.accepted.quantile_ms(500)),
        (Metric::AcceptedP99Ms, seen.accepted.quantile_ms(990)),
        (Metric::Refusals, f64::from(seen.refusals) / cuts),
        (Metric::LostMib, mib(seen.lost) / cuts),
        (Metric::Requests, cuts),
    ]))
}

/// Announces all of the rest, sends `count` bytes of it, and stops.
fn send_and_stop(lab: &Lab, server: &Running, path: &str, at: u64, count: u64) -> anyhow::Result<Wire> {
    let mut client = server.client();
    let wire = client.begin(path, at, lab.plan.big - at)?;
    wire.send_payload(&lab.payload, count).context("could not send up to the cut")?;
    client.detach().context("the connection is gone before the cut")
}

/// Ends a connection. Returns it if it is to stay open.
fn end(wire: Wire, cut: Cut) -> anyhow::Result<Option<Wire>> {
    match cut {
        Cut::Closed => wire.socket().shutdown(Shutdown::Both)?,
        // Without lingering, closing discards undelivered bytes and resets the connection.
        Cut::Reset => rustix::net::sockopt::set_socket_linger(wire.socket(), Some(Duration::ZERO))?,
        Cut::Silent => return Ok(Some(wire)),
    }
    Ok(None)
}

/// Reconnects, and returns the offset to resume from.
fn resume(lab: &Lab, server: &Running, path: &str, sent: u64, seen: &mut Seen) -> anyhow::Result<u64> {
    let mut client = server.client();
    client.wire()?;
    let began = Instant::now();
    let (mut told, mut heard) = (None, String::new());
    loop {
        let seconds = PATIENCE.as_secs();
        ensure!(began.elapsed() < PATIENCE, "nothing was accepted for {seconds} s; the last answer: {heard}");
        if let Some(at) = ask(&mut client, path)? {
            let told = *told.get_or_insert_with(|| began.elapsed());
            let answer = client.try_append(path, at, lab.payload.head(FIRST));
            let answer = answer.and_then(|answer| answer.expect(&[200, 204]));
            heard = answer.as_ref().map_or_else(|error| format!("{error:#}"), |_| String::new());
            if answer.is_ok() {
                seen.accepted.add(began.elapsed());
                seen.told.add(told);
                seen.lost += sent.saturating_sub(at);
                return Ok(at + FIRST as u64);
            }
        }
        seen.refusals += 1;
        std::thread::sleep(RETRY);
    }
}

/// Requests the offset. Returns `None` if the server does not report it now.
fn ask(client: &mut Client, path: &str) -> anyhow::Result<Option<u64>> {
    let Ok(answer) = client.ask("HEAD", path) else { return Ok(None) };
    if matches!(answer.status, 200 | 204) { answer.number("upload-offset").map(Some) } else { Ok(None) }
}
