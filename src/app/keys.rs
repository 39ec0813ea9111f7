//! The server's own keys: read from the configured file, or from one in the data folder, which is generated
//! at the first start.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::{fs, io};

use anyhow::Context;

use crate::config::AuthConfig;
use keyring::ServerKeys;

const FILE_NAME: &str = "longshore.key";

/// Name of the key file until it is completely on disk.
const UNFINISHED_NAME: &str = "longshore.key.new";

/// Returns the keys of this server. This process has already locked the data folder, so no other process
/// generates keys concurrently.
pub(super) fn open(config: &AuthConfig, data_dir: &Path) -> anyhow::Result<ServerKeys> {
    match &config.server_keys {
        Some(keys) => Ok(keys.clone()),
        None => open_in(data_dir).with_context(|| format!("could not use {}", data_dir.join(FILE_NAME).display())),
    }
}

fn open_in(data_dir: &Path) -> anyhow::Result<ServerKeys> {
    let path = data_dir.join(FILE_NAME);
    match fs::read_to_string(&path) {
        Ok(text) => {
            warn_if_open_to_others(&path)?;
            Ok(ServerKeys::parse(&text)?)
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let keys = ServerKeys::generate(rand::random(), rand::random());
            write(data_dir, keys.to_text().as_bytes())?;
            Ok(keys)
        }
        Err(why) => Err(why.into()),
    }
}

/// Writes the file durably and atomically: after a crash it exists completely or not at all.
fn write(data_dir: &Path, text: &[u8]) -> io::Result<()> {
    let unfinished = data_dir.join(UNFINISHED_NAME);
    match fs::remove_file(&unfinished) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&unfinished, data_dir.join(FILE_NAME))?;
    File::open(data_dir)?.sync_all()
}

fn warn_if_open_to_others(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!("other users of this machine can read or change {}; run chmod 600 on it", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_are_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        // The remains of an interrupted start.
        fs::write(folder.path().join(UNFINISHED_NAME), "0a:").unwrap();
        let auth = crate::config::Config::default().auth;
        let made = open(&auth, folder.path()).unwrap();
        let mode = fs::metadata(folder.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished is left");
        assert_eq!(open(&auth, folder.path()).unwrap(), made);

        let other = tempfile::tempdir().unwrap();
        assert_ne!(open(&auth, other.path()).unwrap(), made, "each server has its own");
    }

    #[test]
    fn a_file_that_is_wrong_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, "").unwrap();
        let error = open(&crate::config::Config::default().auth, folder.path()).unwrap_err();
        let said = format!("{error:#}");
        assert!(said.starts_with("could not use ") && said.ends_with("on a separate line"), "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
