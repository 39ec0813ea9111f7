//! A small, separate disk that can be filled, enlarged and made read-only.

use std::path::Path;
use std::process::Command;

use storage::disks::TestDisk;

use tempfile::TempDir;

/// Returns the disk, or `None` with the reason printed if none can be created.
pub fn mounted(disk: Result<TestDisk, String>) -> Option<TestDisk> {
    disk.inspect_err(|reason| eprintln!("skipped: a disk cannot be made here: {reason}")).ok()
}

/// A mounted file system in memory. It is unmounted when dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts a file system of this size. Returns `None`, with the reason printed, if mounting is not
    /// permitted.
    pub fn mount(size: &str) -> Option<Self> {
        let disk = Self { folder: TempDir::new().unwrap() };
        let options = format!("size={size},mode=0755");
        let mounted = mount(&["-t", "tmpfs", "-o", &options, "longshore-test"], disk.path());
        if let Err(reason) = mounted {
            eprintln!("skipped: a small disk cannot be mounted here: {reason}");
            return None;
        }
        Some(disk)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Changes its size, or with `ro` and `rw` whether it is writable.
    pub fn remount(&self, options: &str) {
        mount(&["-o", &format!("remount,{options}")], self.path()).expect("a mounted disk can be changed");
    }

    /// Takes up all free space until the returned value is dropped.
    pub fn fill(&self) -> Ballast {
        use std::io::Write;
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        for piece in [64 * 1024, 4096, 1] {
            while file.write(&vec![1; piece]).is_ok_and(|written| written > 0) {}
        }
        Ballast { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because a file may still be open. It does not matter if nothing was mounted.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// A file that fills a disk. It is removed when dropped.
pub struct Ballast {
    path: std::path::PathBuf,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // The file is emptied first, because a program that another test is starting may have it open for a
        // moment. The disk may already be gone.
        let _ = std::fs::File::create(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn mount(options: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(options).arg(at).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
