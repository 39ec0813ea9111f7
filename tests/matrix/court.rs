//! The court: clients report their answers to it, and it checks them at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::size::Offset;
use domain::stage::{Ended, Stage};
use domain::upload::Upload;

use crate::audit::Audit;
use crate::model::{Model, Promised};
use crate::script::Name;

/// The model and the auditor. Clones share them.
#[derive(Debug, Clone)]
pub struct Court(Arc<Mutex<Bench>>);

#[derive(Debug)]
pub struct Bench {
    pub model: Model,
    pub audit: Audit,
    tickets: u64,
}

impl Court {
    pub fn new(audit: Audit) -> Self {
        Self(Arc::new(Mutex::new(Bench { model: Model::default(), audit, tickets: 0 })))
    }

    pub fn bench(&self) -> MutexGuard<'_, Bench> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a client waits, until the returned value is dropped.
    pub fn waits(&self, what: String) -> Waiting {
        let mut bench = self.bench();
        bench.tickets += 1;
        let ticket = bench.tickets;
        bench.model.waiting.insert(ticket, what);
        Waiting { court: self.clone(), ticket }
    }

    /// Checks everything that has changed.
    pub fn look(&self) {
        let bench = &mut *self.bench();
        bench.audit.look(&mut bench.model);
    }

    /// Records the answer to a client that made its request when `floor` was the offset.
    pub fn hear(&self, name: Name, upload: &Upload, floor: u64) {
        let bench = &mut *self.bench();
        bench.model.hear(name, upload, floor);
        bench.audit.look(&mut bench.model);
    }

    /// Records a rejection that reports an offset to a client.
    pub fn hear_of_another_offset(&self, name: Name, ours: Offset, floor: u64) {
        if ours.get() < floor {
            let how = format!("{name} was reported at offset {}, after {floor} before, in a rejection", ours.get());
            self.bench().model.breaks(Promised::OffsetsNeverFall, how);
        }
    }

    /// Records the confirmation that an upload was terminated at a client's request.
    pub fn hear_of_the_end(&self, name: Name) {
        let bench = &mut *self.bench();
        let id = bench.model.get(name).map(|known| known.id);
        let stage = id.and_then(|id| bench.audit.row(id)).map(|row| row.stage());
        if stage != Some(Stage::Ended(Ended::Terminated)) {
            bench
                .model
                .breaks(Promised::NothingAcknowledgedIsLost, format!("{name} was reported as gone, and is {stage:?}"));
        }
    }

    /// Records the confirmation to an operator that the bytes of an upload were deleted.
    pub fn hear_of_the_deletion(&self, name: Name) {
        let bench = &mut *self.bench();
        let row = bench.model.get(name).map(|known| known.id).and_then(|id| bench.audit.row(id));
        if row.is_none_or(|row| row.owns_bytes()) {
            let how = format!("{name} was reported to an operator as deleted, and is not");
            bench.model.breaks(Promised::NothingAcknowledgedIsLost, how);
        }
    }
}

/// A client that waits for its answer.
#[derive(Debug)]
pub struct Waiting {
    court: Court,
    ticket: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.court.bench().model.waiting.remove(&self.ticket);
    }
}
