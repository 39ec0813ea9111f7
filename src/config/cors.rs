//! Which web pages may use the server from a browser.

use std::time::Duration;

use reqwest::Url;

use crate::config::reader::Judged;
use crate::config::reader::Reader;
use crate::config::units::hours;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    pub allow_origins: AllowOrigins,
    /// Never together with [`AllowOrigins::Any`].
    pub allow_credentials: bool,
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowOrigins {
    Any,
    /// These, as a browser sends them in `Origin`.
    Listed(Vec<String>),
}

impl Cors {
    pub(super) fn read(from: &mut Reader) -> Self {
        let cors = Self {
            allow_origins: from.list("cors.allow_origins", origins),
            allow_credentials: from.boolean("cors.allow_credentials"),
            max_age: from.duration("cors.max_age", Duration::ZERO..=hours(24)),
        };
        let safe = !cors.allow_credentials || cors.allow_origins != AllowOrigins::Any;
        from.require(safe, &["cors.allow_credentials", "cors.allow_origins"], |others| {
            format!(
                "would let every web page act for its visitors with {}; list the origins you trust",
                others.join(", ")
            )
        });
        cors
    }
}

fn origins(items: Vec<&str>) -> Judged<AllowOrigins> {
    match items.as_slice() {
        ["*"] => Ok(AllowOrigins::Any),
        items if items.contains(&"*") => Err("\"*\" means all; write it alone, or leave it out".to_owned()),
        items => items.iter().map(|item| origin(item)).collect::<Judged<_>>().map(AllowOrigins::Listed),
    }
}

/// Takes an origin only as browsers send it: lower case, no default port, no path.
fn origin(text: &str) -> Judged<String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    match url.map(|url| url.origin().ascii_serialization()) {
        Some(exact) if exact == text => Ok(exact),
        Some(exact) => Err(format!("{text:?} is not an exact origin; write {exact}")),
        None => Err(format!("{text:?} is not an origin; write scheme and host, such as https://app.example.com")),
    }
}
