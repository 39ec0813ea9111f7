//! Scenario 8: the part of one upload that stays in the page cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::lab::{Lab, Notebook, mib};
use crate::process;
use crate::results::{Metric, Values};
use crate::server::{Running, Setup};
use crate::subject::Subject;

const SUBJECTS: [Subject; 5] = [Subject::Longshore, Subject::Tusd, Subject::TusNode, Subject::Rustus, Subject::Bare];

const MOST_ROUNDS: u32 = 3;

pub(crate) fn run(lab: &Lab, book: &mut Notebook) -> anyhow::Result<()> {
    if let Err(error) = process::drop_caches() {
        book.note(format!("Not measured: {error:#}."));
        return Ok(());
    }
    book.note(
        "The cache is the system's Cached and Buffers without Shmem, so it includes all other programs; the file's \
         own pages are counted by fincore.",
    );
    lab.take_turns(&SUBJECTS, MOST_ROUNDS, book, |subject, round, book| {
        let outcome = lab.start(subject, &Setup::default(), book).and_then(|server| measure(lab, &server));
        book.keep(subject, "", round, outcome);
    });
    Ok(())
}

fn measure(lab: &Lab, server: &Running) -> anyhow::Result<Values> {
    let mut client = server.client();
    let path = client.create(lab.plan.big)?;
    process::drop_caches()?;
    let before = cached()?;
    client.append(&path, 0, &lab.payload, lab.plan.big)?;
    let grown = cached()? as f64 - before as f64;
    let mut values = Values::from([(Metric::CacheGrownMib, grown / f64::from(1 << 20))]);
    if let Some(resident) = resident(&server.folder)? {
        values.insert(Metric::ResidentMib, mib(resident));
    }
    Ok(values)
}

fn cached() -> anyhow::Result<u64> {
    let fields = process::meminfo(&["Cached:", "Buffers:", "Shmem:"])?;
    Ok((fields[0] + fields[1]).saturating_sub(fields[2]))
}

/// Returns the bytes of a folder's files that are in the page cache, or `None` if the tool for that is
/// missing.
fn resident(folder: &Path) -> anyhow::Result<Option<u64>> {
    let files = files(folder)?;
    let Ok(output) = Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).args(&files).output()
    else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sizes: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    Ok(Some(sizes.context("could not parse the output of fincore")?.iter().sum()))
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}
