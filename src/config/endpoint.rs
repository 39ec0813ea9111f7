//! The endpoints that are told about events: blocks of the file, checked one by one and together.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;
use sha2::Digest as _;
use sha2::Sha256;
use toml::Value;

use crate::config::auth::read_secret;
use crate::config::layers::Block;
use crate::config::reader::Judged;
use crate::config::reader::Reader;
use crate::config::reader::list;
use crate::config::reader::text;
use crate::config::registry::ENDPOINTS;
use crate::config::secret::HIDDEN;
use crate::config::secret::Secret;
use crate::domain::endpoint::EndpointId;
use crate::domain::event::EventFilter;

/// One receiver of events.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Given, or made from the url so that it stays the same.
    pub name: EndpointId,
    /// Absolute, http or https. It may carry a user and password, so it is not shown as it is.
    pub url: String,
    /// `whsec_` and 24 to 64 bytes in base64.
    pub secret: Secret,
    pub events: EventFilter,
}

/// Hides a url that carries a password.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = if carries_user(&self.url) { HIDDEN } else { &self.url };
        f.debug_struct("Endpoint")
            .field("name", &self.name)
            .field("url", &url)
            .field("secret", &self.secret)
            .field("events", &self.events)
            .finish()
    }
}

pub(super) fn carries_user(url: &str) -> bool {
    url.contains('@')
}

/// Reads every block; a block with something wrong is noted and left out.
pub(super) fn read_endpoints(from: &mut Reader) -> Vec<Endpoint> {
    let blocks = from.layers().endpoints.clone();
    let read = blocks.iter().enumerate().filter_map(|(index, block)| {
        let label = format!("{ENDPOINTS}#{}", index + 1);
        BlockReader { from, block, label }.endpoint().map(|endpoint| (block, endpoint))
    });
    let read: Vec<(&Block, Endpoint)> = read.collect();
    for (index, (block, endpoint)) in read.iter().enumerate() {
        if let Some((other, _)) = read[..index].iter().find(|(_, other)| other.name == endpoint.name) {
            from.refuse_line(format!(
                "{ENDPOINTS} ({}): another endpoint ({}) is called {} too; give each a name of its own",
                block.source, other.source, endpoint.name
            ));
        }
    }
    read.into_iter().map(|(_, endpoint)| endpoint).collect()
}

struct BlockReader<'a> {
    from: &'a mut Reader,
    block: &'a Block,
    /// What messages call the block: `webhooks.endpoints#1`.
    label: String,
}

impl BlockReader<'_> {
    fn endpoint(mut self) -> Option<Endpoint> {
        let url = self.required("url", |value| text(value).and_then(url));
        let secret = self.secret();
        let events = self.optional("events", |value| list(value).and_then(events));
        let name = self.optional("name", |value| text(value).and_then(name));
        let url = url?;
        Some(Endpoint {
            name: name?.unwrap_or_else(|| name_of(&url)),
            url: url.into(),
            secret: secret?,
            events: events?.unwrap_or_else(EventFilter::all_but_progress),
        })
    }

    /// Exactly one of the two ways to give the secret.
    fn secret(&mut self) -> Option<Secret> {
        let (given, file) = (self.block.fields.get("secret"), self.block.fields.get("secret_file"));
        match (given, file) {
            (Some(_), Some(_)) => self.refuse_block("secret and secret_file are both set; remove one of them"),
            (None, None) => self.refuse_block("its secret is missing; write secret or secret_file"),
            (Some(_), None) => self.required("secret", |value| text(value).and_then(signing_secret)),
            (None, Some(_)) => self.required("secret_file", |value| {
                let secret = read_secret(text(value)?)?;
                signing_secret(&secret).map_err(|why| format!("its secret is {why}"))
            }),
        }
    }

    fn required<T>(&mut self, field: &str, parse: impl Fn(&Value) -> Judged<T>) -> Option<T> {
        match self.optional(field, parse)? {
            None => self.refuse_block(&format!("its {field} is missing")),
            found => found,
        }
    }

    /// The outer `None`: it is there and wrong. The inner: it is not there.
    fn optional<T>(&mut self, field: &str, parse: impl Fn(&Value) -> Judged<T>) -> Option<Option<T>> {
        let Some(setting) = self.block.fields.get(field) else { return Some(None) };
        let refuse = |why: String| self.from.refuse(&format!("{}.{field}", self.label), setting, &why);
        parse(&setting.value).map(Some).map_err(refuse).ok()
    }

    fn refuse_block<T>(&mut self, why: &str) -> Option<T> {
        self.from.refuse_line(format!("{} ({}): {why}", self.label, self.block.source));
        None
    }
}

fn url(text: &str) -> Judged<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| {
        "not an absolute http or https URL; write one such as https://backend.example.com/hooks".to_owned()
    })
}

/// Standard Webhooks: 24 to 64 bytes in standard, padded base64. Receivers misread the URL-safe alphabet.
fn signing_secret(text: &str) -> Judged<Secret> {
    let bytes = text.strip_prefix("whsec_").and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
    match bytes.map(|bytes| bytes.len()) {
        Some(24..=64) => Ok(Secret::new(text)),
        Some(bytes) => Err(format!("of {bytes} bytes; it must have 24 to 64")),
        None => Err("not a signing secret; write whsec_ and then 24 to 64 bytes in standard base64".to_owned()),
    }
}

fn events(patterns: Vec<&str>) -> Judged<EventFilter> {
    if patterns.is_empty() {
        return Err("empty, so nothing would be sent; leave it out for all events but upload.progress".to_owned());
    }
    let filter = EventFilter::new(patterns.into_iter().map(str::to_owned).collect());
    filter.map_err(|why| format!("{why}; write names such as upload.completed, or upload.* for all"))
}

fn name(text: &str) -> Judged<EndpointId> {
    EndpointId::new(text).ok_or_else(|| "not a name; write 1 to 64 letters, digits, _ or -".to_owned())
}

/// `ep-` and the first 8 hexadecimal digits of the url's SHA-256.
fn name_of(url: &Url) -> EndpointId {
    let hex = Sha256::digest(url.as_str()).iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>();
    EndpointId::new(format!("ep-{hex}")).expect("hexadecimal digits and a dash make a name")
}
