//! Settings of object stores.

use std::time::Duration;

use crate::config::auth::read_secret;
use crate::config::reader::{Parsed, Reader};
use crate::config::units::{GIB, MIB};
use storage_object::{ObjectStoreSettings, PartChecksum, S3Keys, S3Settings, Secret};

/// The pair of keys that name the secret.
const SECRET: [&str; 2] = ["s3.secret_access_key", "s3.secret_access_key_file"];

/// Reads the settings. Those of a bucket are `None` where none is named.
pub(super) fn read(from: &mut Reader) -> (Option<S3Settings>, ObjectStoreSettings) {
    let secret = from.text(SECRET[0], |text| Ok(Some(text.to_owned()).filter(|text| !text.is_empty())));
    let from_file = from.text(SECRET[1], |path| match path {
        "" => Ok(None),
        path => read_secret(path).map(Some),
    });
    from.require(secret.is_none() || from_file.is_none(), &SECRET, |others| {
        format!("set together with {}; leave one of them empty", others.join(", "))
    });
    let secret = secret.or(from_file);
    let access_key_id = from.text("s3.access_key_id", |text| Ok(text.to_owned()));
    let is_pair = access_key_id.is_empty() == secret.is_none();
    from.require(is_pair, &["s3.access_key_id", SECRET[0], SECRET[1]], |_| {
        "an access key has a name and a secret; set both, or leave both empty to use the role of this machine"
            .to_owned()
    });
    let keys = secret.map(|secret| S3Keys { access_key_id, secret: Secret::new(secret) });
    let bucket = from.text("s3.bucket", bucket);
    let s3 = S3Settings {
        bucket: bucket.clone().unwrap_or_default(),
        region: from.text("s3.region", region),
        endpoint: from.text("s3.endpoint", endpoint),
        path_style: from.boolean("s3.path_style"),
        keys,
        checksum: from.text("s3.checksum", checksum),
    };
    let store = ObjectStoreSettings {
        prefix: from.text("s3.prefix", prefix),
        part_bytes: from.size("storage.part_size", 5 * MIB..=5 * GIB),
        give_up_after: from.duration("s3.give_up_after", Duration::from_secs(1)..=Duration::from_secs(600)),
        parts_in_flight: from.count("s3.max_in_flight", 1..=10_000),
        ..ObjectStoreSettings::default()
    };
    (bucket.map(|_| s3), store)
}

fn bucket(name: &str) -> Parsed<Option<String>> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    match name {
        "" => Ok(None),
        name if (3..=255).contains(&name.len()) && name.bytes().all(is_plain) => Ok(Some(name.to_owned())),
        _ => Err("not the name of a bucket; write 3 to 255 lower-case letters, digits, - and .".to_owned()),
    }
}

fn region(name: &str) -> Parsed<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match name {
        name if (1..=64).contains(&name.len()) && name.bytes().all(is_plain) => Ok(name.to_owned()),
        _ => {
            Err("not the name of a region; write one such as eu-central-1, or us-east-1 if the store has none"
                .to_owned())
        }
    }
}

fn endpoint(text: &str) -> Parsed<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let hint = || "not the URL of a store; write one such as https://s3.example.com, without a path".to_owned();
    let url = reqwest::Url::parse(text).map_err(|_| hint())?;
    let is_plain = matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/";
    let is_bare =
        url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    if is_plain && is_bare { Ok(Some(text.trim_end_matches('/').to_owned())) } else { Err(hint()) }
}

fn prefix(text: &str) -> Parsed<String> {
    let is_segment = |segment: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !segment.is_empty() && !matches!(segment, "." | "..") && segment.bytes().all(is_plain)
    };
    let folder = text.trim_matches('/');
    match folder {
        "" => Ok(String::new()),
        folder if folder.len() <= 400 && folder.split('/').all(is_segment) => Ok(folder.to_owned()),
        _ => {
            Err("not a folder; write up to 400 letters, digits, - _ . and single slashes, such as uploads/video"
                .to_owned())
        }
    }
}

fn checksum(name: &str) -> Parsed<PartChecksum> {
    match name {
        "auto" => Ok(PartChecksum::Auto),
        "crc32c" => Ok(PartChecksum::Crc32c),
        "off" => Ok(PartChecksum::Off),
        _ => Err("write auto, crc32c or off".to_owned()),
    }
}
