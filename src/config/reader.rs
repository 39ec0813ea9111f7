//! Converts merged values to their types, and collects errors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Value;

use crate::config::error::ConfigErrors;
use crate::config::layers::{Layers, Setting};
use crate::config::registry::{named, place_of, place_of_endpoints};
use crate::config::units::{duration_text, number_text, parse_duration, parse_size, range_text, size_text};

/// Result of a parser. Its error is a sentence that says what to write instead.
pub(super) type Parsed<T> = Result<T, String>;

/// Reads keys one by one. An invalid value is recorded and replaced by the default, so that reading continues
/// and all errors are found in one pass; [`Reader::finish`] then returns the errors instead of the layers.
#[derive(Debug)]
pub(super) struct Reader {
    layers: Layers,
    /// Each error with the position of its key in the reference.
    errors: Vec<(Option<usize>, String)>,
    /// Every key read so far, and whether its value is valid.
    passed: BTreeMap<&'static str, bool>,
}

impl Reader {
    pub(super) fn new(mut layers: Layers) -> Self {
        let errors = std::mem::take(&mut layers.errors).into_iter().map(|line| (None, line)).collect();
        Self { layers, errors, passed: BTreeMap::new() }
    }

    /// Returns the layers if there were no errors. Errors are reported in the order of the reference,
    /// whatever the order of reading.
    pub(super) fn finish(mut self) -> Result<Layers, ConfigErrors> {
        if self.errors.is_empty() {
            return Ok(self.layers);
        }
        self.errors.sort_by_key(|(place, _)| *place);
        Err(ConfigErrors::new(self.errors.into_iter().map(|(_, line)| line).collect()))
    }

    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Returns the keys read so far that have their default values, set explicitly or not.
    pub(super) fn unset(&self) -> BTreeSet<&'static str> {
        let has_default = |key: &&str| named(key).is_some_and(|known| self.layers.get(key).value == known.default);
        self.passed.keys().copied().filter(has_default).collect()
    }

    #[cfg(test)]
    pub(super) fn keys_read(&self) -> Vec<&'static str> {
        self.passed.keys().copied().collect()
    }

    pub(super) fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Duration {
        let range_text = range_text(&range, |span| duration_text(*span));
        self.read(key, |value| duration(value, &range, &range_text))
    }

    pub(super) fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        let range_text = range_text(&range, |bytes| size_text(*bytes));
        self.read(key, |value| size(value, &range, &range_text))
    }

    /// Reads a whole number of the type of the field.
    pub(super) fn count<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> T
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let range_text = range_text(&range, number_text);
        self.read(key, |value| count(value, &range, &range_text))
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> bool {
        self.read(key, |value| value.as_bool().ok_or_else(|| "write true or false".to_owned()))
    }

    pub(super) fn text<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> T {
        self.read(key, |value| text(value).and_then(&parse))
    }

    pub(super) fn list<T>(&mut self, key: &'static str, parse: impl Fn(Vec<&str>) -> Parsed<T>) -> T {
        self.read(key, |value| list(value).and_then(&parse))
    }

    fn read<T>(&mut self, key: &'static str, parse: impl Fn(&Value) -> Parsed<T>) -> T {
        let setting = self.layers.get(key);
        let judged = parse(&setting.value);
        self.passed.insert(key, judged.is_ok());
        judged.unwrap_or_else(|why| {
            self.errors.push((place_of(key), rejection(key, setting, &why)));
            let default = &named(key).expect("every key read is in the default file").default;
            parse(default).expect("a test reads the built-in defaults")
        })
    }

    /// Records a violated rule between several keys, as an error of the first one; `why` gets the others as
    /// they are shown. Records nothing if one of the keys is itself invalid.
    pub(super) fn require(&mut self, holds: bool, keys: &[&'static str], why: impl Fn(&[String]) -> String) {
        let passed = |key: &&str| self.passed.get(*key) == Some(&true);
        if holds || self.layers.incomplete || !keys.iter().all(passed) {
            return;
        }
        let shown = |key: &&'static str| {
            let setting = self.layers.get(key);
            format!("{key} = {} ({})", setting.shown(), setting.source)
        };
        let [first, others @ ..] = keys else { return };
        let others: Vec<String> = others.iter().map(shown).collect();
        self.errors.push((place_of(first), rejection(first, self.layers.get(first), &why(&others))));
    }

    /// Records an error of a field of an endpoint.
    pub(super) fn reject(&mut self, label: &str, setting: &Setting, why: &str) {
        self.reject_line(rejection(label, setting, why));
    }

    /// Records an error of an endpoint.
    pub(super) fn reject_line(&mut self, line: String) {
        self.errors.push((place_of_endpoints(), line));
    }
}

/// Formats an error: `limits.idle_timeout = "5 bananas" (from LONGSHORE_LIMITS_IDLE_TIMEOUT): not a duration;
/// …`
fn rejection(label: &str, setting: &Setting, why: &str) -> String {
    format!("{label} = {} ({}): {why}", setting.shown(), setting.source)
}

pub(super) fn text(value: &Value) -> Parsed<&str> {
    value.as_str().ok_or_else(|| "write a string in quotes".to_owned())
}

pub(super) fn list(value: &Value) -> Parsed<Vec<&str>> {
    let items = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
    items.ok_or_else(|| "not a list; write strings in brackets, such as [\"a\", \"b\"]".to_owned())
}

fn duration(value: &Value, range: &RangeInclusive<Duration>, range_text: &str) -> Parsed<Duration> {
    let hint = || format!("not a duration; write a number and a unit, such as 60s, 5m or 24h, {range_text}");
    let span = value.as_str().and_then(parse_duration).ok_or_else(hint)?;
    within(span, range, range_text)
}

fn size(value: &Value, range: &RangeInclusive<u64>, range_text: &str) -> Parsed<u64> {
    let hint = || format!("not a size; write a number and a unit, such as 512KiB, 64MiB or 1GB, {range_text}");
    let bytes = match value {
        Value::Integer(bytes) => u64::try_from(*bytes).ok(),
        Value::String(text) => parse_size(text),
        _ => None,
    };
    within(bytes.ok_or_else(hint)?, range, range_text)
}

pub(super) fn count<T>(value: &Value, range: &RangeInclusive<T>, range_text: &str) -> Parsed<T>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    let number = value.as_integer().ok_or_else(|| format!("not a number; write a whole number, {range_text}"))?;
    let number = T::try_from(number).map_err(|_| out_of_range(range_text))?;
    within(number, range, range_text)
}

fn within<T: PartialOrd>(value: T, range: &RangeInclusive<T>, range_text: &str) -> Parsed<T> {
    if range.contains(&value) { Ok(value) } else { Err(out_of_range(range_text)) }
}

fn out_of_range(range_text: &str) -> String {
    format!("out of range; write a value {range_text}")
}

/// Parses one duration of a list.
pub(super) fn duration_item(item: &str, range: &RangeInclusive<Duration>) -> Parsed<Duration> {
    let range_text = range_text(range, |span| duration_text(*span));
    duration(&Value::from(item), range, &range_text).map_err(|why| format!("{item:?} is {why}"))
}
