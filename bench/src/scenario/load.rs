//! Several concurrent uploads, each on its own thread and connection.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::payload::Payload;
use crate::process;
use crate::server::Running;

/// The niceness of the load generator's threads while something else is measured. Real clients would be on
/// other machines, so these must not take processor time from the server that answers.
pub(crate) const BACKGROUND: i32 = 10;

/// A larger file is an upload of a load.
const LARGE: u64 = 16 << 20;

/// Uploads `count` times `size` bytes concurrently, each in one request. Returns the duration of each.
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

/// Truncates large finished files below a folder, so that a scenario can continue on a small disk. The
/// server's records stay; these files are not read any more.
pub(crate) fn cut_large_files(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            cut_large_files(&entry.path());
        } else if meta.len() > LARGE && !entry.file_name().to_string_lossy().contains(".db") {
            // A file that cannot be truncated only takes space from the next upload, which will report it.
            OpenOptions::new().write(true).truncate(true).open(entry.path()).ok();
        }
    }
}
