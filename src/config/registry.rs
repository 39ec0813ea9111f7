//! All keys, read from the default file: name, default, and the comment above the key.

use std::sync::LazyLock;

use toml::Value;

/// The defaults and their documentation, as printed for people.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Variable that names the configuration file; the only one that is not a key.
pub const CONFIG_VARIABLE: &str = "LONGSHORE_CONFIG";

/// Prefix of all environment variables of the configuration.
pub const VARIABLE_PREFIX: &str = "LONGSHORE_";

/// Name of the blocks of endpoints. They are not in the registry: there can be several, and only in a file.
pub(super) const ENDPOINTS: &str = "webhooks.endpoints";

/// Renamed keys, from old names, which are still accepted, to new ones.
const MOVED: [(&str, &str); 2] =
    [("storage.direct_io", "storage.local.direct_io"), ("storage.preallocate", "storage.local.preallocate")];

/// A setting with its names in each layer.
#[derive(Debug)]
pub struct ConfigKey {
    /// `limits.idle_timeout`, or `listen` at the top.
    pub name: String,
    /// `limits`, or empty at the top.
    pub section: String,
    /// `LONGSHORE_LIMITS_IDLE_TIMEOUT`
    pub variable: String,
    /// `limits-idle-timeout`
    pub flag: String,
    /// Variable and flag under the key's old name.
    pub variable_before: Option<String>,
    pub flag_before: Option<String>,
    /// The comment above the key, as one line.
    pub doc: String,
    pub default: Value,
}

impl ConfigKey {
    fn new(section: &str, leaf: &str, doc: String, default: Value) -> Self {
        let name = if section.is_empty() { leaf.to_owned() } else { format!("{section}.{leaf}") };
        let before = MOVED.iter().find(|(_, now)| *now == name).map(|(before, _)| *before);
        Self {
            section: section.to_owned(),
            variable: variable(&name),
            flag: flag(&name),
            variable_before: before.map(variable),
            flag_before: before.map(flag),
            doc,
            default,
            name,
        }
    }

    /// Returns the name within its section.
    pub(crate) fn leaf(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(_, leaf)| leaf)
    }

    /// Reports whether a variable of this name sets the key.
    pub(super) fn is_set_by(&self, variable: &str) -> bool {
        self.variable == variable || self.variable_before.as_deref() == Some(variable)
    }

    /// Returns the first sentence of the comment, without its full stop.
    pub fn summary(&self) -> &str {
        self.doc.split_once(". ").map_or(self.doc.as_str(), |(first, _)| first).trim_end_matches('.')
    }

    /// Reports whether the value must not be shown.
    pub(crate) fn is_secret(&self) -> bool {
        DATABASE_URLS.contains(&self.name.as_str()) || is_secret(self.leaf())
    }

    /// Converts text from a variable or a flag to the type that this key has in a file. Text that does not
    /// fit stays text, which the reader of the key then rejects.
    pub(super) fn lift(&self, words: &str) -> Value {
        let text = || Value::String(words.to_owned());
        match &self.default {
            Value::Integer(_) => words.parse().map_or_else(|_| text(), Value::Integer),
            Value::Boolean(_) => words.parse().map_or_else(|_| text(), Value::Boolean),
            Value::Array(_) => Value::Array(list_items(words).map(|item| Value::String(item.to_owned())).collect()),
            _ => text(),
        }
    }
}

/// Returns the variable of a key, such as `LONGSHORE_LIMITS_IDLE_TIMEOUT`.
fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('.', "_").to_uppercase())
}

/// Returns the flag of a key, such as `limits-idle-timeout`.
fn flag(name: &str) -> String {
    name.replace(['.', '_'], "-")
}

/// Splits text at commas. Empty text is an empty list.
fn list_items(words: &str) -> impl Iterator<Item = &str> {
    let words = words.trim();
    words.split(',').map(str::trim).filter(move |_| !words.is_empty())
}

/// They may contain a password.
const DATABASE_URLS: [&str; 3] = ["database.url", "database.direct_url", "database.replica_urls"];

/// Reports whether a key is secret, by its name, here and in the blocks of endpoints.
pub(super) fn is_secret(leaf: &str) -> bool {
    // Keys might be written by mistake in place of their hashes.
    matches!(leaf, "token" | "secret" | "secret_access_key" | "old_secrets" | "private_key" | "headers" | "admin_keys")
}

/// Returns all keys, in the order of the default file.
pub fn keys() -> &'static [ConfigKey] {
    static KEYS: LazyLock<Vec<ConfigKey>> = LazyLock::new(|| scan(DEFAULTS));
    &KEYS
}

pub(super) fn find(section: &str, leaf: &str) -> Option<&'static ConfigKey> {
    let is_here = |key: &&ConfigKey| key.section == section && key.leaf() == leaf;
    keys().iter().find(is_here).or_else(|| moved(&format!("{section}.{leaf}")))
}

pub(super) fn named(name: &str) -> Option<&'static ConfigKey> {
    keys().iter().find(|key| key.name == name).or_else(|| moved(name))
}

/// Returns the position of a key in the reference.
pub(super) fn place_of(name: &str) -> Option<usize> {
    keys().iter().position(|key| key.name == name)
}

/// Returns the position of endpoints, which come after all other keys of their section.
pub(super) fn place_of_endpoints() -> Option<usize> {
    keys().iter().rposition(|key| key.section == "webhooks")
}

fn moved(before: &str) -> Option<&'static ConfigKey> {
    let (_, now) = MOVED.iter().find(|(name, _)| *name == before)?;
    keys().iter().find(|key| key.name == *now)
}

/// Reads the default file line by line, because a TOML parser discards comments. Relies on the form of that
/// file: one line for each key, its comment directly above it in lines that begin with `# `.
fn scan(defaults: &str) -> Vec<ConfigKey> {
    let mut keys = Vec::new();
    let mut section = "";
    let mut doc: Vec<&str> = Vec::new();
    for line in defaults.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            doc.push(comment);
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((leaf, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let default = value.parse().expect("a test reads the built-in defaults");
            keys.push(ConfigKey::new(section, leaf, doc.join(" "), default));
        }
        doc.clear();
    }
    keys
}

/// Returns the known name that is most similar to a wrong one, if it is similar enough: a typing error, or
/// the right word in another section.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let leaf = |name: &'_ str| name.rsplit('.').next().map(str::to_owned);
    let slips = |name: &str| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    let distance = |name: &str| if leaf(name) == leaf(wrong) { slips(name).min(1) } else { slips(name) };
    let nearest = known.min_by_key(|name| (distance(name), slips(name)))?;
    (distance(nearest) <= wrong.len().div_ceil(5).max(2)).then_some(nearest)
}
