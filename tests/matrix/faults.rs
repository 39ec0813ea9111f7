//! Calls of the stores and their results: the faults that are planned for a run, the duration of each call,
//! and a count of the faults that happened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::dice::mix;
use crate::process::Process;
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
    Acquire,
    Seize,
    Release,
    /// The renewal of a heartbeat.
    Renew,
    Open,
    Write,
    /// The request for a durability promise.
    Checkpoint,
    /// The resolution of that promise.
    Sync,
    Close,
    Concatenate,
    Seal,
    Finish,
    Discard,
    Read,
    Available,
}

impl Call {
    pub const ALL: [Self; 19] = [
        Self::Insert,
        Self::Commit,
        Self::Find,
        Self::Due,
        Self::Acquire,
        Self::Seize,
        Self::Release,
        Self::Renew,
        Self::Open,
        Self::Write,
        Self::Checkpoint,
        Self::Sync,
        Self::Close,
        Self::Concatenate,
        Self::Seal,
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
            Self::Acquire => "state.acquire",
            Self::Seize => "state.seize",
            Self::Release => "state.release",
            Self::Renew => "state.renew",
            Self::Open => "storage.open",
            Self::Write => "storage.write",
            Self::Checkpoint => "storage.checkpoint",
            Self::Sync => "storage.sync",
            Self::Close => "storage.close",
            Self::Concatenate => "storage.concatenate",
            Self::Seal => "storage.seal",
            Self::Finish => "storage.finish",
            Self::Discard => "storage.discard",
            Self::Read => "storage.read",
            Self::Available => "storage.available",
        }
    }

    /// Reports whether this fault can happen to the call. Closing returns no error.
    pub fn can(self, fault: Fault) -> bool {
        match fault {
            Fault::Hangs | Fault::Dies | Fault::DiesWhenDone => true,
            Fault::Fails | Fault::FailsLate | Fault::IsFull | Fault::FailsWhenDone => self != Self::Close,
            Fault::IsUnanswered => self.changes_the_state(),
        }
    }

    fn changes_the_state(self) -> bool {
        matches!(self, Self::Insert | Self::Commit | Self::Acquire | Self::Seize | Self::Release | Self::Renew)
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
    /// It was done, and the answer is lost: the caller knows that it does not know.
    IsUnanswered,
    /// The call takes [`HANG`] longer.
    Hangs,
    /// The process dies before anything is done.
    Dies,
    /// The process dies after the call is done.
    DiesWhenDone,
}

impl Fault {
    pub const ALL: [Self; 8] = [
        Self::Fails,
        Self::FailsLate,
        Self::IsFull,
        Self::FailsWhenDone,
        Self::IsUnanswered,
        Self::Hangs,
        Self::Dies,
        Self::DiesWhenDone,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Fails => "fails",
            Self::FailsLate => "fails after a while",
            Self::IsFull => "finds no space",
            Self::FailsWhenDone => "is done, but fails",
            Self::IsUnanswered => "is done, and not answered",
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
    Unanswered,
}

/// The number of times that each fault happened to each call.
pub type Tally = BTreeMap<(Call, Fault), u64>;

/// The faults of a run, as they happen to the calls of one process. The processes of a run share them, and
/// their calls are counted together.
#[derive(Debug, Clone)]
pub struct Faults {
    shared: Arc<Shared>,
    process: Process,
}

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
    /// The calls that faults could happen to, once no more can.
    exposed: Option<BTreeMap<Call, u64>>,
    happened: Tally,
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
        let shared = Arc::new(Shared { seed, slow, loud, ledger, died: Notify::new() });
        Self { shared, process: Process::start() }
    }

    /// Returns the same faults for the calls of another process.
    pub fn of(&self, process: Process) -> Self {
        Self { shared: Arc::clone(&self.shared), process }
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Does `work` as the next call of its kind, with the fault that is planned for it.
    pub async fn around<T, E>(
        &self,
        call: Call,
        error: impl FnOnce(Cause) -> E,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.process.runs().await;
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
            Some(Fault::IsUnanswered) => work.await.and(Err(error(Cause::Unanswered))),
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
        self.process.runs().await;
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
        if self.shared.loud {
            let what = fault.map_or_else(String::new, |fault| format!(" {}", fault.name()));
            say(&format!("{} number {number}{what}", call.name()));
        }
        let [before, after] =
            if self.shared.slow { takes(mix(&[self.shared.seed, call as u64, number])) } else { [0, 0] };
        Turn { fault, before: Duration::from_millis(before), after: Duration::from_millis(after) }
    }

    async fn die<T>(&self) -> T {
        self.process.kill();
        self.note_death();
        std::future::pending().await
    }

    pub fn note_death(&self) {
        self.shared.died.notify_one();
    }

    /// Waits for the death of a process.
    pub async fn death(&self) {
        self.shared.died.notified().await;
    }

    pub fn is_loud(&self) -> bool {
        self.shared.loud
    }

    /// Stops all faults.
    pub fn disarm(&self) {
        let mut ledger = self.ledger();
        ledger.planned.clear();
        ledger.exposed = Some(ledger.calls.clone());
    }

    /// Returns the number of kinds of calls that have hung.
    pub fn hung(&self) -> u32 {
        let hung = self.ledger().happened.iter().filter(|((_, fault), _)| *fault == Fault::Hangs).count();
        u32::try_from(hung).unwrap_or(u32::MAX)
    }

    /// Returns the number of calls of each kind that a fault can happen to.
    pub fn calls(&self) -> BTreeMap<Call, u64> {
        let ledger = self.ledger();
        ledger.exposed.as_ref().unwrap_or(&ledger.calls).clone()
    }

    pub fn happened(&self) -> Tally {
        self.ledger().happened.clone()
    }

    pub fn trace(&self) -> u64 {
        self.ledger().trace
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
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
