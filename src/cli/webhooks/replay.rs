//! `longshore webhooks replay`: sends deliveries again, or now.

use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command};
use serde_json::{Map, Value, json};

use crate::cli::Failure;
use crate::cli::webhooks::api::Api;
use crate::cli::webhooks::{flag, not_understood, switch};

/// How long a replay is waited for before it is only said that it runs.
const REPLAY_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) fn command() -> Command {
    Command::new("replay")
        .about("Send a delivery again, the deliveries of an event or an upload, or many as a job of the server")
        .arg(
            Arg::new("id")
                .value_name("ID")
                .help("A delivery, an event (evt_…, the webhook-id) or an upload")
                .conflicts_with_all(["endpoint", "jobs", "cancel"]),
        )
        .arg(switch("force", "Also what has succeeded"))
        .args([
            flag("endpoint", "NAME", "Send many again, to this endpoint"),
            flag(
                "what",
                "WHAT",
                "pending: what waits, now; dead: failed deliveries; missed: those and events never sent to it; everything: \
                 all [default: dead]",
            ),
            flag("from", "TIME", "Only events from then on, such as 2026-11-21T00:00:00Z"),
            flag("before", "TIME", "Only events before then [default: now]"),
            flag("cancel", "JOB", "Stop a job; what it has queued stays queued"),
        ])
        .arg(switch("jobs", "List the jobs"))
}

pub(super) fn ask(api: &Api, typed: &ArgMatches) -> Result<Value, Failure> {
    let words = |name| typed.get_one::<String>(name).map(String::as_str);
    if typed.get_flag("jobs") {
        return api.get("/replays");
    }
    if let Some(job) = words("cancel") {
        return api.delete(&format!("/replays/{job}"));
    }
    match (words("id"), words("endpoint")) {
        (Some(id), _) => replay_one(api, id, typed.get_flag("force")),
        (None, Some(endpoint)) => {
            let mut body = Map::new();
            body.insert("what".to_owned(), words("what").unwrap_or("dead").into());
            body.insert("force".to_owned(), typed.get_flag("force").into());
            for name in ["from", "before"] {
                if let Some(time) = words(name) {
                    body.insert(name.to_owned(), time.into());
                }
            }
            let job = api.post(&format!("/endpoints/{endpoint}/replay"), Some(body.into()))?;
            let mut job = wait_for_job(api, job)?;
            job["note"] = note_on(api, &job)?.into();
            Ok(job)
        }
        (None, None) => Err(not_understood("name a delivery, an event or an upload; or an endpoint with --endpoint")),
    }
}

/// Sends what an id names: a delivery, or the deliveries of an event or an upload.
fn replay_one(api: &Api, id: &str, force: bool) -> Result<Value, Failure> {
    let path = |delivery: &str| format!("/deliveries/{delivery}/replay");
    let body = || Some(json!({ "force": force }));
    let mut query = vec![("limit", "1000".to_owned())];
    if id.starts_with("evt_") {
        query.push(("event_id", id.to_owned()));
    } else {
        match api.try_post(&path(id), body())? {
            Err(rejected) if rejected.code == "no-such-delivery" => query.push(("upload", id.to_owned())),
            answer => return Ok(answer?),
        }
    }
    let nothing =
        || Failure::Serving(anyhow::anyhow!("there is no delivery, event or upload {id}, or it was removed as old"));
    let found = api.try_get("/deliveries", &query)?.map_err(|_| nothing())?;
    let mut found = found["deliveries"].as_array().cloned().unwrap_or_default();
    if found.is_empty() {
        return Err(nothing());
    }
    // The list is newest first; they go out as they came.
    found.reverse();
    let (mut queued, mut succeeded) = (Vec::new(), 0);
    for delivery in found {
        match api.try_post(&path(delivery["id"].as_str().unwrap_or_default()), body())? {
            Ok(answer) => queued.push(answer),
            Err(rejected) if rejected.code == "has-succeeded" => succeeded += 1,
            Err(rejected) => return Err(rejected.into()),
        }
    }
    let note = match succeeded {
        0 => None,
        count => Some(format!("{count} have succeeded and were not sent again; to send those too, use --force")),
    };
    Ok(json!({ "deliveries": queued, "next": null, "note": note }))
}

/// The job as it is when it has ended, or when that takes long.
fn wait_for_job(api: &Api, mut job: Value) -> Result<Value, Failure> {
    let began = Instant::now();
    while job["state"] == "running" && began.elapsed() < REPLAY_PATIENCE {
        std::thread::sleep(LOOK_AGAIN);
        job = api.get(&format!("/replays/{}", job["id"].as_str().unwrap_or_default()))?;
    }
    Ok(job)
}

/// What to do where a replay has found nothing, and something waits.
fn note_on(api: &Api, job: &Value) -> Result<Option<String>, Failure> {
    if job["what"] == "pending" || job["queued"] != 0 || job["state"] == "running" {
        return Ok(None);
    }
    let endpoint = job["endpoint"].as_str().unwrap_or_default();
    let found = api.get(&format!("/endpoints/{endpoint}"))?;
    let count = found["backlog"]["total"].as_u64().unwrap_or_default();
    let next = found["backlog"]["oldest_due"].as_str().map(|at| format!(", the next at {at}")).unwrap_or_default();
    Ok((count > 0).then(|| {
        format!(
            "{count} deliveries are waiting{next}; to send them now: longshore webhooks replay --endpoint {endpoint} --what \
             pending"
        )
    }))
}
