//! The flags for the keys of the configuration, and the inputs that they provide.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::{Arg, ArgMatches};
use toml::Value;

use crate::config::{CONFIG_VARIABLE, Config, ConfigErrors, ConfigKey, Inputs, keys};

pub(super) const AFTER_HELP: &str = "\
Every flag is also a key of the configuration file and an environment variable: --limits-idle-timeout is \
idle_timeout in [limits] and LONGSHORE_LIMITS_IDLE_TIMEOUT. Flags take precedence over variables, and variables over \
the file.

`longshore config --defaults` explains every setting.";

/// Reads the configuration from the flags, the given environment, and the file that either names.
pub fn load(matches: &ArgMatches, env: &BTreeMap<String, String>) -> Result<Config, ConfigErrors> {
    Config::read(&inputs(matches, env)?)
}

pub(super) fn inputs(matches: &ArgMatches, env: &BTreeMap<String, String>) -> Result<Inputs, ConfigErrors> {
    let typed = |key: &ConfigKey| matches.try_get_one::<String>(&key.name).ok().flatten().cloned();
    let flags = keys().iter().filter_map(|key| typed(key).map(|words| (key.name.clone(), words))).collect();
    Ok(Inputs { file: read_file(matches, env)?, env: env.clone(), flags })
}

fn read_file(matches: &ArgMatches, env: &BTreeMap<String, String>) -> Result<Option<(PathBuf, String)>, ConfigErrors> {
    let flag = matches.get_one::<PathBuf>("config").map(|path| (path.clone(), "--config"));
    let variable = env.get(CONFIG_VARIABLE).filter(|path| !path.is_empty());
    let Some((path, source)) = flag.or_else(|| variable.map(|path| (path.into(), CONFIG_VARIABLE))) else {
        return Ok(None);
    };
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(why) => {
            let path = path.display();
            Err(ConfigErrors::one(format!("could not read the configuration file {path} (from {source}): {why}")))
        }
    }
}

/// Returns `--config` and a flag for every key, under the heading of its section.
pub(super) fn all_flags() -> impl Iterator<Item = Arg> {
    [config_flag()].into_iter().chain(keys().iter().map(flag))
}

pub(super) fn config_flag() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("TOML file with settings [default: the file named by LONGSHORE_CONFIG, if any]")
}

pub(super) fn flag(key: &'static ConfigKey) -> Arg {
    let heading = Some(key.section.as_str()).filter(|section| !section.is_empty());
    Arg::new(key.name.as_str())
        .long(key.flag.as_str())
        .aliases(key.flag_before.as_deref())
        .value_name(value_name(key))
        .help(format!("{} [default: {}]", key.summary(), default_words(&key.default)))
        .help_heading(heading)
}

/// Returns the default in the form of a flag's value.
fn default_words(default: &Value) -> String {
    match default {
        Value::String(text) if text.is_empty() => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn value_name(key: &ConfigKey) -> &'static str {
    let leaf = key.leaf();
    match &key.default {
        Value::Integer(_) => "NUMBER",
        Value::Boolean(_) => "true|false",
        Value::Array(_) => "A,B,...",
        _ if matches!(leaf, "listen" | "read_listen") => "ADDR:PORT",
        _ if leaf.ends_with("_dir") => "DIR",
        _ if leaf.ends_with("_file") => "FILE",
        _ if leaf == "url" || leaf.ends_with("_url") || leaf.starts_with("pre_") => "URL",
        _ if leaf.ends_with("_mode") => "MODE",
        Value::String(text) if text.ends_with('B') => "SIZE",
        Value::String(text) if text.starts_with(|first: char| first.is_ascii_digit()) => "DURATION",
        _ => "TEXT",
    }
}
