//! Every key, read from the default file itself: its name, its default, and the comment above it.

use std::sync::LazyLock;

use toml::Value;

/// The defaults and their documentation, as people read them.
pub const DEFAULTS: &str = include_str!("default.toml");

/// Names the configuration file; the one variable that is not a key.
pub const CONFIG_VARIABLE: &str = "LONGSHORE_CONFIG";

/// What every variable of ours begins with.
pub const VARIABLE_PREFIX: &str = "LONGSHORE_";

/// Blocks of this name are in no registry: they are many, and live only in a file.
pub(super) const ENDPOINTS: &str = "webhooks.endpoints";

/// Keys that have moved, by their names of before, which are still understood.
const MOVED: [(&str, &str); 2] =
    [("storage.direct_io", "storage.local.direct_io"), ("storage.preallocate", "storage.local.preallocate")];

/// One setting, under each of its names.
#[derive(Debug)]
pub struct ConfigKey {
    /// `limits.idle_timeout`, or `listen` at the top.
    pub name: String,
    /// `limits`, or nothing at the top.
    pub section: String,
    /// `LONGSHORE_LIMITS_IDLE_TIMEOUT`
    pub variable: String,
    /// `limits-idle-timeout`
    pub flag: String,
    /// The variable and the flag that set it when it had another name.
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

    /// The name within its section.
    pub(crate) fn leaf(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(_, leaf)| leaf)
    }

    /// Whether a variable of this name sets it.
    pub(super) fn is_set_by(&self, variable: &str) -> bool {
        self.variable == variable || self.variable_before.as_deref() == Some(variable)
    }

    /// The first sentence of the comment, without its full stop.
    pub fn summary(&self) -> &str {
        self.doc.split_once(". ").map_or(self.doc.as_str(), |(first, _)| first).trim_end_matches('.')
    }

    /// Whether its value must not be shown.
    pub(crate) fn is_secret(&self) -> bool {
        is_secret(self.leaf())
    }

    /// Gives words from a variable or a flag the type this key has in a file. Words that do not fit stay
    /// text, which the reader of the key then refuses.
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

/// `LONGSHORE_LIMITS_IDLE_TIMEOUT`
fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('.', "_").to_uppercase())
}

/// `limits-idle-timeout`
fn flag(name: &str) -> String {
    name.replace(['.', '_'], "-")
}

/// Items between commas; empty words are an empty list.
fn list_items(words: &str) -> impl Iterator<Item = &str> {
    let words = words.trim();
    words.split(',').map(str::trim).filter(move |_| !words.is_empty())
}

/// Secrets are told by their names, here and in the blocks of endpoints.
pub(super) fn is_secret(leaf: &str) -> bool {
    // What should be hashes of keys may by mistake be the keys.
    matches!(leaf, "token" | "secret" | "old_secrets" | "private_key" | "headers" | "admin_keys")
}

/// All keys, in the order of the default file.
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

/// Where the reference has a key.
pub(super) fn place_of(name: &str) -> Option<usize> {
    keys().iter().position(|key| key.name == name)
}

/// Endpoints come after all other keys of their section.
pub(super) fn place_of_endpoints() -> Option<usize> {
    keys().iter().rposition(|key| key.section == "webhooks")
}

fn moved(before: &str) -> Option<&'static ConfigKey> {
    let (_, now) = MOVED.iter().find(|(name, _)| *name == before)?;
    keys().iter().find(|key| key.name == *now)
}

/// Reads the default file line by line, because a TOML parser throws comments away. It relies on how that
/// file is written: one line for each key, its comment right above it in lines that begin with `# `.
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

/// The known name most like a wrong one, if any is like it: a slip of the
/// fingers, or the right word in another section.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let leaf = |name: &'_ str| name.rsplit('.').next().map(str::to_owned);
    let slips = |name: &str| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    let distance = |name: &str| if leaf(name) == leaf(wrong) { slips(name).min(1) } else { slips(name) };
    let nearest = known.min_by_key(|name| (distance(name), slips(name)))?;
    (distance(nearest) <= wrong.len().div_ceil(5).max(2)).then_some(nearest)
}
