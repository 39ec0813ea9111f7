//! The matrix: every call of state and storage fails, hangs or kills the process, at every step of every
//! combination of requests that a generator makes. See README.md in this folder.

#![expect(unreachable_pub, reason = "this crate is a program; nobody imports it")]

mod audit;
mod chosen;
mod client;
mod content;
mod court;
mod dice;
mod faults;
mod generate;
mod leases;
mod log;
mod model;
mod node;
mod nodes;
mod panics;
#[path = "../it/support/peers.rs"]
mod peers;
mod print;
mod process;
mod prove;
mod records;
mod report;
mod script;
mod settings;
mod shrink;
mod stores;
mod unanswered;
mod watchdog;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use faults::{Call, Fault, Planned};
use report::Report;
use script::Script;
use watchdog::Watchdog;

/// The default number of seeds.
const FEW: u64 = 300;

/// In this many runs every fault has happened to every call.
const ENOUGH: u64 = 50_000;

const SAY_EVERY: Duration = Duration::from_secs(60);

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, but must be a number")))
}

/// Runs a script. If it breaks a promise, returns a description: the smallest script that breaks the same
/// promise.
fn try_script(what: &str, script: &Script, watchdog: &Watchdog, report: &mut Report) -> Result<(), String> {
    let outcome = world::run(script, watchdog);
    report.count(&outcome);
    let Some(first) = outcome.broken.first() else { return Ok(()) };
    let smallest = shrink::shrink(script, first.promise, watchdog);
    let again = world::run(&smallest, watchdog);
    Err(report::failure(what, &smallest, &again.broken))
}

#[test]
fn every_fault_happens_to_every_call_of_the_chosen_scripts() {
    let only = std::env::var("MATRIX_SCRIPT").ok();
    let is_short = only.is_none() && number_in("MATRIX_SECONDS").is_none();
    let mut scripts = chosen::all();
    scripts.retain(|(name, _)| only.as_deref().is_none_or(|only| only == *name));
    let began = Instant::now();
    let queue = Mutex::new(scripts.into_iter());
    let done = Mutex::new((Report::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| {
                let watchdog = Watchdog::start();
                let next = || queue.lock().expect("no worker has panicked").next();
                while let Some((name, script)) = next() {
                    let mut report = Report::default();
                    let tried = try_every_fault(name, &script, is_short, &watchdog, &mut report);
                    let (reports, failures) = &mut *done.lock().expect("no worker has panicked");
                    reports.add(&report);
                    failures.extend(tried.err());
                }
            });
        }
    });
    let (report, failures) = done.into_inner().expect("no worker has panicked");
    report::say(&format!("chosen scripts: {}\n{report}", report.line(began.elapsed())));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(only.is_some() || report.never().is_empty(), "these have never happened: {:?}", report.never());
}

/// Makes every call of a script fail in every way, one in each run. The short form makes each call of a
/// frequent kind fail in one way.
fn try_every_fault(
    name: &str,
    script: &Script,
    is_short: bool,
    watchdog: &Watchdog,
    report: &mut Report,
) -> Result<(), String> {
    try_script(name, script, watchdog, report)?;
    for (call, count) in world::run(script, watchdog).calls {
        for nth in 1..=count {
            for fault in Fault::ALL.into_iter().filter(|fault| call.can(*fault)) {
                let its_turn = (nth + fault as u64).is_multiple_of(Fault::ALL.len() as u64);
                if is_short && count > 2 && !its_turn {
                    continue;
                }
                let planned = Planned { call, nth, fault };
                let broken = Script { faults: vec![planned], ..script.clone() };
                try_script(&format!("{name}, {planned},"), &broken, watchdog, report)?;
            }
        }
    }
    Ok(())
}

/// Returns the number of concurrent runs.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn generated_mixtures_keep_what_is_promised() {
    if let Some(seed) = number_in("MATRIX_SEED") {
        let script = generate::script(seed);
        report::say(&format!("number {seed} is\n{script}"));
        try_script(&format!("number {seed}"), &script, &Watchdog::start(), &mut Report::default())
            .unwrap_or_else(|failure| panic!("{failure}"));
        return;
    }
    let limit = number_in("MATRIX_SECONDS").map(Duration::from_secs);
    let first = number_in("MATRIX_FIRST").unwrap_or(if limit.is_some() { rand::random::<u32>().into() } else { 0 });
    let matrix = Matrix {
        began: Instant::now(),
        first,
        limit,
        next: AtomicU64::new(first),
        stop: AtomicBool::new(false),
        report: Mutex::default(),
        most_failures: number_in("MATRIX_FAILURES").unwrap_or(1),
        failures: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| matrix.work());
        }
        scope.spawn(|| matrix.tell());
    });
    let report = matrix.report.into_inner().expect("no worker has panicked");
    let failures = matrix.failures.into_inner().expect("no worker has panicked");
    report::say(&format!("generated scripts from number {first}: {}\n{report}", report.line(matrix.began.elapsed())));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let mut never = report.never();
    if generate::most_nodes() == 1 {
        // A node that is alone needs no calls for leases of others.
        never.retain(|(call, _)| !matches!(call, Call::Acquire | Call::Seize | Call::Release | Call::Renew));
    }
    assert!(report.runs < ENOUGH || never.is_empty(), "these have never happened: {never:?}");
}

/// Generated scripts, run by several threads.
struct Matrix {
    began: Instant,
    first: u64,
    limit: Option<Duration>,
    next: AtomicU64,
    stop: AtomicBool,
    report: Mutex<Report>,
    /// The number of failures after which it stops.
    most_failures: u64,
    failures: Mutex<Vec<String>>,
}

impl Matrix {
    fn work(&self) {
        let watchdog = Watchdog::start();
        while !self.is_over() {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let mut report = Report::default();
            let tried = try_script(&format!("number {seed}"), &generate::script(seed), &watchdog, &mut report);
            self.report.lock().expect("no worker has panicked").add(&report);
            if let Err(failure) = tried {
                let mut failures = self.failures.lock().expect("no worker has panicked");
                failures.push(failure);
                self.stop.fetch_or(failures.len() as u64 >= self.most_failures, Ordering::Relaxed);
            }
        }
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        let is_enough = match self.limit {
            Some(limit) => self.began.elapsed() >= limit,
            None => self.next.load(Ordering::Relaxed) >= self.first + FEW,
        };
        is_enough || self.stop.load(Ordering::Relaxed)
    }

    /// Prints its progress from time to time.
    fn tell(&self) {
        let mut told = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= SAY_EVERY {
                told = Instant::now();
                let report = self.report.lock().expect("no worker has panicked").clone();
                report::say(&report.line(self.began.elapsed()));
            }
        }
    }
}

#[test]
fn a_number_is_the_same_run_every_time() {
    let watchdog = Watchdog::start();
    for seed in 0..40 {
        let script = generate::script(seed);
        let [one, other] = [(); 2].map(|()| world::run(&script, &watchdog));
        assert_eq!(one.trace, other.trace, "number {seed} is not the same run twice:\n{script}");
        assert_eq!(one.broken, other.broken);
    }
}
