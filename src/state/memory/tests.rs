//! The part of the conformance suite that needs no endpoints.

use std::sync::Arc;

use crate::state::conformance::Place;
use crate::state::conformance::conformance_suite;
use crate::state::memory::Memory;
use crate::state::memory::MemoryState;

impl Place for Memory {
    type Store = MemoryState;

    fn new() -> Self {
        Self::default()
    }

    async fn open(&self) -> Arc<MemoryState> {
        Self::open(self)
    }

    fn transactions(store: &MemoryState) -> u64 {
        store.transactions()
    }

    async fn hold(_store: &Arc<MemoryState>) -> impl Send {
        // Nothing ever waits for a writer here.
    }
}

conformance_suite!(Memory, without endpoints);
