//! Disks to test on: a file with a file system in it, mounted on a folder and thrown away afterwards.
//!
//! They are what a folder on the developer's own disk is not: small, with sectors of a chosen size, without
//! direct writes, or cut off from their power in the middle of everything. Making one takes the right to
//! mount; who may not is told so, and skips the test.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted disk. Unmounted when dropped; the folder it was made in stays.
#[derive(Debug)]
pub struct TestDisk {
    at: PathBuf,
    /// What is mounted, and as what.
    device: String,
    file_system: &'static str,
}

/// What a disk is formatted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    /// Not below 300 MiB.
    Xfs,
}

impl FileSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The command that makes one, leaving nothing to work on in the background or to keep for root.
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Self::Xfs => &["mkfs.xfs", "-q"],
        }
    }
}

impl TestDisk {
    /// Makes a disk in `folder`, and says why where that is not permitted.
    pub fn make(folder: &Path, format: FileSystem, sector_bytes: u32, size_bytes: u64) -> Result<Self, String> {
        // Tests ask it what the page cache holds; better none begins than that one ends in the middle.
        run(&["fincore", "--version"])?;
        let image = folder.join("image");
        File::create(&image).and_then(|file| file.set_len(size_bytes)).map_err(|error| error.to_string())?;
        let sector_bytes = sector_bytes.to_string();
        let device =
            run(&["losetup", "--find", "--show", "--sector-size", &sector_bytes, &image.display().to_string()])?;
        // From here on dropping it tidies up.
        let disk = Self { at: folder.join("disk"), device, file_system: format.name() };
        run(&[format.command(), &[disk.device.as_str()]].concat())?;
        disk.make_folder()?;
        disk.mount()?;
        Ok(disk)
    }

    /// A file system in memory that knows no direct writes, and does not know its size either.
    pub fn without_direct_writes(folder: &Path) -> Result<Self, String> {
        let disk = Self { at: folder.join("disk"), device: "none".to_owned(), file_system: "ramfs" };
        disk.make_folder()?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// From now on nothing reaches the disk: what is not on it is lost, and
    /// everyone who asks for more gets an error.
    pub fn cut_power(&self) -> Result<(), String> {
        run(&["xfs_io", "-x", "-c", "shutdown", &self.at.display().to_string()]).map(drop)
    }

    /// Mounts it anew, as after a power loss: the file system makes
    /// good what it had begun. Nobody may use it.
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
        // Lazily, because a file may still be open; what was never mounted does not matter.
        let _ = run(&["umount", "-l", &self.at.display().to_string()]);
        if self.device.starts_with("/dev/loop") {
            let _ = run(&["losetup", "--detach", &self.device]);
        }
    }
}

/// How much of a file the page cache holds.
pub fn cached_bytes(path: &Path) -> Result<u64, String> {
    let counted = run(&["fincore", "--bytes", "--noheadings", "--output", "RES", &path.display().to_string()])?;
    counted.parse().map_err(|_| format!("fincore said {counted:?}"))
}

/// Runs a system command and gives what it printed; says what was wrong if it failed or is not there.
fn run(command: &[&str]) -> Result<String, String> {
    let (name, args) = command.split_first().ok_or("no command")?;
    let path = std::env::var("PATH").unwrap_or_default();
    // Where such commands are, also for users who do not look there.
    let ran = Command::new(name).args(args).env("PATH", format!("{path}:/usr/sbin:/sbin")).output();
    let output = ran.map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{name}: {}", text(&output.stderr))) }
}
