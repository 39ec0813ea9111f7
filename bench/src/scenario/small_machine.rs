//! A control group that limits a server and its neighbor to the memory of a small machine, page cache
//! included.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Removed when dropped; its processes must have ended by then.
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

    /// Returns the file to which the id of a process in the group is written.
    pub(crate) fn members(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for SmallMachine {
    fn drop(&mut self) {
        // An empty group that is left behind does no harm.
        fs::remove_dir(&self.0).ok();
    }
}
