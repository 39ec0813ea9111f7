//! A control group with a limit of memory, for a program to run in.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Removed when dropped, if whoever was in it has ended.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// An error where there are no such groups, or this user may make none.
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

    /// A command that becomes another one, within the group.
    pub fn enter(&self) -> Vec<String> {
        let members = self.0.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$@\"", members.display());
        ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // An empty group that stays behind does no harm.
        fs::remove_dir(&self.0).ok();
    }
}
