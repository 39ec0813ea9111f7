//! Permissions of the files that the server creates.

use rustix::fs::Mode;

/// Limits the permissions of files that this process creates from now on to `file_mode`. Users who may read
/// the files may also enter their folders. The umask is the only setting that applies to all of them,
/// including those that SQLite creates.
pub fn restrict_new_files(file_mode: u32) {
    rustix::process::umask(Mode::from_raw_mode(mask(file_mode)));
}

fn mask(file_mode: u32) -> u32 {
    let may_enter = (file_mode & 0o444) >> 2;
    0o777 & !(file_mode | may_enter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_may_be_entered_by_whoever_may_read_files() {
        for (file_mode, folders) in [(0o640, 0o750), (0o600, 0o700), (0o644, 0o755), (0o660, 0o770)] {
            let mask = mask(file_mode);
            assert_eq!((0o666 & !mask, 0o777 & !mask), (file_mode, folders), "{file_mode:o}");
        }
    }
}
