//! Hooks: requests to the application before uploads are created, finished and terminated.

use reqwest::Url;
use reqwest::header::HeaderName;

use crate::config::auth::read_secret;
use crate::config::endpoint::signing_secret;
use crate::config::reader::{Parsed, Reader};
use crate::config::units::{minutes, secs};
use api::problem::{REJECTION_STATUSES, rejection_of};
use domain::hook::Hook;
use hooks::HookSettings;
use outbound::sign;

/// Configuration key of each hook's URL.
const KEYS: [(Hook, &str); 3] = [
    (Hook::PreCreate, "hooks.pre_create"),
    (Hook::PreFinish, "hooks.pre_finish"),
    (Hook::PreTerminate, "hooks.pre_terminate"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HooksConfig {
    /// `None` if no hook is configured.
    pub calls: Option<HookSettings>,
    /// Header fields of a client's request that are forwarded to the application; in lower case.
    pub forward_headers: Vec<String>,
}

impl HooksConfig {
    pub(super) fn read(from: &mut Reader) -> Self {
        let mut urls = Vec::new();
        for (hook, key) in KEYS {
            urls.extend(from.text(key, optional_url).map(|url| (hook, url)));
        }
        let secret = read_either(from);
        for (_, key) in KEYS.iter().filter(|(hook, _)| urls.iter().any(|(asked, _)| asked == hook)) {
            from.require(secret.is_some(), &[key, "hooks.secret", "hooks.secret_file"], |_| {
                "requires a secret to sign requests; set hooks.secret or, better, hooks.secret_file".to_owned()
            });
        }
        let timeout = from.duration("hooks.timeout", secs(1)..=secs(15));
        let max_in_flight = from.count("hooks.max_in_flight", 1..=10_000);
        let breaker_failures = from.count("hooks.breaker_failures", 1..=1_000);
        let breaker_pause = from.duration("hooks.breaker_pause", secs(1)..=minutes(5));
        let fail_open = from.list("hooks.fail_open", fail_open);
        let reject_statuses = from.list("hooks.reject_statuses", reject_statuses);
        let calls = secret.filter(|_| !urls.is_empty()).map(|secret| HookSettings {
            urls,
            secret,
            timeout,
            max_in_flight,
            breaker_failures,
            breaker_pause,
            fail_open,
            reject_statuses,
        });
        Self { calls, forward_headers: from.list("hooks.forward_headers", forward_headers) }
    }

    pub fn calls(&self, hook: Hook) -> bool {
        self.calls.as_ref().is_some_and(|calls| calls.urls.iter().any(|(asked, _)| *asked == hook))
    }
}

/// Reads the secret, which is given directly or in a file, but not both.
fn read_either(from: &mut Reader) -> Option<sign::SharedSecret> {
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

fn optional_url(text: &str) -> Parsed<Option<Url>> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let url = url.ok_or("not an absolute http or https URL; write one such as http://127.0.0.1:9000/hooks")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user or a password; leave them out, requests are signed with hooks.secret".to_owned());
    }
    if url.fragment().is_some() {
        return Err("has a fragment (#), which is never sent; leave it out".to_owned());
    }
    Ok(Some(url))
}

fn fail_open(items: Vec<&str>) -> Parsed<Vec<Hook>> {
    let hint = |item: &str| format!("{item:?} is not a hook; write pre_create, pre_finish or pre_terminate");
    items.into_iter().map(|item| Hook::by_name(item).ok_or_else(|| hint(item))).collect()
}

fn forward_headers(items: Vec<&str>) -> Parsed<Vec<String>> {
    let hint = |item: &str| format!("{item:?} is not a header field name; write names such as authorization");
    let name = |item: &str| HeaderName::try_from(item).map(|name| name.to_string()).map_err(|_| hint(item));
    items.into_iter().map(name).collect()
}

fn reject_statuses(items: Vec<&str>) -> Parsed<Vec<u16>> {
    let allowed = REJECTION_STATUSES.map(|(_, status)| status.to_string()).join(", ");
    let hint =
        |item: &str| format!("{item:?} is not a status that every client treats as final; write any of {allowed}");
    let status = |item: &str| {
        let status = item.parse().ok().filter(|status| rejection_of(*status).is_some());
        status.ok_or_else(|| hint(item))
    };
    items.into_iter().map(status).collect()
}
