//! Shrinks a failing script, as long as it fails in the same way.

use crate::model::Promised;
use crate::script::{Script, Step, Tuning};
use crate::watchdog::Watchdog;
use crate::world;

/// Returns the smallest script found that breaks the same promise.
pub fn shrink(script: &Script, promise: Promised, watchdog: &Watchdog) -> Script {
    let breaks = |candidate: &Script| {
        world::run(candidate, watchdog).broken.first().is_some_and(|broken| broken.promise == promise)
    };
    smallest(script, breaks)
}

/// Removes unnecessary parts greedily, until nothing more can be removed.
fn smallest(script: &Script, fails: impl Fn(&Script) -> bool) -> Script {
    let mut best = script.clone();
    loop {
        let before = best.clone();
        best = without_parts(
            best,
            &fails,
            |script| script.faults.len(),
            |script, from, to| drop(script.faults.drain(from..to)),
        );
        best = without_parts(
            best,
            &fails,
            |script| script.steps.len(),
            |script, from, to| drop(script.steps.drain(from..to)),
        );
        for index in 0.. {
            let Some(candidate) = simpler(&best).into_iter().nth(index) else { break };
            if candidate != best && fails(&candidate) {
                best = candidate;
            }
        }
        if best == before {
            return best;
        }
    }
}

/// Tries to remove halves, quarters, and so on, down to single items.
fn without_parts(
    mut best: Script,
    fails: &impl Fn(&Script) -> bool,
    count: impl Fn(&Script) -> usize,
    remove: impl Fn(&mut Script, usize, usize),
) -> Script {
    let mut size = count(&best);
    while size > 0 {
        let mut from = 0;
        while from < count(&best) {
            let mut candidate = best.clone();
            remove(&mut candidate, from, (from + size).min(count(&best)));
            if fails(&candidate) { best = candidate } else { from += size }
        }
        size /= 2;
    }
    best
}

/// Returns the same script with simpler settings.
fn simpler(script: &Script) -> Vec<Script> {
    let with = |tuning: Tuning| Script { tuning, ..script.clone() };
    let usual = Tuning::default();
    let tuning = script.tuning;
    let mut simpler = vec![
        with(usual),
        with(Tuning { slow: false, ..tuning }),
        with(Tuning { slow: tuning.slow, ..usual }),
        with(Tuning { keep_open_ms: usual.keep_open_ms, ..tuning }),
        with(Tuning { progress: false, ..tuning }),
    ];
    for (index, step) in script.steps.iter().enumerate() {
        let calmer = match *step {
            Step::Wait { ms } if ms > 10 => Step::Wait { ms: ms / 2 },
            Step::Fall { request } => Step::Vanish { request },
            Step::Begin { request, upload, body } if body.fatal => {
                Step::Begin { request, upload, body: crate::script::Body { fatal: false, ..body } }
            }
            _ => continue,
        };
        let mut candidate = script.clone();
        candidate.steps[index] = calmer;
        simpler.push(candidate);
    }
    simpler
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Call, Fault, Planned};
    use crate::script::Name;

    #[test]
    fn what_is_not_needed_goes() {
        let wait = |ms| Step::Wait { ms };
        let needed = Step::Cancel { upload: Name(1) };
        let fault = |nth| Planned { call: Call::Commit, nth, fault: Fault::Fails };
        let script = Script {
            seed: 1,
            tuning: Tuning { slow: true, ..Tuning::default() },
            steps: vec![wait(1), wait(2), needed, wait(3), needed, Step::Kill],
            faults: vec![fault(1), fault(2), fault(3)],
        };
        let fails = |script: &Script| {
            script.steps.iter().filter(|step| **step == needed).count() == 2 && script.faults.contains(&fault(2))
        };
        let smallest = smallest(&script, fails);
        assert_eq!(smallest.steps, [needed, needed]);
        assert_eq!(smallest.faults, [fault(2)]);
        assert_eq!(smallest.tuning, Tuning::default());
    }
}
