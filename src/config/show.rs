//! Prints the effective configuration as a file that could be read again if its secrets were not hidden.

use toml::Value;

use crate::config::layers::{Block, Layers, Setting, Source};
use crate::config::registry::{ENDPOINTS, keys};

impl Layers {
    /// Returns the configuration as TOML. `names` are the names of the endpoints, configured or derived.
    pub(super) fn to_toml(&self, names: &[&str]) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in keys() {
            if key.section != section {
                self.push_endpoints_after(section, names, &mut text);
                section = &key.section;
                text.push_str(&format!("\n[{section}]\n"));
            }
            text.push_str(&entry(key.leaf(), self.get(&key.name)));
        }
        text
    }

    fn push_endpoints_after(&self, section: &str, names: &[&str], text: &mut String) {
        if section != "webhooks" {
            return;
        }
        for (block, name) in self.endpoints.iter().zip(names) {
            text.push_str(&format!("\n[[{ENDPOINTS}]]  # {}\n", block.source));
            if !block.fields.contains_key("name") {
                text.push_str(&format!("name = {}  # made from the url\n", Value::from(*name)));
            }
            for name in Block::FIELDS {
                let field = block.fields.get(name);
                text.extend(field.map(|setting| format!("{name} = {}\n", setting.shown())));
            }
        }
    }
}

/// Formats an entry: `idle_timeout = "2m"  # from LONGSHORE_LIMITS_IDLE_TIMEOUT`
fn entry(leaf: &str, setting: &Setting) -> String {
    match setting.source {
        Source::Default => format!("{leaf} = {}\n", setting.shown()),
        _ => format!("{leaf} = {}  # {}\n", setting.shown(), setting.source),
    }
}
