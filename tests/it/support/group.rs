//! A control group with a memory limit, for a program to run in.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Removed when dropped, if its processes have ended.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// Creates a group. Returns an error if there are no such groups, or if this user may not create one.
    pub fn of(memory_bytes: u64) -> io::Result<Self> {
        let name = format!("longshore-test-{}", std::process::id());
        let (one, two) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (folder, limit) =
            if one.exists() { (one.join(name), "memory.limit_in_bytes") } else { (two.join(name), "memory.max") };
        fs::create_dir(&folder)?;
        let group = Self(folder);
        fs::write(group.0.join(limit), memory_bytes.to_string())?;
        Ok(group)
    }

    /// Returns a command that runs another one within the group.
    pub fn enter(&self) -> Vec<String> {
        let members = self.0.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$@\"", members.display());
        ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // An empty group that is left behind does no harm.
        fs::remove_dir(&self.0).ok();
    }
}
