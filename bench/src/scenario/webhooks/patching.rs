//! The cost for uploads of an endpoint that receives every event.

use anyhow::Context;

use crate::lab::{Lab, Notebook};
use crate::process;
use crate::receiver::{Mood, Receiver};
use crate::results::{Metric, Values};
use crate::scenario::asking::Pace;
use crate::scenario::webhooks::endpoint;
use crate::server::{Running, Setup};
use crate::subject::Subject;

pub(crate) const UNTOLD: &str = "PATCH, no endpoint";
pub(crate) const TOLD: &str = "PATCH, one endpoint";

const PACE: Pace = Pace { connections: 8, per_second: 25 };

/// Uploads that are patched in rotation; a multiple of the connections, so that each upload stays on one.
const UPLOADS: u64 = 80;

const PIECE: u64 = 64 << 10;

/// An upload is complete after this many pieces, and the next takes its place: at this rate after ten
/// seconds, long enough for it to report progress.
const PIECES: u64 = 25;

const MOST_ROUNDS: u32 = 3;

pub(super) fn run(lab: &Lab, book: &mut Notebook) {
    book.note(format!(
        "PATCH: {} a second of {} KiB each, at a fixed pace, over {UPLOADS} uploads in turn; each is complete after \
         {PIECES} of them. The endpoint receives all events, progress included.",
        PACE.connections * PACE.per_second as usize,
        PIECE >> 10
    ));
    lab.take_turns(&[Subject::Longshore], MOST_ROUNDS, book, |subject, round, book| {
        // Each round begins with another form.
        let forms = if round.is_multiple_of(2) { [TOLD, UNTOLD] } else { [UNTOLD, TOLD] };
        for form in forms {
            let outcome = measure(lab, subject, form == TOLD, book);
            book.keep(subject, form, round, outcome);
        }
    });
}

fn measure(lab: &Lab, subject: Subject, told: bool, book: &mut Notebook) -> anyhow::Result<Values> {
    let receiver = Receiver::start(Mood::Well)?;
    let hooks = if told { vec![endpoint(&receiver)] } else { Vec::new() };
    let server = lab.start(subject, &Setup { hooks, ..Setup::default() }, book)?;
    let questions = u64::from(PACE.per_second) * PACE.connections as u64 * (lab.plan.paced.as_secs() + 1);
    let uploads = create_all(&server, questions.div_ceil(UPLOADS))?;
    let (cpu, heard) = (process::cpu_seconds(server.pid())?, receiver.count());
    let mut times = PACE.ask_for(
        lab.plan.paced,
        |_| server.client(),
        |client, number| {
            let (slot, turn) = (usize::try_from(number % UPLOADS)?, number / UPLOADS);
            let (path, offset) = uploads.place(slot, turn)?;
            client.append(path, offset, &lab.payload, PIECE).map(drop)
        },
    )?;
    let cpu = process::cpu_seconds(server.pid())? - cpu;
    let seconds = lab.plan.paced.as_secs_f64();
    Ok(Values::from([
        (Metric::P50Ms, times.quantile_ms(500)),
        (Metric::P95Ms, times.quantile_ms(950)),
        (Metric::P99Ms, times.quantile_ms(990)),
        (Metric::DeliveriesPerSecond, (receiver.count() - heard) as f64 / seconds),
        (Metric::CpuPercent, cpu * 100.0 / seconds),
    ]))
}

/// The uploads that follow each other in every slot.
struct Uploads(Vec<Vec<Planned>>);

struct Planned {
    path: String,
    /// The turn of its first piece.
    from: u64,
}

fn create_all(server: &Running, turns: u64) -> anyhow::Result<Uploads> {
    let mut client = server.client();
    let mut slots = Vec::new();
    for slot in 0..UPLOADS {
        let mut planned = Vec::new();
        let mut from = 0;
        while from < turns {
            // The first one is shorter, by a different length in each slot, so that they do not all complete
            // at the same time.
            let pieces = if from == 0 { 1 + slot % PIECES } else { PIECES };
            planned.push(Planned { path: client.create(pieces * PIECE)?, from });
            from += pieces;
        }
        slots.push(planned);
    }
    Ok(Uploads(slots))
}

impl Uploads {
    /// Returns the upload and the offset of the piece of this turn.
    fn place(&self, slot: usize, turn: u64) -> anyhow::Result<(&str, u64)> {
        let planned = self.0[slot].iter().rev().find(|planned| planned.from <= turn);
        let planned = planned.with_context(|| format!("no upload is planned for turn {turn}"))?;
        Ok((&planned.path, (turn - planned.from) * PIECE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_upload_follows_another_without_a_gap() {
        let planned = [(0, "a"), (2, "b")].map(|(from, path)| Planned { path: path.to_owned(), from });
        let uploads = Uploads(vec![planned.into()]);
        let places: Vec<_> = (0..4).map(|turn| uploads.place(0, turn).unwrap()).collect();
        assert_eq!(places, [("a", 0), ("a", PIECE), ("b", 0), ("b", PIECE)]);
    }
}
