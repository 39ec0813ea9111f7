//! Webhook endpoints: blocks of the file, checked individually and together.

use std::fmt;

use reqwest::Url;
use reqwest::header::HeaderName;
use sha2::{Digest as _, Sha256};
use toml::Value;

use crate::config::auth::read_secret;
use crate::config::layers::Block;
use crate::config::reader::{Parsed, Reader, count, duration_item, list, text};
use crate::config::registry::ENDPOINTS;
use crate::config::secret::{HIDDEN, SecretText};
use crate::config::units::{number_text, range_text};
use crate::config::webhooks::retry_schedule;
use domain::endpoint::{
    EndpointId, EndpointTerms, Ordering, Payload, RATES, Signing, TIMEOUTS, is_header_value, is_reserved_header,
};
use domain::event::EventFilter;
use outbound::ed25519::{InvalidPrivateKey, PrivateKey};
use outbound::keys::MAX_OLD_KEYS;
use outbound::sign;
use outbound::sign::InvalidSecret;

/// A receiver of events.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Configured, or derived from the URL so that it stays the same.
    pub name: EndpointId,
    /// Absolute http or https URL. It may contain a user and a password, so it is not printed unchanged.
    pub url: String,
    /// The current secret first.
    pub secrets: Vec<sign::SharedSecret>,
    pub private_key: Option<PrivateKey>,
    /// Custom headers, sent with every message.
    pub headers: Vec<(String, SecretText)>,
    /// Settings. Their URL contains neither user nor password.
    pub terms: EndpointTerms,
}

/// Hides a URL that contains a password.
impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = if carries_user(&self.url) { HIDDEN } else { &self.url };
        f.debug_struct("EndpointConfig")
            .field("name", &self.name)
            .field("url", &url)
            .field("secrets", &self.secrets)
            .field("private_key", &self.private_key)
            .field("headers", &self.headers)
            .field("terms", &self.terms)
            .finish()
    }
}

pub(super) fn carries_user(url: &str) -> bool {
    url.contains('@')
}

/// Reads every block. Errors of a block are recorded, and the block is left out.
pub(super) fn read_endpoints(from: &mut Reader) -> Vec<EndpointConfig> {
    let blocks = from.layers().endpoints.clone();
    let read = blocks.iter().enumerate().filter_map(|(index, block)| {
        let label = format!("{ENDPOINTS}#{}", index + 1);
        BlockReader { from, block, label }.endpoint().map(|endpoint| (block, endpoint))
    });
    let read: Vec<(&Block, EndpointConfig)> = read.collect();
    for (index, (block, endpoint)) in read.iter().enumerate() {
        if let Some((other, _)) = read[..index].iter().find(|(_, other)| other.name == endpoint.name) {
            from.reject_line(format!(
                "{ENDPOINTS} ({}): another endpoint ({}) is also named {}; give each endpoint a unique name",
                block.source, other.source, endpoint.name
            ));
        }
    }
    read.into_iter().map(|(_, endpoint)| endpoint).collect()
}

struct BlockReader<'a> {
    from: &'a mut Reader,
    block: &'a Block,
    /// Name of the block in messages: `webhooks.endpoints#1`.
    label: String,
}

impl BlockReader<'_> {
    fn endpoint(mut self) -> Option<EndpointConfig> {
        let url = self.required("url", |value| text(value).and_then(url));
        let name = self.optional("name", |value| text(value).and_then(name));
        let keys = self.keys();
        let headers = self.optional("headers", headers);
        let terms = self.terms();
        let (url, (secrets, private_key, signing)) = (url?, keys?);
        Some(EndpointConfig {
            name: name?.unwrap_or_else(|| name_of(&url)),
            secrets,
            private_key,
            headers: headers?.unwrap_or_default(),
            terms: EndpointTerms { url: without_user(&url), signing, ..terms? },
            url: url.into(),
        })
    }

    /// Reads all settings except those that depend on the URL and the keys.
    fn terms(&mut self) -> Option<EndpointTerms> {
        let filter = self.optional("events", |value| list(value).and_then(events));
        let metadata = self.optional("metadata", pairs);
        let description = self.optional("description", |value| text(value).map(str::to_owned));
        let ordering = self.optional("ordering", |value| {
            one_of(text(value)?, Ordering::by_name, Ordering::ALL.iter().map(|known| known.name()))
        });
        let payload = self.optional("payload", |value| {
            one_of(text(value)?, Payload::by_name, Payload::ALL.iter().map(|known| known.name()))
        });
        let counted = |value: &Value, range| count(value, &range, &range_text(&range, number_text));
        let max_in_flight = self.optional("max_in_flight", |value| counted(value, 1..=10_000));
        let max_per_second = self.optional("max_per_second", |value| counted(value, RATES));
        let timeout = self.optional("timeout", |value| duration_item(text(value)?, &TIMEOUTS));
        let schedule = self.optional("retry_schedule", |value| list(value).and_then(retry_schedule));
        let auto_disable =
            self.optional("auto_disable", |value| value.as_bool().ok_or_else(|| "write true or false".to_owned()));
        let ca_certificates = self.optional("ca_file", |value| read_certificates(text(value)?));
        let as_unsaid = EndpointTerms::of("");
        Some(EndpointTerms {
            url: String::new(),
            description: description?.unwrap_or_default(),
            filter: filter?.unwrap_or(as_unsaid.filter),
            metadata: metadata?.unwrap_or_default(),
            ordering: ordering?.unwrap_or(as_unsaid.ordering),
            payload: payload?.unwrap_or(as_unsaid.payload),
            signing: as_unsaid.signing,
            max_in_flight: max_in_flight?,
            max_per_second: max_per_second?,
            timeout: timeout?,
            retry_schedule: schedule?,
            auto_disable: auto_disable?.unwrap_or(as_unsaid.auto_disable),
            ca_certificates: ca_certificates?,
        })
    }

    /// Reads the signing keys and the kind of signatures. By default the present keys determine the kind.
    fn keys(&mut self) -> Option<(Vec<sign::SharedSecret>, Option<PrivateKey>, Signing)> {
        let secret = self.given_or_in_file("secret", "secret_file", signing_secret);
        let private_key = self.given_or_in_file("private_key", "private_key_file", private_key);
        let old = self.optional("old_secrets", |value| list(value).and_then(old_secrets));
        let old_in_files = self.optional("old_secret_files", |value| list(value).and_then(old_secret_files));
        let signing = self.optional("signing", |value| {
            one_of(text(value)?, Signing::by_name, Signing::ALL.iter().map(|known| known.name()))
        });
        let (secret, private_key) = (secret?, private_key?);
        let (old, old_in_files) = (old?.unwrap_or_default(), old_in_files?.unwrap_or_default());
        if old.len() + old_in_files.len() > MAX_OLD_KEYS {
            return self.reject_block(&format!(
                "its old_secrets and old_secret_files have more than {MAX_OLD_KEYS} secrets; remove those that no \
                 receiver needs"
            ));
        }
        let signing = signing?.unwrap_or(match (&secret, &private_key) {
            (None, Some(_)) => Signing::Ed25519,
            (Some(_), Some(_)) => Signing::Both,
            (_, None) => Signing::Hmac,
        });
        if secret.is_none() && signing != Signing::Ed25519 {
            return self.reject_block("its secret is missing; write secret or secret_file");
        }
        if private_key.is_none() && signing != Signing::Hmac {
            return self.reject_block("its private key is missing; write private_key or private_key_file");
        }
        Some((secret.into_iter().chain(old).chain(old_in_files).collect(), private_key, signing))
    }

    /// Reads a secret that is given directly or in a file, but not both.
    fn given_or_in_file<T>(&mut self, given: &str, file: &str, parse: impl Fn(&str) -> Parsed<T>) -> Option<Option<T>> {
        if self.block.fields.contains_key(given) && self.block.fields.contains_key(file) {
            return self.reject_block(&format!("{given} and {file} are both set; remove one of them"));
        }
        let here = self.optional(given, |value| text(value).and_then(&parse))?;
        let there = self.optional(file, |value| {
            let found = read_secret(text(value)?)?;
            parse(&found).map_err(|why| format!("its secret is {why}"))
        })?;
        Some(here.or(there))
    }

    fn required<T>(&mut self, field: &str, parse: impl Fn(&Value) -> Parsed<T>) -> Option<T> {
        match self.optional(field, parse)? {
            None => self.reject_block(&format!("its {field} is missing")),
            found => found,
        }
    }

    /// Reads a field. Returns the outer `None` if the field is invalid, and the inner `None` if it is absent.
    fn optional<T>(&mut self, field: &str, parse: impl Fn(&Value) -> Parsed<T>) -> Option<Option<T>> {
        let Some(setting) = self.block.fields.get(field) else { return Some(None) };
        let reject = |why: String| self.from.reject(&format!("{}.{field}", self.label), setting, &why);
        parse(&setting.value).map(Some).map_err(reject).ok()
    }

    fn reject_block<T>(&mut self, why: &str) -> Option<T> {
        self.from.reject_line(format!("{} ({}): {why}", self.label, self.block.source));
        None
    }
}

fn url(text: &str) -> Parsed<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        "not an absolute http or https URL; write one such as https://backend.example.com/hooks".to_owned()
    })
}

/// Returns the text of a file. Its contents are checked where they are used.
fn read_certificates(path: &str) -> Parsed<String> {
    std::fs::read_to_string(path).map_err(|why| format!("could not read the file: {why}"))
}

/// Parses a secret in the form of Standard Webhooks.
pub(super) fn signing_secret(text: &str) -> Parsed<sign::SharedSecret> {
    text.parse().map_err(|why| match why {
        InvalidSecret::Length(bytes) => format!("{bytes} bytes long; it must have 24 to 64 bytes"),
        InvalidSecret::Prefix | InvalidSecret::Encoding => {
            "not a signing secret; write whsec_ followed by 24 to 64 bytes in standard base64".to_owned()
        }
    })
}

fn private_key(text: &str) -> Parsed<PrivateKey> {
    text.parse().map_err(|why| match why {
        InvalidPrivateKey::Length(bytes) => {
            format!("{bytes} bytes long; it must have 32 bytes, or 64 with the public key at the end")
        }
        InvalidPrivateKey::Prefix | InvalidPrivateKey::Encoding => {
            "not a private key; write whsk_ followed by 32 or 64 bytes in standard base64".to_owned()
        }
        InvalidPrivateKey::Mismatch => "inconsistent; the public key after the seed does not match the seed".to_owned(),
    })
}

fn old_secret_files(paths: Vec<&str>) -> Parsed<Vec<sign::SharedSecret>> {
    let read = |path: &str| {
        let found = read_secret(path).map_err(|why| format!("{path:?}: {why}"))?;
        signing_secret(&found).map_err(|why| format!("{path:?}: its secret is {why}"))
    };
    paths.into_iter().map(read).collect()
}

fn old_secrets(texts: Vec<&str>) -> Parsed<Vec<sign::SharedSecret>> {
    if texts.len() > MAX_OLD_KEYS {
        return Err(format!("too long; write at most {MAX_OLD_KEYS} secrets"));
    }
    texts.into_iter().map(|text| signing_secret(text).map_err(|why| format!("one of them is {why}"))).collect()
}

/// Reads a table of names and strings.
fn pairs(value: &Value) -> Parsed<Vec<(String, String)>> {
    let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let found = value.as_table().and_then(|table| table.iter().map(pair).collect());
    found.ok_or_else(|| "not a table of strings; write a table such as { tenant = \"a\" }".to_owned())
}

fn headers(value: &Value) -> Parsed<Vec<(String, SecretText)>> {
    let header = |(name, value): (String, String)| {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(format!("invalid; {name:?} is not a header name"));
        }
        if is_reserved_header(&name) {
            return Err(format!("invalid; {name} is set by the server and cannot be changed"));
        }
        if !is_header_value(&value) {
            return Err(format!("invalid; the value of {name} has characters that are not allowed in a header"));
        }
        Ok((name, SecretText::new(value)))
    };
    pairs(value)?.into_iter().map(header).collect()
}

fn one_of<T>(text: &str, by_name: impl Fn(&str) -> Option<T>, names: impl Iterator<Item = &'static str>) -> Parsed<T> {
    by_name(text).ok_or_else(|| format!("unknown; write one of {}", names.collect::<Vec<_>>().join(", ")))
}

fn without_user(url: &Url) -> String {
    let mut url = url.clone();
    // Both succeed for every URL with a host.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.into()
}

fn events(patterns: Vec<&str>) -> Parsed<EventFilter> {
    if patterns.is_empty() {
        return Err(
            "empty, so nothing would be sent; leave it out for all upload events except upload.progress".to_owned()
        );
    }
    let filter = EventFilter::new(patterns.into_iter().map(str::to_owned).collect());
    filter.map_err(|why| format!("{why}; write names such as upload.completed, or upload.* for all upload events"))
}

fn name(text: &str) -> Parsed<EndpointId> {
    EndpointId::new(text).ok_or_else(|| "not a name; write 1 to 64 letters, digits, _ or -".to_owned())
}

/// Returns `ep-` and the first 8 hexadecimal digits of the URL's SHA-256.
fn name_of(url: &Url) -> EndpointId {
    let hex = Sha256::digest(url.as_str()).iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
    EndpointId::new(format!("ep-{hex}")).expect("hexadecimal digits and a dash make a name")
}
