//! The part of the conformance suite that needs no endpoints.

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

    async fn hold(_store: &Arc<MemoryState>) -> Box<dyn Send> {
        // Nothing ever waits for a writer here.
        Box::new(())
    }
}

conformance_suite!(Memory, without endpoints);
