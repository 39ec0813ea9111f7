//! Access to the server: credentials, rights of clients, and host names.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use crate::config::cors::CorsConfig;
use crate::config::reader::{Parsed, Reader};
use crate::config::secret::SecretText;
use crate::config::server::ServerConfig;
use crate::config::units::minutes;
use domain::host::Host;
use keyring::{AdminKeyHash, ServerKeys};

/// Maximum number of admin keys. Each is compared with the credential of a request.
const MAX_ADMIN_KEYS: usize = 100;

/// Maximum size of a file with a secret, in bytes.
const SECRET_FILE_MAX: u64 = 4096;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Token required in `Authorization: Bearer`. `None` allows everyone.
    pub token: Option<SecretText>,
    /// Hashes of the keys that grant the administration of webhooks, and all other rights.
    pub admin_keys: Vec<AdminKeyHash>,
    /// Keys of this server. `None`: they are in the data folder.
    pub server_keys: Option<ServerKeys>,
    /// Set if a server without a token may be reachable from other machines.
    pub open: bool,
    /// Hosts that a server without a token accepts, besides loopback names and its own addresses.
    pub hosts: Vec<Host<'static>>,
    /// Set if clients may list uploads and follow the events of all of them.
    pub public_list: bool,
    /// Set if clients may download.
    pub public_download: bool,
    /// Set if clients may delete uploads.
    pub public_terminate: bool,
    pub read_token_lifetime: Duration,
    /// Set if a read token may be in the query of a URL.
    pub query_tokens: bool,
}

impl AuthConfig {
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
            open: from.boolean("auth.open"),
            hosts: from.list("auth.hosts", hosts),
            public_list: from.boolean("auth.public_list"),
            public_download: from.boolean("auth.public_download"),
            public_terminate: from.boolean("auth.public_terminate"),
            read_token_lifetime: from.duration("auth.read_token_lifetime", minutes(1)..=minutes(60)),
            query_tokens: from.boolean("auth.query_tokens"),
        }
    }

    /// Rejects a server that is open to everyone unless that is configured explicitly. With a token, all
    /// checks pass.
    pub(super) fn check(&self, server: &ServerConfig, cors: &CorsConfig, from: &mut Reader) {
        let credential = ["auth.token", "auth.token_file"];
        let anyone = self.token.is_none();
        if let Some(key) = server.reached_from_elsewhere() {
            from.require(!anyone || self.open, &[key, credential[0], credential[1], "auth.open"], |_| {
                "can be reached from other machines, and no token is set; set auth.token_file (or auth.token) to the \
                 token that clients send, or set auth.open = true and auth.hosts to let everyone who reaches it \
                 upload, read and delete"
                    .to_owned()
            });
            let named = !anyone || !self.open || !self.hosts.is_empty();
            from.require(named, &["auth.open", "auth.hosts", key, credential[0], credential[1]], |_| {
                "requires auth.hosts: the hosts in the URLs that clients use, such as uploads.example.com; requests \
                 for other hosts are rejected, so that no other web page can pass for a page of this server"
                    .to_owned()
            });
        }
        let meant = !anyone || self.open || !cors.allow_origins.admit_everyone();
        from.require(meant, &["cors.allow_origins", "auth.open", credential[0], credential[1]], |_| {
            "lets every web page that is opened on this machine read and delete uploads, and no token is set; write \
             \"auto\" or list the origins you trust, set auth.token_file (or auth.token), or set auth.open = true"
                .to_owned()
        });
    }
}

fn optional_token(text: &str) -> Parsed<Option<SecretText>> {
    if text.is_empty() { Ok(None) } else { check_token(text) }
}

fn check_token(text: &str) -> Parsed<Option<SecretText>> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("not a valid token; write letters, digits and punctuation characters, without spaces".to_owned());
    }
    match text.len() {
        0..16 => Err("too short; write at least 16 characters".to_owned()),
        16..=512 => Ok(Some(SecretText::new(text))),
        _ => Err("too long; write at most 512 characters".to_owned()),
    }
}

fn admin_keys(hashes: Vec<&str>) -> Parsed<Vec<AdminKeyHash>> {
    if hashes.len() > MAX_ADMIN_KEYS {
        return Err(format!("too many; give at most {MAX_ADMIN_KEYS}"));
    }
    let read = |(number, hash): (usize, &str)| hash.parse().map_err(|why| format!("item {number} is {why}"));
    (1..).zip(hashes).map(read).collect()
}

fn hosts(items: Vec<&str>) -> Parsed<Vec<Host<'static>>> {
    let host = |item: &str| {
        let hint = || {
            format!("{item:?} is not a host; write a name or an address without a port, such as uploads.example.com")
        };
        Host::parse(item).map(Host::into_owned).ok_or_else(hint)
    };
    items.into_iter().map(host).collect()
}

fn optional_keys(path: &str) -> Parsed<Option<ServerKeys>> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = read_secret(path)?;
    ServerKeys::parse(&text).map(Some).map_err(|why| why.to_string())
}

/// Returns the text of a file, without the newline at its end.
pub(crate) fn read_secret(path: &str) -> Parsed<String> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(SECRET_FILE_MAX + 1).read_to_string(&mut text));
    match file {
        Err(why) => Err(format!("could not read the file: {why}")),
        Ok(_) if text.len() > 4096 => Err("the file is larger than 4KiB; it must contain only the secret".to_owned()),
        Ok(_) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
    }
}
