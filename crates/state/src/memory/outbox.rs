//! The outbox of a store without endpoints: nothing is due, and nothing to manage.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::memory::MemoryState;
use crate::{
    Backlog, BacklogLimits, Claim, DeliveryPage, DeliveryQuery, Error, Horizon, Outbox, ReplayId, ReplayJob, Replayed,
    Result, Settled,
};
use domain::delivery::DeliveryRecord;
use domain::endpoint::{Endpoint, EndpointId};
use domain::id::{DeliveryId, UploadId};
use domain::notice::Notice;
use domain::principal::TenantScope;
use domain::time::Timestamp;

fn keeps_no_endpoints(operation: &'static str) -> Error {
    Error::Failed { operation, source: "a state in memory keeps no endpoints".into() }
}

#[async_trait]
impl Outbox for MemoryState {
    async fn open_for(&self, configured: Vec<Endpoint>, _now: Timestamp) -> Result<()> {
        if configured.is_empty() { Ok(()) } else { Err(keeps_no_endpoints("open the outbox")) }
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>> {
        Ok(Vec::new())
    }

    async fn put_endpoint(&self, _endpoint: Endpoint, _now: Timestamp) -> Result<Endpoint> {
        Err(keeps_no_endpoints("write an endpoint"))
    }

    async fn remove_endpoint(&self, _id: &EndpointId, _now: Timestamp) -> Result<bool> {
        Ok(false)
    }

    async fn cancel_backlog(&self, _id: &EndpointId, _now: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn advance_backlog(&self, _limit: u32, _now: Timestamp) -> Result<bool> {
        Ok(false)
    }

    async fn claim_due(&self, _slots: &[(EndpointId, u32)], _now: Timestamp, _lease: Duration) -> Result<Vec<Claim>> {
        Ok(Vec::new())
    }

    async fn settle(&self, settled: Settled, _now: Timestamp) -> Result<()> {
        let is_empty = settled.settlements.is_empty() && settled.health.is_empty();
        if is_empty { Ok(()) } else { Err(keeps_no_endpoints("record attempts")) }
    }

    async fn renew_leases(&self, _until: Timestamp) -> Result<()> {
        Ok(())
    }

    async fn begin_waits(&self, _now: Timestamp) -> Result<u64> {
        Ok(0)
    }

    async fn next_due(&self, _endpoints: &[EndpointId]) -> Result<Option<Timestamp>> {
        Ok(None)
    }

    async fn announce(&self, _notice: Notice, _now: Timestamp) -> Result<()> {
        Err(keeps_no_endpoints("announce news of the sending"))
    }

    async fn test_endpoint(&self, _id: &EndpointId, _now: Timestamp, _lease: Duration) -> Result<Option<Claim>> {
        Ok(None)
    }

    async fn deliveries(&self, _scope: TenantScope, _query: &DeliveryQuery) -> Result<DeliveryPage> {
        Ok(DeliveryPage { found: Vec::new(), next: None })
    }

    async fn delivery(&self, _scope: TenantScope, _id: DeliveryId) -> Result<Option<DeliveryRecord>> {
        Ok(None)
    }

    async fn replay(&self, _id: DeliveryId, _force: bool, _now: Timestamp) -> Result<Replayed> {
        Ok(Replayed::NoDelivery)
    }

    async fn begin_replay(&self, _job: ReplayJob) -> Result<ReplayJob> {
        Err(keeps_no_endpoints("begin a replay"))
    }

    async fn replay_jobs(&self) -> Result<Vec<ReplayJob>> {
        Ok(Vec::new())
    }

    async fn advance_replay(&self, _id: ReplayId, _limit: u32, _now: Timestamp) -> Result<Option<ReplayJob>> {
        Ok(None)
    }

    async fn cancel_replay(&self, _id: ReplayId, _now: Timestamp) -> Result<bool> {
        Ok(false)
    }

    async fn backlog(&self, _endpoint: Option<&EndpointId>) -> Result<Backlog> {
        Ok(Backlog::default())
    }

    async fn expunge(&self, upload: UploadId) -> Result<u64> {
        Ok(self.write("take an upload's words out of its events")?.expunge(upload, self.memory.bodies))
    }

    async fn expire(&self, _begun_before: Timestamp, _limit: u32, _now: Timestamp) -> Result<u64> {
        Ok(0)
    }

    async fn shed(&self, _limits: BacklogLimits, _limit: u32, _now: Timestamp) -> Result<Vec<(EndpointId, u64)>> {
        Ok(Vec::new())
    }

    async fn prune(&self, horizon: Horizon, limit: u32) -> Result<u64> {
        let mut tables = self.write("remove what is old")?;
        let uploads = tables.prune_uploads(horizon.ended_uploads, limit);
        Ok(uploads + tables.prune_events(horizon.finished, limit) + tables.prune_hook_calls(horizon, limit))
    }

    fn superseded(&self) -> u64 {
        0
    }

    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}
