//! `longshore webhooks replay`: sends deliveries again, or waiting ones now.

use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use crate::cli::Failure;
use crate::cli::webhooks::client::{Answer, Api};
use crate::cli::webhooks::show::Printed;
use crate::cli::webhooks::{flag, not_understood, show, switch};
use api::delivery::{Delivery, DeliveryList as Deliveries};
use api::endpoint::Endpoint;
use api::replay::{NewReplay, Replay, ReplayList};

/// Maximum wait for a replay to end before its running state is printed.
const REPLAY_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) fn command() -> Command {
    Command::new("replay")
        .about("Send one delivery again, the deliveries of an event or an upload, or many deliveries as a server job")
        .arg(
            Arg::new("id")
                .value_name("ID")
                .help("ID of a delivery, an event (evt_…, the webhook-id) or an upload")
                .conflicts_with_all(["endpoint", "jobs", "cancel"]),
        )
        .arg(switch("force", "Also send deliveries that have succeeded"))
        .args([
            flag("endpoint", "NAME", "Start a job that sends deliveries to this endpoint again"),
            flag(
                "what",
                "WHAT",
                "pending: waiting deliveries, now; dead: failed deliveries; missed: dead ones and events never sent to \
                 the endpoint; everything: all [default: dead]",
            ),
            flag("from", "TIME", "Only events at or after this time, such as 2026-11-21T00:00:00Z"),
            flag("before", "TIME", "Only events before this time [default: now]"),
            flag("cancel", "JOB", "Stop a job; deliveries that it has queued are still sent"),
        ])
        .arg(switch("jobs", "List the replay jobs"))
}

pub(super) fn run(api: &Api, typed: &ArgMatches) -> Result<Printed, Failure> {
    let words = |name| typed.get_one::<String>(name).cloned();
    if typed.get_flag("jobs") {
        let jobs: Answer<ReplayList> = api.get("/replays")?;
        return Ok(Printed { text: show::replays(&jobs.read.replays), raw: jobs.raw });
    }
    if let Some(job) = words("cancel") {
        return Ok(Printed::one(api.delete::<Replay>(&format!("/replays/{job}"))?));
    }
    match (words("id"), words("endpoint")) {
        (Some(id), _) => replay_one(api, &id, typed.get_flag("force")),
        (None, Some(endpoint)) => {
            let body = NewReplay {
                what: Some(words("what").unwrap_or_else(|| "dead".to_owned())),
                from: words("from"),
                before: words("before"),
                force: typed.get_flag("force"),
            };
            let job = wait_for_job(api, api.post(&format!("/endpoints/{endpoint}/replay"), &body)?)?;
            let hint = hint_on(api, &job.read)?;
            let (text, mut raw) = (show::one(&job.raw, hint.as_deref()), job.raw);
            raw["note"] = hint.into();
            Ok(Printed { raw, text })
        }
        (None, None) => {
            Err(not_understood("give the ID of a delivery, an event or an upload, or an endpoint with --endpoint"))
        }
    }
}

/// Replays the delivery with this id, or the deliveries of the event or upload with this id.
fn replay_one(api: &Api, id: &str, force: bool) -> Result<Printed, Failure> {
    let path = |delivery: &str| format!("/deliveries/{delivery}/replay");
    let body = api::delivery::ReplayOptions { force };
    let mut query = vec![("limit", "1000".to_owned())];
    if id.starts_with("evt_") {
        query.push(("event_id", id.to_owned()));
    } else {
        match api.try_post::<Delivery<'_>>(&path(id), &body)? {
            Err(rejected) if rejected.code == "no-such-delivery" => query.push(("upload", id.to_owned())),
            answer => return Ok(Printed::one(answer?)),
        }
    }
    let nothing = || {
        Failure::Serving(anyhow::anyhow!(
            "there is no delivery, event or upload {id}, or its retention time has passed"
        ))
    };
    let found = api.try_get::<Deliveries<'_>>("/deliveries", &query)?.map_err(|_| nothing())?;
    if found.read.deliveries.is_empty() {
        return Err(nothing());
    }
    let (mut queued, mut raw, mut succeeded) = (Vec::new(), Vec::new(), 0);
    // The list is newest first; replay in the original order.
    for delivery in found.read.deliveries.iter().rev() {
        match api.try_post::<Delivery<'_>>(&path(&delivery.id), &body)? {
            Ok(answer) => {
                queued.push(answer.read);
                raw.push(answer.raw);
            }
            Err(rejected) if rejected.code == "has-succeeded" => succeeded += 1,
            Err(rejected) => return Err(rejected.into()),
        }
    }
    let hint = match succeeded {
        0 => None,
        count => Some(format!("not sent again because they have succeeded: {count}; to send them too, use --force")),
    };
    let text = show::deliveries(&Deliveries { deliveries: queued, next: None }, hint.as_deref());
    Ok(Printed { raw: json!({ "deliveries": raw, "next": null, "note": hint }), text })
}

/// Returns the job when it has ended, or after [`REPLAY_PATIENCE`].
fn wait_for_job(api: &Api, mut job: Answer<Replay>) -> Result<Answer<Replay>, Failure> {
    let began = Instant::now();
    while job.read.state == "running" && began.elapsed() < REPLAY_PATIENCE {
        std::thread::sleep(LOOK_AGAIN);
        job = api.get(&format!("/replays/{}", job.read.id))?;
    }
    Ok(job)
}

/// Returns advice if a replay has found nothing although deliveries are waiting.
fn hint_on(api: &Api, job: &Replay) -> Result<Option<String>, Failure> {
    if job.what == "pending" || job.queued != 0 || job.state == "running" {
        return Ok(None);
    }
    let endpoint = &job.endpoint;
    let backlog = api.get::<Endpoint>(&format!("/endpoints/{endpoint}"))?.read.backlog;
    let next = backlog.oldest_due.map(|at| format!(", the next at {at}")).unwrap_or_default();
    let count = backlog.total;
    let deliveries = if count == 1 { "delivery is" } else { "deliveries are" };
    Ok((count > 0).then(|| {
        format!(
            "{count} {deliveries} waiting{next}; to send them now: longshore webhooks replay --endpoint {endpoint} --what \
             pending"
        )
    }))
}
