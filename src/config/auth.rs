//! Who may use the server.

use std::fs::File;
use std::io::Read;

use crate::config::reader::Judged;
use crate::config::reader::Reader;
use crate::config::secret::Secret;
use crate::keyring::AdminKeyHash;
use crate::keyring::ServerKeys;

/// Each is compared with whatever a request brings.
const MAX_ADMIN_KEYS: usize = 100;

/// The most a file with a secret may hold.
const SECRET_FILE_MAX: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// What `Authorization: Bearer` must carry. `None`: everyone may.
    pub token: Option<Secret>,
    /// What opens the administration of webhooks, and everything else.
    pub admin_keys: Vec<AdminKeyHash>,
    /// The keys of this server. `None`: they are in the data folder.
    pub server_keys: Option<ServerKeys>,
}

impl Auth {
    pub(super) fn read(from: &mut Reader) -> Self {
        let token = from.text("auth.token", optional_token);
        let from_file = from.text("auth.token_file", |path| match path {
            "" => Ok(None),
            path => read_secret(path).and_then(|text| check_token(&text).map_err(|why| format!("its token is {why}"))),
        });
        let both = token.is_some() && from_file.is_some();
        from.require(!both, &["auth.token", "auth.token_file"], |others| {
            format!("set together with {}; leave one of them empty", others.join(", "))
        });
        Self {
            token: token.or(from_file),
            admin_keys: from.list("auth.admin_keys", admin_keys),
            server_keys: from.text("auth.server_key_file", optional_keys),
        }
    }
}

fn optional_token(text: &str) -> Judged<Option<Secret>> {
    if text.is_empty() { Ok(None) } else { check_token(text) }
}

fn check_token(text: &str) -> Judged<Option<Secret>> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("not a token; write letters, digits and punctuation, without spaces".to_owned());
    }
    match text.len() {
        0..16 => Err("too short; write at least 16 characters".to_owned()),
        16..=512 => Ok(Some(Secret::new(text))),
        _ => Err("too long; write at most 512 characters".to_owned()),
    }
}

fn admin_keys(hashes: Vec<&str>) -> Judged<Vec<AdminKeyHash>> {
    if hashes.len() > MAX_ADMIN_KEYS {
        return Err(format!("too many; give at most {MAX_ADMIN_KEYS}"));
    }
    let read = |(number, hash): (usize, &str)| hash.parse().map_err(|why| format!("item {number} is {why}"));
    (1..).zip(hashes).map(read).collect()
}

fn optional_keys(path: &str) -> Judged<Option<ServerKeys>> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = read_secret(path)?;
    ServerKeys::parse(&text).map(Some).map_err(|why| why.to_string())
}

/// The text of a file without the newline at its end.
pub(super) fn read_secret(path: &str) -> Judged<String> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(SECRET_FILE_MAX + 1).read_to_string(&mut text));
    match file {
        Err(why) => Err(format!("could not read the file: {why}")),
        Ok(_) if text.len() > 4096 => Err("the file holds more than a secret: over 4KiB".to_owned()),
        Ok(_) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
    }
}
