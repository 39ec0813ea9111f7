//! Several uploads at once, each on a thread and a connection of its own.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::payload::Payload;
use crate::process;
use crate::server::Running;

/// How the load generator's threads are lowered where something else is measured meanwhile. Clients would be
/// on other machines, so they must not win processor time from the server that answers.
pub(crate) const BACKGROUND: i32 = 10;

/// Above this, a file is an upload of a load.
const LARGE: u64 = 16 << 20;

/// Uploads `count` times `size` bytes at once, each in one request. Gives the time each took.
pub(crate) fn at_once(
    server: &Running,
    payload: &Payload,
    count: usize,
    size: u64,
    nice: i32,
) -> anyhow::Result<Vec<Duration>> {
    let start = Barrier::new(count);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| {
                    process::nice(nice);
                    let mut client = server.client();
                    let path = client.create(size);
                    start.wait();
                    let began = Instant::now();
                    client.append(&path?, 0, payload, size)?;
                    Ok(began.elapsed())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("an upload does not panic")).collect()
    })
}

/// Cuts large finished files below a folder to nothing, so that a scenario can go on on a small disk. The
/// server's records stay; nobody reads those files any more.
pub(crate) fn cut_large_files(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            cut_large_files(&entry.path());
        } else if meta.len() > LARGE && !entry.file_name().to_string_lossy().contains(".db") {
            // What cannot be cut is only in the way of the next upload, which will say so.
            OpenOptions::new().write(true).truncate(true).open(entry.path()).ok();
        }
    }
}
