//! Web pages that may use the server from a browser.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderName;

use crate::config::reader::{Parsed, Reader};
use crate::config::units::hours;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsConfig {
    pub allow_origins: AllowOrigins,
    /// Requires [`AllowOrigins::Listed`].
    pub allow_credentials: bool,
    /// Header fields that pages may send besides those needed for uploads and downloads; in lower case.
    pub allow_headers: Vec<String>,
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowOrigins {
    /// All origins if there is a token; otherwise those of this machine.
    Auto,
    Any,
    /// The listed origins, as browsers send them in `Origin`. `*` in place of the first label of a name
    /// stands for one label.
    Listed(Vec<String>),
}

impl AllowOrigins {
    /// Returns whether every web page can have one of these origins. Any page can sandbox a frame, which
    /// gives the frame the origin `null`.
    pub(super) fn admit_everyone(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins.iter().any(|origin| origin == "null"),
            Self::Auto => false,
        }
    }
}

impl CorsConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        let cors = Self {
            allow_origins: from.list("cors.allow_origins", origins),
            allow_credentials: from.boolean("cors.allow_credentials"),
            allow_headers: from.list("cors.allow_headers", header_names),
            max_age: from.duration("cors.max_age", Duration::ZERO..=hours(24)),
        };
        let lists = matches!(cors.allow_origins, AllowOrigins::Listed(_)) && !cors.allow_origins.admit_everyone();
        let safe = !cors.allow_credentials || lists;
        from.require(safe, &["cors.allow_credentials", "cors.allow_origins"], |others| {
            format!(
                "with {}, it lets every web page act for its visitors; list the origins you trust",
                others.join(", ")
            )
        });
        cors
    }
}

fn origins(items: Vec<&str>) -> Parsed<AllowOrigins> {
    match items.as_slice() {
        ["auto"] => Ok(AllowOrigins::Auto),
        ["*"] => Ok(AllowOrigins::Any),
        items if items.contains(&"auto") => Err("write \"auto\" alone, or leave it out".to_owned()),
        items if items.contains(&"*") => Err("\"*\" means all origins; write it alone, or leave it out".to_owned()),
        items => items.iter().map(|item| origin(item)).collect::<Parsed<_>>().map(AllowOrigins::Listed),
    }
}

/// Accepts an origin only in the form that browsers send: lower case, no default port, no path.
fn origin(text: &str) -> Parsed<String> {
    if text == "null" {
        return Ok(text.to_owned());
    }
    // A pattern must be a valid origin when a label replaces its `*`.
    let (with_label, is_pattern) = match text.split_once("://*.") {
        Some((scheme, rest)) => (format!("{scheme}://label.{rest}"), true),
        None => (text.to_owned(), false),
    };
    if is_of_an_app(text) {
        return Ok(text.to_owned());
    }
    let url = Url::parse(&with_label).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let exact = url.map(|url| url.origin().ascii_serialization());
    match exact.map(|exact| if is_pattern { exact.replacen("://label.", "://*.", 1) } else { exact }) {
        Some(exact) if exact.matches('*').count() > usize::from(is_pattern) => {
            Err(format!("{text:?} is not an origin; * replaces the first label of a name, as in https://*.example.com"))
        }
        Some(exact) if exact == text => Ok(exact),
        Some(exact) => Err(format!("{text:?} is not an exact origin; write {exact}")),
        None => Err(format!(
            "{text:?} is not an origin; write a scheme and a host, such as https://app.example.com or \
             capacitor://localhost"
        )),
    }
}

/// Returns whether this is an origin with an app's own scheme, such as `capacitor://localhost` or
/// `chrome-extension://abcdef`. URLs without a host, files among them, have the origin `null`.
fn is_of_an_app(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let is_host = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok();
    is_scheme && is_host && !matches!(scheme, "http" | "https" | "file" | "ws" | "wss" | "ftp")
}

fn header_names(items: Vec<&str>) -> Parsed<Vec<String>> {
    let name = |item: &str| match HeaderName::try_from(item) {
        Ok(_) if item == "*" => Err("* does not cover Authorization; write each name".to_owned()),
        Ok(name) => Ok(name.to_string()),
        Err(_) => Err(format!("{item:?} is not a header field name; write names such as x-tenant")),
    };
    items.into_iter().map(name).collect()
}
