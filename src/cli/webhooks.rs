//! `longshore webhooks`: manages the endpoints and deliveries of a running server through its API, and
//! receives events for inspection.

pub(super) mod client;
mod listen;
mod replay;
pub(super) mod show;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::webhooks::client::{Answer, Api};
use crate::cli::webhooks::show::Printed;
use crate::cli::{Failure, print};
use crate::config::parse_duration;
use api::delivery::Delivery;
use api::endpoint::{Endpoint, EndpointChange, EndpointList, KeyRotation, Resumption};
use domain::time::milliseconds;

/// Variable with the URL of the server, used without the flag.
pub(super) const SERVER_VARIABLE: &str = "LONGSHORE_SERVER";

/// Variable with the admin key, used without a key file.
pub(super) const KEY_VARIABLE: &str = "LONGSHORE_ADMIN_KEY";

/// Variable with the shared token of clients, used without a token file and without an admin key.
pub(super) const TOKEN_VARIABLE: &str = "LONGSHORE_TOKEN";

/// Order of a flag of all subcommands, which help lists after the flags of one.
const LAST: usize = 100;

const EXAMPLES: &str = "\
Examples:
  longshore webhooks listen                      receive events here, verify and print them
  longshore webhooks endpoints                   endpoints and their health
  longshore webhooks endpoints add https://app.example.com/hooks --name app
  longshore webhooks test app                    send a signed test event and show the response
  longshore webhooks deliveries --state dead     failed deliveries, with every attempt
  longshore webhooks deliveries --status 5xx --from 2026-11-20T00:00:00Z
  longshore webhooks replay 01a2025f-b3f5-7a58-a3bf-c2fa230bfed2
  longshore webhooks replay --endpoint app --what pending    after an outage of the receiver
  longshore webhooks replay --endpoint app --what missed --from 2026-11-20T00:00:00Z";

pub(super) fn command() -> Command {
    Command::new("webhooks")
        .about("Manage webhook endpoints and deliveries; receive events for inspection")
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .args(connection_flags())
        .subcommand(endpoints())
        .subcommand(deliveries())
        .subcommand(replay::command())
        .subcommand(
            Command::new("test")
                .about("Send a signed test event to an endpoint and show the response; exit 1 if the attempt fails")
                .arg(Arg::new("endpoint").required(true).value_name("NAME").help("Name of the endpoint")),
        )
        .subcommand(listen::command())
}

pub(super) fn connection_flags() -> impl Iterator<Item = Arg> {
    let connection = [
        flag("server", "URL", "URL of the server [default: LONGSHORE_SERVER, or http://127.0.0.1:8080]").global(true),
        flag("key-file", "FILE", "File with the admin key; or set LONGSHORE_ADMIN_KEY to the key")
            .value_parser(clap::value_parser!(PathBuf))
            .global(true),
        flag(
            "token-file",
            "FILE",
            "File with the token of auth.token, for a server without admin keys; or set LONGSHORE_TOKEN to the token",
        )
        .value_parser(clap::value_parser!(PathBuf))
        .conflicts_with("key-file")
        .global(true),
        flag(
            "server-ca-file",
            "FILE",
            "PEM file with the CA certificates that the server's certificate is checked against",
        )
        .value_parser(clap::value_parser!(PathBuf))
        .global(true),
    ];
    let json = switch("json", "Print the JSON response of the server").global(true).display_order(LAST);
    connection.into_iter().map(|flag| flag.help_heading("Connection")).chain([json])
}

fn endpoints() -> Command {
    let name = || Arg::new("name").required(true).value_name("NAME").help("Name of the endpoint");
    Command::new("endpoints")
        .about("List or change endpoints")
        .subcommand(Command::new("show").about("Show all details of an endpoint").arg(name()))
        .subcommand(
            Command::new("add")
                .about("Create an endpoint; its secret is shown only once")
                .arg(Arg::new("url").required(true).value_name("URL").help("URL to which events are sent"))
                .arg(flag("name", "NAME", "Name of the endpoint, which cannot be changed later [default: generated]"))
                .args(term_flags(Defaults::Shown)),
        )
        .subcommand(
            Command::new("set")
                .about(
                    "Change the given settings of an endpoint; if --signing requires a new key, it is generated and \
                     shown only once",
                )
                .arg(name())
                .arg(flag("url", "URL", "URL to which events are sent"))
                .args(term_flags(Defaults::Omitted)),
        )
        .subcommand(Command::new("remove").about("Remove an endpoint and cancel its pending deliveries").arg(name()))
        .subcommand(
            Command::new("pause").about("Pause an endpoint: its deliveries wait until it is resumed").arg(name()),
        )
        .subcommand(
            Command::new("resume")
                .about("Resume an endpoint; its waiting deliveries are sent in order")
                .arg(name())
                .arg(switch("drop-waiting", "Cancel the waiting deliveries instead of sending them")),
        )
        .subcommand(
            Command::new("rotate")
                .about("Generate a new secret, which is shown only once; the old secret also signs for some time")
                .arg(name())
                .arg(duration_flag(
                    "overlap",
                    "Time for which the old secret also signs, from 0s to 7d [default: 24h]",
                )),
        )
}

/// The display of the defaults of settings in the help. They apply to a new endpoint; a change keeps the
/// settings that it does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defaults {
    Shown,
    Omitted,
}

/// Returns the flags for the settings of an endpoint.
fn term_flags(defaults: Defaults) -> Vec<Arg> {
    let or = |default: &str, flag: Arg| match (defaults, flag.get_help().map(ToString::to_string)) {
        (Defaults::Shown, Some(help)) => flag.help(format!("{help} [default: {default}]")),
        _ => flag,
    };
    vec![
        or(
            "all upload events except upload.progress",
            flag("events", "A,B,...", "Events to send: names, upload.* or *"),
        ),
        flag("description", "TEXT", "Description of the endpoint, for people"),
        flag("metadata", "KEY=VALUE", "Only events of uploads with this metadata; can be repeated")
            .action(ArgAction::Append),
        or("per_upload", flag("ordering", "ORDER", "Order of deliveries: per_upload, strict or none")),
        or("full", flag("payload", "PAYLOAD", "Payload of deliveries: full or thin")),
        or("hmac", flag("signing", "KIND", "Signature: hmac, ed25519 or both")),
        or("webhooks.max_in_flight_per_endpoint", count_flag("max-in-flight", "Maximum number of concurrent attempts")),
        or("no limit", count_flag("max-per-second", "Maximum number of attempts started per second")),
        or("webhooks.timeout", duration_flag("timeout", "Time limit for an attempt, from 1s to 30s")),
        or(
            "webhooks.retry_schedule",
            flag("retry-schedule", "A,B,...", "Wait after each failed attempt, such as 5s,5m,1h"),
        ),
        flag("header", "NAME: VALUE", "Header to send with every delivery; can be repeated").action(ArgAction::Append),
        or(
            "true",
            flag(
                "auto-disable",
                "true|false",
                "Disable the endpoint after webhooks.disable_after of uninterrupted failure",
            ),
        )
        .value_parser(clap::value_parser!(bool))
        .hide_possible_values(true),
        flag(
            "ca-file",
            "FILE",
            "PEM file with the CA certificates that the receiver's certificate is checked against; empty: those of the \
             server's system",
        ),
    ]
}

fn deliveries() -> Command {
    Command::new("deliveries")
        .about("List deliveries with their attempts, newest first")
        .args([
            flag("endpoint", "NAME", "Only deliveries to this endpoint"),
            flag("upload", "ID", "Only deliveries of this upload"),
            flag("event", "TYPE", "Only deliveries of events of this type"),
            flag(
                "state",
                "STATE",
                "Only deliveries in this state: ready, waiting, leased, succeeded, dead, paused, ...",
            ),
            flag("status", "STATUS", "Only deliveries whose last response had this status, such as 5xx or 503"),
            flag(
                "error",
                "ERROR",
                "Only deliveries whose last attempt got no response, for this reason: timeout, refused, reset, dns, \
                 tls, ...",
            ),
            flag("from", "TIME", "Only deliveries created at or after this time, such as 2026-11-21T00:00:00Z"),
            flag("before", "TIME", "Only deliveries created before this time"),
            count_flag("limit", "Maximum number of deliveries [default: 20]"),
            flag("cursor", "CURSOR", "Cursor printed at the end of the previous page"),
        ])
        .subcommand(
            Command::new("show")
                .about("Show a delivery with all its attempts")
                .arg(Arg::new("id").required(true).value_name("ID").help("ID of the delivery")),
        )
}

fn flag(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn count_flag(name: &'static str, help: &'static str) -> Arg {
    flag(name, "NUMBER", help).value_parser(clap::value_parser!(u32))
}

fn duration_flag(name: &'static str, help: &'static str) -> Arg {
    flag(name, "DURATION", help).value_parser(duration)
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a number and a unit, such as 15s or 24h".to_owned())
}

pub(super) fn run(matches: &ArgMatches, env: &BTreeMap<String, String>, out: &mut dyn Write) -> Result<(), Failure> {
    let (asked, typed) = matches.subcommand().expect("clap demands a subcommand");
    if asked == "listen" {
        return listen::run(typed);
    }
    let api = Api::new(typed, env)?;
    let wants_json = typed.get_flag("json");
    let printed = match asked {
        "endpoints" => run_endpoints(&api, typed)?,
        "deliveries" => run_deliveries(&api, typed)?,
        "replay" => replay::run(&api, typed)?,
        "test" => return test(&api, text(typed, "endpoint"), wants_json, out),
        _ => unreachable!("clap demands a known subcommand"),
    };
    print(out, &printed.shown(wants_json))
}

/// Tests an endpoint. The exit code is the result.
fn test(api: &Api, endpoint: &str, wants_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let tested: Answer<Delivery<'_>> = api.post_empty(&format!("/endpoints/{endpoint}/test"))?;
    let attempt = tested.read.attempts.first().cloned().unwrap_or_default();
    print(out, &Printed { text: show::tested(&tested.read, &attempt), raw: tested.raw }.shown(wants_json))?;
    match attempt.status {
        Some(200..=299) => Ok(()),
        _ => Err(Failure::Serving(anyhow::anyhow!("the test failed: {}", show::failure(&attempt)))),
    }
}

fn run_endpoints(api: &Api, typed: &ArgMatches) -> Result<Printed, Failure> {
    let Some((action, typed)) = typed.subcommand() else {
        let found: Answer<EndpointList> = api.get("/endpoints")?;
        return Ok(Printed { text: show::endpoints(&found.read.endpoints), raw: found.raw });
    };
    if action == "add" {
        let body = EndpointChange {
            url: Some(text(typed, "url").to_owned()),
            id: typed.get_one::<String>("name").cloned(),
            ..terms(typed)?
        };
        return Ok(Printed::one(api.post::<Endpoint>("/endpoints", &body)?));
    }
    let path = format!("/endpoints/{}", text(typed, "name"));
    let answer: Answer<Endpoint> = match action {
        "show" => api.get(&path)?,
        "set" => api.patch(&path, &EndpointChange { url: typed.get_one::<String>("url").cloned(), ..terms(typed)? })?,
        "remove" => {
            api.delete::<()>(&path)?;
            return Ok(Printed::done());
        }
        "pause" => api.post_empty(&format!("{path}/pause"))?,
        "resume" => {
            let backlog = if typed.get_flag("drop-waiting") { "cancel" } else { "send" };
            let body = Resumption { backlog: Some(backlog.to_owned()), missed_since: None };
            api.post(&format!("{path}/resume"), &body)?
        }
        "rotate" => {
            let overlap_ms = typed.get_one::<Duration>("overlap").copied().map(milliseconds);
            api.post(&format!("{path}/rotate"), &KeyRotation { overlap_ms, ..KeyRotation::default() })?
        }
        _ => unreachable!("clap demands a known subcommand"),
    };
    Ok(Printed::one(answer))
}

/// Converts the flags for settings of an endpoint to a change for the API. Absent flags are omitted.
fn terms(typed: &ArgMatches) -> Result<EndpointChange, Failure> {
    let word = |name: &str| typed.get_one::<String>(name).cloned();
    let count = |name: &str| typed.get_one::<u32>(name).map(|count| Some(*count));
    let events = word("events").map(|events| events.split(',').map(|event| event.trim().to_owned()).collect());
    let schedule = word("retry-schedule").map(|schedule| {
        let waits: Result<Vec<u64>, _> =
            schedule.split(',').map(|wait| duration(wait.trim()).map(milliseconds)).collect();
        waits.map(Some).map_err(|why| not_understood(&format!("--retry-schedule {schedule}: {why}")))
    });
    let certificates = word("ca-file").map(|path| {
        let pem = (!path.is_empty()).then(|| std::fs::read_to_string(&path)).transpose();
        pem.map_err(|error| not_understood(&format!("--ca-file {path}: {error}")))
    });
    Ok(EndpointChange {
        id: None,
        secret: None,
        headers: pairs(typed, "header", ':')?,
        url: None,
        description: word("description"),
        events,
        metadata: pairs(typed, "metadata", '=')?,
        ordering: word("ordering"),
        payload: word("payload"),
        signing: word("signing"),
        max_in_flight: count("max-in-flight"),
        max_per_second: count("max-per-second"),
        timeout_ms: typed.get_one::<Duration>("timeout").map(|timeout| Some(milliseconds(*timeout))),
        retry_schedule_ms: schedule.transpose()?,
        auto_disable: typed.get_one::<bool>("auto-disable").copied(),
        ca_certificates: certificates.transpose()?,
    })
}

/// Parses pairs of names and values, each from a separate occurrence of a flag.
fn pairs(typed: &ArgMatches, flag: &str, separator: char) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let Some(pairs) = typed.get_many::<String>(flag) else { return Ok(None) };
    let split = |pair: &String| {
        let (key, value) = pair.split_once(separator)?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    };
    let pairs: Option<BTreeMap<_, _>> = pairs.map(split).collect();
    pairs.map(Some).ok_or_else(|| not_understood(&format!("--{flag}: write NAME{separator}VALUE")))
}

fn run_deliveries(api: &Api, typed: &ArgMatches) -> Result<Printed, Failure> {
    if let Some(("show", typed)) = typed.subcommand() {
        return Ok(Printed::one(api.get::<Delivery<'_>>(&format!("/deliveries/{}", text(typed, "id")))?));
    }
    let mut query = vec![("limit", typed.get_one::<u32>("limit").map_or("20".to_owned(), u32::to_string))];
    for name in ["endpoint", "upload", "event", "state", "status", "error", "from", "before", "cursor"] {
        query.extend(typed.get_one::<String>(name).map(|value| (name, value.clone())));
    }
    let page: Answer<api::delivery::DeliveryList<'_>> = api.get_with("/deliveries", &query)?;
    Ok(Printed { text: show::deliveries(&page.read, None), raw: page.raw })
}

fn text<'a>(typed: &'a ArgMatches, name: &str) -> &'a str {
    typed.get_one::<String>(name).expect("clap demands it")
}

fn not_understood(why: &str) -> Failure {
    Failure::NotUnderstood(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    use serde_json::json;

    fn typed(line: &str) -> ArgMatches {
        command().try_get_matches_from(line.split_whitespace()).unwrap()
    }

    #[test]
    fn terms_are_sent_as_typed_and_nothing_else() {
        let line = "webhooks endpoints add https://x/y --name a --events upload.completed,upload.failed --timeout 5s \
                    --retry-schedule 5s,5m --metadata user=7 --metadata kind=a=b --header x-a:b --max-per-second 3 \
                    --auto-disable false --signing both";
        let matches = typed(line);
        let add = matches.subcommand().unwrap().1.subcommand().unwrap().1;
        let expected = json!({
            "signing": "both",
            "max_per_second": 3,
            "events": ["upload.completed", "upload.failed"],
            "timeout_ms": 5_000,
            "retry_schedule_ms": [5_000, 300_000],
            "auto_disable": false,
            "metadata": { "user": "7", "kind": "a=b" },
            "headers": { "x-a": "b" },
        });
        assert_eq!(serde_json::to_value(terms(add).unwrap()).unwrap(), expected);
        let bare = typed("webhooks endpoints set a");
        let bare = bare.subcommand().unwrap().1.subcommand().unwrap().1;
        assert_eq!(serde_json::to_value(terms(bare).unwrap()).unwrap(), json!({}));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (line, word) in [
            ("webhooks endpoints set a --retry-schedule 5s,soon", "--retry-schedule"),
            ("webhooks endpoints set a --metadata user", "--metadata"),
        ] {
            let matches = typed(line);
            let set = matches.subcommand().unwrap().1.subcommand().unwrap().1;
            assert!(matches!(terms(set), Err(Failure::NotUnderstood(why)) if why.contains(word)), "{line}");
        }
        assert!(command().try_get_matches_from(["webhooks", "endpoints", "set", "a", "--timeout", "long"]).is_err());
    }
}
