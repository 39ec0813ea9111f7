//! Merges the layers: for every key, the value with the highest precedence and its source.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use crate::config::endpoint::carries_user;
use crate::config::inputs::Inputs;
use crate::config::registry::{
    CONFIG_VARIABLE, ConfigKey, ENDPOINTS, VARIABLE_PREFIX, find, is_secret, keys, named, nearest,
};
use crate::config::secret::HIDDEN;

/// The source of a value, as shown in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    File { path: String, line: usize },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "from {path}, line {line}"),
            Self::Variable(name) => write!(f, "from {name}"),
            Self::Flag(name) => write!(f, "from --{name}"),
        }
    }
}

/// A value that has not been checked yet.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) source: Source,
    pub(super) secret: bool,
}

impl Setting {
    /// Returns the value as TOML, or a placeholder if it must not be shown. An empty secret is shown.
    pub(super) fn shown(&self) -> String {
        let empty = self.value.as_str() == Some("") || self.value.as_array().is_some_and(Vec::is_empty);
        let hide = self.secret && !empty;
        if hide { one_line(&Value::from(HIDDEN)) } else { one_line(&self.value) }
    }
}

/// Formats a value as TOML on one line, which the TOML crate does not do. A JSON string is also a TOML
/// string.
fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Hides secrets.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.shown(), self.source)
    }
}

/// One `[[webhooks.endpoints]]` block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) fields: BTreeMap<String, Setting>,
    pub(super) source: Source,
}

impl Block {
    pub(super) const FIELDS: [&str; 21] = [
        "name",
        "url",
        "secret",
        "secret_file",
        "old_secrets",
        "old_secret_files",
        "private_key",
        "private_key_file",
        "events",
        "metadata",
        "description",
        "ordering",
        "payload",
        "signing",
        "max_in_flight",
        "max_per_second",
        "timeout",
        "retry_schedule",
        "auto_disable",
        "ca_file",
        "headers",
    ];
}

#[derive(Debug)]
pub(super) struct Layers {
    settings: BTreeMap<&'static str, Setting>,
    pub(super) endpoints: Vec<Block>,
    /// Errors for names that match no key.
    pub(super) errors: Vec<String>,
    /// Set if the file could not be parsed, so that keys which seem unset may be set in it.
    pub(super) incomplete: bool,
}

impl Layers {
    pub(super) fn new(inputs: &Inputs) -> Self {
        let mut layers =
            Self { settings: BTreeMap::new(), endpoints: Vec::new(), errors: Vec::new(), incomplete: false };
        for key in keys() {
            layers.set(key, key.default.clone(), Source::Default);
        }
        if let Some((path, text)) = &inputs.file {
            layers.lay_file(path, text);
        }
        layers.lay_environment(&inputs.env);
        layers.lay_flags(&inputs.flags);
        layers
    }

    pub(super) fn get(&self, key: &str) -> &Setting {
        self.settings.get(key).expect("a test reads every key, and each has a default")
    }

    fn set(&mut self, key: &'static ConfigKey, value: Value, source: Source) {
        self.settings.insert(&key.name, Setting { value, source, secret: key.is_secret() });
    }

    fn lay_environment(&mut self, variables: &BTreeMap<String, String>) {
        for (name, words) in variables {
            if !name.starts_with(VARIABLE_PREFIX) || name == CONFIG_VARIABLE || is_service_link(name, words) {
                continue;
            }
            match keys().iter().find(|key| key.is_set_by(name)) {
                Some(key) => self.set(key, key.lift(words), Source::Variable(name.clone())),
                None if name.starts_with("LONGSHORE_WEBHOOKS_ENDPOINTS") => {
                    self.errors.push(format!("{name}: endpoints are set in a file, as [[{ENDPOINTS}]] blocks"));
                }
                None => {
                    let known = keys().iter().map(|key| key.variable.as_str());
                    self.errors.push(unknown(name, "in the environment", "variable", nearest(name, known)));
                }
            }
        }
    }

    fn lay_flags(&mut self, flags: &BTreeMap<String, String>) {
        for (name, words) in flags {
            match named(name) {
                Some(key) => self.set(key, key.lift(words), Source::Flag(key.flag.clone())),
                None => self.errors.push(unknown(name, "from a flag", "key", nearest_key(name))),
            }
        }
    }

    fn lay_file(&mut self, path: &Path, text: &str) {
        let file = File { path, text };
        let (table, mistakes) = DeTable::parse_recoverable(text);
        if !mistakes.is_empty() {
            self.incomplete = true;
            self.errors.extend(file.not_toml(&mistakes));
            return;
        }
        for (name, value) in table.into_inner() {
            match value.get_ref() {
                DeValue::Table(_) if find("", name.get_ref()).is_none() => {
                    self.lay_section(&file, name.get_ref(), name.span().start, value)
                }
                _ => self.lay_key(&file, "", &name, value),
            }
        }
    }

    fn lay_section(&mut self, file: &File<'_>, section: &str, at: usize, value: Spanned<DeValue<'_>>) {
        let DeValue::Table(table) = value.into_inner() else { return };
        if table.is_empty() && !is_section(section) {
            let sections = keys().iter().map(|key| key.section.as_str());
            let place = file.source(at).to_string();
            self.errors.push(unknown(section, &place, "section", nearest(section, sections)));
        }
        for (name, value) in table {
            let full = format!("{section}.{}", name.get_ref());
            match value.get_ref() {
                _ if full == ENDPOINTS => self.lay_endpoints(file, &name, value),
                DeValue::Table(_) if is_section(&full) => self.lay_section(file, &full, name.span().start, value),
                _ => self.lay_key(file, section, &name, value),
            }
        }
    }

    fn lay_key(&mut self, file: &File<'_>, section: &str, name: &Spanned<Name<'_>>, value: Spanned<DeValue<'_>>) {
        let source = file.source(name.span().start);
        match find(section, name.get_ref()) {
            Some(key) => self.set(key, file.owned(value), source),
            None => {
                let full = format!("{section}.{}", name.get_ref());
                let full = full.trim_start_matches('.');
                self.errors.push(unknown(full, &source.to_string(), "key", nearest_key(full)));
            }
        }
    }

    fn lay_endpoints(&mut self, file: &File<'_>, name: &Spanned<Name<'_>>, value: Spanned<DeValue<'_>>) {
        let blocks = match value.into_inner() {
            DeValue::Array(blocks) => blocks,
            _ => return self.errors.push(file.not_blocks(name.span().start)),
        };
        for block in blocks {
            let source = file.source(block.span().start);
            match block.into_inner() {
                DeValue::Table(fields) => self.lay_endpoint(file, source, fields),
                _ => self.errors.push(file.not_blocks(name.span().start)),
            }
        }
    }

    fn lay_endpoint(&mut self, file: &File<'_>, source: Source, table: DeTable<'_>) {
        let mut fields = BTreeMap::new();
        for (name, value) in table {
            let source = file.source(name.span().start);
            let name = name.into_inner().into_owned();
            if Block::FIELDS.contains(&name.as_str()) {
                let value = file.owned(value);
                let secret = is_secret(&name) || value.as_str().is_some_and(|text| name == "url" && carries_user(text));
                fields.insert(name, Setting { value, source, secret });
            } else {
                let label = format!("{ENDPOINTS}#{}.{name}", self.endpoints.len() + 1);
                let place = source.to_string();
                self.errors.push(match nearest(&name, Block::FIELDS.into_iter()) {
                    None => format!("{label} ({place}): no such key; an endpoint has {}", Block::FIELDS.join(", ")),
                    known => unknown(&label, &place, "key", known),
                });
            }
        }
        self.endpoints.push(Block { fields, source });
    }
}

type Name<'a> = toml::de::DeString<'a>;

fn is_section(name: &str) -> bool {
    keys().iter().any(|key| key.section == name)
}

fn nearest_key(wrong: &str) -> Option<&'static str> {
    nearest(wrong, keys().iter().map(|key| key.name.as_str()).chain([ENDPOINTS]))
}

fn unknown(name: &str, place: &str, what: &str, nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("{name} ({place}): no such {what}; did you mean {nearest}?"),
        None => format!("{name} ({place}): no such {what}; `longshore config --defaults` shows them all"),
    }
}

/// Reports whether a variable describes a Kubernetes service. Kubernetes describes a service called longshore
/// to its neighbors in variables with this server's prefix. Nobody wrote them, so they are not typos.
fn is_service_link(name: &str, words: &str) -> bool {
    let numbered_port =
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && words.contains("://"))
        || numbered_port()
}

/// The file being read, for messages with line numbers.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn source(&self, at: usize) -> Source {
        Source::File { path: self.path.display().to_string(), line: self.line_number(at) }
    }

    /// Converts the value to an owned one. A number that is too large stays text, which no reader of numbers
    /// accepts.
    fn owned(&self, value: Spanned<DeValue<'_>>) -> Value {
        let span = value.span();
        let literal = || Value::from(self.text.get(span).unwrap_or_default());
        Value::deserialize(ValueDeserializer::from(value)).unwrap_or_else(|_| literal())
    }

    fn line_number(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    }

    /// Returns the first error of each line. Later ones on the same line usually follow from it.
    fn not_toml(&self, mistakes: &[toml::de::Error]) -> impl Iterator<Item = String> {
        let mut by_line = BTreeMap::new();
        for mistake in mistakes {
            let at = mistake.span().map_or(0, |span| span.start);
            let message = mistake.message().lines().collect::<Vec<_>>().join(", ");
            by_line.entry(self.line_number(at)).or_insert(message);
        }
        by_line.into_iter().map(|(line, message)| format!("{}, line {line}: not TOML: {message}", self.path.display()))
    }

    fn not_blocks(&self, at: usize) -> String {
        format!("{ENDPOINTS} ({}): write each endpoint as a [[{ENDPOINTS}]] block", self.source(at))
    }
}
