//! Scenario 15: records in PostgreSQL, compared in turns with records in SQLite, and then beside many rows.
//!
//! PostgreSQL runs beside the server on the same cores. Every run has an empty database on a separate server,
//! except for those beside many rows, which have copies of one database.

use std::thread;
use std::time::Duration;

use crate::lab::{Lab, Notebook};
use crate::receiver::{Mood, Receiver};
use crate::results::Values;
use crate::scenario::{one, storm, webhooks};
use crate::server::{Running, Setup};
use crate::subject::Subject;

mod commits;
mod many_rows;
mod status;

pub(super) use many_rows::ManyRows;

pub(crate) const COMMITS: &str = "checkpoints, committed directly";
pub(crate) const SMALL_UPLOADS: &str = "uploads of 64 KiB";
pub(crate) const STATUS_IDLE: &str = "status, idle";
pub(crate) const STATUS_LOADED: &str = "status, under load";
pub(crate) const EVENTS: &str = "200 events/s";
pub(crate) const ONE_UPLOAD: &str = "one upload in one request";

const SUBJECTS: [Subject; 2] = [Subject::Longshore, Subject::LongshorePostgres];

/// The rounds of all parts but the shortest.
const MOST_ROUNDS: u32 = 3;

/// The time until a server has opened its connections and has read the endpoints.
const SETTLING: Duration = Duration::from_secs(3);

/// The database that a run begins with.
#[derive(Clone, Copy)]
enum Rows<'a> {
    None,
    Many(&'a ManyRows),
}

impl Rows<'_> {
    /// Returns the setup of a server with such a database.
    fn setup(self, subject: Subject) -> anyhow::Result<Setup> {
        let database = match self {
            Rows::Many(rows) if subject == Subject::LongshorePostgres => Some(rows.copy()?),
            Rows::None | Rows::Many(_) => None,
        };
        Ok(Setup { database, skip_scan: true, ..Setup::default() })
    }

    /// Returns the name of a variant of this scenario with such a database.
    fn variant(self, name: &str) -> String {
        match self {
            Rows::None => name.to_owned(),
            Rows::Many(_) => beside_many_rows(name),
        }
    }
}

/// Returns the name of a variant beside many rows.
pub(crate) fn beside_many_rows(name: &str) -> String {
    format!("{name}, many rows")
}

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    book.note(
        "PostgreSQL runs on the same two cores as the server and the generator, with `fsync`, `full_page_writes` and \
         `synchronous_commit` on, and `shared_buffers = 512MB`. Its processor time is listed separately. Each run has \
         a server with an empty database. The scan of files after a start is off for both.",
    );
    book.note(format!(
        "Checkpoints: {} uploads commit one checkpoint after the other through the crate that a server uses, without a \
         server and without bytes, each as soon as the one before it is committed. Status: as in scenario 6, of {} \
         uploads in rotation. Events: as in scenario 14; the time is from the event's `timestamp`, which is before its \
         commit, to the arrival of the whole message.",
        commits::UPLOADS,
        status::UPLOADS
    ));
    measure_all(lab, &SUBJECTS, Rows::None, book);
    if lab.rows > 0 && lab.present(&[Subject::LongshorePostgres], book).len() == 1 {
        let rows = ManyRows::prepare(lab, book)?;
        measure_all(lab, &[Subject::LongshorePostgres], Rows::Many(&rows), book);
    }
    Ok(())
}

fn measure_all(lab: &Lab, subjects: &[Subject], rows: Rows<'_>, book: &mut Notebook) {
    lab.take_turns(subjects, MOST_ROUNDS, book, |subject, round, book| {
        // The crates of an earlier build are not in this program.
        if subject != Subject::LongshoreBefore {
            book.keep(subject, &rows.variant(COMMITS), round, commits::measure(lab, subject, rows));
        }
    });
    lab.take_turns(subjects, MOST_ROUNDS, book, |subject, round, book| {
        let outcome = with_server(lab, subject, rows, book, |server| storm::measure(lab, server));
        book.keep(subject, &rows.variant(SMALL_UPLOADS), round, outcome);
    });
    lab.take_turns(subjects, MOST_ROUNDS, book, |subject, round, book| {
        status::run(lab, subject, rows, round, book);
    });
    lab.take_turns(subjects, MOST_ROUNDS, book, |subject, round, book| {
        let outcome = events(lab, subject, rows, book);
        book.keep(subject, &rows.variant(EVENTS), round, outcome);
    });
    // Longer runs vary less, and the goal is five percent.
    lab.take_turns(subjects, u32::MAX, book, |subject, round, book| {
        let outcome = with_server(lab, subject, rows, book, |server| one::upload(lab, server, lab.plan.big));
        book.keep(subject, &rows.variant(ONE_UPLOAD), round, outcome);
    });
}

fn with_server(
    lab: &Lab,
    subject: Subject,
    rows: Rows<'_>,
    book: &mut Notebook,
    measure: impl Fn(&Running) -> anyhow::Result<Values>,
) -> anyhow::Result<Values> {
    let server = lab.start(subject, &rows.setup(subject)?, book)?;
    thread::sleep(SETTLING);
    measure(&server)
}

fn events(lab: &Lab, subject: Subject, rows: Rows<'_>, book: &mut Notebook) -> anyhow::Result<Values> {
    let receiver = Receiver::start(Mood::Well)?;
    let setup = Setup { hooks: vec![webhooks::endpoint(&receiver)], ..rows.setup(subject)? };
    let server = lab.start(subject, &setup, book)?;
    thread::sleep(SETTLING);
    webhooks::delay(lab, &server, &receiver)
}
