//! Strict parsing of query strings: an unknown or invalid parameter is rejected, not ignored.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::problem::Problem;
use domain::id::UploadId;
use domain::time::Timestamp;

/// The parameter that contains a read token. Access control has already checked whether it is allowed.
pub const TOKEN: &str = "token";

/// The decoded pairs of a query string, in order.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn decode(text: &str) -> Result<String, Problem> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Problem::bad_request("bad-query", "the query must be UTF-8 text"))
}

pub fn bad(name: &str, value: &str, allowed: &str) -> Problem {
    let shown: String = value.chars().take(100).collect();
    Problem::bad_request("bad-query", format!("{name}={shown} is invalid: {allowed}"))
}

pub fn unknown(name: &str, known: &str) -> Problem {
    let shown: String = name.chars().take(100).collect();
    Problem::bad_request("bad-query", format!("there is no parameter {shown}; supported are {known}"))
}

pub fn upload_id(name: &str, value: &str) -> Result<UploadId, Problem> {
    value.parse().map_err(|_| bad(name, value, "it must be the id of an upload"))
}

pub fn time(name: &str, value: &str) -> Result<Timestamp, Problem> {
    Timestamp::parse_rfc3339(value).ok_or_else(|| bad(name, value, "write a time such as 2026-11-21T22:31:30Z"))
}

pub fn limit(value: &str, max: u32) -> Result<u32, Problem> {
    let limit = value.parse().ok().filter(|limit| (1..=max).contains(limit));
    limit.ok_or_else(|| bad("limit", value, &format!("it must be a number from 1 to {max}")))
}

/// Parses `30s`, `500ms` or plain seconds. The result is at most `max`.
pub fn wait(value: &str, max: Duration) -> Result<Duration, Problem> {
    span_ms("wait", value).map(|span_ms| Duration::from_millis(span_ms).min(max))
}

/// Parses `30s`, `500ms` or plain seconds, into milliseconds.
pub fn span_ms(name: &str, value: &str) -> Result<u64, Problem> {
    let (number, unit_ms) = match (value.strip_suffix("ms"), value.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1_000),
        (None, None) => (value, 1_000),
    };
    let number = domain::size::parse_bytes(number).ok_or_else(|| bad(name, value, "write seconds, such as 30s"))?;
    Ok(number.saturating_mul(unit_ms))
}

pub fn number(name: &str, value: &str) -> Result<u64, Problem> {
    domain::size::parse_bytes(value).ok_or_else(|| bad(name, value, "it must be a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let query = Query::parse("a=1&b=x%20y+z&&metadata.k%C3%A4=&c").unwrap();
        let pairs: Vec<_> = query.pairs().collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x y z"), ("metadata.kä", ""), ("c", "")]);
        assert!(Query::parse("a=%ff").is_err());
    }

    #[test]
    fn waits_are_bounded() {
        let max = Duration::from_secs(60);
        for (value, expected) in [("30s", 30_000), ("500ms", 500), ("5", 5_000), ("99999999999999999", 60_000)] {
            assert_eq!(wait(value, max).ok(), Some(Duration::from_millis(expected)), "{value}");
        }
        for wrong in ["", "s", "-1", "+1", "1.5s", "soon"] {
            assert!(wait(wrong, max).is_err(), "{wrong}");
        }
    }
}
