//! Scenario 6: response times, without load and while others upload at full speed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::lab::{Lab, Notebook, mb_per_second};
use crate::results::{Metric, Values};
use crate::scenario::asking::Pace;
use crate::scenario::{eight, load};
use crate::server::{Running, Setup};
use crate::stats::Times;
use crate::subject::Subject;
use crate::tus::Client;

const SUBJECTS: [Subject; 4] = [Subject::Longshore, Subject::Tusd, Subject::TusNode, Subject::Rustus];

const PACE: Pace = Pace { connections: 2, per_second: 200 };

/// Each round takes almost a minute per server, and yields thousands of times.
const MOST_ROUNDS: u32 = 2;

pub(crate) const IDLE: &str = "idle";
pub(crate) const LOADED: &str = "under load";

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    if !lab.kit.knows("read_listen") {
        book.note("This build of Longshore has no read_listen: requests went to the listener that takes uploads.");
    }
    book.note(format!(
        "The uploading threads ran at niceness {}, the requesting threads at -10 where allowed: both stand for \
         clients on other machines, which would not compete with the server for its two cores.",
        load::BACKGROUND
    ));
    lab.take_turns(&SUBJECTS, MOST_ROUNDS, book, |subject, round, book| {
        match lab.start(subject, &Setup::default(), book) {
            Ok(server) => {
                let questions = questions(lab, &server);
                for variant in [IDLE, LOADED] {
                    let outcome = match &questions {
                        Ok(questions) if variant == IDLE => idle(lab, &server, questions),
                        Ok(questions) => loaded(lab, &server, questions),
                        Err(error) => Err(anyhow::anyhow!("{error:#}")),
                    };
                    book.keep(subject, variant, round, outcome);
                }
            }
            Err(error) => book.keep(subject, IDLE, round, Err(error)),
        }
    });
    Ok(())
}

/// A request: a method and a path.
pub(super) struct Question {
    pub(super) method: &'static str,
    pub(super) path: String,
}

/// Returns one request for each connection, each about a different upload: the peers lock an upload even to
/// report its offset.
fn questions(lab: &Lab, server: &Running) -> anyhow::Result<Vec<Question>> {
    (0..PACE.connections).map(|_| question(lab, server)).collect()
}

fn question(lab: &Lab, server: &Running) -> anyhow::Result<Question> {
    let size = 1 << 20;
    let mut client = server.client();
    let path = client.create(size)?;
    client.append(&path, 0, &lab.payload, size)?;
    if !server.subject.is_longshore() {
        return Ok(Question { method: "HEAD", path });
    }
    let id = path.rsplit('/').next().unwrap_or_default();
    Ok(Question { method: "GET", path: format!("/api/v1/uploads/{id}") })
}

/// Sends the requests in rotation, without load. If there is one for each connection, each sends its own.
pub(super) fn idle(lab: &Lab, server: &Running, questions: &[Question]) -> anyhow::Result<Values> {
    let mut times = PACE.ask_for(lab.plan.asking, |_| (server.reader(), questions), ask)?;
    Ok(quantiles(&mut times))
}

/// Uploads run in a loop until the time is up; the requests stop when the last loop has ended.
pub(super) fn loaded(lab: &Lab, server: &Running, questions: &[Question]) -> anyhow::Result<Values> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let upload = scope.spawn(|| {
            let outcome = upload_in_a_loop(lab, server);
            stop.store(true, Ordering::Relaxed);
            outcome
        });
        let times = PACE.ask(&stop, |_| (server.reader(), questions), ask);
        let load = upload.join().expect("the load does not panic")?;
        let mut values = quantiles(&mut times?);
        values.insert(Metric::LoadMbPerSecond, load);
        Ok(values)
    })
}

fn upload_in_a_loop(lab: &Lab, server: &Running) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < lab.plan.asking_loaded {
        let size = lab.plan.each_of_eight;
        load::at_once(server, &lab.payload, eight::UPLOADS, size, load::BACKGROUND)?;
        sent += size * eight::UPLOADS as u64;
        // The records stay; the disk must not fill up.
        load::cut_large_files(&server.folder);
    }
    Ok(mb_per_second(sent, began))
}

fn ask((client, questions): &mut (Client, &[Question]), number: u64) -> anyhow::Result<()> {
    let question = &questions[usize::try_from(number)? % questions.len()];
    client.ask(question.method, &question.path)?.expect(&[200, 204]).map(drop)
}

fn quantiles(times: &mut Times) -> Values {
    Values::from([
        (Metric::P50Ms, times.quantile_ms(500)),
        (Metric::P99Ms, times.quantile_ms(990)),
        (Metric::P999Ms, times.quantile_ms(999)),
        (Metric::Requests, times.count() as f64),
    ])
}
