//! Disks for tests: a file with a file system in it, mounted on a folder and discarded afterwards.
//!
//! They have properties that a folder on the developer's own disk lacks: small, with sectors of a chosen
//! size, without direct writes, or cut off from their power at any moment. Creating one needs the right to
//! mount; without it, the error says why, and the test is skipped.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted disk. Unmounted when dropped; the folder it was created in stays.
#[derive(Debug)]
pub struct TestDisk {
    at: PathBuf,
    /// The mounted device, and the type of its file system.
    device: String,
    file_system: &'static str,
}

/// The file system of a test disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    /// At least 300 MiB.
    Xfs,
}

impl FileSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Returns the command that formats a disk, without background work and without space reserved for root.
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Self::Xfs => &["mkfs.xfs", "-q"],
        }
    }
}

impl TestDisk {
    /// Creates a disk in `folder`, or returns the reason why that is not possible.
    pub fn make(folder: &Path, format: FileSystem, sector_bytes: u32, size_bytes: u64) -> Result<Self, String> {
        // Tests use it to query the page cache; without it, fail at once and not in the middle of a test.
        run(&["fincore", "--version"])?;
        let image = folder.join("image");
        File::create(&image).and_then(|file| file.set_len(size_bytes)).map_err(|error| error.to_string())?;
        let sector_bytes = sector_bytes.to_string();
        let device =
            run(&["losetup", "--find", "--show", "--sector-size", &sector_bytes, &image.display().to_string()])?;
        // From here on, dropping it cleans up.
        let disk = Self { at: folder.join("disk"), device, file_system: format.name() };
        run(&[format.command(), &[disk.device.as_str()]].concat())?;
        disk.make_folder()?;
        disk.mount()?;
        Ok(disk)
    }

    /// Mounts a file system in memory that supports no direct writes, and does not know its size.
    pub fn without_direct_writes(folder: &Path) -> Result<Self, String> {
        let disk = Self { at: folder.join("disk"), device: "none".to_owned(), file_system: "ramfs" };
        disk.make_folder()?;
        disk.mount()?;
        Ok(disk)
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Cuts the power: from now on nothing reaches the disk, unwritten data is lost, and further operations
    /// fail.
    pub fn cut_power(&self) -> Result<(), String> {
        run(&["xfs_io", "-x", "-c", "shutdown", &self.at.display().to_string()]).map(drop)
    }

    /// Mounts the disk again, as after a power loss: the file system replays its journal. No file may be
    /// open.
    pub fn power_on(&self) -> Result<(), String> {
        run(&["umount", &self.at.display().to_string()])?;
        self.mount()
    }

    fn make_folder(&self) -> Result<(), String> {
        fs::create_dir_all(&self.at).map_err(|error| error.to_string())
    }

    fn mount(&self) -> Result<(), String> {
        run(&["mount", "-t", self.file_system, &self.device, &self.at.display().to_string()]).map(drop)
    }
}

impl Drop for TestDisk {
    fn drop(&mut self) {
        // Lazily, because a file may still be open; an error is fine if it was never mounted.
        let _ = run(&["umount", "-l", &self.at.display().to_string()]);
        if self.device.starts_with("/dev/loop") {
            let _ = run(&["losetup", "--detach", &self.device]);
        }
    }
}

/// Returns the number of bytes of a file in the page cache.
pub fn cached_bytes(path: &Path) -> Result<u64, String> {
    let counted = run(&["fincore", "--bytes", "--noheadings", "--output", "RES", &path.display().to_string()])?;
    counted.parse().map_err(|_| format!("fincore said {counted:?}"))
}

/// Runs a system command and returns its output; on failure, or if it does not exist, returns the reason.
fn run(command: &[&str]) -> Result<String, String> {
    let (name, args) = command.split_first().ok_or("no command")?;
    let path = std::env::var("PATH").unwrap_or_default();
    // The folders of such commands, also for users whose path lacks them.
    let ran = Command::new(name).args(args).env("PATH", format!("{path}:/usr/sbin:/sbin")).output();
    let output = ran.map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{name}: {}", text(&output.stderr))) }
}
