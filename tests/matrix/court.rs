//! Where clients say what they were told, and it is checked at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::stage::{Ended, Stage};

use domain::upload::Upload;

use crate::audit::Audit;
use crate::model::{Model, Promised};
use crate::script::Name;

/// The model and the truth. Clones share them.
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

    /// Notes that somebody waits. Gives the number to say [`Self::is_over`] with.
    pub fn waits(&self, what: String) -> u64 {
        let mut bench = self.bench();
        bench.tickets += 1;
        let ticket = bench.tickets;
        bench.model.waiting.insert(ticket, what);
        ticket
    }

    pub fn is_over(&self, ticket: u64) {
        self.bench().model.waiting.remove(&ticket);
    }

    /// Looks at what has changed.
    pub fn look(&self) {
        let bench = &mut *self.bench();
        bench.audit.look(&mut bench.model);
    }

    /// Takes what somebody was told, who asked when `floor` was the offset.
    pub fn hear(&self, name: Name, upload: &Upload, floor: u64) {
        let bench = &mut *self.bench();
        bench.model.hear(name, upload, floor);
        bench.audit.look(&mut bench.model);
    }

    /// Takes that somebody was told that an upload is no more, because they asked for that.
    pub fn hear_of_the_end(&self, name: Name) {
        let bench = &mut *self.bench();
        let id = bench.model.get(name).map(|known| known.id);
        let stage = id.and_then(|id| bench.audit.row(id)).map(|row| row.stage());
        if stage != Some(Stage::Ended(Ended::Terminated)) {
            bench
                .model
                .breaks(Promised::NothingAcknowledgedIsLost, format!("{name} was told to be gone, and is {stage:?}"));
        }
    }

    /// Takes that an operator was told that an upload has no bytes any more.
    pub fn hear_of_the_deletion(&self, name: Name) {
        let bench = &mut *self.bench();
        let row = bench.model.get(name).map(|known| known.id).and_then(|id| bench.audit.row(id));
        if row.is_none_or(|row| row.owns_bytes()) {
            let how = format!("an operator was told that {name} is deleted, and it is not");
            bench.model.breaks(Promised::NothingAcknowledgedIsLost, how);
        }
    }
}
