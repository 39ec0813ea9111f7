//! What the application is asked before uploads are created, finished and ended.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderName;

use crate::config::auth::read_secret;
use crate::config::endpoint::signing_secret;
use crate::config::reader::{Judged, Reader};
use crate::config::secret::Secret;
use crate::config::units::{minutes, secs};
use api::problem::{REFUSALS, refusal_of};
use domain::hook::Hook;

/// Where each hook is set.
const KEYS: [(Hook, &str); 3] = [
    (Hook::PreCreate, "hooks.pre_create"),
    (Hook::PreFinish, "hooks.pre_finish"),
    (Hook::PreTerminate, "hooks.pre_terminate"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Those that are asked, and where. Never without a secret.
    pub urls: Vec<(Hook, Url)>,
    /// `whsec_` and 24 to 64 bytes in base64.
    pub secret: Option<Secret>,
    /// For a whole question, waiting for its turn included.
    pub timeout: Duration,
    pub max_in_flight: u32,
    /// After so many failures in a row a hook is not asked for a while.
    pub breaker_failures: u32,
    pub breaker_pause: Duration,
    /// Hooks whose silence means yes.
    pub fail_open: Vec<Hook>,
    /// Fields of a client's request that are shown to the application; in lower case.
    pub forward_headers: Vec<String>,
    /// Statuses that mean no without further words.
    pub reject_statuses: Vec<u16>,
    /// How many calls are remembered.
    pub keep_calls: u64,
}

impl Hooks {
    pub(super) fn read(from: &mut Reader) -> Self {
        let mut urls = Vec::new();
        for (hook, key) in KEYS {
            urls.extend(from.text(key, optional_url).map(|url| (hook, url)));
        }
        let hooks = Self {
            urls,
            secret: read_either(from),
            timeout: from.duration("hooks.timeout", secs(1)..=secs(15)),
            max_in_flight: from.count("hooks.max_in_flight", 1..=10_000),
            breaker_failures: from.count("hooks.breaker_failures", 1..=1_000),
            breaker_pause: from.duration("hooks.breaker_pause", secs(1)..=minutes(5)),
            fail_open: from.list("hooks.fail_open", fail_open),
            forward_headers: from.list("hooks.forward_headers", forward_headers),
            reject_statuses: from.list("hooks.reject_statuses", reject_statuses),
            keep_calls: from.count::<u32>("hooks.keep_calls", 1..=100_000_000).into(),
        };
        for (_, key) in KEYS.iter().filter(|(hook, _)| hooks.asks(*hook)) {
            let signed = hooks.secret.is_some();
            from.require(signed, &[key, "hooks.secret", "hooks.secret_file"], |_| {
                "needs a secret to sign with; set hooks.secret or, better, hooks.secret_file".to_owned()
            });
        }
        hooks
    }

    pub fn asks(&self, hook: Hook) -> bool {
        self.urls.iter().any(|(asked, _)| *asked == hook)
    }
}

/// The secret, given as it is or in a file, but not both.
fn read_either(from: &mut Reader) -> Option<Secret> {
    let given = from.text("hooks.secret", |text| match text {
        "" => Ok(None),
        text => signing_secret(text).map(Some),
    });
    let from_file = from.text("hooks.secret_file", |path| match path {
        "" => Ok(None),
        path => {
            let text = read_secret(path)?;
            signing_secret(&text).map(Some).map_err(|why| format!("its secret is {why}"))
        }
    });
    let both = given.is_some() && from_file.is_some();
    from.require(!both, &["hooks.secret", "hooks.secret_file"], |others| {
        format!("set together with {}; leave one of them empty", others.join(", "))
    });
    given.or(from_file)
}

fn optional_url(text: &str) -> Judged<Option<Url>> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("not an absolute http or https URL; write one such as http://127.0.0.1:9000/hooks")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("carries a user or a password; leave them out, questions are signed with hooks.secret".to_owned());
    }
    if url.fragment().is_some() {
        return Err("has a part behind #, which is never sent; leave it out".to_owned());
    }
    Ok(Some(url))
}

fn fail_open(items: Vec<&str>) -> Judged<Vec<Hook>> {
    let hint = |item: &str| format!("{item:?} is no hook; write pre_create, pre_finish or pre_terminate");
    items.into_iter().map(|item| Hook::by_name(item).ok_or_else(|| hint(item))).collect()
}

fn forward_headers(items: Vec<&str>) -> Judged<Vec<String>> {
    let hint = |item: &str| format!("{item:?} is not the name of a header field; write names such as authorization");
    let name = |item: &str| HeaderName::try_from(item).map(|name| name.to_string()).map_err(|_| hint(item));
    items.into_iter().map(name).collect()
}

fn reject_statuses(items: Vec<&str>) -> Judged<Vec<u16>> {
    let allowed = REFUSALS.map(|(_, status)| status.to_string()).join(", ");
    let hint =
        |item: &str| format!("{item:?} is no status that every client takes for the end; write any of {allowed}");
    let status = |item: &str| {
        let status = item.parse().ok().filter(|status| refusal_of(*status).is_some());
        status.ok_or_else(|| hint(item))
    };
    items.into_iter().map(status).collect()
}
