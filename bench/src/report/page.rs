//! The page docs/benchmarks.md.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::report::goals::Verdict;
use crate::report::numbers::Numbers;
use crate::report::{goals, plot};
use crate::results::{Measured, Metric, Results};
use crate::scenario;
use crate::scenario::Scenario;
use crate::subject::Subject;
use crate::words::figure;

const PREFACE: &str = "# Benchmarks\n\n\
    *Reference · for operators and contributors*\n\n\
    Longshore and other upload servers, measured side by side on one machine by one command, `bench/run`, which writes \
    this page. [bench/README.md](../bench/README.md) says how to run it and how to read the result; \
    [results.json](benchmarks/results.json) has every number, and [performance.md](performance.md) explains some.\n\n\
    - The servers, the load generator and the disk share the machine. The generator sends from memory with `sendfile` and \
    takes processor time from the server, the same from each. The row *sink* is a server that discards the bytes: no \
    server can be faster here.\n\
    - Each run has a fresh process and an empty folder, over loopback. The servers take turns, and each round starts with \
    another one.\n\
    - Cells are medians of the rounds, with the smallest and the largest in brackets. `× Longshore` compares medians.\n\
    - Longshore is strict unless a row says relaxed: the bytes it has acknowledged are on the disk. tusd and @tus/server \
    never sync; rustus can, and does not by default. `MB/s until synced` adds the time that the system then needs to \
    write everything to the disk.\n\
    - CPU is the user and system time of the server's processes, as the operating system counts it. Later work of the \
    kernel on its own threads, such as writing back pages that a server left in the page cache, is not included.\n\
    - *Longshore on PostgreSQL* has a separate PostgreSQL server on the same disk and cores, with `fsync` on. Its processor \
    time has separate columns.\n\n";

const QUICK: &str = "**This was a quick run with small sizes and one round. It only shows that everything works.**\n\n";

/// Returns the page as Markdown.
pub(crate) fn page(results: &Results) -> String {
    let mut page = PREFACE.to_owned();
    if results.scenarios.values().any(|measured| measured.quick) {
        page += QUICK;
    }
    page += &summary(results);
    page += &machines(results);
    for scenario in &scenario::ALL {
        if let Some(measured) = results.scenarios.get(&scenario.number) {
            page += &section(scenario, measured);
        }
    }
    page += &commands(results);
    page
}

/// Returns the file names and contents of the plots.
pub(crate) fn plots(results: &Results) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    for scenario in &scenario::ALL {
        let Some(measured) = results.scenarios.get(&scenario.number) else { continue };
        for (at, metric) in primary(scenario.number).iter().enumerate() {
            let title = format!("{} {}", scenario.number, scenario.title);
            if let Some(drawing) = plot::bars(&title, Numbers(measured), *metric) {
                plots.push((plot_name(scenario.number, at), drawing));
            }
        }
    }
    plots
}

/// Returns the main metrics of a scenario, which are plotted and compared; the other numbers are in the
/// table.
fn primary(scenario: u8) -> &'static [Metric] {
    match scenario {
        1 | 13 => &[Metric::MbPerSecond, Metric::CpuSecondsPerGb],
        3 => &[Metric::MbPerSecond, Metric::SpreadRatio],
        4 => &[Metric::UploadsPerSecond],
        5 => &[Metric::KibPerUpload],
        6 => &[Metric::P99Ms],
        7 => &[Metric::P99Ms, Metric::HitPercent],
        8 => &[Metric::CacheGrownMib],
        9 => &[Metric::AcceptedP99Ms],
        10 => &[Metric::MessageMs],
        12 => &[Metric::P99Ms, Metric::StartUpSeconds],
        14 => &[Metric::Lost, Metric::DelayMs],
        15 => &[Metric::P99Ms, Metric::MbPerSecond],
        16 => &[Metric::P99Ms],
        _ => &[Metric::MbPerSecond],
    }
}

fn plot_name(scenario: u8, at: usize) -> String {
    format!("{scenario:02}{}.svg", if at == 0 { "" } else { "b" })
}

fn summary(results: &Results) -> String {
    let mut out = "## Goals\n\n| # | Scenario | Goal | Measured | |\n|---|---|---|---|---|\n".to_owned();
    for scenario in &scenario::ALL {
        match results.scenarios.get(&scenario.number) {
            None => line(&mut out, format_args!("| {} | {} | | not run yet | |", scenario.number, scenario.title)),
            Some(measured) => {
                for verdict in goals::judge(scenario.number, Numbers(measured)) {
                    let Verdict { goal, measured, .. } = &verdict;
                    let number = scenario.number;
                    line(
                        &mut out,
                        format_args!("| {number} | {} | {goal} | {measured} | {} |", scenario.title, word(&verdict)),
                    );
                }
            }
        }
    }
    out + "\n"
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict.met {
        Some(true) => "met",
        Some(false) => "**not met**",
        None => "–",
    }
}

/// Returns the machines. Scenarios may have been measured on different days; equal machines and versions are
/// listed once.
fn machines(results: &Results) -> String {
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    for (number, measured) in &results.scenarios {
        let text = machine(measured);
        match told.iter_mut().find(|(known, _)| *known == text) {
            Some((_, numbers)) => numbers.push(number.to_string()),
            None => told.push((text, vec![number.to_string()])),
        }
    }
    let mut out = "## Machine and versions\n\n".to_owned();
    for (text, numbers) in &told {
        if told.len() > 1 {
            line(&mut out, format_args!("Scenarios {}:\n", numbers.join(", ")));
        }
        out += text;
    }
    out
}

fn machine(measured: &Measured) -> String {
    let machine = &measured.machine;
    let mut out = format!(
        "| | |\n|---|---|\n| processor | {}, {} cores |\n| memory | {:.1} GiB |\n| kernel | Linux {} |\n| file system | {} |\n",
        machine.processor, machine.cores, machine.memory_gib, machine.kernel, machine.file_system
    );
    for (subject, version) in &measured.versions {
        line(&mut out, format_args!("| {} | {version} |", subject.label()));
    }
    out + "\n"
}

fn section(scenario: &Scenario, measured: &Measured) -> String {
    let numbers = Numbers(measured);
    let mut out = format!("## {} {}\n\n{}\n\n", scenario.number, scenario.title, scenario.what);
    let rounds = if measured.rounds == 1 { "one round".to_owned() } else { format!("{} rounds", measured.rounds) };
    line(
        &mut out,
        format_args!(
            "Measured {}, {rounds}; the disk took {} ms to make 4 KiB durable.\n",
            measured.at,
            figure(measured.machine.fsync_ms)
        ),
    );
    for verdict in goals::judge(scenario.number, numbers) {
        line(&mut out, format_args!("- {}: {}, {}", verdict.goal, verdict.measured, word(&verdict)));
    }
    out += "\n";
    out += &tables(scenario.number, numbers);
    for note in &measured.notes {
        line(&mut out, format_args!("{note}\n"));
    }
    for (subject, variant, why) in numbers.failures() {
        let form = if variant.is_empty() { String::new() } else { format!(" ({variant})") };
        line(&mut out, format_args!("{}{form} has no result: {why}\n", subject.label()));
    }
    for (at, metric) in primary(scenario.number).iter().enumerate() {
        if plot::bars("", numbers, *metric).is_some() {
            let name = plot_name(scenario.number, at);
            line(&mut out, format_args!("![{}: {}](benchmarks/{name})\n", scenario.title, metric.label()));
        }
    }
    out
}

/// Returns one table for all variants that have the same numbers, so that no row is mostly empty.
fn tables(scenario: u8, numbers: Numbers<'_>) -> String {
    let mut groups: Vec<(Vec<Metric>, Vec<&str>)> = Vec::new();
    for variant in numbers.variants() {
        let metrics = numbers.metrics(variant);
        match groups.iter_mut().find(|(known, _)| *known == metrics) {
            Some((_, variants)) => variants.push(variant),
            None => groups.push((metrics, vec![variant])),
        }
    }
    let measured = groups.iter().filter(|(metrics, _)| !metrics.is_empty());
    measured.map(|(metrics, variants)| table(scenario, numbers, metrics, variants)).collect()
}

fn table(scenario: u8, numbers: Numbers<'_>, metrics: &[Metric], variants: &[&str]) -> String {
    let forms = variants.iter().any(|variant| !variant.is_empty());
    let compared = |metric: &Metric| primary(scenario).contains(metric) && is_compared(numbers, variants, *metric);
    let compared: Vec<Metric> = metrics.iter().copied().filter(compared).collect();
    let mut heads = if forms { vec!["", ""] } else { vec![""] };
    for metric in metrics {
        heads.push(metric.label());
        if compared.contains(metric) {
            heads.push("× Longshore");
        }
    }
    let mut out = format!("| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for variant in variants {
        for subject in numbers.subjects(variant) {
            let mut cells = if forms { vec![(*variant).to_owned()] } else { Vec::new() };
            cells.push(subject.label().to_owned());
            for metric in metrics {
                cells.push(cell(numbers, subject, variant, *metric));
                if compared.contains(metric) {
                    cells.push(ratio(numbers, subject, variant, *metric));
                }
            }
            line(&mut out, format_args!("| {} |", cells.join(" | ")));
        }
    }
    out + "\n"
}

/// Reports whether any other subject can be compared with Longshore; no number is a multiple of zero.
fn is_compared(numbers: Numbers<'_>, variants: &[&str], metric: Metric) -> bool {
    let others = |variant: &&str| {
        numbers
            .subjects(variant)
            .into_iter()
            .any(|subject| subject != Subject::Longshore && !ratio(numbers, subject, variant, metric).is_empty())
    };
    variants.iter().any(others)
}

fn cell(numbers: Numbers<'_>, subject: Subject, variant: &str, metric: Metric) -> String {
    match numbers.spread(subject, variant, metric) {
        Some(spread) if spread.min < spread.max => {
            format!("{} ({} – {})", figure(spread.median), figure(spread.min), figure(spread.max))
        }
        Some(spread) => figure(spread.median),
        None => String::new(),
    }
}

fn ratio(numbers: Numbers<'_>, subject: Subject, variant: &str, metric: Metric) -> String {
    let own = numbers.median(Subject::Longshore, variant, metric);
    let theirs = numbers.median(subject, variant, metric);
    match own.zip(theirs) {
        Some((own, theirs)) if own != 0.0 => format!("{:.2}", theirs / own),
        _ => String::new(),
    }
}

/// Returns the command lines. The same server may be started differently in some scenarios; each command line
/// is listed once.
fn commands(results: &Results) -> String {
    let mut ways: BTreeMap<Subject, Vec<(String, Vec<String>)>> = BTreeMap::new();
    for (number, measured) in &results.scenarios {
        for (subject, command) in &measured.commands {
            let known = ways.entry(*subject).or_default();
            match known.iter_mut().find(|(text, _)| text == command) {
                Some((_, numbers)) => numbers.push(number.to_string()),
                None => known.push((command.clone(), vec![number.to_string()])),
            }
        }
    }
    let mut out =
        "## How the servers were started\n\n`DIR` is the folder of the server, `PORT` a free port.\n\n".to_owned();
    for (subject, ways) in ways {
        for (command, numbers) in ways {
            line(
                &mut out,
                format_args!("{}, in {}:\n\n```text\n{command}\n```\n", subject.label(), numbers.join(", ")),
            );
        }
    }
    out
}

fn line(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).and_then(|()| out.write_char('\n')).expect("a string takes everything");
}
