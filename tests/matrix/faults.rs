//! Calls of the stores and their results: the faults that are planned for a run, the duration of each call,
//! and a count of the faults that happened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::dice::mix;
use crate::report::say;

/// The duration of a call that hangs.
pub const HANG: Duration = Duration::from_secs(40);

/// The duration of a call that fails late: long enough for other calls to arrive meanwhile.
const LATE: Duration = Duration::from_millis(900);

/// Every call that the engine makes to the stores. A new call of a port is a new row here, and the matrix
/// fails until every fault has happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Insert,
    Commit,
    Find,
    Due,
    Open,
    Write,
    /// The request for a durability promise.
    Checkpoint,
    /// The resolution of that promise.
    Sync,
    Close,
    Concatenate,
    Finish,
    Discard,
    Read,
    Available,
}

impl Call {
    pub const ALL: [Self; 14] = [
        Self::Insert,
        Self::Commit,
        Self::Find,
        Self::Due,
        Self::Open,
        Self::Write,
        Self::Checkpoint,
        Self::Sync,
        Self::Close,
        Self::Concatenate,
        Self::Finish,
        Self::Discard,
        Self::Read,
        Self::Available,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "state.insert",
            Self::Commit => "state.commit",
            Self::Find => "state.find",
            Self::Due => "state.due",
            Self::Open => "storage.open",
            Self::Write => "storage.write",
            Self::Checkpoint => "storage.checkpoint",
            Self::Sync => "storage.sync",
            Self::Close => "storage.close",
            Self::Concatenate => "storage.concatenate",
            Self::Finish => "storage.finish",
            Self::Discard => "storage.discard",
            Self::Read => "storage.read",
            Self::Available => "storage.available",
        }
    }

    /// Reports whether this fault can happen to the call. Closing returns no error.
    pub fn can(self, fault: Fault) -> bool {
        self != Self::Close || matches!(fault, Fault::Hangs | Fault::Dies | Fault::DiesWhenDone)
    }
}

/// The fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// An error, and nothing was done.
    Fails,
    /// An error after a delay, and nothing was done.
    FailsLate,
    /// An error because the disk is full, and nothing was done.
    IsFull,
    /// An error, but it was done.
    FailsWhenDone,
    /// The call takes [`HANG`] longer.
    Hangs,
    /// The process dies before anything is done.
    Dies,
    /// The process dies after the call is done.
    DiesWhenDone,
}

impl Fault {
    pub const ALL: [Self; 7] =
        [Self::Fails, Self::FailsLate, Self::IsFull, Self::FailsWhenDone, Self::Hangs, Self::Dies, Self::DiesWhenDone];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Fails => "fails",
            Self::FailsLate => "fails after a while",
            Self::IsFull => "finds no space",
            Self::FailsWhenDone => "is done, but fails",
            Self::Hangs => "hangs",
            Self::Dies => "does not happen, for the process dies",
            Self::DiesWhenDone => "is done, and the process dies",
        }
    }
}

/// A planned fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Planned {
    pub call: Call,
    /// Counted from 1, through all lives of a run.
    pub nth: u64,
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} number {} {}", self.call.name(), self.nth, self.fault.name())
    }
}

/// The error that a failed call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Broken,
    Full,
}

/// The number of times that each fault happened to each call.
pub type Tally = BTreeMap<(Call, Fault), u64>;

/// The faults of a run. Clones share it.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    seed: u64,
    slow: bool,
    /// Set when every call is printed.
    loud: bool,
    ledger: Mutex<Ledger>,
    died: Notify,
}

#[derive(Debug, Default)]
struct Ledger {
    planned: Vec<Planned>,
    calls: BTreeMap<Call, u64>,
    happened: Tally,
    open_writers: usize,
    /// A hash of every call in order.
    trace: u64,
}

struct Turn {
    fault: Option<Fault>,
    before: Duration,
    after: Duration,
}

impl Faults {
    pub fn new(seed: u64, slow: bool, planned: Vec<Planned>) -> Self {
        let ledger = Mutex::new(Ledger { planned, ..Ledger::default() });
        let loud = std::env::var_os("MATRIX_TRACE").is_some();
        Self(Arc::new(Shared { seed, slow, loud, ledger, died: Notify::new() }))
    }

    /// Does `work` as the next call of its kind, with the fault that is planned for it.
    pub async fn around<T, E>(
        &self,
        call: Call,
        error: impl FnOnce(Cause) -> E,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Turn { fault, before, after } = self.enter(call);
        pause(before).await;
        let done = match fault {
            None => work.await,
            Some(Fault::Fails) => Err(error(Cause::Broken)),
            Some(Fault::FailsLate) => {
                tokio::time::sleep(LATE).await;
                Err(error(Cause::Broken))
            }
            Some(Fault::IsFull) => Err(error(Cause::Full)),
            Some(Fault::FailsWhenDone) => work.await.and(Err(error(Cause::Broken))),
            Some(Fault::Hangs) => {
                tokio::time::sleep(HANG).await;
                work.await
            }
            Some(Fault::Dies) => self.die().await,
            Some(Fault::DiesWhenDone) => {
                // Its result is not delivered.
                let _ = work.await;
                self.die().await
            }
        };
        pause(after).await;
        done
    }

    fn enter(&self, call: Call) -> Turn {
        let mut ledger = self.ledger();
        let number = ledger.calls.entry(call).and_modify(|count| *count += 1).or_insert(1);
        let number = *number;
        let planned = ledger.planned.iter().find(|planned| planned.call == call && planned.nth == number);
        let fault = planned.map(|planned| planned.fault).filter(|fault| call.can(*fault));
        if let Some(fault) = fault {
            *ledger.happened.entry((call, fault)).or_insert(0) += 1;
        }
        ledger.trace = mix(&[ledger.trace, call as u64, number]);
        if self.0.loud {
            let what = fault.map_or_else(String::new, |fault| format!(" {}", fault.name()));
            say(&format!("{} number {number}{what}", call.name()));
        }
        let [before, after] = if self.0.slow { takes(mix(&[self.0.seed, call as u64, number])) } else { [0, 0] };
        Turn { fault, before: Duration::from_millis(before), after: Duration::from_millis(after) }
    }

    async fn die<T>(&self) -> T {
        self.0.died.notify_one();
        std::future::pending().await
    }

    /// Waits for the death of the process.
    pub async fn death(&self) {
        self.0.died.notified().await;
    }

    pub fn is_loud(&self) -> bool {
        self.0.loud
    }

    /// Stops all faults.
    pub fn disarm(&self) {
        self.ledger().planned.clear();
    }

    /// Returns the number of kinds of calls that have hung.
    pub fn hung(&self) -> u32 {
        let hung = self.ledger().happened.iter().filter(|((_, fault), _)| *fault == Fault::Hangs).count();
        u32::try_from(hung).unwrap_or(u32::MAX)
    }

    /// Returns the number of calls of each kind.
    pub fn calls(&self) -> BTreeMap<Call, u64> {
        self.ledger().calls.clone()
    }

    pub fn happened(&self) -> Tally {
        self.ledger().happened.clone()
    }

    pub fn trace(&self) -> u64 {
        self.ledger().trace
    }

    pub fn open_writers(&self) -> usize {
        self.ledger().open_writers
    }

    /// Counts a writer until the returned value is dropped.
    pub fn count_writer(&self) -> OpenWriter {
        self.ledger().open_writers += 1;
        OpenWriter(self.clone())
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writer that is open.
#[derive(Debug)]
pub struct OpenWriter(Faults);

impl Drop for OpenWriter {
    fn drop(&mut self) {
        self.0.ledger().open_writers -= 1;
    }
}

/// Returns the duration of a call in milliseconds, before and after its effect: mostly zero, sometimes long.
fn takes(drawn: u64) -> [u64; 2] {
    let part = |drawn: u64| match drawn % 20 {
        0..12 => 0,
        12..16 => 1 + drawn / 20 % 4,
        16..19 => 10 + drawn / 20 % 60,
        _ => 100 + drawn / 20 % 1_900,
    };
    [part(drawn & 0xffff_ffff), part(drawn >> 32)]
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
