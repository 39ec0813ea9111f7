//! The delay of status requests, idle and while others upload.

use std::thread;

use crate::lab::{Lab, Notebook};
use crate::results::Values;
use crate::scenario::on_postgres::{Rows, SETTLING, STATUS_IDLE, STATUS_LOADED};
use crate::scenario::status::{self, Question};
use crate::server::Running;
use crate::subject::Subject;

/// The number of uploads that requests are about, in rotation.
pub(super) const UPLOADS: usize = 200;

/// The size of each of them.
const SIZE: usize = 4 << 10;

pub(super) fn run(lab: &Lab, subject: Subject, rows: Rows<'_>, round: u32, book: &mut Notebook) {
    let ready = prepare(lab, subject, rows, book);
    for name in [STATUS_IDLE, STATUS_LOADED] {
        let outcome = match &ready {
            Ok((server, questions)) => measure(lab, server, questions, name),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        book.keep(subject, &rows.variant(name), round, outcome);
    }
}

fn measure(lab: &Lab, server: &Running, questions: &[Question], name: &str) -> anyhow::Result<Values> {
    if name == STATUS_IDLE { status::idle(lab, server, questions) } else { status::loaded(lab, server, questions) }
}

fn prepare(
    lab: &Lab,
    subject: Subject,
    rows: Rows<'_>,
    book: &mut Notebook,
) -> anyhow::Result<(Running, Vec<Question>)> {
    let server = lab.start(subject, &rows.setup(subject)?, book)?;
    let ids = match rows {
        Rows::None => create_uploads(lab, &server)?,
        Rows::Many(rows) => rows.ids.clone(),
    };
    thread::sleep(SETTLING);
    let questions = ids.iter().map(|id| Question { method: "GET", path: format!("/api/v1/uploads/{id}") });
    Ok((server, questions.collect()))
}

fn create_uploads(lab: &Lab, server: &Running) -> anyhow::Result<Vec<String>> {
    let mut client = server.client();
    let path = |_| client.create_whole(&lab.payload, SIZE);
    let paths: Vec<String> = (0..UPLOADS).map(path).collect::<anyhow::Result<_>>()?;
    Ok(paths.iter().filter_map(|path| path.rsplit('/').next()).map(str::to_owned).collect())
}
