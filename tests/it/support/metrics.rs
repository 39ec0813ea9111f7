//! Parses `/metrics` strictly, in either format.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::support::client::Client;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    OpenMetrics,
}

/// The content of a page of metrics.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Values by name and labels, both as written.
    pub samples: HashMap<String, f64>,
    /// Families by the name of their samples, without the suffixes of histograms, and the names of their
    /// labels.
    pub families: BTreeMap<String, BTreeSet<String>>,
}

impl Metrics {
    pub async fn of(client: &mut Client) -> Self {
        Self::in_format(client, Format::OpenMetrics).await
    }

    pub async fn in_format(client: &mut Client, format: Format) -> Self {
        let (accept, kind) = match format {
            Format::Text => ("*/*", TEXT),
            Format::OpenMetrics => ("application/openmetrics-text", OPEN_METRICS),
        };
        let answer = client.request("GET", "/metrics", &[("Accept", accept)], b"").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{answer:?}");
        Self::read(std::str::from_utf8(&answer.body).unwrap(), format)
    }

    /// Returns the value of a series of the server itself; 0 if it is absent.
    pub fn value(&self, series: &str) -> f64 {
        self.samples.get(&format!("longshore_{series}")).copied().unwrap_or_default()
    }

    /// Parses a page. Panics if the text is not in the format, or lacks a part that it should have.
    fn read(text: &str, format: Format) -> Self {
        let body = match format {
            Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("OpenMetrics: it ends with EOF"),
            Format::Text => text,
        };
        let mut metrics = Self::default();
        let mut family: Option<(&str, &str)> = None;
        let mut helped = None;
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, value) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                match what {
                    "HELP" => {
                        assert!(value.len() > 5 && value.ends_with('.') && !value.ends_with(".."), "{line}");
                        helped = Some(name);
                    }
                    "TYPE" => {
                        let kinds: &[&str] = match format {
                            Format::Text => &["counter", "gauge", "histogram"],
                            Format::OpenMetrics => &["counter", "gauge", "histogram", "info"],
                        };
                        assert!(kinds.contains(&value), "{line}");
                        assert_eq!(helped, Some(name), "each family has a help text: {line}");
                        family = Some((name, value));
                        let shown = format!("{name}{}", suffix(value, format));
                        assert_eq!(
                            metrics.families.insert(shown, BTreeSet::new()),
                            None,
                            "a family stands once: {line}"
                        );
                    }
                    "UNIT" => {
                        assert_eq!(format, Format::OpenMetrics, "{line}");
                        assert!(name.ends_with(value), "{line}");
                    }
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let (family, kind) = family.unwrap_or_else(|| panic!("{line} is of no family"));
            let suffixes = match kind {
                "histogram" => vec!["_bucket", "_sum", "_count"],
                kind => vec![suffix(kind, format)],
            };
            let fits = name.strip_prefix(family).is_some_and(|suffix| suffixes.contains(&suffix));
            assert!(fits, "a sample belongs to the family above it: {line}");
            assert!(name.starts_with("longshore_") || name.starts_with("process_"), "{line}");
            let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(name.bytes().all(is_plain), "{line}");
            let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            let shown = format!("{family}{}", suffix(kind, format));
            metrics.families.get_mut(&shown).unwrap().extend(names.filter(|name| name != "le"));
            assert_eq!(metrics.samples.insert(series.to_owned(), value.parse().unwrap()), None, "{line}");
        }
        metrics
    }
}

/// Returns the suffix that samples add to the name of their family.
fn suffix(kind: &str, format: Format) -> &'static str {
    match (kind, format) {
        ("counter", Format::OpenMetrics) => "_total",
        ("info", Format::OpenMetrics) => "_info",
        _ => "",
    }
}
