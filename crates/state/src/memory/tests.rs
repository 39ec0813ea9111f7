//! The whole conformance suite.

use std::sync::Arc;

use crate::conformance::{Place, bodies};
use crate::conformance_suite;
use crate::memory::{Memory, MemoryState};

impl Place for Memory {
    type Store = MemoryState;

    fn new() -> Self {
        Self::new(bodies())
    }

    async fn open(&self) -> Arc<MemoryState> {
        Self::open(self)
    }

    fn transactions(store: &MemoryState) -> u64 {
        store.transactions()
    }
}

conformance_suite!(Memory);
