//! The goals, and an evaluation of the numbers against them. Medians are compared with medians.

use crate::report::numbers::Numbers;
use crate::report::scale_goals;
use crate::results::Metric;
use crate::scenario::{bystander, dialects, records, status, tls, webhooks};
use crate::subject::Subject;
use crate::words::figure;

#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) goal: String,
    pub(crate) measured: String,
    /// `None` if a number is missing.
    pub(crate) met: Option<bool>,
}

use Subject::{Longshore, LongshoreRelaxed, Tusd};

pub(crate) fn judge(scenario: u8, numbers: Numbers<'_>) -> Vec<Verdict> {
    match scenario {
        1 => one_request(numbers),
        2 => vec![
            faster(numbers, Longshore, "8 MiB", Metric::MbPerSecond, 1.0),
            faster(numbers, LongshoreRelaxed, "8 MiB", Metric::MbPerSecond, 1.3),
            faster(numbers, LongshoreRelaxed, "1 MiB", Metric::MbPerSecond, 1.3),
        ],
        3 => {
            vec![faster(numbers, Longshore, "", Metric::MbPerSecond, 1.5), below(numbers, "", Metric::SpreadRatio, 1.5)]
        }
        4 => vec![
            faster(numbers, LongshoreRelaxed, "", Metric::UploadsPerSecond, 1.5),
            faster(numbers, Longshore, "", Metric::UploadsPerSecond, 1.0),
            generator(numbers, Metric::UploadsPerSecond),
        ],
        5 => slow_uploads(numbers),
        6 => asking(numbers),
        7 => numbers.variants().into_iter().map(|variant| bystander(numbers, variant)).collect(),
        8 => vec![below(numbers, "", Metric::CacheGrownMib, 32.0)],
        9 => numbers.variants().into_iter().map(|cut| below(numbers, cut, Metric::AcceptedP99Ms, 20.0)).collect(),
        10 => vec![below(numbers, "", Metric::MessageMs, 50.0)],
        11 => tls_and_h2(numbers),
        12 => many_records(numbers),
        13 => other_dialects(numbers),
        14 => webhooks(numbers),
        15 => scale_goals::on_postgres(numbers),
        16 => scale_goals::cluster(numbers),
        _ => Vec::new(),
    }
}

fn one_request(numbers: Numbers<'_>) -> Vec<Verdict> {
    let own = numbers.median(Longshore, "", Metric::MbPerSecond);
    let bare = numbers.median(Subject::Bare, "", Metric::MbPerSecond);
    vec![
        faster(numbers, Longshore, "", Metric::MbPerSecond, 1.5),
        at_most(
            "CPU s per GB at most 0.5 × the leanest peer".to_owned(),
            numbers.median(Longshore, "", Metric::CpuSecondsPerGb),
            numbers.best_peer("", Metric::CpuSecondsPerGb).map(|(_, cpu)| cpu),
            0.5,
        ),
        at_most("within 1.3 × of the bare loop's rate".to_owned(), bare, own, 1.3),
        generator(numbers, Metric::MbPerSecond),
    ]
}

fn slow_uploads(numbers: Numbers<'_>) -> Vec<Verdict> {
    let alive = numbers.median(Longshore, "", Metric::Alive);
    let all = numbers.median(Longshore, "", Metric::Connections);
    vec![
        Verdict {
            goal: "all alive at the end".to_owned(),
            measured: match (alive, all) {
                (Some(alive), Some(all)) => format!("{} of {}", figure(alive), figure(all)),
                _ => missing(),
            },
            met: alive.zip(all).map(|(alive, all)| alive == all),
        },
        below(numbers, "", Metric::KibPerUpload, 64.0),
        at_most(
            "at most half of tusd's KiB per upload".to_owned(),
            numbers.median(Longshore, "", Metric::KibPerUpload),
            numbers.median(Tusd, "", Metric::KibPerUpload),
            0.5,
        ),
    ]
}

fn asking(numbers: Numbers<'_>) -> Vec<Verdict> {
    let loaded = numbers.median(Longshore, status::LOADED, Metric::P99Ms);
    let peer = numbers.best_peer(status::LOADED, Metric::P99Ms);
    vec![
        at_most(
            "p99 under load at most 2 × idle".to_owned(),
            loaded,
            numbers.median(Longshore, status::IDLE, Metric::P99Ms),
            2.0,
        ),
        at_most(
            format!("p99 under load at most a third of the best peer's{}", named(peer)),
            loaded,
            peer.map(|(_, p99)| p99),
            1.0 / 3.0,
        ),
    ]
}

fn bystander(numbers: Numbers<'_>, variant: &str) -> Verdict {
    at_most(
        format!("{variant}: nginx's p99 at most {} × quiet", bystander::MOST_TIMES_QUIET),
        numbers.median(Longshore, variant, Metric::P99Ms),
        numbers.median(Longshore, variant, Metric::QuietP99Ms),
        bystander::MOST_TIMES_QUIET,
    )
}

fn tls_and_h2(numbers: Numbers<'_>) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> =
        [tls::H1, tls::H2].into_iter().map(|form| faster(numbers, Longshore, form, Metric::MbPerSecond, 1.2)).collect();
    let rate = |subject| numbers.median(subject, tls::H1, Metric::MbPerSecond);
    verdicts.push(at_most(
        "TLS, HTTP/1.1: within 1.3 × of the bare loop's rate over TLS".to_owned(),
        rate(Subject::Bare),
        rate(Longshore),
        1.3,
    ));
    for (h1, h2) in tls::FAR {
        let rate = |form| numbers.median(Longshore, form, Metric::MbPerSecond);
        verdicts.push(at_least(format!("{h2}: at least 0.8 × HTTP/1.1"), rate(h2), rate(h1), 0.8));
    }
    verdicts
}

fn other_dialects(numbers: Numbers<'_>) -> Vec<Verdict> {
    let median = |variant, metric| numbers.median(Longshore, variant, metric);
    let cpu = |variant| median(variant, Metric::CpuSecondsPerGb);
    let leaner = |form, than| at_most(format!("{form}: CPU at most 1.05 × {than}"), cpu(form), cpu(than), 1.05);
    let (parallel, one) = (median(dialects::PARALLEL, Metric::MbPerSecond), median(dialects::TUS, Metric::MbPerSecond));
    vec![
        at_least(format!("{}: at least 1.0 × {}", dialects::PARALLEL, dialects::TUS), parallel, one, 1.0),
        leaner(dialects::IETF, dialects::TUS),
        leaner(dialects::RANGED, dialects::TUS),
        leaner(dialects::GOOGLE, dialects::TUS_MD5),
    ]
}

fn many_records(numbers: Numbers<'_>) -> Vec<Verdict> {
    let variants = numbers.variants();
    let parts: Vec<(&str, &str)> = variants.iter().filter_map(|variant| records::parts(variant)).collect();
    let Some(&(fewest, _)) = parts.first() else { return Vec::new() };
    let mut verdicts = Vec::new();
    for &(count, question) in &parts {
        let variant = records::variant(count, question);
        if question == records::START_UP {
            verdicts.push(Verdict {
                goal: format!("{variant} under 2 s"),
                ..below(numbers, &variant, Metric::StartUpSeconds, 2.0)
            });
        } else if count != fewest {
            let p99 = |count| numbers.median(Longshore, &records::variant(count, question), Metric::P99Ms);
            let goal = format!("{variant}: p99 at most 1.5 × that with {fewest}");
            verdicts.push(at_most(goal, p99(count), p99(fewest), 1.5));
        }
    }
    verdicts
}

fn webhooks(numbers: Numbers<'_>) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = [webhooks::UPLOADING, webhooks::DRAINING]
        .into_iter()
        .map(|form| bounded(numbers, form, Metric::DeliveriesPerSecond, Bound::AtLeast(1_000.0)))
        .collect();
    verdicts.push(bounded(numbers, webhooks::PACED, Metric::P50Ms, Bound::AtMost(20.0)));
    verdicts.push(bounded(numbers, webhooks::PACED, Metric::P95Ms, Bound::AtMost(100.0)));
    verdicts.push(beside_a_queue(numbers));
    verdicts.push(patching(numbers));
    verdicts.push(progress(numbers));
    verdicts.extend([webhooks::WELL, webhooks::SLOW, webhooks::DEAD, webhooks::KILLED].map(|form| lost(numbers, form)));
    verdicts
}

fn lost(numbers: Numbers<'_>, variant: &str) -> Verdict {
    let own = |metric| numbers.median(Longshore, variant, metric);
    let both = own(Metric::Lost).zip(own(Metric::Expected));
    Verdict {
        goal: format!("{variant}: nothing lost"),
        measured: both.map_or_else(missing, |(lost, all)| format!("{} of {}", figure(lost), figure(all))),
        met: both.map(|(lost, _)| lost == 0.0),
    }
}

fn beside_a_queue(numbers: Numbers<'_>) -> Verdict {
    let p50 = |form| numbers.median(Longshore, form, Metric::P50Ms);
    let (beside, alone) = (p50(webhooks::OVERDUE), p50(webhooks::PACED));
    let goal = format!("{}: p50 at most 1.1 × that without, or 1 ms more", webhooks::OVERDUE);
    Verdict {
        met: beside.zip(alone).map(|(beside, alone)| is_as_soon(beside, alone)),
        ..compare(goal, beside, alone, |_| false)
    }
}

/// Compares two delays. Messages have timestamps in milliseconds, so a difference of one is none.
fn is_as_soon(beside_ms: f64, alone_ms: f64) -> bool {
    beside_ms <= alone_ms * 1.1 || beside_ms - alone_ms <= 1.0
}

fn patching(numbers: Numbers<'_>) -> Verdict {
    let p99 = |form| numbers.median(Longshore, form, Metric::P99Ms);
    let both = p99(webhooks::TOLD).zip(p99(webhooks::UNTOLD));
    Verdict {
        goal: "an endpoint for everything raises PATCH p99 by at most 5 ms".to_owned(),
        measured: both.map_or_else(missing, |(told, untold)| {
            format!("{} to {}: {:+.2} ms", figure(told), figure(untold), told - untold)
        }),
        met: both.map(|(told, untold)| told - untold <= 5.0),
    }
}

/// Evaluates progress events: an upload reports its progress every five seconds at most.
fn progress(numbers: Numbers<'_>) -> Verdict {
    let own = |metric| numbers.median(Longshore, webhooks::PROGRESS, metric);
    let both = own(Metric::RowsPerSecond).zip(own(Metric::Connections));
    Verdict {
        goal: "progress rows/s at most a fifth of the uploads: 2,000 of 10,000".to_owned(),
        measured: both.map_or_else(missing, |(rows, uploads)| {
            format!(
                "{} of {}: {} of 10,000",
                figure(rows),
                figure(uploads),
                figure((rows / uploads * 10_000.0).round())
            )
        }),
        met: both.map(|(rows, uploads)| rows <= uploads / 5.0),
    }
}

/// Evaluates whether the load generator had reserves when it drove the fastest server.
fn generator(numbers: Numbers<'_>, metric: Metric) -> Verdict {
    let servers = numbers.subjects("").into_iter().filter(|subject| subject.is_peer() || subject.is_longshore());
    let fastest = servers.filter_map(|server| numbers.median(server, "", metric)).max_by(f64::total_cmp);
    let sink = numbers.median(Subject::Sink, "", metric);
    at_least("the generator: the sink takes at least 1.2 × the fastest server".to_owned(), sink, fastest, 1.2)
}

/// Evaluates whether a subject is at least `times` as fast as the fastest peer.
fn faster(numbers: Numbers<'_>, subject: Subject, variant: &str, metric: Metric, times: f64) -> Verdict {
    let peer = numbers.best_peer(variant, metric);
    let durability = if subject == LongshoreRelaxed { "relaxed" } else { "strict" };
    let form = if variant.is_empty() { String::new() } else { format!("{variant}, ") };
    at_least(
        format!("{form}{durability}: {} at least {times:.1} × the fastest peer{}", metric.label(), named(peer)),
        numbers.median(subject, variant, metric),
        peer.map(|(_, rate)| rate),
        times,
    )
}

fn below(numbers: Numbers<'_>, variant: &str, metric: Metric, limit: f64) -> Verdict {
    let own = numbers.median(Longshore, variant, metric);
    let form = if variant.is_empty() { String::new() } else { format!("{variant}: ") };
    Verdict {
        goal: format!("{form}{} below {limit}", metric.label()),
        measured: own.map_or_else(missing, figure),
        met: own.map(|own| own < limit),
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

fn bounded(numbers: Numbers<'_>, variant: &str, metric: Metric, bound: Bound) -> Verdict {
    bounded_of(numbers, Longshore, variant, metric, bound)
}

pub(super) fn bounded_of(
    numbers: Numbers<'_>,
    subject: Subject,
    variant: &str,
    metric: Metric,
    bound: Bound,
) -> Verdict {
    let own = numbers.median(subject, variant, metric);
    let (words, limit) = match bound {
        Bound::AtLeast(limit) => ("at least", limit),
        Bound::AtMost(limit) => ("at most", limit),
    };
    Verdict {
        goal: format!("{variant}: {} {words} {}", metric.label(), figure(limit)),
        measured: own.map_or_else(missing, figure),
        met: own.map(|own| match bound {
            Bound::AtLeast(limit) => own >= limit,
            Bound::AtMost(limit) => own <= limit,
        }),
    }
}

pub(super) fn at_least(goal: String, own: Option<f64>, other: Option<f64>, times: f64) -> Verdict {
    compare(goal, own, other, |ratio| ratio >= times)
}

pub(super) fn at_most(goal: String, own: Option<f64>, other: Option<f64>, times: f64) -> Verdict {
    compare(goal, own, other, |ratio| ratio <= times)
}

fn compare(goal: String, own: Option<f64>, other: Option<f64>, good: impl Fn(f64) -> bool) -> Verdict {
    match own.zip(other) {
        Some((own, other)) => Verdict {
            goal,
            measured: format!("{} to {}: {:.2} ×", figure(own), figure(other), own / other),
            met: Some(good(own / other)),
        },
        None => Verdict { goal, measured: missing(), met: None },
    }
}

fn named(peer: Option<(Subject, f64)>) -> String {
    peer.map_or(String::new(), |(peer, _)| format!(" ({})", peer.label()))
}

fn missing() -> String {
    "not measured".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_judged_from_the_right_side() {
        assert_eq!(at_least(String::new(), Some(3.0), Some(2.0), 1.5).met, Some(true));
        assert_eq!(at_least(String::new(), Some(2.9), Some(2.0), 1.5).met, Some(false));
        assert_eq!(at_most(String::new(), Some(1.0), Some(2.0), 0.5).met, Some(true));
        assert_eq!(at_most(String::new(), Some(1.1), Some(2.0), 0.5).met, Some(false));
        assert_eq!(at_most(String::new(), None, Some(2.0), 0.5).met, None);
    }

    #[test]
    fn a_millisecond_more_is_as_soon() {
        assert!(is_as_soon(3.0, 2.0));
        assert!(is_as_soon(21.9, 20.0));
        assert!(!is_as_soon(22.1, 20.0));
    }
}
