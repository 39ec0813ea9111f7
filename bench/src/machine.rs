//! The machine on which the numbers were measured.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::stats::Times;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// The file system of the folder that the servers write to.
    pub(crate) file_system: String,
    /// The time that the disk takes to make 4 KiB durable.
    pub(crate) fsync_ms: f64,
}

impl Machine {
    pub(crate) fn look(folder: &Path) -> anyhow::Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let memory = crate::process::meminfo(&["MemTotal:"])?[0];
        Ok(Self {
            processor: processor.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: memory as f64 / f64::from(1 << 30),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            file_system: file_system(&folder.canonicalize()?)?,
            fsync_ms: fsync_ms(folder)?,
        })
    }
}

/// Returns the file system of a folder. It is part of the report, because numbers from a memory file system
/// are meaningless.
fn file_system(folder: &Path) -> anyhow::Result<String> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let holding = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        folder.starts_with(at).then(|| (at.len(), kind.to_owned()))
    });
    // Of two equal mount points the last one is on top.
    holding.max_by_key(|(length, _)| *length).map(|(_, kind)| kind).context("the folder is on no file system")
}

fn fsync_ms(folder: &Path) -> anyhow::Result<f64> {
    let path = folder.join("fsync-probe");
    let mut file = File::create(&path).context("could not write to the folder for measurements")?;
    let mut times = Times::default();
    for _ in 0..50 {
        file.write_all(&[7; 4096])?;
        let began = Instant::now();
        file.sync_data()?;
        times.add(began.elapsed());
    }
    fs::remove_file(&path)?;
    Ok(times.quantile_ms(500))
}
