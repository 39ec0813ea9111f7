//! A process and its children: statistics of the operating system (processor time, memory, reads from disk),
//! and how they end with this process.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// The time that processes have to end in an orderly way: PostgreSQL removes its shared memory.
const ENDING: Duration = Duration::from_secs(3);

/// Ends all processes that this one has started, and then this one, when it gets SIGINT, SIGTERM or SIGHUP.
/// A process in a new namespace does the same with its own.
pub(crate) fn end_all_on_signal() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut hangup, mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        let status = runtime.block_on(async {
            tokio::select! {
                _ = hangup.recv() => 129,
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        let own = std::process::id();
        signal_descendants(own, Signal::TERM);
        let deadline = Instant::now() + ENDING;
        while family(own).len() > 1 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        signal_descendants(own, Signal::KILL);
        std::process::exit(status);
    });
    Ok(())
}

fn signal_descendants(own: u32, signal: Signal) {
    for pid in family(own).into_iter().filter(|pid| *pid != own) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        // It may have ended since it was listed.
        pid.and_then(|pid| kill_process(pid, signal).ok());
    }
}

/// The niceness of threads that act as clients and receivers on other machines, and must not wait for the
/// processor.
pub(crate) const URGENT: i32 = -10;

/// Returns the processor seconds used so far by the process, its threads and its children.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for pid in family(pid) {
        // A child may end after it was listed.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        ticks += stat_ticks(&stat).context("could not read the processor time of a server")?;
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Returns the current resident memory, in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    status_sum(pid, "VmRSS:")
}

/// Returns the most resident memory since `forget_peak`, in bytes.
pub(crate) fn peak(pid: u32) -> anyhow::Result<u64> {
    status_sum(pid, "VmHWM:")
}

/// Restarts the measurement of the peak.
pub(crate) fn forget_peak(pid: u32) -> anyhow::Result<()> {
    for pid in family(pid) {
        fs::write(format!("/proc/{pid}/clear_refs"), "5").context("could not reset the peak of a server's memory")?;
    }
    Ok(())
}

/// Returns the bytes that the process and its children read from the disk.
pub(crate) fn disk_reads(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in family(pid) {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).context("could not read what a process read")?;
        sum += field(&io, "read_bytes:").context("no read_bytes in /proc/PID/io")?;
    }
    Ok(sum)
}

/// Returns the values of these lines of /proc/meminfo, converted from kilobytes to bytes.
pub(crate) fn meminfo(names: &[&str]) -> anyhow::Result<Vec<u64>> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let one = |name: &&str| Ok(field(&text, name).with_context(|| format!("no {name} in /proc/meminfo"))? * 1024);
    names.iter().map(one).collect()
}

/// Empties the page cache. Only root may do that.
pub(crate) fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("could not drop the page cache (only root may)")
}

/// Raises this process's limit of open files, and thereby that of every server it starts.
pub(crate) fn allow_files(wanted: u64) -> anyhow::Result<u64> {
    use rustix::process::Resource::Nofile;
    use rustix::process::Rlimit;
    let had = rustix::process::getrlimit(Nofile);
    let all = Rlimit { current: Some(wanted), maximum: Some(wanted.max(had.maximum.unwrap_or(wanted))) };
    if rustix::process::setrlimit(Nofile, all).is_ok() {
        return Ok(wanted);
    }
    rustix::process::setrlimit(Nofile, Rlimit { current: had.maximum, maximum: had.maximum })?;
    Ok(had.maximum.unwrap_or(wanted))
}

/// Sets the priority of the calling thread; on Linux each thread has one. Raising it needs privileges.
pub(crate) fn nice(niceness: i32) -> bool {
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), niceness).is_ok()
}

/// Returns the process and all its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

/// Returns user and system time, including that of ended children. The name before these fields may contain
/// any character.
fn stat_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
    fields.get(11..15)?.iter().map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn status_sum(pid: u32, name: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in family(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("could not read a server's memory")?;
        sum += field(&status, name).with_context(|| format!("no {name} in /proc/PID/status"))? * 1024;
    }
    Ok(sum)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_does_not_shift_the_times() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194560 100 0 0 0 7 5 2 1 20 0 4 0 100 1 1";
        assert_eq!(stat_ticks(stat), Some(15));
    }

    #[test]
    fn this_process_has_memory_and_a_peak() {
        let pid = std::process::id();
        assert!(resident(pid).unwrap() > 0);
        assert!(peak(pid).unwrap() >= resident(pid).unwrap() / 2);
    }
}
