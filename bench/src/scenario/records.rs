//! Scenario 12: response times with a large database.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::lab::{Lab, Notebook};
use crate::results::{Metric, Values};
use crate::server::{Running, Setup};
use crate::stats::Times;
use crate::subject::Subject;
use crate::tus::Client;
use crate::{process, tus, words};

pub(crate) const START_UP: &str = "start-up";

const DATABASE: &str = "longshore.db";

/// Full pages of a hundred, at every size of the database.
const LISTS: [(&str, &str); 4] = [
    ("list, newest 100", "/api/v1/uploads?limit=100"),
    ("list, stage=completed", "/api/v1/uploads?limit=100&stage=completed"),
    ("list, stage=terminated", "/api/v1/uploads?limit=100&stage=terminated"),
    ("list, metadata.user=…", "/api/v1/uploads?limit=100&metadata.user=user-7"),
];

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    if lab.present(&[Subject::Longshore], book).is_empty() {
        return Ok(());
    }
    book.note(
        "Records are written directly into the database: copies of a completed, a deleted and a started upload, \
         with their last event. Each list returns a full page. One connection sends one request after the other; \
         each was sent once before, so the disk is not compared. Start-up is from the start of the process to the \
         line that says it listens, after the page cache was emptied where that is allowed.",
    );
    for count in lab.plan.records {
        if let Err(error) = measure(lab, count, book) {
            book.keep(Subject::Longshore, &variant(&words::figure(count as f64), START_UP), 1, Err(error));
        }
    }
    Ok(())
}

/// Returns the name of a variant; `parts` is the inverse.
pub(crate) fn variant(count: &str, question: &str) -> String {
    format!("{count} records, {question}")
}

pub(crate) fn parts(variant: &str) -> Option<(&str, &str)> {
    variant.split_once(" records, ")
}

fn measure(lab: &Lab, count: u64, book: &mut Notebook) -> anyhow::Result<()> {
    let folder = lab.kit.empty_folder(Subject::Longshore)?;
    let done = ask_all(lab, count, &folder, book);
    fs::remove_dir_all(&folder)?;
    done
}

fn ask_all(lab: &Lab, count: u64, folder: &Path, book: &mut Notebook) -> anyhow::Result<()> {
    let setup = Setup { data: Some(folder.to_owned()), ..Setup::default() };
    let server = lab.start(Subject::Longshore, &setup, book)?;
    make_originals(&server)?;
    server.stop_gently()?;
    let ids = seed(count, folder)?;
    // Skipped if it is not permitted; the note says so.
    process::drop_caches().ok();
    let server = lab.start(Subject::Longshore, &setup, book)?;
    let label = words::figure(count as f64);
    let mut keep = |question: &str, values| book.keep(Subject::Longshore, &variant(&label, question), 1, values);
    keep(START_UP, Ok(Values::from([(Metric::StartUpSeconds, server.start_up.as_secs_f64())])));
    let mut client = server.reader();
    let status = |number: usize| format!("/api/v1/uploads/{}", ids[number * 7919 % ids.len()]);
    keep("status", ask(lab, &mut client, status));
    for (name, path) in LISTS {
        ensure_full_page(&mut client, path).with_context(|| format!("{name} is not what it should be"))?;
        keep(name, ask(lab, &mut client, |_| path.to_owned()));
    }
    Ok(())
}

/// Creates one upload of each kind that is copied, in this order: completed, deleted, begun.
pub(super) fn make_originals(server: &Running) -> anyhow::Result<()> {
    let mut client = server.client();
    let mut paths = Vec::new();
    for body in ["hello", "hello", ""] {
        // "YmVuY2gtdXNlcg==" is bench-user, which every copy replaces with a different user.
        let metadata = "Upload-Metadata: filename ZXZlbi5iaW4=,user YmVuY2gtdXNlcg==";
        let head = tus::creation_head(&server.target, 5, body.len() as u64)
            .replace("Upload-Metadata: filename ZXZlbi5iaW4=", metadata);
        let wire = client.wire()?;
        wire.send(format!("{head}{body}").as_bytes())?;
        let answer = wire.answer("POST")?.expect(&[201])?;
        let location = answer.header("location").context("no Location in the answer")?;
        paths.push(tus::path_of(location).to_owned());
    }
    client.ask("DELETE", &paths[1])?.expect(&[204])?;
    Ok(())
}

/// Fills the database, and returns the ids to request.
fn seed(count: u64, folder: &Path) -> anyhow::Result<Vec<String>> {
    let ids = folder.with_extension("ids");
    let began = Instant::now();
    eprintln!("  writing {count} records");
    let output = Command::new("python3")
        .arg("bench/seed_records.py")
        .arg(folder.join(DATABASE))
        .arg(count.to_string())
        .arg(&ids)
        .output()
        .context("could not run python3")?;
    ensure!(output.status.success(), "could not fill the database: {}", String::from_utf8_lossy(&output.stderr));
    eprintln!("  written in {:.0} s", began.elapsed().as_secs_f64());
    let text = fs::read_to_string(&ids)?;
    fs::remove_file(&ids)?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn ensure_full_page(client: &mut Client, path: &str) -> anyhow::Result<()> {
    let page: serde_json::Value = serde_json::from_slice(&client.ask("GET", path)?.expect(&[200])?.body)?;
    let uploads = page["uploads"].as_array().context("there is no list in the answer")?;
    ensure!(uploads.len() >= 90, "only {} uploads on the page", uploads.len());
    Ok(())
}

fn ask(lab: &Lab, client: &mut Client, path: impl Fn(usize) -> String) -> anyhow::Result<Values> {
    for number in 0..lab.plan.questions as usize {
        client.ask("GET", &path(number))?.expect(&[200])?;
    }
    let mut times = Times::default();
    for number in 0..lab.plan.questions as usize {
        let path = path(number);
        let began = Instant::now();
        client.ask("GET", &path)?.expect(&[200])?;
        times.add(began.elapsed());
    }
    Ok(Values::from([
        (Metric::P50Ms, times.quantile_ms(500)),
        (Metric::P99Ms, times.quantile_ms(990)),
        (Metric::Requests, times.count() as f64),
    ]))
}
