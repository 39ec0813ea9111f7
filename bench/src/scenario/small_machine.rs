//! A control group that leaves a server and its neighbour as much memory as a
//! small machine has, page cache included.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Removed when dropped; whoever was in it must have ended by then.
#[derive(Debug)]
pub(crate) struct SmallMachine(PathBuf);

impl SmallMachine {
    pub(crate) fn of(memory: u64) -> anyhow::Result<Self> {
        let name = format!("longshore-bench-{}", std::process::id());
        let (one, two) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (folder, limit) = if one.exists() {
            (one.join(name), "memory.limit_in_bytes")
        } else if two.join("cgroup.controllers").exists() {
            (two.join(name), "memory.max")
        } else {
            bail!("there are no control groups for memory");
        };
        fs::create_dir_all(&folder).context("could not make a control group (only root may)")?;
        let group = Self(folder);
        fs::write(group.0.join(limit), memory.to_string()).context("could not limit the memory of a control group")?;
        Ok(group)
    }

    /// Where to write the number of a process that is to be in it.
    pub(crate) fn members(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for SmallMachine {
    fn drop(&mut self) {
        // An empty group that stays behind does no harm.
        fs::remove_dir(&self.0).ok();
    }
}
