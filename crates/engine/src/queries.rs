//! Queries of clients and operators that a copy of the state may answer: a status, lists, deliveries, hook
//! calls.
//!
//! A query states what its client knows already. Its answer is never older than that, nor older than what
//! this node has answered before.

use crate::Engine;
use crate::command::EngineError;
use crate::read::{StatusPage, UploadStatus};
use domain::delivery::DeliveryRecord;
use domain::hook::HookCall;
use domain::id::{DeliveryId, UploadId};
use domain::position::CommitPosition;
use domain::principal::Principal;
use domain::query::{DeliveryPage, DeliveryQuery, HookCallQuery, UploadQuery};
use domain::rejection::Rejection;
use state::KnownState;

/// The queries of one client.
#[derive(Debug)]
pub struct Queries<'e> {
    engine: &'e Engine,
    principal: &'e Principal,
    position: Option<CommitPosition>,
}

impl Engine {
    /// Returns the queries of a client that knows the effects of commits up to `position`.
    pub fn queries<'e>(&'e self, principal: &'e Principal, position: Option<CommitPosition>) -> Queries<'e> {
        Queries { engine: self, principal, position }
    }

    /// Returns a position after everything that is committed now, for the response to a write. Queries that
    /// name it, and all later queries of this node, find what was written. `None` if every query does so.
    pub async fn current_position(&self) -> Option<CommitPosition> {
        self.0.reads.current_position().await
    }
}

impl Queries<'_> {
    /// Returns the status of an upload that the client knows in `version`, if in any.
    pub async fn status(&self, id: UploadId, version: Option<u64>) -> Result<UploadStatus, EngineError> {
        let inner = &self.engine.0;
        let finding = async {
            let known = KnownState { version, ..self.known() };
            let found = inner.reads.recent_upload(self.principal.scope(), id, known).await?;
            Ok(inner.extended(found.ok_or(EngineError::Rejected(Rejection::NotFound))?))
        };
        self.engine.status_of(id, finding).await
    }

    /// Returns the uploads that match, newest first.
    pub async fn list(&self, query: &UploadQuery) -> Result<StatusPage, EngineError> {
        let page = self.engine.0.reads.recent_uploads(self.principal.scope(), query, self.known()).await?;
        Ok(self.engine.statuses(page).await)
    }

    /// Returns matching deliveries with their attempts, newest first.
    pub async fn deliveries(&self, query: &DeliveryQuery) -> Result<DeliveryPage, EngineError> {
        Ok(self.engine.0.reads.recent_deliveries(self.principal.scope(), query, self.known()).await?)
    }

    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, EngineError> {
        Ok(self.engine.0.reads.recent_delivery(self.principal.scope(), id, self.known()).await?)
    }

    /// Returns the recorded hook calls, newest first.
    pub async fn hook_calls(&self, query: &HookCallQuery) -> Result<Vec<HookCall>, EngineError> {
        Ok(self.engine.0.reads.recent_hook_calls(self.principal.scope(), query, self.known()).await?)
    }

    fn known(&self) -> KnownState {
        KnownState { position: self.position, version: None }
    }
}
